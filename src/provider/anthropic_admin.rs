//! Anthropic's Admin API for keys: it makes none and deletes none, but lists them with a hint at their value, and switches them off.
//!
//! A key is ended by `status`: `inactive`, which can be taken back, and then `archived`, which cannot. A supplied key is recognised by
//! `partial_key_hint`, its first 16 and last 4 characters. Sources: Anthropic's API reference ("API Keys", 2026) for requests, `status`,
//! `workspace_id` (null: the default workspace) and the hint's form; the Python SDK 2.12 for `scope`, which newer replies have in its
//! place. Unverified: how soon a key that was switched off is refused.

use reqwest::{Method, Url, header::HeaderName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Account, Admin, CallError, Capabilities, Capability, Closing, ErrorClass, ListedKey, Matching, Minting,
    Page, ProviderKeyId, Revocation, Switch, admin_reply,
    exchange::{Reply, Request, Unsendable, text},
    usage::UsageReports,
};
use crate::crypto::SecretBytes;

pub(super) struct AnthropicAdmin;

/// How an `LLMProvider` names the workspace that has no id.
pub(super) const DEFAULT_WORKSPACE: &str = "default";

/// Keys on a page: the most that there can be.
const PAGE: &str = "1000";

/// What an uninformative hint has fewer of: characters that are shown, at either end.
const SHOWN: (usize, usize) = (14, 4);

#[derive(Deserialize)]
struct List {
    data: Vec<Key>,
    has_more: bool,
    #[serde(default)]
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    name: String,
    status: Status,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    partial_key_hint: Option<String>,
    #[serde(default)]
    workspace_id: Option<String>,
    #[serde(default)]
    scope: Option<Scope>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Status {
    Active,
    Inactive,
    Archived,
    Expired,
}

#[derive(Deserialize)]
struct Scope {
    #[serde(default)]
    workspace_id: Option<String>,
}

impl Key {
    /// Its workspace; none: the default one.
    fn workspace(&self) -> Option<&str> {
        let scope = self.scope.as_ref().and_then(|scope| scope.workspace_id.as_deref());
        self.workspace_id.as_deref().or(scope)
    }

    /// Whether the hint fits the key. One that shows too little fits none.
    fn may_be(&self, key: &SecretBytes) -> bool {
        let hint = self.partial_key_hint.as_deref().and_then(|hint| hint.split_once("..."));
        hint.is_some_and(|(head, tail)| {
            let bytes = key.expose();
            head.len() >= SHOWN.0
                && tail.len() >= SHOWN.1
                && head.len() + tail.len() <= bytes.len()
                && bytes.starts_with(head.as_bytes())
                && bytes.ends_with(tail.as_bytes())
        })
    }
}

/// A workspace as Anthropic names it; none: the default one, which has no id.
pub(super) fn workspace(account: &Account) -> Option<&str> {
    Some(account.project()).filter(|workspace| *workspace != DEFAULT_WORKSPACE)
}

/// A request with the admin key, in the header of Anthropic's own.
pub(super) fn with_key(request: Request, account: &Account) -> Result<Request, Unsendable> {
    request
        .header("anthropic-version", "2023-06-01")
        .secret_header(HeaderName::from_static("x-api-key"), account.credential().expose())
}

impl AnthropicAdmin {
    fn page(account: &Account, limit: &str, after: Option<&str>) -> Result<Request, Unsendable> {
        let mut query = vec![("limit", limit)];
        query.extend(workspace(account).map(|workspace| ("workspace_id", workspace)));
        query.extend(after.map(|after| ("after_id", after)));
        with_key(Request::get(keys_url(account, None, &query)), account)
    }

    /// The page's keys in the workspace, and where the next page starts. The default workspace cannot be asked for alone.
    fn keys(account: &Account, reply: &Reply) -> Result<(Vec<Key>, Option<String>), CallError> {
        let List { data, has_more, last_id } = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        let last = data.last().map(|key| key.id.clone());
        if last_id.is_some() && last_id != last {
            return Err(garbled("InconsistentList"));
        }
        let next = match (has_more, last) {
            (false, _) => None,
            (true, Some(last)) => Some(last),
            (true, None) => return Err(garbled("InconsistentList")),
        };
        let wanted = workspace(account);
        if wanted.is_some() && data.iter().any(|key| key.workspace() != wanted) {
            return Err(garbled("OtherWorkspace"));
        }
        Ok((data.into_iter().filter(|key| key.workspace() == wanted).collect(), next))
    }

    fn update(account: &Account, id: &ProviderKeyId, status: &str) -> Result<Request, Unsendable> {
        let request = Request::new(Method::POST, keys_url(account, Some(id), &[]));
        with_key(request.json(&json!({ "status": status })), account)
    }

