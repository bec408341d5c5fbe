//! OpenAI's projects, service accounts and keys: what calls ask for, and what each of them does.

use std::{collections::BTreeMap, ops::Bound};

use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{
    call::{Call, Input, Outcome},
    credential::Presented,
    log::Effect,
    operation::{Dialect, Operation},
    records::{Account, Key, KeyPlace, NewKey, Owner, Project, listed},
    settings::{KeyDelete, OwnerAccess},
    wire::{self, ApiError},
    world::{Verdict, World},
};

/// Where in a list to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageQuery {
    /// Items wanted; 20 if not said.
    pub(super) limit: Option<u32>,
    /// Id of the item before the first one wanted.
    pub(super) after: Option<String>,
    /// Projects: archived ones too.
    pub(super) include_archived: bool,
    /// Keys: which owners' access; all if not said otherwise, see [`KeyFilter`].
    pub(super) access: KeyFilter,
}

/// `owner_project_access` of a list of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyFilter {
    /// Not asked for: "may exclude some enabled keys", here those of owners without access.
    #[default]
    #[serde(skip)]
    Unsaid,
    /// Owners with access.
    Active,
    /// Owners without access.
    Inactive,
    /// All enabled keys.
    Any,
}

/// Body of `POST …/service_accounts`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateAccount {
    pub(super) name: String,
    #[serde(default)]
    pub(super) create_service_account_only: Option<bool>,
    #[serde(default)]
    pub(super) expires_in_seconds: Option<i64>,
}

/// Body of `POST …/service_accounts/{account}/api_keys`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKey {
    #[serde(default)]
    pub(super) name: Option<String>,
    /// Accepted as documented; the sandbox does not limit what a key may do.
    #[serde(default, rename = "scopes")]
    pub(super) _scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) expires_in_seconds: Option<i64>,
}

impl World {
    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_openai(
        &mut self,
        call: &Call,
        verdict: Verdict,
        presented: &Presented,
        now: DateTime<Utc>,
    ) -> Outcome {
        let verdict = match verdict {
            Verdict::Key(KeyPlace { project, .. }) | Verdict::Pattern(project)
                if !self.speaks(project, Dialect::OpenAI) =>
            {
                Verdict::Unknown
            }
            Verdict::Admin(dialect) if dialect != Dialect::OpenAI => Verdict::Unknown,
            verdict => verdict,
        };
        if call.operation.is_data_call() {
            let completes = call.operation == Operation::Complete;
            return match verdict {
                Verdict::Key(place) if completes => self.complete(Some(place), &call.input, now),
                Verdict::Pattern(_) if completes => self.complete(None, &call.input, now),
                Verdict::Key(place) => self.use_key(place, now),
                Verdict::Pattern(_) => {
                    Outcome { effect: Effect::Committed, created: None, keys: Vec::new(), answer: Ok(None) }
                }
                Verdict::Admin(_) => ApiError::missing_scopes(StatusCode::FORBIDDEN, "api.model.read").into(),
                Verdict::Unknown => ApiError::invalid_key(&presented.value).into(),
            };
        }
        match verdict {
            Verdict::Admin(_) => self.administer(call, now).unwrap_or_else(Outcome::from),
            Verdict::Key(_) | Verdict::Pattern(_) => {
                ApiError::missing_scopes(StatusCode::FORBIDDEN, "api.management.read").into()
            }
            Verdict::Unknown => ApiError::invalid_key(&presented.value).into(),
        }
    }

    fn use_key(&mut self, place: KeyPlace, now: DateTime<Utc>) -> Outcome {
        self.touch(place, now);
        let keys = self.key_at(place).map(|key| key.id.clone()).into_iter().collect();
        Outcome { effect: Effect::Committed, created: None, keys, answer: Ok(None) }
    }

