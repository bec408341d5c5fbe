//! Keys whose id the caller chooses, and whose value the provider chooses and shows as long as the key is there: made once however often
//! they are asked for, and read again after a lost answer.

use std::time::Duration;

use super::{
    Account, CallError, CallerNamed, ErrorClass, Making, MintError, Minting, Presence, ProviderKeyId,
    Providers,
    client::{admin, minted_or, scrubbed},
};
use crate::crypto::SecretBytes;

/// Waits between two looks at an operation that goes on: some 16 s in all. Then the key is looked for with the next attempt.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// What there is under an id. No `Debug`.
pub enum Named {
    /// A key.
    There(SecretBytes),
    /// Nothing, as far as the provider tells.
    Absent,
    /// A key that was deleted: the id is of no use any more.
    Deleted,
}

impl Providers {
    /// Creates a key with the id, and reads its value. Safe to repeat: an id has one key. On [`MintError::UnknownOutcome`] ask [`Self::named`];
    /// refused as [`ErrorClass::IdSpent`], the id was a key's that is deleted.
    pub async fn mint_named(&self, account: &Account, id: &ProviderKeyId) -> Result<SecretBytes, MintError> {
        let calls = named_by_callers(account).map_err(MintError::NotSent)?;
        let reply = self.send_mint(account, id.handle(), |account| calls.mint_request(account, id)).await?;
        let mut making = minted_or(account, calls.read_making(&reply))?;
        for pause in PAUSES {
            let Making::UnderWay(operation) = &making else { break };
            tokio::time::sleep(pause).await;
            let request = |account: &Account| calls.operation_request(account, operation);
            let reply = self.call("wait", account, request).await.map_err(MintError::UnknownOutcome)?;
            making = minted_or(account, calls.read_operation(&reply))?;
        }
        let unknown = |class, code| Err(MintError::UnknownOutcome(CallError::local(class, code)));
        if matches!(making, Making::UnderWay(_)) {
            return unknown(ErrorClass::TimedOut, "OperationUnderWay");
        }
        // What is there is read, whoever made it: the id was ours before.
        match self.named(account, id).await {
            Ok(Named::There(secret)) => Ok(secret),
            Ok(Named::Absent) => unknown(ErrorClass::Garbled, "KeyNotThere"),
            Ok(Named::Deleted) => Err(MintError::Refused(CallError::local(ErrorClass::IdSpent, "IdSpent"))),
            Err(error) => Err(MintError::UnknownOutcome(error)),
        }
    }

    /// What the account has under the id.
    ///
    /// # Errors
    /// A call failed: nothing is known.
    pub async fn named(&self, account: &Account, id: &ProviderKeyId) -> Result<Named, CallError> {
        let calls = named_by_callers(account)?;
        match self.presence(account, id).await? {
            Presence::Absent => Ok(Named::Absent),
            Presence::Deleted => Ok(Named::Deleted),
            Presence::There => {
                let reply =
                    self.call("read_key", account, |account| calls.value_request(account, id)).await?;
                calls.read_value(&reply).map(Named::There).map_err(|error| scrubbed(error, account))
            }
        }
    }

    /// The same without the key itself.
    pub(super) async fn presence(
        &self,
        account: &Account,
        id: &ProviderKeyId,
    ) -> Result<Presence, CallError> {
        let calls = named_by_callers(account)?;
        let reply = self.call("look_up", account, |account| calls.look_request(account, id)).await?;
        calls.read_look(id, &reply).map_err(|error| scrubbed(error, account))
    }

    /// Whether the account says of a key that it is deleted; only where deleted ones are told of.
    pub(super) async fn is_deleted(&self, account: &Account, id: &ProviderKeyId) -> Result<bool, CallError> {
        if named_by_callers(account).is_err() {
            return Ok(false);
        }
        Ok(self.presence(account, id).await? == Presence::Deleted)
    }
}

fn named_by_callers(account: &Account) -> Result<&'static dyn CallerNamed, CallError> {
    match admin(account)?.minting() {
        Minting::CallerNamed(calls) => Ok(calls),
        _ => Err(CallError::local(ErrorClass::BadRequest, "NotSupported")),
    }
}
