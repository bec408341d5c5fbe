//! Azure: tokens, the management of an account's two keys, and the call that checks one.
//!
//! Shapes follow `azure-mgmt-cognitiveservices` 14.1 and the identity platform's client credentials grant. An account is a project of
//! the [`World`] whose keys are named after their slots; unlike elsewhere, their values are kept, since Azure shows them again.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    backend::Backend,
    call::{Call, Input, Outcome, Subject},
    credential::{Credential, Digest, digest},
    fault::Answer,
    operation::{Dialect, Operation},
    records::{KeyPlace, NewKey, Owner},
    routes::{Shared, send},
    settings::OwnerAccess,
    wire::{ApiError, status_of},
    world::{Verdict, World},
};

/// The versions that are spoken.
const MANAGEMENT: &str = "2025-09-01";
const DATA: &str = "2024-10-21";

/// The directory and the application that tokens are given to.
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "22222222-2222-4222-8222-222222222222";

/// Any account is in this subscription and group.
const SUBSCRIPTION: &str = "33333333-3333-4333-8333-333333333333";
const GROUP: &str = "sandbox";

/// Where Azure's accounts are, and who may manage them.
pub struct Azure<'a> {
    /// The directory.
    pub tenant: &'static str,
    /// The application.
    pub client: &'static str,
    /// The application's secret.
    pub secret: &'a str,
    /// The subscription of all accounts.
    pub subscription: &'static str,
    /// Their resource group.
    pub group: &'static str,
}

impl<'a> Azure<'a> {
    pub(super) const fn of(secret: &'a str) -> Self {
        Self { tenant: TENANT, client: CLIENT, secret, subscription: SUBSCRIPTION, group: GROUP }
    }
}

/// How long a token is good.
const TOKEN_SECONDS: i64 = 3599;

/// The slots, by the names that the management API takes.
const SLOTS: [&str; 2] = ["Key1", "Key2"];

/// A slot of an account.
pub(super) struct Slot {
    pub(super) ordinal: u64,
    value: Zeroizing<String>,
    /// What is shown in its place until then.
    stale: Option<(Zeroizing<String>, DateTime<Utc>)>,
}

/// Who may ask for tokens, and the tokens.
#[derive(Default)]
pub(super) struct Directory {
    secret: Option<Digest>,
    tokens: BTreeMap<Digest, DateTime<Utc>>,
}

impl Directory {
    pub(super) fn new(secret: &str) -> Self {
        Self { secret: Some(digest(secret)), tokens: BTreeMap::new() }
    }

    /// From now on every token is an expired one.
    pub(super) fn expire(&mut self) {
        self.tokens.values_mut().for_each(|until| *until = DateTime::UNIX_EPOCH);
    }

    fn judge(&self, token: &Digest, now: DateTime<Utc>) -> Result<(), ApiError> {
        match self.tokens.get(token) {
            Some(until) if now < *until => Ok(()),
            Some(_) => Err(error(
                StatusCode::UNAUTHORIZED,
                "ExpiredAuthenticationToken",
                "The access token has expired.",
            )),
            None => Err(error(
                StatusCode::UNAUTHORIZED,
                "InvalidAuthenticationToken",
                "The access token is invalid.",
            )),
        }
    }
}

/// A request for a token.
#[derive(Clone, Deserialize)]
pub(super) struct TokenForm {
    grant_type: String,
    client_id: String,
    scope: String,
    #[serde(default)]
    client_secret: Option<String>,
    #[serde(default)]
    client_assertion_type: Option<String>,
    #[serde(default)]
    client_assertion: Option<String>,
}

/// The slot that is made anew.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RenewSlot {
    #[serde(rename = "keyName")]
    slot: String,
}

fn error(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::azure(status, code, message)
}

fn refused() -> ApiError {
    let message = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active \
                   subscription and use a correct regional API endpoint for your resource.";
    error(StatusCode::UNAUTHORIZED, "401", message)
}

