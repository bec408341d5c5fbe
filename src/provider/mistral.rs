//! Mistral's data API.
//!
//! Sources: the `mistralai` Python SDK (`whoami`, its response models); the form of its 401 from public client tests.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
    mistral_admin::MistralAdmin,
};
use crate::crypto::SecretBytes;

pub(super) struct Mistral;

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

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&MistralAdmin)
    }
}
