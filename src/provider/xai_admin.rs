//! xAI's management API for keys, which has a host and a credential of its own.
//!
//! Sources: docs.x.ai, "Using Management API", for the calls that make, list and delete keys, for their access control lists and for
//! `propagation`; its REST reference for the answer of a creation, with `apiKey` once. Unverified, from public clients only: the names
//! `paginationToken` and `icPropagation` in answers, the body of a deletion's answer, the form of errors, and that a change is a PUT of
//! `/auth/api-keys/{id}` (a guide has it at the team's list). Names are not said to be unique. Usage by key is not read: by which name the
//! report groups keys is not documented.

use reqwest::{Method, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Account, Admin, CallError, Capabilities, Capability, ErrorClass, ListedKey, MintError, Minted, Minting,
    Page, ProviderKeyId, Revocation, ShownOnce, Spread, Switch,
    admin_reply::{self, failed_mint, time},
    exchange::{Reply, Request, Unsendable, text},
    shape::check_shape,
};
use crate::{api::ProviderType, crypto::SecretBytes};

pub(super) struct XaiAdmin;

/// Where xAI's management API stands, where nothing else is said.
pub const XAI_MANAGEMENT: &str = "https://management-api.x.ai";

/// What every key may use: all models and all endpoints of its team. Without any it may use nothing.
const EVERYTHING: [&str; 2] = ["api-key:model:*", "api-key:endpoint:*"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    api_keys: Vec<Key>,
    #[serde(default)]
    pagination_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    api_key_id: String,
    name: String,
    #[serde(default)]
    create_time: Option<String>,
    #[serde(default)]
    team_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    #[serde(flatten)]
    is: Key,
    api_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Updated {
    api_key_id: String,
    disabled: bool,
}

impl Key {
    /// Whether it is in the team that was asked for. Not every answer tells.
    fn is_in(&self, account: &Account) -> bool {
        self.team_id.as_deref().is_none_or(|is| is == account.project())
    }
}

impl Admin for XaiAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[
            Capability::Disable,
            Capability::List,
            Capability::Mint,
            Capability::Revoke,
            Capability::Validate,
        ])
    }

    fn minting(&'static self) -> Minting {
        Minting::ShownOnce(self)
    }

    /// The list of the team's keys, one of them: what the key must be allowed to read anyway.
    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Request::get(team_url(account, &[("pageSize", "1")])).bearer(account.credential())
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        self.read_list(account, None, reply).map(drop)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let mut query = vec![("pageSize", "100")];
        query.extend(after.map(|after| ("paginationToken", after)));
        Request::get(team_url(account, &query)).bearer(account.credential())
    }

    fn read_list(&self, account: &Account, _: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let List { api_keys, pagination_token } = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        if api_keys.iter().any(|key| !key.is_in(account)) {
            return Err(garbled("OtherTeam"));
        }
        let keys = api_keys.into_iter().map(|key| {
            let id = ProviderKeyId::new(&key.api_key_id, None).map_err(|_| garbled("BadKeyId"))?;
            Ok(ListedKey { id, name: key.name, created_at: time(key.create_time.as_deref()) })
        });
        let next = pagination_token.filter(|token| !token.is_empty());
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::new(Method::DELETE, key_url(account, id, &[])).bearer(account.credential())
    }

    /// An answer is a claim only, whatever its body says: the list and the key's refusal confirm it.
    fn read_revocation(&self, _: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.succeeded() {
            return Ok(Revocation::Revoked);
        }
        if reply.status == 404 && is_xai_error(reply) {
            return Ok(Revocation::AlreadyGone);
        }
        Err(failure(reply))
    }

    fn switch(&self) -> Option<&'static dyn Switch> {
        Some(&Self)
    }

    fn spread(&self) -> Option<&'static dyn Spread> {
        Some(&Self)
    }
}

impl Switch for XaiAdmin {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable> {
        Request::new(Method::PUT, key_url(account, id, &[]))
            .json(&json!({ "apiKey": { "disabled": !on }, "fieldMask": "disabled" }))
            .bearer(account.credential())
    }

    fn read_switched(&self, id: &ProviderKeyId, on: bool, reply: &Reply) -> Result<(), CallError> {
        let Updated { api_key_id, disabled } = read(reply)?;
        if api_key_id == id.handle() && disabled != on {
            Ok(())
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotSwitched"))
        }
    }
}

impl Spread for XaiAdmin {
    fn spread_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::get(key_url(account, id, &["propagation"])).bearer(account.credential())
    }

    fn read_spread(&self, reply: &Reply) -> Option<bool> {
        let body = reply.object().filter(|_| reply.succeeded())?;
        let clusters = body.get("icPropagation")?.as_object().filter(|clusters| !clusters.is_empty())?;
        let told: Option<Vec<bool>> = clusters.values().map(Value::as_bool).collect();
        Some(told?.into_iter().all(|has| has))
    }
}

impl ShownOnce for XaiAdmin {
    fn mint_request(&self, account: &Account, name: &str) -> Result<Request, Unsendable> {
        Request::new(Method::POST, team_url(account, &[]))
            .json(&json!({ "name": name, "acls": EVERYTHING }))
            .bearer(account.credential())
    }

    fn read_minted(&self, account: &Account, name: &str, reply: &Reply) -> Result<Minted, MintError> {
        if !reply.succeeded() {
            return Err(failed_mint(reply, is_xai_error(reply), failure(reply)));
        }
        let garbled = |code| MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, code));
        let Created { is, api_key } = reply.read().map_err(MintError::UnknownOutcome)?;
        let secret = SecretBytes::from_string(api_key);
        if is.name != name {
            return Err(garbled("OtherName"));
        }
        if !is.is_in(account) {
            return Err(garbled("OtherTeam"));
        }
        let id = ProviderKeyId::new(&is.api_key_id, None).map_err(|_| garbled("BadKeyId"))?;
        if check_shape(ProviderType::XAI, &secret).is_err()
            || secret.expose() == account.credential().expose()
        {
            return Err(garbled("BadSecret"));
        }
        Ok(Minted { id, secret })
    }
}

fn team_url(account: &Account, query: &[(&str, &str)]) -> Url {
    account.manager().url(&["auth", "teams", account.project(), "api-keys"], query)
}

fn key_url(account: &Account, id: &ProviderKeyId, further: &[&str]) -> Url {
    let mut path = vec!["auth", "api-keys", id.handle()];
    path.extend(further);
    account.manager().url(&path, &[])
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is an error of the API: `code`, and `error` as text like that of the data API, or `message`. A proxy's own answer
/// is not.
fn is_xai_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| {
        let told = text(&body, &["error"]).or_else(|| text(&body, &["message"]));
        told.is_some() && body.get("code").is_some_and(|code| code.is_string() || code.is_u64())
    })
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let unauthorized = (ErrorClass::CredentialInvalid, "CredentialRejected");
    admin_reply::failure(reply, is_xai_error(reply), unauthorized)
}

#[cfg(test)]
#[path = "xai_admin_tests.rs"]
mod tests;
