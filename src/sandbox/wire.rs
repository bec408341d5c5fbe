//! The JSON that goes over the wire: only fields that OpenAI documents, in OpenAI's envelopes. Others' are in `openrouter` and `litellm`.
//!
//! Shapes follow the `OpenAPI` description of OpenAI's API (`openai/openai-openapi`) and the types of the
//! official Python client, `openai` 3.54.0, where that is newer.

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    anthropic, bedrock, credential,
    fault::Answer,
    mistral,
    operation::Dialect,
    records::{Account, Key, Owner, Project},
    xai,
};

/// A refusal with OpenAI's documented body `{"error": {message, type, param, code}}`, or OpenRouter's
/// `{"error": {code, message}}`, or LiteLLM's, which is as OpenAI's with the status as the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    /// Whose form the body has.
    pub(super) dialect: Dialect,
    /// HTTP status.
    pub(super) status: StatusCode,
    /// Text for people.
    pub(super) message: String,
    /// `error.type`.
    pub(super) kind: &'static str,
    /// `error.param`: the parameter at fault.
    pub(super) param: Option<String>,
    /// `error.code`.
    pub(super) code: Option<&'static str>,
    /// `Retry-After` in seconds.
    pub(super) retry_after: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let (dialect, message) = (Dialect::OpenAI, message.into());
        Self { dialect, status, message, kind, param: None, code: None, retry_after: None }
    }

    /// A refusal in OpenRouter's form.
    pub(super) fn router(status: StatusCode, message: impl Into<String>) -> Self {
        Self { dialect: Dialect::OpenRouter, ..Self::new(status, "", message) }
    }

    /// A refusal in the form of Azure's APIs.
    pub(super) fn azure(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { dialect: Dialect::Azure, ..Self::new(status, "", message) }.code(code)
    }

    /// A refusal of a token, with the number by which people look it up.
    pub(super) fn no_token(number: u32, kind: &'static str, what: &str) -> Self {
        let status =
            if kind == "invalid_client" { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
        let message = format!("AADSTS{number}: {what}");
        Self { dialect: Dialect::Azure, param: Some(number.to_string()), ..Self::new(status, kind, message) }
    }

    /// A refusal in the form of Google's APIs.
    pub(super) fn google(
        status: StatusCode,
        word: &'static str,
        reason: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self { dialect: Dialect::Google, code: reason, ..Self::new(status, word, message) }
    }

    /// A refusal of a token of Google's.
    pub(super) fn no_grant(kind: &'static str, what: &str) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, kind, what);
        Self { dialect: Dialect::Google, param: Some(String::new()), ..error }
    }

    /// A refusal in the form of AWS's Query protocol.
    pub(super) fn iam(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { dialect: Dialect::Bedrock, ..Self::new(status, "Sender", message) }.code(code)
    }

    /// A refusal in Bedrock's own form.
    pub(super) fn bedrock(status: StatusCode, message: impl Into<String>) -> Self {
        Self { dialect: Dialect::Bedrock, ..Self::new(status, "", message) }
    }

    /// A refusal in the form of Anthropic's, xAI's or Mistral's API.
    pub(super) fn keyed(
        dialect: Dialect,
        status: StatusCode,
        kind: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { dialect, ..Self::new(status, kind, message) }
    }

    /// A refusal in LiteLLM's form.
    pub(super) fn proxy(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { dialect: Dialect::LiteLLM, ..Self::new(status, kind, message) }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// 401 without an `Authorization` header.
    pub(super) fn missing_credential() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            "You didn't provide an API key. You need to provide your API key in an Authorization header using \
             Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) \
             if you're accessing the API from your browser and are prompted for a username and password. You \
             can obtain an API key from https://platform.openai.com/account/api-keys.",
        )
    }

    /// 401 for a key that is wrong, deleted, expired or not yet known. Echoes both ends of the key.
    pub(super) fn invalid_key(value: &str) -> Self {
        let masked = credential::masked(value);
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            format!(
                "Incorrect API key provided: {masked}. You can find your API key at \
                 https://platform.openai.com/account/api-keys."
            ),
        )
        .code("invalid_api_key")
    }

    /// A key that is valid but may not do this.
    pub(super) fn missing_scopes(status: StatusCode, scope: &str) -> Self {
        Self::new(
            status,
            "invalid_request_error",
            format!(
                "You have insufficient permissions for this operation. Missing scopes: {scope}. Check that you \
                 have the correct role in your organization (Reader, Writer, Owner) and project (Member, \
                 Owner), and if you're using a restricted API key, that it has the necessary scopes."
            ),
        )
    }

    /// 400 for a parameter.
    pub(super) fn bad_request(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        error.param = (!param.is_empty()).then(|| param.to_owned());
        error
    }

    /// 413.
    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "The request body is too large.")
    }

    /// 404 for an object.
    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", format!("{what} not found."))
    }

    /// 404 or 405 for a URL that the API does not have.
    pub(super) fn unknown_url(status: StatusCode, method: &str, path: &str) -> Self {
        Self::new(status, "invalid_request_error", format!("Invalid URL ({method} {path})"))
    }

    /// The error that a fault asks for; none for faults that are not an answer of the API.
    pub(super) fn of_fault(answer: Answer, presented: &str) -> Option<Self> {
        let error = match answer {
            Answer::InvalidApiKey => Self::invalid_key(presented),
            Answer::NotInOrganization => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "You must be a member of an organization to use the API. Please contact us to get added to a \
                 new organization, or ask your organization manager to invite you to an organization.",
            ),
            Answer::MissingScopes { status } => Self::missing_scopes(status_of(status), "api.model.read"),
            Answer::UnsupportedCountry => Self::new(
                StatusCode::FORBIDDEN,
                "request_forbidden",
                "Country, region, or territory not supported",
            )
            .code("unsupported_country_region_territory"),
            Answer::NotFound => Self::not_found("The requested resource was"),
            Answer::RateLimited { retry_after_seconds } => {
                let mut error = Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "requests",
                    "Rate limit reached for requests. Please slow down and try again.",
                )
                .code("rate_limit_exceeded");
                error.retry_after = retry_after_seconds;
                error
            }
            Answer::InsufficientQuota => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "insufficient_quota",
                "You exceeded your current quota, please check your plan and billing details.",
            )
            .code("insufficient_quota"),
            Answer::InternalError => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "The server had an error while processing your request. Sorry about that!",
            ),
            Answer::Unavailable { retry_after_seconds } => {
                let mut error = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "server_error",
                    "The engine is currently overloaded, please try again later.",
                );
                error.retry_after = retry_after_seconds;
                error
            }
            Answer::Genuine
            | Answer::Drop
            | Answer::Hang
            | Answer::CutBody
            | Answer::HalfBody
            | Answer::Html { .. } => return None,
        };
        Some(error)
    }

    /// The documented body; a text is a document of XML.
    pub(super) fn body(&self) -> Value {
        match self.dialect {
            Dialect::Anthropic => return anthropic::error_body(self),
            Dialect::Xai => return xai::error_body(self),
            Dialect::Mistral => return mistral::error_body(self),
            _ => {}
        }
        if self.dialect == Dialect::OpenRouter {
            return json!({"error": {"code": self.status.as_u16(), "message": self.message}});
        }
        if self.dialect == Dialect::Azure {
            return match &self.param {
                Some(number) => {
                    let codes = number.parse::<u32>().into_iter().collect::<Vec<_>>();
                    json!({"error": self.kind, "error_description": self.message, "error_codes": codes})
                }
                None => json!({"error": {"code": self.code, "message": self.message}}),
            };
        }
        if self.dialect == Dialect::Google {
            if self.param.is_some() {
                return json!({"error": self.kind, "error_description": self.message});
            }
            let detail = |reason| {
                let kind = "type.googleapis.com/google.rpc.ErrorInfo";
                json!({"@type": kind, "reason": reason, "domain": "googleapis.com"})
            };
            let details: Vec<Value> = self.code.map(detail).into_iter().collect();
            let code = self.status.as_u16();
            let (message, status) = (&self.message, self.kind);
            return json!({"error": {"code": code, "message": message, "status": status, "details": details}});
        }
        if self.dialect == Dialect::Bedrock {
            let Some(code) = self.code else { return json!({"Message": self.message}) };
            let message = bedrock::escaped(&self.message);
            return Value::String(format!(
                r#"<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>{}</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>sandbox</RequestId></ErrorResponse>"#,
                self.kind
            ));
        }
        if self.dialect == Dialect::LiteLLM {
            // Python's None as text, and the status as text.
            let (param, code) = (self.param.as_deref().unwrap_or("None"), self.status.as_u16().to_string());
            return json!({"error": {"message": self.message, "type": self.kind, "param": param, "code": code}});
        }
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

/// A status from a number; 500 for a number that is none.
pub(super) fn status_of(number: u16) -> StatusCode {
    StatusCode::from_u16(number)
        .ok()
        .filter(|status| number >= 200 && status.as_u16() < 600)
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn seconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp())
}

