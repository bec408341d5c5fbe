use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::provider::{
    exchange::tests::{reply, shown},
    google_account::tests::account_with_key,
};

const ID: &str = "lk1-aaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbb-1-0001abcdefgh";
const KEYS: &str = "https://apikeys.googleapis.com/v2/projects/contoso-llm/locations/global/keys";
const VALUE: &str = "AIzaSy0123456789abcdef0123456789abcdefg";

fn id() -> ProviderKeyId {
    ProviderKeyId::parse(ID).unwrap()
}

/// As `manage` gives it to requests.
fn account() -> Account {
    account_with_key().holding(&"ya29.token".into())
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body.clone().unwrap_or_default()).unwrap_or_default()
}

/// As Google writes an error.
fn error(status: u16, word: &str, reason: &str) -> String {
    json!({"error": {
        "code": status, "message": "of key AIzaSy0123456789", "status": word,
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}],
    }})
    .to_string()
}

fn key(id: &str, deleted: bool) -> Value {
    let mut key = json!({
        "name": format!("projects/123456867718/locations/global/keys/{id}"), "uid": "b7ff1f9f-8275-410a-94dd-3855ee9b5dd2",
        "displayName": "renamed by hand", "createTime": "2026-11-22T10:00:00.123456Z", "updateTime": "2026-11-22T10:00:01Z",
        "restrictions": {"apiTargets": [{"service": GEMINI}]}, "etag": "W/\"abc\"", "of_tomorrow": {"a": 1},
    });
    if deleted {
        key["deleteTime"] = json!("2026-11-23T10:00:00Z");
    }
    key
}

fn operation(done: bool, more: Value) -> String {
    let mut operation = json!({"name": "operations/akmf.p7-123.abc", "done": done});
    if let (Some(operation), Value::Object(more)) = (operation.as_object_mut(), more) {
        operation.extend(more);
    }
    operation.to_string()
}

#[test]
fn requests_to_the_letter() {
    let account = account();
    let bearer = ["accept: application/json", "authorization: Bearer ya29.token"];
    let get = |request: Result<Request, Unsendable>| {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(headers, bearer, "{line}");
        assert!(request.headers["authorization"].is_sensitive() && request.body.is_none());
        line
    };
    assert_eq!(get(GoogleAdmin.account_request(&account)), format!("GET {KEYS}?pageSize=1"));
    assert_eq!(get(GoogleAdmin.list_request(&account, None)), format!("GET {KEYS}?pageSize=100"));
    let next = format!("GET {KEYS}?pageSize=100&pageToken=a%2Fb%3D%26c");
    assert_eq!(get(GoogleAdmin.list_request(&account, Some("a/b=&c"))), next);
    assert_eq!(get(GoogleAdmin.look_request(&account, &id())), format!("GET {KEYS}/{ID}"));
    assert_eq!(get(GoogleAdmin.value_request(&account, &id())), format!("GET {KEYS}/{ID}/keyString"));
    let deletion = format!("DELETE {KEYS}/{ID}?checkExistingUsage=SKIP");
    assert_eq!(get(GoogleAdmin.revoke_request(&account, &id())), deletion);
    let operation = get(GoogleAdmin.operation_request(&account, "operations/akmf.p7-123"));
    assert_eq!(operation, "GET https://apikeys.googleapis.com/v2/operations/akmf.p7-123");
    let create = GoogleAdmin.mint_request(&account, &id()).ok().unwrap();
    assert_eq!(shown(&create).0, format!("POST {KEYS}?keyId={ID}"));
    assert_eq!(
        body(&create),
        json!({
            "displayName": ID, "restrictions": {"apiTargets": [{"service": "generativelanguage.googleapis.com"}]},
            "serviceAccountEmail": "gemini@contoso-llm.iam.gserviceaccount.com",
        })
    );
}

