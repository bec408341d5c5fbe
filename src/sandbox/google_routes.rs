//! The routes of Google's APIs: what Google has at several hosts stands below two paths.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    backend::Backend,
    call::{Call, Input},
    credential::Credential,
    google::{ApiKeyPage, CreateApiKey, error},
    google_office::GrantForm,
    operation::Operation,
    routes::{Shared, send},
    wire::ApiError,
};

/// The routes.
pub(super) fn api() -> Router<Arc<Backend>> {
    let keys = "/google/api/v2/projects/{project}/locations/global/keys";
    Router::new()
        .route("/google/api/token", post(by_assertion))
        .route("/google/api/v1/token", post(by_subject))
        .route("/google/api/v1/projects/-/serviceAccounts/{action}", post(impersonate))
        .route(keys, get(list_keys).post(create_key))
        .route(&format!("{keys}/{{key}}"), get(get_key).delete(delete_key).post(undelete_key))
        .route(&format!("{keys}/{{key}}/keyString"), get(key_string))
        .route("/google/api/v2/operations/{operation}", get(operation))
        .route("/google/data/v1beta/models", get(models))
}

#[derive(Deserialize)]
struct KeyPath {
    project: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyId {
    key_id: String,
}

fn bad(message: &str) -> ApiError {
    error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
}

async fn by_assertion(State(backend): Shared, body: Bytes) -> Response {
    grant(backend, Operation::ExchangeAssertion, &body).await
}

async fn by_subject(State(backend): Shared, body: Bytes) -> Response {
    grant(backend, Operation::ExchangeSubject, &body).await
}

async fn grant(backend: Arc<Backend>, operation: Operation, body: &Bytes) -> Response {
    let uri = std::str::from_utf8(body).ok().and_then(|text| format!("/?{text}").parse::<Uri>().ok());
    let form = uri.and_then(|uri| Query::<GrantForm>::try_from_uri(&uri).ok());
    let input = form
        .map(|Query(form)| form)
        .ok_or_else(|| ApiError::no_grant("invalid_request", "Required parameter is missing."));
    let shown = match &input {
        Ok(form) => form.assertion.clone().or_else(|| form.subject_token.clone()),
        Err(_) => None,
    };
    let credential = shown.map_or(Credential::Missing, |shown| Credential::of_key(&shown));
    let input = input.map(Input::Grant);
    backend.answer(Call { operation, project: None, object: None, input }, credential).await
}

async fn impersonate(State(backend): Shared, headers: HeaderMap, Path(action): Path<String>) -> Response {
    let (email, input) = match action.strip_suffix(":generateAccessToken") {
        Some(email) => (email.to_owned(), Ok(Input::Empty)),
        None => (action, Err(bad("Unknown method."))),
    };
    send(backend, &headers, Operation::Impersonate, None, Some(email), input).await
}

async fn list_keys(
    State(backend): Shared,
    headers: HeaderMap,
    Path(project): Path<String>,
    query: Result<Query<ApiKeyPage>, QueryRejection>,
) -> Response {
    let input =
        query.map(|Query(page)| Input::ApiKeyPage(page)).map_err(|_| bad("The query cannot be read."));
    send(backend, &headers, Operation::ListApiKeys, Some(project), None, input).await
}

async fn create_key(
    State(backend): Shared,
    headers: HeaderMap,
    Path(project): Path<String>,
    query: Result<Query<KeyId>, QueryRejection>,
    body: Bytes,
) -> Response {
    let id = query.map(|Query(query)| query.key_id).map_err(|_| bad("keyId is missing."));
    let input = serde_json::from_slice::<CreateApiKey>(&body).map_err(|_| bad("The body cannot be read."));
    let (object, input) = match id {
        Ok(id) => (Some(id), input.map(Input::CreateApiKey)),
        Err(error) => (None, Err(error)),
    };
    send(backend, &headers, Operation::CreateApiKey, Some(project), object, input).await
}

async fn get_key(State(backend): Shared, headers: HeaderMap, Path(path): Path<KeyPath>) -> Response {
    on_key(backend, headers, Operation::GetApiKey, path).await
}

async fn key_string(State(backend): Shared, headers: HeaderMap, Path(path): Path<KeyPath>) -> Response {
    on_key(backend, headers, Operation::GetKeyString, path).await
}

async fn delete_key(State(backend): Shared, headers: HeaderMap, Path(path): Path<KeyPath>) -> Response {
    on_key(backend, headers, Operation::DeleteApiKey, path).await
}

async fn undelete_key(State(backend): Shared, headers: HeaderMap, Path(path): Path<KeyPath>) -> Response {
    let key = path.key.strip_suffix(":undelete").unwrap_or_default().to_owned();
    on_key(backend, headers, Operation::UndeleteApiKey, KeyPath { key, ..path }).await
}

async fn on_key(backend: Arc<Backend>, headers: HeaderMap, operation: Operation, path: KeyPath) -> Response {
    send(backend, &headers, operation, Some(path.project), Some(path.key), Ok(Input::Empty)).await
}

async fn operation(State(backend): Shared, headers: HeaderMap, Path(operation): Path<String>) -> Response {
    send(backend, &headers, Operation::GetOperation, None, Some(operation), Ok(Input::Empty)).await
}

async fn models(State(backend): Shared, headers: HeaderMap) -> Response {
    let key = headers.get("x-goog-api-key").and_then(|value| value.to_str().ok());
    let credential = key.map_or(Credential::Missing, Credential::of_key);
    let operation = Operation::ListGeminiModels;
    let call = Call { operation, project: None, object: None, input: Ok(Input::Empty) };
    backend.answer(call, credential).await
}
