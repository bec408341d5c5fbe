use serde_json::json;

use super::*;
use crate::{
    api::ProviderType,
    provider::{
        AdminCredential, Endpoint,
        exchange::tests::{reply, shown},
        litellm_admin::LiteLLMAdmin,
        openai_admin::OpenAIAdmin,
        openrouter_admin::OpenRouterAdmin,
    },
};

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn account(provider: ProviderType, place: &str) -> Account {
    let credential =
        AdminCredential::from_secret_data(b"llm.example", &"sk-admin-0123456789".into()).unwrap();
    Account::new(Endpoint::local(provider, "https://llm.example/v1"), place, credential).unwrap()
}

/// Three days, the current one included.
fn question(keys: &[&str]) -> UsageQuestion {
    UsageQuestion {
        now: time("2027-01-03T10:00:00Z"),
        since: time("2027-01-01T09:00:00Z"),
        keys: keys.iter().map(|key| (*key).into()).collect(),
    }
}

const DAY: [i64; 3] = [1_798_761_600, 1_798_848_000, 1_798_934_400];

fn at<'a>(question: &'a UsageQuestion, after: Option<&'a str>) -> At<'a> {
    At { question, days: 3, after }
}

/// Reads the pages of one report, each where the one before said.
fn read(
    reports: &dyn UsageReports,
    account: &Account,
    report: Report,
    question: &UsageQuestion,
    pages: &[(u16, String)],
) -> Result<Reading, CallError> {
    let mut sums = Sums::new(&question.keys);
    let mut after: Option<String> = None;
    for (status, body) in pages {
        let reply = reply(*status, &[], body);
        after = reports.read_usage(account, report, at(question, after.as_deref()), &reply, &mut sums)?;
    }
    assert_eq!(after, None, "there are more pages");
    Ok(sums.told(question.now))
}

#[test]
fn openais_requests_are_the_documented_ones_with_arrays_in_brackets() {
    let account = account(ProviderType::OpenAI, "proj_1");
    let question = question(&[]);
    let start = DAY[0];
    for (report, path) in [
        (Report::Completions, "usage/completions"),
        (Report::Embeddings, "usage/embeddings"),
        (Report::Costs, "costs"),
    ] {
        for (after, page) in [(None, ""), (Some("page_AAA="), "&page=page_AAA%3D")] {
            let request = OpenAIAdmin.usage_request(&account, report, at(&question, after)).ok().unwrap();
            let (line, headers) = shown(&request);
            assert_eq!(
                line,
                format!(
                    "GET https://llm.example/v1/organization/{path}?start_time={start}&bucket_width=1d\
                     &project_ids%5B%5D=proj_1&group_by%5B%5D=api_key_id&limit=3{page}"
                )
            );
            assert_eq!(headers, ["accept: application/json", "authorization: Bearer sk-admin-0123456789"]);
            assert!(request.body.is_none());
        }
    }
    assert!(OpenAIAdmin.usage_request(&account, Report::Keys, at(&question, None)).is_err());
}

#[test]
fn the_others_requests_are_those_of_their_lists() {
    let question = question(&[]);
    let router = account(ProviderType::OpenRouter, "w-1");
    let request = OpenRouterAdmin.usage_request(&router, Report::Keys, at(&question, Some("9:a")));
    let expected = "GET https://llm.example/v1/keys?offset=9&include_disabled=true&workspace_id=w-1";
    assert_eq!(shown(&request.ok().unwrap()).0, expected);
    let proxy = account(ProviderType::LiteLLM, "team-a");
    let request = LiteLLMAdmin.usage_request(&proxy, Report::Keys, at(&question, None));
    let expected = "GET https://llm.example/v1/key/list?page=1&size=100&return_full_object=true\
                    &sort_by=created_at&sort_order=asc&team_id=team-a";
    assert_eq!(shown(&request.ok().unwrap()).0, expected);
}

