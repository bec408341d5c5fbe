//! Bedrock: IAM's service-specific credentials, the exchange of a token of the cluster at STS, and the call that checks a key.
//!
//! Shapes follow the package `botocore` 1.44.5 (`data/iam`, `data/sts`, `data/bedrock`). An IAM user is a project of the [`World`]; its credentials for
//! Bedrock are the keys. It has two at most, inactive ones too. Which words the real services use beyond codes is unverified.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    aws::{ACCOUNT, ROLE, Signed},
    backend::Backend,
    call::{Call, Input, Outcome, Subject},
    credential::Credential,
    fault::Answer,
    operation::{Dialect, Operation},
    records::{Key, KeyPlace, NewKey, Owner, listed},
    routes::{Shared, send},
    settings::OwnerAccess,
    wire::{ApiError, status_of},
    world::{Verdict, World},
};

/// Credentials of one user for one service.
const MOST: usize = 2;

/// The service that the credentials are for.
const SERVICE: &str = "bedrock.amazonaws.com";

/// A form and how it was signed.
#[derive(Clone)]
pub(super) struct AwsForm {
    fields: BTreeMap<String, String>,
    signed: Signed,
}

impl AwsForm {
    fn get(&self, name: &'static str) -> Result<&str, ApiError> {
        let found = self.fields.get(name).map(String::as_str);
        found.ok_or_else(|| invalid(&format!("Value null at '{name}' failed to satisfy constraint")))
    }
}

fn invalid(message: &str) -> ApiError {
    ApiError::iam(StatusCode::BAD_REQUEST, "ValidationError", message)
}

fn no_entity(what: &str) -> ApiError {
    ApiError::iam(StatusCode::NOT_FOUND, "NoSuchEntity", format!("The {what} cannot be found."))
}

fn refused() -> ApiError {
    ApiError::bedrock(StatusCode::FORBIDDEN, "Authentication failed: Please make sure your API Key is valid.")
}

