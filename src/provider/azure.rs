//! Azure OpenAI's data side: whether a key of an account is accepted.
//!
//! Source: `stable/2024-10-21` of the data plane in Azure/azure-rest-api-specs (`GET /openai/models`), and answers to refused keys as
//! public clients quote them.

use reqwest::header::HeaderName;
use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    azure_admin::AzureAdmin,
    classification::{Finding, has_list},
    exchange::{Request, Unsendable, text},
    facts::{
        Fact,
        Feature::{
            Confirm, Cost, Credit, Disable, Expiry, LastUsed, List, Match, Mint, RateHeaders, RetryAfter,
            Revoke, Usage, Validate,
        },
    },
};
use crate::crypto::SecretBytes;

/// Version of the data plane's API.
const API_VERSION: &str = "2024-10-21";

pub(super) struct Azure;

const FACTS: &[Fact] = &[
    Fact::documented(
        &[Validate],
        "`GET /openai/models`, [azure-rest-api-specs](https://github.com/Azure/azure-rest-api-specs), data plane 2024-10-21",
    ),
    Fact::documented(&[Mint], "`regenerateKey` and `listKeys`, PyPI `azure-mgmt-cognitiveservices` 14.1")
        .limits("two slots, which are made anew in turn"),
    Fact::not_offered(&[List], "PyPI `azure-mgmt-cognitiveservices` 14.1: keys have no ids and no names")
        .limits("`listKeys` shows what the two slots hold"),
    Fact::documented(
        &[Revoke],
        "`regenerateKey`: the key before stops at once, [learn.microsoft.com](https://learn.microsoft.com/azure/cognitive-services/rotate-keys)",
    ),
    Fact::documented(&[Confirm], "`listKeys`, PyPI `azure-mgmt-cognitiveservices` 14.1")
        .limits("the slot has another key, and the key itself must be refused"),
    Fact::documented(&[Match], "`listKeys`, PyPI `azure-mgmt-cognitiveservices` 14.1").not_done(),
    Fact::unverified(&[Disable], "`disableLocalAuth` turns both keys of the account off").not_done(),
    Fact::not_offered(
        &[LastUsed, Usage, Cost],
        "learn.microsoft.com: by deployment and by resource, not by key",
    ),
    Fact::not_offered(
        &[Credit],
        "azure-rest-api-specs, data plane 2024-10-21: `GET /openai/models` tells of none",
    ),
    Fact::inferred(&[RetryAfter], "`retry-after` and `retry-after-ms`, as public clients have it"),
    Fact::inferred(
        &[RateHeaders],
        "`x-ratelimit-remaining-*` with answers of models, as public clients have it",
    )
    .not_done(),
    Fact::not_offered(&[Expiry], "PyPI `azure-mgmt-cognitiveservices` 14.1: keys have no end"),
];

impl Dialect for Azure {
    /// Redirects are never followed, so the header goes to the account's own host and to no other.
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        let url = endpoint.url(&["openai", "models"], &[("api-version", API_VERSION)]);
        Request::get(url).secret_header(HeaderName::from_static("api-key"), key.expose())
    }

    /// A 403 tells of the network's rules, or of an account that takes no keys at all: of this key it says nothing.
    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => has_list(body, "data").then_some(Finding::accepted()),
            401 if names_the_key(body) => Some(Finding::rejected()),
            401 => Some(Finding::not_the_key("UnauthorizedOther")),
            403 => Some(Finding::not_the_key("Forbidden")),
            _ => None,
        }
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&AzureAdmin)
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }
}

/// The newer form has `error.code` and `error.message`, the older one `statusCode` and `message`.
fn names_the_key(body: &Map<String, Value>) -> bool {
    let newer = text(body, &["error", "code"]).filter(|code| *code == "401");
    let older = body.get("statusCode").filter(|status| **status == 401);
    let message = match (newer, older) {
        (Some(_), _) => text(body, &["error", "message"]),
        (None, Some(_)) => text(body, &["message"]),
        (None, None) => None,
    };
    message.is_some_and(|message| message.contains("invalid subscription key"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::ProviderType,
        domain::health::Verdict,
        provider::{
            classification::classify,
            exchange::tests::{reply, shown},
        },
    };

    const REFUSED: &str = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key \
                           for an active subscription and use a correct regional API endpoint for your resource.";

    #[test]
    fn the_key_goes_into_the_api_key_header_and_nowhere_else() {
        let endpoint = Endpoint::local(ProviderType::AzureOpenAI, "https://contoso.openai.azure.com");
        let request = Azure.validation_request(&endpoint, &"0123456789abcdef".into()).ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, "GET https://contoso.openai.azure.com/openai/models?api-version=2024-10-21");
        assert_eq!(headers, ["accept: application/json", "api-key: 0123456789abcdef"]);
        assert!(request.headers["api-key"].is_sensitive());
    }

    #[test]
    fn only_an_answer_that_names_the_key_refuses_it() {
        let error = |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
        for (status, body, wanted) in [
            (200, json!({"object": "list", "data": []}), Verdict::Valid),
            (200, json!({}), Verdict::Unknown),
            (401, error("401", REFUSED), Verdict::Rejected),
            (401, json!({"statusCode": 401, "message": REFUSED}), Verdict::Rejected),
            (
                401,
                error("PermissionDenied", "The principal lacks the required data action"),
                Verdict::Unknown,
            ),
            (401, json!({"statusCode": 401, "message": "Unauthorized"}), Verdict::Unknown),
            (401, error("Unauthorized", REFUSED), Verdict::Unknown),
            (403, error("403", "Access denied due to Virtual Network/Firewall rules."), Verdict::Unknown),
            (
                403,
                error("AuthenticationTypeDisabled", "Key based authentication is disabled"),
                Verdict::Unknown,
            ),
            (404, error("404", "Resource not found"), Verdict::Unknown),
            (
                429,
                error("429", "Requests have exceeded call rate limit"),
                Verdict::RateLimited { retry_after: None },
            ),
            (500, error("InternalServerError", "failed"), Verdict::ProviderDown),
            (503, json!({}), Verdict::ProviderDown),
        ] {
            let found = classify(&Azure, &reply(status, &[], &body.to_string()));
            assert_eq!((found.verdict, found.let_in), (wanted, false), "{status} {body}");
        }
        let waits = reply(429, &[("retry-after-ms", "1500")], &error("429", "slow").to_string());
        let wait = std::time::Duration::from_millis(1500);
        assert_eq!(classify(&Azure, &waits).verdict, Verdict::RateLimited { retry_after: Some(wait) });
    }
}
