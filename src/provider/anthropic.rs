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
    facts::{
        Fact,
        Feature::{
            Confirm, Cost, Credit, Disable, Expiry, LastUsed, List, Match, Mint, RateHeaders, RetryAfter,
            Revoke, Usage, Validate,
        },
    },
};
use crate::crypto::SecretBytes;

pub(super) struct Anthropic;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /v1/models?limit=1`, platform.claude.com"),
    Fact::not_offered(&[Mint, Expiry], "the Admin API has no call that makes a key, [platform.claude.com](https://platform.claude.com/docs/en/get-api-key)").limits("keys are made in the Console, and supplied"),
    Fact::documented(&[List], "`GET /v1/organizations/api_keys` with `after_id` and `has_more`, PyPI `anthropic` 2.12").limits("the default workspace cannot be asked for alone"),
    Fact::documented(&[Confirm], "`status` of `GET /v1/organizations/api_keys/{id}`, PyPI `anthropic` 2.12").limits("the list, then the key itself, which must be refused; how soon it is, is unverified"),
    Fact::documented(&[Revoke], "`POST /v1/organizations/api_keys/{id}` with `status` `inactive`, then `archived`, PyPI `anthropic` 2.12").limits("supplied keys, with `anthropic.endSuppliedKeys` only"),
    Fact::documented(&[Disable], "`POST /v1/organizations/api_keys/{id}` with `status` `inactive` and `active`, PyPI `anthropic` 2.12"),
    Fact::documented(&[Match], "`partial_key_hint` of `GET /v1/organizations/api_keys`, PyPI `anthropic` 2.12").limits("that it is the first 16 and last 4 characters is inferred; one key alone must fit"),
    Fact::not_offered(&[LastUsed], "PyPI `anthropic` 2.12: `APIKey` has no such field"),
    Fact::documented(&[Usage], "`GET /v1/organizations/usage_report/messages` with `group_by[]=api_key_id`, platform.claude.com").limits("tokens by the day; it tells of no requests"),
    Fact::documented(&[Cost], "`GET /v1/organizations/analytics/cost`, a beta, PyPI `anthropic` 2.12").not_done(),
    Fact::documented(&[Credit], "402 `billing_error`, the page on errors of platform.claude.com").limits("the texts that come with 400 are inferred"),
    Fact::documented(&[RetryAfter], "`retry-after`, the page on rate limits of platform.claude.com").limits("absent where a spend limit is reached"),
    Fact::documented(&[RateHeaders], "`anthropic-ratelimit-*`, the page on rate limits of platform.claude.com").not_done(),
];

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

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&AnthropicAdmin)
    }
}
