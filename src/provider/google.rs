//! Google's Gemini API.
//!
//! Errors are told apart by `error.details[].reason`, not by status: an invalid key is a 400. Sources: googleapis
//! `google/rpc/error_details.proto` (`ErrorInfo`, `RetryInfo`), `google/api/error_reason.proto`, ai.google.dev; the 401 of keys that are bound to
//! a service account is as people show it (discuss.ai.google.dev).

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    classification::{Finding, has_list},
    exchange::{Request, Unsendable, text},
    facts::{
        Fact,
        Feature::{
            Confirm, Cost, Credit, Disable, Expiry, LastUsed, List, Match, Mint, RateHeaders, RetryAfter,
            Revoke, Usage, Validate,
        },
    },
    google_admin::GoogleAdmin,
};
use crate::{crypto::SecretBytes, domain::health::Verdict};

pub(super) struct Google;

fn details(body: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let details = body.get("error").and_then(|error| error.get("details")).and_then(Value::as_array);
    details.into_iter().flatten().filter_map(Value::as_object)
}

pub(super) fn reason(body: &Map<String, Value>) -> Option<&str> {
    details(body)
        .filter(|detail| text(detail, &["domain"]) == Some("googleapis.com"))
        .find_map(|detail| text(detail, &["reason"]))
}

/// A credential that is no key to the API, though it has the form of one. As people show it, it comes without a domain.
fn is_no_key(body: &Map<String, Value>) -> bool {
    details(body).any(|detail| text(detail, &["reason"]) == Some("ACCESS_TOKEN_TYPE_UNSUPPORTED"))
}

/// How long an error asks us to wait: at most a day.
pub(super) fn retry_delay(body: &Map<String, Value>) -> Option<Duration> {
    let delay = details(body).find_map(|detail| text(detail, &["retryDelay"]))?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds.min(86_400.0)).ok()
}

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /v1beta/models`, ai.google.dev"),
    Fact::documented(&[Mint], "`CreateKey` and `GetKeyString`, googleapis [`google/api/apikeys/v2`](https://github.com/googleapis/googleapis/tree/master/google/api/apikeys/v2)").limits("bound to a service account; the operator chooses the id"),
    Fact::documented(&[List], "`ListKeys`, googleapis `google/api/apikeys/v2`"),
    Fact::documented(&[Revoke], "`DeleteKey`, googleapis `google/api/apikeys/v2`").limits("it can be taken back for 30 days"),
    Fact::documented(&[Confirm], "`deleteTime` of `GetKey`, googleapis `google/api/apikeys/v2`").limits("the list and the key's own entry, then the key itself, which must be refused"),
    Fact::not_offered(&[Disable, Expiry], "googleapis `google/api/apikeys/v2`: keys have no switch and no end"),
    Fact::documented(&[Match], "`LookupKey`, googleapis `google/api/apikeys/v2`").not_done().limits("it has the key in the URL"),
    Fact::not_offered(&[LastUsed, Usage, Cost], "PyPI `google-api-python-client` 2.202, `apikeys.v2.json`: no such call or field"),
    Fact::not_offered(&[Credit], "googleapis `google/api/error_reason.proto`: no reason speaks of credit").limits("`RESOURCE_EXHAUSTED` is read as throttling"),
    Fact::documented(&[RetryAfter], "`RetryInfo.retryDelay`, googleapis `google/rpc/error_details.proto`"),
    Fact::not_offered(&[RateHeaders], "none in the reference of ai.google.dev"),
];

impl Dialect for Google {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["v1beta", "models"], &[("pageSize", "1")]))
            .secret_header(reqwest::header::HeaderName::from_static("x-goog-api-key"), key.expose())
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        if (200..300).contains(&status) {
            return has_list(body, "models").then_some(Finding::accepted());
        }
        let message = text(body, &["error", "message"]).unwrap_or_default();
        match (status, reason(body)) {
            (400, Some("API_KEY_INVALID")) if message.starts_with("API key expired") => {
                Some(Finding::new(Verdict::Expired, "KeyExpired"))
            }
            (400, Some("API_KEY_INVALID")) => Some(Finding::rejected()),
            (401, _) if is_no_key(body) => Some(Finding::new(Verdict::Rejected, "NoKeyToTheApi")),
            (403, Some("API_KEY_SERVICE_BLOCKED")) => Some(Finding::restricted()),
            (403, Some("CONSUMER_SUSPENDED")) => Some(Finding::not_the_key("ProjectSuspended")),
            (403, Some("SERVICE_DISABLED")) => Some(Finding::not_the_key("ApiNotEnabled")),
            (403, _) if message.starts_with("Your API key was reported as leaked") => {
                Some(Finding::new(Verdict::Rejected, "KeyReportedLeaked"))
            }
            _ => None,
        }
    }

    fn retry_after(&self, body: &Map<String, Value>) -> Option<Duration> {
        retry_delay(body)
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&GoogleAdmin)
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
