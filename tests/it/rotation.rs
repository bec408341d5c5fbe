//! Rotation: when a key is replaced, what the older one waits for, and what holds either.

use chrono::{DateTime, TimeDelta, Utc};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use llmkey_operator::api::{ClusterRotationPolicy, LLMKey, RotationPolicy};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation, Settings};
use serde_json::{Value, json};

use super::stage::{DIVISOR, Operator, Tenant, because, empty_stage, find, is, now, state, wait};
use super::workload::{Workload, time, version};

/// One hour is 12 s here, 15 minutes are 3 s.
fn by_hand(minimum: &str, quiet_for: &str) -> Value {
    json!({"overlap": {"minimum": minimum, "evidence": {"quietFor": quiet_for}}})
}

fn hourly(changes: &Value) -> Value {
    let mut spec = json!({
        "schedule": {"interval": "1h"}, "jitter": "0s",
        "overlap": {"minimum": "15m", "evidence": {"quietFor": "15m"}},
    });
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    spec
}

/// A minted key under a policy of its own, Ready.
async fn ready(t: &Tenant, policy: Value, changes: Value) -> String {
    t.policy("policy", policy).await;
    let mut spec = json!({"rotationPolicyRef": {"name": "policy"}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    t.minted("chat", spec).await;
    t.ready("chat").await;
    t.delivered("chat", "OPENAI_API_KEY").await.unwrap()
}

async fn rotate(t: &Tenant, token: &str) {
    t.annotate("chat", "llmkeys.dev/rotate", Some(token)).await;
}

fn reached(number: i32, wanted: &'static str) -> impl Fn(&LLMKey) -> bool {
    move |key| state(key, number).as_deref() == Some(wanted)
}

async fn until_state(t: &Tenant, number: i32, wanted: &'static str) -> LLMKey {
    t.until("chat", &format!("version {number} is {wanted}"), reached(number, wanted)).await
}

fn published(key: &LLMKey, number: i32) -> DateTime<Utc> {
    time(version(key, number).published_at.as_ref())
}

fn revoked(key: &LLMKey, number: i32) -> DateTime<Utc> {
    time(version(key, number).revoked_at.as_ref())
}

#[tokio::test]
async fn a_schedule_rotates_and_the_old_key_is_revoked_once_it_is_quiet() {
    let t = Tenant::new("schedule").await;
    let first = ready(&t, hourly(&json!({})), json!({})).await;
    let workload = Workload::of_secret(&t, "chat");
    let key = until_state(&t, 2, "Current").await;
    assert!(is(&key, "Ready", "True"));
    assert_eq!(version(&key, 2).reason, "Schedule");
    assert!(published(&key, 2) - published(&key, 1) >= TimeDelta::seconds(12));
    let due = time(key.status.as_ref().unwrap().next_rotation_time.as_ref());
    assert_eq!(due, published(&key, 2) + TimeDelta::seconds(12));
    assert!(t.sandbox().accepts(&first), "both keys work during the overlap");

    let key = until_state(&t, 1, "Revoked").await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("ProviderQuiet"));
    assert!(revoked(&key, 1) - published(&key, 2) >= TimeDelta::seconds(3));
    assert!(!t.sandbox().accepts(&first));
    let answers = workload.answers();
    assert!(answers.accepted > 0 && answers.refused.is_empty(), "{answers:?}");
    t.delete("chat").await;
}

#[tokio::test]
async fn a_key_in_use_is_not_revoked_until_its_use_stops() {
    let t = Tenant::new("in-use").await;
    let first = ready(&t, by_hand("0s", "15m"), json!({"validation": {"interval": "1m"}})).await;
    let laggard = Workload::of_key(&t, first.clone());
    laggard.goes_on(1).await;
    rotate(&t, "1").await;
    let key = t.until("chat", "StillInUse", |k| because(k, "OverlapActive", "StillInUse")).await;
    // Twice as long as it would have to be quiet.
    t.asked_after(published(&key, 2) + TimeDelta::seconds(7)).await;
    let key = t.get("chat").await;
    assert!(reached(1, "Overlap")(&key) && because(&key, "OverlapActive", "StillInUse"));
    assert!(laggard.answers().refused.is_empty());
    drop(laggard);
    let key = until_state(&t, 1, "Revoked").await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("ProviderQuiet"));
    let keys = t.sandbox().keys(&t.project);
    let used = keys[0].last_used_at.unwrap();
    assert!(revoked(&key, 1) - used >= TimeDelta::seconds(2), "{used}");
    assert!(is(&key, "OverlapActive", "False"));
}

