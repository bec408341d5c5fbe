//! Bedrock's control plane: whether an API key is accepted in a region.
//!
//! Source: the package `botocore` 1.44.5, `data/bedrock` (`ListFoundationModels`, which takes a bearer token), and answers to refused keys as
//! public clients quote them. That a key which lacks a permission is answered in the words below is unverified; a 403 in any
//! other words says nothing of the key.

use serde_json::{Map, Value};

use super::{
    Admin, Dialect, Endpoint,
    bedrock_admin::BedrockAdmin,
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

pub(super) struct Bedrock;

const FACTS: &[Fact] = &[
    Fact::documented(
        &[Validate],
        "`ListFoundationModels` with a bearer token, PyPI `botocore` 1.44, `data/bedrock`",
    )
    .limits("words of refusals are inferred, those of a missing permission unverified"),
    Fact::documented(&[Mint], "`CreateServiceSpecificCredential`, PyPI `botocore` 1.44, `data/iam`")
        .limits("two at a user at most, without names: the user is one `LLMKey`'s alone"),
    Fact::documented(
        &[List],
        "`ListServiceSpecificCredentials` with `Marker`, PyPI `botocore` 1.44, `data/iam`",
    )
    .limits("how soon it has a new one is unverified"),
    Fact::documented(&[Revoke], "`DeleteServiceSpecificCredential`, PyPI `botocore` 1.44, `data/iam`"),
    Fact::documented(&[Confirm], "`ListServiceSpecificCredentials`, PyPI `botocore` 1.44, `data/iam`")
        .limits("the list, then the key itself, which must be refused"),
    Fact::documented(
        &[Disable],
        "`UpdateServiceSpecificCredential` with `Status`, PyPI `botocore` 1.44, `data/iam`",
    )
    .limits("what the check says of a key that is off is unverified"),
    Fact::unverified(
        &[Match],
        "`ServiceCredentialAlias`, PyPI `botocore` 1.44, `data/iam`; what of the key it has was not found",
    )
    .not_done(),
    Fact::not_offered(
        &[LastUsed],
        "PyPI `botocore` 1.44, `data/iam`: a credential's metadata has no such field",
    ),
    Fact::not_offered(&[Usage, Cost], "no such call in PyPI `botocore` 1.44, `data/iam` and `data/bedrock`")
        .limits("that CloudWatch tells by model only is inferred"),
    Fact::unverified(&[Credit], "what a spent account answers was not found").not_done(),
    Fact::unverified(&[RetryAfter], "what comes with a `ThrottlingException` was not found")
        .limits("`Retry-After` is read if it comes; IAM's `Throttling` comes with 400, which is inferred"),
    Fact::unverified(&[RateHeaders], "no document that was found tells of them").not_done(),
    Fact::documented(
        &[Expiry],
        "`CredentialAgeDays` of `CreateServiceSpecificCredential`, PyPI `botocore` 1.44, `data/iam`",
    )
    .limits("with `bedrock.credentialAgeDays`; nothing is rotated because of it"),
];

impl Dialect for Bedrock {
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable> {
        Request::get(endpoint.url(&["foundation-models"], &[])).bearer(key)
    }

    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding> {
        match status {
            200..300 => has_list(body, "modelSummaries").then_some(Finding::accepted()),
            403 => Some(forbidden(body)),
            _ => None,
        }
    }

    fn facts(&self) -> &'static [Fact] {
        FACTS
    }

    fn admin(&self) -> Option<&'static dyn Admin> {
        Some(&BedrockAdmin)
    }
}

/// One status for all: what it is about stands in the message only.
fn forbidden(body: &Map<String, Value>) -> Finding {
    let message = text(body, &["Message"]).or_else(|| text(body, &["message"])).unwrap_or_default();
    let names_the_key = message.starts_with("Authentication failed: Please make sure your API Key is valid")
        || message.starts_with("Invalid API Key format");
    if names_the_key {
        Finding::rejected()
    } else if message.contains("is not authorized to perform: bedrock:") {
        Finding::restricted()
    } else {
        Finding::not_the_key("Forbidden")
    }
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

    #[test]
    fn the_key_goes_to_the_regions_own_host() {
        let endpoint = Endpoint::local(ProviderType::Bedrock, "https://bedrock.eu-central-1.amazonaws.com");
        let request = Bedrock.validation_request(&endpoint, &"ABSKQmVkcm9jaw".into()).ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, "GET https://bedrock.eu-central-1.amazonaws.com/foundation-models");
        assert_eq!(headers, ["accept: application/json", "authorization: Bearer ABSKQmVkcm9jaw"]);
        assert!(request.headers["authorization"].is_sensitive());
    }

    #[test]
    fn only_an_answer_that_names_the_key_refuses_it() {
        let upper = |message: &str| json!({ "Message": message });
        let lower = |message: &str| json!({ "message": message });
        let refused = "Authentication failed: Please make sure your API Key is valid.";
        let lacking = "User: arn:aws:iam::111122223333:user/llm is not authorized to perform: bedrock:ListFoundationModels on resource: * \
                       because no identity-based policy allows it";
        for (status, body, wanted) in [
            (200, json!({"modelSummaries": []}), Verdict::Valid),
            (200, json!({}), Verdict::Unknown),
            (403, upper(refused), Verdict::Rejected),
            (403, lower(refused), Verdict::Rejected),
            (403, upper("Invalid API Key format: Must start with pre-defined prefix"), Verdict::Rejected),
            (403, upper(lacking), Verdict::RestrictedScope),
            (403, upper("Authentication failed: try again"), Verdict::Unknown),
            (403, upper(&format!("gateway: {refused}")), Verdict::Unknown),
            (403, upper("You don't have access to the model"), Verdict::Unknown),
            (403, json!({}), Verdict::Unknown),
            (401, upper(refused), Verdict::Unknown),
            (400, upper("ValidationException"), Verdict::Unknown),
            (404, upper(refused), Verdict::Unknown),
            (429, upper("ThrottlingException"), Verdict::RateLimited { retry_after: None }),
            (500, upper(refused), Verdict::ProviderDown),
            (503, json!({}), Verdict::ProviderDown),
        ] {
            let found = classify(&Bedrock, &reply(status, &[], &body.to_string()));
            assert_eq!((found.verdict, found.let_in), (wanted, false), "{status} {body}");
        }
    }
}
