//! What validation makes of a provider's answers, and what it leaves alone.

use std::sync::Arc;

use kube::ResourceExt;
use llmkey_operator::api::LLMKey;
use llmkey_operator::sandbox::{
    Answer, Fault, FaultRule, LogEntry, Operation, OwnerAccess, Sandbox, SandboxOptions,
};
use serde_json::{Value, json};

use super::stage::{Tenant, because, find, is, now, state, wait};

/// Checked about every second.
fn often(mode: &str) -> Value {
    json!({"validation": {"mode": mode, "interval": "1m"}})
}

fn checks_go_wrong(t: &Tenant, answer: Answer) -> u64 {
    t.sandbox().add_fault(FaultRule::on(Operation::ListModels, Fault::refuse(answer)).project(&t.project))
}

/// A supplied key that is Ready, and its value.
async fn ready(t: &Tenant, changes: Value) -> String {
    let value = t.person_key("one");
    t.source("chat", &value).await;
    t.supplied("chat", changes).await;
    t.ready("chat").await;
    value
}

async fn secret_version(t: &Tenant) -> Option<String> {
    t.secrets().get("chat").await.unwrap().resource_version()
}

fn healthy(key: &LLMKey) -> Option<(String, String)> {
    find(key, "Healthy").map(|(status, reason, _)| (status, reason))
}

/// Waits for the health, and for Ready to have stayed True.
async fn shows(t: &Tenant, status: &str, reason: &str) -> LLMKey {
    let wanted = Some((status.to_owned(), reason.to_owned()));
    let key = t.until("chat", &format!("Healthy={status} {reason}"), |k| healthy(k) == wanted).await;
    assert!(is(&key, "Ready", "True"), "{:?}", find(&key, "Ready"));
    key
}

#[tokio::test]
async fn an_outage_says_nothing_of_the_key() {
    let t = Tenant::new("outage").await;
    ready(&t, often("Required")).await;
    let before = secret_version(&t).await;
    let page = |status| Answer::Html { status };
    for (answer, reason) in [
        (Answer::InternalError, "ProviderDown"),
        (Answer::Unavailable { retry_after_seconds: None }, "ProviderDown"),
        (Answer::RateLimited { retry_after_seconds: Some(1) }, "RateLimited"),
        (page(502), "ProviderDown"),
        (page(200), "UnknownAnswer"),
        (page(401), "UnknownAnswer"),
        (Answer::NotInOrganization, "UnknownAnswer"),
        (Answer::UnsupportedCountry, "UnknownAnswer"),
        (Answer::NotFound, "UnknownAnswer"),
        (Answer::Drop, "ProviderDown"),
        (Answer::Hang, "ProviderDown"),
    ] {
        let fault = checks_go_wrong(&t, answer);
        shows(&t, "Unknown", reason).await;
        t.sandbox().remove_fault(fault);
        shows(&t, "True", "KeyValid").await;
    }
    assert_eq!(secret_version(&t).await, before);
    let history = t.get("chat").await.status.unwrap().health.unwrap().history;
    assert!(history.len() == 10 && history.iter().all(|past| past.state != "Invalid"), "{history:?}");
}

#[tokio::test]
async fn a_provider_that_is_gone_says_nothing_of_the_key() {
    let t = Tenant::new("gone").await;
    let sandbox = Sandbox::start(SandboxOptions::new(Arc::new(now))).await.unwrap();
    let changes = json!({
        "baseURL": sandbox.base_url(), "caBundle": sandbox.ca_pem(),
        "openAI": {"project": sandbox.project_id()}, "adminCredentialRef": null,
    });
    t.llm_provider(&t.provider, changes).await;
    let value = "sk-proj-goneT3BlbkFJperson";
    sandbox.register_key(value, sandbox.project_id(), "gone", OwnerAccess::Active).unwrap();
    t.source("chat", value).await;
    t.supplied("chat", often("Required")).await;
    t.ready("chat").await;
    let before = secret_version(&t).await;
    sandbox.stop().await;
    shows(&t, "Unknown", "ProviderDown").await;
    assert_eq!(secret_version(&t).await, before);
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_deref(), Some(value));
}

