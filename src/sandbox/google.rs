//! Google Cloud: the API Keys API, and the call that checks a key.
//!
//! Shapes follow googleapis `google/api/apikeys/v2/*.proto` and the package `google-api-python-client` 2.202 (`apikeys.v2.json`). A Google Cloud project is a project of the [`World`]; a key's id is chosen by who makes it, and its value is kept,
//! since Google shows it again. A deleted key stays, and so does its id.

use axum::http::StatusCode;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    call::{Call, Input, Outcome, Subject},
    credential::Credential,
    fault::Answer,
    operation::{Dialect, Operation},
    records::{Key, KeyPlace, NewKey, Owner, listed},
    settings::OwnerAccess,
    wire::{ApiError, status_of},
    world::{Verdict, World},
};

/// The API that keys must be good for.
const GEMINI: &str = "generativelanguage.googleapis.com";

/// What Google shows again of a key, and what it is good for.
pub(super) struct ApiKey {
    value: Zeroizing<String>,
    /// Good for the Gemini API, and bound to a service account.
    accepted: bool,
}

/// Body of a request to make a key.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateApiKey {
    #[serde(default, rename = "displayName")]
    _display_name: String,
    #[serde(default)]
    restrictions: Restrictions,
    #[serde(default)]
    service_account_email: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Restrictions {
    #[serde(default)]
    api_targets: Vec<ApiTarget>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiTarget {
    service: String,
}

/// Query of a list.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ApiKeyPage {
    #[serde(default)]
    page_size: Option<usize>,
    #[serde(default)]
    page_token: Option<String>,
    #[serde(default)]
    show_deleted: bool,
}

pub(super) fn error(status: StatusCode, word: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::google(status, word, None, message)
}