/// `organization.project`.
pub(super) fn project(project: &Project) -> Value {
    json!({
        "id": project.id,
        "object": "organization.project",
        "name": project.name,
        "created_at": project.created_at.timestamp(),
        "archived_at": seconds(project.archived_at),
        "status": if project.archived_at.is_some() { "archived" } else { "active" },
    })
}

/// `organization.project.service_account` as listed.
pub(super) fn account(account: &Account) -> Value {
    json!({
        "object": "organization.project.service_account",
        "id": account.id,
        "name": account.name,
        "role": account.role,
        "created_at": account.created_at.timestamp(),
    })
}

/// The answer that creates a service account; `key` carries the first key's value, if one was made.
pub(super) fn created_account(account_made: &Account, key: Option<Value>) -> Value {
    let mut body = account(account_made);
    body["api_key"] = key.unwrap_or(Value::Null);
    body
}

/// The answer that creates a service account's key: the only place where a value is ever sent.
pub(super) fn created_key(key: &Key, value: &str) -> Value {
    json!({
        "object": "organization.project.service_account.api_key",
        "value": value,
        "name": key.name,
        "created_at": key.created_at.timestamp(),
        "id": key.id,
        "expires_at": seconds(key.expires_at),
    })
}

/// `organization.project.api_key`, never with the value. `owner` is the service account, for its keys.
pub(super) fn key(key: &Key, owner: Option<&Account>) -> Value {
    let owner = match (&key.owner, owner) {
        (Owner::ServiceAccount(_), Some(account)) => json!({
            "type": "service_account",
            "service_account": {
                "id": account.id,
                "name": account.name,
                "created_at": account.created_at.timestamp(),
                "role": account.role,
            },
        }),
        _ => json!({
            "type": "user",
            "user": {
                "id": "user-sandbox",
                "name": "Sandbox User",
                "email": "user@sandbox.invalid",
                "created_at": key.created_at.timestamp(),
                "role": "member",
            },
        }),
    };
    json!({
        "object": "organization.project.api_key",
        "id": key.id,
        "name": key.name,
        "redacted_value": key.redacted,
        "created_at": key.created_at.timestamp(),
        "last_used_at": seconds(key.last_used_at),
        "expires_at": seconds(key.expires_at),
        "owner_project_access": key.access,
        "owner": owner,
    })
}

