//! xAI's data API.
//!
//! A 200 may still describe a key that is switched off; an unknown key is a 400. Sources: xAI's published API description
//! (`GET /v1/api-key`) and docs.x.ai.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    classification::Finding,
    exchange::{Request, Unsendable, text},
    xai_admin::XaiAdmin,
};
use crate::{crypto::SecretBytes, domain::health::Verdict};

pub(super) struct Xai;

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

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&XaiAdmin)
    }
}
