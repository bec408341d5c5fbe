//! xAI's data API.
//!
//! A 200 may still describe a key that is switched off; an unknown key is a 400. Sources: xAI's published API description
//! (`GET /v1/api-key`) and docs.x.ai.

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
    xai_admin::XaiAdmin,
};
use crate::{crypto::SecretBytes, domain::health::Verdict};

pub(super) struct Xai;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /v1/api-key`, xAI's OpenAPI description"),
    Fact::documented(&[Mint], "`POST /auth/teams/{team}/api-keys`, [docs.x.ai](https://docs.x.ai/developers/rest-api-reference/management/auth)").limits("delivered when all of xAI has the key, as `GET /auth/api-keys/{id}/propagation` tells, whose answer is unverified"),
    Fact::documented(&[List], "`GET /auth/teams/{team}/api-keys`, docs.x.ai").limits("that answers have the next page's `paginationToken` is inferred"),
    Fact::documented(&[Confirm], "`GET /auth/teams/{team}/api-keys`, docs.x.ai").limits("the list, then the key itself, which must be refused"),
    Fact::documented(&[Revoke], "`DELETE /auth/api-keys/{id}`, docs.x.ai").limits("the body of the answer is unverified, and not read"),
    Fact::inferred(&[Disable], "`PUT /auth/api-keys/{id}` with `fieldMask`, as public clients have it; a guide of docs.x.ai has it at the team's list").limits("`api_key_disabled` of `GET /v1/api-key` tells it, which is documented"),
    Fact::documented(&[Match], "`api_key_id` of `GET /v1/api-key`, xAI's OpenAPI description").not_done(),
    Fact::not_offered(&[LastUsed], "docs.x.ai: an API key has no such field"),
    Fact::inferred(&[Usage, Cost], "`POST /v1/billing/teams/{team}/usage`, [docs.x.ai](https://docs.x.ai/developers/rest-api-reference/management/billing); grouping by key as public clients do it").not_done(),
    Fact::unverified(&[Credit], "how a spent team answers to `GET /v1/api-key` was not found").not_done(),
    Fact::unverified(&[RetryAfter], "what a 429 looks like was not found").limits("`Retry-After` is read if it comes"),
    Fact::unverified(&[RateHeaders], "`x-ratelimit-*`, as public clients have it").not_done(),
    Fact::documented(&[Expiry], "`expireTime` of `POST /auth/teams/{team}/api-keys`, docs.x.ai").not_done(),
];

impl Dialect for Xai {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["api-key"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        let flag = |name| body.get(name).and_then(Value::as_bool);
        match status {
            200..300 => {
                let [team, blocked, disabled] =
                    [flag("team_blocked"), flag("api_key_blocked"), flag("api_key_disabled")];
                if disabled == Some(true) || blocked == Some(true) {
                    Some(Finding::new(Verdict::Disabled, "KeyDisabled"))
                } else if team == Some(true) {
                    Some(Finding::not_the_key("TeamBlocked"))
                } else {
                    (blocked.is_some() && disabled.is_some()).then_some(Finding::accepted())
                }
            }
            400 | 401 if text(body, &["error"])?.starts_with("Incorrect API key provided") => {
                Some(Finding::rejected())
            }
            401 | 403 => Some(Finding::not_the_key("Forbidden")),
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&XaiAdmin)
    }
}
