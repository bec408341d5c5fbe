use serde_json::Value;

use super::*;
use crate::provider::{
    exchange::tests::{reply, shown},
    google_account::{
        Identity,
        tests::{account_with_federation, account_with_key},
    },
};

fn body(request: &Request) -> String {
    String::from_utf8(request.body.clone().unwrap_or_default()).unwrap()
}

#[test]
fn an_assertion_is_signed_for_googles_own_endpoint_and_for_an_hour() {
    let account = account_with_key();
    let access = account.google().unwrap();
    let Identity::Key(key) = &access.identity else { panic!("no key") };
    let request = for_key(access, key, DateTime::from_timestamp(1_800_000_000, 0).unwrap()).unwrap();
    let (line, headers) = shown(&request);
    assert_eq!(line, "POST https://oauth2.googleapis.com/token");
    assert_eq!(headers, ["accept: application/json", "content-type: application/x-www-form-urlencoded"]);
    let form = body(&request);
    let assertion = form
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    assert_eq!(signature, BASE64URL_NOPAD.encode(&key.sign(signed).unwrap()));
    let parts: Vec<Value> = signed
        .split('.')
        .map(|part| serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap())
        .collect();
    let [header, claims] = &parts[..] else { panic!("{signed}") };
    assert_eq!(
        header,
        &json!({"alg": "RS256", "typ": "JWT", "kid": "0123456789abcdef0123456789abcdef01234567"})
    );
    assert_eq!(
        claims,
        &json!({
            "iss": "minter@contoso-llm.iam.gserviceaccount.com", "aud": "https://oauth2.googleapis.com/token",
            "scope": "https://www.googleapis.com/auth/cloud-platform", "iat": 1_800_000_000, "exp": 1_800_003_600,
        })
    );
}

#[test]
fn the_clusters_token_is_exchanged_and_another_account_acted_as() {
    let account = account_with_federation();
    let access = account.google().unwrap();
    let Identity::Federation(federation) = &access.identity else { panic!("no federation") };
    let request = for_federation(access, &federation.audience, &"head.body.sign".into());
    assert_eq!(shown(&request).0, "POST https://sts.googleapis.com/v1/token");
    assert_eq!(
        body(&request),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
         &audience=%2F%2Fiam.googleapis.com%2Fprojects%2F123%2Flocations%2Fglobal%2FworkloadIdentityPools%2Fpool%2Fproviders%2Fcluster\
         &scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform\
         &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&subject_token=head.body.sign"
    );
    let request =
        for_impersonation(access, federation.impersonates.as_deref().unwrap(), &"ya29.federated".into());
    let request = request.ok().unwrap();
    let (line, headers) = shown(&request);
    assert_eq!(
        line,
        "POST https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/minter@contoso-llm.iam.gserviceaccount.com:generateAccessToken"
    );
    assert!(headers.contains(&"authorization: Bearer ya29.federated".to_owned()));
    let sent: Value = serde_json::from_str(&body(&request)).unwrap();
    assert_eq!(
        sent,
        json!({"scope": ["https://www.googleapis.com/auth/cloud-platform"], "lifetime": "3600s"})
    );
}

#[test]
fn a_token_of_another_account_is_taken_or_refused_by_the_status() {
    let granted = read_impersonation(&reply(
        200,
        &[],
        r#"{"accessToken":"ya29.c.abc...","expireTime":"2026-11-22T11:00:00Z"}"#,
    ));
    assert_eq!(granted.ok().unwrap().token.expose_str(), Some("ya29.c.abc..."));
    let error = |status: u16, word: &str| {
        json!({"error": {"code": status, "message": "m", "status": word}}).to_string()
    };
    for (status, body, wanted) in [
        (403, error(403, "PERMISSION_DENIED"), ErrorClass::Forbidden),
        (404, error(404, "NOT_FOUND"), ErrorClass::NotFound),
        (401, error(401, "UNAUTHENTICATED"), ErrorClass::CredentialInvalid),
        (503, error(503, "UNAVAILABLE"), ErrorClass::Server),
        (403, "<html>".into(), ErrorClass::Garbled),
        (200, "{}".into(), ErrorClass::Garbled),
        (200, r#"{"accessToken":"a b c d e f g"}"#.into(), ErrorClass::Garbled),
    ] {
        let failed = read_impersonation(&reply(status, &[], &body)).err().unwrap();
        assert_eq!(failed.class, wanted, "{status} {body}");
    }
}
