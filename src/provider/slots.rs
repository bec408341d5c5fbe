//! Accounts with a fixed number of keys that can be read again at any time, and made anew one at a time.

use std::{path::Path, time::Duration};

use zeroize::Zeroizing;

use super::{
    Account, AzureAccess, CallError, ErrorClass, MintError, Minting, ProviderKeyId, Providers, Slots,
    azure_admin::{Proof, read_token, token_request},
    client::{admin, scrubbed},
    exchange::{Reply, Request, Unsendable},
    http::Lost,
};
use crate::crypto::SecretBytes;

/// A token that is good for less is not used any more.
const TOKEN_MARGIN: Duration = Duration::from_secs(120);

/// Longest token of the cluster that is read from its file.
const TOKEN_CAP: usize = 16 * 1024;

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

/// A token for the management API, as long as it is good.
pub(super) struct Token {
    value: SecretBytes,
    /// By the monotonic clock.
    until: Duration,
}

impl Providers {
    /// What the account's slots hold, the one that is made anew first comes first.
    ///
    /// # Errors
    /// The call failed: nothing is known.
    pub async fn slots(&self, account: &Account) -> Result<Vec<SlotKey>, CallError> {
        let (calls, access) = slots_of(account)?;
        let reply = self.with_token("list_slots", account, access, |token| {
            calls.read_request(access, account.project(), token)
        });
        let reply = reply.await.map_err(|lost| lost.error)?;
        calls.read_slots(&reply).map_err(|error| scrubbed(error, account))
    }

    /// Makes the slot's key anew, which ends the one before. Sent once; only [`Self::slots`] tells what the slot holds afterwards.
    pub async fn renew_slot(&self, account: &Account, slot: &str) -> Result<(), MintError> {
        let (calls, access) = slots_of(account).map_err(MintError::NotSent)?;
        let build = |token: &SecretBytes| calls.renew_request(access, account.project(), slot, token);
        let reply =
            self.with_token("renew_slot", account, access, build).await.map_err(|lost| match lost {
                Lost { error, maybe_sent: true } => MintError::UnknownOutcome(error),
                Lost { error, maybe_sent: false } => MintError::NotSent(error),
            })?;
        super::client::minted_or(account, calls.read_renewed(&reply))
    }

    /// Sends a request with a token. One that the API calls expired was not accepted, so nothing has happened: another token is
    /// asked for, and the request is sent once more.
    async fn with_token(
        &self,
        operation: &'static str,
        account: &Account,
        access: &AzureAccess,
        build: impl Fn(&SecretBytes) -> Result<Request, Unsendable>,
    ) -> Result<Reply, Lost> {
        let unsent = |error: CallError| Lost { error, maybe_sent: false };
        let mut again = false;
        loop {
            let token = self.token(account, access, again).await.map_err(unsent)?;
            let request = build(&token).map_err(|unsendable| unsent(unsendable.into()))?;
            let reply = self.send(operation, &access.manager, request).await?;
            if reply.status != 401 || again {
                return Ok(reply);
            }
            again = true;
        }
    }

    /// The token at hand, or another one. Who asks meanwhile waits for it.
    async fn token(
        &self,
        account: &Account,
        access: &AzureAccess,
        anew: bool,
    ) -> Result<SecretBytes, CallError> {
        let mut known = access.token.lock().await;
        let now = self.now();
        if let Some(token) = known.as_ref().filter(|token| !anew && now < token.until) {
            return Ok(token.value.clone());
        }
        let proof = match &access.secret {
            Some(secret) => Proof::Secret(secret.clone()),
            None => Proof::Assertion(self.assertion().await?),
        };
        let request = token_request(access, &proof);
        let reply = self.send("token", &access.authority, request).await.map_err(|lost| lost.error)?;
        let granted = read_token(&reply).map_err(|error| scrubbed(error, account))?;
        let until = now + granted.lifetime.saturating_sub(TOKEN_MARGIN);
        *known = Some(Token { value: granted.token.clone(), until });
        Ok(granted.token)
    }

    /// The cluster's token, read anew each time: the kubelet replaces it.
    async fn assertion(&self) -> Result<SecretBytes, CallError> {
        let missing = |code| CallError::local(ErrorClass::CredentialInvalid, code);
        let file = self.federated_token_file().ok_or_else(|| missing("NoFederatedToken"))?;
        read_assertion(file).await.ok_or_else(|| missing("UnreadableFederatedToken"))
    }
}

async fn read_assertion(file: &Path) -> Option<SecretBytes> {
    let bytes = Zeroizing::new(tokio::fs::read(file).await.ok()?);
    let token = bytes.trim_ascii();
    let good = (8..=TOKEN_CAP).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    good.then(|| SecretBytes::new(token.to_vec()))
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
