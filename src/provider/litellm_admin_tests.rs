use super::*;
use crate::{
    api::{LiteLLMAccount, ProviderType},
    provider::{
        AdminCredential, Endpoint,
        exchange::tests::{reply, shown},
    },
};

const MASTER: &str = "sk-master-0123456789";
const SECRET: &str = "sk-0123456789abcdef0123456789abcdef";
/// Another key's.
const HASH: &str = "f34aa47d7d7bc95b6dd8ea1fccd77d0c7b3e3ba7a4f0f0b3fc42b3b2bd9fbbcf";
const TEAM: &str = "team-a";
const BASE: &str = "https://llm.example/proxy";

fn account_in(team: &str) -> Account {
    let credential = AdminCredential::from_secret_data(b"llm.example", &MASTER.into()).unwrap();
    Account::new(Endpoint::local(ProviderType::LiteLLM, BASE), team, credential).unwrap()
}

fn id() -> ProviderKeyId {
    LiteLLMAdmin.id_of(&SECRET.into()).unwrap()
}

/// As LiteLLM writes an error.
fn error(status: u16, kind: &str, message: &str) -> String {
    json!({"error": {"message": message, "type": kind, "param": "key", "code": status.to_string()}})
        .to_string()
}

/// A row as lists show it, with fields that are not read.
fn row(hash: &str, alias: Option<&str>, team: Option<&str>) -> Value {
    json!({
        "token": hash, "key_name": "sk-...cdef", "key_alias": alias, "team_id": team, "spend": 0.0, "models": [],
        "created_at": "2026-08-24T10:30:00Z", "blocked": null, "of_tomorrow": {"a": 1},
    })
}

fn list(rows: &[Value], total: usize, page: usize, pages: usize) -> String {
    json!({"keys": rows, "total_count": total, "current_page": page, "total_pages": pages}).to_string()
}

struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        buffer.fill(self.0);
        Ok(())
    }
}

struct Failing;

impl Entropy for Failing {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError)
    }
}

#[test]
fn a_chosen_key_is_one_that_litellm_takes_and_its_id_is_its_hash() {
    let key = LiteLLMAdmin.choose(&mut Fixed(255)).unwrap();
    assert_eq!(key.expose(), format!("sk-{}8", "_".repeat(42)).as_bytes());
    let other = LiteLLMAdmin.choose(&mut Fixed(7)).unwrap();
    assert_ne!(key.expose(), other.expose());
    assert_eq!(crate::provider::check_shape(ProviderType::LiteLLM, &other), Ok(()));
    assert!(LiteLLMAdmin.choose(&mut Failing).is_err());
    assert_eq!(id().as_str(), HEXLOWER.encode(&Sha256::digest(SECRET)));
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(LiteLLMAdmin.id_of(&SecretBytes::new(Vec::new())).unwrap().as_str(), empty);
}

