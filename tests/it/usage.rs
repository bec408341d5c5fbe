//! What keys have used: the reports as the client reads them, on status, in metrics, and as a reason to rotate.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use llmkey_operator::api::{LLMKey, UsageAmounts, UsageStatus};
use llmkey_operator::domain::usage::{Amounts, Micros};
use llmkey_operator::provider::{Account, ErrorClass, Providers, ProvidersConfig, UsageQuestion};
use llmkey_operator::sandbox::{
    Answer, Fault, FaultRule, KeyUse, Operation, OwnerAccess, Sandbox, SandboxOptions, Settings,
};
use serde_json::{Value, json};

use super::provider::account_at;
use super::stage::{Tenant, stage, state, wait};
use super::workload::client;
use super::{litellm, openrouter};

fn noon() -> DateTime<Utc> {
    "2027-01-03T12:00:00Z".parse().unwrap()
}

/// A sandbox at noon of a Sunday, with a project, a key of it, and OpenAI's account.
async fn rig() -> (Sandbox, Providers, Account, String) {
    let sandbox = Sandbox::start(SandboxOptions::new(Arc::new(noon))).await.unwrap();
    let project = sandbox.project_id().to_owned();
    let key = sandbox.register_key("sk-proj-0123456789", &project, "key", OwnerAccess::Active).unwrap();
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let account = account_at(&sandbox, "OpenAI", &sandbox.base_url(), sandbox.admin_key(), &project);
    (sandbox, providers, account, key)
}

fn question(key: &str) -> UsageQuestion {
    UsageQuestion { now: noon(), since: noon() - TimeDelta::days(40), keys: BTreeSet::from([key.into()]) }
}

