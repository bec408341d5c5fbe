//! OpenAI's data API.
//!
//! Sources: the openai-openapi specification (`Error`, `GET /models`) and the error-codes guide of developers.openai.com.

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
    openai_admin::OpenAIAdmin,
};
use crate::{crypto::SecretBytes, domain::health::Verdict};

pub(super) struct OpenAI;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /models`, [openai-openapi](https://github.com/openai/openai-openapi) of August 2026"),
    Fact::documented(&[Mint], "`POST …/service_accounts`, openai-openapi; PyPI `openai` 3.54").limits("one service account for each key"),
    Fact::documented(&[List], "`GET …/service_accounts` with `after` and `has_more`, openai-openapi"),
    Fact::documented(&[Revoke], "`DELETE …/service_accounts/{id}`, openai-openapi").limits("that the account's keys end with it is inferred"),
    Fact::documented(&[Confirm], "`GET …/service_accounts`, openai-openapi; deleted keys get 401, help article 6891781").limits("the list, then the key itself, which must be refused"),
    Fact::not_offered(&[Disable], "openai-openapi: keys have scopes and an end, and no switch"),
    Fact::documented(&[Match], "`redacted_value` of `GET …/api_keys`, openai-openapi").not_done(),
    Fact::documented(&[LastUsed], "`last_used_at` of `GET …/api_keys/{key}`, openai-openapi").limits("how late it is, is unverified"),
    Fact::documented(&[Usage], "`GET /organization/usage/completions`, `…/embeddings`, openai-openapi; brackets in queries as PyPI `openai` 3.54 writes them").limits("by the day; images, audio and tools count in the cost only"),
    Fact::documented(&[Cost], "`GET /organization/costs` with `group_by[]=api_key_id`, openai-openapi").limits("`amount` in `usd`; another currency is not added up"),
    Fact::documented(&[Credit], "`insufficient_quota`, [error codes](https://developers.openai.com/docs/guides/error-codes)").limits("that `GET /models` ever says so is unverified"),
    Fact::documented(&[RetryAfter], "`Retry-After` of `TooManyRequests`, openai-openapi; `retry-after-ms`, PyPI `openai` 3.54").limits("it may be absent"),
    Fact::documented(&[RateHeaders], "`x-ratelimit-*`, the guide to rate limits of developers.openai.com").not_done().limits("sent with answers of models only"),
    Fact::documented(&[Expiry], "`expires_in_seconds`, PyPI `openai` 3.54").not_done(),
];

impl Dialect for OpenAI {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["models"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        judge(status, body)
    }

    fn is_out_of_credit(&self, body: &Map<String, Value>) -> bool {
        is_insufficient_quota(body)
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&OpenAIAdmin)
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}

/// Reads a reply of `GET /models` in OpenAI's form.
///
/// A 401 alone refuses nothing: OpenAI answers 401 as well to callers outside an IP allowlist and to users who left the
/// organization. Only `code: invalid_api_key` speaks of the key.
pub(super) fn judge(status: u16, body: &Map<String, Value>) -> Option<Finding> {
    if (200..300).contains(&status) {
        return has_list(body, "data").then_some(Finding::accepted());
    }
    let message = text(body, &["error", "message"]).unwrap_or_default();
    if is_insufficient_quota(body) {
        return Some(Finding::out_of_credit());
    }
    match status {
        // The status of a missing scope varies in public client tests; the words do not.
        401 | 403 if message.contains("Missing scopes") => Some(Finding::restricted()),
        401 if text(body, &["error", "code"]) == Some("invalid_api_key") => Some(Finding::rejected()),
        401 => Some(Finding::not_the_key("UnauthorizedOther")),
        403 => Some(Finding::new(Verdict::Unknown, "Forbidden")),
        _ => None,
    }
}

pub(super) fn is_insufficient_quota(body: &Map<String, Value>) -> bool {
    ["code", "type"].iter().any(|field| text(body, &["error", field]) == Some("insufficient_quota"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ProviderType,
        provider::{
            classification::classify,
            exchange::tests::{reply, shown},
        },
    };

    fn finding(status: u16, body: &str) -> Verdict {
        classify(&OpenAI, &reply(status, &[], body)).verdict
    }

    #[test]
    fn the_request_is_the_documented_one() {
        let endpoint = Endpoint::public(ProviderType::OpenAI).unwrap();
        let request = OpenAI.validation_request(&endpoint, &"sk-proj-abc".into()).unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, "GET https://api.openai.com/v1/models");
        assert_eq!(headers, ["accept: application/json", "authorization: Bearer sk-proj-abc"]);
        assert!(request.body.is_none());
    }

    #[test]
    fn only_the_code_of_the_key_refuses() {
        let error = |message: &str, kind: &str, code: &str| {
            format!(r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":{code}}}}}"#)
        };
        let request = "invalid_request_error";
        for (status, body, verdict) in [
            (200, r#"{"object":"list","data":[]}"#.to_owned(), Verdict::Valid),
            (200, "{}".to_owned(), Verdict::Unknown),
            (200, "<html>login</html>".to_owned(), Verdict::Unknown),
            (
                401,
                error("Incorrect API key provided: sk-x.", request, "\"invalid_api_key\""),
                Verdict::Rejected,
            ),
            (401, error("You must be a member of an organization", request, "null"), Verdict::Unknown),
            (401, error("IP not authorized", request, "\"ip_not_authorized\""), Verdict::Unknown),
            (401, error("deactivated", request, "\"account_deactivated\""), Verdict::Unknown),
            (401, "<html>401</html>".to_owned(), Verdict::Unknown),
            (401, r#"{"error":{"code":"invalid_api_key""#.to_owned(), Verdict::Unknown),
            (403, error("Missing scopes: api.model.read", request, "null"), Verdict::RestrictedScope),
            (401, error("Missing scopes: api.model.read", request, "null"), Verdict::RestrictedScope),
            (
                403,
                error("Country not supported", request, "\"unsupported_country_region_territory\""),
                Verdict::Unknown,
            ),
            (403, error("Incorrect API key provided", request, "\"invalid_api_key\""), Verdict::Unknown),
            (404, error("not found", request, "\"invalid_api_key\""), Verdict::Unknown),
            (429, error("quota", "insufficient_quota", "\"insufficient_quota\""), Verdict::OutOfCredit),
            (
                429,
                error("slow", "requests", "\"rate_limit_exceeded\""),
                Verdict::RateLimited { retry_after: None },
            ),
            (429, error("x", request, "\"invalid_api_key\""), Verdict::RateLimited { retry_after: None }),
            (500, error("x", request, "\"invalid_api_key\""), Verdict::ProviderDown),
            (503, String::new(), Verdict::ProviderDown),
            (307, String::new(), Verdict::Unknown),
        ] {
            assert_eq!(finding(status, &body), verdict, "{status} {body}");
        }
    }
}
