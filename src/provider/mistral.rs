//! Mistral's data API.
//!
//! Sources: the `mistralai` Python SDK (`whoami`, its response models); the form of its 401 from public client tests.

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
    mistral_admin::MistralAdmin,
};
use crate::crypto::SecretBytes;

pub(super) struct Mistral;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /v1/whoami`, PyPI `mistralai` 3.7"),
    Fact::documented(&[Mint], "`POST /api-keys` of the Admin API, a beta, [docs.mistral.ai](https://docs.mistral.ai/api/endpoint/beta/admin/api-keys)").limits("with `mistral.allowUnrecoverableMint` only"),
    Fact::documented(&[List], "`GET /api-keys` of the Admin API with `limit` and `offset`, docs.mistral.ai").limits("the greatest page is unverified"),
    Fact::documented(&[Confirm], "`GET /api-keys` of the Admin API, docs.mistral.ai").limits("the list, then the key itself, which must be refused"),
    Fact::unverified(&[Revoke], "`DELETE /api-keys/{id}`, as a public client has it; docs.mistral.ai tells of the console only").limits("keys that were made, with `mistral.allowUnrecoverableMint` only; the list is believed, not the answer"),
    Fact::not_offered(&[Disable], "docs.mistral.ai: keys have no switch"),
    Fact::documented(&[Match], "`api_key` of `GET /v1/whoami`, PyPI `mistralai` 3.7").not_done(),
    Fact::documented(&[LastUsed], "`last_used` of `GET /api-keys` of the Admin API, docs.mistral.ai").not_done(),
    Fact::not_offered(&[Usage, Cost], "docs.mistral.ai: `/usage` of the Admin API tells of workspaces, not of keys"),
    Fact::unverified(&[Credit], "what a 402 looks like was not found").not_done(),
    Fact::unverified(&[RetryAfter], "what a 429 looks like was not found").limits("`Retry-After` is read if it comes"),
    Fact::unverified(&[RateHeaders], "no document that was found tells of them").not_done(),
    Fact::documented(&[Expiry], "`expiration` of `POST /api-keys` of the Admin API, docs.mistral.ai").not_done(),
];

impl Dialect for Mistral {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["v1", "whoami"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => {
                let known = ["principal", "organization", "workspace", "api_key"];
                known.iter().any(|field| body.contains_key(*field)).then_some(Finding::accepted())
            }
            401 if body.len() == 1 && text(body, &["detail"]) == Some("Unauthorized") => {
                Some(Finding::rejected())
            }
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&MistralAdmin)
    }
}
