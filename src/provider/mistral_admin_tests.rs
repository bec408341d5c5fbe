use serde_json::Value;

use super::*;
use crate::provider::{
    AdminCredential, Endpoint,
    exchange::tests::{reply, shown},
};

const ADMIN: &str = "admin0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const WORKSPACE: &str = "0df9e665-d932-5740-b2c7-b52af166bc11";
const ID: &str = "019b2bd7-96e7-7219-8c0b-45a73da50088";

fn account() -> Account {
    let credential = AdminCredential::from_secret_data(b"api.mistral.ai", &ADMIN.into()).unwrap();
    let endpoint = Endpoint::public(ProviderType::Mistral).unwrap();
    Account::managed_at(endpoint, MISTRAL_ADMIN, WORKSPACE, credential).unwrap()
}

/// With the fields of the reference, and one that it does not have.
fn full(id: &str, name: Option<&str>, workspace: Option<&str>) -> Value {
    json!({
        "key_id": id, "name": name, "hidden_key": "0123...cdef", "key": null, "workspace_id": workspace,
        "workspace_name": null, "created_at": "2026-08-24T10:30:00Z", "created_by": null, "expiration_date": null,
        "last_used": null, "product": "API", "can_delete": null, "actions": {}, "of_tomorrow": 1,
    })
}

fn created(name: &str, id: &str, value: Option<&str>) -> String {
    json!({
        "key_id": id, "key": value, "hidden_key": "h", "name": name, "created_at": null, "expiration_date": null, "actions": {},
    })
    .to_string()
}

fn error() -> String {
    json!({"detail": "canary text"}).to_string()
}

#[test]
fn every_request_is_the_documented_one_with_the_key_in_both_places() {
    let (account, id) = (account(), ProviderKeyId::parse(ID).unwrap());
    let keys = "https://api.mistral.ai/v1/admin/api-keys";
    for (request, expected) in [
        (MistralAdmin.account_request(&account), format!("GET {keys}?limit=1&offset=0")),
        (MistralAdmin.list_request(&account, None), format!("GET {keys}?limit=100&offset=0")),
        (MistralAdmin.list_request(&account, Some("99:a")), format!("GET {keys}?limit=100&offset=99")),
        (MistralAdmin.revoke_request(&account, &id), format!("DELETE {keys}/{ID}")),
    ] {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        let (bearer, own) = (format!("authorization: Bearer {ADMIN}"), format!("x-api-key: {ADMIN}"));
        assert_eq!(headers, ["accept: application/json", bearer.as_str(), own.as_str()]);
        assert!(request.headers.values().filter(|value| value.is_sensitive()).count() == 2);
    }
    let body = |account: &Account| {
        let mint = MistralAdmin.mint_request(account, "lk1-a").ok().unwrap();
        assert_eq!(shown(&mint).0, format!("POST {keys}"));
        serde_json::from_slice::<Value>(&mint.body.unwrap()).unwrap()
    };
    assert_eq!(body(&account), json!({"name": "lk1-a", "workspace_uuid": WORKSPACE}));
    let user = account.for_user(Some("u-1"));
    assert_eq!(body(&user), json!({"name": "lk1-a", "workspace_uuid": WORKSPACE, "user_id": "u-1"}));
}

#[test]
fn a_mint_is_read_in_full_or_its_outcome_is_unknown() {
    let account = account();
    let minted = |body: &str| MistralAdmin.read_minted(&account, "lk1-a", &reply(200, &[], body));
    let whole = created("lk1-a", ID, Some(SECRET));
    let good = minted(&whole).ok().unwrap();
    assert_eq!((good.id.as_str(), good.secret.expose()), (ID, SECRET.as_bytes()));
    for body in [
        "",
        "<html>ok</html>",
        whole.get(..whole.len() - 1).unwrap(),
        "{}",
        &created("lk1-a", ID, None),
        &created("lk1-b", ID, Some(SECRET)),
        &created("lk1-a", "../x", Some(SECRET)),
        &created("lk1-a", ID, Some("short")),
        &created("lk1-a", ID, Some(ADMIN)),
    ] {
        let failed = minted(body).err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{body}");
        assert_eq!(failed.call().class, ErrorClass::Garbled);
    }
}