#[test]
fn a_request_is_over_under_way_refused_or_nobody_knows() {
    let made = |status: u16, body: &str| GoogleAdmin.read_making(&reply(status, &[], body));
    let under_way = Ok(Making::UnderWay("operations/akmf.p7-123.abc".into()));
    assert_eq!(made(200, &operation(false, json!({}))), under_way);
    assert_eq!(made(200, r#"{"name":"operations/akmf.p7-123.abc"}"#), under_way);
    assert_eq!(made(200, &operation(true, json!({"response": key(ID, false)}))), Ok(Making::Over));
    // The same id once more: what is there is read.
    assert_eq!(made(409, &error(409, "ALREADY_EXISTS", "X")), Ok(Making::Over));
    assert_eq!(made(200, &operation(true, json!({"error": {"code": 6}}))), Ok(Making::Over));
    for (status, body, class) in [
        (400, error(400, "INVALID_ARGUMENT", "X"), ErrorClass::BadRequest),
        (401, error(401, "UNAUTHENTICATED", "X"), ErrorClass::CredentialInvalid),
        (403, error(403, "PERMISSION_DENIED", "X"), ErrorClass::Forbidden),
        (404, error(404, "NOT_FOUND", "X"), ErrorClass::NotFound),
        (429, error(429, "RESOURCE_EXHAUSTED", "X"), ErrorClass::RateLimited { retry_after: None }),
        (200, operation(true, json!({"error": {"code": 3}})), ErrorClass::BadRequest),
        (200, operation(true, json!({"error": {"code": 7, "message": "m"}})), ErrorClass::Forbidden),
        (200, operation(true, json!({"error": {"code": 8}})), ErrorClass::RateLimited { retry_after: None }),
    ] {
        let refused = made(status, &body).unwrap_err();
        assert!(matches!(&refused, MintError::Refused(error) if error.class == class), "{body}: {refused}");
        assert!(!refused.to_string().contains("AIza"), "{refused}");
    }
    for (status, body) in [
        (409, error(409, "ABORTED", "X")),
        (408, error(408, "X", "X")),
        (500, error(500, "INTERNAL", "X")),
        (503, error(503, "UNAVAILABLE", "X")),
        (403, "<html>".to_owned()),
        (409, "<html>".to_owned()),
        (302, String::new()),
        (200, "{}".to_owned()),
        (200, r#"{"name":"operations/x"#.to_owned()),
        (200, r#"{"name":"../../v1/secrets"}"#.to_owned()),
        (200, r#"{"name":"operations/.."}"#.to_owned()),
        (200, operation(true, json!({"error": {"code": 13}}))),
        (200, operation(true, json!({"error": {}}))),
    ] {
        let unknown = made(status, &body).unwrap_err();
        assert!(matches!(unknown, MintError::UnknownOutcome(_)), "{status} {body}: {unknown}");
    }
    // Once the request was taken, no answer to a later question undoes it.
    for body in [error(403, "PERMISSION_DENIED", "X"), error(404, "NOT_FOUND", "X")] {
        let status = if body.contains("404") { 404 } else { 403 };
        let failed = GoogleAdmin.read_operation(&reply(status, &[], &body)).unwrap_err();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{failed}");
    }
}

#[test]
fn a_key_is_there_deleted_or_not_there() {
    let look = |status: u16, body: &str| GoogleAdmin.read_look(&id(), &reply(status, &[], body));
    assert_eq!(look(200, &key(ID, false).to_string()), Ok(Presence::There));
    assert_eq!(look(200, &key(ID, true).to_string()), Ok(Presence::Deleted));
    assert_eq!(look(404, &error(404, "NOT_FOUND", "X")), Ok(Presence::Absent));
    for (status, body, class) in [
        (404, "<html>".to_owned(), ErrorClass::Garbled),
        (404, error(403, "NOT_FOUND", "X"), ErrorClass::Garbled),
        (200, key("another", false).to_string(), ErrorClass::Garbled),
        (200, "{}".to_owned(), ErrorClass::Garbled),
        (403, error(403, "PERMISSION_DENIED", "X"), ErrorClass::Forbidden),
        (500, error(500, "INTERNAL", "X"), ErrorClass::Server),
    ] {
        assert_eq!(look(status, &body).unwrap_err().class, class, "{status} {body}");
    }
    let value = |body: &str| GoogleAdmin.read_value(&reply(200, &[], body));
    let good = value(&json!({"keyString": VALUE}).to_string()).ok().unwrap();
    assert_eq!(good.expose_str(), Some(VALUE));
    for bad in [
        "{}",
        r#"{"keyString":""}"#,
        r#"{"keyString":"with spaces in it and more"}"#,
        r#"{"keyString":null}"#,
    ] {
        assert_eq!(value(bad).err().unwrap().class, ErrorClass::Garbled, "{bad}");
    }
}

#[test]
fn a_list_tells_ids_and_leaves_deleted_keys_out() {
    let page = |body: &str| GoogleAdmin.read_list(&account(), None, &reply(200, &[], body));
    let all =
        json!({"keys": [key(ID, false), key("by-hand", false), key("gone", true)], "nextPageToken": "n"});
    let found = page(&all.to_string()).ok().unwrap();
    let names: Vec<_> = found.keys.iter().map(|key| (key.id.as_str(), key.name.as_str())).collect();
    assert_eq!(names, [(ID, ID), ("by-hand", "by-hand")]);
    assert_eq!(found.keys[0].created_at.unwrap().timestamp(), 1_795_341_600);
    assert_eq!(found.next.as_deref(), Some("n"));
    let none = page("{}").ok().unwrap();
    assert!(none.keys.is_empty() && none.next.is_none(), "what is empty is left out");
    assert!(page(r#"{"keys":[],"nextPageToken":""}"#).ok().unwrap().next.is_none());
    for bad in [
        "[]".to_owned(),
        r#"{"status":"ok"}"#.to_owned(),
        "<html>".to_owned(),
        json!({"keys": [{"name": "no id"}]}).to_string(),
        json!({"keys": [key("a b", false)]}).to_string(),
        json!({"keys": [], "nextPageToken": "a b"}).to_string(),
    ] {
        assert_eq!(page(&bad).err().unwrap().class, ErrorClass::Garbled, "{bad}");
    }
}

#[test]
fn a_deletion_has_begun_was_done_before_or_has_failed() {
    let revoked = |status: u16, body: &str| GoogleAdmin.read_revocation(&id(), &reply(status, &[], body));
    assert_eq!(revoked(200, &operation(false, json!({}))), Ok(Revocation::Revoked));
    assert_eq!(revoked(200, &operation(true, json!({"response": key(ID, true)}))), Ok(Revocation::Revoked));
    assert_eq!(revoked(404, &error(404, "NOT_FOUND", "X")), Ok(Revocation::AlreadyGone));
    assert_eq!(revoked(200, &operation(true, json!({"error": {"code": 5}}))), Ok(Revocation::AlreadyGone));
    for (status, body, class) in [
        (400, error(400, "FAILED_PRECONDITION", "X"), ErrorClass::BadRequest),
        (403, error(403, "PERMISSION_DENIED", "SERVICE_DISABLED"), ErrorClass::Forbidden),
        (404, "<html>".to_owned(), ErrorClass::Garbled),
        (200, "{}".to_owned(), ErrorClass::Garbled),
        (200, operation(true, json!({"error": {"code": 13}})), ErrorClass::Server),
    ] {
        assert_eq!(revoked(status, &body).unwrap_err().class, class, "{status} {body}");
    }
    let disabled = revoked(403, &error(403, "PERMISSION_DENIED", "SERVICE_DISABLED")).unwrap_err();
    assert_eq!(disabled.code, "ApiNotEnabled");
    let slow = r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"41s"}]}}"#;
    assert_eq!(revoked(429, slow).unwrap_err().retry_after(), Some(Duration::from_secs(41)));
}

proptest! {
    /// Whatever comes from whomever: a key counts as not made only if Google says so in its own form.
    #[test]
    fn no_stranger_says_that_no_key_was_made(status in 200u16..600, body in ".{0,80}") {
        let read = GoogleAdmin.read_making(&reply(status, &[], &body));
        prop_assert!(matches!(read, Err(MintError::UnknownOutcome(_))), "{status} {body}");
        let told = GoogleAdmin.read_look(&id(), &reply(status, &[], &body));
        prop_assert!(told.is_err());
        prop_assert!(GoogleAdmin.read_revocation(&id(), &reply(status, &[], &body)).is_err());
    }

    #[test]
    fn of_googles_own_words_only_a_status_of_not_done_refuses(status in 300u16..600) {
        let read = GoogleAdmin.read_making(&reply(status, &[], &error(status, "X", "X")));
        let not_done = matches!(status, 400..=407 | 410..=451);
        prop_assert_eq!(matches!(read, Err(MintError::Refused(_))), not_done, "{}", status);
    }
}