/// A bucket as OpenAI sends it, with nulls for what is not grouped by, and a field of tomorrow.
fn bucket(day: usize, results: &serde_json::Value) -> serde_json::Value {
    json!({"object": "bucket", "start_time": DAY[day], "end_time": DAY[day] + 86400, "results": results})
}

fn page(buckets: &[serde_json::Value], next: Option<&str>) -> (u16, String) {
    let body =
        json!({"object": "page", "data": buckets, "has_more": next.is_some(), "next_page": next, "x": 1});
    (200, body.to_string())
}

fn used(key: Option<&str>, requests: i64, input: i64, output: Option<i64>) -> serde_json::Value {
    json!({
        "object": "organization.usage.completions.result", "input_tokens": input, "output_tokens": output,
        "input_cached_tokens": 0, "num_model_requests": requests, "project_id": null, "user_id": null,
        "api_key_id": key, "model": null, "batch": null, "service_tier": null, "of_tomorrow": {"a": 1},
    })
}

fn cost(key: Option<&str>, amount: &serde_json::Value) -> serde_json::Value {
    json!({
        "object": "organization.costs.result", "amount": amount, "line_item": null, "project_id": null,
        "api_key_id": key,
    })
}

fn usd(value: impl Into<serde_json::Value>) -> serde_json::Value {
    json!({"value": value.into(), "currency": "usd"})
}

#[test]
fn openais_days_are_added_up_by_key_and_the_last_one_is_the_window() {
    let account = account(ProviderType::OpenAI, "proj_1");
    let question = question(&["key_a", "key_b", "key_quiet"]);
    let pages = [
        page(
            &[bucket(
                0,
                &json!([used(Some("key_a"), 2, 10, Some(5)), used(Some("key_other"), 9, 9, Some(9))]),
            )],
            Some("p2"),
        ),
        page(
            &[
                bucket(1, &json!([])),
                bucket(2, &json!([used(Some("key_a"), 1, 4, Some(2)), used(None, 7, 7, Some(7))])),
            ],
            None,
        ),
    ];
    let reading = read(&OpenAIAdmin, &account, Report::Completions, &question, &pages).unwrap();
    let of = |requests, input, output| Amounts {
        requests: Some(requests),
        input_tokens: Some(input),
        output_tokens: Some(output),
        cost: None,
    };
    let window = Window { start: Some(time("2027-01-03T00:00:00Z")), amounts: of(1, 4, 2) };
    let expected = KeyUsage { total: of(3, 14, 7), window: Some(window) };
    assert_eq!(reading.keys, BTreeMap::from([("key_a".into(), expected)]));
    assert_eq!(reading.as_of, question.now);
}

#[test]
fn what_openai_leaves_out_is_not_known() {
    let account = account(ProviderType::OpenAI, "proj_1");
    let question = question(&["key_a"]);
    let total = |report, rows: &serde_json::Value| {
        let reading = read(&OpenAIAdmin, &account, report, &question, &[page(&[bucket(0, rows)], None)]);
        reading.unwrap().keys.get("key_a").map(|used| used.total)
    };
    let nulls = json!([used(Some("key_a"), 2, 10, None), {"api_key_id": "key_a", "num_model_requests": -1}]);
    assert_eq!(total(Report::Completions, &nulls), Some(Amounts::default()));
    let embedded = json!([{"api_key_id": "key_a", "num_model_requests": 1, "input_tokens": 8}]);
    let expected = Amounts { requests: Some(1), input_tokens: Some(8), ..Amounts::default() };
    assert_eq!(total(Report::Embeddings, &embedded), Some(expected), "embeddings have no output");
    let spent = |amounts: &[serde_json::Value]| {
        let rows: Vec<_> = amounts.iter().map(|amount| cost(Some("key_a"), amount)).collect();
        total(Report::Costs, &json!(rows)).unwrap().cost
    };
    assert_eq!(spent(&[usd(0.06), usd("0.000004"), usd(1)]), Some(Micros(1_060_004)));
    for unknown in [
        json!({"value": 1, "currency": "eur"}),
        json!({"value": null, "currency": "usd"}),
        json!({"value": "much", "currency": "usd"}),
        json!(null),
    ] {
        assert_eq!(spent(&[usd(1), unknown.clone()]), None, "{unknown}");
    }
    assert_eq!(total(Report::Costs, &json!([cost(None, &usd(1))])), None, "nothing is told of the key");
}

