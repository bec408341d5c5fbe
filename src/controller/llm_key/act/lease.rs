//! Effects on the lease of an account.

use super::{Actor, NotDone, record};
use crate::controller::lease::leased;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{LedgerView, Observed};
use crate::ledger::{AccountId, AccountRef, Lease, Tenancy};
use crate::provider::Capabilities;

impl Actor<'_> {
    pub(super) async fn take_lease(&self, o: &Observed) -> Result<Learned, NotDone> {
        let account = o.provider.account.as_ref().ok_or(NotDone::Changed)?;
        let ledger = match &o.ledger {
            LedgerView::Present(ledger) => Some(ledger),
            // Watches may be late, and a ledger that is there has a lineage of its own.
            _ if self.ctx.ledgers.get(&o.key.namespace, &o.key.name).await?.is_some() => {
                return Err(NotDone::Changed);
            }
            _ => None,
        };
        let wanted = Lease {
            namespace: o.key.namespace.clone(),
            name: o.key.name.clone(),
            lineage: ledger.map_or_else(|| o.key.uid.clone(), |ledger| ledger.record.lineage.clone()),
            ledger: ledger.map(|ledger| ledger.uid.clone()),
            since: self.ctx.clock.now(),
        };
        let taken = self.ctx.take_lease(&AccountId::of(account), &wanted).await?;
        Ok(Learned::Lease(taken.map_err(|held| leased(&held, account))))
    }

    pub(super) async fn return_lease(&self, o: &Observed) -> Result<Learned, NotDone> {
        let account = o.provider.account.as_ref().ok_or(NotDone::Changed)?;
        self.ctx.return_lease(account, &record(o)?.lineage).await?;
        Ok(Learned::Lease(Ok(Tenancy::Vacant)))
    }

    /// The last look before a version's key is made or ended at an account that one LLMKey has for itself: a replica that was
    /// held up may act for one that had it.
    pub(super) async fn only_tenant(&self, o: &Observed, version: i32) -> Result<(), NotDone> {
        let of = record(o)?.version(version).and_then(|v| v.account.as_ref()).ok_or(NotDone::Changed)?;
        self.is_tenant(o, of).await
    }

    /// The same for a key of an attempt that no version holds.
    pub(super) async fn only_tenant_in(&self, o: &Observed, project: &str) -> Result<(), NotDone> {
        let accounts = record(o)?.versions.iter().filter_map(|v| v.account.as_ref());
        for of in accounts.filter(|account| account.project == project) {
            self.is_tenant(o, of).await?;
        }
        Ok(())
    }

    async fn is_tenant(&self, o: &Observed, of: &AccountRef) -> Result<(), NotDone> {
        if !Capabilities::of(of.r#type, true).is_for_one() {
            return Ok(());
        }
        let LedgerView::Present(ledger) = &o.ledger else { return Err(NotDone::Changed) };
        let record = &ledger.record;
        let now = self.ctx.ledgers.get(&record.namespace, &record.name).await?;
        let same = now.is_some_and(|now| now.resource_version == ledger.resource_version);
        if same && self.ctx.holds_lease(&AccountId::of(of), &ledger.uid).await? {
            Ok(())
        } else {
            Err(NotDone::Changed)
        }
    }
}