    fn administer(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        if let (Operation::ListProjects, Input::Page(query)) = (call.operation, input) {
            return self.list_projects(query).map(Outcome::read);
        }
        if let Input::Usage(query) = input {
            return self.usage_page(call.operation, query, now).map(Outcome::read);
        }
        let index = self.project_index_of(call).ok_or_else(|| ApiError::not_found("Project"))?;
        let project = self.projects().get(index).ok_or_else(|| ApiError::not_found("Project"))?;
        let cap = self.settings(Some(index)).max_page_size;
        let object = call.object.as_deref().unwrap_or_default();
        let no_account = || ApiError::not_found("Service account");
        let no_key = || ApiError::not_found("API key");
        match (call.operation, input) {
            (Operation::ListServiceAccounts, Input::Page(query)) => {
                let visible = |account: &Account| listed(account.listed_from, account.deletion, now);
                let (page, more) = page(&project.accounts, project, query, cap, visible)?;
                let data: Vec<Value> = page.into_iter().map(wire::account).collect();
                Ok(Outcome::read(wire::list(&data, more)))
            }
            (Operation::ListKeys, Input::Page(query)) => {
                let visible =
                    |key: &Key| listed(key.listed_from, key.deletion, now) && query.access.admits(key.access);
                let (page, more) = page(&project.keys, project, query, cap, visible)?;
                let data: Vec<Value> =
                    page.into_iter().map(|key| wire::key(key, project.owner_of(key))).collect();
                Ok(Outcome::read(wire::list(&data, more)))
            }
            (Operation::GetServiceAccount, _) => {
                Ok(Outcome::read(wire::account(project.live_account(object).ok_or_else(no_account)?)))
            }
            (Operation::GetKey, _) => {
                let key = project.live_key(object).ok_or_else(no_key)?;
                Ok(Outcome::read(wire::key(key, project.owner_of(key))))
            }
            (Operation::CreateServiceAccount, Input::Account(body)) => self.create_account(index, body, now),
            (Operation::CreateServiceAccountKey, Input::Key(body)) => {
                let owner = project.live_account(object).and_then(|account| project.ordinal(&account.id));
                self.create_key(index, owner.ok_or_else(no_account)?, body, now)
            }
            (Operation::DeleteServiceAccount, _) => {
                let died = self.delete_account(index, object, now).ok_or_else(no_account)?;
                let body = wire::deleted("organization.project.service_account", object);
                Ok(Outcome::committed(body, None, died))
            }
            (Operation::DeleteKey, _) => {
                let key = project.live_key(object).ok_or_else(no_key)?;
                let place = self.place(&key.digest).ok_or_else(no_key)?;
                let of_account = matches!(key.owner, Owner::ServiceAccount(_));
                if of_account && self.settings(Some(index)).service_account_key_delete == KeyDelete::Refused {
                    return Err(ApiError::bad_request(
                        "",
                        "API keys that belong to a service account cannot be deleted here. Delete the service \
                         account instead.",
                    ));
                }
                self.delete_key(place, now);
                let body = wire::deleted("organization.project.api_key", object);
                Ok(Outcome::committed(body, None, vec![object.to_owned()]))
            }
            _ => Ok(Outcome::read(wire::project(project))),
        }
    }

    fn list_projects(&self, query: &PageQuery) -> Result<Value, ApiError> {
        let start = match &query.after {
            None => 0,
            Some(id) => self.index_in(Dialect::OpenAI, id).ok_or_else(|| unknown_cursor(id))? + 1,
        };
        let limit = limit(query, self.settings(None).max_page_size)?;
        let mut data: Vec<Value> = self
            .projects()
            .iter()
            .skip(start)
            .filter(|project| project.dialect == Dialect::OpenAI)
            .filter(|project| query.include_archived || project.archived_at.is_none())
            .take(limit + 1)
            .map(wire::project)
            .collect();
        let more = data.len() > limit;
        data.truncate(limit);
        Ok(wire::list(&data, more))
    }

