//! Anthropic's data API.
//!
//! Sources: platform.claude.com, API errors ("malformed, revoked or expired" keys are 401 `authentication_error`) and the
//! models endpoint.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    anthropic_admin::AnthropicAdmin,
    classification::{Finding, has_list},
    exchange::{Request, Unsendable, text},
};
use crate::crypto::SecretBytes;

pub(super) struct Anthropic;

impl Dialect for Anthropic {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["v1", "models"], &[("limit", "1")]))
            .header("anthropic-version", "2023-06-01")
            .secret_header(reqwest::header::HeaderName::from_static("x-api-key"), key.expose())
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        if (200..300).contains(&status) {
            return has_list(body, "data").then_some(Finding::accepted());
        }
        if text(body, &["type"]) != Some("error") {
            return None;
        }
        let message = text(body, &["error", "message"]).unwrap_or_default();
        match (status, text(body, &["error", "type"])?) {
            (401, "authentication_error") => Some(Finding::rejected()),
            (402, "billing_error") => Some(Finding::out_of_credit()),
            (400, "invalid_request_error")
                if message.starts_with("Your credit balance is too low")
                    || message.starts_with("You have reached your specified API usage limits") =>
            {
                Some(Finding::out_of_credit())
            }
            (403, "permission_error") => Some(Finding::not_the_key("Forbidden")),
            _ => None,
        }
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&AnthropicAdmin)
    }
}
