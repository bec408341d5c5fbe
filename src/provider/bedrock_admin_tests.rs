use super::*;
use crate::provider::{
    bedrock_account::tests::{account_with_keys, account_with_role},
    exchange::tests::{reply, shown},
};

const NS: &str = r#"xmlns="https://iam.amazonaws.com/doc/2010-05-08/""#;
const ID: &str = "ACCA12345678901EXAMPLE";

fn credential(tag: &str, user: &str, service: &str, secret: &str) -> String {
    format!(
        "<{tag}><CreateDate>2026-11-22T10:00:00Z</CreateDate><ServiceName>{service}</ServiceName>\
         <ServiceCredentialAlias>llm-Keys-at-111122223333</ServiceCredentialAlias>{secret}\
         <ServiceSpecificCredentialId>{ID}</ServiceSpecificCredentialId><UserName>{user}</UserName><Status>Active</Status></{tag}>"
    )
}

fn created(user: &str, service: &str, secret: &str) -> String {
    let name = "CreateServiceSpecificCredential";
    let made = credential("ServiceSpecificCredential", user, service, secret);
    format!("<{name}Response {NS}><{name}Result>{made}</{name}Result><ResponseMetadata/></{name}Response>")
}

fn listed(members: &str, end: &str) -> String {
    let name = "ListServiceSpecificCredentials";
    format!(
        "<?xml version=\"1.0\"?>\n<{name}Response {NS}>\n <{name}Result>\n  <ServiceSpecificCredentials>{members}\
         </ServiceSpecificCredentials>{end}</{name}Result></{name}Response>"
    )
}

fn error(code: &str) -> String {
    format!(
        "<ErrorResponse {NS}><Error><Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>"
    )
}

fn body(request: &Request) -> String {
    String::from_utf8(request.body.clone().unwrap_or_default()).unwrap()
}

const SECRET: &str = "<ServiceCredentialSecret>ABSKQmVkcm9ja0FQSUtleS0xMjM0</ServiceCredentialSecret>";

#[test]
fn requests_to_the_letter() {
    let of = account_with_keys(Some(90));
    let id = ProviderKeyId::parse(ID).unwrap();
    let begin = |name: &str| format!("Action={name}&Version=2010-05-08&UserName=llm-Keys");
    let mint = BedrockAdmin.mint_request(&of, "lk1-a-name-that-nobody-is-told").ok().unwrap();
    let (line, headers) = shown(&mint);
    assert_eq!(line, "POST https://iam.amazonaws.com/");
    assert_eq!(headers, ["accept: text/xml", "content-type: application/x-www-form-urlencoded"]);
    assert_eq!(
        body(&mint),
        format!(
            "{}&ServiceName=bedrock.amazonaws.com&CredentialAgeDays=90",
            begin("CreateServiceSpecificCredential")
        )
    );
    let mint = BedrockAdmin.mint_request(&account_with_role(), "x").ok().unwrap();
    assert!(!body(&mint).contains("CredentialAgeDays"));
    let list = BedrockAdmin.list_request(&of, Some("a+b")).ok().unwrap();
    assert_eq!(
        body(&list),
        format!("{}&ServiceName=bedrock.amazonaws.com&Marker=a%2Bb", begin("ListServiceSpecificCredentials"))
    );
    let delete = BedrockAdmin.revoke_request(&of, &id).ok().unwrap();
    assert_eq!(
        body(&delete),
        format!("{}&ServiceSpecificCredentialId={ID}", begin("DeleteServiceSpecificCredential"))
    );
    let off = BedrockAdmin.switch_request(&of, &id, false).ok().unwrap();
    assert_eq!(
        body(&off),
        format!(
            "{}&ServiceSpecificCredentialId={ID}&Status=Inactive",
            begin("UpdateServiceSpecificCredential")
        )
    );
    assert_eq!(body(&user_request(of.bedrock().unwrap())), begin("GetUser"));
}

#[test]
fn a_key_is_taken_only_from_an_answer_about_this_user() {
    let of = account_with_keys(None);
    let read = |status: u16, body: &str| BedrockAdmin.read_minted(&of, "x", &reply(status, &[], body));
    let made = read(200, &created("llm-keys", SERVICE, SECRET)).ok().unwrap();
    assert_eq!((made.id.as_str(), made.secret.expose_str()), (ID, Some("ABSKQmVkcm9ja0FQSUtleS0xMjM0")));
    let whole = created("llm-Keys", SERVICE, SECRET);
    for (body, code) in [
        (created("other", SERVICE, SECRET), "OtherUser"),
        (created("llm-Keys", "codecommit.amazonaws.com", SECRET), "OtherUser"),
        (created("llm-Keys", SERVICE, ""), "UnreadableReply"),
        (created("llm-Keys", SERVICE, "<ServiceCredentialSecret>a b</ServiceCredentialSecret>"), "BadSecret"),
        (whole.replace(ID, "../x"), "BadKeyId"),
        (whole[..whole.len() / 2].to_owned(), "UnreadableReply"),
        ("<html/>".to_owned(), "UnreadableReply"),
        ("{}".to_owned(), "UnreadableReply"),
    ] {
        let failed = read(200, &body).err().unwrap();
        assert!(
            matches!(&failed, MintError::UnknownOutcome(error) if error.code == code),
            "{body}: {failed}"
        );
    }
}

