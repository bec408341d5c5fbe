//! Every provider's replies, as published, and what they must never be taken for.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    api::ProviderType::{self, *},
    provider::{
        ALL, Endpoint, dialect,
        exchange::tests::{reply, shown},
    },
};

fn verdict(provider: ProviderType, status: u16, body: &str) -> Verdict {
    classify(dialect(provider), &reply(status, &[], body)).verdict
}

#[test]
fn every_validation_request_is_the_documented_one() {
    for (provider, line, credential) in [
        (OpenAI, "GET https://api.openai.com/v1/models", "authorization: Bearer KEY"),
        (Anthropic, "GET https://api.anthropic.com/v1/models?limit=1", "x-api-key: KEY"),
        (
            Google,
            "GET https://generativelanguage.googleapis.com/v1beta/models?pageSize=1",
            "x-goog-api-key: KEY",
        ),
        (Mistral, "GET https://api.mistral.ai/v1/whoami", "authorization: Bearer KEY"),
        (OpenRouter, "GET https://openrouter.ai/api/v1/key", "authorization: Bearer KEY"),
        (XAI, "GET https://api.x.ai/v1/api-key", "authorization: Bearer KEY"),
        (Groq, "GET https://api.groq.com/openai/v1/models", "authorization: Bearer KEY"),
        (Cohere, "POST https://api.cohere.com/v1/check-api-key", "authorization: Bearer KEY"),
        (DeepSeek, "GET https://api.deepseek.com/user/balance", "authorization: Bearer KEY"),
        (Together, "GET https://api.together.ai/v3/whoami", "authorization: Bearer KEY"),
        (HuggingFace, "GET https://huggingface.co/api/whoami-v2", "authorization: Bearer KEY"),
    ] {
        let endpoint = Endpoint::public(provider).unwrap();
        let request = dialect(provider).validation_request(&endpoint, &"KEY".into()).unwrap();
        let (shown_line, headers) = shown(&request);
        assert_eq!(shown_line, line);
        let mut expected = vec!["accept: application/json", credential];
        if provider == Anthropic {
            expected.insert(1, "anthropic-version: 2023-06-01");
        }
        assert_eq!(headers, expected, "{provider:?}");
        assert!(request.headers.values().any(reqwest::header::HeaderValue::is_sensitive));
        assert!(request.body.is_none());
        assert!(!request.url.as_str().contains("KEY"));
    }
}

