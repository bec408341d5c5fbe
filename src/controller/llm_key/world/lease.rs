//! An account that one LLMKey has for itself.

use super::World;
use super::perform::{Undone, broken};
use crate::api::Reason;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{LedgerView, Observed};
use crate::ledger::Tenancy;

/// Who has the account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// The LLMKey, as it was confirmed with this ledger.
    Us(Option<String>),
    /// Another one, whose ledger is there.
    Another,
}

impl World {
    pub fn tenancy(&self) -> Tenancy {
        match &self.holder {
            _ if !self.provider.for_one => Tenancy::Shared,
            Some(Holder::Us(ledger)) => Tenancy::Own(ledger.clone()),
            Some(Holder::Another) | None => Tenancy::Vacant,
        }
    }

    pub fn leased(&self) -> Option<(Reason, String)> {
        let another = self.provider.for_one && self.holder == Some(Holder::Another);
        another.then(|| (Reason::AccountLeased, "LLMKey team-b/other has the account".into()))
    }

    pub fn take_lease(&mut self, o: &Observed) -> Learned {
        if let Some((_, held)) = self.leased() {
            return Learned::Lease(Err(held));
        }
        let ledger = match &o.ledger {
            LedgerView::Present(ledger) => Some(ledger.uid.clone()),
            _ => None,
        };
        self.history.writes += 1;
        self.holder = Some(Holder::Us(ledger.clone()));
        Learned::Lease(Ok(Tenancy::Own(ledger)))
    }

    pub fn return_lease(&mut self) -> Learned {
        self.history.writes += 1;
        if matches!(self.holder, Some(Holder::Us(_))) {
            self.holder = None;
        }
        Learned::Lease(Ok(Tenancy::Vacant))
    }

    /// The last look before a call. Only a replica that was held up may find another one's account.
    pub fn only_tenant(&self, o: &Observed) -> Result<(), Undone> {
        let LedgerView::Present(read) = &o.ledger else { return Err(Undone::Changed) };
        if self.provider.for_one
            && self.ledger.as_ref().map(|l| &l.resource_version) != Some(&read.resource_version)
        {
            return Err(Undone::Changed);
        }
        let uid = self.ledger.as_ref().map(|ledger| ledger.uid.clone());
        match &self.holder {
            _ if !self.provider.for_one => Ok(()),
            Some(Holder::Us(confirmed)) if confirmed.is_some() && *confirmed == uid => Ok(()),
            _ if self.concurrent => Err(Undone::Changed),
            holder => broken(format!("a call at an account of {holder:?}")),
        }
    }
}
