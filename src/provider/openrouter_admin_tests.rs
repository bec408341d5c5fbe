use super::*;
use crate::provider::{
    AdminCredential, Endpoint,
    exchange::tests::{reply, shown},
};

const MANAGEMENT: &str = "sk-or-v1-management0123456789";
const SECRET: &str = "sk-or-v1-0123456789abcdef0123456789abcdef";
const WORKSPACE: &str = "0df9e665-d932-5740-b2c7-b52af166bc11";
const HASH: &str = "f01d52606dc8f0a8303a7b5cc3fa07109c2e346cec7c0a16b40de462992ce943";

fn account_in(workspace: &str) -> Account {
    let credential = AdminCredential::from_secret_data(b"openrouter.ai", &MANAGEMENT.into()).unwrap();
    Account::new(Endpoint::public(ProviderType::OpenRouter).unwrap(), workspace, credential).unwrap()
}

fn account() -> Account {
    account_in(WORKSPACE)
}

/// With the optional fields of the specification, and one that it does not know.
fn full(hash: &str, name: &str, workspace: Option<&str>) -> Value {
    json!({
        "hash": hash, "name": name, "label": "sk-or-v1-0e6...1c96", "disabled": false, "limit": null,
        "limit_remaining": null, "limit_reset": null, "include_byok_in_limit": false, "usage": 0, "usage_daily": 0,
        "created_at": "2026-08-24T10:30:00Z", "updated_at": null, "creator_user_id": "user_1",
        "workspace_id": workspace, "of_tomorrow": {"a": 1},
    })
}

fn created(name: &str, hash: &str, value: &str) -> String {
    json!({"data": full(hash, name, None), "key": value}).to_string()
}

fn error(code: u16) -> String {
    json!({"error": {"code": code, "message": "canary text", "metadata": {}}, "user_id": "u"}).to_string()
}

