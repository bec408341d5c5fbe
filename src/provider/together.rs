//! Together's data API.
//!
//! Sources: the `together` Python SDK (`whoami`); the form of its 401 from public logs.

use serde_json::{Map, Value};

use super::{
    Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
};
use crate::crypto::SecretBytes;

pub(super) struct Together;

impl Dialect for Together {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["v3", "whoami"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => text(body, &["type"]).map(|_| Finding::accepted()),
            401 if text(body, &["error", "code"]) == Some("invalid_api_key") => Some(Finding::rejected()),
            _ => None,
        }
    }
}
