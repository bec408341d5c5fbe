use serde_json::Value;

use super::*;
use crate::{
    api::ProviderType,
    provider::{
        AdminCredential, Endpoint, UsageQuestion,
        exchange::tests::{reply, shown},
        usage::{At, Report, Sums},
    },
};

const ADMIN: &str = "sk-ant-admin01-0123456789";
const KEY: &str = "sk-ant-api03-R2D-0123456789abcdef-igAA";
const ID: &str = "apikey_01Rj2N8SVvo6BePZj99NhmiT";
const WORKSPACE: &str = "wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ";

fn account_in(workspace: &str) -> Account {
    let credential = AdminCredential::from_secret_data(b"api.anthropic.com", &ADMIN.into()).unwrap();
    Account::new(Endpoint::public(ProviderType::Anthropic).unwrap(), workspace, credential).unwrap()
}

fn account() -> Account {
    account_in(WORKSPACE)
}

fn id() -> ProviderKeyId {
    ProviderKeyId::parse(ID).unwrap()
}

/// With all fields of the reference, and one that it does not have.
fn key(id: &str, status: &str, hint: Option<&str>, workspace: Option<&str>) -> Value {
    json!({
        "id": id, "type": "api_key", "name": "Developer Key", "status": status, "created_at": "2024-10-30T23:58:27.427722Z",
        "expires_at": null, "partial_key_hint": hint, "created_by": {"id": "user_1", "type": "user"},
        "principal": {"id": "user_1", "type": "user"}, "workspace_id": workspace, "of_tomorrow": {"a": 1},
    })
}

fn list(keys: &[Value], more: bool) -> String {
    let id = |key: Option<&Value>| key.map_or(Value::Null, |key| key["id"].clone());
    json!({"data": keys, "has_more": more, "first_id": id(keys.first()), "last_id": id(keys.last())})
        .to_string()
}

fn error(kind: &str) -> String {
    json!({"type": "error", "error": {"type": kind, "message": "canary text"}, "request_id": "req_1"})
        .to_string()
}

#[test]
fn every_request_is_the_documented_one() {
    let (account, id) = (account(), id());
    let keys = "https://api.anthropic.com/v1/organizations/api_keys";
    let rest = format!("workspace_id={WORKSPACE}");
    let all = account_in(DEFAULT_WORKSPACE);
    for (request, expected) in [
        (AnthropicAdmin.account_request(&account), format!("GET {keys}?limit=1&{rest}")),
        (AnthropicAdmin.list_request(&account, None), format!("GET {keys}?limit=1000&{rest}")),
        (
            AnthropicAdmin.hints_request(&account, Some(ID)),
            format!("GET {keys}?limit=1000&{rest}&after_id={ID}"),
        ),
        (AnthropicAdmin.hints_request(&all, None), format!("GET {keys}?limit=1000")),
        (AnthropicAdmin.look_request(&account, &id), format!("GET {keys}/{ID}")),
    ] {
        let request = request.ok().unwrap();
        let (line, headers) = shown(&request);
        assert_eq!(line, expected);
        let own = format!("x-api-key: {ADMIN}");
        assert_eq!(headers, ["accept: application/json", "anthropic-version: 2023-06-01", own.as_str()]);
        assert!(request.body.is_none());
    }
    for (request, status) in [
        (AnthropicAdmin.revoke_request(&account, &id), "inactive"),
        (AnthropicAdmin.close_request(&account, &id), "archived"),
        (AnthropicAdmin.switch_request(&account, &id, false), "inactive"),
        (AnthropicAdmin.switch_request(&account, &id, true), "active"),
    ] {
        let request = request.ok().unwrap();
        assert_eq!(shown(&request).0, format!("POST {keys}/{ID}"));
        assert_eq!(request.body.as_deref(), Some(json!({"status": status}).to_string().as_bytes()));
    }
}

