//! Keys whose value the caller chooses: chosen here, known by their id before they are made, and made as often as it takes.

use super::{
    Account, Admin, CallError, ErrorClass, MintError, Minted, Minting, Presence, ProviderKeyId, Providers,
    client::{admin, minted_or, scrubbed},
    dialect,
};
use crate::{
    api::ProviderType,
    crypto::{Entropy, EntropyError, SecretBytes},
};

/// Chooses a key for a provider that lets its callers do so; none for any other.
///
/// # Errors
/// The random source failed.
pub fn choose(provider: ProviderType, entropy: &mut dyn Entropy) -> Result<Option<Minted>, EntropyError> {
    let Some(Minting::CallerChosen(calls)) = dialect(provider).admin().map(Admin::minting) else {
        return Ok(None);
    };
    let secret = calls.choose(entropy)?;
    Ok(calls.id_of(&secret).ok().map(|id| Minted { id, secret }))
}

impl Providers {
    /// Creates the chosen key under the name. Safe to repeat: the same value is the same key. On
    /// [`MintError::UnknownOutcome`] ask [`Self::exists`].
    pub async fn mint_chosen(
        &self,
        account: &Account,
        name: &str,
        chosen: &SecretBytes,
    ) -> Result<ProviderKeyId, MintError> {
        let unsupported = || MintError::NotSent(CallError::local(ErrorClass::BadRequest, "NotSupported"));
        let Minting::CallerChosen(calls) = admin(account).map_err(MintError::NotSent)?.minting() else {
            return Err(unsupported());
        };
        let id = calls.id_of(chosen).map_err(|_| unsupported())?;
        let reply =
            self.send_mint(account, name, |account| calls.mint_request(account, name, chosen)).await?;
        minted_or(account, calls.read_minted(&id, chosen, &reply))?;
        Ok(id)
    }

    /// Whether the account has the key, by its id alone. None where that cannot be asked.
    ///
    /// # Errors
    /// The call failed: nothing is known.
    pub async fn exists(&self, account: &Account, id: &ProviderKeyId) -> Result<Option<bool>, CallError> {
        let calls = match admin(account)?.minting() {
            Minting::CallerChosen(calls) => calls,
            Minting::CallerNamed(_) => {
                return self.presence(account, id).await.map(|p| Some(p == Presence::There));
            }
            Minting::Never | Minting::ShownOnce(_) | Minting::Unnamed(_) | Minting::Slots(_) => {
                return self.works(account, id).await;
            }
        };
        let reply = self.call("look_up", account, |account| calls.look_request(account, id)).await?;
        calls.read_look(id, &reply).map(Some).map_err(|error| scrubbed(error, account))
    }
}
