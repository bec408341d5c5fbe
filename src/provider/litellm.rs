//! LiteLLM's data side: whether a virtual key is accepted.
//!
//! Source: the package `litellm` 1.109 (`proxy/auth`, `GET /key/info` of `key_management_endpoints.py`). Errors are told by their
//! `type`: the status of a spent budget is an option of the proxy, and was another one before.

use reqwest::StatusCode;
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
    litellm_admin::LiteLLMAdmin,
};
use crate::{crypto::SecretBytes, domain::health::Verdict};

pub(super) struct LiteLLM;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /key/info`, PyPI `litellm` 1.109, `proxy/management_endpoints/key_management_endpoints.py`").limits("after a 403 `GET /v1/models`"),
    Fact::documented(&[Mint], "`POST /key/generate` with `key`, PyPI `litellm` 1.109").limits("the operator chooses the key"),
    Fact::documented(&[List], "`GET /key/list`, PyPI `litellm` 1.109"),
    Fact::documented(&[Revoke], "`POST /key/delete`, PyPI `litellm` 1.109"),
    Fact::documented(&[Confirm], "404 `not_found_error`, or `status` `deleted`, of `GET /key/info`, PyPI `litellm` 1.109").limits("the list and the key's own entry, then the key itself, which must be refused"),
    Fact::documented(&[Disable], "`POST /key/block` and `/key/unblock`, PyPI `litellm` 1.109").limits("other pods of the proxy may lag, which is unverified"),
    Fact::documented(&[Match], "a key's id is its SHA-256, PyPI `litellm` 1.109").not_done(),
    Fact::unverified(&[LastUsed], "`last_active` of a key, PyPI `litellm` 1.109; how it is kept was not found").not_done(),
    Fact::documented(&[Usage], "`GET /user/daily/activity` with `api_key`, PyPI `litellm` 1.109").not_done().limits("call by call, or key by key"),
    Fact::documented(&[Cost], "`spend` of `GET /key/list`, PyPI `litellm` 1.109").limits("since the key was made; with `budget_duration` since the proxy set it to zero; written some while after the call"),
    Fact::documented(&[Credit], "`budget_exceeded`, and `spend` beside `max_budget`, PyPI `litellm` 1.109"),
    Fact::unverified(&[RetryAfter], "what comes with the proxy's own 429 was not found").limits("`Retry-After` is read if it comes"),
    Fact::documented(&[RateHeaders], "`x-ratelimit-*`, `x-litellm-key-*`, PyPI `litellm` 1.109").not_done(),
    Fact::documented(&[Expiry], "`duration` of `POST /key/generate`, PyPI `litellm` 1.109").not_done(),
];

impl Dialect for LiteLLM {
    /// The key asks about itself.
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["key", "info"], &[])).bearer(key)
    }

    /// A key may be limited to the routes of models: then it may not ask about itself, and lists them.
    fn second_request(
        &self,
        endpoint: &Endpoint,
        key: &SecretBytes,
        status: u16,
    ) -> Option<Result<Request, Unsendable>> {
        let forbidden = status == StatusCode::FORBIDDEN.as_u16();
        forbidden.then(|| Request::get(endpoint.url(&["v1", "models"], &[])).bearer(key))
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        if (200..300).contains(&status) {
            return match body.get("info").and_then(Value::as_object) {
                Some(info) => Some(of_info(info)),
                None => has_list(body, "data").then_some(Finding::accepted()),
            };
        }
        if self.is_out_of_credit(body) {
            return Some(Finding::out_of_credit());
        }
        let message = text(body, &["error", "message"])?;
        match (status, error_type(body)?) {
            (401, "token_not_found_in_db") => Some(Finding::rejected()),
            (401, "expired_key") => Some(Finding::new(Verdict::Expired, "KeyExpired")),
            (401, _) if message.contains("Key is blocked") => {
                Some(Finding::new(Verdict::Disabled, "KeyBlocked"))
            }
            // As versions before 1.109 put it.
            (401, _) if message.contains("Invalid proxy server token passed") => Some(Finding::rejected()),
            (401, _) => Some(Finding::not_the_key("UnauthorizedOther")),
            (403, _) => Some(Finding::restricted()),
            // The proxy knows who asks, and there is no such virtual key: it is the master key, which no workload may get, or a
            // key that was deleted and is still remembered.
            (404, "not_found_error") => Some(Finding::unfit("NoVirtualKey")),
            _ => None,
        }
    }

    fn is_out_of_credit(&self, body: &Map<String, Value>) -> bool {
        error_type(body) == Some("budget_exceeded")
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&LiteLLMAdmin)
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}

/// What a key's own row says.
fn of_info(info: &Map<String, Value>) -> Finding {
    let number = |field: &str| info.get(field).and_then(Value::as_f64);
    match info.get("status").and_then(Value::as_str) {
        // Still remembered, or it could not have asked.
        Some("deleted") => return Finding::unfit("KeyDeleted"),
        Some("expired") => return Finding::new(Verdict::Expired, "KeyExpired"),
        _ => {}
    }
    if info.get("blocked").and_then(Value::as_bool) == Some(true) {
        return Finding::new(Verdict::Disabled, "KeyBlocked");
    }
    match (number("spend"), number("max_budget")) {
        (Some(spend), Some(budget)) if spend >= budget => Finding::out_of_credit(),
        _ => Finding::accepted(),
    }
}

/// `error.type`, by which LiteLLM tells its errors apart.
pub(super) fn error_type(body: &Map<String, Value>) -> Option<&str> {
    text(body, &["error", "type"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::ProviderType,
        provider::{
            classification::classify,
            exchange::tests::{reply, shown},
        },
    };

    fn verdict(status: u16, body: &Value) -> Verdict {
        classify(&LiteLLM, &reply(status, &[], &body.to_string())).verdict
    }

    fn error(status: u16, kind: &str, message: &str) -> Value {
        json!({"error": {"message": message, "type": kind, "param": "key", "code": status.to_string()}})
    }

    #[test]
    fn the_key_asks_about_itself_and_else_for_models() {
        let endpoint = Endpoint::local(ProviderType::LiteLLM, "https://llm.example/proxy");
        let key = "sk-0123456789abcdef".into();
        let line = |request: Result<Request, Unsendable>| shown(&request.ok().unwrap()).0;
        let first = LiteLLM.validation_request(&endpoint, &key);
        assert_eq!(line(first), "GET https://llm.example/proxy/key/info");
        let second = LiteLLM.second_request(&endpoint, &key, 403).unwrap();
        assert_eq!(line(second), "GET https://llm.example/proxy/v1/models");
        for status in [200, 401, 404, 429, 500] {
            assert!(LiteLLM.second_request(&endpoint, &key, status).is_none(), "{status}");
        }
    }

    #[test]
    fn a_row_tells_how_the_key_stands() {
        let row = |info: Value| verdict(200, &json!({"key": "a1b2", "info": info}));
        assert_eq!(row(json!({"spend": 0.0, "max_budget": null})), Verdict::Valid);
        assert_eq!(row(json!({"spend": 1.5, "max_budget": 2.0, "status": "active"})), Verdict::Valid);
        assert_eq!(row(json!({"spend": 2.0, "max_budget": 2.0})), Verdict::OutOfCredit);
        assert_eq!(row(json!({"blocked": true, "status": "revoked"})), Verdict::Disabled);
        assert_eq!(row(json!({"status": "expired"})), Verdict::Expired);
        assert_eq!(row(json!({"status": "deleted"})), Verdict::Rejected);
        assert_eq!(verdict(200, &json!({"object": "list", "data": []})), Verdict::Valid);
        assert_eq!(verdict(200, &json!({})), Verdict::Unknown);
    }

    #[test]
    fn a_key_that_is_deleted_and_still_let_in_is_no_confirmed_revocation() {
        let finding = |status, body: Value| classify(&LiteLLM, &reply(status, &[], &body.to_string()));
        for let_in in [
            finding(200, json!({"key": "a1b2", "info": {"status": "deleted"}})),
            finding(404, error(404, "not_found_error", "Key not found in database")),
        ] {
            assert_eq!((let_in.verdict, let_in.let_in), (Verdict::Rejected, true), "{}", let_in.code);
        }
        let gone = finding(401, error(401, "token_not_found_in_db", "Authentication Error"));
        assert_eq!((gone.verdict, gone.let_in), (Verdict::Rejected, false));
    }

    #[test]
    fn errors_are_told_by_their_type() {
        let invalid = "Authentication Error, Invalid API key provided.";
        for (status, body, wanted) in [
            (401, error(401, "token_not_found_in_db", invalid), Verdict::Rejected),
            (
                401,
                error(401, "auth_error", "Authentication Error, Invalid proxy server token passed."),
                Verdict::Rejected,
            ),
            (401, error(401, "expired_key", "Authentication Error - Expired Key."), Verdict::Expired),
            (
                401,
                error(401, "auth_error", "Authentication Error, Key is blocked. Update via `/key/unblock`"),
                Verdict::Disabled,
            ),
            (401, error(401, "auth_error", "Authentication Error, user not found"), Verdict::Unknown),
            (403, error(403, "auth_error", "not allowed to call this route"), Verdict::RestrictedScope),
            (404, error(404, "not_found_error", "Key not found in database"), Verdict::Rejected),
            (404, json!({"detail": "Not Found"}), Verdict::Unknown),
            (400, error(400, "budget_exceeded", "Budget has been exceeded!"), Verdict::OutOfCredit),
            (422, error(422, "budget_exceeded", "Budget has been exceeded!"), Verdict::OutOfCredit),
            (429, error(429, "budget_exceeded", "Budget has been exceeded!"), Verdict::OutOfCredit),
            (429, error(429, "throttling_error", "slow down"), Verdict::RateLimited { retry_after: None }),
            (500, error(500, "no_db_connection", "No connected db."), Verdict::ProviderDown),
            (503, error(503, "no_db_connection", "down"), Verdict::ProviderDown),
        ] {
            assert_eq!(verdict(status, &body), wanted, "{status} {body}");
        }
    }
}
