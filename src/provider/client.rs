//! The calls that the controllers make.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};

use super::{
    Account, CallError, Endpoint, ErrorClass, MintError, Minting, ProviderKeyId, ProvidersConfig,
    classification::{Finding, classify},
    dialect,
    exchange::{Reply, Request, Unsendable},
    http::{Lost, Transport},
};
use crate::{crypto::SecretBytes, domain::health::Verdict, provider::Admin};

/// Pages of a list that are read before it counts as endless: 20 000 keys at OpenAI.
pub(super) const MAX_PAGES: usize = 200;

/// What one validation call said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Validation {
    /// What it says of the key.
    pub verdict: Verdict,
    /// One of our own fixed codes, CamelCase.
    pub code: &'static str,
    /// The provider let the key in, though the verdict is that no workload may have it: such a refusal confirms no revocation.
    pub let_in: bool,
    /// HTTP status, if there was an answer.
    pub http_status: Option<u16>,
    /// The provider's id of the request, if it is harmless text of at most 128 characters.
    pub request_id: Option<String>,
}

/// A new key, or one that is to be made. No `Debug`.
pub struct Minted {
    /// Its handle.
    pub id: ProviderKeyId,
    /// The key itself.
    pub secret: SecretBytes,
}

/// A key in the provider's list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListedKey {
    /// Its handle; the key part may be missing.
    pub id: ProviderKeyId,
    /// The name that it was minted under; empty where keys have none.
    pub name: String,
    /// When the provider made it, by the provider's clock.
    pub created_at: Option<DateTime<Utc>>,
}

/// A whole list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every key of the account, other people's too.
    pub keys: Vec<ListedKey>,
    /// When it was told, by the provider's clock, if it says so.
    pub told_at: Option<DateTime<Utc>>,
}

/// When a key was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LastUsed {
    /// The last use, by the provider's clock; none if never.
    pub at: Option<DateTime<Utc>>,
    /// Whether the provider still knows the key.
    pub exists: bool,
}

/// What a revocation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// The provider says that it ended the key.
    Revoked,
    /// The provider does not know the key. A claim only: confirm by the list.
    AlreadyGone,
}

/// One page of a list.
pub(super) struct Page {
    pub(super) keys: Vec<ListedKey>,
    /// Where the next page starts, if there is one.
    pub(super) next: Option<String>,
}

/// All providers, over shared connections. Clone it freely; one for each process.
#[derive(Clone)]
pub struct Providers(Arc<Transport>);

impl Providers {
    /// No connection is made before the first call.
    pub fn new(config: ProvidersConfig) -> Self {
        Self(Arc::new(Transport::new(config)))
    }

    /// Asks the provider whether it accepts the key. Uses no tokens and never fails: what is not understood is
    /// [`Verdict::Unknown`].
    pub async fn validate(&self, endpoint: &Endpoint, key: &SecretBytes) -> Validation {
        let dialect = dialect(endpoint.provider());
        let Ok(request) = dialect.validation_request(endpoint, key) else {
            return silent(Verdict::Unknown, "Unsendable", None);
        };
        let mut reply = match self.send("validate", endpoint, request).await {
            Ok(reply) => reply,
            Err(lost) => return unanswered(&lost.error),
        };
        if let Some(Ok(second)) = dialect.second_request(endpoint, key, reply.status) {
            reply = match self.send("validate", endpoint, second).await {
                Ok(reply) => reply,
                Err(lost) => return unanswered(&lost.error),
            };
        }
        let mut finding = classify(dialect, &reply);
        if finding.verdict == Verdict::Valid
            && let Some(keyless) = dialect.keyless_request(endpoint)
            && let Ok(open) = self.send("validate", endpoint, keyless).await
            && classify(dialect, &open).verdict == Verdict::Valid
        {
            finding = Finding::new(Verdict::Valid, "AuthenticationNotEnforced");
        }
        Validation {
            verdict: finding.verdict,
            code: finding.code,
            let_in: finding.let_in,
            http_status: Some(reply.status),
            request_id: request_id(&reply, key),
        }
    }

