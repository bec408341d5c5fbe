//! The policy's `spares`: a key that is made and checked in advance, and delivered when one is needed.

use chrono::TimeDelta;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use serde_json::{Value, json};

use super::stage::{Tenant, because, find, is, now, state, wait};
use super::workload::{Workload, client, time, version};

/// One hour is 12 s here, 15 minutes are 3 s.
fn policy(spares: i32) -> Value {
    json!({"spares": spares, "overlap": {"minimum": "15m", "evidence": {"quietFor": "0s"}}})
}

/// A minted key, its value, and a spare beside it. Checked about every second.
async fn with_a_spare(t: &Tenant) -> (LLMKey, String) {
    t.policy("policy", policy(1)).await;
    let spec = json!({
        "rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "1m"}, "deletionGracePeriod": "0s",
    });
    t.minted("chat", spec).await;
    let key = until_state(t, 2, "Spare").await;
    (key, t.delivered("chat", "OPENAI_API_KEY").await.unwrap())
}

async fn until_state(t: &Tenant, number: i32, wanted: &str) -> LLMKey {
    let reached = |key: &LLMKey| state(key, number).as_deref() == Some(wanted);
    t.until("chat", &format!("version {number} is {wanted}"), reached).await
}

/// What was made and revoked at the provider, in order.
fn order(t: &Tenant) -> Vec<&'static str> {
    let log = t.sandbox().log_of(&t.project);
    log.iter()
        .filter_map(|entry| match entry.operation {
            Operation::CreateServiceAccount => Some("mint"),
            Operation::DeleteServiceAccount => Some("revoke"),
            _ => None,
        })
        .collect()
}