    fn create_account(
        &mut self,
        index: usize,
        body: &CreateAccount,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        self.refuse_archived(index)?;
        if body.name.trim().is_empty() {
            return Err(ApiError::bad_request("name", "Invalid 'name': it must not be empty."));
        }
        let bare = body.create_service_account_only == Some(true);
        if bare && body.expires_in_seconds.is_some() {
            return Err(ApiError::bad_request(
                "expires_in_seconds",
                "'expires_in_seconds' cannot be used when 'create_service_account_only' is true.",
            ));
        }
        let lifetime = lifetime(body.expires_in_seconds)?;
        let role = if bare { "none" } else { "member" };
        let gone = || ApiError::not_found("Project");
        let ordinal = self.add_account(index, &body.name, role, now).ok_or_else(gone)?;
        let key = if bare {
            None
        } else {
            Some(self.mint_key(index, ordinal, "Secret Key".to_owned(), lifetime, now).ok_or_else(gone)?)
        };
        let account =
            self.projects().get(index).and_then(|project| project.accounts.get(&ordinal)).ok_or_else(gone)?;
        let (keys, key) = key.map_or((Vec::new(), None), |(id, body)| (vec![id], Some(body)));
        Ok(Outcome::committed(wire::created_account(account, key), Some(account.id.clone()), keys))
    }

    fn create_key(
        &mut self,
        index: usize,
        owner: u64,
        body: &CreateKey,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        self.refuse_archived(index)?;
        let lifetime = lifetime(body.expires_in_seconds)?;
        let name = body.name.clone().unwrap_or_else(|| "Secret Key".to_owned());
        let (id, body) = self
            .mint_key(index, owner, name, lifetime, now)
            .ok_or_else(|| ApiError::not_found("Service account"))?;
        Ok(Outcome::committed(body, Some(id.clone()), vec![id]))
    }

    fn mint_key(
        &mut self,
        index: usize,
        owner: u64,
        name: String,
        lifetime: Option<TimeDelta>,
        now: DateTime<Utc>,
    ) -> Option<(String, Value)> {
        let value = self.mint.key("sk-svcacct-");
        let owner = Owner::ServiceAccount(owner);
        let new = NewKey { value: &value, name, owner, access: OwnerAccess::Active, lifetime };
        let place = self.add_key(index, new, now)?;
        let key = self.key_at(place)?;
        Some((key.id.clone(), wire::created_key(key, &value)))
    }

    fn refuse_archived(&self, index: usize) -> Result<(), ApiError> {
        match self.projects().get(index) {
            Some(project) if project.archived_at.is_some() => {
                Err(ApiError::bad_request("", "This project is archived."))
            }
            _ => Ok(()),
        }
    }
}

impl KeyFilter {
    fn admits(self, access: OwnerAccess) -> bool {
        match self {
            Self::Unsaid | Self::Active => access == OwnerAccess::Active,
            Self::Inactive => access == OwnerAccess::Inactive,
            Self::Any => true,
        }
    }
}

fn unknown_cursor(id: &str) -> ApiError {
    ApiError::bad_request("after", format!("Invalid 'after': no object with id {id:?}."))
}

fn limit(query: &PageQuery, cap: u32) -> Result<usize, ApiError> {
    let wanted = query.limit.unwrap_or(20);
    if !(1..=100).contains(&wanted) {
        return Err(ApiError::bad_request("limit", "Invalid 'limit': expected a value between 1 and 100."));
    }
    usize::try_from(wanted.min(cap.max(1))).map_err(|_| ApiError::bad_request("limit", "Invalid 'limit'."))
}

fn lifetime(seconds: Option<i64>) -> Result<Option<TimeDelta>, ApiError> {
    let invalid = || ApiError::bad_request("expires_in_seconds", "Invalid 'expires_in_seconds'.");
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds < 1 => Err(invalid()),
        Some(seconds) => TimeDelta::try_seconds(seconds).map(Some).ok_or_else(invalid),
    }
}

/// The visible items after the cursor, and whether there are more. A cursor may name a deleted object.
fn page<'a, T>(
    items: &'a BTreeMap<u64, T>,
    project: &Project,
    query: &PageQuery,
    cap: u32,
    visible: impl Fn(&T) -> bool,
) -> Result<(Vec<&'a T>, bool), ApiError> {
    let start = match &query.after {
        None => Bound::Unbounded,
        Some(id) => Bound::Excluded(project.ordinal(id).ok_or_else(|| unknown_cursor(id))?),
    };
    let limit = limit(query, cap)?;
    let mut found: Vec<&T> = items
        .range((start, Bound::Unbounded))
        .filter(|(_, item)| visible(item))
        .map(|(_, item)| item)
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    Ok((found, more))
}
