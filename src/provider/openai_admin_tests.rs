use super::*;
use crate::provider::{
    AdminCredential, Endpoint,
    exchange::tests::{reply, shown},
};

const ADMIN: &str = "sk-admin-0123456789abcdef";
const SECRET: &str = "sk-svcacct-0123456789abcdefT3BlbkFJ";

fn account() -> Account {
    account_with(ADMIN)
}

fn account_with(credential: &str) -> Account {
    let credential = AdminCredential::from_secret_data(b"api.openai.com", &credential.into()).unwrap();
    Account::new(Endpoint::public(ProviderType::OpenAI).unwrap(), "proj_1", credential).unwrap()
}

fn id() -> ProviderKeyId {
    ProviderKeyId::parse("svc_acct_1/key_1").unwrap()
}

fn created(name: &str, account: &str, key: &str, value: &str) -> String {
    json!({
        "object": "organization.project.service_account", "id": account, "name": name, "role": "member",
        "created_at": 1_711_471_533,
        "api_key": {"object": "organization.project.service_account.api_key", "value": value, "name": "Secret Key",
            "created_at": 1_711_471_533, "id": key, "expires_at": null}
    })
    .to_string()
}

fn error(code: Option<&str>) -> String {
    json!({"error": {"message": "canary text", "type": "invalid_request_error", "param": null, "code": code}})
        .to_string()
}

