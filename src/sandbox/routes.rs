//! The routes of OpenAI's API, and of the others'.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::Response,
    routing::get,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    azure,
    backend::{Backend, error_response},
    bedrock,
    call::{Call, Input},
    credential::Credential,
    google_routes, keyed, litellm_routes,
    openai::{KeyFilter, PageQuery},
    openrouter,
    operation::Operation,
    usage::UsageQuery,
    wire::ApiError,
};

/// Greatest request body, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

pub(super) type Shared = State<Arc<Backend>>;

/// The API, with its own 404 and 405 bodies.
pub(super) fn api() -> Router<Arc<Backend>> {
    let project = "/v1/organization/projects/{project}";
    let accounts = format!("{project}/service_accounts");
    let account = format!("{accounts}/{{object}}");
    let account_keys = format!("{account}/api_keys");
    let keys = format!("{project}/api_keys");
    let key = format!("{keys}/{{object}}");
    Router::new()
        .route("/v1/models", get(list_models))
        .route("/v1/chat/completions", axum::routing::post(complete))
        .route("/v1/organization/usage/completions", get(completions_usage))
        .route("/v1/organization/usage/embeddings", get(embeddings_usage))
        .route("/v1/organization/costs", get(costs))
        .route("/v1/organization/projects", get(list_projects))
        .route(project, get(get_project))
        .route(&accounts, get(list_accounts).post(create_account))
        .route(&account, get(get_account).delete(delete_account))
        .route(&account_keys, axum::routing::post(create_key))
        .route(&keys, get(list_keys))
        .route(&key, get(get_key).delete(delete_key))
        .merge(openrouter::api())
        .merge(litellm_routes::api())
        .merge(azure::api())
        .merge(google_routes::api())
        .merge(bedrock::api())
        .merge(keyed::api())
        .fallback(unknown_url)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

#[derive(Deserialize)]
struct ProjectPath {
    project: String,
}

#[derive(Deserialize)]
struct ObjectPath {
    project: String,
    object: String,
}

/// All documented query parameters of the lists; which of them a list knows, the handler decides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<u32>,
    after: Option<String>,
    include_archived: Option<bool>,
    owner_project_access: Option<KeyFilter>,
}

type ListInput = Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>;
pub(super) type BodyInput = Result<Bytes, BytesRejection>;

fn page(query: ListInput) -> Result<Input, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("", error.body_text()))?;
    Ok(Input::Page(PageQuery {
        limit: query.limit,
        after: query.after,
        include_archived: query.include_archived.unwrap_or_default(),
        access: query.owner_project_access.unwrap_or_default(),
    }))
}

pub(super) fn body<T: DeserializeOwned>(bytes: BodyInput, wrap: fn(T) -> Input) -> Result<Input, ApiError> {
    let bytes = bytes.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(),
        _ => ApiError::bad_request("", "The request body could not be read."),
    })?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map(wrap).map_err(|error| {
        ApiError::bad_request("", format!("We could not parse the JSON body of your request: {error}."))
    })
}

pub(super) async fn send(
    backend: Arc<Backend>,
    headers: &HeaderMap,
    operation: Operation,
    project: Option<String>,
    object: Option<String>,
    input: Result<Input, ApiError>,
) -> Response {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = Credential::from_header(header);
    backend.answer(Call { operation, project, object, input }, credential).await
}

async fn list_models(State(backend): Shared, headers: HeaderMap) -> Response {
    send(backend, &headers, Operation::ListModels, None, None, Ok(Input::Empty)).await
}

async fn complete(State(backend): Shared, headers: HeaderMap, bytes: BodyInput) -> Response {
    let input = body(bytes, Input::Completion);
    send(backend, &headers, Operation::Complete, None, None, input).await
}

async fn completions_usage(
    State(backend): Shared,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    report(backend, headers, Operation::GetCompletionsUsage, query).await
}

async fn embeddings_usage(State(backend): Shared, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    report(backend, headers, Operation::GetEmbeddingsUsage, query).await
}

async fn costs(State(backend): Shared, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    report(backend, headers, Operation::GetCosts, query).await
}

/// A report belongs to the first project that it is asked about.
async fn report(
    backend: Arc<Backend>,
    headers: HeaderMap,
    operation: Operation,
    query: Option<String>,
) -> Response {
    let query = UsageQuery::parse(query.as_deref().unwrap_or_default());
    let project = query.as_ref().ok().and_then(|query| query.projects.first().cloned());
    send(backend, &headers, operation, project, None, query.map(Input::Usage)).await
}

async fn list_projects(State(backend): Shared, headers: HeaderMap, query: ListInput) -> Response {
    send(backend, &headers, Operation::ListProjects, None, None, page(query)).await
}

async fn get_project(State(backend): Shared, headers: HeaderMap, Path(path): Path<ProjectPath>) -> Response {
    send(backend, &headers, Operation::GetProject, Some(path.project), None, Ok(Input::Empty)).await
}

async fn list_accounts(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<ProjectPath>,
    query: ListInput,
) -> Response {
    send(backend, &headers, Operation::ListServiceAccounts, Some(path.project), None, page(query)).await
}

async fn create_account(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<ProjectPath>,
    bytes: BodyInput,
) -> Response {
    let input = body(bytes, Input::Account);
    send(backend, &headers, Operation::CreateServiceAccount, Some(path.project), None, input).await
}

async fn get_account(State(backend): Shared, headers: HeaderMap, Path(path): Path<ObjectPath>) -> Response {
    on_object(backend, headers, Operation::GetServiceAccount, path).await
}

async fn delete_account(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<ObjectPath>,
) -> Response {
    on_object(backend, headers, Operation::DeleteServiceAccount, path).await
}

async fn create_key(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<ObjectPath>,
    bytes: BodyInput,
) -> Response {
    let input = body(bytes, Input::Key);
    let operation = Operation::CreateServiceAccountKey;
    send(backend, &headers, operation, Some(path.project), Some(path.object), input).await
}

async fn list_keys(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<ProjectPath>,
    query: ListInput,
) -> Response {
    send(backend, &headers, Operation::ListKeys, Some(path.project), None, page(query)).await
}

async fn get_key(State(backend): Shared, headers: HeaderMap, Path(path): Path<ObjectPath>) -> Response {
    on_object(backend, headers, Operation::GetKey, path).await
}

async fn delete_key(State(backend): Shared, headers: HeaderMap, Path(path): Path<ObjectPath>) -> Response {
    on_object(backend, headers, Operation::DeleteKey, path).await
}

async fn on_object(
    backend: Arc<Backend>,
    headers: HeaderMap,
    operation: Operation,
    path: ObjectPath,
) -> Response {
    send(backend, &headers, operation, Some(path.project), Some(path.object), Ok(Input::Empty)).await
}

async fn unknown_url(method: Method, uri: Uri) -> Response {
    error_response(&ApiError::unknown_url(StatusCode::NOT_FOUND, method.as_str(), uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> Response {
    error_response(&ApiError::unknown_url(StatusCode::METHOD_NOT_ALLOWED, method.as_str(), uri.path()))
}
