//! Bad input: ledgers that an administrator deleted or changed. Nothing is minted or revoked, the Secret stays.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Fault, FaultRule, Operation};
use serde_json::json;

use super::bad_input::{calls, looked_again, others_go_on, secret, stalled};
use super::stage::{Tenant, wait};

fn ledgers(t: &Tenant) -> Api<Secret> {
    Api::namespaced(t.client.clone(), &t.stage.installation.namespace)
}

#[tokio::test]
async fn a_lost_ledger_is_no_first_start() {
    let t = Tenant::new("lost").await;
    let ledgers = ledgers(&t);
    t.minted("chat", json!({"validation": {"mode": "Disabled"}})).await;
    t.ready("chat").await;
    let good = secret(&t, "chat").await;
    let name = ledger_name(&t.namespace, "chat");
    let mut saved = ledgers.get(&name).await.unwrap();
    ledgers.delete(&name, &DeleteParams::default()).await.unwrap();
    let before = calls(&t).len();
    let words = ["ledger is gone", "nothing is minted or revoked", "Secret chat", "Restore"];
    stalled(&t, "chat", "LedgerMissing", &words).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("now")).await;
    looked_again(&t, "chat").await;
    let key = stalled(&t, "chat", "LedgerMissing", &words).await;
    assert_eq!(key.status.unwrap().versions.len(), 1, "status still tells what there was");
    assert_eq!(secret(&t, "chat").await, good);
    assert_eq!(calls(&t).len(), before);
    assert!(ledgers.get_opt(&name).await.unwrap().is_none());
    others_go_on(&t).await;
    // From a backup. The annotation that came meanwhile is then carried out.
    saved.metadata.resource_version = None;
    saved.metadata.uid = None;
    t.annotate("chat", "llmkeys.dev/rotate", None).await;
    ledgers.create(&PostParams::default(), &saved).await.unwrap();
    t.ready("chat").await;
    assert_eq!(secret(&t, "chat").await, good);
    assert_eq!(calls(&t).len(), before);
}

/// While the provider makes a key somebody writes its ledger: what the operator writes then names the version that it read, is
/// refused, and is written after another look.
#[tokio::test]
async fn a_ledger_that_was_written_meanwhile_is_read_again_before_it_is_written() {
    let t = Tenant::new("meanwhile").await;
    let ledgers = ledgers(&t);
    let name = ledger_name(&t.namespace, "chat");
    let slow = FaultRule::on(Operation::CreateServiceAccount, Fault::slow(3000)).project(&t.project).times(1);
    t.sandbox().add_fault(slow);
    t.minted("chat", json!({})).await;
    wait("the intent is on record", async || ledgers.get_opt(&name).await.unwrap()).await;
    let touched = json!({"metadata": {"annotations": {"example.com/touched": "true"}}});
    ledgers.patch(&name, &PatchParams::default(), &Patch::Merge(&touched)).await.unwrap();
    t.ready("chat").await;
    let path = format!("/secrets/{name}");
    let events = t.stage.cluster.audit_events().unwrap();
    let refused = events.iter().filter(|event| {
        event["verb"] == "update"
            && event["requestURI"].as_str().is_some_and(|uri| uri.contains(&path))
            && event["responseStatus"]["code"] == 409
    });
    assert_eq!(refused.count(), 1, "one write came too late");
    assert_eq!(calls(&t).iter().filter(|call| call.operation == Operation::CreateServiceAccount).count(), 1);
    assert!(t.sandbox().accepts(&t.delivered("chat", "OPENAI_API_KEY").await.unwrap()));
}

#[tokio::test]
async fn a_ledger_that_another_hand_changed_is_not_believed() {
    let t = Tenant::new("tampered").await;
    let ledgers = ledgers(&t);
    t.minted("chat", json!({"validation": {"mode": "Disabled"}})).await;
    t.ready("chat").await;
    let good = secret(&t, "chat").await;
    let name = ledger_name(&t.namespace, "chat");
    let saved = ledgers.get(&name).await.unwrap();
    let before = calls(&t).len();
    let words = [name.as_str(), &t.stage.installation.namespace, "changed by another hand"];
    let changed = [
        (r#""attempt":1"#, r#""attempt":0"#),
        (r#""state":"Current""#, r#""state":"Revoked""#),
        (r#""retain_on_delete":false"#, r#""retain_on_delete":true"#),
    ];
    let mut tried = 0;
    for (from, to) in changed {
        let mut bad = ledgers.get(&name).await.unwrap();
        let ByteString(record) = &saved.data.as_ref().unwrap()["record"];
        let text = std::str::from_utf8(record).unwrap();
        if !text.contains(from) {
            continue;
        }
        tried += 1;
        let data = bad.data.as_mut().unwrap();
        data.insert("record".to_owned(), ByteString(text.replace(from, to).into_bytes()));
        ledgers.replace(&name, &PostParams::default(), &bad).await.unwrap();
        stalled(&t, "chat", "LedgerUnreadable", &words).await;
        looked_again(&t, "chat").await;
        stalled(&t, "chat", "LedgerUnreadable", &words).await;
        assert_eq!(secret(&t, "chat").await, good);
    }
    assert!(tried > 0);
    assert_eq!(calls(&t).len(), before);
    others_go_on(&t).await;
    let mut restored = ledgers.get(&name).await.unwrap();
    restored.data = saved.data;
    ledgers.replace(&name, &PostParams::default(), &restored).await.unwrap();
    t.ready("chat").await;
    assert_eq!(secret(&t, "chat").await, good);
}

#[tokio::test]
async fn another_keys_ledger_is_not_taken_for_ours() {
    let t = Tenant::new("swapped").await;
    let ledgers = ledgers(&t);
    for name in ["one", "two"] {
        t.minted(name, json!({"validation": {"mode": "Disabled"}})).await;
    }
    t.ready("one").await;
    t.ready("two").await;
    let (good, before) = (secret(&t, "one").await, calls(&t).len());
    let theirs = ledgers.get(&ledger_name(&t.namespace, "two")).await.unwrap();
    let mut ours = ledgers.get(&ledger_name(&t.namespace, "one")).await.unwrap();
    let saved = ours.data.clone();
    ours.data = theirs.data;
    ledgers.replace(&ledger_name(&t.namespace, "one"), &PostParams::default(), &ours).await.unwrap();
    stalled(&t, "one", "LedgerUnreadable", &[&ledger_name(&t.namespace, "one")]).await;
    assert_eq!(secret(&t, "one").await, good);
    assert_eq!(calls(&t).len(), before);
    t.ready("two").await;
    let mut restored = ledgers.get(&ledger_name(&t.namespace, "one")).await.unwrap();
    restored.data = saved;
    ledgers.replace(&ledger_name(&t.namespace, "one"), &PostParams::default(), &restored).await.unwrap();
    t.ready("one").await;
}