#[tokio::test]
async fn a_token_asks_once() {
    let t = Tenant::new("token").await;
    t.policy("policy", by_hand("0s", "0s")).await;
    let spec = json!({"rotationPolicyRef": {"name": "policy"}});
    t.minted_with("chat", json!({"llmkeys.dev/rotate": "old"}), spec).await;
    let key = t.ready("chat").await;
    let handled = |key: &LLMKey| key.status.as_ref().unwrap().last_handled_rotate.clone();
    assert_eq!(handled(&key).as_deref(), Some("old"), "what is there from the beginning asks for nothing");
    assert_eq!(t.settled("chat").await.status.unwrap().current_version, Some(1));

    rotate(&t, "new").await;
    let key = until_state(&t, 1, "Revoked").await;
    assert_eq!((handled(&key).as_deref(), version(&key, 2).reason.as_str()), (Some("new"), "Requested"));
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    rotate(&t, "new").await;
    let key = t.settled("chat").await;
    assert_eq!(key.status.unwrap().current_version, Some(2));
    t.annotate("chat", "llmkeys.dev/rotate", None).await;
    assert_eq!(t.settled("chat").await.status.unwrap().current_version, Some(2));
    assert_eq!((t.mints(), t.revocations()), (2, 1));
}

#[tokio::test]
async fn a_paused_key_is_neither_rotated_nor_revoked() {
    let t = Tenant::new("paused").await;
    let first = ready(&t, by_hand("15m", "0s"), json!({"validation": {"interval": "1m"}})).await;
    t.annotate("chat", "llmkeys.dev/paused", Some("true")).await;
    rotate(&t, "1").await;
    let key = t.until("chat", "Paused", |k| because(k, "RotationDue", "Paused")).await;
    assert!(is(&key, "Ready", "True"));
    assert_eq!(t.mints(), 1);
    t.annotate("chat", "llmkeys.dev/paused", None).await;
    let key = until_state(&t, 2, "Current").await;

    t.annotate("chat", "llmkeys.dev/paused", Some("true")).await;
    t.until("chat", "Paused", |k| because(k, "OverlapActive", "Paused")).await;
    t.asked_after(published(&key, 2) + TimeDelta::seconds(5)).await;
    assert!(reached(1, "Overlap")(&t.get("chat").await) && t.sandbox().accepts(&first));
    t.annotate("chat", "llmkeys.dev/paused", None).await;
    until_state(&t, 1, "Revoked").await;
    assert_eq!((t.mints(), t.revocations()), (2, 1));
}

#[tokio::test]
async fn remind_only_leaves_the_rotation_to_a_person() {
    let t = Tenant::new("remind").await;
    ready(&t, hourly(&json!({"mode": "RemindOnly"})), json!({})).await;
    let key = t.until("chat", "RotationDue", |k| because(k, "RotationDue", "RemindOnly")).await;
    assert!(is(&key, "Ready", "True") && is(&key, "Reconciling", "False"));
    assert_eq!(t.mints(), 1);
    rotate(&t, "1").await;
    let key = until_state(&t, 2, "Current").await;
    assert_eq!(version(&key, 2).reason, "Requested");
}

#[tokio::test]
async fn a_supplied_key_is_due_until_a_person_supplies_the_next() {
    let t = Tenant::new("supply").await;
    t.policy("policy", hourly(&json!({"reminders": ["30m"]}))).await;
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let key = t.until("chat", "RotationDue", |k| because(k, "RotationDue", "SupplyNextKey")).await;
    assert!(is(&key, "Ready", "True"));
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(t.client.clone(), &t.namespace);
    let events = events.list(&ListParams::default()).await.unwrap();
    assert!(events.items.iter().any(|e| e.reason.as_deref() == Some("RotationReminder")));

    let next = t.person_key("two");
    t.source("chat", &next).await;
    let key = until_state(&t, 2, "Current").await;
    assert!(is(&key, "RotationDue", "False"));
    rotate(&t, "1").await;
    t.until("chat", "RotationDue", |k| because(k, "RotationDue", "SupplyNextKey")).await;
    t.source("chat", &t.person_key("three")).await;
    let key = until_state(&t, 3, "Current").await;
    assert!(is(&key, "RotationDue", "False"));
    assert!(t.sandbox().accepts(&next), "a person's key is not the operator's to revoke");
}