#[test]
fn only_mistrals_own_no_is_a_refused_mint() {
    let failed = |status, body: &str| {
        MistralAdmin.read_minted(&account(), "lk1-a", &reply(status, &[], body)).err().unwrap()
    };
    let fields = json!({"detail": [{"loc": ["body"], "msg": "canary text"}]}).to_string();
    let newer = json!({"message": "canary text", "request_id": "r"}).to_string();
    for (status, body, class) in [
        (401, error(), ErrorClass::CredentialInvalid),
        (403, newer, ErrorClass::Forbidden),
        (404, error(), ErrorClass::NotFound),
        (422, fields, ErrorClass::BadRequest),
        (429, error(), ErrorClass::RateLimited { retry_after: None }),
    ] {
        let refused = failed(status, &body);
        assert!(matches!(refused, MintError::Refused(_)), "{status}");
        assert_eq!(refused.call().class, class);
        assert!(!refused.to_string().contains("canary"));
    }
    for (status, body) in
        [(302, error()), (403, "<html>".to_owned()), (403, "{}".to_owned()), (408, error()), (500, error())]
    {
        assert!(matches!(failed(status, &body), MintError::UnknownOutcome(_)), "{status} {body}");
    }
}

#[test]
fn each_page_begins_with_the_last_key_of_the_one_before_and_other_workspaces_are_left_out() {
    let page = |after: Option<&str>, keys: &[(&str, Option<&str>)]| {
        let keys: Vec<Value> = keys.iter().map(|(id, of)| full(id, None, *of)).collect();
        let body = json!({"keys": keys}).to_string();
        MistralAdmin.read_list(&account(), after, &reply(200, &[], &body)).map(|page| {
            let ids: Vec<String> = page.keys.iter().map(|key| key.id.as_str().to_owned()).collect();
            (ids.concat(), page.next)
        })
    };
    let (here, other) = (Some(WORKSPACE), Some("another"));
    assert_eq!(page(None, &[]).unwrap(), (String::new(), None));
    let first = page(None, &[("a", here), ("b", other), ("c", other)]).unwrap();
    assert_eq!(first, ("a".to_owned(), Some("2:c".to_owned())));
    assert_eq!(
        page(Some("2:c"), &[("c", other), ("d", None)]).unwrap(),
        ("d".to_owned(), Some("3:d".to_owned()))
    );
    assert_eq!(page(Some("3:d"), &[("d", None)]).unwrap(), (String::new(), None));
    assert_eq!(page(Some("2:c"), &[("d", here)]).err().unwrap().code, "ListMoved");
    assert_eq!(page(Some("no cursor"), &[]).err().unwrap().code, "BadCursor");
}

#[test]
fn nothing_that_a_deletion_answers_is_believed_alone() {
    assert!(MistralAdmin.revocation_is_unverified());
    let id = ProviderKeyId::parse(ID).unwrap();
    let read = |status, body: &str| MistralAdmin.read_revocation(&id, &reply(status, &[], body));
    assert_eq!(read(200, ""), Ok(Revocation::Revoked));
    assert_eq!(read(404, &error()).unwrap_err().class, ErrorClass::NotFound);
    assert_eq!(read(405, &error()).unwrap_err().class, ErrorClass::BadRequest);
    assert_eq!(read(500, "").unwrap_err().class, ErrorClass::Server);
}

#[test]
fn without_consent_the_account_makes_no_key() {
    let spec = |allow: bool| {
        let block = json!({"workspace": WORKSPACE, "allowUnrecoverableMint": allow});
        serde_json::from_value(json!({"type": "Mistral", "mistral": block, "allowedNamespaces": []})).unwrap()
    };
    let names = |allow| Capabilities::of_spec(&spec(allow), true).names().collect::<Vec<_>>();
    assert_eq!(names(false), ["List", "Validate"]);
    assert_eq!(names(true), ["List", "Mint", "Validate"]);
}