fn no_token(number: u32, kind: &'static str, what: &str) -> ApiError {
    ApiError::no_token(number, kind, what)
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer) -> Option<ApiError> {
    let (status, code, message, retry_after) = match answer {
        Answer::InvalidApiKey => return Some(refused()),
        Answer::NotInOrganization => {
            (StatusCode::UNAUTHORIZED, "PermissionDenied", "The principal lacks the data action.", None)
        }
        Answer::MissingScopes { status } => (
            status_of(status),
            "AuthorizationFailed",
            "The client does not have authorization to perform the action.",
            None,
        ),
        Answer::UnsupportedCountry => {
            (StatusCode::FORBIDDEN, "403", "Access denied due to Virtual Network/Firewall rules.", None)
        }
        Answer::NotFound => (StatusCode::NOT_FOUND, "ResourceNotFound", "The resource was not found.", None),
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::TOO_MANY_REQUESTS, "429", "Too many requests.", retry_after_seconds)
        }
        Answer::InsufficientQuota => (StatusCode::TOO_MANY_REQUESTS, "429", "The quota is used up.", None),
        Answer::InternalError => {
            (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "It failed.", None)
        }
        Answer::Unavailable { retry_after_seconds } => {
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "Try again.", retry_after_seconds)
        }
        Answer::Genuine
        | Answer::Drop
        | Answer::Hang
        | Answer::CutBody
        | Answer::HalfBody
        | Answer::Html { .. } => return None,
    };
    Some(ApiError { retry_after, ..error(status, code, message) })
}

/// The routes: what Azure has at three hosts stands below three paths.
pub(super) fn api() -> Router<Arc<Backend>> {
    let account = "/azure/arm/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices/accounts/{account}";
    Router::new()
        .route("/azure/login/{tenant}/oauth2/v2.0/token", post(token))
        .route(&format!("{account}/listKeys"), post(list_keys))
        .route(&format!("{account}/regenerateKey"), post(renew))
        .route("/azure/data/openai/models", get(models))
}

#[derive(Deserialize)]
struct AccountPath {
    subscription: String,
    group: String,
    account: String,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "api-version")]
    version: Option<String>,
}

impl Version {
    fn is(&self, wanted: &str) -> Result<Input, ApiError> {
        let spoken = self.version.as_deref() == Some(wanted);
        spoken.then_some(Input::Empty).ok_or_else(|| {
            error(
                StatusCode::BAD_REQUEST,
                "MissingApiVersionParameter",
                "The api-version is missing or unknown.",
            )
        })
    }
}

async fn token(State(backend): Shared, Path(tenant): Path<String>, body: Bytes) -> Response {
    let unreadable = || no_token(900_144, "invalid_request", "The request body cannot be read.");
    let text = std::str::from_utf8(&body).ok().and_then(|text| format!("/?{text}").parse::<Uri>().ok());
    let form = text.and_then(|uri| Query::<TokenForm>::try_from_uri(&uri).ok());
    let input = form.map(|Query(form)| form).ok_or_else(unreadable);
    let shown = match &input {
        Ok(form) => form.client_secret.clone().or_else(|| form.client_assertion.clone()),
        Err(_) => None,
    };
    let credential = shown.map_or(Credential::Missing, |shown| Credential::of_key(&shown));
    let input = match (tenant == TENANT, input) {
        (true, input) => input.map(Input::TokenForm),
        (false, _) => Err(no_token(90_002, "invalid_request", "Tenant not found.")),
    };
    backend
        .answer(Call { operation: Operation::RequestToken, project: None, object: None, input }, credential)
        .await
}

async fn list_keys(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<AccountPath>,
    Query(version): Query<Version>,
) -> Response {
    let input = version.is(MANAGEMENT);
    manage(backend, &headers, Operation::ListSlots, &path, None, input).await
}

