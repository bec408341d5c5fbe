//! `source.pool`: supplied keys that follow one another without a person, each once.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams};
use llmkey_operator::api::{LLMKey, PoolStatus};
use serde_json::{Value, json};

use super::bad_input::looked_again;
use super::restart::{kill, leads, requests, start};
use super::stage::{Tenant, because, empty_stage, find, is, now, state, wait};
use super::workload::version;

/// A member of each name, whose key stands in the Secret `<name>-source`.
fn members(names: &[&str]) -> Value {
    let secret = |name: &str| json!({"name": format!("{name}-source"), "key": "key"});
    let members = names.iter().map(|name| json!({"name": name, "secretRef": secret(name)}));
    json!({"secretRef": null, "pool": {"members": members.collect::<Vec<_>>()}})
}

async fn pooled(t: &Tenant, name: &str, names: &[&str], policy: Option<&str>) {
    let mut spec = json!({"source": members(names)});
    if let Some(policy) = policy {
        spec["rotationPolicyRef"] = json!({"name": policy});
    }
    t.supplied(name, spec).await;
}

/// One hour is 12 s here.
async fn hourly(t: &Tenant) {
    let spec = json!({"schedule": {"interval": "1h"}, "jitter": "0s", "overlap": {"minimum": "15m"}});
    t.policy("hourly", spec).await;
}

/// A version is current, and came from the member for the reason.
fn taken(number: i32, member: &str, reason: &str) -> impl Fn(&LLMKey) -> bool {
    let wanted = (Some(member.to_owned()), reason.to_owned());
    move |key| {
        let current = state(key, number).is_some_and(|s| s == "Current" || s == "Publishing");
        current && (version(key, number).member.clone(), version(key, number).reason.clone()) == wanted
    }
}

fn told(key: &LLMKey) -> PoolStatus {
    key.status.as_ref().and_then(|status| status.pool.clone()).unwrap_or_default()
}

fn passed_over(key: &LLMKey) -> Vec<String> {
    told(key).skipped.iter().map(|s| format!("{} {}", s.name, s.reason)).collect()
}

async fn event(t: &Tenant, reason: &str, words: &str) -> Event {
    let events: Api<Event> = Api::namespaced(t.client.clone(), &t.namespace);
    wait(&format!("the event {reason}: {words}"), async || {
        let found = events.list(&ListParams::default()).await.unwrap().items.into_iter();
        found.into_iter().find(|e| {
            e.reason.as_deref() == Some(reason) && e.note.as_ref().is_some_and(|n| n.contains(words))
        })
    })
    .await
}

#[tokio::test]
async fn keys_follow_one_another_until_the_pool_is_used_up_and_filled_again() {
    let t = Tenant::new("pool").await;
    let keys = ["one", "two", "three", "four"].map(|tail| t.person_key(tail));
    for (name, key) in ["a", "b", "c"].iter().zip(&keys) {
        t.source(name, key).await;
    }
    hourly(&t).await;
    pooled(&t, "chat", &["a", "b", "c"], Some("hourly")).await;
    let key = t.ready("chat").await;
    assert!(taken(1, "a", "Initial")(&key));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&keys[0]));
    assert_eq!((told(&key).total, told(&key).unused, told(&key).next.as_deref()), (3, 2, Some("b")));

    let key = t.until("chat", "b's turn", taken(2, "b", "Schedule")).await;
    assert_eq!(state(&key, 1).as_deref(), Some("Retained"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&keys[1]));
    event(&t, "Rotated", "delete the key of version 1 (pool member a, it ends in rson)").await;
    let last = |key: &LLMKey| taken(3, "c", "Schedule")(key) && because(key, "RotationDue", "LastPoolMember");
    let key = t.until("chat", "c's turn, the last", last).await;
    assert!(is(&key, "Ready", "True") && is(&key, "RotationDue", "False"));
    let remedy = format!("put a new key into Secret {}/a-source (pool member a)", t.namespace);
    assert!(find(&key, "RotationDue").unwrap().2.contains(&remedy));
    assert_eq!(event(&t, "LastPoolMember", &remedy).await.type_.as_deref(), Some("Warning"));

    let key = t.until("chat", "used up", |k| because(k, "RotationDue", "SupplyNextKey")).await;
    assert!(is(&key, "Ready", "True") && is(&key, "RotationDue", "True"));
    assert!(find(&key, "RotationDue").unwrap().2.contains(&remedy));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&keys[2]));
    t.source("a", &keys[3]).await;
    t.until("chat", "a's next turn", taken(4, "a", "Schedule")).await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&keys[3]));
    assert!(keys.iter().all(|key| t.sandbox().accepts(key)), "nobody but a person deletes them");
}

