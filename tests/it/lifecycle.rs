//! The main job, end to end: taken or minted, sealed, validated, delivered, rotated, revoked.

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Fault, FaultRule, Operation};
use serde_json::json;

use super::stage::{Tenant, is, state, wait};

const NO_OVERLAP: fn() -> serde_json::Value =
    || json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}});

#[tokio::test]
async fn takes_a_supplied_key_and_delivers_it() {
    let t = Tenant::new("supplied").await;
    let value = t.person_key("one");
    t.source("chat", &value).await;
    t.supplied("chat", json!({})).await;
    let key = t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await.as_deref(), Some(value.as_str()));
    assert_eq!(t.delivered("chat", "OPENAI_BASE_URL").await, Some(t.sandbox().base_url()));
    let status = key.status.unwrap();
    assert_eq!(status.current_version, Some(1));
    assert_eq!(status.last_four.as_deref(), Some("rson"));
    assert_eq!(status.health.unwrap().state, "Valid");
}

#[tokio::test]
async fn follows_a_changed_source() {
    let t = Tenant::new("changed").await;
    let (first, second) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &first).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    t.source("chat", &second).await;
    let key = t.until("chat", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert_eq!(state(&key, 1).as_deref(), Some("Retained"));
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(second));
}

/// Somebody edits the `LLMKey` while its key is made: what was found out about the older one is not told of the newer one.
#[tokio::test]
async fn status_names_the_version_that_it_is_about() {
    let t = Tenant::new("edited").await;
    let slow = FaultRule::on(Operation::CreateServiceAccount, Fault::slow(3000)).project(&t.project).times(1);
    t.sandbox().add_fault(slow);
    t.minted("chat", json!({})).await;
    let ledgers: Api<Secret> = Api::namespaced(t.client.clone(), &t.stage.installation.namespace);
    let ledger = ledger_name(&t.namespace, "chat");
    wait("its key is being made", async || ledgers.get_opt(&ledger).await.unwrap()).await;
    t.annotate("chat", "example.com/touched", Some("true")).await;
    t.ready("chat").await;
    let events = t.stage.cluster.audit_events().unwrap();
    let refused = events.iter().any(|event| {
        let object = &event["objectRef"];
        event["verb"] == "patch"
            && (&object["subresource"], &object["name"]) == (&json!("status"), &json!("chat"))
            && object["namespace"] == *t.namespace
            && event["responseStatus"]["code"] == 409
    });
    assert!(refused, "a status was written over an LLMKey that nobody had looked at");
}

#[tokio::test]
async fn mints_rotates_and_revokes() {
    let t = Tenant::new("minted").await;
    t.policy("by-hand", NO_OVERLAP()).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "by-hand"}})).await;
    t.ready("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&first));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);

    t.annotate("chat", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("chat", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(state(&key, 2).as_deref(), Some("Current"));
    assert_eq!(key.status.as_ref().unwrap().last_handled_rotate.as_deref(), Some("now"));
    let second = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert_ne!(first, second);
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
    assert!(is(&key, "Ready", "True"));
}

#[tokio::test]
async fn deletion_revokes_after_the_grace_and_the_ledger_goes() {
    let t = Tenant::new("deleted").await;
    t.minted("chat", json!({"deletionGracePeriod": "5m"})).await;
    t.ready("chat").await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
    t.delete("chat").await;
    wait("the LLMKey is gone at once", async || {
        t.keys().get_opt("chat").await.unwrap().is_none().then_some(())
    })
    .await;
    wait("its key is revoked", async || t.sandbox().live_keys(&t.project).is_empty().then_some(())).await;
    wait("its Secret is collected", async || {
        t.secrets().get_opt("chat").await.unwrap().is_none().then_some(())
    })
    .await;
}
