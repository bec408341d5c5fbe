use super::*;
use crate::provider::{
    bedrock_account::tests::account_with_role,
    exchange::tests::{reply, shown},
};

/// The sandbox computes the signature a second time, by itself; here it is the scope that counts.
#[test]
fn a_request_is_signed_for_iam_in_its_one_region() {
    let url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08".parse().unwrap();
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let keys = AwsKeys::new("AKIAIOSFODNN7EXAMPLE", secret.into(), None).unwrap();
    let now = DateTime::parse_from_rfc3339("2015-08-30T12:36:00Z").unwrap().with_timezone(&Utc);
    let signed = signature(Request::get(url), &keys, now).ok().unwrap();
    let (_, headers) = shown(&signed);
    assert!(headers.contains(&"x-amz-date: 20150830T123600Z".to_owned()), "{headers:?}");
    let wanted = "authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20150830/us-east-1/iam/aws4_request, \
                  SignedHeaders=content-type;host;x-amz-date, Signature=";
    assert!(headers.iter().any(|header| header.starts_with(wanted)), "{headers:?}");
    assert!(signed.headers["authorization"].is_sensitive());
}

#[test]
fn a_session_token_is_signed_along() {
    let url = "https://iam.amazonaws.com/".parse().unwrap();
    let keys =
        AwsKeys::new("ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/EXAMPLE".into(), Some("FwoGZXIvYXdzEA".into()))
            .unwrap();
    let signed =
        signature(request(url, b"Action=GetUser".to_vec()), &keys, DateTime::UNIX_EPOCH).ok().unwrap();
    let (_, headers) = shown(&signed);
    assert!(headers.contains(&"x-amz-security-token: FwoGZXIvYXdzEA".to_owned()), "{headers:?}");
    let signed_headers = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,";
    assert!(headers.iter().any(|header| header.contains(signed_headers)), "{headers:?}");
    assert!(signed.headers["x-amz-security-token"].is_sensitive());
    assert_eq!(signed.body.as_deref(), Some(&b"Action=GetUser"[..]));
}

#[test]
fn the_clusters_token_is_sent_to_sts_unsigned() {
    let of = account_with_role();
    let access = of.bedrock().unwrap();
    let Signer::Role(role) = &access.signer else { panic!("no role") };
    let request = role_request(access, role, &"head.body.sign".into());
    let (line, headers) = shown(&request);
    assert_eq!(line, "POST https://sts.eu-central-1.amazonaws.com/");
    assert_eq!(headers, ["accept: text/xml", "content-type: application/x-www-form-urlencoded"]);
    assert_eq!(
        String::from_utf8(request.body.unwrap()).unwrap(),
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15\
         &RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Foperators%2Fllmkey&RoleSessionName=llmkey-operator\
         &DurationSeconds=3600&WebIdentityToken=head.body.sign"
    );
}

#[test]
fn keys_of_a_role_are_taken_or_refused_in_words_of_our_own() {
    let name = "AssumeRoleWithWebIdentity";
    let answer = |keys: &str| {
        format!(
            r#"<{name}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{name}Result><Credentials>{keys}</Credentials></{name}Result></{name}Response>"#
        )
    };
    let whole = answer(
        "<SessionToken>FwoGZXIvYXdzEA</SessionToken><SecretAccessKey>wJalrXUtnFEMI/EXAMPLE</SecretAccessKey>\
         <Expiration>2026-11-22T11:00:00Z</Expiration><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId>",
    );
    let keys = read_role(&reply(200, &[], &whole)).ok().unwrap();
    assert_eq!(keys.id, "ASIAIOSFODNN7EXAMPLE");
    assert_eq!(keys.session_token.unwrap().expose_str(), Some("FwoGZXIvYXdzEA"));
    let error = |code: &str| format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>");
    for (status, body, class, word) in [
        (400, error("InvalidIdentityToken"), ErrorClass::CredentialInvalid, "TokenRefused"),
        (400, error("ExpiredTokenException"), ErrorClass::CredentialInvalid, "TokenRefused"),
        (403, error("AccessDenied"), ErrorClass::CredentialInvalid, "TokenRefused"),
        (403, error("IDPRejectedClaim"), ErrorClass::CredentialInvalid, "TokenRefused"),
        (400, error("IDPCommunicationError"), ErrorClass::Server, "IdentityProviderNotReached"),
        (500, error("InternalFailure"), ErrorClass::Server, "ServerError"),
        (200, answer("<AccessKeyId>x</AccessKeyId>"), ErrorClass::Garbled, "BadToken"),
        (200, "{}".into(), ErrorClass::Garbled, "UnreadableReply"),
        (403, "<html>".into(), ErrorClass::Garbled, "UnreadableReply"),
    ] {
        let failed = read_role(&reply(status, &[], &body)).err().unwrap();
        assert_eq!((failed.class, failed.code), (class, word), "{status} {body}");
    }
}
