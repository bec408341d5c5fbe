//! The lease of an account that one LLMKey has for itself: taken, confirmed, given back. See [`crate::ledger::Lease`] for why there
//! are never two holders.

use std::sync::Arc;

use chrono::TimeDelta;
use kube::runtime::reflector::ObjectRef;

use super::account::{AccountError, TRIES, lock, writer};
use super::context::Ctx;
use crate::api::Reason;
use crate::domain::names::ledger_name;
use crate::ledger::{AccountId, AccountRef, Claim, Found, Lease, LedgerError, Summary, Tenancy};

/// How an LLMKey finds an account, and why that keeps it from being used.
type Finding = (Tenancy, Option<(Reason, String)>);

impl Ctx {
    /// How an LLMKey finds a leased account, as far as the watches tell. An error says nothing of the account.
    pub async fn tenancy(
        &self,
        account: &AccountRef,
        namespace: &str,
        name: &str,
    ) -> Result<Finding, kube::Error> {
        let record = match self.account_record(&AccountId::of(account)).await {
            Ok(record) => record,
            Err(AccountError::Kube(error)) => return Err(*error),
            // It was told before.
            Err(AccountError::Unusable(..)) => return Ok((Tenancy::Vacant, None)),
        };
        Ok(match record.lease {
            None => (Tenancy::Vacant, None),
            Some(held) if held.is_of(namespace, name) => (Tenancy::Own(held.ledger), None),
            Some(held) if held.is_over(&self.glimpsed(&held), self.patience(), self.clock.now()) => {
                (Tenancy::Vacant, None)
            }
            Some(held) => (Tenancy::Vacant, Some((Reason::AccountLeased, leased(&held, account)))),
        })
    }

    fn patience(&self) -> TimeDelta {
        TimeDelta::from_std(self.timings.lease_patience).unwrap_or(TimeDelta::MAX)
    }

    /// The holder's ledger as the watches show it: a hint, which may lead to a look.
    fn glimpsed(&self, held: &Lease) -> Found {
        let name = ledger_name(&held.namespace, &held.name);
        let Some(shown) = self.index.secret(&self.operator_namespace, &name).filter(|shown| !shown.gone)
        else {
            return self.nothing(held);
        };
        match shown.summary.and_then(|text| serde_json::from_str::<Summary>(&text).ok()) {
            Some(summary) => Found::Ledger { lineage: summary.lineage, uses: false },
            None => Found::Unreadable,
        }
    }

    /// A ledger that is not there is missed if the LLMKey of its name tells of versions.
    fn nothing(&self, held: &Lease) -> Found {
        let key = self.stores.keys.get(&ObjectRef::new(&held.name).within(&held.namespace));
        let status = key.as_ref().and_then(|key| key.0.as_ref().ok()?.status.as_ref());
        let missed = status.is_some_and(|status| !status.versions.is_empty());
        // One that cannot be seen may tell of them.
        Found::Nothing { missed: missed || !self.sight.sees(&held.namespace) }
    }

    /// The holder's ledger, by quorum read.
    async fn looked_for(&self, held: &Lease, account: &AccountId) -> Result<Found, LedgerError> {
        match self.ledgers.get(&held.namespace, &held.name).await {
            Ok(Some(ledger)) => Ok(Found::of(&ledger.record, account)),
            Ok(None) => Ok(self.nothing(held)),
            Err(LedgerError::Kube(error)) => Err(LedgerError::Kube(error)),
            Err(_) => Ok(Found::Unreadable),
        }
    }

    /// Takes the account for an LLMKey, or confirms that it has it: first the account's ledger is read, then the holder's, then
    /// the account's is written as it was read. If another one has it: that one's lease.
    pub async fn take_lease(
        &self,
        account: &AccountId,
        wanted: &Lease,
    ) -> Result<Result<Tenancy, Lease>, LedgerError> {
        let states = &self.account_states;
        let _turn = states.turn.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            // Whoever asks has read it before, so it is there.
            let read = states.store.get(account).await?.ok_or(LedgerError::Conflict)?;
            let mut claim = read.record.claim(wanted, false, writer());
            if let Claim::Ask(held) = &claim {
                let found = self.looked_for(held, account).await?;
                if !held.is_over(&found, self.patience(), self.clock.now()) {
                    let held = held.clone();
                    lock(&states.known).insert(account.clone(), Arc::new(read));
                    return Ok(Err(held));
                }
                claim = read.record.claim(wanted, true, writer());
            }
            let Claim::Take(next) = claim else {
                lock(&states.known).insert(account.clone(), Arc::new(read));
                return Ok(Ok(Tenancy::Own(wanted.ledger.clone())));
            };
            match states.store.swap(&read, &next).await {
                Ok(written) => {
                    lock(&states.known).insert(account.clone(), Arc::new(written));
                    let Lease { namespace, name, ledger, .. } = wanted;
                    let confirmed = ledger.is_some();
                    tracing::info!(
                        host = account.host,
                        project = account.project,
                        namespace,
                        name,
                        confirmed,
                        "the account is leased"
                    );
                    return Ok(Ok(Tenancy::Own(wanted.ledger.clone())));
                }
                Err(LedgerError::Conflict) if tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the ledger with this uid is the one that has the account, by quorum read: asked right before a call that makes or
    /// ends a key there.
    pub async fn holds_lease(&self, account: &AccountId, ledger: &str) -> Result<bool, LedgerError> {
        let read = self.account_states.store.get(account).await?;
        let lease = read.and_then(|read| read.record.lease);
        Ok(lease.and_then(|lease| lease.ledger).as_deref() == Some(ledger))
    }

    /// Gives the account back. Who waits for it is woken.
    pub async fn return_lease(&self, account: &AccountRef, lineage: &str) -> Result<(), LedgerError> {
        let id = AccountId::of(account);
        if self.change(&id, |record| record.returned(lineage, writer())).await? {
            tracing::info!(host = id.host, project = id.project, "the account's lease is given back");
            self.woken_by.account(&self.stores, &account.provider);
        }
        Ok(())
    }
}

/// Who has the account, and what to do about it.
pub fn leased(held: &Lease, account: &AccountRef) -> String {
    let Lease { namespace, name, .. } = held;
    format!(
        "the keys of {} {} are fixed in number, and LLMKey {namespace}/{name} has them for itself, until its ledger is done; use \
         another account, or delete that one",
        account.r#type.place(),
        account.project
    )
}