/// The confirmation of a deletion; `kind` is the object type without `.deleted`.
pub(super) fn deleted(kind: &str, id: &str) -> Value {
    json!({"object": format!("{kind}.deleted"), "id": id, "deleted": true})
}

/// A page of a list.
pub(super) fn list(data: &[Value], has_more: bool) -> Value {
    let id_of = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list",
        "first_id": id_of(data.first()),
        "last_id": id_of(data.last()),
        "data": data,
        "has_more": has_more,
    })
}

/// The answer of `GET /v1/models`, the same for every key.
pub(super) fn models() -> Value {
    let model = |id: &str, created: u64| json!({"id": id, "object": "model", "created": created, "owned_by": "system"});
    json!({
        "object": "list",
        "data": [model("gpt-4o", 1_715_367_049), model("gpt-4o-mini", 1_721_172_741)],
    })
}

/// A page as a gateway on the way sends it.
pub(super) fn html_page(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or("Error");
    format!(
        "<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n<center><h1>{code} {reason}</h1>\
         </center>\r\n<hr><center>gateway</center>\r\n</body>\r\n</html>\r\n",
        code = status.as_u16(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_have_all_four_fields() {
        let body = ApiError::invalid_key("sk-svcacct-aaaaaaaaaaaaaaaaZZZZ").body();
        assert_eq!(body["error"]["code"], "invalid_api_key");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"].as_object().unwrap().contains_key("param"));
        assert!(
            body["error"]["message"].as_str().unwrap().starts_with("Incorrect API key provided: sk-svcac***")
        );
        let quota = ApiError::of_fault(Answer::InsufficientQuota, "").unwrap();
        assert_eq!((quota.status.as_u16(), quota.kind), (429, "insufficient_quota"));
        assert!(ApiError::of_fault(Answer::Drop, "").is_none());
    }

    #[test]
    fn an_empty_page_has_null_ends() {
        let page = list(&[], false);
        assert_eq!(page["first_id"], Value::Null);
        assert_eq!(page["has_more"], false);
    }
}