#[test]
fn only_iams_own_no_means_that_no_key_was_made() {
    let of = account_with_keys(None);
    for (status, body, refused, class) in [
        (409, error("LimitExceeded"), true, ErrorClass::BadRequest),
        (404, error("NoSuchEntity"), true, ErrorClass::NotFound),
        (403, error("AccessDenied"), true, ErrorClass::Forbidden),
        (403, error("InvalidClientTokenId"), true, ErrorClass::CredentialInvalid),
        (400, error("Throttling"), true, ErrorClass::RateLimited { retry_after: None }),
        (500, error("ServiceFailure"), false, ErrorClass::Server),
        (503, error("AccessDenied"), false, ErrorClass::Server),
        (409, "<html>".into(), false, ErrorClass::Garbled),
        (302, String::new(), false, ErrorClass::UnexpectedRedirect),
    ] {
        let failed = BedrockAdmin.read_minted(&of, "x", &reply(status, &[], &body)).err().unwrap();
        assert_eq!(matches!(failed, MintError::Refused(_)), refused, "{status} {body}");
        assert_eq!(failed.call().class, class, "{status} {body}");
    }
}

#[test]
fn a_list_is_of_this_user_or_nothing_and_goes_on_at_its_marker() {
    let of = account_with_keys(None);
    let read = |body: &str| BedrockAdmin.read_list(&of, None, &reply(200, &[], body));
    let ours = credential("member", "llm-Keys", SERVICE, "");
    let page = read(&listed(&ours, "<IsTruncated>true</IsTruncated><Marker>m1</Marker>")).ok().unwrap();
    assert_eq!(page.next.as_deref(), Some("m1"));
    let [key] = &page.keys[..] else { panic!("one key") };
    assert_eq!((key.id.as_str(), key.name.as_str()), (ID, ""));
    assert_eq!(key.created_at.unwrap().to_rfc3339(), "2026-11-22T10:00:00+00:00");
    let last = read(&listed("", "<IsTruncated>false</IsTruncated>")).ok().unwrap();
    assert!(last.keys.is_empty() && last.next.is_none());
    for bad in [
        listed(&credential("member", "other", SERVICE, ""), ""),
        listed(&credential("member", "llm-Keys", "cassandra.amazonaws.com", ""), ""),
        listed(&ours.replace(ID, ""), ""),
        listed(&ours, "<IsTruncated>true</IsTruncated>"),
        listed(&ours, "").replace("ServiceSpecificCredentials>", "Other>"),
        created("llm-Keys", SERVICE, SECRET),
    ] {
        assert_eq!(read(&bad).err().unwrap().class, ErrorClass::Garbled, "{bad}");
    }
}

#[test]
fn deletions_and_switches_are_believed_in_their_own_form() {
    let id = ProviderKeyId::parse(ID).unwrap();
    let answer = |name: &str| {
        format!("<{name} {NS}><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{name}>")
    };
    let revoked = |status, body: &str| BedrockAdmin.read_revocation(&id, &reply(status, &[], body));
    assert_eq!(revoked(200, &answer("DeleteServiceSpecificCredentialResponse")), Ok(Revocation::Revoked));
    assert_eq!(revoked(404, &error("NoSuchEntity")), Ok(Revocation::AlreadyGone));
    assert_eq!(revoked(404, "<html/>").unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(revoked(200, "<html/>").unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(revoked(403, &error("AccessDenied")).unwrap_err().class, ErrorClass::Forbidden);
    let switched = |body: &str| BedrockAdmin.read_switched(&id, true, &reply(200, &[], body));
    assert_eq!(switched(&answer("UpdateServiceSpecificCredentialResponse")), Ok(()));
    assert!(switched(&answer("DeleteServiceSpecificCredentialResponse")).is_err());
}

#[test]
fn a_user_of_another_aws_account_is_not_the_one() {
    let of = account_with_keys(None);
    let read = |arn: &str| {
        let body = format!(
            "<GetUserResponse {NS}><GetUserResult><User><UserName>llm-Keys</UserName><Arn>{arn}</Arn></User></GetUserResult></GetUserResponse>"
        );
        read_user(of.bedrock().unwrap(), &reply(200, &[], &body)).map_err(|error| error.code)
    };
    assert_eq!(read("arn:aws:iam::111122223333:user/llm-Keys"), Ok(()));
    assert_eq!(read("arn:aws:iam::111122223333:user/team/a/llm-keys"), Ok(()));
    for other in [
        "arn:aws:iam::444455556666:user/llm-Keys",
        "arn:aws:iam::111122223333:user/llm-Keys/other",
        "arn:aws:iam::111122223333:role/llm-Keys",
        "arn:aws-cn:iam::111122223333:user/llm-Keys",
        "",
    ] {
        assert!(read(other).is_err(), "{other}");
    }
}
