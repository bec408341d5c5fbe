//! OpenRouter's data API.
//!
//! Sources: OpenRouter's `openapi.yaml` (`GET /key`); the text for unknown and deleted keys from public logs.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
    facts::{
        Fact,
        Feature::{
            Confirm, Cost, Credit, Disable, Expiry, LastUsed, List, Match, Mint, RateHeaders, RetryAfter,
            Revoke, Usage, Validate,
        },
    },
    openrouter_admin::OpenRouterAdmin,
};
use crate::crypto::SecretBytes;

pub(super) struct OpenRouter;

const FACTS: &[Fact] = &[
    Fact::documented(
        &[Validate],
        "`GET /key`, OpenRouter's [`openapi.yaml`](https://github.com/OpenRouterTeam/docs)",
    ),
    Fact::documented(&[Mint], "`POST /keys`, `openapi.yaml`").limits("always in a named workspace"),
    Fact::documented(
        &[List],
        "`GET /keys` with `offset`, `include_disabled` and `workspace_id`, `openapi.yaml`",
    )
    .limits("that a page has 100 keys, the newest first, is inferred"),
    Fact::documented(&[Revoke], "`DELETE /keys/{hash}`, `openapi.yaml`"),
    Fact::documented(&[Confirm], "`GET /keys`, `openapi.yaml`")
        .limits("the list, then the key itself, which must be refused"),
    Fact::documented(&[Disable], "`PATCH /keys/{hash}` with `disabled`, `openapi.yaml`")
        .limits("what the check then says of the key is unverified"),
    Fact::documented(&[Match], "`label` of `GET /keys`, `openapi.yaml`").not_done(),
    Fact::not_offered(&[LastUsed], "`openapi.yaml`: `/activity` tells of completed days only"),
    Fact::documented(&[Usage], "`GET /activity` with `api_key_hash`, `openapi.yaml`")
        .not_done()
        .limits("a call for each key and day"),
    Fact::documented(&[Cost], "`usage` and `usage_daily` of `GET /keys`, `openapi.yaml`")
        .limits("since the key was made, and since midnight (UTC); `byok_usage` is left out"),
    Fact::documented(&[Credit], "`limit_remaining` of `GET /key`, and 402, `openapi.yaml`"),
    Fact::documented(&[RetryAfter], "`Retry-After` with 429 and 503, OpenRouter's docs")
        .limits("not always sent"),
    Fact::documented(&[RateHeaders], "`X-RateLimit-*`, with 429 only, OpenRouter's docs").not_done(),
    Fact::documented(&[Expiry], "`expires_at` of `POST /keys`, `openapi.yaml`").not_done(),
];

impl Dialect for OpenRouter {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["key"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        let flag = |name| body.get("data")?.get(name)?.as_bool();
        match status {
            200..300 => {
                let data = body.get("data")?.as_object()?;
                if flag("is_management_key") == Some(true) || flag("is_provisioning_key") == Some(true) {
                    // It cannot be used for models, and it makes keys: no workload may get it.
                    return Some(Finding::unfit("ManagementKey"));
                }
                let left = data.get("limit_remaining").and_then(Value::as_f64);
                if left.is_some_and(|left| left <= 0.0) {
                    return Some(Finding::out_of_credit());
                }
                (data.contains_key("label") || data.contains_key("usage")).then_some(Finding::accepted())
            }
            401 if text(body, &["error", "message"]) == Some("User not found.") => Some(Finding::rejected()),
            401 => Some(Finding::not_the_key("UnauthorizedOther")),
            402 => Some(Finding::out_of_credit()),
            _ => None,
        }
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&OpenRouterAdmin)
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
