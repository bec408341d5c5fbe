//! xAI's APIs: the call that checks a key, and the management API for keys.
//!
//! Shapes follow docs.x.ai, where it has them; see `provider/xai_admin.rs` for what is unverified. A team is a project of the [`World`]
//! without service accounts.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    backend::Backend,
    call::{Call, Outcome},
    credential::masked,
    fault::Answer,
    keyed::{Caller, Names, Place, lost, on, time},
    operation::{Dialect, Operation},
    records::{Key, KeyPlace, NewKey, Owner, Project, listed},
    settings::OwnerAccess,
    wire::{ApiError, status_of},
    world::World,
};

/// The routes.
pub(super) fn api() -> Router<Arc<Backend>> {
    let at = |method: &Method, operation, names| on(method, operation, Place::Bearer, names);
    let team = at(&Method::GET, Operation::ListTeamKeys, Names::Place).merge(at(
        &Method::POST,
        Operation::CreateTeamKey,
        Names::Place,
    ));
    let key = at(&Method::PUT, Operation::UpdateTeamKey, Names::Object).merge(at(
        &Method::DELETE,
        Operation::DeleteTeamKey,
        Names::Object,
    ));
    Router::new()
        .route("/xai/data/v1/api-key", at(&Method::GET, Operation::CheckTeamKey, Names::Nothing))
        .route("/xai/management/auth/teams/{team}/api-keys", team)
        .route("/xai/management/auth/api-keys/{key}", key)
        .route(
            "/xai/management/auth/api-keys/{key}/propagation",
            at(&Method::GET, Operation::GetPropagation, Names::Object),
        )
}

fn error(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::keyed(Dialect::Xai, status, code, message)
}

fn not_found() -> ApiError {
    error(StatusCode::NOT_FOUND, "not-found", "The requested resource was not found")
}

fn invalid(message: &str) -> ApiError {
    error(StatusCode::BAD_REQUEST, "invalid-argument", message)
}

/// A key that is not known is a 400, and echoes some of it.
fn incorrect(shown: &str) -> ApiError {
    invalid(&format!(
        "Incorrect API key provided: {}. You can obtain an API key from https://console.x.ai.",
        masked(shown)
    ))
}

fn unauthorized() -> ApiError {
    error(StatusCode::UNAUTHORIZED, "unauthenticated:bad-credentials", "The management key is not valid")
}

/// The body of a refusal: flat, with a text.
pub(super) fn error_body(error: &ApiError) -> Value {
    json!({"code": error.kind, "error": error.message})
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer, presented: &str) -> Option<ApiError> {
    let (status, code, retry_after) = match answer {
        Answer::InvalidApiKey => return Some(incorrect(presented)),
        Answer::NotInOrganization => return Some(unauthorized()),
        Answer::MissingScopes { status } => (status_of(status), "permission-denied", None),
        Answer::UnsupportedCountry | Answer::InsufficientQuota => {
            (StatusCode::FORBIDDEN, "permission-denied", None)
        }
        Answer::NotFound => return Some(not_found()),
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::TOO_MANY_REQUESTS, "resource-exhausted", retry_after_seconds)
        }
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "internal", None),
        Answer::Unavailable { retry_after_seconds } => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", retry_after_seconds)
        }
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => {
            return None;
        }
    };
    Some(ApiError { retry_after, ..error(status, code, "as a fault asks for") })
}

fn shown(team: &Project, key: &Key) -> Value {
    json!({
        "redactedApiKey": key.redacted, "userId": "user-sandbox", "name": key.name, "createTime": time(key.created_at),
        "modifyTime": time(key.updated_at.unwrap_or(key.created_at)), "teamId": team.id, "apiKeyId": key.id,
        "disabled": key.disabled, "expireTime": key.expires_at.map(time), "qps": null, "qpm": null, "tpm": null,
        "aclStrings": ["api-key:model:*", "api-key:endpoint:*"],
    })
}

impl World {
    pub(super) fn execute_xai(
        &mut self,
        call: &Call,
        caller: &Caller,
        presented: &str,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        if call.operation == Operation::CheckTeamKey {
            return self.check_team_key(caller, presented, now);
        }
        if !matches!(caller, Caller::Admin) {
            return Err(unauthorized());
        }
        match call.operation {
            Operation::ListTeamKeys => self.team_page(call, now).map(Outcome::read),
            Operation::CreateTeamKey => self.create_team_key(call, now),
            _ => self.on_team_key(call, now),
        }
    }