#[test]
fn every_request_is_the_documented_one_and_its_line_has_no_key() {
    let (team, none, id) = (account_in(TEAM), account_in(NO_TEAM), id());
    let hash = id.handle();
    let sorted = "size=100&return_full_object=true&sort_by=created_at&sort_order=asc";
    let requests = [
        (LiteLLMAdmin.account_request(&team), format!("GET {BASE}/team/info?team_id={TEAM}")),
        (
            LiteLLMAdmin.account_request(&none),
            format!("GET {BASE}/key/list?page=1&size=1&return_full_object=true"),
        ),
        (
            LiteLLMAdmin.list_request(&team, None),
            format!("GET {BASE}/key/list?page=1&{sorted}&team_id={TEAM}"),
        ),
        (LiteLLMAdmin.list_request(&none, Some("3:250:200")), format!("GET {BASE}/key/list?page=3&{sorted}")),
        (LiteLLMAdmin.look_request(&team, &id), format!("GET {BASE}/key/info?key={hash}")),
    ];
    for (request, expected) in requests {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        assert_eq!(
            headers,
            ["accept: application/json".to_owned(), format!("authorization: Bearer {MASTER}")]
        );
        assert!(request.body.is_none());
    }
    let delete = LiteLLMAdmin.revoke_request(&team, &id).ok().unwrap();
    assert_eq!(shown(&delete).0, format!("POST {BASE}/key/delete"));
    assert_eq!(delete.body.as_deref(), Some(format!(r#"{{"keys":["{hash}"]}}"#).as_bytes()));
    for (on, call) in [(false, "block"), (true, "unblock")] {
        let switch = LiteLLMAdmin.switch_request(&team, &id, on).ok().unwrap();
        assert_eq!(shown(&switch).0, format!("POST {BASE}/key/{call}"));
        assert_eq!(switch.body.as_deref(), Some(format!(r#"{{"key":"{hash}"}}"#).as_bytes()));
    }
    let mint = LiteLLMAdmin.mint_request(&none, "lk1-a", &SECRET.into()).ok().unwrap();
    let (line, headers) = shown(&mint);
    assert_eq!(line, format!("POST {BASE}/key/generate"));
    assert!(headers.contains(&"content-type: application/json".to_owned()));
    let body = format!(r#"{{"key":"{SECRET}","key_alias":"lk1-a"}}"#);
    assert_eq!(mint.body.as_deref(), Some(body.as_bytes()));
}

#[test]
fn a_key_is_switched_only_if_the_proxy_shows_it() {
    let read = |on, status, body: &str| LiteLLMAdmin.read_switched(&id(), on, &reply(status, &[], body));
    let row = |blocked: Value| json!({"token": id().handle(), "blocked": blocked}).to_string();
    assert_eq!(read(false, 200, &row(json!(true))), Ok(()));
    assert_eq!(read(true, 200, &row(json!(false))), Ok(()));
    assert_eq!(read(true, 200, &row(Value::Null)), Ok(()));
    for (on, status, body) in [
        (false, 200, row(json!(false))),
        (false, 200, row(Value::Null)),
        (true, 200, row(json!(true))),
        (true, 200, "[]".into()),
    ] {
        assert_eq!(read(on, status, &body).unwrap_err().class, ErrorClass::Garbled, "{on} {body}");
    }
}

#[test]
fn a_mint_says_what_the_key_may_do() {
    let terms = LiteLLMAccount {
        team_id: Some(TEAM.into()),
        models: vec!["gpt-4o".into(), "claude".into()],
        max_budget: Some("25.50".into()),
        budget_duration: Some("30d".into()),
        tpm_limit: Some(1000),
        rpm_limit: Some(10),
    };
    let account = account_in(TEAM).with_lite_llm(Some(&terms));
    let mint = LiteLLMAdmin.mint_request(&account, "lk1-a", &SECRET.into()).ok().unwrap();
    let body: Value = serde_json::from_slice(mint.body.as_deref().unwrap()).unwrap();
    assert_eq!(
        body,
        json!({
            "key": SECRET, "key_alias": "lk1-a", "team_id": TEAM, "models": ["gpt-4o", "claude"], "max_budget": 25.5,
            "budget_duration": "30d", "tpm_limit": 1000, "rpm_limit": 10,
        })
    );
}

#[test]
fn a_mint_is_done_only_if_the_proxy_took_the_chosen_key() {
    let read = |body: &str| LiteLLMAdmin.read_minted(&id(), &SECRET.into(), &reply(200, &[], body));
    let whole =
        json!({"key": SECRET, "token_id": id().handle(), "token": id().handle(), "key_name": "sk-...cdef"});
    for body in [whole.to_string(), json!({"key": SECRET}).to_string()] {
        assert_eq!(read(&body), Ok(()));
    }
    for body in [
        String::new(),
        "<html>ok</html>".into(),
        "{}".into(),
        whole.to_string().replace(SECRET, "sk-of-the-proxys-own-choice"),
        json!({"key": SECRET, "token_id": HASH}).to_string(),
    ] {
        let failed = read(&body).unwrap_err();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{body}");
        assert_eq!(failed.call().class, ErrorClass::Garbled);
    }
}

#[test]
fn only_litellms_own_no_is_a_refused_mint_and_a_taken_name_is_none() {
    let failed = |status, body: &str| {
        LiteLLMAdmin.read_minted(&id(), &SECRET.into(), &reply(status, &[], body)).unwrap_err()
    };
    let disabled = "Custom API key values are disabled by your administrator.";
    for (status, kind, message, class) in [
        (400, "bad_request_error", "canary", ErrorClass::BadRequest),
        (400, "budget_exceeded", "canary", ErrorClass::BadRequest),
        (401, "auth_error", "canary", ErrorClass::CredentialInvalid),
        (403, "auth_error", "canary", ErrorClass::Forbidden),
        (403, "auth_error", disabled, ErrorClass::CustomKeysDisabled),
        (404, "not_found_error", "canary", ErrorClass::NotFound),
        (429, "throttling_error", "canary", ErrorClass::RateLimited { retry_after: None }),
    ] {
        let refused = failed(status, &error(status, kind, message));
        assert!(matches!(refused, MintError::Refused(_)), "{status}");
        assert_eq!(refused.call().class, class, "{status} {message}");
        assert!(!refused.to_string().contains("canary"));
    }
    // A request that came twice: the first one made the key.
    let taken = "Key with alias 'lk1-a' already exists. Unique key aliases across all keys are required.";
    let taken = failed(400, &error(400, "bad_request_error", taken));
    assert!(matches!(taken, MintError::UnknownOutcome(_)));
    assert_eq!(taken.call().code, "NameTaken");
    let database = failed(500, &error(500, "no_db_connection", "No connected db."));
    assert_eq!((database.call().class, database.call().code), (ErrorClass::Server, "NoDatabase"));
    for (status, body) in [
        (302, error(302, "", "moved")),
        (403, "<html>blocked</html>".to_owned()),
        (403, json!({"detail": "blocked"}).to_string()),
        (403, error(500, "auth_error", "of another status")),
        (408, error(408, "timeout", "slow")),
        (500, error(500, "internal_server_error", "canary")),
        (503, error(503, "no_db_connection", "canary")),
    ] {
        assert!(matches!(failed(status, &body), MintError::UnknownOutcome(_)), "{status} {body}");
    }
}

#[test]
fn a_look_believes_only_the_proxys_own_word() {
    let read = |status, body: &str| LiteLLMAdmin.read_look(&id(), &reply(status, &[], body));
    let found =
        |status: Value| json!({"key": id().handle(), "info": {"key_alias": "lk1-a", "status": status}});
    for (status, there) in [(Value::Null, true), (json!("active"), true), (json!("deleted"), false)] {
        assert_eq!(read(200, &found(status).to_string()), Ok(there));
    }
    assert_eq!(read(404, &error(404, "not_found_error", "Key not found in database")), Ok(false));
    for (status, body, class) in [
        (200, json!({"key": HASH, "info": {}}).to_string(), ErrorClass::Garbled),
        (200, "{}".to_owned(), ErrorClass::Garbled),
        (404, json!({"detail": "Not Found"}).to_string(), ErrorClass::Garbled),
        (404, error(404, "team_not_found", "another thing"), ErrorClass::NotFound),
        (401, error(401, "auth_error", "no"), ErrorClass::CredentialInvalid),
        (500, error(500, "no_db_connection", "down"), ErrorClass::Server),
    ] {
        assert_eq!(read(status, &body).unwrap_err().class, class, "{status} {body}");
    }
}

#[test]
fn a_list_counts_only_as_a_whole() {
    let pages = |after: Option<&str>, body: &str| {
        LiteLLMAdmin.read_list(&account_in(TEAM), after, &reply(200, &[], body)).map(|page| {
            let names: Vec<String> = page.keys.into_iter().map(|key| key.name).collect();
            (names.join(","), page.next)
        })
    };
    let rows = [row("a1", Some("lk1-a"), Some(TEAM)), row("b2", None, Some(TEAM))];
    assert_eq!(pages(None, &list(&[], 0, 1, 0)).unwrap(), (String::new(), None));
    assert_eq!(pages(None, &list(&rows, 2, 1, 1)).unwrap(), ("lk1-a,".to_owned(), None));
    let first = pages(None, &list(&rows, 3, 1, 2)).unwrap();
    assert_eq!(first.1.as_deref(), Some("2:3:2"));
    assert_eq!(pages(Some("2:3:2"), &list(&rows[..1], 3, 2, 2)).unwrap(), ("lk1-a".to_owned(), None));
    for (after, body, code) in [
        (Some("2:3:2"), list(&rows[..1], 2, 2, 2), "ListMoved"),
        (Some("2:3:2"), list(&[], 3, 2, 2), "ListMoved"),
        (Some("2:3:2"), list(&rows[..1], 3, 1, 2), "OtherPage"),
        (Some("no cursor"), list(&rows, 2, 1, 1), "BadCursor"),
        (None, list(&[row("../x", None, Some(TEAM))], 1, 1, 1), "BadKeyId"),
        (None, list(&[row("a1", None, Some("team-b"))], 1, 1, 1), "OtherTeam"),
        (None, "{}".to_owned(), "UnreadableReply"),
    ] {
        assert_eq!(pages(after, &body).unwrap_err().code, code);
    }
}

#[test]
fn without_a_team_only_keys_of_no_team_are_told() {
    let rows = [row("a1", Some("lk1-a"), Some(TEAM)), row("b2", Some("lk1-b"), None)];
    let body = list(&rows, 2, 1, 1);
    let page = LiteLLMAdmin.read_list(&account_in(NO_TEAM), None, &reply(200, &[], &body)).ok().unwrap();
    assert_eq!(page.keys.len(), 1);
    assert_eq!((page.keys[0].id.as_str(), page.keys[0].name.as_str()), ("b2", "lk1-b"));
    assert!(page.keys[0].created_at.is_some());
}

#[test]
fn an_account_is_the_team_that_answers_or_the_right_to_list() {
    let read = |team, status, body: &str| {
        LiteLLMAdmin.read_account(&account_in(team), &reply(status, &[], body)).map_err(|error| error.class)
    };
    let team = |id: &str| json!({"team_id": id, "team_info": {}, "keys": []}).to_string();
    assert_eq!(read(TEAM, 200, &team(TEAM)), Ok(()));
    assert_eq!(read(NO_TEAM, 200, &list(&[], 0, 1, 0)), Ok(()));
    for (team_id, status, body, class) in [
        (TEAM, 200, team("team-b"), ErrorClass::Garbled),
        (TEAM, 404, error(404, "not_found_error", "no team"), ErrorClass::NotFound),
        (NO_TEAM, 200, "{}".to_owned(), ErrorClass::Garbled),
        (NO_TEAM, 401, error(401, "auth_error", "no"), ErrorClass::CredentialInvalid),
        (NO_TEAM, 500, error(500, "no_db_connection", "No connected db."), ErrorClass::Server),
    ] {
        assert_eq!(read(team_id, status, &body), Err(class), "{status} {body}");
    }
}

#[test]
fn a_revocation_is_litellms_own_word() {
    let read = |status, body: &str| LiteLLMAdmin.read_revocation(&id(), &reply(status, &[], body));
    assert_eq!(read(200, &json!({"deleted_keys": [id().handle()]}).to_string()), Ok(Revocation::Revoked));
    assert_eq!(read(404, &error(404, "not_found_error", "No keys found")), Ok(Revocation::AlreadyGone));
    assert_eq!(read(200, r#"{"deleted_keys":[]}"#).unwrap_err().code, "NotDeleted");
    assert_eq!(read(404, r#"{"detail":"Not Found"}"#).unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(read(403, &error(403, "auth_error", "no")).unwrap_err().class, ErrorClass::Forbidden);
    assert_eq!(read(500, "").unwrap_err().class, ErrorClass::Server);
}
