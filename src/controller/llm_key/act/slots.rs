//! Effects at an account with a fixed number of keys, which can be read again.

use super::provider::{Made, call_failure};
use super::{Actor, NotDone, failure, record};
use crate::api::Reason;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Minted, Observed, SlotView};
use crate::controller::llm_key::observe::facts;
use crate::crypto::SecretBytes;
use crate::domain::backoff::Class;
use crate::domain::names::ledger_name;
use crate::ledger::{KeyFacts, Slot, Version};
use crate::provider::{Account, CallError, ErrorClass, MintError, ProviderKeyId, Revocation, slot_key_id};

impl Actor<'_> {
    /// What the slots hold, and who else needs that: read right before the intent that records it.
    pub(super) async fn read_slots(&self, o: &Observed) -> Result<Learned, NotDone> {
        let account = self.held.account.as_ref().ok_or(NotDone::Changed)?;
        let slots = self.ctx.providers.slots(account).await.map_err(|error| {
            let message = format!("the account's keys could not be read: {error}");
            NotDone::Failed(call_failure(Reason::MintFailed, message, &error))
        })?;
        let mut views = Vec::new();
        for slot in slots {
            let fingerprint = self.fingerprint(&slot.secret);
            let holder = self.needed_elsewhere(o, &fingerprint).await?;
            views.push(SlotView { name: slot.slot.to_owned(), fingerprint, holder });
        }
        Ok(Learned::Slots(views))
    }

    fn fingerprint(&self, key: &SecretBytes) -> String {
        self.ctx.install.key.fingerprint(key).as_str().to_owned()
    }

    /// Another LLMKey that needs a key, in words.
    async fn needed_elsewhere(&self, o: &Observed, fingerprint: &str) -> Result<Option<String>, NotDone> {
        let own = ledger_name(&o.key.namespace, &o.key.name);
        let holders = self.ctx.ledgers.holders(fingerprint).await?;
        Ok(holders.into_iter().find(|holder| holder.ledger != own).map(|holder| match holder.key {
            Some((namespace, name)) if namespace == o.key.namespace => format!("LLMKey {namespace}/{name}"),
            // What other namespaces hold is told to nobody else.
            _ => "an LLMKey of another namespace".to_owned(),
        }))
    }

    /// The slot's key, if it is another one than it was before the intent.
    async fn in_slot(
        &self,
        account: &Account,
        namespace: &str,
        slot: &Slot,
    ) -> Result<Option<(SecretBytes, KeyFacts)>, CallError> {
        let slots = self.ctx.providers.slots(account).await?;
        let found = slots.into_iter().find(|found| found.slot == slot.name);
        Ok(found.filter(|found| self.fingerprint(&found.secret) != slot.before).map(|found| {
            let facts = facts(self.ctx, namespace, &found.secret);
            (found.secret, facts)
        }))
    }

    /// After an attempt whose answer was lost: what the slot holds now is the version's key, if it is another one than before.
    pub(super) async fn look_into_slot(
        &mut self,
        o: &Observed,
        account: &Account,
        version: &Version,
        slot: &Slot,
    ) -> Result<Learned, NotDone> {
        let record = record(o)?;
        match self.in_slot(account, &record.namespace, slot).await {
            Ok(Some((secret, facts))) => {
                self.held.minted = Some(secret);
                let id = slot_key_id(&slot.name, &facts.shown);
                Ok(Learned::Minted(Minted { attempt: record.attempt, id, facts }))
            }
            Ok(None) => Ok(Learned::LookedUp(false)),
            Err(error) => {
                let message = format!("the slot of version {} could not be read: {error}", version.version);
                Err(NotDone::Failed(call_failure(Reason::MintFailed, message, &error)))
            }
        }
    }

    /// Has the slot's key made anew. The answer's own keys are not believed: a copy of the request may have come after it.
    pub(super) async fn renew(
        &mut self,
        o: &Observed,
        account: &Account,
        slot: &Slot,
    ) -> Result<Made, NotDone> {
        if let Some(holder) = self.needed_elsewhere(o, &slot.before).await? {
            let message = format!("{} is left as it is: {holder} needs the key in it", slot.name);
            return Err(NotDone::Failed(failure(Reason::MintFailed, message, Class::Transient)));
        }
        if let Err(error) = self.ctx.providers.renew_slot(account, &slot.name).await {
            return Ok(Err(error));
        }
        let unknown = |error| Ok(Err(MintError::UnknownOutcome(error)));
        match self.in_slot(account, &o.key.namespace, slot).await {
            Ok(Some((secret, facts))) => {
                let id = ProviderKeyId::parse(&slot_key_id(&slot.name, &facts.shown))
                    .map_err(|_| NotDone::Changed)?;
                self.held.minted = Some(secret);
                Ok(Ok((id, facts)))
            }
            Ok(None) => unknown(CallError::local(ErrorClass::Garbled, "SlotUnchanged")),
            Err(error) => unknown(error),
        }
    }

    /// Whether the version's key is still the one in its slot.
    pub(super) async fn is_in_slot(
        &self,
        account: &Account,
        version: &Version,
        slot: &Slot,
    ) -> Result<bool, CallError> {
        let slots = self.ctx.providers.slots(account).await?;
        let found = slots.iter().find(|found| found.slot == slot.name);
        Ok(found.is_some_and(|found| version.has_key(&self.fingerprint(&found.secret))))
    }

    /// Ends the version's key: by having its slot's key made anew, unless that has another one already.
    pub(super) async fn end_in_slot(
        &self,
        account: &Account,
        version: &Version,
        slot: &Slot,
    ) -> Result<Revocation, CallError> {
        if !self.is_in_slot(account, version, slot).await? {
            return Ok(Revocation::AlreadyGone);
        }
        let renewed = self.ctx.providers.renew_slot(account, &slot.name).await;
        renewed.map(|()| Revocation::Revoked).map_err(|error| error.call().clone())
    }
}