#[test]
fn every_request_is_the_documented_one() {
    let account = account();
    let base = "https://api.openai.com/v1/organization/projects/proj_1";
    let requests = [
        (OpenAIAdmin.account_request(&account), format!("GET {base}")),
        (OpenAIAdmin.list_request(&account, None), format!("GET {base}/service_accounts?limit=100")),
        (
            OpenAIAdmin.list_request(&account, Some("svc_acct_9")),
            format!("GET {base}/service_accounts?limit=100&after=svc_acct_9"),
        ),
        (OpenAIAdmin.last_used_request(&account, "key_1"), format!("GET {base}/api_keys/key_1")),
        (OpenAIAdmin.revoke_request(&account, &id()), format!("DELETE {base}/service_accounts/svc_acct_1")),
    ];
    for (request, expected) in requests {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        assert_eq!(headers, ["accept: application/json", "authorization: Bearer sk-admin-0123456789abcdef"]);
        assert!(request.body.is_none());
    }
    let mint = OpenAIAdmin.mint_request(&account, "lk1-a").ok().unwrap();
    let (line, headers) = shown(&mint);
    assert_eq!(line, format!("POST {base}/service_accounts"));
    assert_eq!(headers.len(), 3);
    assert!(headers.contains(&"content-type: application/json".to_owned()));
    assert_eq!(mint.body.as_deref(), Some(br#"{"name":"lk1-a"}"#.as_slice()));
}

#[test]
fn a_mint_is_read_in_full_or_its_outcome_is_unknown() {
    let account = account();
    let minted = |body: &str| OpenAIAdmin.read_minted(&account, "lk1-a", &reply(200, &[], body));
    let good = minted(&created("lk1-a", "svc_acct_1", "key_1", SECRET)).ok().unwrap();
    assert_eq!(good.id, id());
    assert_eq!(good.secret.expose(), SECRET.as_bytes());
    let full = created("lk1-a", "svc_acct_1", "key_1", SECRET);
    for body in [
        "",
        "<html>ok</html>",
        full.get(..full.len() - 1).unwrap(),
        "{}",
        r#"{"id":"svc_acct_1","name":"lk1-a","api_key":null}"#,
        &created("lk1-b", "svc_acct_1", "key_1", SECRET),
        &created("lk1-a", "../x", "key_1", SECRET),
        &created("lk1-a", "svc_acct_1", "a/b", SECRET),
        &created("lk1-a", "svc_acct_1", "key_1", "sk-short"),
        &created("lk1-a", "svc_acct_1", "key_1", "not-a-key-0123456789abcdef"),
        &created("lk1-a", "svc_acct_1", "key_1", "sk-proj-0123456789 abcdef\n"),
        &created("lk1-a", "svc_acct_1", "key_1", ADMIN),
    ] {
        let failed = minted(body).err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{body}");
        assert_eq!(failed.call().class, ErrorClass::Garbled);
    }
}

#[test]
fn an_admin_credential_that_comes_back_is_no_new_key() {
    let account = account_with(SECRET);
    let body = created("lk1-a", "svc_acct_1", "key_1", SECRET);
    let failed = OpenAIAdmin.read_minted(&account, "lk1-a", &reply(200, &[], &body)).err().unwrap();
    assert_eq!(failed.call().code, "BadSecret");
}

#[test]
fn only_openais_own_no_is_a_refused_mint() {
    let account = account();
    let failed = |status, body: &str| {
        OpenAIAdmin.read_minted(&account, "lk1-a", &reply(status, &[], body)).err().unwrap()
    };
    for (status, code, class) in [
        (400, None, ErrorClass::BadRequest),
        (401, Some("invalid_api_key"), ErrorClass::CredentialInvalid),
        (401, None, ErrorClass::Forbidden),
        (403, None, ErrorClass::Forbidden),
        (404, None, ErrorClass::NotFound),
        (429, Some("rate_limit_exceeded"), ErrorClass::RateLimited { retry_after: None }),
    ] {
        let error = failed(status, &error(code));
        assert!(matches!(error, MintError::Refused(_)), "{status}");
        assert_eq!(error.call().class, class);
    }
    for (status, body) in [
        (302, ""),
        (400, "<html>bad gateway</html>"),
        (403, "{}"),
        (408, &*error(None)),
        (429, "<html>slow down</html>"),
        (499, &*error(None)),
        (500, &*error(None)),
        (502, "<html>bad gateway</html>"),
        (504, ""),
    ] {
        let error = failed(status, body);
        assert!(matches!(error, MintError::UnknownOutcome(_)), "{status}");
        assert!(!error.to_string().contains("canary"));
    }
}

#[test]
fn pages_must_agree_with_themselves() {
    let read = |body: &str| OpenAIAdmin.read_list(&account(), None, &reply(200, &[], body));
    let accounts = r#"[{"id":"svc_acct_1","name":"lk1-a","role":"member","created_at":1711471533},{"id":"svc_acct_2","name":"someone's"}]"#;
    let page = read(&format!(
        r#"{{"object":"list","data":{accounts},"first_id":"svc_acct_1","last_id":"svc_acct_2","has_more":true}}"#
    ))
    .ok()
    .unwrap();
    assert_eq!(page.next.as_deref(), Some("svc_acct_2"));
    assert_eq!(page.keys[0].name, "lk1-a");
    assert_eq!(page.keys[0].created_at.unwrap().to_rfc3339(), "2024-03-26T16:45:33+00:00");
    assert!(page.keys[0].id.same_handle(&id()) && page.keys[0].id.key().is_none());
    let last = read(r#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}"#);
    assert!(last.is_ok_and(|page| page.keys.is_empty() && page.next.is_none()));
    for body in [
        r#"{"data":[],"has_more":true}"#,
        r#"{"data":[]}"#,
        r#"{"data":[{"id":"svc_acct_1"}],"has_more":false}"#,
        r#"{"data":[{"id":"../x","name":"a"}],"has_more":false}"#,
        r#"{"data":[{"id":"svc_acct_1","name":"a"}],"last_id":"svc_acct_2","has_more":true}"#,
        r#"{"has_more":false}"#,
        "<html>",
    ] {
        assert_eq!(read(body).err().unwrap().class, ErrorClass::Garbled, "{body}");
    }
    let throttled = OpenAIAdmin
        .read_list(&account(), None, &reply(429, &[("retry-after", "3")], &error(None)))
        .err()
        .unwrap();
    assert_eq!(throttled.retry_after(), Some(std::time::Duration::from_secs(3)));
}

#[test]
fn last_use_and_absence() {
    let read = |status, body: &str| OpenAIAdmin.read_last_used("key_1", &reply(status, &[], body));
    let used = read(200, r#"{"id":"key_1","last_used_at":1711471533,"owner":{}}"#).unwrap();
    assert!(used.exists && used.at.is_some_and(|at| at.timestamp() == 1_711_471_533));
    for silent in [r#"{"id":"key_1"}"#, r#"{"id":"key_1","last_used_at":8210266876799999}"#] {
        assert_eq!(
            read(200, silent).unwrap_err().class,
            ErrorClass::Garbled,
            "{silent} is not a word that it was never used"
        );
    }
    let never = read(200, r#"{"id":"key_1","last_used_at":null}"#).unwrap();
    assert_eq!(never, LastUsed { at: None, exists: true });
    assert_eq!(read(404, &error(None)).unwrap(), LastUsed { at: None, exists: false });
    assert_eq!(read(404, "<html>").unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(read(200, r#"{"id":"key_2"}"#).unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(read(401, &error(Some("invalid_api_key"))).unwrap_err().class, ErrorClass::CredentialInvalid);
}

#[test]
fn revoked_only_when_openai_says_so_of_this_account() {
    let read = |status, body: &str| OpenAIAdmin.read_revocation(&id(), &reply(status, &[], body));
    let deleted =
        r#"{"object":"organization.project.service_account.deleted","id":"svc_acct_1","deleted":true}"#;
    assert_eq!(read(200, deleted), Ok(Revocation::Revoked));
    assert_eq!(read(404, &error(None)), Ok(Revocation::AlreadyGone));
    for (status, body) in [
        (200, deleted.replace("svc_acct_1", "svc_acct_2")),
        (200, deleted.replace("true", "false")),
        (200, String::new()),
        (404, "<html>".to_owned()),
        (302, String::new()),
        (500, error(None)),
        (403, error(None)),
    ] {
        assert!(read(status, &body).is_err(), "{status} {body}");
    }
}

#[test]
fn an_account_is_this_project_and_active() {
    let read = |status, body: &str| OpenAIAdmin.read_account(&account(), &reply(status, &[], body));
    let project = |id: &str, status: &str| format!(r#"{{"id":"{id}","name":"x","status":"{status}"}}"#);
    assert!(read(200, &project("proj_1", "active")).is_ok());
    assert_eq!(read(200, &project("proj_1", "archived")).unwrap_err().code, "ProjectArchived");
    assert_eq!(read(200, &project("proj_2", "active")).unwrap_err().code, "OtherProject");
    let odd = reply(403, &[("x-request-id", "req_1")], &error(None));
    let failed = OpenAIAdmin.read_account(&account(), &odd).unwrap_err();
    let sentence = "the admin credential may not do this (Forbidden, status 403)";
    assert_eq!(failed.to_string(), sentence);
}