    /// A key that is switched off is described all the same, and says so.
    fn check_team_key(
        &mut self,
        caller: &Caller,
        presented: &str,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let off = self
            .place(&super::credential::digest(presented))
            .filter(|place| self.speaks(place.project, Dialect::Xai))
            .filter(|place| self.key_at(*place).is_some_and(|key| key.disabled && key.deletion.is_none()));
        let (place, disabled) = match (caller, off) {
            (Caller::Key(place), _) => (*place, false),
            (_, Some(place)) => (place, true),
            (Caller::Nobody, None) => {
                return Err(error(
                    StatusCode::UNAUTHORIZED,
                    "unauthenticated:no-credentials",
                    "No API key provided",
                ));
            }
            (Caller::Admin | Caller::Unknown, None) => return Err(incorrect(presented)),
        };
        let key = self.key_at(place).ok_or_else(not_found)?;
        let body = json!({
            "redacted_api_key": key.redacted, "user_id": "user-sandbox", "name": key.name, "create_time": time(key.created_at),
            "modify_time": time(key.created_at), "modified_by": "user-sandbox", "team_id": "team", "acls": ["api-key:model:*"],
            "api_key_id": key.id, "team_blocked": false, "api_key_blocked": false, "api_key_disabled": disabled,
        });
        Ok(if disabled { Outcome::read(body) } else { self.used(place, body, now) })
    }

    fn xai_team(&self, call: &Call) -> Result<usize, ApiError> {
        call.project.as_deref().and_then(|id| self.index_in(Dialect::Xai, id)).ok_or_else(not_found)
    }

    fn team_page(&self, call: &Call, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let index = self.xai_team(call)?;
        let team = self.projects().get(index).ok_or_else(not_found)?;
        let cap = usize::try_from(self.settings(Some(index)).max_page_size.max(1)).unwrap_or(1);
        let size = call.number("pageSize").unwrap_or(10).clamp(1, 100).min(cap);
        let start = match call.pair("paginationToken").filter(|token| !token.is_empty()) {
            None => 0,
            Some(token) => token.parse().map_err(|_| invalid("Invalid paginationToken"))?,
        };
        let keys: Vec<&Key> =
            team.keys.values().filter(|key| listed(key.listed_from, key.deletion, now)).collect();
        let page: Vec<Value> = keys.iter().skip(start).take(size).map(|key| shown(team, key)).collect();
        let mut body = json!({"apiKeys": page});
        if start + size < keys.len() {
            body["paginationToken"] = json!((start + size).to_string());
        }
        Ok(body)
    }

    fn create_team_key(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let index = self.xai_team(call)?;
        let name =
            call.text("name").filter(|name| !name.is_empty()).ok_or_else(|| invalid("name is required"))?;
        let acls =
            call.json().and_then(|body| body.get("acls")).and_then(Value::as_array).map_or(0, Vec::len);
        if acls == 0 {
            return Err(invalid("A key without ACLs may do nothing"));
        }
        let value = self.mint.team_key();
        let (owner, access) = (Owner::User, OwnerAccess::Active);
        let wanted = NewKey { value: &value, name: name.to_owned(), owner, access, lifetime: None };
        let place = self.add_key(index, wanted, now).ok_or_else(|| lost(Dialect::Xai))?;
        let team = self.projects().get(index).ok_or_else(not_found)?;
        let key = self.key_at(place).ok_or_else(not_found)?;
        let mut body = shown(team, key);
        body["apiKey"] = json!(value.as_str());
        Ok(Outcome::committed(body, Some(key.id.clone()), vec![key.id.clone()]))
    }

    fn on_team_key(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let id = call.object.clone().unwrap_or_default();
        let place = self.key_by_id(Dialect::Xai, &id).ok_or_else(not_found)?;
        if self.key_at(place).is_none_or(|key| key.deletion.is_some()) {
            return Err(not_found());
        }
        match call.operation {
            Operation::DeleteTeamKey => {
                self.delete_key(place, now);
                Ok(Outcome::committed(json!({}), None, vec![id]))
            }
            Operation::GetPropagation => Ok(Outcome::read(self.propagation(place, now)?)),
            _ => {
                let body = call.json().ok_or_else(|| invalid("apiKey is required"))?;
                if body.get("fieldMask").and_then(Value::as_str) != Some("disabled") {
                    return Err(invalid("fieldMask: the sandbox changes disabled only"));
                }
                let wanted = body.get("apiKey").and_then(|key| key.get("disabled")).and_then(Value::as_bool);
                let wanted = wanted.ok_or_else(|| invalid("apiKey.disabled is required"))?;
                let key = self.key_mut(place).ok_or_else(not_found)?;
                key.disabled = wanted;
                key.updated_at = Some(now);
                let team = self.projects().get(place.project).ok_or_else(not_found)?;
                let body = shown(team, self.key_at(place).ok_or_else(not_found)?);
                Ok(Outcome::committed(body, None, vec![id]))
            }
        }
    }

    /// One cluster has every key at once, the other one after the lag.
    fn propagation(&self, place: KeyPlace, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let lag = self.settings(Some(place.project)).propagation_lag_millis;
        let key = self.key_at(place).ok_or_else(not_found)?;
        let there = key.created_at + TimeDelta::milliseconds(i64::from(lag)) <= now;
        Ok(json!({"icPropagation": {"us-east-1": true, "eu-west-1": there}}))
    }
}