async fn renew(
    State(backend): Shared,
    headers: HeaderMap,
    Path(path): Path<AccountPath>,
    Query(version): Query<Version>,
    body: Bytes,
) -> Response {
    let unreadable =
        || error(StatusCode::BAD_REQUEST, "InvalidRequestContent", "The request body cannot be read.");
    let read = serde_json::from_slice::<RenewSlot>(&body).map_err(|_| unreadable());
    let slot = read.as_ref().ok().map(|body| body.slot.clone());
    let input = version.is(MANAGEMENT).and(read.map(Input::RenewSlot));
    manage(backend, &headers, Operation::RenewSlot, &path, slot, input).await
}

async fn manage(
    backend: Arc<Backend>,
    headers: &HeaderMap,
    operation: Operation,
    path: &AccountPath,
    object: Option<String>,
    input: Result<Input, ApiError>,
) -> Response {
    // The case of letters means nothing in these paths.
    let known =
        path.subscription.eq_ignore_ascii_case(SUBSCRIPTION) && path.group.eq_ignore_ascii_case(GROUP);
    let project = known.then(|| path.account.to_ascii_lowercase());
    send(backend, headers, operation, project, object, input).await
}

async fn models(State(backend): Shared, headers: HeaderMap, Query(version): Query<Version>) -> Response {
    let key = headers.get("api-key").and_then(|value| value.to_str().ok());
    let credential = key.map_or(Credential::Missing, Credential::of_key);
    let input = version.is(DATA);
    backend
        .answer(
            Call { operation: Operation::ListDeployedModels, project: None, object: None, input },
            credential,
        )
        .await
}

impl World {
    /// Makes an account, with a key in each of its slots. Its name is its id.
    pub(super) fn add_azure_account(&mut self, name: &str, now: DateTime<Utc>) -> String {
        let id = self.add(name.to_ascii_lowercase(), Dialect::Azure, name, now);
        if let Some(project) = self.project_index(&id) {
            for slot in SLOTS {
                self.fill_slot(project, slot, now);
            }
        }
        id
    }

    fn fill_slot(&mut self, project: usize, slot: &str, now: DateTime<Utc>) -> Option<String> {
        let value = self.mint.azure_key();
        let new = NewKey {
            value: &value,
            name: slot.to_owned(),
            owner: Owner::User,
            access: OwnerAccess::Active,
            lifetime: None,
        };
        let place = self.add_key(project, new, now)?;
        let lag = TimeDelta::milliseconds(i64::from(self.settings(Some(project)).lookup_lag_millis));
        let id = self.key_at(place)?.id.clone();
        let slots = self.slots_mut(project)?;
        let before = slots.remove(slot);
        let stale = before.map(|before| (before.value, now + lag));
        slots.insert(slot.to_owned(), Slot { ordinal: place.ordinal, value, stale });
        Some(id)
    }

