//! The history of rotations in status, and tries that wait for what the ledger says, also across a restart.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams};
use llmkey_operator::api::{LLMKey, RotationStatus};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use serde_json::{Value, json};

use super::restart::{kill, leads};
use super::stage::{Operator, Stage, Tenant, because, empty_stage, is, state, wait};
use super::workload::version;

fn policy(retry: &Value) -> Value {
    json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}, "retry": retry})
}

async fn minted(t: &Tenant, retry: &Value) {
    t.policy("policy", policy(retry)).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
}

/// As a client does that tells its name.
async fn patch_as(t: &Tenant, manager: &str, patch: Value) {
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    t.keys().patch("chat", &params, &Patch::Merge(patch)).await.unwrap();
}

fn rotations(key: &LLMKey) -> &[RotationStatus] {
    key.status.as_ref().map(|s| &s.rotations[..]).unwrap_or_default()
}

fn result(key: &LLMKey) -> Option<(i32, String)> {
    let last = key.status.as_ref()?.last_rotation.as_ref()?;
    Some((last.version, last.result.clone()))
}

fn throttled(t: &Tenant, seconds: u32) -> u64 {
    let answer = Answer::RateLimited { retry_after_seconds: Some(seconds) };
    let rule = FaultRule::on(Operation::CreateServiceAccount, Fault::refuse(answer)).project(&t.project);
    t.sandbox().add_fault(rule)
}

#[tokio::test]
async fn a_rotation_tells_who_asked_and_what_became_of_both_keys() {
    let t = Tenant::new("history").await;
    minted(&t, &json!({})).await;
    let first = t.get("chat").await;
    assert!(rotations(&first).is_empty(), "the first version is no rotation");
    assert_eq!(result(&first), Some((1, "Succeeded".into())));
    patch_as(&t, "team-a-cli", json!({"metadata": {"annotations": {"llmkeys.dev/rotate": "1"}}})).await;
    let key = t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    let [told] = rotations(&key) else { panic!("{:?}", rotations(&key)) };
    assert_eq!((told.version, told.reason.as_str(), told.method.as_str()), (2, "Requested", "Minted"));
    assert_eq!((told.outcome.as_str(), told.attempts), ("Succeeded", Some(1)));
    assert_eq!(told.requested_by, "team-a-cli (unverified)");
    assert!(told.requested_at.as_ref().unwrap() <= &told.started_at, "{told:?}");
    assert_eq!(told.ended_at, version(&key, 2).published_at);
    let (new, from) = (version(&key, 2), told.from.clone().unwrap());
    assert_eq!((&told.last_four, &told.fingerprint), (&new.last_four, &new.fingerprint));
    assert_eq!(new.requested_by.as_ref(), Some(&told.requested_by));
    let old = version(&key, 1);
    assert_eq!((from.version, &from.last_four, &from.fingerprint), (1, &old.last_four, &old.fingerprint));
    assert_eq!((from.revocation_basis.as_deref(), from.revoked_at), (Some("MinimumElapsed"), old.revoked_at));

    let said = |line: &str| {
        line.contains(&t.namespace) && line.contains(r#""requestedBy":"team-a-cli (unverified)""#)
    };
    let log = t.operator().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("llmkey_operator::audit")).collect();
    assert_eq!(
        lines.iter().filter(|line| said(line)).count(),
        1,
        "the line of its beginning names who asked"
    );

    patch_as(&t, "incident-bot", json!({"spec": {"revokedVersions": [2]}})).await;
    let key = t.until("chat", "replaced", |k| state(k, 2).as_deref() == Some("Revoked")).await;
    let told = &rotations(&key)[0];
    assert_eq!((told.version, told.reason.as_str()), (3, "BreakGlass"));
    assert_eq!(told.requested_by, "incident-bot (unverified)");
    assert_eq!(told.from.as_ref().unwrap().revocation_basis.as_deref(), Some("Explicit"));
    let shown = serde_json::to_string(&key.status).unwrap();
    let delivered = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(!shown.contains(&delivered));
}

#[tokio::test]
async fn a_supplied_value_names_the_client_that_wrote_it() {
    let t = Tenant::new("history-supplied").await;
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    let params = PatchParams { field_manager: Some("vault-sync".into()), ..PatchParams::default() };
    let next = json!({"stringData": {"key": t.person_key("two")}});
    t.secrets().patch("chat-source", &params, &Patch::Merge(next)).await.unwrap();
    let key = t.until("chat", "the next", |k| state(k, 2).as_deref() == Some("Current")).await;
    let [told] = rotations(&key) else { panic!("{:?}", rotations(&key)) };
    assert_eq!((told.reason.as_str(), told.method.as_str()), ("SourceChanged", "Supplied"));
    assert_eq!((told.requested_by.as_str(), told.attempts), ("vault-sync (unverified)", None));
    assert_eq!(told.from.as_ref().map(|from| from.version), Some(1));
}

