//! What holds for whole accounts at providers: their ledgers, and the one freeze. Every effect that makes or revokes a key
//! asks here first, through the observation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::context::Ctx;
use super::llm_key::memory::{Seen, unchanged};
use super::llm_key::unreadable;
use super::sweeper::crowd;
use crate::api::{Reason, rfc3339};
use crate::domain::budget;
use crate::ledger::{
    AccountId, AccountLedger, AccountRecord, AccountRef, AccountStore, Freeze, FreezeReason, LedgerError,
    MAX_LISTED, Rewrapped,
};

/// Another hand wrote first: so often it is tried again.
pub(super) const TRIES: usize = 4;

/// Least time between two counts of deleted LLMKeys: many of them are looked at together.
const COUNT_GAP: Duration = Duration::from_millis(500);

/// All accounts that this process has had to do with.
pub struct AccountStates {
    /// Uid of the namespace `kube-system`: it tells this cluster from a copy.
    cluster: String,
    pub(super) store: AccountStore,
    /// As they were last read.
    pub(super) known: Mutex<HashMap<AccountId, Arc<AccountLedger>>>,
    /// Keys of ours that no ledger holds, as the last sweep found them.
    orphans: Mutex<BTreeMap<AccountId, usize>>,
    /// When LLMKeys that were deleted were last counted.
    counted: Mutex<HashMap<AccountId, Duration>>,
    /// Who waits for an account's limit, and when it is their turn.
    slots: Mutex<HashMap<AccountId, BTreeMap<String, DateTime<Utc>>>>,
    /// One at a time reads or writes.
    pub(super) turn: tokio::sync::Mutex<()>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            counted: Mutex::default(),
            slots: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Takes an account's ledger, by the name of its Secret, to the newest key-encryption key.
    pub async fn rewrap(&self, secret: &str, writer: &str) -> Result<Option<Rewrapped>, LedgerError> {
        let _turn = self.turn.lock().await;
        self.store.rewrap(secret, writer).await
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

    /// Forgets accounts that no LLMProvider names any more: they are read again when one does.
    pub fn retain(&self, named: impl Fn(&AccountId) -> bool) {
        lock(&self.known).retain(|account, _| named(account));
        lock(&self.orphans).retain(|account, _| named(account));
        lock(&self.counted).retain(|account, _| named(account));
        lock(&self.slots).retain(|account, _| named(account));
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
            Err(AccountError::Unusable(reason, message)) => Ok(Some((reason, message))),
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
            error => AccountError::Unusable(
                unreadable(&error),
                format!(
                    "the ledger of the account, Secret {} in namespace {}: {error}",
                    account.ledger_name(),
                    self.operator_namespace
                ),
            ),
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

    /// Before a deleted LLMKey's keys are revoked: freezes the account if many were deleted at once.
    pub async fn count_deletions(&self, account: &AccountRef) -> Result<(), kube::Error> {
        let id = AccountId::of(account);
        let now = self.clock.monotonic();
        let last = lock(&self.account_states.counted).insert(id.clone(), now);
        if last.is_some_and(|last| now.saturating_sub(last) < COUNT_GAP) {
            return Ok(());
        }
        let record = match self.account_record(&id).await {
            Ok(record) if record.frozen.is_none() => record,
            Ok(_) | Err(AccountError::Unusable(..)) => return Ok(()),
            Err(AccountError::Kube(error)) => return Err(*error),
        };
        let providers = BTreeSet::from([account.provider.clone()]);
        let crowd = crowd::count(self, &providers, &account.project, record.counts_from);
        let Some((reason, count)) = crowd.suspicion() else { return Ok(()) };
        match self.freeze_account(&id, reason, count, Vec::new()).await {
            Ok(froze) => {
                if froze {
                    self.woken_by.account(&self.stores, &account.provider);
                }
                Ok(())
            }
            Err(LedgerError::Kube(error)) => Err(*error),
            // It is counted again before the next revocation.
            Err(_) => Ok(()),
        }
    }

    /// Takes one of the keys that may be made at the account within the hour. If there is none, the time of the next
    /// one that nobody else waits for: it is kept for `key`.
    pub async fn take_mint(
        &self,
        account: &AccountId,
        limit: usize,
        key: &str,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let (now, window) = (self.clock.now(), self.timings.mint_budget_window);
        let record = match self.account_record(account).await {
            Ok(record) => record,
            Err(AccountError::Kube(error)) => return Err(LedgerError::Kube(error)),
            // Its freeze was asked for before.
            Err(AccountError::Unusable(..)) => return Err(LedgerError::Conflict),
        };
        let slot = {
            let mut slots = lock(&self.account_states.slots);
            let slots = slots.entry(account.clone()).or_default();
            budget::slot(&record.mints, slots, key, limit, window, now)
        };
        if slot > now {
            return Ok(Some(slot));
        }
        self.change(account, |record| {
            let mut next = record.successor(writer());
            budget::spend(&mut next.mints, window, now);
            Some(next)
        })
        .await?;
        if let Some(slots) = lock(&self.account_states.slots).get_mut(account) {
            slots.remove(key);
        }
        Ok(None)
    }

    /// Ends the freeze whose token a person names. Whether there was one.
    pub async fn acknowledge(&self, account: &AccountId, token: &str) -> Result<bool, LedgerError> {
        let done = self
            .change(account, |record| {
                let AccountStates { cluster, .. } = &self.account_states;
                record.after_acknowledgement(token, cluster, self.clock.now(), writer())
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
    pub(super) async fn change(
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
    /// It may not be used: why, also in words.
    #[error("{1}")]
    Unusable(Reason, String),
}

/// A random mark.
pub(super) fn writer() -> String {
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
        FreezeReason::MassDeletion => format!("{count} LLMKeys of the account were deleted at once"),
        FreezeReason::ProviderSuspect => format!("{count} keys of the account turned invalid at once"),
    };
    format!(
        "{what} (since {}); no key is made or revoked there until an administrator acknowledges it: see status.frozen of \
         LLMProvider {provider}",
        rfc3339(*since)
    )
}
