//! OpenRouter's API for keys: calls, what they do, and the JSON of their answers.
//!
//! Shapes follow OpenRouter's `openapi.yaml`. A workspace is a project of the [`World`] without service accounts; a key's id is
//! the SHA-256 of its value.

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    backend::Backend,
    call::{Call, Input, Outcome, Subject},
    credential::{Presented, masked},
    fault::Answer,
    operation::{Dialect, Operation},
    records::{Key, KeyPlace, NewKey, Owner, Project, listed},
    routes::{BodyInput, Shared, body, send},
    settings::OwnerAccess,
    usage::periods,
    wire::{ApiError, status_of},
    world::{Verdict, World},
};

/// Keys on a page; OpenRouter has no parameter for it.
const PAGE: u32 = 100;

/// Query of `GET /keys`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterPage {
    #[serde(default)]
    offset: usize,
    /// Keys that are switched off too. A string in the specification, `true` or `false`.
    #[serde(default)]
    include_disabled: bool,
    /// The default workspace if not said.
    #[serde(default)]
    workspace_id: Option<String>,
}

/// Body of `POST /keys`. What limits spending is accepted without effect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRouterKey {
    name: String,
    #[serde(default)]
    workspace_id: Option<String>,
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
    #[serde(default, rename = "limit")]
    _limit: Option<f64>,
    #[serde(default, rename = "limit_reset")]
    _limit_reset: Option<String>,
    #[serde(default, rename = "include_byok_in_limit")]
    _include_byok: Option<bool>,
    #[serde(default, rename = "creator_user_id")]
    _creator: Option<String>,
}

/// Body of `PATCH /keys/{hash}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateRouterKey {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    disabled: Option<bool>,
    #[serde(default, rename = "limit")]
    _limit: Option<f64>,
    #[serde(default, rename = "limit_reset")]
    _limit_reset: Option<String>,
    #[serde(default, rename = "include_byok_in_limit")]
    _include_byok: Option<bool>,
}

/// The routes.
pub(super) fn api() -> Router<std::sync::Arc<Backend>> {
    Router::new()
        .route("/api/v1/key", get(check_key))
        .route("/api/v1/chat/completions", post(complete))
        .route("/api/v1/keys", get(list_keys).post(create_key))
        .route("/api/v1/keys/{hash}", get(get_key).patch(update_key).delete(delete_key))
        .route("/api/v1/workspaces/{id}", get(get_workspace))
}

async fn check_key(State(backend): Shared, headers: HeaderMap) -> Response {
    send(backend, &headers, Operation::CheckRouterKey, None, None, Ok(Input::Empty)).await
}

async fn complete(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::Completion).map_err(|_| invalid());
    send(backend, &headers, Operation::CompleteRouter, None, None, input).await
}

async fn list_keys(
    State(backend): Shared,
    headers: HeaderMap,
    query: Result<Query<RouterPage>, QueryRejection>,
) -> Response {
    let input = query.map(|Query(page)| Input::RouterPage(page)).map_err(|_| invalid());
    send(backend, &headers, Operation::ListRouterKeys, None, None, input).await
}

async fn create_key(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::RouterKey).map_err(|_| invalid());
    send(backend, &headers, Operation::CreateRouterKey, None, None, input).await
}

async fn get_key(State(backend): Shared, headers: HeaderMap, Path(hash): Path<String>) -> Response {
    send(backend, &headers, Operation::GetRouterKey, None, Some(hash), Ok(Input::Empty)).await
}

async fn update_key(
    State(backend): Shared,
    headers: HeaderMap,
    Path(hash): Path<String>,
    bytes: BodyInput,
) -> Response {
    let input = body(bytes, Input::RouterUpdate).map_err(|_| invalid());
    send(backend, &headers, Operation::UpdateRouterKey, None, Some(hash), input).await
}

async fn delete_key(State(backend): Shared, headers: HeaderMap, Path(hash): Path<String>) -> Response {
    send(backend, &headers, Operation::DeleteRouterKey, None, Some(hash), Ok(Input::Empty)).await
}

async fn get_workspace(State(backend): Shared, headers: HeaderMap, Path(id): Path<String>) -> Response {
    send(backend, &headers, Operation::GetWorkspace, Some(id), None, Ok(Input::Empty)).await
}

fn invalid() -> ApiError {
    ApiError::router(StatusCode::BAD_REQUEST, "Invalid request parameters")
}

fn not_found() -> ApiError {
    ApiError::router(StatusCode::NOT_FOUND, "Resource not found")
}

