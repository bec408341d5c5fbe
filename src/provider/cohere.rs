//! Cohere's data API.
//!
//! Sources: docs.cohere.com, `check-api-key`; the text of its 401 from public client tests.

use reqwest::Method;
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

pub(super) struct Cohere;

const FACTS: &[Fact] = &[
    Fact::documented(
        &[Validate],
        "`POST /v1/check-api-key`, [docs.cohere.com](https://docs.cohere.com/reference/check-api-key)",
    ),
    Fact::not_offered(MANAGEMENT, "no such call in docs.cohere.com and PyPI `cohere` 7.3"),
    Fact::documented(&[Credit], "402, docs.cohere.com"),
    Fact::unverified(&[RetryAfter], "what comes with a 429 was not found")
        .limits("`Retry-After` is read if it comes"),
    Fact::unverified(&[RateHeaders], "no document that was found tells of them").not_done(),
];

impl Dialect for Cohere {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::new(Method::POST, endpoint.url(&["v1", "check-api-key"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => {
                Some(if body.get("valid")?.as_bool()? { Finding::accepted() } else { Finding::rejected() })
            }
            401 if text(body, &["message"])?.starts_with("invalid api token") => Some(Finding::rejected()),
            402 => text(body, &["message"]).map(|_| Finding::out_of_credit()),
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
