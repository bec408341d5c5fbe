//! Servers that speak OpenAI's data API: Groq, and any other such as vLLM or `SGLang`.
//!
//! Sources: the error-codes page of console.groq.com; vLLM `entrypoints/openai/server_utils.py` (`AuthenticationMiddleware`).

use serde_json::{Map, Value};

use super::{
    Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable},
    facts::{
        Fact,
        Feature::{Credit, RateHeaders, RetryAfter, Validate},
        MANAGEMENT,
    },
    openai,
};
use crate::crypto::SecretBytes;

/// What sets one such server apart from another.
pub(super) struct OpenAICompatible {
    /// The server may run without any key: ask once more without one before believing a 200.
    may_be_open: bool,
    /// A 401 of exactly `{"error":"Unauthorized"}` is how the server refuses a key.
    bare_unauthorized: bool,
    facts: &'static [Fact],
}

/// Groq.
pub(super) const GROQ: OpenAICompatible =
    OpenAICompatible { may_be_open: false, bare_unauthorized: false, facts: GROQ_FACTS };
/// Any server.
pub(super) const ANY: OpenAICompatible =
    OpenAICompatible { may_be_open: true, bare_unauthorized: true, facts: ANY_FACTS };

const GROQ_FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /models`, [console.groq.com](https://console.groq.com)"),
    Fact::not_offered(MANAGEMENT, "no such call in PyPI `groq` 1.7"),
    Fact::unverified(&[Credit], "`insufficient_quota`, as OpenAI says it; whether Groq does was not found"),
    Fact::inferred(&[RetryAfter], "`retry-after` with 429 only, as others quote console.groq.com"),
    Fact::inferred(&[RateHeaders], "`x-ratelimit-*`, as others quote console.groq.com").not_done(),
];

const ANY_FACTS: &[Fact] = &[
    Fact::inferred(
        &[Validate],
        "`GET /models`, as vLLM and SGLang have it; vLLM `entrypoints/openai/server_utils.py`",
    )
    .limits("asked once more without a key, for servers that accept anybody"),
    Fact::not_offered(
        MANAGEMENT,
        "vLLM `entrypoints/openai/server_utils.py`: keys are arguments of the server",
    ),
    Fact::unverified(&[Credit], "`insufficient_quota`, as OpenAI says it; which servers do was not found"),
    Fact::unverified(&[RetryAfter], "differs from server to server")
        .limits("`Retry-After` is read if it comes"),
    Fact::unverified(&[RateHeaders], "differs from server to server").not_done(),
];

impl Dialect for OpenAICompatible {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["models"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        let bare = body.len() == 1 && body.get("error").and_then(Value::as_str) == Some("Unauthorized");
        if self.bare_unauthorized && status == 401 && bare {
            return Some(Finding::rejected());
        }
        openai::judge(status, body)
    }

    fn is_out_of_credit(&self, body: &Map<String, Value>) -> bool {
        openai::is_insufficient_quota(body)
    }

    fn keyless_request(&self, endpoint: &Endpoint) -> Option<Request> {
        self.may_be_open.then(|| Request::get(endpoint.url(&["models"], &[])))
    }

    fn facts(&self) -> &'static [Fact] {
        self.facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::health::Verdict,
        provider::{classification::classify, exchange::tests::reply},
    };

    #[test]
    fn groq_and_any_server_differ_in_the_bare_refusal_only() {
        let verdict =
            |dialect: &OpenAICompatible, status, body| classify(dialect, &reply(status, &[], body)).verdict;
        let bare = r#"{"error":"Unauthorized"}"#;
        assert_eq!(verdict(&ANY, 401, bare), Verdict::Rejected);
        assert_eq!(verdict(&GROQ, 401, bare), Verdict::Unknown);
        assert_eq!(verdict(&ANY, 403, bare), Verdict::Unknown);
        assert_eq!(verdict(&ANY, 401, r#"{"error":"Unauthorized","hint":"sso"}"#), Verdict::Unknown);
        let groq = r#"{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}"#;
        assert_eq!(verdict(&GROQ, 401, groq), Verdict::Rejected);
        let restricted =
            r#"{"error":{"message":"x","type":"invalid_request_error","code":"organization_restricted"}}"#;
        assert_eq!(verdict(&GROQ, 400, restricted), Verdict::Unknown);
    }
}