fn refused(message: &str) -> ApiError {
    ApiError::google(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", Some("API_KEY_INVALID"), message)
}

fn no_key() -> ApiError {
    refused("API key not valid. Please pass a valid API key.")
}

fn gone() -> ApiError {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", "Requested entity was not found.")
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, word, reason, retry_after) = match answer {
        Answer::InvalidApiKey => return Some(no_key()),
        Answer::NotInOrganization => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", None, None),
        Answer::MissingScopes { status } => (status_of(status), "PERMISSION_DENIED", None, None),
        Answer::UnsupportedCountry => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", None, None),
        Answer::NotFound => return Some(gone()),
        Answer::RateLimited { retry_after_seconds } => (
            StatusCode::TOO_MANY_REQUESTS,
            "RESOURCE_EXHAUSTED",
            Some("RATE_LIMIT_EXCEEDED"),
            retry_after_seconds,
        ),
        Answer::InsufficientQuota => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", None, None),
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", None, None),
        Answer::Unavailable { retry_after_seconds } => {
            (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", None, retry_after_seconds)
        }
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => return None,
    };
    Some(ApiError { retry_after, ..ApiError::google(status, word, reason, "It was not done.") })
}

impl World {
    /// Makes a Google Cloud project; its name is its id.
    pub(super) fn add_google_project(&mut self, name: &str, now: DateTime<Utc>) -> String {
        self.add(name.to_owned(), Dialect::Google, name, now)
    }

    /// What a call is about.
    pub(super) fn google_subject(call: &Call) -> Subject {
        Subject { project: call.project.clone(), name: call.object.clone(), object: call.object.clone() }
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_google(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Outcome {
        self.google(call, credential, now).unwrap_or_else(Outcome::from)
    }

    fn google(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        match (call.operation, input) {
            (Operation::ExchangeAssertion | Operation::ExchangeSubject, Input::Grant(form)) => {
                return self.grant_google(call.operation, form, now);
            }
            (Operation::ListGeminiModels, _) => return self.gemini(credential, now),
            _ => {}
        }
        let Credential::Bearer(presented) = credential else {
            return Err(error(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "No credential was sent."));
        };
        self.office.judge(&presented.digest, now)?;
        if call.operation == Operation::Impersonate {
            return self.impersonate(call.object.as_deref(), now);
        }
        if call.operation == Operation::GetOperation {
            return self.operation(call.object.as_deref().unwrap_or_default(), now).map(Outcome::read);
        }
        // Google does not tell strangers whether there is such a project.
        let stranger =
            || error(StatusCode::FORBIDDEN, "PERMISSION_DENIED", "Permission denied on the project.");
        let project =
            call.project.as_deref().and_then(|id| self.index_in(Dialect::Google, id)).ok_or_else(stranger)?;
        match input {
            Input::CreateApiKey(body) => {
                self.create_api_key(project, call.object.as_deref().unwrap_or_default(), body, now)
            }
            Input::ApiKeyPage(query) => self.api_keys(project, query, now).map(Outcome::read),
            _ => self.on_api_key(call, project, now),
        }
    }

    fn gemini(&mut self, credential: &Credential, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let Credential::Bearer(presented) = credential else {
            return Err(error(
                StatusCode::FORBIDDEN,
                "PERMISSION_DENIED",
                "Method doesn't allow unregistered callers.",
            ));
        };
        let Verdict::Key(place) = self.judge(presented, now) else {
            let known = self.place(&presented.digest).and_then(|place| self.key_at(place));
            let fresh = known.is_some_and(|key| key.deletion.is_none() && now < key.accepted_from);
            return Err(if fresh { refused("API key expired. Please renew the API key.") } else { no_key() });
        };
        if !self.speaks(place.project, Dialect::Google) {
            return Err(no_key());
        }
        let kept =
            self.projects().get(place.project).and_then(|project| project.api_keys.get(&place.ordinal));
        if kept.is_some_and(|key| !key.accepted) {
            return Err(ApiError::google(
                StatusCode::FORBIDDEN,
                "PERMISSION_DENIED",
                Some("API_KEY_SERVICE_BLOCKED"),
                "Requests to this API are blocked.",
            ));
        }
        self.touch(place, now);
        let keys = self.key_at(place).map(|key| key.id.clone()).into_iter().collect();
        let model = json!({"name": "models/gemini-2.5-flash", "displayName": "Gemini 2.5 Flash"});
        Ok(Outcome::committed(json!({"models": [model], "nextPageToken": "x"}), None, keys))
    }

    fn create_api_key(
        &mut self,
        project: usize,
        id: &str,
        body: &CreateApiKey,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let plain = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let ends = id.starts_with(|c: char| c.is_ascii_lowercase()) && !id.ends_with('-');
        if !plain || !ends || id.len() > 63 {
            return Err(error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "keyId is not valid."));
        }
        if self.projects().get(project).is_some_and(|project| project.ordinal(id).is_some()) {
            return Err(error(StatusCode::CONFLICT, "ALREADY_EXISTS", "Requested entity already exists."));
        }
        let value = self.mint.google_key();
        let new = NewKey {
            value: &value,
            name: id.to_owned(),
            owner: Owner::User,
            access: OwnerAccess::Active,
            lifetime: None,
        };
        let place = self.add_key(project, new, now).ok_or_else(gone)?;
        let restricted = body.restrictions.api_targets.iter().any(|target| target.service == GEMINI);
        let accepted = restricted && body.service_account_email.is_some();
        if let Some(keys) = self.api_keys_mut(project) {
            keys.insert(place.ordinal, ApiKey { value, accepted });
        }
        let answer = self.operation(&format!("akmc.{project}-{}", place.ordinal), now)?;
        Ok(Outcome::committed(answer, Some(id.to_owned()), vec![id.to_owned()]))
    }

    /// An operation by its name: what it does is done at once, and told later.
    fn operation(&self, name: &str, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let place = name.split_once('.').and_then(|(kind, place)| {
            let (project, ordinal) = place.split_once('-')?;
            Some((kind, KeyPlace { project: project.parse().ok()?, ordinal: ordinal.parse().ok()? }))
        });
        let (kind, place) = place.ok_or_else(gone)?;
        let key = self.key_at(place).ok_or_else(gone)?;
        let lag = TimeDelta::milliseconds(self.settings(Some(place.project)).operation_lag_millis.into());
        let begun =
            if kind == "akmd" { key.deletion.map_or(key.created_at, |it| it.at) } else { key.created_at };
        let name = format!("operations/{name}");
        if now < begun + lag {
            return Ok(json!({"name": name}));
        }
        let mut response = shown(key);
        response["@type"] = Value::from("type.googleapis.com/google.api.apikeys.v2.Key");
        Ok(json!({"name": name, "done": true, "response": response}))
    }

    fn api_keys(&self, project: usize, query: &ApiKeyPage, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let cap = self.settings(Some(project)).max_page_size.clamp(1, 100);
        let size =
            query.page_size.filter(|size| *size > 0).unwrap_or(100).min(usize::try_from(cap).unwrap_or(1));
        let after: u64 = match query
            .page_token
            .as_deref()
            .map(|token| token.strip_prefix("page/").map(str::parse))
        {
            None => 0,
            Some(Some(Ok(after))) => after,
            Some(_) => {
                return Err(error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "pageToken is not valid."));
            }
        };
        let keys = self.projects().get(project).map(|project| &project.keys).into_iter().flatten();
        let visible = |key: &Key| {
            let deleted = key.deletion.filter(|_| !query.show_deleted);
            listed(key.listed_from, deleted, now)
        };
        let mut found: Vec<_> =
            keys.filter(|(ordinal, key)| **ordinal > after && visible(key)).take(size + 1).collect();
        let more = found.len() > size;
        found.truncate(size);
        let mut answer = json!({});
        if !found.is_empty() {
            answer["keys"] = found.iter().map(|(_, key)| shown(key)).collect();
        }
        if let Some((last, _)) = found.last().filter(|_| more) {
            answer["nextPageToken"] = Value::from(format!("page/{last}"));
        }
        Ok(answer)
    }

    fn on_api_key(&mut self, call: &Call, project: usize, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        let id = call.object.as_deref().unwrap_or_default();
        let of = self.projects().get(project).ok_or_else(gone)?;
        let ordinal = of.ordinal(id).ok_or_else(gone)?;
        let (place, deleted) = (KeyPlace { project, ordinal }, of.live_key(id).is_none());
        let key = self.key_at(place).ok_or_else(gone)?;
        let lag = TimeDelta::milliseconds(self.settings(Some(project)).lookup_lag_millis.into());
        let unseen = now < key.created_at + lag;
        match call.operation {
            Operation::DeleteApiKey if deleted => {
                Err(error(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", "The key is deleted already."))
            }
            Operation::DeleteApiKey => {
                self.delete_key(place, now);
                let answer = self.operation(&format!("akmd.{project}-{ordinal}"), now)?;
                Ok(Outcome::committed(answer, None, vec![id.to_owned()]))
            }
            Operation::UndeleteApiKey => {
                self.undelete(place);
                let answer = self.operation(&format!("akmu.{project}-{ordinal}"), now)?;
                Ok(Outcome::committed(answer, None, vec![id.to_owned()]))
            }
            _ if unseen => Err(gone()),
            Operation::GetKeyString => {
                let kept = of.api_keys.get(&ordinal).filter(|_| !deleted).ok_or_else(gone)?;
                Ok(Outcome::read(json!({"keyString": kept.value.as_str()})))
            }
            _ => Ok(Outcome::read(shown(key))),
        }
    }

    pub(super) fn undelete_by_id(&mut self, project: &str, id: &str) -> Option<()> {
        let project = self.index_in(Dialect::Google, project)?;
        let ordinal = self.projects().get(project)?.ordinal(id)?;
        self.undelete(KeyPlace { project, ordinal });
        Some(())
    }

    fn undelete(&mut self, place: KeyPlace) {
        if let Some(key) = self.key_mut(place) {
            key.deletion = None;
        }
    }
}

fn shown(key: &Key) -> Value {
    let mut shown = json!({
        "name": format!("projects/123456789012/locations/global/keys/{}", key.id), "uid": "b7ff1f9f-8275-410a-94dd-3855ee9b5dd2",
        "displayName": key.name, "createTime": time(key.created_at), "updateTime": time(key.created_at), "etag": "W/\"x\"",
    });
    if let Some(deletion) = key.deletion {
        shown["deleteTime"] = Value::from(time(deletion.at));
    }
    shown
}

pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