#[test]
fn a_key_is_told_by_its_hint_and_one_that_shows_too_little_by_none() {
    let read = |keys: &[Value]| {
        let reply = reply(200, &[], &list(keys, false));
        let (ids, next) = AnthropicAdmin.read_hints(&account(), &KEY.into(), &reply).unwrap();
        assert_eq!(next, None);
        ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let here = Some(WORKSPACE);
    let fits = key(ID, "active", Some("sk-ant-api03-R2D...igAA"), here);
    let others: Vec<Value> = [
        Some("sk-ant-api03-R2D...igAB"),
        Some("sk-ant-api03-R2E...igAA"),
        Some("sk-ant-api03-...igAA"),
        Some("sk-ant-api03-R2D...AA"),
        Some("..."),
        Some("sk-ant-api03-R2D-0123456789abcdef-i...gAA-and-more"),
        Some(KEY),
        None,
    ]
    .iter()
    .map(|hint| key("apikey_2", "active", *hint, here))
    .collect();
    assert!(read(&others).is_empty());
    let mut all = others;
    all.push(fits.clone());
    assert_eq!(read(&all), [ID]);
    // Whatever its status: which of the two it is, is not told.
    all.push(key("apikey_3", "inactive", Some("sk-ant-api03-R2D...igAA"), here));
    assert_eq!(read(&all), [ID, "apikey_3"]);
}

#[test]
fn only_the_workspace_counts_and_a_named_one_is_believed_only_if_all_are_in_it() {
    let hint = Some("sk-ant-api03-R2D...igAA");
    let body =
        list(&[key(ID, "active", hint, None), key("apikey_2", "active", hint, Some(WORKSPACE))], false);
    let read = |account: &Account| AnthropicAdmin.read_hints(account, &KEY.into(), &reply(200, &[], &body));
    assert_eq!(read(&account()).err().unwrap().code, "OtherWorkspace");
    let default = read(&account_in(DEFAULT_WORKSPACE)).ok().unwrap().0;
    assert_eq!(default.iter().map(ProviderKeyId::as_str).collect::<Vec<_>>(), [ID]);
    // The newer form has it inside `scope`.
    let mut scoped = key(ID, "active", hint, None);
    scoped["scope"] = json!({"type": "workspace", "workspace_id": WORKSPACE});
    let body = list(&[scoped], false);
    let found = AnthropicAdmin.read_hints(&account(), &KEY.into(), &reply(200, &[], &body)).ok().unwrap().0;
    assert_eq!(found.len(), 1);
}

#[test]
fn a_list_tells_of_keys_that_work_and_goes_on_from_its_last_one() {
    let read = |body: &str| AnthropicAdmin.read_list(&account(), None, &reply(200, &[], body));
    let here = Some(WORKSPACE);
    let states = ["active", "inactive", "archived", "expired"];
    let keys: Vec<Value> =
        states.iter().map(|status| key(&format!("apikey_{status}"), status, None, here)).collect();
    let page = read(&list(&keys, true)).ok().unwrap();
    assert_eq!(page.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["apikey_active"]);
    assert_eq!(page.next.as_deref(), Some("apikey_expired"));
    assert!(page.keys[0].created_at.is_some());
    for (body, code) in [
        (list(&[], true), "InconsistentList"),
        (json!({"data": keys, "has_more": false, "last_id": "apikey_9"}).to_string(), "InconsistentList"),
        (list(&[key("../x", "active", None, here)], false), "BadKeyId"),
        (list(&[key(ID, "of_tomorrow", None, here)], false), "UnreadableReply"),
        ("{}".to_owned(), "UnreadableReply"),
    ] {
        assert_eq!(read(&body).err().unwrap().code, code, "{body}");
    }
}

#[test]
fn a_key_is_ended_in_two_steps_and_each_is_anthropics_own_word() {
    let of = |status: &str| key(ID, status, None, Some(WORKSPACE)).to_string();
    let revoked = |code, body: &str| AnthropicAdmin.read_revocation(&id(), &reply(code, &[], body));
    let closed = |code, body: &str| AnthropicAdmin.read_closed(&id(), &reply(code, &[], body));
    let works = |code, body: &str| AnthropicAdmin.read_look(&id(), &reply(code, &[], body));
    let gone = error("not_found_error");
    assert_eq!(revoked(200, &of("inactive")), Ok(Revocation::Revoked));
    assert_eq!(revoked(200, &of("archived")), Ok(Revocation::Revoked));
    assert_eq!(revoked(404, &gone), Ok(Revocation::AlreadyGone));
    assert_eq!(revoked(200, &of("active")).unwrap_err().code, "NotDeactivated");
    assert_eq!(closed(200, &of("archived")), Ok(()));
    assert_eq!(closed(404, &gone), Ok(()));
    assert_eq!(closed(200, &of("inactive")).unwrap_err().code, "NotArchived");
    assert_eq!(works(200, &of("active")), Ok(true));
    for status in ["inactive", "archived", "expired"] {
        assert_eq!(works(200, &of(status)), Ok(false));
    }
    assert_eq!(works(404, &gone), Ok(false));
    let other = key("apikey_2", "inactive", None, Some(WORKSPACE)).to_string();
    assert_eq!(revoked(200, &other).unwrap_err().code, "OtherKey");
    for (code, body, class) in [
        (404, "<html>".to_owned(), ErrorClass::Garbled),
        (400, error("invalid_request_error"), ErrorClass::BadRequest),
        (401, error("authentication_error"), ErrorClass::CredentialInvalid),
        (403, error("permission_error"), ErrorClass::Forbidden),
        (429, error("rate_limit_error"), ErrorClass::RateLimited { retry_after: None }),
        (529, error("overloaded_error"), ErrorClass::Server),
    ] {
        for found in [revoked(code, &body).map(drop), closed(code, &body), works(code, &body).map(drop)] {
            let error = found.unwrap_err();
            assert_eq!(error.class, class, "{code} {body}");
            assert!(!error.to_string().contains("canary"));
        }
    }
}

#[test]
fn a_key_is_switched_only_if_anthropic_shows_it() {
    let read = |on, status: &str| {
        AnthropicAdmin.read_switched(&id(), on, &reply(200, &[], &key(ID, status, None, None).to_string()))
    };
    assert_eq!((read(true, "active"), read(false, "inactive")), (Ok(()), Ok(())));
    for (on, status) in [(true, "inactive"), (false, "active"), (true, "archived"), (false, "expired")] {
        assert_eq!(read(on, status).unwrap_err().code, "NotSwitched");
    }
}

fn question() -> UsageQuestion {
    let at = |text: &str| text.parse().unwrap();
    UsageQuestion {
        now: at("2027-01-03T10:00:00Z"),
        since: at("2027-01-01T09:00:00Z"),
        keys: [ID.into()].into(),
    }
}

#[test]
fn the_report_is_asked_for_by_the_day_and_by_key() {
    let question = question();
    let at = At { question: &question, days: 3, after: Some("p 1") };
    let request = AnthropicAdmin.usage_request(&account(), Report::Messages, at).ok().unwrap();
    let expected = format!(
        "GET https://api.anthropic.com/v1/organizations/usage_report/messages?starting_at=2027-01-01T00%3A00%3A00Z&bucket_width=1d\
         &group_by%5B%5D=api_key_id&limit=3&workspace_ids%5B%5D={WORKSPACE}&page=p+1"
    );
    assert_eq!(shown(&request).0, expected);
    assert!(AnthropicAdmin.usage_request(&account(), Report::Costs, at).is_err());
}

#[test]
fn tokens_from_and_to_the_cache_count_as_sent_and_a_missing_number_makes_the_sum_unknown() {
    let question = question();
    let row = |key: Option<&str>, uncached: Option<i64>, output: i64| {
        json!({
            "uncached_input_tokens": uncached, "cache_read_input_tokens": 20, "output_tokens": output, "api_key_id": key,
            "cache_creation": {"ephemeral_1h_input_tokens": 300, "ephemeral_5m_input_tokens": 4000}, "workspace_id": null,
        })
    };
    let bucket = |day: u32, rows: &[Value]| json!({"starting_at": format!("2027-01-0{day}T00:00:00Z"), "ending_at": null, "results": rows});
    let read = |rows: &[Value]| {
        let at = At { question: &question, days: 3, after: None };
        let body = json!({"data": rows, "has_more": false, "next_page": null}).to_string();
        let mut sums = Sums::new(&question.keys);
        let next =
            AnthropicAdmin.read_usage(&account(), Report::Messages, at, &reply(200, &[], &body), &mut sums);
        assert_eq!(next, Ok(None));
        sums.told(question.now).keys.remove(ID)
    };
    let rows = [
        bucket(1, &[row(Some(ID), Some(1), 5), row(None, Some(9), 9)]),
        bucket(3, &[row(Some(ID), Some(1), 6)]),
    ];
    let used = read(&rows).unwrap();
    assert_eq!((used.total.input_tokens, used.total.output_tokens), (Some(2 * 4321), Some(11)));
    assert_eq!((used.total.requests, used.total.cost), (None, None));
    let today = used.window.unwrap();
    assert_eq!((today.amounts.input_tokens, today.amounts.output_tokens), (Some(4321), Some(6)));
    let used = read(&[bucket(1, &[row(Some(ID), Some(1), 5), row(Some(ID), None, 5)])]).unwrap();
    assert_eq!((used.total.input_tokens, used.total.output_tokens), (None, Some(10)));
    assert!(read(&[bucket(1, &[row(Some("apikey_2"), Some(1), 1)])]).is_none());
}
