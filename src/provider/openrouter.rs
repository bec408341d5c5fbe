//! OpenRouter's data API.
//!
//! Sources: OpenRouter's `openapi.yaml` (`GET /key`); the text for unknown and deleted keys from public logs.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
    openrouter_admin::OpenRouterAdmin,
};
use crate::crypto::SecretBytes;

pub(super) struct OpenRouter;

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
}