#[test]
fn an_answer_that_is_no_report_is_an_error() {
    let account = account(ProviderType::OpenAI, "proj_1");
    let question = question(&["key_a"]);
    let error = |status, body: &str| {
        let pages = [(status, body.to_owned())];
        read(&OpenAIAdmin, &account, Report::Costs, &question, &pages).unwrap_err()
    };
    let refused = |code: Option<&str>| {
        json!({"error": {"message": "canary text", "type": "invalid_request_error", "param": null, "code": code}})
            .to_string()
    };
    for (status, body, class) in [
        (401, refused(Some("invalid_api_key")), ErrorClass::CredentialInvalid),
        (401, refused(None), ErrorClass::Forbidden),
        (403, refused(None), ErrorClass::Forbidden),
        (400, refused(None), ErrorClass::BadRequest),
        (404, refused(None), ErrorClass::NotFound),
        (429, refused(Some("rate_limit_exceeded")), ErrorClass::RateLimited { retry_after: None }),
        (500, refused(None), ErrorClass::Server),
        (403, "<html>blocked</html>".to_owned(), ErrorClass::Garbled),
        (200, "<html>welcome</html>".to_owned(), ErrorClass::Garbled),
        (200, json!({"object": "list", "data": []}).to_string(), ErrorClass::Garbled),
        (200, json!({"data": [], "has_more": true, "next_page": null}).to_string(), ErrorClass::Garbled),
    ] {
        let found = error(status, &body);
        assert_eq!(found.class, class, "{status} {body}");
        assert!(!found.to_string().contains("canary"));
    }
}

#[test]
fn openrouter_tells_costs_in_its_list_and_each_key_counts_once() {
    let account = account(ProviderType::OpenRouter, "w-1");
    let question = question(&["a", "b", "c"]);
    let key = |hash: &str, usage: serde_json::Value, daily: serde_json::Value| {
        json!({
            "hash": hash, "name": "n", "label": "l", "disabled": false, "usage": usage, "usage_daily": daily,
            "usage_weekly": 9, "byok_usage": 7, "created_at": "2026-08-24T10:30:00Z", "of_tomorrow": 1,
        })
    };
    let pages = [
        json!({"data": [key("a", json!(1.25), json!(0.5)), key("b", json!(2), json!(0))]}),
        json!({"data": [key("b", json!(2), json!(0)), key("c", json!(null), json!(null)), key("d", json!(1), json!(1))]}),
        json!({"data": [key("d", json!(1), json!(1))]}),
    ];
    let pages = pages.map(|page| (200, page.to_string()));
    let reading = read(&OpenRouterAdmin, &account, Report::Keys, &question, &pages).unwrap();
    let spent = |micros| Amounts { cost: Some(Micros(micros)), ..Amounts::default() };
    let today = Window { start: Some(time("2027-01-03T00:00:00Z")), amounts: spent(500_000) };
    let expected = BTreeMap::from([
        ("a".into(), KeyUsage { total: spent(1_250_000), window: Some(today) }),
        ("b".into(), KeyUsage { total: spent(2_000_000), window: None }),
        ("c".into(), KeyUsage::default()),
    ]);
    assert_eq!(reading.keys, expected);
}