#[tokio::test]
async fn a_due_rotation_waits_for_the_overlap_of_the_last() {
    let t = Tenant::new("waits").await;
    ready(&t, by_hand("20m", "0s"), json!({})).await;
    rotate(&t, "1").await;
    until_state(&t, 2, "Current").await;
    rotate(&t, "2").await;
    let key = t.until("chat", "OverlapActive", |k| because(k, "RotationDue", "OverlapActive")).await;
    assert!(reached(1, "Overlap")(&key));
    assert_eq!(t.mints(), 2);
    let key = until_state(&t, 3, "Current").await;
    assert!(reached(1, "Revoked")(&key));
    let order: Vec<Operation> = t
        .sandbox()
        .log_of(&t.project)
        .into_iter()
        .map(|entry| entry.operation)
        .filter(|o| matches!(o, Operation::CreateServiceAccount | Operation::DeleteServiceAccount))
        .collect();
    let (mint, revoke) = (Operation::CreateServiceAccount, Operation::DeleteServiceAccount);
    assert_eq!(order, [mint, mint, revoke, mint]);
}

#[tokio::test]
async fn a_policy_that_goes_during_an_overlap_holds_the_revocation() {
    let t = Tenant::new("policy-gone").await;
    let first = ready(&t, by_hand("15m", "0s"), json!({"validation": {"interval": "1m"}})).await;
    rotate(&t, "1").await;
    let key = until_state(&t, 2, "Current").await;
    let policies: Api<RotationPolicy> = Api::namespaced(t.client.clone(), &t.namespace);
    policies.delete("policy", &DeleteParams::default()).await.unwrap();
    t.until("chat", "held", |k| because(k, "OverlapActive", "PolicyNotFound")).await;
    t.asked_after(published(&key, 2) + TimeDelta::seconds(5)).await;
    let key = t.get("chat").await;
    assert!(reached(1, "Overlap")(&key) && because(&key, "Stalled", "PolicyNotFound"));
    assert!(t.sandbox().accepts(&first));
    t.policy("policy", by_hand("15m", "0s")).await;
    let key = until_state(&t, 1, "Revoked").await;
    assert!(is(&key, "Stalled", "False") && is(&key, "Ready", "True"));
}

#[tokio::test]
async fn revoked_by_spec_ends_all_keys_and_active_makes_another() {
    let t = Tenant::new("by-spec").await;
    ready(&t, by_hand("720h", "0s"), json!({})).await;
    rotate(&t, "1").await;
    until_state(&t, 2, "Current").await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2);
    t.patch("chat", json!({"spec": {"desiredState": "Revoked"}})).await;
    let key = t.until("chat", "Revoked", |k| because(k, "Ready", "Revoked")).await;
    assert!(is(&key, "Ready", "False"));
    assert!(reached(1, "Revoked")(&key) && reached(2, "Revoked")(&key));
    assert_eq!(version(&key, 2).revocation_basis.as_deref(), Some("Explicit"));
    assert!(t.sandbox().live_keys(&t.project).is_empty());
    let gone = async || t.secrets().get_opt("chat").await.unwrap().is_none().then_some(());
    wait("the target goes", gone).await;

    t.patch("chat", json!({"spec": {"desiredState": "Active"}})).await;
    let key = until_state(&t, 3, "Current").await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value) && is(&key, "Ready", "True"));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_replacement_waits_until_the_provider_knows_it() {
    let t = Tenant::new("lag").await;
    ready(&t, by_hand("15m", "0s"), json!({})).await;
    let workload = Workload::of_secret(&t, "chat");
    workload.goes_on(1).await;
    let lag = Settings { new_key_lag_millis: 1200, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), lag);
    rotate(&t, "1").await;
    let key = t.until("chat", "waits", |k| because(k, "RotationDue", "WaitingForProvider")).await;
    assert!(is(&key, "Ready", "True") && is(&key, "Reconciling", "False"), "the old key works");
    until_state(&t, 2, "Current").await;
    let key = until_state(&t, 1, "Revoked").await;
    assert!(is(&key, "Ready", "True"));
    workload.goes_on(1).await;
    let answers = workload.answers();
    assert!(answers.refused.is_empty(), "{answers:?}");
    assert_eq!(t.mints(), 2);
}