#[test]
fn every_request_is_the_documented_one() {
    let id = ProviderKeyId::parse(HASH).unwrap();
    let account = account();
    let base = "https://openrouter.ai/api/v1";
    let rest = format!("include_disabled=true&workspace_id={WORKSPACE}");
    let requests = [
        (OpenRouterAdmin.account_request(&account), format!("GET {base}/workspaces/{WORKSPACE}")),
        (OpenRouterAdmin.list_request(&account, None), format!("GET {base}/keys?offset=0&{rest}")),
        (OpenRouterAdmin.list_request(&account, Some("99:abc")), format!("GET {base}/keys?offset=99&{rest}")),
        (OpenRouterAdmin.revoke_request(&account, &id), format!("DELETE {base}/keys/{HASH}")),
    ];
    for (request, expected) in requests {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        assert_eq!(
            headers,
            ["accept: application/json".to_owned(), format!("authorization: Bearer {MANAGEMENT}")]
        );
        assert!(request.body.is_none());
    }
    let mint = OpenRouterAdmin.mint_request(&account, "lk1-a").ok().unwrap();
    let (line, headers) = shown(&mint);
    assert_eq!(line, format!("POST {base}/keys"));
    assert!(headers.contains(&"content-type: application/json".to_owned()));
    let body = format!(r#"{{"name":"lk1-a","workspace_id":"{WORKSPACE}"}}"#);
    assert_eq!(mint.body.as_deref(), Some(body.as_bytes()));
    for (on, body) in [(false, r#"{"disabled":true}"#), (true, r#"{"disabled":false}"#)] {
        let switch = OpenRouterAdmin.switch_request(&account, &id, on).ok().unwrap();
        assert_eq!(shown(&switch).0, format!("PATCH {base}/keys/{HASH}"));
        assert_eq!(switch.body.as_deref(), Some(body.as_bytes()));
    }
}

#[test]
fn a_key_is_switched_only_if_openrouter_shows_it() {
    let id = ProviderKeyId::parse(HASH).unwrap();
    let read = |on, status, body: &str| OpenRouterAdmin.read_switched(&id, on, &reply(status, &[], body));
    let shown = |hash: &str, disabled: bool| {
        json!({"data": {"hash": hash, "name": "lk1-a", "disabled": disabled, "of_tomorrow": 1}}).to_string()
    };
    assert_eq!(read(false, 200, &shown(HASH, true)), Ok(()));
    assert_eq!(read(true, 200, &shown(HASH, false)), Ok(()));
    for (on, status, body, class) in [
        (false, 200, shown(HASH, false), ErrorClass::Garbled),
        (true, 200, shown(HASH, true), ErrorClass::Garbled),
        (true, 200, shown("other", false), ErrorClass::Garbled),
        (true, 200, json!({"data": {"hash": HASH}}).to_string(), ErrorClass::Garbled),
        (true, 404, error(404), ErrorClass::NotFound),
        (true, 404, "<html>".to_owned(), ErrorClass::Garbled),
        (false, 503, error(503), ErrorClass::Server),
    ] {
        assert_eq!(read(on, status, &body).unwrap_err().class, class, "{on} {status} {body}");
    }
}

#[test]
fn an_account_is_the_workspace_that_answers() {
    let read = |status, body: &str| OpenRouterAdmin.read_account(&account(), &reply(status, &[], body));
    let found =
        |id: &str| json!({"data": {"id": id, "name": "w", "slug": "w", "of_tomorrow": 1}}).to_string();
    assert_eq!(read(200, &found(WORKSPACE)), Ok(()));
    assert_eq!(read(200, &found("other")).unwrap_err().code, "OtherWorkspace");
    for (status, body, class) in [
        (200, "{}".to_owned(), ErrorClass::Garbled),
        (401, error(401), ErrorClass::CredentialInvalid),
        (403, error(403), ErrorClass::Forbidden),
        (404, error(404), ErrorClass::NotFound),
        (404, "<html>".to_owned(), ErrorClass::Garbled),
        (500, error(500), ErrorClass::Server),
    ] {
        assert_eq!(read(status, &body).unwrap_err().class, class, "{status} {body}");
    }
}

#[test]
fn a_mint_is_read_in_full_or_its_outcome_is_unknown() {
    let account = account();
    let minted = |body: &str| OpenRouterAdmin.read_minted(&account, "lk1-a", &reply(201, &[], body));
    let mut inside = json!({"data": full(HASH, "lk1-a", None)});
    inside["data"]["key"] = Value::from(SECRET);
    let least = json!({"data": {"hash": HASH, "name": "lk1-a"}, "key": SECRET}).to_string();
    let whole = created("lk1-a", HASH, SECRET);
    for body in [whole.clone(), least, inside.to_string()] {
        let good = minted(&body).ok().unwrap();
        assert_eq!((good.id.as_str(), good.secret.expose()), (HASH, SECRET.as_bytes()));
    }
    for body in [
        "",
        "<html>ok</html>",
        whole.get(..whole.len() - 1).unwrap(),
        "{}",
        &json!({"data": full(HASH, "lk1-a", None)}).to_string(),
        &created("lk1-b", HASH, SECRET),
        &json!({"data": full(HASH, "lk1-a", Some("w-3")), "key": SECRET}).to_string(),
        &created("lk1-a", "../x", SECRET),
        &created("lk1-a", HASH, "sk-or-v1-short"),
        &created("lk1-a", HASH, "sk-0123456789abcdef0123"),
        &created("lk1-a", HASH, MANAGEMENT),
    ] {
        let failed = minted(body).err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{body}");
        assert_eq!(failed.call().class, ErrorClass::Garbled);
    }
}

#[test]
fn only_openrouters_own_no_is_a_refused_mint() {
    let failed = |status, body: &str| {
        OpenRouterAdmin.read_minted(&account(), "lk1-a", &reply(status, &[], body)).err().unwrap()
    };
    for (status, class) in [
        (400, ErrorClass::BadRequest),
        (401, ErrorClass::CredentialInvalid),
        (402, ErrorClass::BadRequest),
        (403, ErrorClass::Forbidden),
        (404, ErrorClass::NotFound),
        (429, ErrorClass::RateLimited { retry_after: None }),
    ] {
        let refused = failed(status, &error(status));
        assert!(matches!(refused, MintError::Refused(_)), "{status}");
        assert_eq!(refused.call().class, class);
        assert!(!refused.to_string().contains("canary"));
    }
    for (status, body) in [
        (302, error(302)),
        (403, "<html>blocked</html>".to_owned()),
        (403, json!({"error": "blocked"}).to_string()),
        (403, error(500)),
        (408, error(408)),
        (499, error(499)),
        (500, error(500)),
        (503, error(503)),
    ] {
        assert!(matches!(failed(status, &body), MintError::UnknownOutcome(_)), "{status} {body}");
    }
}

#[test]
fn each_page_begins_with_the_last_key_of_the_one_before() {
    let page = |after: Option<&str>, hashes: &[&str]| {
        let data: Vec<Value> = hashes.iter().map(|hash| full(hash, "n", None)).collect();
        let body = json!({"data": data}).to_string();
        OpenRouterAdmin.read_list(&account(), after, &reply(200, &[], &body)).map(|page| {
            let ids: Vec<String> = page.keys.iter().map(|key| key.id.as_str().to_owned()).collect();
            (ids.concat(), page.next)
        })
    };
    assert_eq!(page(None, &[]).unwrap(), (String::new(), None));
    assert_eq!(page(None, &["a", "b", "c"]).unwrap(), ("abc".to_owned(), Some("2:c".to_owned())));
    assert_eq!(page(Some("2:c"), &["c", "d"]).unwrap(), ("d".to_owned(), Some("3:d".to_owned())));
    assert_eq!(page(Some("3:d"), &["d"]).unwrap(), (String::new(), None));
    // A key was made meanwhile: what shifted down was read before.
    assert_eq!(page(Some("2:c"), &["b", "c", "d"]).unwrap(), ("d".to_owned(), Some("4:d".to_owned())));
    // A key was deleted meanwhile: `d` may stand where it is not read any more.
    for moved in [["d", "e"].as_slice(), &[]] {
        assert_eq!(page(Some("2:c"), moved).err().unwrap().code, "ListMoved");
    }
    assert_eq!(page(Some("no cursor"), &["c"]).err().unwrap().code, "BadCursor");
}

#[test]
fn a_list_tells_name_and_time_and_is_believed_only_of_the_workspace_asked_for() {
    let read =
        |body: &Value| OpenRouterAdmin.read_list(&account(), None, &reply(200, &[], &body.to_string()));
    let listed = [full(HASH, "lk1-a", Some(WORKSPACE)), json!({"hash": "b", "name": "a person's"})];
    let keys = read(&json!({"data": listed})).ok().unwrap().keys;
    assert_eq!((keys[0].id.as_str(), keys[0].name.as_str()), (HASH, "lk1-a"));
    assert_eq!(keys[0].created_at, time(Some("2026-08-24T10:30:00Z")));
    assert!(keys[0].created_at.is_some());
    assert_eq!((keys[1].name.as_str(), keys[1].created_at), ("a person's", None));
    for (body, code) in [
        (json!({"data": [full(HASH, "lk1-a", Some("w-3"))]}), "OtherWorkspace"),
        (json!({"data": [{"hash": "../x", "name": "n"}]}), "BadKeyId"),
        (json!({"data": [{"hash": HASH}]}), "UnreadableReply"),
        (json!({}), "UnreadableReply"),
    ] {
        assert_eq!(read(&body).err().unwrap().code, code);
    }
}

#[test]
fn a_revocation_is_openrouters_own_word() {
    let id = ProviderKeyId::parse(HASH).unwrap();
    let read = |status, body: &str| OpenRouterAdmin.read_revocation(&id, &reply(status, &[], body));
    assert_eq!(read(200, r#"{"deleted":true}"#), Ok(Revocation::Revoked));
    assert_eq!(read(404, &error(404)), Ok(Revocation::AlreadyGone));
    assert_eq!(read(200, r#"{"deleted":false}"#).unwrap_err().code, "NotDeleted");
    assert_eq!(read(404, "<html>").unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(read(401, &error(401)).unwrap_err().class, ErrorClass::CredentialInvalid);
    assert_eq!(read(500, "").unwrap_err().class, ErrorClass::Server);
}
