use super::*;
use crate::provider::{
    AdminCredential, Endpoint,
    account::AccountError,
    exchange::tests::{reply, shown},
};

const MANAGEMENT: &str = "xai-token-0123456789abcdef";
const SECRET: &str = "xai-0123456789abcdef0123456789abcdef";
const TEAM: &str = "0df9e665-d932-5740-b2c7-b52af166bc11";
const ID: &str = "1c9e665d-d932-5740-b2c7-b52af166bc22";

fn account_bound_to(host: &str) -> Result<Account, AccountError> {
    let credential = AdminCredential::from_secret_data(host.as_bytes(), &MANAGEMENT.into())?;
    let endpoint = Endpoint::public(ProviderType::XAI).map_err(|_| AccountError::BadUrl)?;
    Account::managed_at(endpoint, XAI_MANAGEMENT, TEAM, credential)
}

fn account() -> Account {
    account_bound_to("management-api.x.ai").unwrap()
}

fn id() -> ProviderKeyId {
    ProviderKeyId::parse(ID).unwrap()
}

/// With the fields of the reference, and one that it does not have.
fn full(id: &str, name: &str, team: Option<&str>) -> Value {
    json!({
        "redactedApiKey": "xai-...ef", "userId": "u", "name": name, "createTime": "2026-08-24T10:30:00Z",
        "modifyTime": "2026-08-24T10:30:00Z", "teamId": team, "apiKeyId": id, "disabled": false, "expireTime": null,
        "qps": 5, "qpm": 100, "tpm": null, "aclStrings": ["api-key:model:*"], "ofTomorrow": {"a": 1},
    })
}

fn created(name: &str, id: &str, value: &str) -> String {
    let mut body = full(id, name, Some(TEAM));
    body["apiKey"] = json!(value);
    body.to_string()
}

fn error() -> String {
    json!({"code": "not-found", "error": "canary text"}).to_string()
}

#[test]
fn the_management_key_goes_to_the_management_host_only() {
    assert!(account_bound_to("management-api.x.ai").is_ok());
    let refused = account_bound_to("api.x.ai").err().unwrap();
    assert!(matches!(refused, AccountError::HostMismatch { .. }));
    assert_eq!(account().authority(), "management-api.x.ai:443");
}

