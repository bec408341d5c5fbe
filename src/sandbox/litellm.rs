//! The API for virtual keys of a LiteLLM proxy: what its calls do, and the JSON of their answers.
//!
//! Shapes follow the package `litellm` 1.109 (`key_management_endpoints.py`). A team is a project of the [`World`] without service
//! accounts; a key's id is the SHA-256 of its value, which the caller may choose.

use axum::http::StatusCode;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    call::{Call, Input, Outcome, Subject},
    credential::{Presented, digest, redacted},
    fault::Answer,
    operation::{Dialect, Operation},
    records::{Key, KeyPlace, NewKey, Owner, Project, listed},
    settings::OwnerAccess,
    wire::{self, ApiError, status_of},
    world::{Verdict, World},
};

/// Where keys are that belong to no team.
pub(super) const NO_TEAM: &str = "-";

/// Query of `GET /key/list`. The order is always that of their making.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyPage {
    #[serde(default = "first")]
    page: usize,
    #[serde(default = "few")]
    size: usize,
    #[serde(default)]
    team_id: Option<String>,
    #[serde(default)]
    key_alias: Option<String>,
    #[serde(default)]
    return_full_object: bool,
    #[serde(default, rename = "sort_by")]
    _sort_by: Option<String>,
    #[serde(default, rename = "sort_order")]
    _sort_order: Option<String>,
}

const fn first() -> usize {
    1
}

const fn few() -> usize {
    10
}

/// Body of `POST /key/generate`. What limits spending is accepted without effect.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GenerateKey {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_alias: Option<String>,
    #[serde(default)]
    team_id: Option<String>,
    /// `llm_api`: for the routes of models only.
    #[serde(default)]
    key_type: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    max_budget: Option<f64>,
    #[serde(default)]
    budget_duration: Option<String>,
    #[serde(default)]
    tpm_limit: Option<i64>,
    #[serde(default)]
    rpm_limit: Option<i64>,
}

/// Body of `POST /key/delete`: keys or their hashes, or aliases.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteKeys {
    #[serde(default)]
    pub(super) keys: Vec<String>,
    #[serde(default)]
    key_aliases: Vec<String>,
}

/// Body of `POST /key/block` and `/key/unblock`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlockKey {
    pub(super) key: String,
    #[serde(skip)]
    pub(super) on: bool,
}

/// What stands for a key is the key or its hash.
pub(super) fn hash_of(key: String) -> String {
    if key.starts_with("sk-") { HEXLOWER.encode(&digest(&key)) } else { key }
}

pub(super) fn error(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::proxy(status, kind, message)
}

pub(super) fn invalid(message: &str) -> ApiError {
    error(StatusCode::BAD_REQUEST, "bad_request_error", message)
}

/// What an exception becomes that only has a status.
fn plain(status: StatusCode, message: &str) -> ApiError {
    error(status, "internal_server_error", message)
}

fn not_found() -> ApiError {
    error(StatusCode::NOT_FOUND, "not_found_error", "Key not found in database")
}

fn unknown_key() -> ApiError {
    let message = "Authentication Error, Invalid API key provided.";
    error(StatusCode::UNAUTHORIZED, "token_not_found_in_db", message)
}

/// No credential at all.
pub(super) fn no_key() -> ApiError {
    error(StatusCode::UNAUTHORIZED, "auth_error", "Authentication Error, No api key passed in.")
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, kind, message, retry_after) = match answer {
        Answer::InvalidApiKey => return Some(unknown_key()),
        Answer::NotInOrganization => {
            (StatusCode::UNAUTHORIZED, "auth_error", "Authentication Error, User doesn't exist in db.", None)
        }
        Answer::MissingScopes { status } => {
            (status_of(status), "auth_error", "Only proxy admin can be used for this route.", None)
        }
        Answer::UnsupportedCountry => (StatusCode::FORBIDDEN, "auth_error", "Access forbidden", None),
        Answer::NotFound => return Some(not_found()),
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::TOO_MANY_REQUESTS, "throttling_error", "Rate limit exceeded", retry_after_seconds)
        }
        Answer::InsufficientQuota => {
            (StatusCode::UNPROCESSABLE_ENTITY, "budget_exceeded", "Budget has been exceeded!", None)
        }
        Answer::InternalError => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", "Internal Server Error", None)
        }
        Answer::Unavailable { retry_after_seconds } => {
            (StatusCode::SERVICE_UNAVAILABLE, "no_db_connection", "No connected db.", retry_after_seconds)
        }
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => return None,
    };
    Some(ApiError { retry_after, ..error(status, kind, message) })
}

