//! Mistral's Admin API for keys: it makes and lists them; how one is ended is not documented.
//!
//! Source: docs.mistral.ai, "Beta Admin Api Keys Endpoints" (`GET` and `POST …/api-keys`; for organizations with an Enterprise plan, on
//! request). Unverified: `DELETE …/api-keys/{id}`, which only a public client has, and greatest pages. So an end is believed by the list
//! alone, and no key is made without consent to that. The documentation has the key in `x-api-key`, its examples in `Authorization`: both
//! are sent, to the one host that it is bound to.

use reqwest::{Method, Url, header::HeaderName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Account, Admin, CallError, Capabilities, Capability, ErrorClass, ListedKey, MintError, Minted, Minting,
    Page, ProviderKeyId, Revocation, ShownOnce,
    admin_reply::{self, failed_mint, time},
    exchange::{Reply, Request, Unsendable, text},
    shape::check_shape,
};
use crate::{api::ProviderType, crypto::SecretBytes};

pub(super) struct MistralAdmin;

/// Where Mistral's Admin API stands, where nothing else is said.
pub const MISTRAL_ADMIN: &str = "https://api.mistral.ai/v1/admin";

/// Keys asked for on a page.
const PAGE: &str = "100";

#[derive(Deserialize)]
struct List {
    keys: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    key_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    workspace_id: Option<String>,
}

#[derive(Deserialize)]
struct Created {
    key_id: String,
    key: String,
    #[serde(default)]
    name: Option<String>,
}

fn with_key(request: Request, account: &Account) -> Result<Request, Unsendable> {
    let credential = account.credential();
    request.secret_header(HeaderName::from_static("x-api-key"), credential.expose())?.bearer(credential)
}

impl MistralAdmin {
    fn page(account: &Account, limit: &str, offset: &str) -> Result<Request, Unsendable> {
        with_key(Request::get(keys_url(account, None, &[("limit", limit), ("offset", offset)])), account)
    }
}

impl Admin for MistralAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[Capability::List, Capability::Mint, Capability::Validate])
    }

    fn minting(&'static self) -> Minting {
        Minting::ShownOnce(self)
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Self::page(account, "1", "0")
    }

    fn read_account(&self, _: &Account, reply: &Reply) -> Result<(), CallError> {
        read::<List>(reply).map(drop)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let offset = after.and_then(admin_reply::cursor).map_or(0, |(offset, _)| offset);
        Self::page(account, PAGE, &offset.to_string())
    }

    /// The whole organization's keys, of which those of the workspace are told. A list by offset shifts when a key is deleted meanwhile:
    /// so each page is asked for from the last key of the one before, which must be on it. The end is a page with nothing new.
    fn read_list(&self, account: &Account, after: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let List { keys } = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        let cursor = after.map(|after| admin_reply::cursor(after).ok_or_else(|| garbled("BadCursor")));
        let (offset, known) = match cursor.transpose()? {
            Some((offset, anchor)) => {
                let at = keys.iter().position(|key| key.key_id == anchor);
                (offset, at.ok_or_else(|| garbled("ListMoved"))? + 1)
            }
            None => (0, 0),
        };
        let next = keys.last().filter(|_| keys.len() > known).map(|last| {
            let offset = offset + keys.len() - 1;
            format!("{offset}:{}", last.key_id)
        });
        let here = |key: &Row| key.workspace_id.as_deref().is_none_or(|is| is == account.project());
        let keys = keys.into_iter().skip(known).filter(here).map(|key| {
            let id = ProviderKeyId::new(&key.key_id, None).map_err(|_| garbled("BadKeyId"))?;
            let name = key.name.unwrap_or_default();
            Ok(ListedKey { id, name, created_at: time(key.created_at.as_deref()) })
        });
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        with_key(Request::new(Method::DELETE, keys_url(account, Some(id), &[])), account)
    }

    fn read_revocation(&self, _: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.succeeded() { Ok(Revocation::Revoked) } else { Err(failure(reply)) }
    }

    fn revocation_is_unverified(&self) -> bool {
        true
    }
}

impl ShownOnce for MistralAdmin {
    fn mint_request(&self, account: &Account, name: &str) -> Result<Request, Unsendable> {
        let mut body = json!({ "name": name, "workspace_uuid": account.project() });
        if let Some(user) = account.user() {
            body["user_id"] = json!(user);
        }
        with_key(Request::new(Method::POST, keys_url(account, None, &[])).json(&body), account)
    }

    fn read_minted(&self, account: &Account, name: &str, reply: &Reply) -> Result<Minted, MintError> {
        if !reply.succeeded() {
            return Err(failed_mint(reply, is_mistral_error(reply), failure(reply)));
        }
        let garbled = |code| MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, code));
        let Created { key_id, key, name: named } = reply.read().map_err(MintError::UnknownOutcome)?;
        let secret = SecretBytes::from_string(key);
        if named.as_deref() != Some(name) {
            return Err(garbled("OtherName"));
        }
        let id = ProviderKeyId::new(&key_id, None).map_err(|_| garbled("BadKeyId"))?;
        if check_shape(ProviderType::Mistral, &secret).is_err()
            || secret.expose() == account.credential().expose()
        {
            return Err(garbled("BadSecret"));
        }
        Ok(Minted { id, secret })
    }
}

fn keys_url(account: &Account, id: Option<&ProviderKeyId>, query: &[(&str, &str)]) -> Url {
    let mut path = vec!["api-keys"];
    path.extend(id.map(ProviderKeyId::handle));
    account.manager().url(&path, query)
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is an error of the API: `detail` (text, or what is wrong with which field), or `message`. A proxy's own answer is
/// not.
fn is_mistral_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| {
        body.get("detail").is_some_and(|detail| detail.is_string() || detail.is_array())
            || text(&body, &["message"]).is_some()
    })
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let unauthorized = (ErrorClass::CredentialInvalid, "CredentialRejected");
    admin_reply::failure(reply, is_mistral_error(reply), unauthorized)
}

#[cfg(test)]
#[path = "mistral_admin_tests.rs"]
mod tests;
