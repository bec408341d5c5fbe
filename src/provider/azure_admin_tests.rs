use std::time::Duration;

use super::*;
use crate::provider::{
    azure_account::access_for_tests,
    exchange::tests::{reply, shown},
};

const PATH: &str = "33333333-3333-4333-8333-333333333333/rg-(prod)/contoso";
const ACCOUNT: &str = "https://management.azure.com/subscriptions/33333333-3333-4333-8333-333333333333/resourceGroups/rg-(prod)\
                       /providers/Microsoft.CognitiveServices/accounts/contoso";
const KEY1: &str = "0123456789abcdef0123456789abcdef";
const KEY2: &str = "fedcba9876543210fedcba9876543210";

fn text(request: &Request) -> String {
    String::from_utf8(request.body.clone().unwrap_or_default()).unwrap()
}

#[test]
fn requests_to_the_letter() {
    let access = access_for_tests(Some("a secret~1"));
    let token: SecretBytes = "token-0123".into();
    let list = AzureAdmin.read_request(&access, PATH, &token).ok().unwrap();
    assert_eq!(shown(&list).0, format!("POST {ACCOUNT}/listKeys?api-version=2025-09-01"));
    assert_eq!(shown(&list).1, ["accept: application/json", "authorization: Bearer token-0123"]);
    assert!(list.body.is_none());
    let renew = AzureAdmin.renew_request(&access, PATH, "Key2", &token).ok().unwrap();
    assert_eq!(shown(&renew).0, format!("POST {ACCOUNT}/regenerateKey?api-version=2025-09-01"));
    assert_eq!(text(&renew), r#"{"keyName":"Key2"}"#);
    assert!(renew.headers["authorization"].is_sensitive());
}

#[test]
fn a_token_is_asked_for_with_a_secret_or_an_assertion() {
    let access = access_for_tests(Some("a+secret~1"));
    let begin = "grant_type=client_credentials&client_id=66666666-7777-8888-9999-000000000000\
                 &scope=https%3A%2F%2Fmanagement.azure.com%2F.default";
    let secret = token_request(&access, &Proof::Secret("a+secret~1".into()));
    let url = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token";
    assert_eq!(shown(&secret).0, format!("POST {url}"));
    assert_eq!(
        shown(&secret).1,
        ["accept: application/json", "content-type: application/x-www-form-urlencoded"]
    );
    assert_eq!(text(&secret), format!("{begin}&client_secret=a%2Bsecret%7E1"));
    let assertion = token_request(&access, &Proof::Assertion("head.body.sign".into()));
    let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    assert_eq!(
        text(&assertion),
        format!("{begin}&client_assertion_type={kind}&client_assertion=head.body.sign")
    );
}

#[test]
fn both_slots_are_read_and_the_second_comes_first() {
    let slots = |body: &str| AzureAdmin.read_slots(&reply(200, &[], body));
    let found = slots(&format!(r#"{{"key1": "{KEY1}", "key2": "{KEY2}"}}"#)).ok().unwrap();
    let told: Vec<_> = found.iter().map(|slot| (slot.slot, slot.secret.expose_str().unwrap())).collect();
    assert_eq!(told, [("Key2", KEY2), ("Key1", KEY1)]);
    for bad in [
        "{}",
        "<html>",
        &format!(r#"{{"key1": "{KEY1}"}}"#),
        &format!(r#"{{"key1": "{KEY1}", "key2": null}}"#),
        &format!(r#"{{"key1": "{KEY1}", "key2": ""}}"#),
        &format!(r#"{{"key1": "{KEY1}", "key2": "a key\n with spaces in it"}}"#),
    ] {
        let failed = slots(bad).err().unwrap();
        assert_eq!(failed.class, ErrorClass::Garbled, "{bad}");
    }
}

#[test]
fn errors_of_the_management_api_by_their_status_if_they_are_its_own() {
    let own = |code: &str| format!(r#"{{"error": {{"code": "{code}", "message": "m"}}}}"#);
    for (status, body, wanted) in [
        (401, own("InvalidAuthenticationToken"), ErrorClass::CredentialInvalid),
        (401, own("ExpiredAuthenticationToken"), ErrorClass::CredentialInvalid),
        (403, own("AuthorizationFailed"), ErrorClass::Forbidden),
        (404, own("ResourceNotFound"), ErrorClass::NotFound),
        (404, own("ResourceGroupNotFound"), ErrorClass::NotFound),
        (400, own("InvalidKeyName"), ErrorClass::BadRequest),
        (409, own("RequestConflict"), ErrorClass::BadRequest),
        (429, own("TooManyRequests"), ErrorClass::RateLimited { retry_after: None }),
        (500, own("InternalServerError"), ErrorClass::Server),
        (404, "<html>".into(), ErrorClass::Garbled),
        (401, "{}".into(), ErrorClass::Garbled),
    ] {
        let failed = AzureAdmin.read_slots(&reply(status, &[], &body)).err().unwrap();
        assert_eq!(failed.class, wanted, "{status} {body}");
        let renewed = AzureAdmin.read_renewed(&reply(status, &[], &body)).unwrap_err();
        let refused = matches!(status, 400..=499) && body.contains("error");
        assert_eq!(matches!(renewed, MintError::Refused(_)), refused, "{status} {body}");
        assert_eq!(renewed.call().class, wanted);
    }
    let wait = reply(429, &[("retry-after", "17")], &own("TooManyRequests"));
    let failed = AzureAdmin.read_slots(&wait).err().unwrap();
    assert_eq!(failed.retry_after(), Some(Duration::from_secs(17)));
    assert_eq!(AzureAdmin.read_renewed(&reply(200, &[], "what it says is not read")), Ok(()));
}
