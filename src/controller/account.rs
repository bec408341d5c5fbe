//! What holds for whole accounts at providers: their ledgers, and the one freeze. Every effect that makes or revokes a key
//! asks here first, through the observation.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Ctx;
use super::llm_key::memory::{Seen, unchanged};
use crate::api::{Reason, rfc3339};
use crate::ledger::{
    AccountId, AccountLedger, AccountRecord, AccountRef, AccountStore, Freeze, FreezeReason, LedgerError,
    MAX_LISTED,
};

/// Another hand wrote first: so often it is tried again.
const TRIES: usize = 4;

/// All accounts that this process has had to do with.
pub struct AccountStates {
    /// Uid of the namespace `kube-system`: it tells this cluster from a copy.
    cluster: String,
    store: AccountStore,
    /// As they were last read.
    known: Mutex<HashMap<AccountId, Arc<AccountLedger>>>,
    /// Keys of ours that no ledger holds, as the last sweep found them.
    orphans: Mutex<BTreeMap<AccountId, usize>>,
    /// One at a time reads or writes.
    turn: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccountStates {
    /// Nothing is known yet.
    pub fn new(cluster: String, store: AccountStore) -> Self {
        Self {
            cluster,
            store,
            known: Mutex::default(),
            orphans: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Keys of ours at the account that no ledger holds, as the last sweep found them.
    pub fn orphans(&self, account: &AccountId) -> usize {
        lock(&self.orphans).get(account).copied().unwrap_or_default()
    }

    /// Takes in what a sweep found. Whether it is another number than before.
    pub fn set_orphans(&self, account: &AccountId, count: usize) -> bool {
        let mut orphans = lock(&self.orphans);
        let before =
            if count == 0 { orphans.remove(account) } else { orphans.insert(account.clone(), count) };
        before.unwrap_or_default() != count
    }

    /// How many accounts are frozen, by reason.
    pub fn frozen(&self) -> BTreeMap<FreezeReason, usize> {
        let mut counts = BTreeMap::new();
        for known in lock(&self.known).values() {
            if let Some(freeze) = &known.record.frozen {
                *counts.entry(freeze.reason).or_default() += 1;
            }
        }
        counts
    }

    /// What is known, if the watch shows nothing newer.
    fn fresh(&self, ctx: &Ctx, account: &AccountId) -> Option<Arc<AccountLedger>> {
        let known = lock(&self.known).get(account).cloned()?;
        let shown = ctx.index.secret(&ctx.operator_namespace, &account.ledger_name());
        let seen = Seen { resource_version: known.resource_version.as_str().into(), first_hand: true };
        unchanged(shown.as_ref(), Some(&seen)).then_some(known)
    }
}

impl Ctx {
    /// The account's ledger as it stands, made if there is none. An error says nothing of the account.
    pub async fn account_record(&self, account: &AccountId) -> Result<AccountRecord, AccountError> {
        Ok(self.known_account(account).await?.record.clone())
    }

    /// Why nothing may be made or revoked at the account, in words for who uses it.
    pub async fn hold_on(&self, account: &AccountRef) -> Result<Option<(Reason, String)>, kube::Error> {
        let id = AccountId::of(account);
        match self.known_account(&id).await {
            Ok(ledger) => {
                let freeze = ledger.record.frozen.as_ref();
                Ok(freeze.map(|freeze| (freeze.reason.reason(), told(freeze, &account.provider))))
            }
            Err(AccountError::Kube(error)) => Err(*error),
            Err(AccountError::Unusable(message)) => Ok(Some((Reason::LedgerUnreadable, message))),
        }
    }

    async fn known_account(&self, account: &AccountId) -> Result<Arc<AccountLedger>, AccountError> {
        if let Some(known) = self.account_states.fresh(self, account) {
            return Ok(known);
        }
        let _turn = self.account_states.turn.lock().await;
        // Whoever had the turn before may have read it.
        if let Some(known) = self.account_states.fresh(self, account) {
            return Ok(known);
        }
        let ledger = self.opened(account).await.map_err(|error| match error {
            LedgerError::Kube(error) => AccountError::Kube(error),
            error => AccountError::Unusable(format!(
                "the ledger of the account, Secret {} in namespace {}: {error}",
                account.ledger_name(),
                self.operator_namespace
            )),
        })?;
        let known = Arc::new(ledger);
        lock(&self.account_states.known).insert(account.clone(), Arc::clone(&known));
        Ok(known)
    }

    /// Reads or makes the ledger. One that another cluster wrote is frozen before anybody uses it.
    async fn opened(&self, account: &AccountId) -> Result<AccountLedger, LedgerError> {
        let AccountStates { cluster, store, .. } = &self.account_states;
        let mut tries = 0;
        loop {
            tries += 1;
            let written = match store.get(account).await? {
                Some(ledger)
                    if ledger.record.frozen.is_none() && ledger.record.is_from_elsewhere(cluster) =>
                {
                    let mut next = ledger.record.successor(writer());
                    next.frozen = Some(self.freeze(FreezeReason::ClonedCluster, 0, Vec::new()));
                    let frozen = store.swap(&ledger, &next).await;
                    if frozen.is_ok() {
                        announce(account, &next);
                    }
                    frozen
                }
                Some(ledger) => return Ok(ledger),
                None => {
                    store
                        .create(&AccountRecord::new(&self.install.id, account.clone(), cluster, writer()))
                        .await
                }
            };
            match written {
                Err(LedgerError::Conflict) if tries < TRIES => {}
                other => return other,
            }
        }
    }

    fn freeze(&self, reason: FreezeReason, count: usize, mut keys: Vec<String>) -> Freeze {
        keys.truncate(MAX_LISTED);
        Freeze {
            reason,
            token: writer().chars().take(8).collect(),
            since: self.clock.now(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            keys,
        }
    }

    /// Freezes the account, unless it is frozen already. Whether it was done now.
    pub async fn freeze_account(
        &self,
        account: &AccountId,
        reason: FreezeReason,
        count: usize,
        keys: Vec<String>,
    ) -> Result<bool, LedgerError> {
        let freeze = self.freeze(reason, count, keys);
        self.change(account, |record| {
            let mut next = record.successor(writer());
            next.frozen = Some(freeze.clone());
            record.frozen.is_none().then_some(next)
        })
        .await
    }

    /// Ends the freeze whose token a person names. Whether there was one.
    pub async fn acknowledge(&self, account: &AccountId, token: &str) -> Result<bool, LedgerError> {
        let done = self
            .change(account, |record| {
                record.after_acknowledgement(token, &self.account_states.cluster, writer())
            })
            .await?;
        if done {
            tracing::warn!(
                host = account.host,
                project = account.project,
                token,
                "the freeze of this account was acknowledged: keys are made and revoked again"
            );
        }
        Ok(done)
    }

    /// Writes the account's ledger by compare-and-swap; none: there is nothing to write.
    async fn change(
        &self,
        account: &AccountId,
        next: impl Fn(&AccountRecord) -> Option<AccountRecord>,
    ) -> Result<bool, LedgerError> {
        let states = &self.account_states;
        let _turn = states.turn.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(ledger) = states.store.get(account).await? else { return Ok(false) };
            let Some(record) = next(&ledger.record) else {
                lock(&states.known).insert(account.clone(), Arc::new(ledger));
                return Ok(false);
            };
            match states.store.swap(&ledger, &record).await {
                Ok(written) => {
                    lock(&states.known).insert(account.clone(), Arc::new(written));
                    announce(account, &record);
                    return Ok(true);
                }
                Err(LedgerError::Conflict) if tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn announce(account: &AccountId, record: &AccountRecord) {
    if let Some(freeze) = &record.frozen {
        tracing::error!(
            host = account.host,
            project = account.project,
            reason = freeze.reason.reason().as_str(),
            count = freeze.count,
            keys = ?freeze.keys,
            token = freeze.token,
            "nothing is made or revoked at this account until it is acknowledged"
        );
    }
}

/// Why an account's ledger could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The API server did not answer: nothing is known.
    #[error("the account's ledger could not be reached")]
    Kube(#[source] Box<kube::Error>),
    /// It may not be used, with the reason in words.
    #[error("{0}")]
    Unusable(String),
}

/// A random mark.
fn writer() -> String {
    // Without randomness the mark is no mark of ours, and a lost reply counts as a failure.
    format!("{:016x}", getrandom::u64().unwrap_or_default())
}

/// A freeze in words.
pub fn told(freeze: &Freeze, provider: &str) -> String {
    let Freeze { count, since, .. } = freeze;
    let what = match freeze.reason {
        FreezeReason::ClonedCluster => {
            "the account's ledger was written in another cluster, of which this one is a copy or a restored backup".to_owned()
        }
        FreezeReason::LedgerRolledBack => format!(
            "the provider has {count} key(s) of this installation that the ledgers do not know yet or any more: an older \
             ledger was put back, or ledgers are gone"
        ),
    };
    format!(
        "{what} (since {}); no key is made or revoked there until an administrator acknowledges it: see status.frozen of \
         LLMProvider {provider}",
        rfc3339(*since)
    )
}
