//! What the APIs of Anthropic, xAI and Mistral have in common here: who calls, and what of it is theirs.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, Method, StatusCode},
    routing::MethodRouter,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    Sandbox, anthropic,
    backend::Backend,
    call::{Call, Input, Outcome, Subject},
    credential::{Credential, Mint, digest},
    mistral,
    operation::{Dialect, Operation},
    records::{Key, KeyPlace},
    routes::{BodyInput, Shared},
    wire::ApiError,
    world::{Verdict, World},
    xai,
};

/// The credentials that manage keys at these APIs.
pub(super) struct Officers {
    console: Zeroizing<String>,
    team: Zeroizing<String>,
    workspace: Zeroizing<String>,
}

impl Officers {
    /// New ones.
    pub(super) fn new(mint: &mut Mint) -> Self {
        Self {
            console: mint.key("sk-ant-admin01-"),
            team: mint.key("xai-token-"),
            workspace: mint.workspace_key(),
        }
    }
}

impl Sandbox {
    /// Anthropic's Admin API key.
    pub fn console_key(&self) -> &str {
        &self.officers.console
    }

    /// xAI's management key.
    pub fn team_manager(&self) -> &str {
        &self.officers.team
    }

    /// Mistral's Admin API key.
    pub fn workspace_admin(&self) -> &str {
        &self.officers.workspace
    }

    /// Base URL of one of the APIs of Anthropic (`anthropic`), xAI (`xai/data/v1`, `xai/management`) or Mistral (`mistral/data`,
    /// `mistral/admin`).
    pub fn url_of(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// Makes a workspace at Anthropic and returns its id; wherever a project is asked for, it is one.
    pub fn create_console_workspace(&self, name: &str) -> String {
        self.handle.create_place(Dialect::Anthropic, name)
    }

    /// Makes a team at xAI and returns its id; wherever a project is asked for, it is one.
    pub fn create_xai_team(&self, name: &str) -> String {
        self.handle.create_place(Dialect::Xai, name)
    }

    /// Makes a workspace at Mistral and returns its id; wherever a project is asked for, it is one.
    pub fn create_mistral_workspace(&self, name: &str) -> String {
        self.handle.create_place(Dialect::Mistral, name)
    }
}

/// Who calls one of these APIs.
pub(super) enum Caller {
    /// With the credential that manages keys there.
    Admin,
    /// With a key of that API.
    Key(KeyPlace),
    /// With something else.
    Unknown,
    /// With nothing.
    Nobody,
}

/// Where a request's credential stands.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A bearer token.
    Bearer,
    /// A header of its own, and if that is missing a bearer token.
    ApiKeyHeader,
}

/// The routes of the three.
pub(super) fn api() -> Router<Arc<Backend>> {
    anthropic::api().merge(xai::api()).merge(mistral::api())
}

/// A route's handler: what is in the path names a place, an object, or nothing.
pub(super) fn on(
    method: &Method,
    operation: Operation,
    place: Place,
    names: Names,
) -> MethodRouter<Arc<Backend>> {
    let handler = async move |State(backend): Shared,
                              path: Option<Path<String>>,
                              headers: HeaderMap,
                              RawQuery(query): RawQuery,
                              bytes: BodyInput| {
        let of_path = path.map(|Path(of_path)| of_path);
        let (project, object) = match names {
            Names::Nothing => (None, None),
            Names::Place => (of_path, None),
            Names::Object => (None, of_path),
        };
        let input = input(&bytes, query.as_deref());
        let call = Call { operation, project, object, input };
        backend.answer(call, credential(&headers, place)).await
    };
    match *method {
        Method::POST => axum::routing::post(handler),
        Method::PUT => axum::routing::put(handler),
        Method::DELETE => axum::routing::delete(handler),
        _ => axum::routing::get(handler),
    }
}

/// What a path names.
#[derive(Clone, Copy)]
pub(super) enum Names {
    /// Nothing.
    Nothing,
    /// A workspace or team.
    Place,
    /// A key.
    Object,
}

fn credential(headers: &HeaderMap, place: Place) -> Credential {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (place, text("x-api-key")) {
        (Place::ApiKeyHeader, Some(key)) => Credential::of_key(key),
        _ => Credential::from_header(text("authorization")),
    }
}

/// The body, if there is one, else the query's pairs. What cannot be read has a status only: each API words it by itself.
fn input(bytes: &BodyInput, query: Option<&str>) -> Result<Input, ApiError> {
    let unreadable = || ApiError::bad_request("", "The request cannot be read.");
    let bytes = bytes.as_ref().map_err(|_| unreadable())?;
    if !bytes.is_empty() {
        return serde_json::from_slice(bytes).map(Input::Json).map_err(|_| unreadable());
    }
    let url = reqwest::Url::parse(&format!("http://sandbox.invalid/?{}", query.unwrap_or_default()));
    let url = url.map_err(|_| unreadable())?;
    Ok(Input::Pairs(url.query_pairs().into_owned().collect()))
}

