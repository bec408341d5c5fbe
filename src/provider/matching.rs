//! Which key of an account a supplied one is, what ends such a key, and how far a new one has spread: calls that some providers have.

use std::collections::HashSet;

use super::{
    Account, CallError, ErrorClass, ProviderKeyId, Providers, Revocation,
    client::{MAX_PAGES, admin, scrubbed},
};
use crate::crypto::SecretBytes;

/// Why the id of a supplied key is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoMatch {
    /// No key of the account looks like it.
    Nothing,
    /// More than one key of the account looks like it.
    Several,
    /// The account could not be asked.
    Unanswered,
}

impl NoMatch {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no key of the account looks like it",
            Self::Several => "more than one key of the account looks like it",
            Self::Unanswered => "the account could not be asked",
        }
    }
}

impl Providers {
    /// The one key of the account that the supplied one can be. What is shown of keys must leave exactly one: nothing is guessed.
    ///
    /// # Errors
    /// A call failed: nothing is known.
    pub async fn find(
        &self,
        account: &Account,
        key: &SecretBytes,
    ) -> Result<Result<ProviderKeyId, NoMatch>, CallError> {
        let Some(calls) = admin(account)?.matching() else {
            return Err(CallError::local(ErrorClass::BadRequest, "NotSupported"));
        };
        let mut found: Vec<ProviderKeyId> = Vec::new();
        let mut cursors = HashSet::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let request = |account: &Account| calls.hints_request(account, after.as_deref());
            let reply = self.call("match", account, request).await?;
            let (keys, next) =
                calls.read_hints(account, key, &reply).map_err(|error| scrubbed(error, account))?;
            found.extend(keys);
            let Some(next) = next else {
                found.sort();
                found.dedup();
                return Ok(match (found.pop(), found.is_empty()) {
                    (Some(one), true) => Ok(one),
                    (Some(_), false) => Err(NoMatch::Several),
                    (None, _) => Err(NoMatch::Nothing),
                });
            };
            if !cursors.insert(next.clone()) {
                return Err(scrubbed(reply.error(ErrorClass::Garbled, "EndlessList"), account));
            }
            after = Some(next);
        }
        Err(CallError::local(ErrorClass::Garbled, "EndlessList"))
    }

    /// Whether the key is there and works, by its id alone; none where that cannot be asked.
    pub(super) async fn works(
        &self,
        account: &Account,
        id: &ProviderKeyId,
    ) -> Result<Option<bool>, CallError> {
        let Some(calls) = admin(account)?.closing() else { return Ok(None) };
        let reply = self.call("look_up", account, |account| calls.look_request(account, id)).await?;
        calls.read_look(id, &reply).map(Some).map_err(|error| scrubbed(error, account))
    }

    /// Ends a key for good that [`Self::revoke`] has only switched off; nothing where that one ends keys. Safe to repeat.
    ///
    /// # Errors
    /// The call failed, or the provider does not do it.
    pub async fn close(&self, account: &Account, id: &ProviderKeyId) -> Result<(), CallError> {
        let Some(calls) = admin(account)?.closing() else { return Ok(()) };
        let reply = self.call("close", account, |account| calls.close_request(account, id)).await?;
        let read = calls.read_closed(id, &reply);
        let Err(error) = read else { return Ok(()) };
        if error.class == ErrorClass::BadRequest {
            // What was ended before may be refused to be ended again.
            let reply = self.call("look_up", account, |account| calls.look_request(account, id)).await?;
            if calls.read_closed(id, &reply).is_ok() {
                return Ok(());
            }
        }
        Err(scrubbed(error, account))
    }

    /// Whether every part of the provider has the new key; none where that is not told, or not in a form that is known.
    pub async fn has_spread(&self, account: &Account, id: &ProviderKeyId) -> Option<bool> {
        let calls = admin(account).ok()?.spread()?;
        let reply = self.call("spread", account, |account| calls.spread_request(account, id)).await.ok()?;
        calls.read_spread(&reply)
    }

    /// What an end that nothing documents came to: the key is gone if the list does not have it.
    pub(super) async fn believe_the_list(
        &self,
        account: &Account,
        id: &ProviderKeyId,
        answer: Result<Revocation, CallError>,
    ) -> Result<Revocation, CallError> {
        let listed = self.list(account).await?.iter().any(|key| key.id.same_handle(id));
        match answer {
            Ok(_) if listed => Err(CallError::local(ErrorClass::BadRequest, "StillListed")),
            Err(error) if listed => Err(scrubbed(error, account)),
            Ok(answer) => Ok(answer),
            Err(_) => Ok(Revocation::AlreadyGone),
        }
    }
}
