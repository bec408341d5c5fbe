//! Anthropic's API: the call that checks a key, and what the Admin API can do with keys that people made.
//!
//! Shapes follow Anthropic's API reference. A workspace is a project of the [`World`] without service accounts; `archived` is a deletion
//! that stays in lists.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};

use super::{
    backend::Backend,
    call::{Call, Outcome},
    fault::Answer,
    keyed::{Caller, Names, Place, lost, on, time},
    operation::{Dialect, Operation},
    records::{Key, Project},
    wire::{ApiError, status_of},
    world::World,
};

/// Days on a page of the report at most.
const DAYS: usize = 31;

/// The routes.
pub(super) fn api() -> Router<Arc<Backend>> {
    let at = |method: &Method, operation, names| on(method, operation, Place::ApiKeyHeader, names);
    let one = at(&Method::GET, Operation::GetConsoleKey, Names::Object).merge(at(
        &Method::POST,
        Operation::UpdateConsoleKey,
        Names::Object,
    ));
    Router::new()
        .route("/anthropic/v1/models", at(&Method::GET, Operation::ListClaudeModels, Names::Nothing))
        .route(
            "/anthropic/v1/organizations/api_keys",
            at(&Method::GET, Operation::ListConsoleKeys, Names::Nothing),
        )
        .route("/anthropic/v1/organizations/api_keys/{key}", one)
        .route(
            "/anthropic/v1/organizations/usage_report/messages",
            at(&Method::GET, Operation::GetMessagesUsage, Names::Nothing),
        )
}

fn error(status: StatusCode, kind: &'static str, message: &str) -> ApiError {
    ApiError::keyed(Dialect::Anthropic, status, kind, message)
}

fn unauthorized() -> ApiError {
    error(StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key")
}

fn not_found() -> ApiError {
    error(StatusCode::NOT_FOUND, "not_found_error", "Not found")
}

fn invalid(message: &str) -> ApiError {
    error(StatusCode::BAD_REQUEST, "invalid_request_error", message)
}

/// The body of a refusal.
pub(super) fn error_body(error: &ApiError) -> Value {
    json!({"type": "error", "error": {"type": error.kind, "message": error.message}, "request_id": "req_sandbox"})
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, kind, retry_after) = match answer {
        Answer::InvalidApiKey | Answer::NotInOrganization => return Some(unauthorized()),
        Answer::MissingScopes { status } => (status_of(status), "permission_error", None),
        Answer::UnsupportedCountry => (StatusCode::FORBIDDEN, "permission_error", None),
        Answer::NotFound => return Some(not_found()),
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", retry_after_seconds)
        }
        Answer::InsufficientQuota => (StatusCode::PAYMENT_REQUIRED, "billing_error", None),
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "api_error", None),
        Answer::Unavailable { retry_after_seconds } => {
            (status_of(529), "overloaded_error", retry_after_seconds)
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
    Some(ApiError { retry_after, ..error(status, kind, "as a fault asks for") })
}

/// What the list shows of a value: its first 16 and last 4 characters.
pub(super) fn hint(value: &str) -> String {
    let head: String = value.chars().take(16).collect();
    format!("{head}...{}", super::credential::last_four(value))
}

fn status(key: &Key, now: DateTime<Utc>) -> &'static str {
    if key.deletion.is_some() {
        "archived"
    } else if key.expires_at.is_some_and(|expiry| expiry <= now) {
        "expired"
    } else if key.disabled {
        "inactive"
    } else {
        "active"
    }
}

fn shown(workspace: &Project, key: &Key, now: DateTime<Utc>) -> Value {
    json!({
        "id": key.id, "type": "api_key", "name": key.name, "status": status(key, now), "created_at": time(key.created_at),
        "expires_at": key.expires_at.map(time), "partial_key_hint": key.redacted,
        "created_by": {"type": "user", "id": "user_sandbox"}, "principal": {"type": "user", "id": "user_sandbox"},
        "workspace_id": workspace.id,
    })
}

impl World {
    pub(super) fn execute_anthropic(
        &mut self,
        call: &Call,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        if call.operation == Operation::ListClaudeModels {
            let models = json!({
                "data": [{"type": "model", "id": "claude-sandbox", "display_name": "Sandbox", "created_at": "2026-01-01T00:00:00Z"}],
                "has_more": false, "first_id": "claude-sandbox", "last_id": "claude-sandbox",
            });
            return match caller {
                Caller::Key(place) => Ok(self.used(*place, models, now)),
                Caller::Admin | Caller::Unknown | Caller::Nobody => Err(unauthorized()),
            };
        }
        if !matches!(caller, Caller::Admin) {
            return Err(unauthorized());
        }
        match call.operation {
            Operation::ListConsoleKeys => self.console_page(call, now).map(Outcome::read),
            Operation::GetMessagesUsage => self.messages_page(call, now).map(Outcome::read),
            _ => self.on_console_key(call, now),
        }
    }