#[test]
fn every_request_is_the_documented_one() {
    let (account, id) = (account(), id());
    let base = "https://management-api.x.ai/auth";
    let team = format!("{base}/teams/{TEAM}/api-keys");
    for (request, expected) in [
        (XaiAdmin.account_request(&account), format!("GET {team}?pageSize=1")),
        (XaiAdmin.list_request(&account, None), format!("GET {team}?pageSize=100")),
        (
            XaiAdmin.list_request(&account, Some("t 1")),
            format!("GET {team}?pageSize=100&paginationToken=t+1"),
        ),
        (XaiAdmin.revoke_request(&account, &id), format!("DELETE {base}/api-keys/{ID}")),
        (XaiAdmin.spread_request(&account, &id), format!("GET {base}/api-keys/{ID}/propagation")),
    ] {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        let bearer = format!("authorization: Bearer {MANAGEMENT}");
        assert_eq!(headers, ["accept: application/json", bearer.as_str()]);
        assert!(request.body.is_none());
    }
    let mint = XaiAdmin.mint_request(&account, "lk1-a").ok().unwrap();
    assert_eq!(shown(&mint).0, format!("POST {team}"));
    let body = r#"{"acls":["api-key:model:*","api-key:endpoint:*"],"name":"lk1-a"}"#;
    assert_eq!(mint.body.as_deref(), Some(body.as_bytes()));
    for (on, body) in [
        (false, r#"{"apiKey":{"disabled":true},"fieldMask":"disabled"}"#),
        (true, r#"{"apiKey":{"disabled":false},"fieldMask":"disabled"}"#),
    ] {
        let switch = XaiAdmin.switch_request(&account, &id, on).ok().unwrap();
        assert_eq!(shown(&switch).0, format!("PUT {base}/api-keys/{ID}"));
        assert_eq!(switch.body.as_deref(), Some(body.as_bytes()));
    }
}

#[test]
fn a_mint_is_read_in_full_or_its_outcome_is_unknown() {
    let account = account();
    let minted = |body: &str| XaiAdmin.read_minted(&account, "lk1-a", &reply(200, &[], body));
    let whole = created("lk1-a", ID, SECRET);
    let least = json!({"apiKeyId": ID, "name": "lk1-a", "apiKey": SECRET}).to_string();
    for body in [&whole, &least] {
        let good = minted(body).ok().unwrap();
        assert_eq!((good.id.as_str(), good.secret.expose()), (ID, SECRET.as_bytes()));
    }
    let mut elsewhere = full(ID, "lk1-a", Some("another"));
    elsewhere["apiKey"] = json!(SECRET);
    for body in [
        "",
        "<html>ok</html>",
        whole.get(..whole.len() - 1).unwrap(),
        "{}",
        &full(ID, "lk1-a", Some(TEAM)).to_string(),
        &created("lk1-b", ID, SECRET),
        &elsewhere.to_string(),
        &created("lk1-a", "../x", SECRET),
        &created("lk1-a", ID, "xai-short"),
        &created("lk1-a", ID, "sk-0123456789abcdef0123"),
        &created("lk1-a", ID, MANAGEMENT),
    ] {
        let failed = minted(body).err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{body}");
        assert_eq!(failed.call().class, ErrorClass::Garbled);
    }
}

#[test]
fn only_xais_own_no_is_a_refused_mint() {
    let failed = |status, body: &str| {
        XaiAdmin.read_minted(&account(), "lk1-a", &reply(status, &[], body)).err().unwrap()
    };
    let gateway = json!({"code": 7, "message": "canary text", "details": []}).to_string();
    for (status, body, class) in [
        (400, error(), ErrorClass::BadRequest),
        (401, error(), ErrorClass::CredentialInvalid),
        (403, gateway, ErrorClass::Forbidden),
        (404, error(), ErrorClass::NotFound),
        (429, error(), ErrorClass::RateLimited { retry_after: None }),
    ] {
        let refused = failed(status, &body);
        assert!(matches!(refused, MintError::Refused(_)), "{status}");
        assert_eq!(refused.call().class, class);
        assert!(!refused.to_string().contains("canary"));
    }
    for (status, body) in [
        (302, error()),
        (403, "<html>blocked</html>".to_owned()),
        (403, json!({"error": "blocked"}).to_string()),
        (408, error()),
        (500, error()),
        (503, error()),
    ] {
        assert!(matches!(failed(status, &body), MintError::UnknownOutcome(_)), "{status} {body}");
    }
}

#[test]
fn a_list_goes_on_from_its_token_and_is_believed_only_of_the_team() {
    let read = |body: &Value| XaiAdmin.read_list(&account(), None, &reply(200, &[], &body.to_string()));
    let keys = [full(ID, "lk1-a", Some(TEAM)), json!({"apiKeyId": "b", "name": "a person's"})];
    let page = read(&json!({"apiKeys": keys, "paginationToken": "t1"})).ok().unwrap();
    assert_eq!(page.next.as_deref(), Some("t1"));
    assert_eq!((page.keys[0].name.as_str(), page.keys[1].id.as_str()), ("lk1-a", "b"));
    assert!(page.keys[0].created_at.is_some() && page.keys[1].created_at.is_none());
    for end in [json!({"apiKeys": []}), json!({"apiKeys": [], "paginationToken": ""})] {
        assert_eq!(read(&end).ok().unwrap().next, None);
    }
    for (body, code) in [
        (json!({"apiKeys": [full(ID, "lk1-a", Some("another"))]}), "OtherTeam"),
        (json!({"apiKeys": [{"apiKeyId": "../x", "name": "n"}]}), "BadKeyId"),
        (json!({"apiKeys": [{"apiKeyId": ID}]}), "UnreadableReply"),
        (json!({}), "UnreadableReply"),
    ] {
        assert_eq!(read(&body).err().unwrap().code, code);
    }
}

#[test]
fn a_revocation_and_a_switch_are_xais_own_word() {
    let revoked = |status, body: &str| XaiAdmin.read_revocation(&id(), &reply(status, &[], body));
    for body in ["{}", ""] {
        assert_eq!(revoked(200, body), Ok(Revocation::Revoked));
    }
    assert_eq!(revoked(404, &error()), Ok(Revocation::AlreadyGone));
    assert_eq!(revoked(404, "<html>").unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(revoked(401, &error()).unwrap_err().class, ErrorClass::CredentialInvalid);
    assert_eq!(revoked(500, "").unwrap_err().class, ErrorClass::Server);

    let shown =
        |id: &str, disabled: bool| json!({"apiKeyId": id, "name": "n", "disabled": disabled}).to_string();
    let switched = |on, status, body: &str| XaiAdmin.read_switched(&id(), on, &reply(status, &[], body));
    assert_eq!(switched(false, 200, &shown(ID, true)), Ok(()));
    assert_eq!(switched(true, 200, &shown(ID, false)), Ok(()));
    for (on, status, body, class) in [
        (false, 200, shown(ID, false), ErrorClass::Garbled),
        (true, 200, shown("other", false), ErrorClass::Garbled),
        (true, 200, json!({"apiKeyId": ID}).to_string(), ErrorClass::Garbled),
        (true, 404, error(), ErrorClass::NotFound),
        (false, 503, error(), ErrorClass::Server),
    ] {
        assert_eq!(switched(on, status, &body).unwrap_err().class, class, "{status} {body}");
    }
}

#[test]
fn a_key_has_spread_when_every_cluster_says_so_and_what_is_not_understood_says_nothing() {
    let read = |status, body: &Value| XaiAdmin.read_spread(&reply(status, &[], &body.to_string()));
    assert_eq!(read(200, &json!({"icPropagation": {"a": true, "b": true}})), Some(true));
    assert_eq!(read(200, &json!({"icPropagation": {"a": true, "b": false}})), Some(false));
    for (status, body) in [
        (200, json!({"icPropagation": {}})),
        (200, json!({"icPropagation": {"a": "yes"}})),
        (200, json!({"icPropagation": [true]})),
        (200, json!({"of": "tomorrow"})),
        (404, json!({"icPropagation": {"a": false}})),
    ] {
        assert_eq!(read(status, &body), None, "{status} {body}");
    }
}
