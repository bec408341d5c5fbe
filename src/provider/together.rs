//! Together's data API.
//!
//! Sources: the `together` Python SDK (`whoami`); the form of its 401 from public logs.

use serde_json::{Map, Value};

use super::{
    Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
    facts::{
        Fact,
        Feature::{Credit, RateHeaders, RetryAfter, Validate},
        MANAGEMENT,
    },
};
use crate::crypto::SecretBytes;

pub(super) struct Together;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /v3/whoami`, PyPI `together` 3.1")
        .limits("another published version of the package calls `/v1/whoami`"),
    Fact::not_offered(
        MANAGEMENT,
        "[docs.together.ai](https://docs.together.ai/docs/api-keys-authentication): keys are made in the web settings",
    ),
    Fact::unverified(&[Credit], "what a spent account answers was not found").not_done(),
    Fact::unverified(&[RetryAfter], "what comes with a 429 was not found")
        .limits("`Retry-After` is read if it comes"),
    Fact::unverified(&[RateHeaders], "no document that was found tells of them").not_done(),
];

impl Dialect for Together {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["v3", "whoami"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => text(body, &["type"]).map(|_| Finding::accepted()),
            401 if text(body, &["error", "code"]) == Some("invalid_api_key") => Some(Finding::rejected()),
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