impl Call {
    /// A value of the query.
    pub(super) fn pair(&self, name: &str) -> Option<&str> {
        let Ok(Input::Pairs(pairs)) = &self.input else { return None };
        pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A number of the query.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.pair(name).and_then(|value| value.parse().ok())
    }

    /// The body.
    pub(super) fn json(&self) -> Option<&Value> {
        if let Ok(Input::Json(body)) = &self.input { Some(body) } else { None }
    }

    /// A text of the body.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.json()?.get(name)?.as_str()
    }
}

impl World {
    /// Lets them manage keys, each at its API.
    pub(super) fn appoint(&mut self, officers: &Officers) {
        let Officers { console, team, workspace } = officers;
        let of = [(console, Dialect::Anthropic), (team, Dialect::Xai), (workspace, Dialect::Mistral)];
        self.officers.extend(of.map(|(key, dialect)| (digest(key), dialect)));
    }

    /// Makes a workspace of Anthropic's or Mistral's, or a team of xAI's, and returns its id.
    pub(super) fn add_place(&mut self, dialect: Dialect, name: &str, now: DateTime<Utc>) -> String {
        let id = if dialect == Dialect::Anthropic { self.mint.id("wrkspc_") } else { self.mint.uuid() };
        self.add(id, dialect, name, now)
    }

    /// What a call of one of these APIs that manages keys is about; none if it is another API's.
    pub(super) fn keyed_subject(&self, call: &Call) -> Option<Subject> {
        let field = match call.operation.dialect() {
            Dialect::Anthropic | Dialect::Xai => None,
            Dialect::Mistral => call.text("workspace_uuid"),
            _ => return None,
        };
        let place = call.object.as_deref().and_then(|id| self.key_by_id(call.operation.dialect(), id));
        let of_place = place.and_then(|place| self.projects().get(place.project)).map(|p| p.id.clone());
        let named = field.or_else(|| call.pair("workspace_id")).or_else(|| call.pair("workspace_ids[]"));
        let project = call.project.clone().or(of_place).or_else(|| named.map(str::to_owned));
        let name = call.text("name").map(str::to_owned);
        let name = name.or_else(|| Some(self.key_at(place?)?.name.clone()));
        Some(Subject { project, name, object: call.object.clone() })
    }

    /// Does what a call of one of these APIs asks for; none if it is another API's.
    pub(super) fn execute_keyed(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Option<Outcome> {
        let dialect = call.operation.dialect();
        let caller = match credential {
            Credential::Missing => Caller::Nobody,
            Credential::Bearer(presented) => match self.judge(presented, now) {
                Verdict::Admin(of) if of == dialect => Caller::Admin,
                Verdict::Key(place) if self.speaks(place.project, dialect) => Caller::Key(place),
                _ => Caller::Unknown,
            },
        };
        let shown = match credential {
            Credential::Missing => "",
            Credential::Bearer(presented) => presented.value.as_str(),
        };
        let done = match dialect {
            Dialect::Anthropic => self.execute_anthropic(call, &caller, now),
            Dialect::Xai => self.execute_xai(call, &caller, shown, now),
            Dialect::Mistral => self.execute_mistral(call, &caller, now),
            _ => return None,
        };
        Some(done.unwrap_or_else(Outcome::from))
    }

    /// Where the key with this id is, deleted or not, in any place of the API's.
    pub(super) fn key_by_id(&self, dialect: Dialect, id: &str) -> Option<KeyPlace> {
        let mut places = self.projects().iter().enumerate().filter(|(_, project)| project.dialect == dialect);
        places.find_map(|(index, project)| Some(KeyPlace { project: index, ordinal: project.ordinal(id)? }))
    }

    /// A key that was used, for the log.
    pub(super) fn used(&mut self, place: KeyPlace, body: Value, now: DateTime<Utc>) -> Outcome {
        self.touch(place, now);
        let keys = self.key_at(place).map(|key: &Key| key.id.clone()).into_iter().collect();
        Outcome::committed(body, None, keys)
    }
}

/// A time as these APIs write it.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// 500 for a state that cannot be.
pub(super) fn lost(dialect: Dialect) -> ApiError {
    ApiError::keyed(dialect, StatusCode::INTERNAL_SERVER_ERROR, "api_error", "Internal error")
}
