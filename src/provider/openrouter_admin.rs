//! OpenRouter's management API for keys.
//!
//! A key's id is its `hash`; the key itself is shown once, beside the object that describes it. The workspace is always named:
//! without it OpenRouter means the default one of whoever asks, and two accounts could not be told apart. Source: OpenRouter's
//! `openapi.yaml` (`/keys`, `/workspaces/{id}`); that a page holds 100 keys is said in its guide; here it need only hold
//! more than one.

use reqwest::{Method, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Account, Admin, CallError, Capabilities, Capability, ErrorClass, ListedKey, MintError, Minted, Minting,
    Page, ProviderKeyId, Revocation, ShownOnce, Switch,
    admin_reply::{self, cursor, failed_mint, time},
    exchange::{Reply, Request, Unsendable, text},
    shape::check_shape,
    usage::{At, Measure, Report, Sums, UsageReports},
};
use crate::{api::ProviderType, crypto::SecretBytes, domain::usage::Micros};

pub(super) struct OpenRouterAdmin;

#[derive(Deserialize)]
struct FoundWorkspace {
    data: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    id: String,
}

#[derive(Deserialize)]
struct Created {
    data: CreatedKey,
    #[serde(default)]
    key: Option<String>,
}

/// One guide shows the value inside the object, the specification beside it.
#[derive(Deserialize)]
struct CreatedKey {
    #[serde(flatten)]
    is: Key,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    hash: String,
    name: String,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    workspace_id: Option<String>,
}

/// The rows of the same list, for what they tell of use.
#[derive(Deserialize)]
struct UsedList {
    data: Vec<Used>,
}

/// In dollars of OpenRouter's credit, since the key was made and since midnight, UTC. What was billed by another provider whose
/// key its owner brought stands in fields of its own, and is left out.
#[derive(Deserialize)]
struct Used {
    hash: String,
    #[serde(default)]
    usage: Option<f64>,
    #[serde(default)]
    usage_daily: Option<f64>,
}

#[derive(Deserialize)]
struct Updated {
    data: UpdatedKey,
}

#[derive(Deserialize)]
struct UpdatedKey {
    hash: String,
    disabled: bool,
}

#[derive(Deserialize)]
struct Deleted {
    deleted: bool,
}

impl Key {
    /// Whether it is where we asked for it. Older replies do not tell.
    fn is_in(&self, account: &Account) -> bool {
        self.workspace_id.as_deref().is_none_or(|is| is == account.project())
    }
}

impl Admin for OpenRouterAdmin {
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

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        Request::get(account.endpoint().url(&["workspaces", account.project()], &[]))
            .bearer(account.credential())
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        let FoundWorkspace { data } = read(reply)?;
        if data.id == account.project() {
            Ok(())
        } else {
            Err(reply.error(ErrorClass::Garbled, "OtherWorkspace"))
        }
    }

    fn switch(&self) -> Option<&'static dyn Switch> {
        Some(&OpenRouterAdmin)
    }

    fn minting(&'static self) -> Minting {
        Minting::ShownOnce(self)
    }

    fn usage(&self) -> Option<&'static dyn UsageReports> {
        Some(&OpenRouterAdmin)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let offset = after.and_then(cursor).map_or_else(|| "0".to_owned(), |(offset, _)| offset.to_string());
        // A stray that somebody has switched off must be found too.
        let query =
            [("offset", offset.as_str()), ("include_disabled", "true"), ("workspace_id", account.project())];
        Request::get(account.endpoint().url(&["keys"], &query)).bearer(account.credential())
    }

    /// A list by offset shifts when a key is deleted meanwhile, and would then skip one. So each page is asked for from the last
    /// key of the one before: if that is not on it, the list counts for nothing. The end is a page with nothing new.
    fn read_list(&self, account: &Account, after: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let page: List = read(reply)?;
        let garbled = |code| reply.error(ErrorClass::Garbled, code);
        if page.data.iter().any(|key| !key.is_in(account)) {
            return Err(garbled("OtherWorkspace"));
        }
        let (offset, known) = match after.map(|after| cursor(after).ok_or_else(|| garbled("BadCursor"))) {
            Some(cursor) => {
                let (offset, anchor) = cursor?;
                let at = page.data.iter().position(|key| key.hash == anchor);
                (offset, at.ok_or_else(|| garbled("ListMoved"))? + 1)
            }
            None => (0, 0),
        };
        let next = page.data.last().filter(|_| page.data.len() > known).map(|last| {
            let offset = offset + page.data.len() - 1;
            format!("{offset}:{}", last.hash)
        });
        let keys = page.data.into_iter().skip(known).map(|key| {
            let id = ProviderKeyId::new(&key.hash, None).map_err(|_| garbled("BadKeyId"))?;
            Ok(ListedKey { id, name: key.name, created_at: time(key.created_at.as_deref()) })
        });
        Ok(Page { keys: keys.collect::<Result<_, CallError>>()?, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Request::new(Method::DELETE, key_url(account, id)).bearer(account.credential())
    }

    fn read_revocation(&self, _: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.status == 404 && is_openrouter_error(reply) {
            return Ok(Revocation::AlreadyGone);
        }
        let Deleted { deleted } = read(reply)?;
        if deleted { Ok(Revocation::Revoked) } else { Err(reply.error(ErrorClass::Garbled, "NotDeleted")) }
    }
}

impl UsageReports for OpenRouterAdmin {
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
        // The pages overlap by the key that the list checks itself by: it was counted.
        let counted = at.after.and_then(cursor).map(|(_, anchor)| anchor);
        let next = self.read_list(account, at.after, reply)?.next;
        let rows = read::<UsedList>(reply)?.data;
        let new =
            counted.and_then(|anchor| rows.iter().position(|row| row.hash == anchor)).map_or(0, |at| at + 1);
        for row in rows.iter().skip(new) {
            sums.add(&row.hash, &[(Measure::Cost, micros(row.usage))]);
            let today = Some(at.question.today());
            sums.add_to_window(&row.hash, today, &[(Measure::Cost, micros(row.usage_daily))]);
        }
        Ok(next)
    }
}