    /// Asks whether the admin credential works and keys can be made in the project.
    pub async fn check_account(&self, account: &Account) -> Result<(), CallError> {
        let admin = admin(account)?;
        if matches!(admin.minting(), Minting::Slots(_)) {
            return self.slots(account).await.map(drop);
        }
        let reply = self.call("check_account", account, |account| admin.account_request(account)).await?;
        admin.read_account(account, &reply).map_err(|error| scrubbed(error, account))
    }

    /// Creates a key under the name, if keys have names there. Sent once, never repeated: on [`MintError::UnknownOutcome`] look for the name in
    /// the list, or for what was not in it before.
    pub async fn mint(&self, account: &Account, name: &str) -> Result<Minted, MintError> {
        let unsupported = CallError::local(ErrorClass::BadRequest, "NotSupported");
        let minting = admin(account).map_err(MintError::NotSent)?.minting();
        let (Minting::ShownOnce(calls) | Minting::Unnamed(calls)) = minting else {
            return Err(MintError::NotSent(unsupported));
        };
        let reply = self.send_mint(account, name, |account| calls.mint_request(account, name)).await?;
        minted_or(account, calls.read_minted(account, name, &reply))
    }

    /// Sends the call that makes a key, once.
    pub(super) async fn send_mint(
        &self,
        account: &Account,
        name: &str,
        build: impl Fn(&Account) -> Result<Request, Unsendable>,
    ) -> Result<Reply, MintError> {
        let printable = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !printable {
            return Err(MintError::NotSent(CallError::local(ErrorClass::BadRequest, "BadName")));
        }
        self.manage("mint", account, build).await.map_err(MintError::from)
    }

    /// All keys of the account, or an error: never a part of them.
    pub async fn list(&self, account: &Account) -> Result<Vec<ListedKey>, CallError> {
        self.list_with_time(account).await.map(|listing| listing.keys)
    }

    /// The same, with the provider's clock.
    pub async fn list_with_time(&self, account: &Account) -> Result<Listing, CallError> {
        let admin = admin(account)?;
        let mut told_at = None;
        let mut keys = Vec::new();
        let mut cursors = HashSet::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let request = |account: &Account| admin.list_request(account, after.as_deref());
            let reply = self.call("list", account, request).await?;
            let page = admin
                .read_list(account, after.as_deref(), &reply)
                .map_err(|error| scrubbed(error, account))?;
            // The first page's: keys of later pages were made before it, or are younger than they seem.
            told_at = told_at.or_else(|| reply.date());
            keys.extend(page.keys);
            let Some(next) = page.next else { return Ok(Listing { keys, told_at }) };
            if !cursors.insert(next.clone()) {
                return Err(scrubbed(reply.error(ErrorClass::Garbled, "EndlessList"), account));
            }
            after = Some(next);
        }
        Err(CallError::local(ErrorClass::Garbled, "EndlessList"))
    }

    /// When the key was last used, and whether it still exists.
    pub async fn last_used(&self, account: &Account, id: &ProviderKeyId) -> Result<LastUsed, CallError> {
        let Some(admin) = admin(account)?.last_use() else {
            return Err(CallError::local(ErrorClass::BadRequest, "NotSupported"));
        };
        let Some(key) = id.key() else {
            return Err(CallError::local(ErrorClass::BadRequest, "KeyPartUnknown"));
        };
        let reply = self.call("last_used", account, |account| admin.last_used_request(account, key)).await?;
        admin.read_last_used(key, &reply).map_err(|error| scrubbed(error, account))
    }

    /// Ends the key at the provider. Safe to repeat.
    pub async fn revoke(&self, account: &Account, id: &ProviderKeyId) -> Result<Revocation, CallError> {
        let admin = admin(account)?;
        let reply = self.call("revoke", account, |account| admin.revoke_request(account, id)).await?;
        let read = admin.read_revocation(id, &reply);
        if admin.revocation_is_unverified() {
            return self.believe_the_list(account, id, read).await;
        }
        // What was deleted before may be refused to be deleted again.
        let refused = read.as_ref().is_err_and(|error| error.class == ErrorClass::BadRequest);
        let over =
            refused && (self.is_deleted(account, id).await? || self.works(account, id).await? == Some(false));
        if over {
            return Ok(Revocation::AlreadyGone);
        }
        read.map_err(|error| scrubbed(error, account))
    }

    /// Switches the key off or on at the provider. Safe to repeat.
    pub async fn switch(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<(), CallError> {
        let Some(calls) = admin(account)?.switch() else {
            return Err(CallError::local(ErrorClass::BadRequest, "NotSupported"));
        };
        let reply = self.call("switch", account, |account| calls.switch_request(account, id, on)).await?;
        calls.read_switched(id, on, &reply).map_err(|error| scrubbed(error, account))
    }

    pub(super) async fn call(
        &self,
        operation: &'static str,
        account: &Account,
        build: impl Fn(&Account) -> Result<Request, Unsendable>,
    ) -> Result<Reply, CallError> {
        self.manage(operation, account, build).await.map_err(|lost| lost.error)
    }

    /// Sends a request to the account's admin API. Where that takes tokens, `build` is given the account with one in place of its
    /// credential; where it takes signatures, what was built is signed.
    pub(super) async fn manage(
        &self,
        operation: &'static str,
        account: &Account,
        build: impl Fn(&Account) -> Result<Request, Unsendable>,
    ) -> Result<Reply, Lost> {
        if let Some(access) = account.bedrock() {
            return self.with_signature(operation, account, access, build).await;
        }
        if account.google().is_none() {
            return self.send(operation, account.manager(), build(account)?).await;
        }
        self.with_token(operation, account, |token| build(&account.holding(token))).await
    }

    pub(super) fn config(&self) -> &ProvidersConfig {
        &self.0.config
    }

    pub(super) async fn send(
        &self,
        operation: &'static str,
        endpoint: &Endpoint,
        request: Request,
    ) -> Result<Reply, Lost> {
        let answered = self.0.config.watch.begin(endpoint.provider(), operation);
        let reply = self.0.send(endpoint, request).await;
        answered(match &reply {
            Ok(reply) => status_class(reply.status),
            Err(lost) => lost.error.class.as_str(),
        });
        reply
    }
}