    /// What a call is about.
    pub(super) fn azure_subject(call: &Call) -> Subject {
        Subject { project: call.project.clone(), name: call.object.clone(), object: None }
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_azure(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Outcome {
        self.azure(call, credential, now).unwrap_or_else(Outcome::from)
    }

    fn azure(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        let Credential::Bearer(presented) = credential else {
            return Err(match call.operation {
                Operation::RequestToken => {
                    no_token(7_000_216, "invalid_request", "A secret or an assertion is required.")
                }
                Operation::ListDeployedModels => refused(),
                _ => error(StatusCode::UNAUTHORIZED, "AuthenticationFailed", "Authentication failed."),
            });
        };
        match (call.operation, input) {
            (Operation::RequestToken, Input::TokenForm(form)) => return self.grant(form, now),
            (Operation::ListDeployedModels, _) => {
                let Verdict::Key(place) = self.judge(presented, now) else { return Err(refused()) };
                if !self.speaks(place.project, Dialect::Azure) {
                    return Err(refused());
                }
                self.touch(place, now);
                let keys = self.key_at(place).map(|key| key.id.clone()).into_iter().collect();
                let model = json!({"id": "gpt-4o", "object": "model", "status": "succeeded", "lifecycle_status": "generally-available"});
                return Ok(Outcome::committed(json!({"object": "list", "data": [model]}), None, keys));
            }
            _ => self.directory.judge(&presented.digest, now)?,
        }
        let gone = || error(StatusCode::NOT_FOUND, "ResourceNotFound", "The account was not found.");
        let name = call.project.as_deref().ok_or_else(gone)?;
        let project = self.index_in(Dialect::Azure, name).ok_or_else(gone)?;
        let Input::RenewSlot(RenewSlot { slot }) = input else {
            return Ok(Outcome::read(self.shown(project, now)));
        };
        let unknown = || error(StatusCode::BAD_REQUEST, "InvalidKeyName", "keyName must be Key1 or Key2.");
        let slot = SLOTS.into_iter().find(|known| known == slot).ok_or_else(unknown)?;
        let (died, made) = self.renew(name, slot, now).ok_or_else(gone)?;
        // The answer has what was made, also where a look is late.
        let answer = self.shown(project, DateTime::<Utc>::MAX_UTC);
        Ok(Outcome::committed(answer, Some(made.clone()), vec![died, made]))
    }

    /// Makes a slot's key anew: the ids of the one before and of the new one.
    pub(super) fn renew(
        &mut self,
        account: &str,
        slot: &str,
        now: DateTime<Utc>,
    ) -> Option<(String, String)> {
        let project = self.index_in(Dialect::Azure, account)?;
        let ordinal = self.slots_mut(project)?.get(slot)?.ordinal;
        let old = KeyPlace { project, ordinal };
        let died = self.key_at(old)?.id.clone();
        self.delete_key(old, now);
        Some((died, self.fill_slot(project, slot, now)?))
    }

    /// What the slots of an account hold.
    pub(super) fn slot_values(&self, account: &str) -> BTreeMap<String, String> {
        let project = self.index_in(Dialect::Azure, account).and_then(|index| self.projects().get(index));
        let slots = project.map(|project| &project.slots).into_iter().flatten();
        slots.map(|(name, slot)| (name.clone(), slot.value.as_str().to_owned())).collect()
    }

    fn shown(&self, project: usize, now: DateTime<Utc>) -> Value {
        let slots = self.projects().get(project).map(|project| &project.slots);
        let value = |name: &str| {
            let slot = slots?.get(name)?;
            let stale = slot.stale.as_ref().filter(|(_, until)| now < *until).map(|(value, _)| value);
            Some(stale.unwrap_or(&slot.value).as_str().to_owned())
        };
        json!({"key1": value("Key1"), "key2": value("Key2")})
    }

    fn grant(&mut self, form: &TokenForm, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        if form.grant_type != "client_credentials" || !form.scope.ends_with("/.default") {
            return Err(no_token(70_011, "invalid_scope", "The scope is not valid."));
        }
        if form.client_id != CLIENT {
            return Err(no_token(
                700_016,
                "unauthorized_client",
                "The application was not found in the directory.",
            ));
        }
        let by_secret =
            form.client_secret.as_deref().is_some_and(|secret| self.directory.secret == Some(digest(secret)));
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let by_assertion = form.client_assertion_type.as_deref() == Some(kind)
            && form
                .client_assertion
                .as_deref()
                .is_some_and(|token| token.starts_with("sandbox-service-account-token"));
        if !by_secret && !by_assertion {
            return Err(no_token(7_000_215, "invalid_client", "Invalid client secret provided."));
        }
        let token = self.mint.key("azure-token-");
        self.directory.tokens.insert(digest(&token), now + TimeDelta::seconds(TOKEN_SECONDS));
        let answer = json!({
            "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "ext_expires_in": TOKEN_SECONDS, "access_token": token.as_str(),
        });
        Ok(Outcome::committed(answer, None, Vec::new()))
    }
}
