//! Effects at the provider that only some have: to tell which key a supplied one is, to end it for good, and how far a new one has spread.

use super::provider::call_failure;
use super::{Actor, NotDone, record};
use crate::api::Reason;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Observed, Subject};
use crate::domain::lifecycle::Origin;
use crate::provider::{Account, NoMatch, ProviderKeyId};

impl Actor<'_> {
    /// Which key of the account the version's supplied one is. A call that fails says nothing, and holds nothing else up.
    pub(super) async fn match_key(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let account = self.held.account.clone().ok_or(NotDone::Changed)?;
        let fingerprint = record(o)?.version(version).and_then(|v| v.key.as_ref()).map(|k| k.shown.clone());
        let fingerprint = fingerprint.ok_or(NotDone::Changed)?;
        let found = match self.key_of(o, version) {
            Some(key) => self.ctx.providers.find(&account, &key).await.unwrap_or_else(|error| {
                error.log();
                Err(NoMatch::Unanswered)
            }),
            None => Err(NoMatch::Unanswered),
        };
        let told = o.memory.unmatched.as_ref().filter(|u| u.fingerprint == fingerprint).map(|u| u.why);
        if let Err(why) = &found
            && told != Some(*why)
        {
            let note = format!(
                "which key of {} {} version {version} is, is not known: {}; it can be neither switched off nor ended here",
                account.endpoint().provider().place(),
                account.project(),
                why.words()
            );
            self.announce(true, Reason::NotMatched, &note).await;
        }
        let found = found.map(|id| id.as_str().to_owned());
        Ok(Learned::Matched { version, fingerprint, found })
    }

    /// Ends a key for good that is refused already, where that takes a step of its own.
    pub(super) async fn close(&self, o: &Observed, account: &Account, version: i32) -> Result<(), NotDone> {
        let version_of = record(o)?.version(version).ok_or(NotDone::Changed)?;
        let Some(id) = version_of.provider_key_id.as_deref().filter(|_| version_of.slot.is_none()) else {
            return Ok(());
        };
        let id = ProviderKeyId::parse(id).map_err(|_| NotDone::Changed)?;
        self.ctx.providers.close(account, &id).await.map_err(|error| {
            let message =
                format!("version {version} is switched off and could not be ended for good: {error}");
            NotDone::Failed(call_failure(Reason::RevokeFailed, message, &error))
        })
    }

    /// Whether the provider says that not all of it has a new key yet: one of its parts may accept it, and another refuse it.
    pub(super) async fn is_spreading(&self, o: &Observed, subject: Subject) -> bool {
        let (Subject::Candidate(version) | Subject::Spare(version)) = subject else { return false };
        let Ok(record) = record(o) else { return false };
        let made = record.version(version).filter(|v| v.origin == Origin::Minted && v.key_of.is_none());
        let id = made.and_then(|v| ProviderKeyId::parse(v.provider_key_id.as_deref()?).ok());
        let (Some(account), Some(id)) = (&self.held.account, id) else { return false };
        self.ctx.providers.has_spread(account, &id).await == Some(false)
    }
}