/// The error that a fault asks for; none for faults that are not an answer of the API.
pub(super) fn of_fault(answer: Answer, operation: Operation) -> Option<ApiError> {
    let (status, code, message, retry_after) = match answer {
        Answer::InvalidApiKey if operation.is_data_call() => return Some(refused()),
        Answer::InvalidApiKey | Answer::NotInOrganization => {
            (StatusCode::FORBIDDEN, "InvalidClientTokenId", "The security token is invalid.", None)
        }
        Answer::MissingScopes { status } => (
            status_of(status),
            "AccessDenied",
            "User: arn:aws:iam::111122223333:user/x is not authorized to perform: bedrock:ListFoundationModels",
            None,
        ),
        Answer::UnsupportedCountry => {
            (StatusCode::FORBIDDEN, "AccessDenied", "Access from this network is denied.", None)
        }
        Answer::NotFound => (StatusCode::NOT_FOUND, "NoSuchEntity", "It cannot be found.", None),
        Answer::RateLimited { retry_after_seconds } if operation.is_data_call() => {
            (StatusCode::TOO_MANY_REQUESTS, "ThrottlingException", "Too many requests", retry_after_seconds)
        }
        Answer::RateLimited { retry_after_seconds } => {
            (StatusCode::BAD_REQUEST, "Throttling", "Rate exceeded", retry_after_seconds)
        }
        Answer::InsufficientQuota => (StatusCode::CONFLICT, "LimitExceeded", "Cannot exceed quota.", None),
        Answer::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceFailure", "It failed.", None),
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
    let error = if operation.is_data_call() {
        ApiError::bedrock(status, message)
    } else {
        ApiError::iam(status, code, message)
    };
    Some(ApiError { retry_after, ..error })
}

/// The routes: what AWS has at three hosts stands below three paths.
pub(super) fn api() -> Router<Arc<Backend>> {
    Router::new()
        .route("/aws/iam/", post(iam))
        .route("/aws/sts/", post(sts))
        .route("/aws/bedrock/foundation-models", get(models))
}

fn fields(body: &Bytes) -> Option<BTreeMap<String, String>> {
    let uri = format!("/?{}", std::str::from_utf8(body).ok()?).parse::<Uri>().ok()?;
    Query::try_from_uri(&uri).ok().map(|Query(fields)| fields)
}

async fn iam(State(backend): Shared, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let fields = fields(&body).unwrap_or_default();
    let field = |name: &str| fields.get(name).cloned();
    let known = match field("Action").as_deref() {
        Some("GetUser") => Some(Operation::GetUser),
        Some("CreateServiceSpecificCredential") => Some(Operation::CreateCredential),
        Some("ListServiceSpecificCredentials") => Some(Operation::ListCredentials),
        Some("UpdateServiceSpecificCredential") => Some(Operation::UpdateCredential),
        Some("DeleteServiceSpecificCredential") => Some(Operation::DeleteCredential),
        _ => None,
    };
    let (project, object) = (field("UserName"), field("ServiceSpecificCredentialId"));
    let versioned = field("Version").as_deref() == Some("2010-05-08");
    let signed = Signed::new(method, &uri, &headers, &body);
    let credential = signed.key_id().map_or(Credential::Missing, Credential::of_key);
    let input = if known.is_some() && versioned {
        Ok(Input::AwsForm(AwsForm { fields, signed }))
    } else {
        Err(ApiError::iam(StatusCode::BAD_REQUEST, "InvalidAction", "Could not find operation"))
    };
    let operation = known.unwrap_or(Operation::GetUser);
    backend
        .answer(
            Call { operation, project: project.map(|name| name.to_ascii_lowercase()), object, input },
            credential,
        )
        .await
}

async fn sts(State(backend): Shared, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let fields = fields(&body).unwrap_or_default();
    let credential =
        fields.get("WebIdentityToken").map_or(Credential::Missing, |token| Credential::of_key(token));
    let asked = fields.get("Action").map(String::as_str) == Some("AssumeRoleWithWebIdentity")
        && fields.get("Version").map(String::as_str) == Some("2011-06-15");
    let signed = Signed::new(method, &uri, &headers, &body);
    let input = if asked {
        Ok(Input::AwsForm(AwsForm { fields, signed }))
    } else {
        Err(ApiError::iam(StatusCode::BAD_REQUEST, "InvalidAction", "Could not find operation"))
    };
    backend
        .answer(Call { operation: Operation::TakeRole, project: None, object: None, input }, credential)
        .await
}

async fn models(State(backend): Shared, headers: HeaderMap) -> Response {
    send(backend, &headers, Operation::ListFoundationModels, None, None, Ok(Input::Empty)).await
}

impl World {
    /// Makes an IAM user. Its name in lower case is its id.
    pub(super) fn add_iam_user(&mut self, name: &str, now: DateTime<Utc>) -> String {
        self.add(name.to_ascii_lowercase(), Dialect::Bedrock, name, now)
    }

    /// What a call is about.
    pub(super) fn bedrock_subject(call: &Call) -> Subject {
        Subject { project: call.project.clone(), name: None, object: call.object.clone() }
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute_bedrock(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Outcome {
        self.at_aws(call, credential, now).unwrap_or_else(Outcome::from)
    }

    fn at_aws(
        &mut self,
        call: &Call,
        credential: &Credential,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let input = call.input.as_ref().map_err(Clone::clone)?;
        if call.operation == Operation::ListFoundationModels {
            let Credential::Bearer(presented) = credential else { return Err(refused()) };
            let Verdict::Key(place) = self.judge(presented, now) else { return Err(refused()) };
            if !self.speaks(place.project, Dialect::Bedrock) {
                return Err(refused());
            }
            self.touch(place, now);
            let keys = self.key_at(place).map(|key| key.id.clone()).into_iter().collect();
            let model = json!({"modelId": "amazon.nova-lite-v1:0", "modelName": "Nova Lite", "providerName": "Amazon"});
            return Ok(Outcome::committed(json!({"modelSummaries": [model]}), None, keys));
        }
        let Input::AwsForm(form) = input else { return Err(invalid("The form cannot be read.")) };
        if call.operation == Operation::TakeRole {
            return self.take_role(form, now);
        }
        self.keyholders.judge(&form.signed, now)?;
        let name = form.get("UserName")?;
        let user =
            self.index_in(Dialect::Bedrock, &name.to_ascii_lowercase()).ok_or_else(|| no_entity("user"))?;
        let object = call.object.as_deref().unwrap_or_default();
        match call.operation {
            Operation::CreateCredential => self.create_credential(user, form, now),
            Operation::ListCredentials => self.credentials(user, form, now).map(Outcome::read),
            Operation::UpdateCredential => {
                let off = match form.get("Status")? {
                    "Active" => false,
                    "Inactive" => true,
                    _ => return Err(invalid("Status must be Active or Inactive.")),
                };
                let place = self.credential_at(user, object)?;
                if let Some(key) = self.key_mut(place) {
                    key.disabled = off;
                    key.updated_at = Some(now);
                }
                Ok(Outcome::committed(answer(form, ""), None, vec![object.to_owned()]))
            }
            Operation::DeleteCredential => {
                let place = self.credential_at(user, object)?;
                self.delete_key(place, now);
                Ok(Outcome::committed(answer(form, ""), None, vec![object.to_owned()]))
            }
            _ => {
                let name = self.projects().get(user).map_or("", |project| &project.name);
                let arn = format!("arn:aws:iam::{ACCOUNT}:user/sandbox/{name}");
                let user = format!("<User>{}{}</User>", element("UserName", name), element("Arn", &arn));
                Ok(Outcome::read(answer(form, &user)))
            }
        }
    }

    fn credential_at(&self, user: usize, id: &str) -> Result<KeyPlace, ApiError> {
        let key = self.projects().get(user).and_then(|project| project.live_key(id));
        key.and_then(|key| self.place(&key.digest))
            .ok_or_else(|| no_entity("service specific credential with that id"))
    }

    fn create_credential(
        &mut self,
        user: usize,
        form: &AwsForm,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        if form.get("ServiceName")? != SERVICE {
            return Err(ApiError::iam(
                StatusCode::NOT_FOUND,
                "NotSupportedService",
                "The service is not supported.",
            ));
        }
        let days = form.fields.get("CredentialAgeDays").map(|days| days.parse::<i64>());
        let lifetime = match days {
            None => None,
            Some(Ok(days)) if (1..=36_600).contains(&days) => Some(TimeDelta::days(days)),
            Some(_) => return Err(invalid("CredentialAgeDays must be from 1 to 36600.")),
        };
        let there = self.projects().get(user).into_iter().flat_map(|project| project.keys.values());
        if there.filter(|key| key.deletion.is_none()).count() >= MOST {
            let message = "Cannot exceed quota for ServiceSpecificCredentialsPerUser: 2";
            return Err(ApiError::iam(StatusCode::CONFLICT, "LimitExceeded", message));
        }
        let value = self.mint.bedrock_key();
        let new = NewKey {
            value: &value,
            name: String::new(),
            owner: Owner::User,
            access: OwnerAccess::Active,
            lifetime,
        };
        let place = self.add_key(user, new, now).ok_or_else(|| no_entity("user"))?;
        let name = form.get("UserName")?;
        let made = self.key_at(place).map(|key| (key.id.clone(), credential(key, name, Some(&value), now)));
        let (id, shown) = made.ok_or_else(|| no_entity("user"))?;
        let shown = format!("<ServiceSpecificCredential>{shown}</ServiceSpecificCredential>");
        Ok(Outcome::committed(answer(form, &shown), Some(id.clone()), vec![id]))
    }

    fn credentials(&self, user: usize, form: &AwsForm, now: DateTime<Utc>) -> Result<Value, ApiError> {
        let most = usize::try_from(self.settings(Some(user)).max_page_size).unwrap_or(1).max(1);
        let from = match form.fields.get("Marker").map(|marker| marker.parse::<u64>()) {
            None => 0,
            Some(Ok(from)) => from,
            Some(Err(_)) => return Err(invalid("The marker is invalid.")),
        };
        let name = form.get("UserName")?;
        let project = self.projects().get(user).ok_or_else(|| no_entity("user"))?;
        let asked = form.fields.get("ServiceName").is_none_or(|service| service == SERVICE);
        let found =
            project.keys.range(from..).filter(|(_, key)| asked && listed(key.listed_from, key.deletion, now));
        let found: Vec<(u64, &Key)> = found.map(|(ordinal, key)| (*ordinal, key)).collect();
        let page = found.iter().take(most);
        let members: Vec<String> =
            page.map(|(_, key)| format!("<member>{}</member>", credential(key, name, None, now))).collect();
        let members = members.concat();
        let end = match found.get(most) {
            Some((next, _)) => {
                format!("<IsTruncated>true</IsTruncated>{}", element("Marker", &next.to_string()))
            }
            None => "<IsTruncated>false</IsTruncated>".to_owned(),
        };
        let list = format!("<ServiceSpecificCredentials>{members}</ServiceSpecificCredentials>{end}");
        Ok(answer(form, &list))
    }

    fn take_role(&mut self, form: &AwsForm, now: DateTime<Utc>) -> Result<Outcome, ApiError> {
        if !form.get("WebIdentityToken")?.starts_with("sandbox-service-account-token") {
            let message = "No OpenIDConnect provider found in your account for the token";
            return Err(ApiError::iam(StatusCode::BAD_REQUEST, "InvalidIdentityToken", message));
        }
        if form.get("RoleArn")? != ROLE || form.get("RoleSessionName")?.is_empty() {
            let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
            return Err(ApiError::iam(StatusCode::FORBIDDEN, "AccessDenied", message));
        }
        let id = self.mint.id("ASIA").to_ascii_uppercase();
        let (secret, token) = (self.mint.key("aws"), self.mint.key("aws-session-"));
        let until = self.keyholders.begin(id.clone(), &secret, &token, now);
        let keys = [
            element("AccessKeyId", &id),
            element("SecretAccessKey", &secret),
            element("SessionToken", &token),
            element("Expiration", &at(until)),
        ];
        let keys = format!("<Credentials>{}</Credentials>", keys.concat());
        Ok(Outcome::committed(answer(form, &keys), None, Vec::new()))
    }
}

/// A credential's elements; with the secret only in the answer that makes it.
fn credential(key: &Key, user: &str, secret: Option<&str>, now: DateTime<Utc>) -> String {
    let over = key.expires_at.is_some_and(|end| end <= now);
    let status = if over {
        "Expired"
    } else if key.disabled {
        "Inactive"
    } else {
        "Active"
    };
    let mut elements = vec![
        element("CreateDate", &at(key.created_at)),
        element("ServiceName", SERVICE),
        element("ServiceCredentialAlias", &format!("{user}-at-{ACCOUNT}")),
        element("ServiceSpecificCredentialId", &key.id),
        element("UserName", user),
        element("Status", status),
    ];
    elements.extend(key.expires_at.map(|end| element("ExpirationDate", &at(end))));
    elements.extend(secret.map(|secret| element("ServiceCredentialSecret", secret)));
    elements.concat()
}

fn at(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escaped(text))
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The document of a success: what an action gives stands in its result; without, there is none.
fn answer(form: &AwsForm, result: &str) -> Value {
    let name = form.fields.get("Action").map_or("", String::as_str);
    let result =
        if result.is_empty() { String::new() } else { format!("<{name}Result>{result}</{name}Result>") };
    let space = if name == "AssumeRoleWithWebIdentity" {
        "https://sts.amazonaws.com/doc/2011-06-15/"
    } else {
        "https://iam.amazonaws.com/doc/2010-05-08/"
    };
    Value::String(format!(
        r#"<{name}Response xmlns="{space}">{result}<ResponseMetadata><RequestId>sandbox</RequestId></ResponseMetadata></{name}Response>"#
    ))
}