#[tokio::test]
async fn a_deleted_key_is_invalid_once_that_is_confirmed() {
    let t = Tenant::new("invalid").await;
    let value = ready(&t, often("Required")).await;
    let before = secret_version(&t).await;
    t.sandbox().withdraw_key(&value);
    t.until("chat", "confirming", |k| because(k, "Healthy", "ConfirmingRejection") && is(k, "Ready", "True"))
        .await;
    let key = t.until("chat", "Invalid", |k| because(k, "Ready", "KeyInvalid")).await;
    assert!(is(&key, "Ready", "False") && is(&key, "Stalled", "True"));
    assert_eq!(healthy(&key), Some(("False".to_owned(), "KeyInvalid".to_owned())));
    let checks = t.calls(Operation::ListModels);
    let rejections = checks.iter().filter(|entry| entry.status == Some(401)).count();
    assert!(rejections >= 3, "{rejections} rejections");
    let health = key.status.unwrap().health.unwrap();
    assert_eq!(health.state, "Invalid");
    let past: Vec<&str> = health.history.iter().map(|past| past.state.as_str()).collect();
    assert_eq!(past[..2], ["Unknown", "Valid"]);
    assert_eq!(secret_version(&t).await, before, "what is delivered stays");

    // Another key from the person, and all is well again.
    let next = t.person_key("two");
    t.source("chat", &next).await;
    let key = t.until("chat", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(is(&key, "Ready", "True") && is(&key, "Stalled", "False"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(next));
}

#[tokio::test]
async fn a_working_key_may_have_too_little_scope_or_credit() {
    let t = Tenant::new("scope").await;
    ready(&t, often("Required")).await;
    let fault = checks_go_wrong(&t, Answer::MissingScopes { status: 403 });
    let key = shows(&t, "True", "RestrictedScope").await;
    assert_eq!(key.status.unwrap().health.unwrap().state, "RestrictedScope");
    t.sandbox().remove_fault(fault);
    let fault = checks_go_wrong(&t, Answer::InsufficientQuota);
    let key = shows(&t, "False", "OutOfCredit").await;
    assert_eq!(key.status.unwrap().health.unwrap().state, "OutOfCredit");
    t.sandbox().remove_fault(fault);
    shows(&t, "True", "KeyValid").await;
}

#[tokio::test]
async fn a_first_key_is_delivered_in_an_outage_after_a_while() {
    let t = Tenant::new("first").await;
    let fault = checks_go_wrong(&t, Answer::Unavailable { retry_after_seconds: None });
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", often("Required")).await;
    let key = t
        .until("chat", "delivered", |k| because(k, "Ready", "NotYetValidated") && state(k, 1).is_some())
        .await;
    assert!(is(&key, "Ready", "Unknown"));
    assert!(t.delivered("chat", "OPENAI_API_KEY").await.is_some());
    t.sandbox().remove_fault(fault);
    shows(&t, "True", "KeyValid").await;
}

#[tokio::test]
async fn a_first_key_that_is_rejected_is_not_delivered() {
    let t = Tenant::new("rejected").await;
    let value = t.person_key("bad");
    t.sandbox().withdraw_key(&value);
    t.source("chat", &value).await;
    t.supplied("chat", often("Required")).await;
    let key = t.until("chat", "rejected", |k| because(k, "Stalled", "RejectedNotPublished")).await;
    assert!(is(&key, "Ready", "False"));
    // An outage afterwards does not let it through.
    let fault = checks_go_wrong(&t, Answer::InternalError);
    let struck = |log: &LogEntry| log.fault.is_some();
    wait("checks during the outage", async || {
        (t.calls(Operation::ListModels).iter().filter(|entry| struck(entry)).count() > 1).then_some(())
    })
    .await;
    assert!(t.secrets().get_opt("chat").await.unwrap().is_none());
    t.sandbox().remove_fault(fault);
    let good = t.person_key("good");
    t.source("chat", &good).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(good));
}

#[tokio::test]
async fn advisory_delivers_at_once_and_only_reports() {
    let t = Tenant::new("advisory").await;
    t.source("chat", "sk-proj-nobodyknowsT3BlbkFJthat").await;
    t.supplied("chat", often("Advisory")).await;
    shows(&t, "False", "KeyInvalid").await;
    let key = t.get("chat").await;
    assert!(because(&key, "Ready", "PublishedUnchecked") && is(&key, "Stalled", "False"));
    assert!(t.delivered("chat", "OPENAI_API_KEY").await.is_some());
}

#[tokio::test]
async fn disabled_makes_no_call() {
    let t = Tenant::new("disabled").await;
    ready(&t, often("Disabled")).await;
    let key = t.settled("chat").await;
    assert!(because(&key, "Ready", "ValidationDisabled") && because(&key, "Healthy", "ValidationDisabled"));
    assert!(key.status.unwrap().health.is_none());
    assert!(t.calls(Operation::ListModels).is_empty());
}

#[tokio::test]
async fn a_key_on_which_nothing_changes_causes_no_write() {
    let t = Tenant::new("still").await;
    t.policy("policy", json!({})).await;
    let mut spec = often("Required");
    spec["rotationPolicyRef"] = json!({"name": "policy"});
    ready(&t, spec).await;
    let before = t.settled("chat").await;
    let checks = t.calls(Operation::ListModels).len();
    wait("four more checks", async || (t.calls(Operation::ListModels).len() >= checks + 4).then_some(()))
        .await;
    let after = t.get("chat").await;
    assert_eq!(
        after.resource_version(),
        before.resource_version(),
        "{:?}\n{:?}",
        before.status,
        after.status
    );
}

#[tokio::test]
async fn checks_are_counted_and_timed() {
    let t = Tenant::new("metrics").await;
    ready(&t, often("Required")).await;
    let fault = checks_go_wrong(&t, Answer::InternalError);
    shows(&t, "Unknown", "ProviderDown").await;
    let (status, text) = t.operator().get("/metrics").await;
    assert_eq!(status, 200);
    let line = |beginning: &str| text.lines().any(|line| line.starts_with(beginning));
    assert!(line("llmkey_validation_failures_total{"), "{text}");
    assert!(line("llmkey_validation_duration_seconds_bucket{") && line("llmkey_validation_total{"));
    let names = format!("namespace=\"{}\",name=\"chat\"", t.namespace);
    let state = |line: &&str| line.starts_with("llmkey_key_state{") && line.contains(&names);
    assert!(text.lines().any(|l| state(&l) && l.contains("ProviderDown") && l.ends_with(" 1")), "{text}");
    t.sandbox().remove_fault(fault);
}
