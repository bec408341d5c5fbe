//! The API Keys API of Google Cloud.
//!
//! Sources: googleapis `google/api/apikeys/v2/{apikeys,resources}.proto`, and the package `google-api-python-client` 2.202
//! (`apikeys.v2.json`, revision 20260818). The caller chooses a key's id; the provider makes the key, which can be read again
//! as long as it is not deleted. A deleted key goes on existing for 30 days, may be undeleted by whoever has the right, and its id is not
//! free meanwhile. Creating and deleting are operations, which may go on for a while. What errors they have is unverified.

use chrono::{DateTime, Utc};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Account, Admin, CallError, CallerNamed, Capabilities, Capability, ErrorClass, ListedKey, Making,
    MintError, Minting, Page, Presence, ProviderKeyId, Revocation,
    account::is_object_id,
    admin_reply::{self, failed_mint},
    check_shape,
    exchange::{Reply, Request, Unsendable, text},
    google::{reason, retry_delay},
};
use crate::{api::ProviderType, crypto::SecretBytes};

/// The one API that new keys are good for.
const GEMINI: &str = "generativelanguage.googleapis.com";

/// Keys on a page. How many Google gives at most is unverified; fewer do no harm.
const PAGE: &str = "100";

pub(super) struct GoogleAdmin;

/// A long-running operation (`google.longrunning.Operation`).
#[derive(Deserialize)]
struct Operation {
    name: String,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    error: Option<Failed>,
}

/// How an operation failed (`google.rpc.Status`).
#[derive(Deserialize)]
struct Failed {
    #[serde(default)]
    code: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    /// `projects/<number>/locations/global/keys/<id>`
    name: String,
    #[serde(default)]
    create_time: Option<String>,
    #[serde(default)]
    delete_time: Option<String>,
}

/// What is empty is left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyString {
    key_string: String,
}

impl Key {
    fn id(&self) -> Option<&str> {
        self.name.rsplit_once("/keys/").map(|(_, id)| id)
    }
}

fn url(account: &Account, more: &[&str], query: &[(&str, &str)]) -> Url {
    let mut segments = vec!["v2", "projects", account.project(), "locations", "global", "keys"];
    segments.extend(more);
    account.manager().url(&segments, query)
}

impl Admin for GoogleAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[Capability::List, Capability::Mint, Capability::Revoke, Capability::Validate])
    }

    fn minting(&'static self) -> Minting {
        Minting::CallerNamed(self)
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Request::get(url(account, &[], &[("pageSize", "1")])).bearer(account.credential())
    }

    fn read_account(&self, _account: &Account, reply: &Reply) -> Result<(), CallError> {
        list(reply).map(drop)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let mut query = vec![("pageSize", PAGE)];
        query.extend(after.map(|token| ("pageToken", token)));
        Request::get(url(account, &[], &query)).bearer(account.credential())
    }

    /// A key's name here is its id, which nobody can change, unlike its display name.
    fn read_list(&self, _account: &Account, _after: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let List { keys, next_page_token } = list(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        let keys = keys.into_iter().filter(|key| key.delete_time.is_none()).map(|key| {
            let name = key.id().unwrap_or_default().to_owned();
            let id = ProviderKeyId::new(&name, None).map_err(|_| garbled("BadKeyId"))?;
            Ok(ListedKey { id, name, created_at: time(key.create_time.as_deref()) })
        });
        let keys = keys.collect::<Result<_, CallError>>()?;
        let next = next_page_token.filter(|token| !token.is_empty());
        if next.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(garbled("BadCursor"));
        }
        Ok(Page { keys, next })
    }

    /// On its evidence the operator ends a key that may still be in use; Google's own check of that is never asked for.
    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        let url = url(account, &[id.handle()], &[("checkExistingUsage", "SKIP")]);
        Request::new(Method::DELETE, url).bearer(account.credential())
    }

    fn read_revocation(&self, _id: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.status == 404 && is_own(reply) {
            return Ok(Revocation::AlreadyGone);
        }
        match read::<Operation>(reply)?.error {
            None => Ok(Revocation::Revoked),
            Some(Failed { code: NOT_FOUND }) => Ok(Revocation::AlreadyGone),
            Some(failed) => Err(failed.error(reply)),
        }
    }
}