    /// The status of the key that the reply describes.
    fn status(id: &ProviderKeyId, reply: &Reply) -> Result<Status, CallError> {
        let key: Key = read(reply)?;
        if key.id == id.handle() { Ok(key.status) } else { Err(reply.error(ErrorClass::Garbled, "OtherKey")) }
    }

    /// The same; none if there is no such key.
    fn status_if_any(id: &ProviderKeyId, reply: &Reply) -> Result<Option<Status>, CallError> {
        if reply.status == 404 && is_anthropic_error(reply) {
            return Ok(None);
        }
        Self::status(id, reply).map(Some)
    }
}

impl Admin for AnthropicAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[
            Capability::Disable,
            Capability::List,
            Capability::Match,
            Capability::Revoke,
            Capability::Usage,
            Capability::Validate,
        ])
    }

    fn minting(&'static self) -> Minting {
        Minting::Never
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Self::page(account, "1", None)
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        Self::keys(account, reply).map(drop)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        Self::page(account, PAGE, after)
    }

    /// Keys that work. What is switched off or archived stays in Anthropic's list for ever.
    fn read_list(&self, account: &Account, _: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let (keys, next) = Self::keys(account, reply)?;
        let keys = keys.into_iter().filter(|key| key.status == Status::Active).map(|key| {
            let id = ProviderKeyId::new(&key.id, None);
            let id = id.map_err(|_| reply.error(ErrorClass::Garbled, "BadKeyId"))?;
            Ok(ListedKey { id, name: key.name, created_at: admin_reply::time(key.created_at.as_deref()) })
        });
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    /// The first of two steps.
    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Self::update(account, id, "inactive")
    }

    fn read_revocation(&self, id: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        match Self::status_if_any(id, reply)? {
            None => Ok(Revocation::AlreadyGone),
            Some(Status::Active) => Err(reply.error(ErrorClass::Garbled, "NotDeactivated")),
            Some(_) => Ok(Revocation::Revoked),
        }
    }

    fn switch(&self) -> Option<&'static dyn Switch> {
        Some(&Self)
    }

    fn matching(&self) -> Option<&'static dyn Matching> {
        Some(&Self)
    }

    fn closing(&self) -> Option<&'static dyn Closing> {
        Some(&Self)
    }

    fn usage(&self) -> Option<&'static dyn UsageReports> {
        Some(&Self)
    }
}

impl Matching for AnthropicAdmin {
    fn hints_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        Self::page(account, PAGE, after)
    }

    /// Whatever its status: one that was switched off a moment ago may be the one.
    fn read_hints(
        &self,
        account: &Account,
        key: &SecretBytes,
        reply: &Reply,
    ) -> Result<(Vec<ProviderKeyId>, Option<String>), CallError> {
        let (keys, next) = Self::keys(account, reply)?;
        let ids = keys.iter().filter(|listed| listed.may_be(key)).map(|listed| {
            ProviderKeyId::new(&listed.id, None).map_err(|_| reply.error(ErrorClass::Garbled, "BadKeyId"))
        });
        Ok((ids.collect::<Result<_, CallError>>()?, next))
    }
}

impl Closing for AnthropicAdmin {
    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        with_key(Request::get(keys_url(account, Some(id), &[])), account)
    }

    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<bool, CallError> {
        Ok(Self::status_if_any(id, reply)? == Some(Status::Active))
    }

    fn close_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Self::update(account, id, "archived")
    }

    fn read_closed(&self, id: &ProviderKeyId, reply: &Reply) -> Result<(), CallError> {
        match Self::status_if_any(id, reply)? {
            None | Some(Status::Archived) => Ok(()),
            Some(_) => Err(reply.error(ErrorClass::Garbled, "NotArchived")),
        }
    }
}

impl Switch for AnthropicAdmin {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable> {
        Self::update(account, id, if on { "active" } else { "inactive" })
    }

    fn read_switched(&self, id: &ProviderKeyId, on: bool, reply: &Reply) -> Result<(), CallError> {
        let wanted = if on { Status::Active } else { Status::Inactive };
        if Self::status(id, reply)? == wanted {
            Ok(())
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotSwitched"))
        }
    }
}

fn keys_url(account: &Account, id: Option<&ProviderKeyId>, query: &[(&str, &str)]) -> Url {
    let mut path = vec!["v1", "organizations", "api_keys"];
    path.extend(id.map(ProviderKeyId::handle));
    account.endpoint().url(&path, query)
}

pub(super) fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is the error object of the reference. A proxy's own answer is not.
fn is_anthropic_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| {
        text(&body, &["type"]) == Some("error") && text(&body, &["error", "type"]).is_some()
    })
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let unauthorized = (ErrorClass::CredentialInvalid, "CredentialRejected");
    admin_reply::failure(reply, is_anthropic_error(reply), unauthorized)
}

#[cfg(test)]
#[path = "anthropic_admin_tests.rs"]
mod tests;