#[tokio::test]
async fn a_rotation_that_fails_too_often_says_so_once_and_ends_by_itself() {
    let t = Tenant::new("failed").await;
    minted(&t, &json!({"attempts": 2})).await;
    let fault = throttled(&t, 1);
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let failed = |k: &LLMKey| because(k, "RotationDue", "RotationFailed");
    let key = t.until("chat", "RotationFailed", failed).await;
    let labels =
        format!(r#"namespace="{}",name="chat",condition="RotationDue",reason="RotationFailed""#, t.namespace);
    let series = format!("llmkey_key_problem{{{labels}}} 1");
    wait("an alert can tell of it", async || {
        t.operator().get("/metrics").await.1.contains(&series).then_some(())
    })
    .await;
    assert!(is(&key, "Ready", "True") && is(&key, "Stalled", "False"), "what is delivered works");
    let key = t.until("chat", "Failed", |k| result(k) == Some((2, "Failed".into()))).await;
    let told = &rotations(&key)[0];
    let error = told.last_error.clone().unwrap();
    assert_eq!((told.outcome.as_str(), error.reason.as_str()), ("Failed", "MintFailed"));
    assert_eq!(error.class, "Transient");
    let more = t.mints() + 2;
    wait("it goes on being tried", async || (t.mints() >= more).then_some(())).await;

    let events: Api<Event> = Api::namespaced(t.client.clone(), &t.namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let told = events.iter().filter(|e| e.reason.as_deref() == Some("RotationFailed"));
    let told: Vec<i32> = told.map(|e| e.series.as_ref().map_or(1, |s| s.count)).collect();
    assert_eq!(told, [1], "{events:#?}");
    assert!(t.sandbox().remove_fault(fault));
    let key = t.until("chat", "by itself", |k| state(k, 2).as_deref() == Some("Current")).await;
    let told = &rotations(&key)[0];
    assert_eq!((told.outcome.as_str(), result(&key)), ("Succeeded", Some((2, "Succeeded".into()))));
    assert!(told.attempts > Some(3) && told.last_error.is_some(), "{told:?}");
    assert!(is(&key, "RotationDue", "False"));
}

/// Two minutes are a second here, and what a provider asks to wait is believed up to 30 s.
fn start(stage: &Stage) -> Operator {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("operator-history-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Operator::start(stage.cluster, &stage.installation, &name, 120, "debug")
}

#[tokio::test]
async fn a_restart_waits_for_what_the_ledger_says_and_an_edit_does_not() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let tenants = [Tenant::on(stage, "retry-waits").await, Tenant::on(stage, "retry-edited").await];
    for t in &tenants {
        minted(t, &json!({})).await;
    }
    for t in &tenants {
        throttled(t, 20);
        t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    }
    for t in &tenants {
        let on_record = |k: &LLMKey| rotations(k).first().is_some_and(|r| r.last_error.is_some());
        t.until("chat", "the failure is on record", on_record).await;
    }
    kill(stage, operator).await;
    let calls = |t: &Tenant| -> Vec<DateTime<Utc>> {
        t.calls(Operation::CreateServiceAccount).iter().map(|call| call.time).collect()
    };
    let refused: Vec<DateTime<Utc>> = tenants.iter().map(|t| *calls(t).last().unwrap()).collect();
    assert!(tenants.iter().all(|t| t.mints() == 2));

    let operator = start(stage);
    leads(&operator).await;
    let [waits, edited] = &tenants;
    edited.patch("chat", json!({"spec": {"deletionGracePeriod": "2h"}})).await;
    let third = async |t: &Tenant| wait("the third call", async || calls(t).get(2).copied()).await;
    let again = third(edited).await;
    assert!(
        again - refused[1] < TimeDelta::seconds(20),
        "an edit skips the wait: {again} after {}",
        refused[1]
    );
    assert_eq!(calls(waits).len(), 2, "the other one still waits");
    let key = waits.get("chat").await;
    assert!(because(&key, "RotationDue", "MintFailed"), "{:?}", key.status.unwrap().conditions);
    let again = third(waits).await;
    assert!(again - refused[0] >= TimeDelta::seconds(20), "{again} is too early after {}", refused[0]);
    let counted = |k: &LLMKey| rotations(k).first().is_some_and(|r| r.attempts == Some(2));
    waits.until("chat", "both attempts are counted", counted).await;
    drop(operator);
}
