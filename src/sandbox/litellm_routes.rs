//! The routes of a LiteLLM proxy's API for keys.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    backend::Backend,
    call::Input,
    litellm::{BlockKey, ProxyPage, error, hash_of, invalid},
    operation::Operation,
    routes::{BodyInput, Shared, body, send},
};

#[derive(Deserialize)]
struct InfoQuery {
    key: Option<String>,
}

#[derive(Deserialize)]
struct TeamQuery {
    team_id: String,
}

/// The routes. The proxy is not at the root: it may be told to live below a path.
pub(super) fn api() -> Router<Arc<Backend>> {
    Router::new()
        .route("/proxy/key/generate", post(generate_key))
        .route("/proxy/key/info", get(key_info))
        .route("/proxy/key/list", get(list_keys))
        .route("/proxy/key/delete", post(delete_keys))
        .route("/proxy/key/block", post(block_key))
        .route("/proxy/key/unblock", post(unblock_key))
        .route("/proxy/team/info", get(team_info))
        .route("/proxy/v1/models", get(list_models))
        .route("/proxy/v1/chat/completions", post(complete))
}

async fn generate_key(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::GenerateKey).map_err(|_| invalid("the body cannot be read"));
    send(backend, &headers, Operation::GenerateProxyKey, None, None, input).await
}

/// Without a key in the query, the caller asks about itself.
async fn key_info(
    State(backend): Shared,
    headers: HeaderMap,
    query: Result<Query<InfoQuery>, QueryRejection>,
) -> Response {
    let key = query.ok().and_then(|Query(query)| query.key);
    let operation = if key.is_some() { Operation::LookUpProxyKey } else { Operation::CheckProxyKey };
    send(backend, &headers, operation, None, key.map(hash_of), Ok(Input::Empty)).await
}

async fn list_keys(
    State(backend): Shared,
    headers: HeaderMap,
    query: Result<Query<ProxyPage>, QueryRejection>,
) -> Response {
    let input = query.map(|Query(page)| Input::ProxyPage(page)).map_err(|_| {
        error(StatusCode::UNPROCESSABLE_ENTITY, "bad_request_error", "the query cannot be read")
    });
    send(backend, &headers, Operation::ListProxyKeys, None, None, input).await
}

async fn delete_keys(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::DeleteKeys).map_err(|_| invalid("the body cannot be read"));
    let object = match &input {
        Ok(Input::DeleteKeys(body)) => body.keys.first().cloned().map(hash_of),
        _ => None,
    };
    send(backend, &headers, Operation::DeleteProxyKeys, None, object, input).await
}

async fn block_key(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    switch(backend, headers, bytes, true).await
}

async fn unblock_key(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    switch(backend, headers, bytes, false).await
}

async fn switch(backend: Arc<Backend>, headers: HeaderMap, bytes: BodyInput, on: bool) -> Response {
    let input = body(bytes, Input::BlockKey).map_err(|_| invalid("the body cannot be read"));
    let (object, input) = match input {
        Ok(Input::BlockKey(body)) => {
            (Some(hash_of(body.key.clone())), Ok(Input::BlockKey(BlockKey { on, ..body })))
        }
        other => (None, other),
    };
    send(backend, &headers, Operation::BlockProxyKey, None, object, input).await
}

async fn team_info(
    State(backend): Shared,
    headers: HeaderMap,
    query: Result<Query<TeamQuery>, QueryRejection>,
) -> Response {
    let team = query.ok().map(|Query(query)| query.team_id);
    send(backend, &headers, Operation::GetTeam, team, None, Ok(Input::Empty)).await
}

async fn complete(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::Completion).map_err(|_| invalid("the body cannot be read"));
    send(backend, &headers, Operation::CompleteProxy, None, None, input).await
}

async fn list_models(State(backend): Shared, headers: HeaderMap) -> Response {
    send(backend, &headers, Operation::ListProxyModels, None, None, Ok(Input::Empty)).await
}
