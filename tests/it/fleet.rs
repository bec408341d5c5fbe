//! Many keys of one policy: so many at a time, everybody in turn, and what the policy tells of them.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use llmkey_operator::api::{LLMKey, RotationPolicy, RotationPolicyStatus};
use llmkey_operator::sandbox::{Operation, Settings};
use serde_json::{Value, json};

use super::restart::{kill, leads, start};
use super::stage::{Tenant, because, empty_stage, find, is, state, wait};
use super::workload::time;

/// New keys are refused for so long, and so long each rotation lasts at least.
const LASTS: u32 = 1500;

/// One key at a time; overlaps end at once.
fn one_at_a_time(changes: &Value) -> Value {
    let mut spec = json!({"maxConcurrent": 1, "overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    spec
}

/// Minted keys of one policy, Ready; each rotation takes its time from now on.
async fn ready(t: &Tenant, policy: Value, count: usize) -> Vec<String> {
    t.policy("policy", policy).await;
    let names: Vec<String> = (0..count).map(|n| format!("chat-{n}")).collect();
    let spec = || json!({"rotationPolicyRef": {"name": "policy"}});
    join_all(names.iter().map(|name| t.minted(name, spec()))).await;
    for name in &names {
        t.ready(name).await;
    }
    t.sandbox().set_settings(Some(&t.project), Settings { new_key_lag_millis: LASTS, ..Settings::default() });
    names
}

async fn policy(t: &Tenant) -> RotationPolicyStatus {
    let policies: Api<RotationPolicy> = Api::namespaced(t.client.clone(), &t.namespace);
    policies.get("policy").await.unwrap().status.unwrap_or_default()
}

async fn waiting(t: &Tenant) -> Vec<LLMKey> {
    let keys = t.keys().list(&ListParams::default()).await.unwrap();
    keys.items.into_iter().filter(|key| because(key, "RotationDue", "WaitingForTurn")).collect()
}

async fn second(t: &Tenant, names: &[String]) {
    for name in names {
        let second = |k: &LLMKey| k.status.as_ref().and_then(|s| s.current_version) >= Some(2);
        t.until(name, "its second version", second).await;
    }
}

/// No key was asked for before the one before it was delivered.
fn one_after_the_other(t: &Tenant, first: usize, count: usize) {
    let calls = t.calls(Operation::CreateServiceAccount);
    let times: Vec<DateTime<Utc>> = calls.iter().skip(first).take(count).map(|call| call.time).collect();
    assert_eq!(times.len(), count);
    for pair in times.windows(2) {
        // Times on record are cut to seconds.
        assert!(pair[1] - pair[0] >= TimeDelta::milliseconds(i64::from(LASTS) - 1000), "{times:?}");
    }
    let all = times[count - 1] - times[0];
    let least = i64::from(LASTS) * i64::try_from(count - 1).unwrap() - 1000;
    assert!(all >= TimeDelta::milliseconds(least), "{times:?}");
}

/// An hour is 12 s here: all are due within a moment.
#[tokio::test]
async fn keys_that_are_due_together_rotate_one_after_the_other_and_the_policy_tells() {
    let t = Tenant::new("turns").await;
    let hourly = json!({"schedule": {"interval": "1h"}, "jitter": "0s", "overlap": {
        "minimum": "15m", "evidence": {"quietFor": "0s", "consumers": "Ignored"},
    }});
    let names = ready(&t, one_at_a_time(&hourly), 5).await;
    let told = wait("the policy tells what comes", async || {
        Some(policy(&t).await).filter(|p| p.keys == Some(5) && p.upcoming.len() == 5)
    })
    .await;
    assert!(told.upcoming.is_sorted_by_key(|next| next.time.clone()), "{:?}", told.upcoming);
    let key = t.get(&told.upcoming[0].name).await;
    let status = key.status.as_ref().unwrap();
    assert_eq!(status.next_rotation_time.as_ref(), Some(&told.upcoming[0].time));
    assert_eq!(
        (told.upcoming[0].namespace.as_str(), told.in_flight, told.waiting),
        (&*t.namespace, Some(0), Some(0))
    );

    let told = wait("the policy tells who waits", async || {
        Some(policy(&t).await).filter(|p| p.waiting >= Some(2) && p.in_flight == Some(1))
    })
    .await;
    let reasons: Vec<&str> = told.waiting_for.iter().map(|w| w.reason.as_str()).collect();
    assert_eq!(reasons, ["WaitingForTurn"], "{told:?}");
    second(&t, &names).await;
    one_after_the_other(&t, 5, 5);
    for name in &names {
        t.delete(name).await;
    }
}

#[tokio::test]
async fn what_people_ask_for_waits_too_and_a_key_that_must_go_does_not() {
    let t = Tenant::new("asked").await;
    let names = ready(&t, one_at_a_time(&json!({})), 4).await;
    join_all(names.iter().map(|name| t.annotate(name, "llmkeys.dev/rotate", Some("1")))).await;
    let held = wait("two wait", async || Some(waiting(&t).await).filter(|keys| keys.len() >= 2)).await;
    let last = held.last().unwrap().name_any();
    let (_, _, message) = find(held.last().unwrap(), "RotationDue").unwrap();
    assert!(message.contains("RotationPolicy/policy replaces one key at a time"), "{message}");
    assert!(is(held.last().unwrap(), "Ready", "True"), "the old key works");
    assert_ne!(held.last().unwrap().status.as_ref().unwrap().last_handled_rotate.as_deref(), Some("1"));
    let begun = t.mints();
    t.patch(&last, json!({"spec": {"revokedVersions": [1]}})).await;
    t.until(&last, "the burnt version is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert!(t.mints() > begun);
    second(&t, &names).await;
    for name in &names {
        let handled = |k: &LLMKey| k.status.as_ref().unwrap().last_handled_rotate.as_deref() == Some("1");
        t.until(name, "its token was answered", handled).await;
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_lets_nobody_begin_early() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = Tenant::on(stage, "turns-restart").await;
    let names = ready(&t, one_at_a_time(&json!({})), 4).await;
    join_all(names.iter().map(|name| t.annotate(name, "llmkeys.dev/rotate", Some("1")))).await;
    wait("one has begun and others wait", async || {
        (t.mints() == 5 && waiting(&t).await.len() >= 2).then_some(())
    })
    .await;
    kill(stage, operator).await;
    let operator = start(stage);
    second(&t, &names).await;
    one_after_the_other(&t, 4, 4);
    drop(operator);
}

#[tokio::test]
async fn status_names_the_next_three_rotations_and_does_not_change_at_rest() {
    let t = Tenant::new("upcoming").await;
    t.policy("policy", json!({"schedule": {"calendar": {"period": "Monthly"}}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let key = t.settled("chat").await;
    let status = key.status.as_ref().unwrap();
    let times: Vec<DateTime<Utc>> = status.upcoming.iter().map(|next| time(Some(&next.time))).collect();
    assert_eq!(times.len(), 3);
    assert_eq!(Some(times[0]), status.next_rotation_time.as_ref().map(|next| time(Some(next))));
    for pair in times.windows(2) {
        assert!((27..33).contains(&(pair[1] - pair[0]).num_days()), "{times:?}");
    }
    assert!(status.upcoming.iter().all(|next| next.reason == "Schedule"));
    assert_eq!(t.settled("chat").await.status.unwrap().upcoming, status.upcoming);
}