async fn events(t: &Tenant, reason: &str) -> i32 {
    let events: Api<Event> = Api::namespaced(t.client.clone(), &t.namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let told = events.iter().filter(|e| e.reason.as_deref() == Some(reason));
    told.map(|e| e.series.as_ref().map_or(1, |s| s.count)).sum()
}

#[tokio::test]
async fn a_key_that_is_deleted_at_the_provider_is_replaced_by_the_spare_and_a_new_spare_follows() {
    let t = Tenant::new("spare-invalid").await;
    let (key, first) = with_a_spare(&t).await;
    assert_eq!(
        (state(&key, 1).as_deref(), key.status.as_ref().unwrap().current_version),
        (Some("Current"), Some(1))
    );
    assert_eq!(version(&key, 2).published_at, None);
    let ready = Some(("False".into(), "NotDue".into(), "version 2 is ready as a spare".into()));
    t.until("chat", "told", |k| find(k, "RotationDue") == ready && is(k, "Ready", "True")).await;
    assert_eq!(order(&t), ["mint", "mint"]);
    assert_eq!(events(&t, "SpareReady").await, 1);
    let metrics = t.operator().get("/metrics").await.1;
    let gauge = format!(r#"llmkey_key_spare{{namespace="{}",name="chat"}} 1"#, t.namespace);
    assert!(metrics.contains(&gauge), "{gauge}");

    t.sandbox().withdraw_key(&first);
    let key = until_state(&t, 2, "Current").await;
    assert_eq!(order(&t), ["mint", "mint"], "nothing was made for it");
    assert_eq!(version(&key, 2).reason, "Invalid");
    let refused = t.calls(Operation::ListModels).into_iter().filter(|entry| entry.status == Some(401));
    let confirmed = refused.map(|entry| entry.time).max().unwrap();
    let took = time(version(&key, 2).published_at.as_ref()) - confirmed;
    assert!(took <= TimeDelta::seconds(5), "{took}");
    let second = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(second != first && t.sandbox().accepts(&second));
    t.until("chat", "Ready", |k| is(k, "Ready", "True") && is(k, "Stalled", "False")).await;

    let key = until_state(&t, 3, "Spare").await;
    assert_eq!(order(&t), ["mint", "mint", "revoke", "mint"], "after the overlap");
    assert_eq!(state(&key, 1).as_deref(), Some("Revoked"));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2);
}

#[tokio::test]
async fn a_rotation_delivers_the_spare_while_the_provider_makes_no_keys() {
    let t = Tenant::new("spare-rotate").await;
    let (_, first) = with_a_spare(&t).await;
    let workload = Workload::of_secret(&t, "chat");
    let broken = Fault::refuse(Answer::InternalError);
    let fault =
        t.sandbox().add_fault(FaultRule::on(Operation::CreateServiceAccount, broken).project(&t.project));
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let key = until_state(&t, 2, "Current").await;
    assert_eq!(version(&key, 2).reason, "Requested");
    assert_eq!(key.status.as_ref().unwrap().last_handled_rotate.as_deref(), Some("1"));
    assert_ne!(t.delivered("chat", "OPENAI_API_KEY").await.unwrap(), first);
    until_state(&t, 1, "Revoked").await;

    // What keeps the next spare from being made disturbs nobody.
    let missing = |k: &LLMKey| {
        let due = find(k, "RotationDue").unwrap();
        due.0 == "False" && due.2.starts_with("there is no spare yet: ") && state(k, 3).is_some()
    };
    let key = t.until("chat", "no spare", missing).await;
    assert!(is(&key, "Ready", "True") && is(&key, "Stalled", "False") && is(&key, "Reconciling", "False"));
    let gauge = format!(r#"llmkey_key_spare{{namespace="{}",name="chat"}} 0"#, t.namespace);
    wait("the gauge tells", async || t.operator().get("/metrics").await.1.contains(&gauge).then_some(()))
        .await;
    t.sandbox().remove_fault(fault);
    until_state(&t, 3, "Spare").await;
    let answers = workload.answers();
    assert!(answers.accepted > 0 && answers.refused.is_empty(), "{answers:?}");
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2);
}

#[tokio::test]
async fn a_spare_that_is_deleted_at_the_provider_is_found_out_before_it_is_needed() {
    let t = Tenant::new("spare-refused").await;
    let (key, first) = with_a_spare(&t).await;
    let id = version(&key, 2).provider_key_id.clone().unwrap();
    let account = id.split('/').next().unwrap();
    let url =
        format!("{}/organization/projects/{}/service_accounts/{account}", t.sandbox().base_url(), t.project);
    let deleted = client(t.sandbox()).delete(url).bearer_auth(t.sandbox().admin_key()).send().await.unwrap();
    assert!(deleted.status().is_success(), "{deleted:?}");
    let key = until_state(&t, 3, "Spare").await;
    assert_eq!((state(&key, 1).as_deref(), state(&key, 2).as_deref()), (Some("Current"), Some("Revoked")));
    assert_eq!(version(&key, 2).revocation_basis.as_deref(), Some("NeverPublished"));
    assert!(is(&key, "Ready", "True") && is(&key, "Healthy", "True"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(first));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2);
}

#[tokio::test]
async fn a_leaked_key_is_replaced_by_the_spare() {
    let t = Tenant::new("spare-leak").await;
    let (_, first) = with_a_spare(&t).await;
    t.patch("chat", json!({"spec": {"revokedVersions": [1]}})).await;
    let key = until_state(&t, 1, "Revoked").await;
    assert_eq!(
        (version(&key, 2).reason.as_str(), version(&key, 2).state.as_str()),
        ("BreakGlass", "Current")
    );
    assert!(!t.sandbox().accepts(&first));
    until_state(&t, 3, "Spare").await;
    assert_eq!(order(&t), ["mint", "mint", "revoke", "mint"]);
}

#[tokio::test]
async fn a_spare_that_nobody_asks_for_any_more_is_revoked_unless_the_key_is_paused() {
    let t = Tenant::new("spare-lowered").await;
    let (_, first) = with_a_spare(&t).await;
    t.annotate("chat", "llmkeys.dev/paused", Some("true")).await;
    t.policy("policy", policy(0)).await;
    t.asked_after(now() + TimeDelta::seconds(3)).await;
    assert_eq!(state(&t.settled("chat").await, 2).as_deref(), Some("Spare"));
    t.annotate("chat", "llmkeys.dev/paused", None).await;
    let key = until_state(&t, 2, "Revoked").await;
    assert_eq!(version(&key, 2).revocation_basis.as_deref(), Some("NeverPublished"));
    assert!(is(&key, "Ready", "True") && t.sandbox().accepts(&first));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_ref(), Some(&first));
    let key = t.until("chat", "at rest", |k| find(k, "RotationDue").unwrap().2.is_empty()).await;
    assert!(because(&key, "RotationDue", "NotDue"));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn deletion_revokes_the_spare_too_and_retain_keeps_only_the_key_in_use() {
    let t = Tenant::new("spare-delete").await;
    with_a_spare(&t).await;
    t.delete("chat").await;
    let none = async || t.sandbox().live_keys(&t.project).is_empty().then_some(());
    wait("both are revoked", none).await;

    let t = Tenant::new("spare-retain").await;
    let (_, first) = with_a_spare(&t).await;
    t.patch("chat", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    t.settled("chat").await;
    t.delete("chat").await;
    let one = async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(());
    wait("the spare is revoked", one).await;
    assert!(t.sandbox().accepts(&first));
}
