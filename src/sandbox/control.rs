//! The control API under `/sandbox/`: switches and the log, for tests in other processes.
//!
//! It has a bearer token of its own; no API key and not even the admin key opens it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde::{Deserialize, Serialize};

use super::{
    credential::{Credential, Digest},
    fault::FaultRule,
    log::LogEntry,
    operation::Operation,
    settings::{OwnerAccess, Settings},
    usage::KeyUse,
    view::{self, Handle},
};

type Control = State<Arc<Handle>>;

/// The control API for holders of the token with this digest.
pub(super) fn control(handle: Arc<Handle>, token: Digest) -> Router {
    Router::new()
        .route("/sandbox/log", get(log))
        .route("/sandbox/settings", put(set_settings))
        .route("/sandbox/projects", get(projects).post(create_project))
        .route("/sandbox/workspaces", post(create_workspace))
        .route("/sandbox/teams", post(create_team))
        .route("/sandbox/projects/{project}/settings", put(set_project_settings))
        .route("/sandbox/projects/{project}/archive", post(archive_project))
        .route("/sandbox/projects/{project}/keys", get(keys))
        .route("/sandbox/projects/{project}/keys/{key}/usage", post(note_use))
        .route("/sandbox/keys", post(register_key).delete(withdraw_key))
        .route("/sandbox/accepts", post(accepts))
        .route("/sandbox/patterns", post(accept_pattern))
        .route("/sandbox/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/sandbox/faults/{id}", delete(remove_fault))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(middleware::from_fn(move |request: Request, next: Next| authorize(token, request, next)))
        .with_state(handle)
}

async fn authorize(token: Digest, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // Digests are compared, so the time of the comparison tells nothing about the token.
    if Credential::from_header(header).digest() == Some(&token) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "the control API wants its own bearer token").into_response()
    }
}

fn done_or_missing(done: bool) -> StatusCode {
    if done { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    after: u64,
    project: Option<String>,
    operation: Option<Operation>,
}

#[derive(Serialize)]
struct LogPage {
    entries: Vec<LogEntry>,
    last: u64,
}

async fn log(State(handle): Control, Query(query): Query<LogQuery>) -> Json<LogPage> {
    let state = handle.backend.state();
    let entries = state
        .log
        .after(query.after)
        .filter(|entry| query.operation.is_none_or(|operation| entry.operation == operation))
        .filter(|entry| query.project.is_none() || entry.project == query.project)
        .cloned()
        .collect();
    Json(LogPage { entries, last: state.log.last() })
}

async fn set_settings(State(handle): Control, Json(settings): Json<Settings>) -> StatusCode {
    done_or_missing(handle.set_settings(None, settings))
}

async fn set_project_settings(
    State(handle): Control,
    Path(project): Path<String>,
    Json(settings): Json<Settings>,
) -> StatusCode {
    done_or_missing(handle.set_settings(Some(&project), settings))
}

async fn projects(State(handle): Control) -> Json<Vec<view::ProjectRecord>> {
    Json(handle.projects())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProject {
    name: String,
}

#[derive(Serialize)]
struct Created<T> {
    id: T,
}

async fn create_project(State(handle): Control, Json(body): Json<NewProject>) -> Json<Created<String>> {
    Json(Created { id: handle.create_project(&body.name) })
}

async fn create_workspace(State(handle): Control, Json(body): Json<NewProject>) -> Json<Created<String>> {
    Json(Created { id: handle.create_workspace(&body.name) })
}

async fn create_team(State(handle): Control, Json(body): Json<NewProject>) -> Json<Created<String>> {
    Json(Created { id: handle.create_team(&body.name) })
}

async fn archive_project(State(handle): Control, Path(project): Path<String>) -> StatusCode {
    done_or_missing(handle.archive_project(&project))
}

async fn keys(State(handle): Control, Path(project): Path<String>) -> Json<Vec<view::KeyRecord>> {
    Json(handle.keys(&project))
}

async fn note_use(
    State(handle): Control,
    Path((project, key)): Path<(String, String)>,
    Json(used): Json<KeyUse>,
) -> StatusCode {
    done_or_missing(handle.note_use(&project, &key, used))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuppliedKey {
    value: String,
    project: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    owner_project_access: OwnerAccess,
}

async fn register_key(State(handle): Control, Json(body): Json<SuppliedKey>) -> Response {
    let name = body.name.as_deref().unwrap_or("supplied");
    match handle.register_key(&body.value, &body.project, name, body.owner_project_access) {
        Some(id) => Json(Created { id }).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    value: String,
}

async fn withdraw_key(State(handle): Control, Json(body): Json<Value>) -> StatusCode {
    handle.withdraw_key(&body.value);
    StatusCode::NO_CONTENT
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
}

async fn accepts(State(handle): Control, Json(body): Json<Value>) -> Json<Accepted> {
    Json(Accepted { accepted: handle.accepts(&body.value) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPattern {
    prefix: String,
    project: String,
}

async fn accept_pattern(State(handle): Control, Json(body): Json<NewPattern>) -> StatusCode {
    done_or_missing(handle.accept_pattern(&body.prefix, &body.project))
}

async fn faults(State(handle): Control) -> Response {
    Json(handle.faults()).into_response()
}

async fn add_fault(State(handle): Control, Json(rule): Json<FaultRule>) -> Json<Created<u64>> {
    Json(Created { id: handle.add_fault(rule) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultScope {
    project: Option<String>,
}

async fn clear_faults(State(handle): Control, Query(scope): Query<FaultScope>) -> StatusCode {
    handle.clear_faults(scope.project.as_deref());
    StatusCode::NO_CONTENT
}

async fn remove_fault(State(handle): Control, Path(id): Path<u64>) -> StatusCode {
    done_or_missing(handle.remove_fault(id))
}
