//! LiteLLM's API for virtual keys.
//!
//! The caller may choose a key's value; the proxy keeps its SHA-256, which is the key's id. So a lost answer loses nothing: the
//! key is asked for by its hash, and made again with the same value if it is not there. Paths and queries have the hash
//! only, never the value. Source: the package `litellm` 1.109, `proxy/management_endpoints/key_management_endpoints.py`.

use chrono::{DateTime, Utc};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use reqwest::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    Account, Admin, BadKeyId, CallError, CallerChosen, Capabilities, Capability, ErrorClass, ListedKey,
    MintError, Minting, Page, ProviderKeyId, Revocation, Switch,
    admin_reply::{self, failed_mint},
    exchange::{Reply, Request, Unsendable, text},
    litellm::error_type,
    usage::{At, Measure, Report, Sums, UsageReports},
};
use crate::crypto::{Entropy, EntropyError, SecretBytes};
use crate::domain::usage::Micros;

/// Where keys are that belong to no team: what no team's id can be.
pub const NO_TEAM: &str = "-";

/// Keys on a page, the most that LiteLLM gives.
const PAGE: &str = "100";

pub(super) struct LiteLLMAdmin;

#[derive(Deserialize)]
struct Made {
    key: String,
    #[serde(default)]
    token_id: Option<String>,
}

#[derive(Deserialize)]
struct Found {
    key: String,
    info: Row,
}

#[derive(Deserialize)]
struct Row {
    /// Newer versions show keys that were deleted.
    #[serde(default)]
    status: Option<String>,
}

#[derive(Deserialize)]
struct Team {
    team_id: String,
}

#[derive(Deserialize)]
struct List {
    keys: Vec<Key>,
    total_count: usize,
    current_page: usize,
    total_pages: usize,
}

#[derive(Deserialize)]
struct Key {
    token: String,
    #[serde(default, rename = "key_alias")]
    alias: Option<String>,
    #[serde(default)]
    team_id: Option<String>,
    #[serde(default)]
    created_at: Option<String>,
}

/// The rows of the same list, for what they tell of use.
#[derive(Deserialize)]
struct UsedList {
    keys: Vec<Used>,
}

#[derive(Deserialize)]
struct Used {
    token: String,
    /// In dollars: since the key was made, or, where the key has a budget for a while, since that last began.
    #[serde(default)]
    spend: Option<f64>,
    #[serde(default)]
    budget_duration: Option<String>,
}

#[derive(Deserialize)]
struct Blocked {
    token: String,
    #[serde(default)]
    blocked: Option<bool>,
}

#[derive(Deserialize)]
struct Deleted {
    deleted_keys: Vec<String>,
}

/// Where the next page is, and what the pages before it said.
struct Cursor {
    page: usize,
    total: usize,
    seen: usize,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').map(|part| part.parse().ok());
        let cursor = Self { page: parts.next()??, total: parts.next()??, seen: parts.next()?? };
        parts.next().is_none().then_some(cursor)
    }
}

fn team(account: &Account) -> Option<&str> {
    Some(account.project()).filter(|project| *project != NO_TEAM)
}

