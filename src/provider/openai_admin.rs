//! OpenAI's admin API for keys: one service account for each key.
//!
//! Creating a service account makes its first key; deleting the account ends it. That is right under both documented
//! behaviours of deleting a service account's key (refused in the specification of August 2026, allowed in the Python SDK
//! 3.54). Sources: openai-openapi, `openai/resources/admin/organization/projects` of the Python SDK.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{
    Account, Admin, CallError, Capabilities, Capability, ErrorClass, LastUse, LastUsed, ListedKey, MintError,
    Minted, Minting, Page, ProviderKeyId, Revocation, ShownOnce,
    admin_reply::{self, failed_mint},
    exchange::{Reply, Request, Unsendable, text},
    shape::check_shape,
    usage::UsageReports,
};
use crate::{api::ProviderType, crypto::SecretBytes};

pub(super) struct OpenAIAdmin;

#[derive(Deserialize)]
struct Project {
    id: String,
    status: String,
}

#[derive(Deserialize)]
struct CreatedAccount {
    id: String,
    name: String,
    api_key: CreatedKey,
}

#[derive(Deserialize)]
struct CreatedKey {
    id: String,
    value: String,
}

#[derive(Deserialize)]
struct AccountList {
    data: Vec<ServiceAccount>,
    has_more: bool,
    #[serde(default)]
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct ServiceAccount {
    id: String,
    name: String,
    #[serde(default)]
    created_at: Option<i64>,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    /// Null for a key that was never used. One that is left out says nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    last_used_at: Option<i64>,
}

#[derive(Deserialize)]
struct Deleted {
    id: String,
    deleted: bool,
}

fn time(seconds: Option<i64>) -> Option<DateTime<Utc>> {
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0))
}

impl Admin for OpenAIAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[
            Capability::LastUsed,
            Capability::List,
            Capability::Mint,
            Capability::Revoke,
            Capability::Usage,
            Capability::Validate,
        ])
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Request::get(account.endpoint().url(&["organization", "projects", account.project()], &[]))
            .bearer(account.credential())
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        let project: Project = read(reply)?;
        if project.id != account.project() {
            return Err(reply.error(ErrorClass::Garbled, "OtherProject"));
        }
        match project.status.as_str() {
            "active" => Ok(()),
            "archived" => Err(reply.error(ErrorClass::BadRequest, "ProjectArchived")),
            _ => Err(reply.error(ErrorClass::Garbled, "UnknownProjectStatus")),
        }
    }

    fn minting(&'static self) -> Minting {
        Minting::ShownOnce(self)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let mut query = vec![("limit", "100")];
        query.extend(after.map(|after| ("after", after)));
        Request::get(accounts_url(account, None, &query)).bearer(account.credential())
    }

    fn read_list(&self, _: &Account, _: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let page: AccountList = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        let last = page.data.last().map(|account| account.id.clone());
        if page.last_id.is_some() && page.last_id != last {
            return Err(garbled("InconsistentList"));
        }
        let next = match (page.has_more, last) {
            (false, _) => None,
            (true, Some(last)) => Some(last),
            (true, None) => return Err(garbled("InconsistentList")),
        };
        let keys = page.data.into_iter().map(|account| {
            let id = ProviderKeyId::new(&account.id, None).map_err(|_| garbled("BadKeyId"))?;
            Ok(ListedKey { id, name: account.name, created_at: time(account.created_at) })
        });
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::new(reqwest::Method::DELETE, accounts_url(account, Some(id.handle()), &[]))
            .bearer(account.credential())
    }

    fn read_revocation(&self, id: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.status == 404 && is_openai_error(reply) {
            return Ok(Revocation::AlreadyGone);
        }
        let deleted: Deleted = read(reply)?;
        if deleted.deleted && deleted.id == id.handle() {
            Ok(Revocation::Revoked)
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotDeleted"))
        }
    }

    fn last_use(&self) -> Option<&'static dyn LastUse> {
        Some(&Self)
    }

    fn usage(&self) -> Option<&'static dyn UsageReports> {
        Some(&Self)
    }
}

impl ShownOnce for OpenAIAdmin {
    fn mint_request(&self, account: &Account, name: &str) -> Result<Request, Unsendable> {
        let request = Request::new(reqwest::Method::POST, accounts_url(account, None, &[]));
        request.json(&json!({ "name": name })).bearer(account.credential())
    }

    fn read_minted(&self, account: &Account, name: &str, reply: &Reply) -> Result<Minted, MintError> {
        if !reply.succeeded() {
            return Err(failed_mint(reply, is_openai_error(reply), failure(reply)));
        }
        let created: CreatedAccount = reply.read().map_err(MintError::UnknownOutcome)?;
        let secret = SecretBytes::from_string(created.api_key.value);
        let garbled = |code| MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, code));
        if created.name != name {
            return Err(garbled("OtherName"));
        }
        let id =
            ProviderKeyId::new(&created.id, Some(&created.api_key.id)).map_err(|_| garbled("BadKeyId"))?;
        if check_shape(ProviderType::OpenAI, &secret).is_err()
            || secret.expose() == account.credential().expose()
        {
            return Err(garbled("BadSecret"));
        }
        Ok(Minted { id, secret })
    }
}

impl LastUse for OpenAIAdmin {
    fn last_used_request(&self, account: &Account, key: &str) -> Result<Request, Unsendable> {
        let path = ["organization", "projects", account.project(), "api_keys", key];
        Request::get(account.endpoint().url(&path, &[])).bearer(account.credential())
    }

    fn read_last_used(&self, key: &str, reply: &Reply) -> Result<LastUsed, CallError> {
        if reply.status == 404 && is_openai_error(reply) {
            return Ok(LastUsed { at: None, exists: false });
        }
        let found: Key = read(reply)?;
        if found.id != key {
            return Err(reply.error(ErrorClass::Garbled, "OtherKey"));
        }
        let at = time(found.last_used_at);
        if found.last_used_at.is_some() && at.is_none() {
            return Err(reply.error(ErrorClass::Garbled, "NoTime"));
        }
        Ok(LastUsed { at, exists: true })
    }
}

fn accounts_url(account: &Account, id: Option<&str>, query: &[(&str, &str)]) -> reqwest::Url {
    let mut path = vec!["organization", "projects", account.project(), "service_accounts"];
    path.extend(id);
    account.endpoint().url(&path, query)
}

pub(super) fn read<T: serde::de::DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is the error object of the specification. A proxy's own answer is not.
fn is_openai_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| text(&body, &["error", "message"]).is_some())
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let body = reply.object().unwrap_or_default();
    let unauthorized = if text(&body, &["error", "code"]) == Some("invalid_api_key") {
        (ErrorClass::CredentialInvalid, "CredentialRejected")
    } else {
        (ErrorClass::Forbidden, "Unauthorized")
    };
    admin_reply::failure(reply, is_openai_error(reply), unauthorized)
}

#[cfg(test)]
#[path = "openai_admin_tests.rs"]
mod tests;