    /// The oldest first. What is archived stays.
    fn console_page(&self, call: &Call, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let wanted = call.pair("workspace_id");
        if wanted.is_some_and(|id| self.index_in(Dialect::Anthropic, id).is_none()) {
            return Err(not_found());
        }
        let limit = call.number("limit").unwrap_or(20);
        if !(1..=1000).contains(&limit) {
            return Err(invalid("limit: must be 1 to 1000"));
        }
        let here = self.projects().iter().filter(|p| p.dialect == Dialect::Anthropic);
        let here = here.filter(|p| wanted.is_none_or(|wanted| p.id == wanted));
        let keys: Vec<(&Project, &Key)> = here
            .flat_map(|p| p.keys.values().filter(|k| k.listed_from <= now).map(move |k| (p, k)))
            .collect();
        let start = match call.pair("after_id") {
            None => 0,
            Some(after) => {
                keys.iter()
                    .position(|(_, key)| key.id == after)
                    .ok_or_else(|| invalid("after_id: unknown"))?
                    + 1
            }
        };
        let index = wanted.and_then(|id| self.index_in(Dialect::Anthropic, id));
        let cap = usize::try_from(self.settings(index).max_page_size.max(1)).unwrap_or(1);
        let page: Vec<Value> =
            keys.iter().skip(start).take(limit.min(cap)).map(|(p, key)| shown(p, key, now)).collect();
        let more = start + page.len() < keys.len();
        let id = |key: Option<&Value>| key.map_or(Value::Null, |key| key["id"].clone());
        Ok(json!({"first_id": id(page.first()), "last_id": id(page.last()), "data": page, "has_more": more}))
    }

    fn on_console_key(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let id = call.object.as_deref().unwrap_or_default();
        let place = self.key_by_id(Dialect::Anthropic, id).ok_or_else(not_found)?;
        let updates = call.operation == Operation::UpdateConsoleKey;
        if updates {
            let key = self.key_mut(place).ok_or_else(not_found)?;
            if key.deletion.is_some() {
                return Err(invalid("archived API keys cannot be updated"));
            }
            match call.text("status") {
                Some("active") => key.disabled = false,
                Some("inactive") => key.disabled = true,
                Some("archived") => {
                    self.delete_key(place, now);
                }
                Some(_) => return Err(invalid("status: must be active, inactive or archived")),
                None => {}
            }
        }
        let project = self.projects().get(place.project).ok_or_else(|| lost(Dialect::Anthropic))?;
        let body = shown(project, self.key_at(place).ok_or_else(|| lost(Dialect::Anthropic))?, now);
        Ok(if updates { Outcome::committed(body, None, vec![id.to_owned()]) } else { Outcome::read(body) })
    }

    /// By the day and by key, as the operator asks for it.
    fn messages_page(&self, call: &Call, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let start = call.pair("starting_at").and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let first = start.ok_or_else(|| invalid("starting_at: required"))?.date_naive();
        if call.pair("bucket_width") != Some("1d") || call.pair("group_by[]") != Some("api_key_id") {
            return Err(invalid("the sandbox reports by the day and by key only"));
        }
        let limit = call.number("limit").unwrap_or(7);
        if !(1..=DAYS).contains(&limit) {
            return Err(invalid("limit: must be 1 to 31"));
        }
        let skipped =
            call.pair("page").map_or(Ok(0), |page| page.parse().map_err(|_| invalid("page: unknown")))?;
        let today = now.date_naive();
        let mut days = first.iter_days().take_while(|day| *day <= today).skip(skipped);
        let page: Vec<Value> = days
            .by_ref()
            .take(limit)
            .map(|day| self.messages_of(call.pair("workspace_ids[]"), day))
            .collect();
        let more = days.next().is_some();
        let next = more.then(|| (skipped + limit).to_string());
        Ok(json!({"data": page, "has_more": more, "next_page": next}))
    }

    fn messages_of(&self, workspace: Option<&str>, day: NaiveDate) -> Value {
        let here = self.projects().iter().filter(|p| p.dialect == Dialect::Anthropic);
        let here = here.filter(|p| workspace.is_none_or(|wanted| p.id == wanted));
        let results: Vec<Value> = here
            .flat_map(|project| project.keys.values())
            .filter_map(|key| {
                let (input, output) = key.uses.tokens_on(day)?;
                Some(json!({
                    "uncached_input_tokens": input, "cache_read_input_tokens": 0,
                    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                    "output_tokens": output, "server_tool_use": {"web_search_requests": 0}, "api_key_id": key.id,
                    "workspace_id": null, "model": null, "service_tier": null, "context_window": null,
                    "account_id": null, "service_account_id": null, "inference_geo": null,
                }))
            })
            .collect();
        let begins = |day: NaiveDate| time(day.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc());
        let ends = day.succ_opt().unwrap_or(day);
        json!({"starting_at": begins(day), "ending_at": begins(ends), "results": results})
    }
}