/// What OpenRouter says to a key that it does not know, has deleted or does not know yet.
fn unknown_key() -> ApiError {
    ApiError::router(StatusCode::UNAUTHORIZED, "User not found.")
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, message, retry_after) = match answer {
        Answer::InvalidApiKey => return Some(unknown_key()),
        Answer::NotInOrganization => (StatusCode::UNAUTHORIZED, "Missing Authentication header", None),
        Answer::MissingScopes { status } => {
            (status_of(status), "Only management keys can perform this operation", None)
        }
        Answer::UnsupportedCountry => (StatusCode::FORBIDDEN, "Forbidden", None),
        Answer::NotFound => return Some(not_found()),
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded", retry_after_seconds)
        }
        Answer::InsufficientQuota => (StatusCode::PAYMENT_REQUIRED, "Insufficient credits", None),
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", None),
        Answer::Unavailable { retry_after_seconds } => {
            (StatusCode::SERVICE_UNAVAILABLE, "Service temporarily unavailable", retry_after_seconds)
        }
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => return None,
    };
    Some(ApiError { retry_after, ..ApiError::router(status, message) })
}

impl World {
    fn default_workspace(&self) -> Option<usize> {
        self.projects().iter().position(|project| project.dialect == Dialect::OpenRouter)
    }

    fn workspace(&self, id: Option<&str>) -> Option<usize> {
        match id {
            Some(id) => self.index_in(Dialect::OpenRouter, id),
            None => self.default_workspace(),
        }
    }

    /// Where the key with this hash is, deleted or not.
    fn router_place(&self, hash: &str) -> Option<KeyPlace> {
        let digest = HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
        self.place(&digest).filter(|place| self.speaks(place.project, Dialect::OpenRouter))
    }

