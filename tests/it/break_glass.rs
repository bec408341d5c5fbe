//! `spec.revokedVersions`: a leaked key is refused within seconds, and workloads have another one before.

use kube::api::{Patch, PatchParams};
use llmkey_operator::sandbox::Operation;
use serde_json::json;

use super::stage::{Tenant, because, is, state};
use super::workload::{Workload, version};

#[tokio::test]
async fn a_leaked_key_is_replaced_and_then_revoked_without_overlap() {
    let t = Tenant::new("burnt").await;
    // An overlap of ten days is 48 minutes here: the test would not see the end of it.
    t.policy("policy", json!({"overlap": {"minimum": "240h"}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let workload = Workload::of_secret(&t, "chat");
    let leaked = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    t.patch("chat", json!({"spec": {"revokedVersions": [1]}})).await;
    let key = t.until("chat", "version 1 is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert!(is(&key, "Ready", "True"));
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("Explicit"));
    assert_eq!(version(&key, 2).reason, "BreakGlass");
    assert!(!t.sandbox().accepts(&leaked));
    let new = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&new) && new != leaked);

    workload.goes_on(2).await;
    let made = t.calls(Operation::CreateServiceAccount).last().unwrap().sequence;
    let gone = t.calls(Operation::DeleteServiceAccount)[0].sequence;
    let checked = t.calls(Operation::ListModels).iter().any(|e| made < e.sequence && e.sequence < gone);
    assert!(made < gone && checked, "the next key was made and checked before the leaked one went");

    // Who applied the list may take it away again.
    let list = |versions: &[i32]| {
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat"},
            "spec": {"providerRef": {"name": t.provider}, "source": {"mint": {}},
                "rotationPolicyRef": {"name": "policy"}, "revokedVersions": versions},
        })
    };
    let apply = PatchParams::apply("team").force();
    for versions in [&[1][..], &[]] {
        t.keys().patch("chat", &apply, &Patch::Apply(list(versions))).await.unwrap();
    }
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "the next", |k| state(k, 3).as_deref() == Some("Current")).await;
}

#[tokio::test]
async fn a_supplied_key_that_leaked_waits_for_a_person() {
    let t = Tenant::new("burnt-supplied").await;
    t.source("chat", &t.person_key("first")).await;
    t.supplied("chat", json!({"revokedVersions": [1]})).await;
    t.until("chat", "the first is numbered above the list", |k| {
        state(k, 2).as_deref() == Some("Current") || state(k, 2).as_deref() == Some("Publishing")
    })
    .await;
    t.patch("chat", json!({"spec": {"revokedVersions": [1, 2]}})).await;
    t.until("chat", "NotSupported", |k| because(k, "Stalled", "NotSupported")).await;
    t.source("chat", &t.person_key("second")).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.unwrap().current_version, Some(3));
}