#[tokio::test]
async fn a_replacement_goes_over_a_good_key_only_when_it_is_known_to_work() {
    let t = Tenant::new("unknown").await;
    let first = ready(&t, by_hand("0s", "0s"), json!({})).await;
    let outage = Fault::refuse(Answer::Unavailable { retry_after_seconds: None });
    let fault = t.sandbox().add_fault(FaultRule::on(Operation::ListModels, outage).project(&t.project));
    rotate(&t, "1").await;
    until_state(&t, 2, "Pending").await;
    // A first key would be delivered after 0.4 s.
    t.asked_after(now() + TimeDelta::seconds(3)).await;
    let key = t.get("chat").await;
    assert!(reached(2, "Pending")(&key) && is(&key, "Ready", "True"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&first));
    t.sandbox().remove_fault(fault);
    let key = until_state(&t, 1, "Revoked").await;
    assert!(reached(2, "Current")(&key));
    assert_eq!(t.mints(), 2);
}

#[tokio::test]
async fn a_key_that_never_works_is_revoked_and_another_is_made() {
    let t = Tenant::new("never").await;
    ready(&t, by_hand("0s", "0s"), json!({})).await;
    let workload = Workload::of_secret(&t, "chat");
    let lag = Settings { new_key_lag_millis: 3_600_000, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), lag);
    rotate(&t, "1").await;
    t.until("chat", "a second try", |_| t.mints() > 1).await;
    t.sandbox().set_settings(Some(&t.project), Settings::default());
    let key = until_state(&t, 2, "Revoked").await;
    assert_eq!(version(&key, 2).revocation_basis.as_deref(), Some("NeverPublished"));
    assert!(version(&key, 2).published_at.is_none());
    assert!(is(&key, "Ready", "True"));
    let answers = workload.answers();
    assert!(answers.refused.is_empty(), "{answers:?}");
    rotate(&t, "2").await;
    t.until("chat", "another is current", |k| k.status.as_ref().unwrap().current_version > Some(2)).await;
    let one = async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(());
    wait("one key is left", one).await;
}

#[tokio::test]
async fn the_default_policy_serves_keys_that_name_none() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-default", DIVISOR, "debug");
    let t = Tenant::on(stage, "default").await;
    let policy: ClusterRotationPolicy = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "ClusterRotationPolicy",
        "metadata": {"name": "default"}, "spec": hourly(&json!({})),
    }))
    .unwrap();
    let policies: Api<ClusterRotationPolicy> = Api::all(t.client.clone());
    policies.create(&PostParams::default(), &policy).await.unwrap();
    t.source("supplied", &t.person_key("one")).await;
    t.supplied("supplied", json!({})).await;
    t.minted("chat", json!({})).await;
    let key = until_state(&t, 2, "Current").await;
    let shown = key.status.as_ref().unwrap().rotation_policy.clone();
    assert_eq!(shown.as_deref(), Some("ClusterRotationPolicy/default (Defaulted)"));
    let supplied =
        |k: &LLMKey| because(k, "RotationDue", "RemindOnly") || because(k, "RotationDue", "SupplyNextKey");
    let key = t.until("supplied", "RotationDue", supplied).await;
    assert!(is(&key, "Ready", "True"));
    policies.delete("default", &DeleteParams::default()).await.unwrap();
    let key =
        t.until("supplied", "no policy", |k| k.status.as_ref().unwrap().rotation_policy.is_none()).await;
    assert_eq!(find(&key, "RotationDue").unwrap().0, "False");
    drop(operator);
}