    /// What a call of the management API is about.
    pub(super) fn router_subject(&self, call: &Call) -> Subject {
        let of = |index: Option<usize>| {
            index.and_then(|index| self.projects().get(index)).map(|workspace| workspace.id.clone())
        };
        match &call.input {
            Ok(Input::RouterPage(page)) => {
                let project = of(self.workspace(page.workspace_id.as_deref()));
                Subject { project, ..Subject::default() }
            }
            Ok(Input::RouterKey(new)) => {
                let project = of(self.workspace(new.workspace_id.as_deref()));
                Subject { project, name: Some(new.name.clone()), object: None }
            }
            _ => {
                let place = call.object.as_deref().and_then(|hash| self.router_place(hash));
                let name = place.and_then(|place| self.key_at(place)).map(|key| key.name.clone());
                let project = of(place.map(|place| place.project)).or_else(|| call.project.clone());
                Subject { project, name, object: call.object.clone() }
            }
        }
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_router(
        &mut self,
        call: &Call,
        verdict: Verdict,
        presented: &Presented,
        now: DateTime<Utc>,
    ) -> Outcome {
        let verdict = match verdict {
            Verdict::Key(KeyPlace { project, .. }) | Verdict::Pattern(project)
                if !self.speaks(project, Dialect::OpenRouter) =>
            {
                Verdict::Unknown
            }
            verdict => verdict,
        };
        let data_call = call.operation.is_data_call();
        let completes = call.operation == Operation::CompleteRouter;
        match verdict {
            Verdict::Admin(Dialect::OpenRouter) if completes => {
                ApiError::router(StatusCode::FORBIDDEN, "Management keys cannot call models").into()
            }
            Verdict::Key(place) if completes => self.complete(Some(place), &call.input, now),
            Verdict::Pattern(_) if completes => self.complete(None, &call.input, now),
            Verdict::Admin(Dialect::OpenRouter) if data_call => {
                Outcome::read(checked(&masked(&presented.value), true))
            }
            Verdict::Admin(Dialect::OpenRouter) => self.manage(call, now).unwrap_or_else(Outcome::from),
            Verdict::Key(place) if data_call => {
                self.touch(place, now);
                let keys = self.key_at(place).map(|key| key.id.clone()).into_iter().collect();
                Outcome::committed(checked(&masked(&presented.value), false), None, keys)
            }
            Verdict::Pattern(_) if data_call => {
                Outcome::committed(checked(&masked(&presented.value), false), None, Vec::new())
            }
            Verdict::Key(_) | Verdict::Pattern(_) => {
                let message = "Only management keys can perform this operation";
                ApiError::router(StatusCode::FORBIDDEN, message).into()
            }
            Verdict::Admin(_) | Verdict::Unknown => {
                let known = self.place(&presented.digest).and_then(|place| self.key_at(place));
                if known.is_some_and(|key| key.disabled && key.deletion.is_none()) {
                    // Documented is the status alone; the text is a choice made here.
                    ApiError::router(StatusCode::UNAUTHORIZED, "This API key is disabled.").into()
                } else {
                    unknown_key().into()
                }
            }
        }
    }

    fn manage(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        match (call.operation, input) {
            (Operation::ListRouterKeys, Input::RouterPage(query)) => {
                let index = self.workspace(query.workspace_id.as_deref()).ok_or_else(invalid)?;
                Ok(Outcome::read(self.router_page(index, query, now)))
            }
            (Operation::CreateRouterKey, Input::RouterKey(new)) => self.create_router_key(new, now),
            (Operation::GetWorkspace, _) => {
                let index = self.workspace(call.project.as_deref()).ok_or_else(not_found)?;
                let workspace = self.projects().get(index).ok_or_else(not_found)?;
                Ok(Outcome::read(json!({"data": described(workspace)})))
            }
            _ => self.on_router_key(call, input, now),
        }
    }

    fn on_router_key(&mut self, call: &Call, input: &Input, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let place = call.object.as_deref().and_then(|hash| self.router_place(hash)).ok_or_else(not_found)?;
        let key = self.key_mut(place).filter(|key| key.deletion.is_none()).ok_or_else(not_found)?;
        let id = key.id.clone();
        if call.operation == Operation::DeleteRouterKey {
            self.delete_key(place, now);
            return Ok(Outcome::committed(json!({"deleted": true}), None, vec![id]));
        }
        let changed = if let Input::RouterUpdate(update) = input {
            if update.name.as_deref() == Some("") {
                return Err(invalid());
            }
            key.name = update.name.clone().unwrap_or_else(|| key.name.clone());
            key.disabled = update.disabled.unwrap_or(key.disabled);
            key.updated_at = Some(now);
            true
        } else {
            false
        };
        let workspace = self.projects().get(place.project).ok_or_else(not_found)?;
        let body = json!({"data": shown(workspace, self.key_at(place).ok_or_else(not_found)?, now)});
        Ok(if changed { Outcome::committed(body, None, vec![id]) } else { Outcome::read(body) })
    }

    /// The newest first. There is no total and no mark of the end; what is deleted meanwhile moves the rest up.
    fn router_page(&self, index: usize, query: &RouterPage, now: DateTime<Utc>) -> Value {
        let size = usize::try_from(self.settings(Some(index)).max_page_size.clamp(1, PAGE)).unwrap_or(1);
        let Some(workspace) = self.projects().get(index) else { return json!({"data": []}) };
        let visible = |key: &&Key| {
            listed(key.listed_from, key.deletion, now) && (query.include_disabled || !key.disabled)
        };
        let newest_first = workspace.keys.values().rev().filter(visible);
        let page = newest_first.skip(query.offset).take(size).map(|key| shown(workspace, key, now));
        json!({"data": page.collect::<Vec<Value>>()})
    }

    fn create_router_key(&mut self, new: &CreateRouterKey, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let index = self.workspace(new.workspace_id.as_deref()).ok_or_else(invalid)?;
        if new.name.is_empty() || new.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(invalid());
        }
        let value = self.mint.router_key();
        let wanted = NewKey {
            value: &value,
            name: new.name.clone(),
            owner: Owner::User,
            access: OwnerAccess::Active,
            lifetime: new.expires_at.map(|expiry| expiry - now),
        };
        let place = self.add_key(index, wanted, now).ok_or_else(invalid)?;
        let workspace = self.projects().get(index).ok_or_else(invalid)?;
        let key = self.key_at(place).ok_or_else(invalid)?;
        let body = json!({"data": shown(workspace, key, now), "key": value.as_str()});
        Ok(Outcome::committed(body, Some(key.id.clone()), vec![key.id.clone()]))
    }
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A workspace.
fn described(workspace: &Project) -> Value {
    json!({
        "id": workspace.id, "name": workspace.name, "slug": workspace.name, "description": null,
        "created_at": time(workspace.created_at), "created_by": "user_sandbox", "updated_at": null,
        "default_text_model": null, "default_image_model": null, "default_provider_sort": null,
        "default_guardrail_id": null, "include_byok_in_budgets": false, "io_logging_api_key_ids": null,
        "io_logging_sampling_rate": 1, "is_data_discount_logging_enabled": false,
        "is_observability_broadcast_enabled": false, "is_observability_io_logging_enabled": false,
    })
}

/// A key as the management API shows it, never with its value.
fn shown(workspace: &Project, key: &Key, now: DateTime<Utc>) -> Value {
    let [all, today, week, month] = periods(key, now);
    json!({
        "hash": key.id, "name": key.name, "label": key.redacted, "disabled": key.disabled,
        "limit": null, "limit_remaining": null, "limit_reset": null, "include_byok_in_limit": false,
        "usage": all, "usage_daily": today, "usage_weekly": week, "usage_monthly": month,
        "byok_usage": 0, "byok_usage_daily": 0, "byok_usage_weekly": 0, "byok_usage_monthly": 0,
        "created_at": time(key.created_at), "updated_at": key.updated_at.map(time),
        "expires_at": key.expires_at.map(time), "creator_user_id": "user_sandbox", "external_user": null,
        "workspace_id": workspace.id,
    })
}

/// The answer of `GET /key`.
fn checked(label: &str, management: bool) -> Value {
    json!({"data": {
        "label": label, "limit": null, "limit_remaining": null, "limit_reset": null, "include_byok_in_limit": false,
        "usage": 0, "usage_daily": 0, "usage_weekly": 0, "usage_monthly": 0,
        "byok_usage": 0, "byok_usage_daily": 0, "byok_usage_weekly": 0, "byok_usage_monthly": 0,
        "is_free_tier": false, "is_management_key": management, "is_provisioning_key": management,
        "creator_user_id": "user_sandbox", "expires_at": null,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
    }})
}
