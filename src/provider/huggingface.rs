//! Hugging Face's hub.
//!
//! The call is throttled by design: validate rarely. Sources: `huggingface_hub` (`HfApi.whoami`;
//! `utils/_http.py` takes this one text for a bad token and every other 401 for a missing repository).

use serde_json::{Map, Value};

use super::{
    Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
};
use crate::crypto::SecretBytes;

pub(super) struct HuggingFace;

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
}
