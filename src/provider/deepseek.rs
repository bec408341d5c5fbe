//! `DeepSeek`'s data API.
//!
//! Sources: api-docs.deepseek.com (`GET /user/balance`, error codes); the form of its 401 from public logs.

use serde_json::{Map, Value};

use super::{
    Dialect, Endpoint,
    classification::{Finding, has_list},
    exchange::{Request, Unsendable, text},
    facts::{
        Fact,
        Feature::{Credit, RateHeaders, RetryAfter, Validate},
        MANAGEMENT,
    },
};
use crate::crypto::SecretBytes;

pub(super) struct DeepSeek;

const FACTS: &[Fact] = &[
    Fact::documented(
        &[Validate],
        "`GET /user/balance`, [api-docs.deepseek.com](https://api-docs.deepseek.com)",
    ),
    Fact::not_offered(MANAGEMENT, "no such call in api-docs.deepseek.com"),
    Fact::documented(&[Credit], "`is_available` of `GET /user/balance`, and 402, api-docs.deepseek.com")
        .limits("the balance is the account's, not the key's"),
    Fact::unverified(&[RetryAfter], "what comes with a 429 was not found")
        .limits("`Retry-After` is read if it comes"),
    Fact::not_offered(&[RateHeaders], "api-docs.deepseek.com tells of none"),
];

impl Dialect for DeepSeek {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["user", "balance"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 if has_list(body, "balance_infos") => {
                let available = body.get("is_available")?.as_bool()?;
                Some(if available { Finding::accepted() } else { Finding::out_of_credit() })
            }
            // The same type also comes with "no such user", seen for good keys during an outage.
            401 if text(body, &["error", "type"]) == Some("authentication_error")
                && text(body, &["error", "message"])?.to_ascii_lowercase().contains("your api key") =>
            {
                Some(Finding::rejected())
            }
            402 if text(body, &["error", "message"]).is_some() => Some(Finding::out_of_credit()),
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
