//! Hugging Face's hub.
//!
//! The call is throttled by design: validate rarely. Sources: `huggingface_hub` (`HfApi.whoami`;
//! `utils/_http.py` takes this one text for a bad token and every other 401 for a missing repository).

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

pub(super) struct HuggingFace;

const FACTS: &[Fact] = &[
    Fact::documented(&[Validate], "`GET /api/whoami-v2`, PyPI `huggingface_hub` 2.4, `hf_api.py`")
        .limits("throttled by design: choose a long `validation.interval`"),
    Fact::not_offered(
        MANAGEMENT,
        "user tokens are made on the site; an organization can revoke them there, [huggingface.co](https://huggingface.co/docs/hub/enterprise-tokens-management)",
    ),
    Fact::not_offered(&[Credit], "PyPI `huggingface_hub` 2.4: `whoami-v2` tells of no credit"),
    Fact::documented(&[RetryAfter], "`Retry-After`, PyPI `huggingface_hub` 2.4, `utils/_http.py`"),
    Fact::documented(
        &[RateHeaders],
        "`ratelimit` and `ratelimit-policy`, PyPI `huggingface_hub` 2.4, `utils/_http.py`",
    )
    .not_done(),
];

impl Dialect for HuggingFace {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["api", "whoami-v2"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => text(body, &["name"]).map(|_| Finding::accepted()),
            401 if text(body, &["error"]) == Some("Invalid credentials in Authorization header") => {
                Some(Finding::rejected())
            }
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}
