//! `spec.pinnedVersion`, the policy's `retention` and `desiredState: Disabled`, with keys that are really sealed anew.

use chrono::TimeDelta;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::ledger::unverified;
use serde_json::json;

use super::stage::{Tenant, because, find, is, now, state, wait};
use super::workload::{Workload, version};

async fn pin(t: &Tenant, number: Option<i32>) {
    t.patch("chat", json!({"spec": {"pinnedVersion": number}})).await;
}

async fn until_state(t: &Tenant, number: i32, wanted: &'static str) -> LLMKey {
    t.until("chat", &format!("version {number} is {wanted}"), |k| state(k, number).as_deref() == Some(wanted))
        .await
}

fn pins(key: &LLMKey) -> Vec<String> {
    let versions = key.status.as_ref().unwrap().versions.iter().rev();
    versions.map(|v| format!("{} {}", v.version, v.pin.as_deref().unwrap_or("-"))).collect()
}

async fn delivered(t: &Tenant) -> String {
    t.delivered("chat", "OPENAI_API_KEY").await.unwrap()
}

#[tokio::test]
async fn the_older_key_of_an_overlap_is_published_again_and_revoked_once_in_the_end() {
    let t = Tenant::new("pin").await;
    // An hour is 12 s here.
    t.policy("policy", json!({"overlap": {"minimum": "1h", "evidence": {"quietFor": "0s"}}})).await;
    let changes = json!({"rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "1m"}});
    t.minted("chat", changes).await;
    t.ready("chat").await;
    let first = delivered(&t).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    until_state(&t, 2, "Current").await;
    let second = delivered(&t).await;
    let workload = Workload::of_secret(&t, "chat");

    pin(&t, Some(1)).await;
    let key = until_state(&t, 3, "Current").await;
    assert_eq!(delivered(&t).await, first);
    let (one, three) = (version(&key, 1), version(&key, 3));
    assert_eq!((one.state.as_str(), three.reason.as_str()), ("Republished", "Pinned"));
    assert_eq!((&one.provider_key_id, &one.fingerprint), (&three.provider_key_id, &three.fingerprint));
    assert!(is(&key, "Ready", "True") && state(&key, 2).as_deref() == Some("Overlap"));

    // The ledger can deliver it without the older version: it is sealed for the new one.
    t.secrets().delete("chat", &DeleteParams::default()).await.unwrap();
    let again = async || t.delivered("chat", "OPENAI_API_KEY").await.filter(|value| *value == first);
    wait("the Secret is there again", again).await;

    let key = until_state(&t, 2, "Revoked").await;
    assert!(t.sandbox().accepts(&first) && !t.sandbox().accepts(&second));
    assert_eq!((t.mints(), t.revocations()), (2, 1));
    assert_eq!(pins(&key), ["1 Possible", "2 Revoked", "3 Possible"]);
    let key = t.ready("chat").await;
    t.asked_after(now() + TimeDelta::seconds(2)).await;
    assert_eq!(
        t.get("chat").await.resource_version(),
        key.resource_version(),
        "a pin at rest writes nothing"
    );

    t.annotate("chat", "llmkeys.dev/rotate", Some("2")).await;
    let key = t.until("chat", "Pinned", |k| because(k, "RotationDue", "Pinned")).await;
    assert!(is(&key, "Ready", "True") && t.mints() == 2);
    pin(&t, None).await;
    until_state(&t, 4, "Current").await;
    workload.goes_on(1).await;
    let key = until_state(&t, 3, "Revoked").await;
    assert!(!t.sandbox().accepts(&first));
    assert_eq!((t.mints(), t.revocations(), t.sandbox().live_keys(&t.project).len()), (3, 2, 1));
    assert_eq!(state(&key, 1).as_deref(), Some("Republished"));
    assert!(workload.answers().refused.is_empty(), "{:?}", workload.answers());

    pin(&t, Some(1)).await;
    let key = t.until("chat", "PinImpossible", |k| because(k, "Stalled", "PinImpossible")).await;
    let message = find(&key, "Stalled").unwrap().2;
    assert!(message.contains("Version 4 can be pinned"), "{message}");
    assert_eq!(key.status.as_ref().unwrap().current_version, Some(4));
    pin(&t, Some(4)).await;
    t.ready("chat").await;
}

#[tokio::test]
async fn a_superseded_supplied_key_can_be_pinned_as_long_as_the_policy_keeps_it() {
    let t = Tenant::new("retention").await;
    t.policy("policy", json!({"retention": {"versions": 2, "duration": "2h"}})).await;
    let (one, two) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &one).await;
    t.supplied("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    t.source("chat", &two).await;
    let key = until_state(&t, 2, "Current").await;
    assert_eq!(pins(&key), ["1 Possible", "2 Possible"]);

    pin(&t, Some(1)).await;
    let key = until_state(&t, 3, "Current").await;
    assert_eq!((delivered(&t).await, state(&key, 1).as_deref()), (one.clone(), Some("Republished")));
    t.until("chat", "the source waits", |k| because(k, "RotationDue", "Pinned")).await;
    pin(&t, None).await;
    until_state(&t, 4, "Current").await;
    assert_eq!(delivered(&t).await, two);

    // Two hours are 24 s. Nobody touches anything: the wake is the operator's own.
    let dropped = |k: &LLMKey| pins(k) == ["1 Forgotten", "2 Possible", "3 Forgotten", "4 Possible"];
    t.until("chat", "the bytes are dropped", dropped).await;
    let ledgers: Api<Secret> = Api::namespaced(t.client.clone(), &t.stage.installation.namespace);
    let record = unverified(&ledgers.get(&ledger_name(&t.namespace, "chat")).await.unwrap()).unwrap();
    let sealed: Vec<i32> = record.versions.iter().filter(|v| v.sealed.is_some()).map(|v| v.version).collect();
    assert_eq!(sealed, [4]);
    pin(&t, Some(1)).await;
    t.until("chat", "PinImpossible", |k| because(k, "Stalled", "PinImpossible")).await;
    assert!(t.sandbox().accepts(&one), "a person's key is not the operator's to revoke");
}

#[tokio::test]
async fn disabled_is_not_supported_and_changes_nothing() {
    let t = Tenant::new("disabled").await;
    t.minted("chat", json!({"desiredState": "Disabled"})).await;
    let key = t.until("chat", "NotSupported", |k| because(k, "Stalled", "NotSupported")).await;
    let message = find(&key, "Stalled").unwrap().2;
    assert!(message.contains("OpenAI"), "{message}");
    until_state(&t, 1, "Current").await;
    let first = delivered(&t).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let key = until_state(&t, 2, "Current").await;
    assert!(because(&key, "Ready", "NotSupported") && is(&key, "Healthy", "True"));
    assert!(t.sandbox().accepts(&first));
    t.patch("chat", json!({"spec": {"desiredState": "Active"}})).await;
    t.ready("chat").await;
}