impl Switch for OpenRouterAdmin {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable> {
        Request::new(Method::PATCH, key_url(account, id))
            .json(&json!({ "disabled": !on }))
            .bearer(account.credential())
    }

    fn read_switched(&self, id: &ProviderKeyId, on: bool, reply: &Reply) -> Result<(), CallError> {
        let Updated { data } = read(reply)?;
        if data.hash == id.handle() && data.disabled != on {
            Ok(())
        } else {
            Err(reply.error(ErrorClass::Garbled, "NotSwitched"))
        }
    }
}

impl ShownOnce for OpenRouterAdmin {
    fn mint_request(&self, account: &Account, name: &str) -> Result<Request, Unsendable> {
        Request::new(Method::POST, account.endpoint().url(&["keys"], &[]))
            .json(&json!({ "name": name, "workspace_id": account.project() }))
            .bearer(account.credential())
    }

    fn read_minted(&self, account: &Account, name: &str, reply: &Reply) -> Result<Minted, MintError> {
        if !reply.succeeded() {
            return Err(failed_mint(reply, is_openrouter_error(reply), failure(reply)));
        }
        let garbled = |code| MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, code));
        let Created { data, key } = reply.read().map_err(MintError::UnknownOutcome)?;
        let secret = SecretBytes::from_string(key.or(data.key).ok_or_else(|| garbled("UnreadableReply"))?);
        if data.is.name != name {
            return Err(garbled("OtherName"));
        }
        if !data.is.is_in(account) {
            return Err(garbled("OtherWorkspace"));
        }
        let id = ProviderKeyId::new(&data.is.hash, None).map_err(|_| garbled("BadKeyId"))?;
        if check_shape(ProviderType::OpenRouter, &secret).is_err()
            || secret.expose() == account.credential().expose()
        {
            return Err(garbled("BadSecret"));
        }
        Ok(Minted { id, secret })
    }
}

fn key_url(account: &Account, id: &ProviderKeyId) -> Url {
    account.endpoint().url(&["keys", id.handle()], &[])
}

fn micros(dollars: Option<f64>) -> Option<i64> {
    dollars.and_then(Micros::of_dollars).map(|micros| micros.0)
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    if reply.succeeded() { reply.read() } else { Err(failure(reply)) }
}

/// Whether the body is the error object of the specification. A proxy's own answer is not.
fn is_openrouter_error(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| {
        let code = body.get("error").and_then(|error| error.get("code")).and_then(Value::as_u64);
        text(&body, &["error", "message"]).is_some() && code == Some(u64::from(reply.status))
    })
}

/// What a reply other than 2xx means.
fn failure(reply: &Reply) -> CallError {
    let unauthorized = (ErrorClass::CredentialInvalid, "CredentialRejected");
    admin_reply::failure(reply, is_openrouter_error(reply), unauthorized)
}

#[cfg(test)]
#[path = "openrouter_admin_tests.rs"]
mod tests;