#[tokio::test]
async fn members_without_a_usable_key_are_passed_over_and_come_back_when_they_change() {
    let t = Tenant::new("passed-over").await;
    let (good, next) = (t.person_key("good"), t.person_key("next"));
    t.source("b", "hunter2").await;
    t.source("c", "sk-proj-nobody-made-this-0123456789").await;
    t.source("d", &good).await;
    pooled(&t, "chat", &["a", "b", "c", "d"], None).await;
    let key = t.ready("chat").await;
    assert!(taken(1, "d", "Initial")(&key));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&good));
    let reasons = ["a SourceNotFound", "b SourceShapeRefused", "c RejectedNotPublished"];
    assert_eq!(passed_over(&key), reasons);
    assert!(because(&key, "RotationDue", "LastPoolMember"), "none of them counts");
    let place = format!("pool member a is passed over: Secret {}/a-source does not exist", t.namespace);
    assert_eq!(event(&t, "SourceNotFound", &place).await.type_.as_deref(), Some("Warning"));

    // A changed Secret wakes its LLMKey. Nothing is due: it is next, and not delivered.
    t.source("b", &next).await;
    let key = t.until("chat", "b is next", |k| told(k).next.as_deref() == Some("b")).await;
    assert!(is(&key, "RotationDue", "False") && key.status.as_ref().unwrap().current_version == Some(1));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&good));
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let key = t.until("chat", "b's turn", taken(2, "b", "Requested")).await;
    assert_eq!(key.status.unwrap().last_handled_rotate.as_deref(), Some("1"));
    t.annotate("chat", "llmkeys.dev/rotate", Some("2")).await;
    let asked = |k: &LLMKey| because(k, "RotationDue", "SupplyNextKey");
    let key = t.until("chat", "nothing is left", asked).await;
    assert_eq!(key.status.unwrap().last_handled_rotate.as_deref(), Some("2"));
    // Neither another look nor a check of the key forgets what was asked for.
    t.annotate("chat", "example.com/note", Some("1")).await;
    t.asked_after(now() + chrono::TimeDelta::seconds(4)).await;
    assert!(asked(&t.get("chat").await));
    t.source("a", &t.person_key("late")).await;
    let key = t.until("chat", "a's turn", taken(3, "a", "Requested")).await;
    assert!(is(&key, "RotationDue", "False") && is(&key, "Ready", "True"));
}

#[tokio::test]
async fn the_key_in_use_follows_its_member_and_survives_its_removal() {
    let t = Tenant::new("in-use").await;
    let keys = ["one", "two", "three"].map(|tail| t.person_key(tail));
    t.source("a", &keys[0]).await;
    t.source("b", &keys[2]).await;
    pooled(&t, "chat", &["a", "b"], None).await;
    t.ready("chat").await;
    t.source("a", &keys[1]).await;
    t.until("chat", "a's new key", taken(2, "a", "SourceChanged")).await;
    let stays = async |what: &str| {
        let delivered = t.delivered("chat", "OPENAI_API_KEY").await;
        assert_eq!(delivered.as_ref(), Some(&keys[1]), "{what}");
    };
    stays("it is delivered").await;

    t.secrets().delete("a-source", &DeleteParams::default()).await.unwrap();
    let key = t.until("chat", "a is passed over", |k| passed_over(k) == ["a SourceNotFound"]).await;
    assert!(is(&key, "Ready", "True") && is(&key, "Stalled", "False"));
    t.patch("chat", json!({"spec": {"source": {"pool": members(&["b"])["pool"]}}})).await;
    let key = looked_again(&t, "chat").await;
    assert!(is(&key, "Ready", "True") && told(&key).total == 1);
    assert!(find(&key, "RotationDue").unwrap().2.contains("a member that the pool has no more"));
    stays("a member that is taken out").await;

    // Created again in time the LLMKey goes on with it.
    t.delete("chat").await;
    wait("it is gone", async || t.keys().get_opt("chat").await.unwrap().is_none().then_some(())).await;
    pooled(&t, "chat", &["b"], None).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.unwrap().current_version, Some(2));
    stays("created again").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "b's turn", taken(3, "b", "Requested")).await;
}

#[tokio::test]
async fn a_source_becomes_a_pool_without_another_version_for_the_same_key() {
    let t = Tenant::new("becomes").await;
    let (first, second) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &first).await;
    t.source("b", &second).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    t.patch("chat", json!({"spec": {"source": members(&["b", "chat"])}})).await;
    let key = t.until("chat", "it is chat's", |k| told(k).next.as_deref() == Some("b")).await;
    let status = key.status.as_ref().unwrap();
    assert_eq!((status.versions.len(), status.current_version), (1, Some(1)));
    assert_eq!(version(&key, 1).member.as_deref(), Some("chat"));
    t.patch("chat", json!({"spec": {"revokedVersions": [1]}})).await;
    let key = t.until("chat", "b's turn", taken(2, "b", "BreakGlass")).await;
    assert!(is(&key, "Stalled", "False"), "{:?}", find(&key, "Stalled"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(second));
    assert!(t.sandbox().accepts(&first), "it is a person's to delete");
}

#[tokio::test]
async fn few_members_are_read_and_none_at_rest() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    let t = Tenant::on(stage, "rest").await;
    let names: Vec<String> = (0..32).map(|n| format!("m{n}")).collect();
    for name in &names {
        t.source(name, &t.person_key(name)).await;
    }
    hourly(&t).await;
    let read = |from: usize| {
        let gets = requests(&t, &["full".to_owned()], from).into_iter();
        gets.filter(|r| r.starts_with("\"get\"") && r.contains("/secrets/m")).count()
    };
    let from = stage.cluster.audit_events().unwrap().len();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    pooled(&t, "full", &all, None).await;
    let key = t.ready("full").await;
    assert_eq!((told(&key).total, told(&key).unused), (32, 31));
    assert!(read(from) <= 4, "{}", read(from));
    pooled(&t, "empty", &["m30", "m31"], Some("hourly")).await;
    t.until("empty", "used up", |k| because(k, "RotationDue", "SupplyNextKey")).await;
    t.settled("full").await;
    t.settled("empty").await;

    kill(stage, operator).await;
    let from = stage.cluster.audit_events().unwrap().len();
    let operator = start(stage);
    leads(&operator).await;
    wait("both were looked at", async || {
        let metrics = operator.get("/metrics").await.1;
        let passes =
            metrics.lines().filter(|l| l.starts_with("llmkey_reconcile_total{controller=\"llm_key\""));
        let count: usize = passes.filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        (count >= 2).then_some(())
    })
    .await;
    assert_eq!(read(from), 0, "a restart reads no member");
    assert!(because(&t.get("empty").await, "RotationDue", "SupplyNextKey"));
    assert!(because(&t.get("full").await, "RotationDue", "NotDue"));
}