const fn status_class(status: u16) -> &'static str {
    match status {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "other",
    }
}

pub(super) fn admin(account: &Account) -> Result<&'static dyn Admin, CallError> {
    let admin = dialect(account.endpoint().provider()).admin();
    admin.ok_or_else(|| CallError::local(ErrorClass::BadRequest, "NotSupported"))
}

fn silent(verdict: Verdict, code: &'static str, http_status: Option<u16>) -> Validation {
    Validation { verdict, code, let_in: false, http_status, request_id: None }
}

/// A lost call says nothing of the key; what we refused ourselves says nothing of the provider either.
fn unanswered(error: &CallError) -> Validation {
    let verdict = match error.class {
        ErrorClass::Server | ErrorClass::NotReached | ErrorClass::TimedOut => Verdict::ProviderDown,
        ErrorClass::Garbled if error.status.is_none() => Verdict::ProviderDown,
        ErrorClass::RefusedAddress => Verdict::AddressRefused,
        _ => Verdict::Unknown,
    };
    silent(verdict, error.code, error.status)
}

/// A request's id is the provider's text: dropped if it echoes eight characters of the credential.
fn request_id(reply: &Reply, credential: &SecretBytes) -> Option<String> {
    reply.request_id().filter(|id| !echoes(id, credential))
}

pub(super) fn scrubbed(mut error: CallError, account: &Account) -> CallError {
    error.request_id = error.request_id.filter(|id| !echoes(id, account.credential()));
    error
}

/// What was read of the answer to a mint, without what it may echo.
pub(super) fn minted_or<T>(account: &Account, read: Result<T, MintError>) -> Result<T, MintError> {
    read.map_err(|error| match error {
        MintError::NotSent(error) => MintError::NotSent(scrubbed(error, account)),
        MintError::Refused(error) => MintError::Refused(scrubbed(error, account)),
        MintError::UnknownOutcome(error) => MintError::UnknownOutcome(scrubbed(error, account)),
    })
}

fn echoes(text: &str, credential: &SecretBytes) -> bool {
    credential.expose().windows(8).any(|part| text.as_bytes().windows(8).any(|window| window == part))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
