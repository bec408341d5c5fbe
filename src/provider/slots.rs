//! Accounts with a fixed number of keys that can be read again at any time, and made anew one at a time.

use super::{
    Account, AzureAccess, CallError, ErrorClass, MintError, Minting, ProviderKeyId, Providers, Slots,
    client::{admin, scrubbed},
};
use crate::crypto::SecretBytes;

/// What one slot holds. No `Debug`.
pub struct SlotKey {
    /// The slot's name.
    pub slot: &'static str,
    /// The key in it.
    pub secret: SecretBytes,
}

/// The id by which a ledger knows a slot's key: the slot, and which of its keys, since the slot's name comes again.
pub fn slot_key_id(slot: &str, shown: &str) -> String {
    format!("{slot}-{shown}")
}

impl Providers {
    /// What the account's slots hold, the one that is made anew first comes first.
    ///
    /// # Errors
    /// The call failed: nothing is known.
    pub async fn slots(&self, account: &Account) -> Result<Vec<SlotKey>, CallError> {
        let (calls, access) = slots_of(account)?;
        let reply = self
            .with_token("list_slots", account, |token| calls.read_request(access, account.project(), token));
        let reply = reply.await.map_err(|lost| lost.error)?;
        calls.read_slots(&reply).map_err(|error| scrubbed(error, account))
    }

    /// Makes the slot's key anew, which ends the one before. Sent once; only [`Self::slots`] tells what the slot holds afterwards.
    pub async fn renew_slot(&self, account: &Account, slot: &str) -> Result<(), MintError> {
        let (calls, access) = slots_of(account).map_err(MintError::NotSent)?;
        let build = |token: &SecretBytes| calls.renew_request(access, account.project(), slot, token);
        let reply = self.with_token("renew_slot", account, build).await?;
        super::client::minted_or(account, calls.read_renewed(&reply))
    }
}

fn slots_of(account: &Account) -> Result<(&'static dyn Slots, &AzureAccess), CallError> {
    let unsupported = || CallError::local(ErrorClass::BadRequest, "NotSupported");
    match (admin(account)?.minting(), account.azure()) {
        (Minting::Slots(calls), Some(access)) => Ok((calls, access)),
        _ => Err(unsupported()),
    }
}

/// The slot of a key by the id that a ledger has.
pub fn slot_of(id: &ProviderKeyId) -> &str {
    id.as_str().split_once('-').map_or(id.as_str(), |(slot, _)| slot)
}