#[test]
fn accepted_keys() {
    for (provider, body) in [
        (OpenAI, r#"{"object":"list","data":[]}"#),
        (Anthropic, r#"{"data":[{"type":"model","id":"m"}],"has_more":false}"#),
        (Google, r#"{"models":[],"nextPageToken":"x"}"#),
        (Mistral, r#"{"principal":{},"organization":{},"workspace":{},"api_key":{"id":"x","name":null}}"#),
        (
            OpenRouter,
            r#"{"data":{"label":"sk-or-v1-0e6...1c9","limit":null,"limit_remaining":null,"usage":1.5}}"#,
        ),
        (OpenRouter, r#"{"data":{"label":"x","limit_remaining":0.5,"usage":1,"is_management_key":false}}"#),
        (XAI, r#"{"api_key_id":"x","team_blocked":false,"api_key_blocked":false,"api_key_disabled":false}"#),
        (Groq, r#"{"object":"list","data":[]}"#),
        (Cohere, r#"{"valid":true,"organization_id":"x"}"#),
        (DeepSeek, r#"{"is_available":true,"balance_infos":[]}"#),
        (Together, r#"{"type":"project_api_key","api_key":{"id":"x"}}"#),
        (HuggingFace, r#"{"type":"user","id":"x","name":"someone","auth":{}}"#),
        (OpenAICompatible, r#"{"object":"list","data":[]}"#),
        (Bedrock, r#"{"modelSummaries":[]}"#),
    ] {
        assert_eq!(verdict(provider, 200, body), Verdict::Valid, "{provider:?}");
    }
}

const GOOGLE_INVALID: &str = r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com","metadata":{"service":"generativelanguage.googleapis.com"}}]}}"#;

fn google(code: u16, message: &str, reason: &str) -> String {
    format!(
        r#"{{"error":{{"code":{code},"message":"{message}","status":"X","details":[{{"reason":"{reason}","domain":"googleapis.com"}}]}}}}"#
    )
}

fn anthropic(kind: &str, message: &str) -> String {
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"req_1"}}"#)
}

#[test]
fn refused_keys() {
    for (provider, status, body, expected) in [
        (Anthropic, 401, anthropic("authentication_error", "invalid x-api-key"), Verdict::Rejected),
        (Google, 400, GOOGLE_INVALID.to_owned(), Verdict::Rejected),
        (
            Google,
            401,
            r#"{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED","details":[{"reason":"ACCESS_TOKEN_TYPE_UNSUPPORTED","metadata":{"service":"generativelanguage.googleapis.com"}}]}}"#.to_owned(),
            Verdict::Rejected,
        ),
        (Google, 400, google(400, "API key expired. Please renew the API key.", "API_KEY_INVALID"), Verdict::Expired),
        (
            Google,
            403,
            google(403, "Your API key was reported as leaked. Please use another API key.", "NONE"),
            Verdict::Rejected,
        ),
        (Mistral, 401, r#"{"detail":"Unauthorized"}"#.to_owned(), Verdict::Rejected),
        (OpenRouter, 401, r#"{"error":{"message":"User not found.","code":401}}"#.to_owned(), Verdict::Rejected),
        (
            XAI,
            400,
            r#"{"code":"invalid-argument","error":"Incorrect API key provided: xa***bX. You can..."}"#.to_owned(),
            Verdict::Rejected,
        ),
        (
            XAI,
            200,
            r#"{"team_blocked":false,"api_key_blocked":false,"api_key_disabled":true}"#.to_owned(),
            Verdict::Disabled,
        ),
        (
            XAI,
            200,
            r#"{"team_blocked":false,"api_key_blocked":true,"api_key_disabled":false}"#.to_owned(),
            Verdict::Disabled,
        ),
        (
            Groq,
            401,
            r#"{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}"#.to_owned(),
            Verdict::Rejected,
        ),
        (Cohere, 200, r#"{"valid":false}"#.to_owned(), Verdict::Rejected),
        (Cohere, 401, r#"{"id":"x","message":"invalid api token"}"#.to_owned(), Verdict::Rejected),
        (
            DeepSeek,
            401,
            r#"{"error":{"message":"Authentication Fails, Your api key: ****abcd is invalid","type":"authentication_error","param":null,"code":"invalid_request_error"}}"#.to_owned(),
            Verdict::Rejected,
        ),
        (
            Together,
            401,
            r#"{"error":{"message":"Invalid API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#.to_owned(),
            Verdict::Rejected,
        ),
        (
            HuggingFace,
            401,
            r#"{"error":"Invalid credentials in Authorization header"}"#.to_owned(),
            Verdict::Rejected,
        ),
    ] {
        assert_eq!(verdict(provider, status, &body), expected, "{provider:?} {body}");
    }
}

#[test]
fn answers_that_speak_of_something_else_than_the_key() {
    let text = str::to_owned;
    for (provider, status, body, expected) in [
        (Anthropic, 402, anthropic("billing_error", "x"), Verdict::OutOfCredit),
        (
            Anthropic,
            400,
            anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            Verdict::OutOfCredit,
        ),
        (Anthropic, 400, anthropic("invalid_request_error", "x"), Verdict::Unknown),
        (Anthropic, 403, anthropic("permission_error", "x"), Verdict::Unknown),
        (Anthropic, 401, text(r#"{"error":{"type":"authentication_error"}}"#), Verdict::Unknown),
        (Anthropic, 529, anthropic("overloaded_error", "x"), Verdict::ProviderDown),
        (Google, 400, google(400, "API key not valid", "SOMETHING_ELSE"), Verdict::Unknown),
        (Google, 401, google(401, "x", "CREDENTIALS_MISSING"), Verdict::Unknown),
        (Google, 403, google(403, "x", "API_KEY_SERVICE_BLOCKED"), Verdict::RestrictedScope),
        (Google, 403, google(403, "x", "CONSUMER_SUSPENDED"), Verdict::Unknown),
        (Google, 403, google(403, "x", "SERVICE_DISABLED"), Verdict::Unknown),
        (
            Google,
            400,
            GOOGLE_INVALID.replace("googleapis.com\",\"meta", "example.com\",\"meta"),
            Verdict::Unknown,
        ),
        (Mistral, 401, text(r#"{"detail":"Unauthorized","hint":"sso"}"#), Verdict::Unknown),
        (Mistral, 401, text(r#"{"message":"Unauthorized"}"#), Verdict::Unknown),
        (
            OpenRouter,
            200,
            text(r#"{"data":{"label":"x","limit_remaining":0,"usage":5}}"#),
            Verdict::OutOfCredit,
        ),
        (OpenRouter, 200, text(r#"{"data":{"label":"x","is_management_key":true}}"#), Verdict::Rejected),
        (
            OpenRouter,
            401,
            text(r#"{"error":{"code":401,"message":"Missing Authentication header"}}"#),
            Verdict::Unknown,
        ),
        (
            OpenRouter,
            402,
            text(r#"{"error":{"code":402,"message":"Insufficient credits"}}"#),
            Verdict::OutOfCredit,
        ),
        (
            XAI,
            200,
            text(r#"{"team_blocked":true,"api_key_blocked":false,"api_key_disabled":false}"#),
            Verdict::Unknown,
        ),
        (XAI, 400, text(r#"{"code":"invalid-argument","error":"Other"}"#), Verdict::Unknown),
        (XAI, 403, text(r#"{"code":"x","error":"x"}"#), Verdict::Unknown),
        (DeepSeek, 200, text(r#"{"is_available":false,"balance_infos":[]}"#), Verdict::OutOfCredit),
        (DeepSeek, 402, text(r#"{"error":{"message":"Insufficient Balance"}}"#), Verdict::OutOfCredit),
        (Cohere, 200, text(r#"{"valid":"no"}"#), Verdict::Unknown),
        (Cohere, 498, text(r#"{"message":"invalid token"}"#), Verdict::Unknown),
        (HuggingFace, 401, text(r#"{"error":"Repository not found"}"#), Verdict::Unknown),
        (
            DeepSeek,
            401,
            text(
                r#"{"error":{"message":"Authentication Fails (no such user)","type":"authentication_error"}}"#,
            ),
            Verdict::Unknown,
        ),
        (Together, 401, text(r#"{"error":{"message":"x","code":null}}"#), Verdict::Unknown),
    ] {
        assert_eq!(verdict(provider, status, &body), expected, "{provider:?} {status} {body}");
    }
}

#[test]
fn throttling_is_told_with_its_waiting_time() {
    let body = r#"{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"41.5s"}]}}"#;
    let expected = Verdict::RateLimited { retry_after: Some(Duration::from_millis(41_500)) };
    assert_eq!(verdict(Google, 429, body), expected);
    let finding = classify(dialect(Anthropic), &reply(429, &[("retry-after", "12")], "<html>"));
    assert_eq!(finding.verdict, Verdict::RateLimited { retry_after: Some(Duration::from_secs(12)) });
}

#[test]
fn bodies_nested_without_end_are_unreadable() {
    let body = format!(r#"{{"error":{}"#, "[".repeat(100_000));
    for provider in ALL {
        assert_eq!(verdict(provider, 401, &body), Verdict::Unknown);
    }
}

/// Bodies that refuse a key at some provider: the worst material for the rules below.
fn refusing_bodies() -> Vec<String> {
    vec![
        r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","code":"invalid_api_key"}}"#
            .to_owned(),
        anthropic("authentication_error", "invalid x-api-key"),
        GOOGLE_INVALID.to_owned(),
        r#"{"detail":"Unauthorized"}"#.to_owned(),
        r#"{"error":{"message":"User not found.","code":401}}"#.to_owned(),
        r#"{"code":"x","error":"Incorrect API key provided: x"}"#.to_owned(),
        r#"{"api_key_blocked":true,"api_key_disabled":true,"team_blocked":true}"#.to_owned(),
        r#"{"valid":false,"message":"invalid api token"}"#.to_owned(),
        r#"{"error":{"type":"authentication_error","code":"invalid_api_key"}}"#.to_owned(),
        r#"{"error":"Invalid credentials in Authorization header"}"#.to_owned(),
        r#"{"error":"Unauthorized"}"#.to_owned(),
        r#"{"Message":"Authentication failed: Please make sure your API Key is valid."}"#.to_owned(),
        r#"{"Message":"Invalid API Key format: Must start with pre-defined prefix"}"#.to_owned(),
    ]
}

fn any_provider() -> impl Strategy<Value = ProviderType> {
    prop::sample::select(ALL.to_vec())
}

proptest! {
    #[test]
    fn throttling_failures_and_redirects_never_refuse(
        provider in any_provider(),
        status in prop_oneof![Just(429_u16), 500_u16..=999, 300_u16..400, 100_u16..200],
        body in prop_oneof![prop::sample::select(refusing_bodies()), any::<String>()],
    ) {
        let verdict = verdict(provider, status, &body);
        prop_assert!(!verdict.refuses() && verdict != Verdict::Valid, "{verdict:?}");
    }

    #[test]
    fn a_refusal_cut_short_refuses_nothing(
        provider in any_provider(),
        status in 200_u16..500,
        body in prop::sample::select(refusing_bodies()),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(body.len());
        let verdict = verdict(provider, status, body.get(..cut).unwrap_or_default());
        prop_assert!(!verdict.refuses(), "{verdict:?}");
    }

    #[test]
    fn pages_and_unknown_bodies_neither_refuse_nor_accept(
        provider in any_provider(),
        status in 100_u16..=999,
        body in prop_oneof![
            "<html>.*</html>",
            "[\\[\"0-9a-z].{0,40}",
            Just("null".to_owned()),
            Just("[]".to_owned()),
            "[a-z]{1,8}".prop_map(|word| format!(r#"{{"x{word}":{{"message":"{word}"}}}}"#)),
            "[a-z ]{1,12}".prop_map(|word| format!(r#"{{"error":{{"message":"{word}","type":"{word}","code":"{word}"}}}}"#)),
            "[a-z ]{1,12}".prop_map(|word| format!(r#"{{"error":"x {word}","detail":"x {word}","message":"x {word}"}}"#)),
        ],
    ) {
        let verdict = verdict(provider, status, &body);
        prop_assert!(!verdict.refuses() && verdict != Verdict::Valid, "{verdict:?}");
    }

    #[test]
    fn a_missing_endpoint_never_refuses(
        provider in any_provider(),
        status in prop_oneof![Just(404_u16), Just(405_u16), Just(408_u16), Just(409_u16), Just(422_u16)],
        body in prop::sample::select(refusing_bodies()),
    ) {
        prop_assert!(!verdict(provider, status, &body).refuses());
    }
}