impl World {
    fn team(&self, id: Option<&str>) -> Option<usize> {
        self.index_in(Dialect::LiteLLM, id.unwrap_or(NO_TEAM))
    }

    /// Where the key with this hash is, deleted or not.
    fn proxy_place(&self, hash: &str) -> Option<KeyPlace> {
        let digest = HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
        self.place(&digest).filter(|place| self.speaks(place.project, Dialect::LiteLLM))
    }

    fn by_alias(&self, alias: &str) -> Option<KeyPlace> {
        self.projects().iter().enumerate().filter(|(_, team)| team.dialect == Dialect::LiteLLM).find_map(
            |(project, team)| {
                let mut keys = team.keys.iter();
                let found = keys.find(|(_, key)| key.deletion.is_none() && key.name == alias);
                found.map(|(ordinal, _)| KeyPlace { project, ordinal: *ordinal })
            },
        )
    }

    /// What a call of the API for keys is about.
    pub(super) fn proxy_subject(&self, call: &Call) -> Subject {
        let of = |index: Option<usize>| {
            index.and_then(|index| self.projects().get(index)).map(|team| team.id.clone())
        };
        match &call.input {
            Ok(Input::ProxyPage(page)) => {
                Subject { project: of(self.team(page.team_id.as_deref())), ..Subject::default() }
            }
            Ok(Input::GenerateKey(new)) => {
                let project = of(self.team(new.team_id.as_deref()));
                Subject { project, name: new.key_alias.clone(), object: None }
            }
            _ => {
                let place = call.object.as_deref().and_then(|hash| self.proxy_place(hash));
                let name = place.and_then(|place| self.key_at(place)).map(|key| key.name.clone());
                let project = of(place.map(|place| place.project)).or_else(|| call.project.clone());
                Subject { project, name, object: call.object.clone() }
            }
        }
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_proxy(
        &mut self,
        call: &Call,
        verdict: &Verdict,
        presented: &Presented,
        now: DateTime<Utc>,
    ) -> Outcome {
        let checks = call.operation == Operation::CheckProxyKey;
        let completes = call.operation == Operation::CompleteProxy;
        match verdict {
            Verdict::Admin(Dialect::LiteLLM) if checks => not_found().into(),
            Verdict::Admin(Dialect::LiteLLM) if call.operation == Operation::ListProxyModels => {
                Outcome::read(wire::models())
            }
            // The master key may call models; what it uses is nobody's.
            Verdict::Admin(Dialect::LiteLLM) if completes => self.complete(None, &call.input, now),
            Verdict::Admin(Dialect::LiteLLM) => self.manage_proxy(call, now).unwrap_or_else(Outcome::from),
            &Verdict::Key(place) if completes && self.speaks(place.project, Dialect::LiteLLM) => {
                self.complete(Some(place), &call.input, now)
            }
            &Verdict::Key(place) if self.speaks(place.project, Dialect::LiteLLM) => {
                let restricted = self.key_at(place).is_some_and(|key| key.models_only);
                if !call.operation.is_data_call() || checks && restricted {
                    let message = "Virtual key is not allowed to call this route.";
                    return error(StatusCode::FORBIDDEN, "auth_error", message).into();
                }
                self.touch(place, now);
                let Some(key) = self.key_at(place) else { return unknown_key().into() };
                let answer = if checks {
                    json!({"key": key.id, "info": self.row(place.project, key)})
                } else {
                    wire::models()
                };
                Outcome::committed(answer, None, vec![key.id.clone()])
            }
            _ => {
                let known = self.place(&presented.digest).and_then(|place| self.key_at(place));
                if known.is_some_and(|key| key.disabled && key.deletion.is_none()) {
                    let message =
                        "Authentication Error, Key is blocked. Update via `/key/unblock` if you're admin.";
                    error(StatusCode::UNAUTHORIZED, "auth_error", message).into()
                } else {
                    unknown_key().into()
                }
            }
        }
    }

    fn manage_proxy(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        match (call.operation, input) {
            (Operation::ListProxyKeys, Input::ProxyPage(query)) => {
                self.proxy_page(query, now).map(Outcome::read)
            }
            (Operation::GenerateProxyKey, Input::GenerateKey(new)) => self.generate(new, now),
            (Operation::DeleteProxyKeys, Input::DeleteKeys(body)) => self.delete_proxy_keys(body, now),
            (Operation::GetTeam, _) => {
                let team = self.team(call.project.as_deref()).and_then(|index| self.projects().get(index));
                let team = team.ok_or_else(|| plain(StatusCode::NOT_FOUND, "Team not found"))?;
                let info = json!({"team_id": team.id, "team_alias": team.name, "models": [], "spend": 0.0});
                Ok(Outcome::read(
                    json!({"team_id": team.id, "team_info": info, "keys": [], "team_memberships": []}),
                ))
            }
            _ => self.on_proxy_key(call, input, now),
        }
    }

    fn on_proxy_key(&mut self, call: &Call, input: &Input, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let hash = call.object.as_deref().ok_or_else(not_found)?;
        let place = self.proxy_place(hash).ok_or_else(not_found)?;
        let settings = self.settings(Some(place.project)).clone();
        let key = self.key_mut(place).ok_or_else(not_found)?;
        if let Input::BlockKey(BlockKey { on, .. }) = input {
            if key.deletion.is_some() {
                return Err(not_found());
            }
            key.disabled = *on;
            return Ok(Outcome::committed(
                json!({"token": hash, "blocked": on}),
                None,
                vec![hash.to_owned()],
            ));
        }
        let lag = TimeDelta::milliseconds(settings.lookup_lag_millis.into());
        if now < key.created_at + lag || key.deletion.is_some() && !settings.deleted_keys_shown {
            return Err(not_found());
        }
        let key = self.key_at(place).ok_or_else(not_found)?;
        Ok(Outcome::read(json!({"key": hash, "info": self.row(place.project, key)})))
    }

    /// Without a team, the keys of all teams and of none.
    fn proxy_page(&self, query: &ProxyPage, now: DateTime<Utc>) -> Result<Value, ApiError> {
        if query.page == 0 || !(1..=100).contains(&query.size) {
            return Err(error(StatusCode::UNPROCESSABLE_ENTITY, "bad_request_error", "page or size"));
        }
        let wanted = |team: &Project| query.team_id.as_ref().is_none_or(|id| *id == team.id);
        let cap = self.settings(self.team(query.team_id.as_deref())).max_page_size.clamp(1, 100);
        let size = query.size.min(usize::try_from(cap).unwrap_or(1));
        let teams = self.projects().iter().enumerate();
        let mut keys: Vec<(u64, usize, &Key)> = teams
            .filter(|(_, team)| team.dialect == Dialect::LiteLLM && wanted(team))
            .flat_map(|(index, team)| team.keys.iter().map(move |(ordinal, key)| (*ordinal, index, key)))
            .filter(|(.., key)| listed(key.listed_from, key.deletion, now))
            .filter(|(.., key)| query.key_alias.as_ref().is_none_or(|alias| *alias == key.name))
            .collect();
        keys.sort_by_key(|(ordinal, ..)| *ordinal);
        let total = keys.len();
        let page = keys.into_iter().skip((query.page - 1) * size).take(size).map(|(_, index, key)| {
            if query.return_full_object {
                let mut row = self.row(index, key);
                row["token"] = Value::from(key.id.as_str());
                row
            } else {
                Value::from(key.id.as_str())
            }
        });
        Ok(json!({
            "keys": page.collect::<Vec<Value>>(), "total_count": total, "current_page": query.page,
            "total_pages": total.div_ceil(size),
        }))
    }

    fn generate(&mut self, new: &GenerateKey, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let index = self.team(new.team_id.as_deref());
        let index = index.ok_or_else(|| plain(StatusCode::NOT_FOUND, "Team doesn't exist in db."))?;
        let value = match &new.key {
            Some(_) if self.settings(Some(index)).custom_keys_refused => {
                let message = "Custom API key values are disabled by your administrator.";
                return Err(plain(StatusCode::FORBIDDEN, message));
            }
            Some(key) => Zeroizing::new(key.clone()),
            None => self.mint.proxy_key(),
        };
        let good = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
        if !value.starts_with("sk-") || value.len() < 16 || !value.bytes().all(good) {
            return Err(invalid("Invalid key format. LiteLLM Virtual Key must start with 'sk-'."));
        }
        if let Some(alias) = new.key_alias.as_deref().filter(|alias| self.by_alias(alias).is_some()) {
            let message = format!(
                "Key with alias '{alias}' already exists. Unique key aliases across all keys are required."
            );
            return Err(invalid(&message));
        }
        let hash = HEXLOWER.encode(&digest(&value));
        let known = self.proxy_place(&hash).and_then(|place| self.key_at(place));
        let answer = json!({
            "key": value.as_str(), "token": hash, "token_id": hash, "key_name": redacted(&value), "key_alias": new.key_alias,
            "team_id": new.team_id, "models": new.models, "max_budget": new.max_budget, "spend": 0.0,
            "budget_duration": new.budget_duration, "tpm_limit": new.tpm_limit, "rpm_limit": new.rpm_limit,
            "expires": null, "user_id": "default_user_id", "created_at": time(now), "metadata": {},
        });
        if known.is_some_and(|key| key.deletion.is_none()) {
            // The row is there: it stays as it is, and the answer says what was asked for.
            return Ok(Outcome::read(answer));
        }
        let wanted = NewKey {
            value: &value,
            name: new.key_alias.clone().unwrap_or_default(),
            owner: Owner::User,
            access: OwnerAccess::Active,
            lifetime: None,
        };
        let gone = || plain(StatusCode::NOT_FOUND, "Team doesn't exist in db.");
        let place = self.add_key(index, wanted, now).ok_or_else(gone)?;
        if let Some(key) = self.key_mut(place) {
            key.models_only = new.key_type.as_deref() == Some("llm_api");
            key.budget_duration.clone_from(&new.budget_duration);
        }
        Ok(Outcome::committed(answer, Some(hash.clone()), vec![hash]))
    }

    /// The answer repeats what was asked for, if anything of it was there.
    fn delete_proxy_keys(&mut self, body: &DeleteKeys, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let by_hash = body.keys.iter().filter_map(|key| self.proxy_place(&hash_of(key.clone())));
        let by_alias = body.key_aliases.iter().filter_map(|alias| self.by_alias(alias));
        let places: Vec<KeyPlace> = by_hash.chain(by_alias).collect();
        let mut died = Vec::new();
        for place in places {
            if self.delete_key(place, now) {
                died.extend(self.key_at(place).map(|key| key.id.clone()));
            }
        }
        if died.is_empty() {
            return Err(plain(StatusCode::NOT_FOUND, "No keys found"));
        }
        let asked = if body.keys.is_empty() { &body.key_aliases } else { &body.keys };
        Ok(Outcome::committed(json!({"deleted_keys": asked}), None, died))
    }

    /// A key's row, without its hash and never with its value. What it has spent is never set to zero, whatever its budget.
    fn row(&self, team: usize, key: &Key) -> Value {
        let team = self.projects().get(team).map(|team| team.id.as_str()).filter(|id| *id != NO_TEAM);
        let status = match (key.deletion, key.disabled) {
            (Some(_), _) => "deleted",
            (None, true) => "revoked",
            (None, false) => "active",
        };
        json!({
            "key_name": key.redacted, "key_alias": key.name, "spend": key.uses.cost(), "max_budget": null,
            "budget_duration": key.budget_duration,
            "budget_reset_at": null, "models": [], "metadata": {}, "expires": null, "blocked": key.disabled.then_some(true),
            "user_id": "default_user_id", "team_id": team, "tpm_limit": null, "rpm_limit": null,
            "created_at": time(key.created_at), "last_active": key.last_used_at.map(time), "status": status,
        })
    }
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