#[test]
fn litellm_tells_costs_in_its_list_and_a_budget_of_a_while_is_no_total() {
    let account = account(ProviderType::LiteLLM, "team-a");
    let question = question(&["a", "b", "c"]);
    let key = |hash: &str, spend: serde_json::Value, budget: Option<&str>| json!({"token": hash, "team_id": "team-a", "spend": spend, "budget_duration": budget, "of_tomorrow": 1});
    let rows = [
        key("a", json!(0.125), None),
        key("b", json!(3), Some("30d")),
        key("c", json!(null), None),
        key("stranger", json!(9), None),
    ];
    let list = json!({"keys": rows, "total_count": 4, "current_page": 1, "total_pages": 1}).to_string();
    let reading = read(&LiteLLMAdmin, &account, Report::Keys, &question, &[(200, list)]).unwrap();
    let spent = |micros| Amounts { cost: Some(Micros(micros)), ..Amounts::default() };
    let period = Window { start: None, amounts: spent(3_000_000) };
    let expected = BTreeMap::from([
        ("a".into(), KeyUsage { total: spent(125_000), window: None }),
        ("b".into(), KeyUsage { total: Amounts::default(), window: Some(period) }),
        ("c".into(), KeyUsage::default()),
    ]);
    assert_eq!(reading.keys, expected);
    let moved = json!({"keys": [rows[0]], "total_count": 4, "current_page": 1, "total_pages": 1}).to_string();
    let error = read(&LiteLLMAdmin, &account, Report::Keys, &question, &[(200, moved)]).unwrap_err();
    assert_eq!(error.code, "ListMoved", "a part of the list is no reading");
}

#[test]
fn a_number_that_is_missing_makes_the_sum_unknown_and_not_less() {
    let wanted = BTreeSet::from(["a".into(), "b".into()]);
    let mut sums = Sums::new(&wanted);
    sums.add("a", &[(Measure::Requests, Some(2)), (Measure::InputTokens, Some(5))]);
    sums.add("a", &[(Measure::Requests, Some(3)), (Measure::InputTokens, None)]);
    sums.add("c", &[(Measure::Requests, Some(9))]);
    let mut costs = Sums::new(&wanted);
    costs.add("a", &[(Measure::Cost, Some(7))]);
    costs.add_to_window("a", None, &[(Measure::Cost, Some(0))]);
    sums.join(costs);
    let reading = sums.told(DateTime::UNIX_EPOCH);
    let total = Amounts { requests: Some(5), cost: Some(Micros(7)), ..Amounts::default() };
    let expected = KeyUsage { total, window: None };
    assert_eq!(reading.keys, BTreeMap::from([("a".into(), expected)]), "nothing was told of b");
}

#[test]
fn what_is_unknown_in_one_report_stays_so() {
    let wanted = BTreeSet::from(["a".into()]);
    let (mut one, mut other) = (Sums::new(&wanted), Sums::new(&wanted));
    one.add("a", &[(Measure::OutputTokens, None)]);
    other.add("a", &[(Measure::OutputTokens, Some(4))]);
    one.join(other);
    assert_eq!(one.told(DateTime::UNIX_EPOCH).keys["a"].total.output_tokens, None);
}

#[test]
fn days_are_counted_with_the_current_one() {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let question = |since: &str| UsageQuestion {
        now: at("2027-03-02T00:00:01Z"),
        since: at(since),
        keys: BTreeSet::new(),
    };
    let days = |since: &str| (question(since).first_day().to_rfc3339(), question(since).days());
    assert_eq!(days("2027-03-01T23:59:59Z"), ("2027-03-01T00:00:00+00:00".into(), 2));
    assert_eq!(days("2027-03-02T00:00:00Z").1, 1);
    assert_eq!(
        days("2099-01-01T00:00:00Z"),
        ("2027-03-02T00:00:00+00:00".into(), 1),
        "a clock that is ahead"
    );
}

#[test]
fn reports_name_the_key_itself_where_it_has_a_name() {
    let named = |id: &str| ProviderKeyId::parse(id).unwrap().in_reports().to_owned();
    assert_eq!([named("svc_acct_1/key_1"), named("abc123")], ["key_1", "abc123"]);
}