/// Calls a model with a key. Returns the status and the answer.
pub(crate) async fn call(sandbox: &Sandbox, base: &str, key: &str, words: &str) -> (u16, Value) {
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": words}], "temperature": 0});
    let request = client(sandbox).post(format!("{base}/chat/completions")).bearer_auth(key).json(&body);
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

#[tokio::test]
async fn all_reports_are_read_to_their_ends_and_what_was_called_is_what_is_told() {
    let (sandbox, providers, account, key) = rig().await;
    let project = sandbox.project_id().to_owned();
    let (status, answer) =
        call(&sandbox, &sandbox.base_url(), "sk-proj-0123456789", "three words here").await;
    assert_eq!((status, &answer["usage"]["prompt_tokens"]), (200, &json!(3)));
    let spent = answer["usage"]["total_tokens"].as_i64().unwrap();
    let ago = |days| Some(noon() - TimeDelta::days(days));
    let completions =
        KeyUse { requests: 5, input_tokens: 50, output_tokens: 25, cost_micros: 123, ..KeyUse::default() };
    assert!(sandbox.note_use(&project, &key, KeyUse { at: ago(35), ..completions }));
    let embeddings =
        KeyUse { embeddings: true, requests: 2, input_tokens: 8, cost_micros: 1, ..KeyUse::default() };
    assert!(sandbox.note_use(&project, &key, KeyUse { at: ago(1), ..embeddings }));
    assert!(
        sandbox.note_use(&project, &key, KeyUse { at: ago(50), ..completions }),
        "before what is asked for"
    );
    let elsewhere = sandbox.create_project("elsewhere");
    let other = sandbox.register_key("sk-proj-another0123", &elsewhere, "key", OwnerAccess::Active).unwrap();
    assert!(sandbox.note_use(&elsewhere, &other, completions));
    assert!(!sandbox.note_use(&project, &other, completions), "it is in another project");

    let mut keys = question(&key);
    keys.keys.insert(other.as_str().into());
    for pages in [100, 7, 1] {
        sandbox.set_settings(None, Settings { max_page_size: pages, ..Settings::default() });
        let reading = providers.usage(&account, &keys).await.unwrap();
        assert_eq!(reading.keys.len(), 1, "nothing is told of other projects");
        let told = reading.keys[key.as_str()];
        let output = answer["usage"]["completion_tokens"].as_i64().unwrap();
        let total = Amounts {
            requests: Some(1 + 5 + 2),
            input_tokens: Some(3 + 50 + 8),
            output_tokens: Some(output + 25),
            cost: Some(Micros(spent * 1000 + 124)),
        };
        assert_eq!(told.total, total, "{pages} days on a page");
        let window = told.window.unwrap();
        assert_eq!(window.start, Some("2027-01-03T00:00:00Z".parse().unwrap()));
        let today = Amounts {
            requests: Some(1),
            input_tokens: Some(3),
            output_tokens: Some(output),
            cost: Some(Micros(spent * 1000)),
        };
        assert_eq!(window.amounts, today);
    }
    let asked = sandbox.log_of(&project).iter().filter(|e| e.operation == Operation::GetCosts).count();
    assert_eq!(asked, 1 + 6 + 41, "41 days in pages of 180, 7 and 1");
    sandbox.set_settings(None, Settings { usage_without_requests: true, ..Settings::default() });
    let told = providers.usage(&account, &question(&key)).await.unwrap().keys[key.as_str()];
    assert_eq!((told.total.requests, told.total.input_tokens), (None, Some(61)), "what is null is not known");
}

#[tokio::test]
async fn one_report_that_cannot_be_read_makes_the_reading_fail() {
    let (sandbox, providers, account, key) = rig().await;
    for operation in [Operation::GetCompletionsUsage, Operation::GetEmbeddingsUsage, Operation::GetCosts] {
        for (answer, class) in [
            (
                Answer::RateLimited { retry_after_seconds: None },
                ErrorClass::RateLimited { retry_after: None },
            ),
            (Answer::MissingScopes { status: 403 }, ErrorClass::Forbidden),
            (Answer::InternalError, ErrorClass::Server),
            (Answer::HalfBody, ErrorClass::Garbled),
            (Answer::Html { status: 200 }, ErrorClass::Garbled),
        ] {
            sandbox.add_fault(FaultRule::on(operation, Fault::refuse(answer)).times(1));
            let error = providers.usage(&account, &question(&key)).await.unwrap_err();
            assert_eq!(error.class, class, "{operation:?} {answer:?}");
        }
    }
    assert!(sandbox.faults().iter().all(|fault| fault.fired == 1));
    let reading = providers.usage(&account, &question(&key)).await.unwrap();
    assert!(reading.keys.is_empty(), "of a key that was not used nothing is told");
}

#[tokio::test]
async fn the_sandbox_refuses_what_openai_does_not_know_and_counts_for_the_key_that_called() {
    let (sandbox, ..) = rig().await;
    let ask = async |query: &str, key: &str| {
        let url = format!("{}/organization/usage/completions?{query}", sandbox.base_url());
        let reply = client(&sandbox).get(url).bearer_auth(key).send().await.unwrap();
        (reply.status().as_u16(), reply.json::<Value>().await.unwrap())
    };
    let admin = sandbox.admin_key();
    for bad in
        ["", "start_time=x", "start_time=0&limit=32", "start_time=0&group_by[]=mood", "start_time=0&page=x"]
    {
        assert_eq!(ask(bad, admin).await.0, 400, "{bad}");
    }
    let (status, refused) = ask("start_time=0", "sk-proj-0123456789").await;
    assert_eq!(status, 403);
    assert!(refused["error"]["message"].as_str().unwrap().contains("Missing scopes"), "{refused}");
    let start = noon().timestamp() - 43200;
    call(&sandbox, &sandbox.base_url(), "sk-proj-0123456789", "one two").await;
    let (_, ungrouped) = ask(&format!("start_time={start}"), admin).await;
    let row = &ungrouped["data"][0]["results"][0];
    assert_eq!((&row["num_model_requests"], &row["api_key_id"]), (&json!(1), &Value::Null));
    assert_eq!((&ungrouped["has_more"], &ungrouped["next_page"]), (&json!(false), &Value::Null));
    for plain in ["group_by=api_key_id", "group_by%5B%5D=api_key_id"] {
        let (_, grouped) = ask(&format!("start_time={start}&{plain}"), admin).await;
        assert!(grouped["data"][0]["results"][0]["api_key_id"].is_string(), "{grouped}");
    }
    assert_eq!(call(&sandbox, &sandbox.base_url(), admin, "x").await.0, 403);
    assert_eq!(call(&sandbox, &sandbox.base_url(), "sk-proj-unknown0123", "x").await.0, 401);
}

fn usage(key: &LLMKey) -> Option<&UsageStatus> {
    key.status.as_ref()?.usage.as_ref()
}

fn total(key: &LLMKey) -> Option<&UsageAmounts> {
    usage(key)?.total.as_ref()
}

fn reads(t: &Tenant) -> usize {
    t.calls(Operation::GetCosts).len()
}

async fn more_reads(t: &Tenant, count: usize) {
    let before = reads(t);
    wait("more readings", async || (reads(t) >= before + count).then_some(())).await;
}

#[tokio::test]
async fn what_a_key_has_used_is_told_when_it_changes_and_an_error_takes_nothing_back() {
    let t = Tenant::new("usage").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    for words in ["one two", "three"] {
        assert_eq!(call(t.sandbox(), &t.sandbox().base_url(), &value, words).await.0, 200);
    }
    let key = t.until("chat", "two requests", |key| total(key).and_then(|t| t.requests) == Some(2)).await;
    let told = usage(&key).unwrap();
    assert_eq!((told.reason.as_str(), told.as_of.is_some()), ("Reported", true));
    let all = told.total.clone().unwrap();
    let tokens = all.input_tokens.unwrap() + all.output_tokens.unwrap();
    assert_eq!((all.input_tokens, all.cost_usd), (Some(3), Some(Micros(tokens * 1000).to_string())));
    let versions = key.status.as_ref().unwrap().versions.clone();
    assert_eq!(versions[0].usage, told.total);
    let (_, metrics) = t.operator().get("/metrics").await;
    let labels = format!("{{namespace=\"{}\",name=\"chat\"}}", t.namespace);
    assert!(metrics.contains(&format!("llmkey_key_usage_requests{labels} 2")), "{labels}");
    assert!(metrics.contains("llmkey_usage_reads_total{provider=\"OpenAI\",result=\"read\"}"));

    let version = t.get("chat").await.resource_version();
    more_reads(&t, 3).await;
    assert_eq!(t.get("chat").await.resource_version(), version, "readings that tell the same write nothing");

    let rule =
        FaultRule::on(Operation::GetCosts, Fault::refuse(Answer::RateLimited { retry_after_seconds: None }));
    let fault = t.sandbox().add_fault(rule.project(&t.project));
    call(t.sandbox(), &t.sandbox().base_url(), &value, "four").await;
    more_reads(&t, 1).await;
    assert_eq!(usage(&t.get("chat").await), Some(told), "what was read before stays, with its time");
    let (_, metrics) = t.operator().get("/metrics").await;
    assert!(metrics.contains("llmkey_usage_reads_total{provider=\"OpenAI\",result=\"failed\"}"));
    t.sandbox().remove_fault(fault);
    let key = t.until("chat", "three requests", |key| total(key).and_then(|t| t.requests) == Some(3)).await;
    assert_ne!(usage(&key).unwrap().as_of, told.as_of);
}

#[tokio::test]
async fn a_threshold_that_is_reached_rotates_the_key_once() {
    let t = Tenant::new("usage-trigger").await;
    let triggers = json!([{"type": "Usage", "usage": {"requests": 3, "costUSD": "1000"}}]);
    t.policy("limited", json!({"triggers": triggers})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "limited"}})).await;
    t.ready("chat").await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    for _ in 0..2 {
        call(t.sandbox(), &t.sandbox().base_url(), &value, "a").await;
    }
    t.until("chat", "two requests", |key| total(key).and_then(|t| t.requests) == Some(2)).await;
    assert_eq!(state(&t.get("chat").await, 2), None);
    call(t.sandbox(), &t.sandbox().base_url(), &value, "a").await;
    let key = t.until("chat", "rotated", |key| state(key, 2).as_deref() == Some("Current")).await;
    let rotation = &key.status.as_ref().unwrap().rotations[0];
    assert_eq!((rotation.version, rotation.reason.as_str()), (2, "Usage"));
    assert_eq!(rotation.requested_by, "llmkey-operator");
    let next = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert_ne!(next, value);
    // Whoever has not taken the new key yet goes on.
    call(t.sandbox(), &t.sandbox().base_url(), &value, "a").await;
    call(t.sandbox(), &t.sandbox().base_url(), &next, "a").await;
    let key = t.until("chat", "both are told", |key| total(key).and_then(|t| t.requests) == Some(1)).await;
    let old = key.status.as_ref().unwrap().versions.iter().find(|v| v.version == 1).unwrap();
    assert_eq!(old.usage.as_ref().unwrap().requests, Some(4));
    more_reads(&t, 1).await;
    assert_eq!(state(&t.get("chat").await, 3), None, "the next key has used one request");
}

