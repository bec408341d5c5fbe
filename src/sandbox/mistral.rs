//! Mistral's APIs: the call that checks a key, and the Admin API for keys.
//!
//! Shapes follow docs.mistral.ai, "Beta Admin Api Keys Endpoints". The deletion is not documented there: a switch of the sandbox decides
//! whether there is one. A workspace is a project of the [`World`] without service accounts.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    backend::Backend,
    call::{Call, Outcome},
    fault::Answer,
    keyed::{Caller, Names, Place, lost, on, time},
    operation::{Dialect, Operation},
    records::{Key, NewKey, Owner, Project, listed},
    settings::OwnerAccess,
    wire::{ApiError, status_of},
    world::World,
};

/// The routes.
pub(super) fn api() -> Router<Arc<Backend>> {
    let at = |method: &Method, operation, names| on(method, operation, Place::ApiKeyHeader, names);
    let keys = at(&Method::GET, Operation::ListWorkspaceKeys, Names::Nothing).merge(at(
        &Method::POST,
        Operation::CreateWorkspaceKey,
        Names::Nothing,
    ));
    Router::new()
        .route("/mistral/data/v1/whoami", on(&Method::GET, Operation::WhoAmI, Place::Bearer, Names::Nothing))
        .route("/mistral/admin/api-keys", keys)
        .route(
            "/mistral/admin/api-keys/{key}",
            at(&Method::DELETE, Operation::DeleteWorkspaceKey, Names::Object),
        )
}

fn error(status: StatusCode, message: &str) -> ApiError {
    ApiError::keyed(Dialect::Mistral, status, "", message)
}

fn unauthorized() -> ApiError {
    error(StatusCode::UNAUTHORIZED, "Unauthorized")
}

fn not_found() -> ApiError {
    error(StatusCode::NOT_FOUND, "Not Found")
}

fn invalid(message: &str) -> ApiError {
    error(StatusCode::UNPROCESSABLE_ENTITY, message)
}

/// The body of a refusal.
pub(super) fn error_body(error: &ApiError) -> Value {
    json!({"detail": error.message})
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, retry_after) = match answer {
        Answer::InvalidApiKey | Answer::NotInOrganization => return Some(unauthorized()),
        Answer::MissingScopes { status } => (status_of(status), None),
        Answer::UnsupportedCountry => (StatusCode::FORBIDDEN, None),
        Answer::NotFound => return Some(not_found()),
        Answer::RateLimited { retry_after_seconds } => (StatusCode::TOO_MANY_REQUESTS, retry_after_seconds),
        Answer::InsufficientQuota => (StatusCode::PAYMENT_REQUIRED, None),
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, None),
        Answer::Unavailable { retry_after_seconds } => (StatusCode::SERVICE_UNAVAILABLE, retry_after_seconds),
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => {
            return None;
        }
    };
    Some(ApiError { retry_after, ..error(status, "as a fault asks for") })
}

fn shown(workspace: &Project, key: &Key) -> Value {
    json!({
        "key_id": key.id, "name": key.name, "hidden_key": key.redacted, "key": null, "workspace_id": workspace.id,
        "workspace_name": workspace.name, "created_at": time(key.created_at), "created_by": null, "expiration_date": null,
        "last_used": null, "product": "API", "can_delete": true, "actions": {},
    })
}

impl World {
    pub(super) fn execute_mistral(
        &mut self,
        call: &Call,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        if call.operation == Operation::WhoAmI {
            let Caller::Key(place) = caller else { return Err(unauthorized()) };
            let key = self.key_at(*place).ok_or_else(unauthorized)?;
            let body =
                json!({"principal": {"principal_type": "user"}, "api_key": {"id": key.id, "name": key.name}});
            return Ok(self.used(*place, body, now));
        }
        if !matches!(caller, Caller::Admin) {
            return Err(unauthorized());
        }
        match call.operation {
            Operation::ListWorkspaceKeys => Ok(Outcome::read(self.organization_page(call, now))),
            Operation::CreateWorkspaceKey => self.create_workspace_key(call, now),
            _ => self.delete_workspace_key(call, now),
        }
    }

    /// The newest first, of all workspaces.
    fn organization_page(&self, call: &Call, now: DateTime<Utc>) -> Value {
        let here = self.projects().iter().filter(|p| p.dialect == Dialect::Mistral);
        let mut keys: Vec<(&Project, &Key)> = here
            .flat_map(|p| {
                let visible = p.keys.values().filter(|key| listed(key.listed_from, key.deletion, now));
                visible.map(move |key| (p, key))
            })
            .collect();
        keys.sort_by(|(_, one), (_, other)| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
        let cap = usize::try_from(self.settings(None).max_page_size.max(1)).unwrap_or(1);
        let limit = call.number("limit").unwrap_or(100).min(cap);
        let offset = call.number("offset").unwrap_or_default();
        let page: Vec<Value> = keys.iter().skip(offset).take(limit).map(|(p, key)| shown(p, key)).collect();
        json!({"keys": page})
    }

    fn create_workspace_key(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let index = call.text("workspace_uuid").and_then(|id| self.index_in(Dialect::Mistral, id));
        let index = index.ok_or_else(|| invalid("workspace_uuid: unknown"))?;
        let value = self.mint.workspace_key();
        let (owner, access) = (Owner::User, OwnerAccess::Active);
        let name = call.text("name").unwrap_or_default().to_owned();
        let wanted = NewKey { value: &value, name, owner, access, lifetime: None };
        let place = self.add_key(index, wanted, now).ok_or_else(|| lost(Dialect::Mistral))?;
        let key = self.key_at(place).ok_or_else(not_found)?;
        let body = json!({
            "key_id": key.id, "key": value.as_str(), "hidden_key": key.redacted, "name": key.name,
            "created_at": time(key.created_at), "expiration_date": null, "actions": {},
        });
        Ok(Outcome::committed(body, Some(key.id.clone()), vec![key.id.clone()]))
    }

    fn delete_workspace_key(&mut self, call: &Call, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let id = call.object.clone().unwrap_or_default();
        let place = self.key_by_id(Dialect::Mistral, &id).ok_or_else(not_found)?;
        if self.settings(Some(place.project)).deletion_is_missing || !self.delete_key(place, now) {
            return Err(not_found());
        }
        Ok(Outcome::committed(json!({"detail": "deleted"}), None, vec![id]))
    }
}