impl CallerNamed for GoogleAdmin {
    fn mint_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        let bound_to = account.google().map(|google| google.bound_to.as_str()).ok_or(Unsendable)?;
        let body = json!({
            "displayName": id.handle(),
            "restrictions": {"apiTargets": [{"service": GEMINI}]},
            "serviceAccountEmail": bound_to,
        });
        Request::new(Method::POST, url(account, &[], &[("keyId", id.handle())]))
            .json(&body)
            .bearer(account.credential())
    }

    fn read_making(&self, reply: &Reply) -> Result<Making, MintError> {
        if reply.status == 409 && is_own(reply) {
            let taken = status(reply).as_deref() == Some("ALREADY_EXISTS");
            return taken.then_some(Making::Over).ok_or_else(|| MintError::UnknownOutcome(failure(reply)));
        }
        if !reply.succeeded() {
            return Err(failed_mint(reply, is_own(reply), failure(reply)));
        }
        made(reply)
    }

    fn operation_request(&self, account: &Account, operation: &str) -> Result<Request, Unsendable> {
        let segments: Vec<&str> = ["v2"].into_iter().chain(operation.split('/')).collect();
        Request::get(account.manager().url(&segments, &[])).bearer(account.credential())
    }

    fn read_operation(&self, reply: &Reply) -> Result<Making, MintError> {
        if !reply.succeeded() {
            return Err(MintError::UnknownOutcome(failure(reply)));
        }
        made(reply)
    }

    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::get(url(account, &[id.handle()], &[])).bearer(account.credential())
    }

    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<Presence, CallError> {
        if reply.status == 404 && is_own(reply) {
            return Ok(Presence::Absent);
        }
        let key: Key = read(reply)?;
        if key.id() != Some(id.handle()) {
            return Err(reply.error(ErrorClass::Garbled, "OtherKey"));
        }
        Ok(if key.delete_time.is_some() { Presence::Deleted } else { Presence::There })
    }

    fn value_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::get(url(account, &[id.handle(), "keyString"], &[])).bearer(account.credential())
    }

    fn read_value(&self, reply: &Reply) -> Result<SecretBytes, CallError> {
        let secret = SecretBytes::from_string(read::<KeyString>(reply)?.key_string);
        let good = check_shape(ProviderType::Google, &secret).is_ok();
        good.then_some(secret).ok_or_else(|| reply.error(ErrorClass::Garbled, "BadKey"))
    }
}

/// What has become of a request to make a key.
fn made(reply: &Reply) -> Result<Making, MintError> {
    let operation: Operation = reply.read().map_err(MintError::UnknownOutcome)?;
    match operation.error {
        Some(Failed { code: ALREADY_EXISTS }) => Ok(Making::Over),
        Some(failed) => {
            let error = failed.error(reply);
            Err(if failed.is_final() { MintError::Refused(error) } else { MintError::UnknownOutcome(error) })
        }
        None if operation.done => Ok(Making::Over),
        None => {
            let parts: Vec<&str> = operation.name.split('/').collect();
            let known = parts.len() == 2 && parts[0] == "operations" && is_object_id(parts[1]);
            let bad = || MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, "BadOperation"));
            known.then_some(Making::UnderWay(operation.name)).ok_or_else(bad)
        }
    }
}

/// Codes of `google.rpc.Code`.
const INVALID_ARGUMENT: i64 = 3;
const NOT_FOUND: i64 = 5;
const ALREADY_EXISTS: i64 = 6;
const PERMISSION_DENIED: i64 = 7;
const RESOURCE_EXHAUSTED: i64 = 8;
const FAILED_PRECONDITION: i64 = 9;

impl Failed {
    /// Nothing was done, and nothing will be.
    const fn is_final(&self) -> bool {
        matches!(
            self.code,
            INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | RESOURCE_EXHAUSTED | FAILED_PRECONDITION
        )
    }

    fn error(&self, reply: &Reply) -> CallError {
        let (class, code) = match self.code {
            INVALID_ARGUMENT | FAILED_PRECONDITION => (ErrorClass::BadRequest, "BadRequest"),
            NOT_FOUND => (ErrorClass::NotFound, "NotFound"),
            PERMISSION_DENIED => (ErrorClass::Forbidden, "Forbidden"),
            RESOURCE_EXHAUSTED => (ErrorClass::RateLimited { retry_after: None }, "RateLimited"),
            _ => (ErrorClass::Server, "OperationFailed"),
        };
        reply.error(class, code)
    }
}

fn read<T: serde::de::DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// A page without keys is an object without fields, or with the next page's token alone; any other object is none.
fn list(reply: &Reply) -> Result<List, CallError> {
    let list = read(reply)?;
    let known = ["keys", "nextPageToken"];
    let body = reply.object().filter(|body| body.is_empty() || known.iter().any(|k| body.contains_key(*k)));
    body.map(|_| list).ok_or_else(|| reply.error(ErrorClass::Garbled, "NoList"))
}

fn status(reply: &Reply) -> Option<String> {
    reply.object().and_then(|body| text(&body, &["error", "status"]).map(str::to_owned))
}

/// Whether the body is Google's error object, which repeats the status. A proxy's own answer before it is not.
fn is_own(reply: &Reply) -> bool {
    let code = reply.object().and_then(|body| body.get("error")?.get("code").and_then(Value::as_u64));
    code == Some(reply.status.into()) && status(reply).is_some()
}

/// What a reply other than 2xx means.
pub(super) fn failure(reply: &Reply) -> CallError {
    let body = reply.object().unwrap_or_default();
    let mut error =
        admin_reply::failure(reply, is_own(reply), (ErrorClass::CredentialInvalid, "InvalidToken"));
    if let ErrorClass::RateLimited { retry_after: retry_after @ None } = &mut error.class {
        *retry_after = retry_delay(&body);
    }
    if error.class == ErrorClass::Forbidden && reason(&body) == Some("SERVICE_DISABLED") {
        error.code = "ApiNotEnabled";
    }
    error
}

fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    text.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
#[path = "google_admin_tests.rs"]
mod tests;