impl Admin for LiteLLMAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[
            Capability::Disable,
            Capability::List,
            Capability::Mint,
            Capability::Revoke,
            Capability::Usage,
            Capability::Validate,
        ])
    }

    fn switch(&self) -> Option<&'static dyn Switch> {
        Some(&LiteLLMAdmin)
    }

    fn usage(&self) -> Option<&'static dyn UsageReports> {
        Some(&LiteLLMAdmin)
    }

    fn minting(&'static self) -> Minting {
        Minting::CallerChosen(self)
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        let endpoint = account.endpoint();
        let url = match team(account) {
            Some(team) => endpoint.url(&["team", "info"], &[("team_id", team)]),
            None => endpoint
                .url(&["key", "list"], &[("page", "1"), ("size", "1"), ("return_full_object", "true")]),
        };
        Request::get(url).bearer(account.credential())
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        match team(account) {
            Some(team) if read::<Team>(reply)?.team_id != team => {
                Err(reply.error(ErrorClass::Garbled, "OtherTeam"))
            }
            Some(_) => Ok(()),
            None => read::<List>(reply).map(drop),
        }
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let page = after.and_then(Cursor::parse).map_or(1, |cursor| cursor.page).to_string();
        let mut query = vec![
            ("page", page.as_str()),
            ("size", PAGE),
            ("return_full_object", "true"),
            ("sort_by", "created_at"),
            ("sort_order", "asc"),
        ];
        query.extend(team(account).map(|team| ("team_id", team)));
        Request::get(account.endpoint().url(&["key", "list"], &query)).bearer(account.credential())
    }

    /// A list by pages shifts when a key is made or deleted meanwhile, and would then skip one: it counts only if all pages
    /// tell the same total, and hold so many.
    fn read_list(&self, account: &Account, after: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let told: List = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        let before = match after {
            Some(after) => Cursor::parse(after).ok_or_else(|| garbled("BadCursor"))?,
            None => Cursor { page: 1, total: told.total_count, seen: 0 },
        };
        if told.current_page != before.page {
            return Err(garbled("OtherPage"));
        }
        let seen = before.seen + told.keys.len();
        let last = told.current_page >= told.total_pages;
        if told.total_count != before.total || last != (seen == told.total_count) {
            return Err(garbled("ListMoved"));
        }
        let wanted = team(account);
        if wanted.is_some() && told.keys.iter().any(|key| key.team_id.as_deref() != wanted) {
            return Err(garbled("OtherTeam"));
        }
        // Without a team the proxy tells of all keys: those of teams are at other accounts.
        let keys = told.keys.into_iter().filter(|key| key.team_id.as_deref() == wanted).map(|key| {
            let id = ProviderKeyId::new(&key.token, None).map_err(|_| garbled("BadKeyId"))?;
            let name = key.alias.unwrap_or_default();
            Ok(ListedKey { id, name, created_at: time(key.created_at.as_deref()) })
        });
        let next = (!last).then(|| format!("{}:{}:{seen}", before.page + 1, before.total));
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::new(Method::POST, account.endpoint().url(&["key", "delete"], &[]))
            .json(&json!({ "keys": [id.handle()] }))
            .bearer(account.credential())
    }

    fn read_revocation(&self, id: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.status == 404 && is_litellm_error(reply) {
            return Ok(Revocation::AlreadyGone);
        }
        let Deleted { deleted_keys } = read(reply)?;
        if deleted_keys.iter().any(|key| key == id.handle()) {
            Ok(Revocation::Revoked)
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotDeleted"))
        }
    }
}

/// The proxy counts tokens and requests too, yet tells them in logs of single calls and in reports that are asked for key by key.
impl UsageReports for LiteLLMAdmin {
    fn reports(&self) -> &'static [Report] {
        &[Report::Keys]
    }

    fn days_on_a_page(&self, _: Report) -> Option<u16> {
        None
    }

    fn usage_request(&self, account: &Account, _: Report, at: At<'_>) -> Result<Request, Unsendable> {
        self.list_request(account, at.after)
    }

    fn read_usage(
        &self,
        account: &Account,
        _: Report,
        at: At<'_>,
        reply: &Reply,
        sums: &mut Sums<'_>,
    ) -> Result<Option<String>, CallError> {
        let next = self.read_list(account, at.after, reply)?.next;
        for row in read::<UsedList>(reply)?.keys {
            let cost = [(Measure::Cost, row.spend.and_then(Micros::of_dollars).map(|micros| micros.0))];
            if row.budget_duration.is_some() {
                // When that began is not told, and what was spent before is not known.
                sums.add_to_window(&row.token, None, &cost);
            } else {
                sums.add(&row.token, &cost);
            }
        }
        Ok(next)
    }
}

impl Switch for LiteLLMAdmin {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable> {
        let call = if on { "unblock" } else { "block" };
        Request::new(Method::POST, account.endpoint().url(&["key", call], &[]))
            .json(&json!({ "key": id.handle() }))
            .bearer(account.credential())
    }

    fn read_switched(&self, id: &ProviderKeyId, on: bool, reply: &Reply) -> Result<(), CallError> {
        // The row as it is now; older proxies leave the flag out where it is false.
        let Blocked { token, blocked } = read(reply)?;
        let is_on = !blocked.unwrap_or(false);
        if is_on == on && token == id.handle() {
            Ok(())
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotSwitched"))
        }
    }
}

impl CallerChosen for LiteLLMAdmin {
    /// `sk-` and 256 random bits in 43 characters of base64url: what LiteLLM takes for a key, and nobody can guess.
    fn choose(&self, entropy: &mut dyn Entropy) -> Result<SecretBytes, EntropyError> {
        let mut random = Zeroizing::new([0; 32]);
        entropy.fill(random.as_mut())?;
        let encoded = Zeroizing::new(BASE64URL_NOPAD.encode(random.as_ref()));
        let mut value = Vec::with_capacity(3 + encoded.len());
        value.extend_from_slice(b"sk-");
        value.extend_from_slice(encoded.as_bytes());
        Ok(SecretBytes::new(value))
    }