#[tokio::test]
async fn of_a_supplied_key_status_says_that_nothing_is_reported_and_nothing_is_asked() {
    let t = Tenant::new("usage-supplied").await;
    let value = t.person_key("one");
    t.source("chat", &value).await;
    t.supplied("chat", json!({})).await;
    let key = t.ready("chat").await;
    assert_eq!(usage(&key).map(|usage| usage.reason.as_str()), Some("NotReported"));
    call(t.sandbox(), &t.sandbox().base_url(), &value, "a").await;
    // Another tenant's account is read meanwhile.
    let other = Tenant::new("usage-other").await;
    other.minted("chat", json!({})).await;
    other.ready("chat").await;
    more_reads(&other, 1).await;
    assert_eq!(reads(&t), 0);
    assert_eq!(
        usage(&t.get("chat").await),
        Some(&UsageStatus { reason: "NotReported".into(), ..UsageStatus::default() })
    );
}

#[tokio::test]
async fn openrouter_and_litellm_report_costs() {
    let stage = stage().await;
    let routed = openrouter::tenant("usage-openrouter").await;
    let proxied = litellm::tenant(stage, "usage-litellm").await;
    for (t, base, entry) in [
        (&routed, stage.sandbox.router_url(), "OPENROUTER_API_KEY"),
        (&proxied, format!("{}/v1", stage.sandbox.proxy_url()), "OPENAI_API_KEY"),
    ] {
        t.minted("chat", json!({})).await;
        t.ready("chat").await;
        let value = t.delivered("chat", entry).await.unwrap();
        let (status, answer) = call(t.sandbox(), &base, &value, "one two three").await;
        assert_eq!(status, 200, "{answer}");
        let cost = Micros(answer["usage"]["total_tokens"].as_i64().unwrap() * 1000).to_string();
        let spent = |key: &LLMKey| total(key).is_some_and(|total| total.cost_usd.as_ref() == Some(&cost));
        let key = t.until("chat", "its cost", spent).await;
        assert_eq!(total(&key).unwrap().requests, None, "requests are not reported");
    }
}