    fn id_of(&self, secret: &SecretBytes) -> Result<ProviderKeyId, BadKeyId> {
        ProviderKeyId::new(&HEXLOWER.encode(&Sha256::digest(secret.expose())), None)
    }

    fn mint_request(
        &self,
        account: &Account,
        name: &str,
        secret: &SecretBytes,
    ) -> Result<Request, Unsendable> {
        let mut body = Map::from_iter([
            ("key".to_owned(), json!(secret.expose_str().ok_or(Unsendable)?)),
            ("key_alias".to_owned(), json!(name)),
        ]);
        let mut with = |field: &str, value: Option<Value>| {
            body.extend(value.map(|value| (field.to_owned(), value)));
        };
        with("team_id", team(account).map(Value::from));
        if let Some(terms) = account.lite_llm() {
            with("models", (!terms.models.is_empty()).then(|| json!(terms.models)));
            let budget = terms.max_budget.as_deref().and_then(|budget| budget.parse::<f64>().ok());
            with("max_budget", budget.map(Value::from));
            with("budget_duration", terms.budget_duration.as_deref().map(Value::from));
            with("tpm_limit", terms.tpm_limit.map(Value::from));
            with("rpm_limit", terms.rpm_limit.map(Value::from));
        }
        Request::new(Method::POST, account.endpoint().url(&["key", "generate"], &[]))
            .json(&Value::Object(body))
            .bearer(account.credential())
    }

    fn read_minted(&self, id: &ProviderKeyId, secret: &SecretBytes, reply: &Reply) -> Result<(), MintError> {
        if !reply.succeeded() {
            let error = failure(reply);
            // The same call may have come there twice, and without its database the proxy knows nothing.
            let unclear = ["NameTaken", "NoDatabase"].contains(&error.code);
            return Err(failed_mint(reply, is_litellm_error(reply) && !unclear, error));
        }
        let made: Made = reply.read().map_err(MintError::UnknownOutcome)?;
        let value = SecretBytes::from_string(made.key);
        let other_id = made.token_id.is_some_and(|token| token != id.handle());
        if value.expose() != secret.expose() || other_id {
            // The proxy has made a key of its own choice under our name: that is a stray.
            return Err(MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, "OtherKey")));
        }
        Ok(())
    }

    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        let url = account.endpoint().url(&["key", "info"], &[("key", id.handle())]);
        Request::get(url).bearer(account.credential())
    }

    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<bool, CallError> {
        let body = reply.object().unwrap_or_default();
        if reply.status == 404 && is_litellm_error(reply) && error_type(&body) == Some("not_found_error") {
            return Ok(false);
        }
        let Found { key, info } = read(reply)?;
        if key != id.handle() {
            return Err(reply.error(ErrorClass::Garbled, "OtherKey"));
        }
        Ok(info.status.as_deref() != Some("deleted"))
    }
}

fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    text.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|time| time.with_timezone(&Utc))
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is the error object of LiteLLM, whose `code` is the status as text. A proxy's own answer before it is not.
fn is_litellm_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| {
        let code = text(&body, &["error", "code"]);
        text(&body, &["error", "message"]).is_some() && code == Some(reply.status.to_string().as_str())
    })
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let body = reply.object().unwrap_or_default();
    let own = is_litellm_error(reply);
    let says =
        |words| own && text(&body, &["error", "message"]).is_some_and(|message| message.contains(words));
    match (reply.status, error_type(&body)) {
        // With 500 or 400, as it happens.
        (400.., Some("no_db_connection")) => reply.error(ErrorClass::Server, "NoDatabase"),
        (400, _) if says("Key with alias") && says("already exists") => {
            reply.error(ErrorClass::BadRequest, "NameTaken")
        }
        (403, _) if says("Custom API key values are disabled") => {
            reply.error(ErrorClass::CustomKeysDisabled, "CustomKeysDisabled")
        }
        (_, Some("budget_exceeded")) if own => reply.error(ErrorClass::BadRequest, "BudgetExceeded"),
        _ => admin_reply::failure(reply, own, (ErrorClass::CredentialInvalid, "CredentialRejected")),
    }
}

#[cfg(test)]
#[path = "litellm_admin_tests.rs"]
mod tests;
