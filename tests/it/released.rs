//! Ledgers whose LLMKey is gone: nothing shows them but the metrics, and nothing of the LLMKey is left there.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use llmkey_operator::api::LLMProvider;
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Fault, FaultRule, Operation};
use serde_json::json;

use super::stage::{Operator, Tenant, empty_stage, wait};

fn ledgers(t: &Tenant) -> Api<Secret> {
    Api::namespaced(t.client.clone(), &t.stage.installation.namespace)
}

async fn gone(t: &Tenant) {
    t.delete("chat").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("chat").await.unwrap().is_none().then_some(()))
        .await;
}

/// Waits until this is all that the metrics say of ledgers without an LLMKey.
async fn waits_for(operator: &Operator, reason: Option<&str>) {
    let wanted: Vec<String> =
        reason.iter().map(|reason| format!("llmkey_released_waiting{{reason=\"{reason}\"}} 1")).collect();
    wait(&format!("waits for {reason:?}"), async || {
        let metrics = operator.get("/metrics").await.1;
        let shown: Vec<&str> =
            metrics.lines().filter(|line| line.starts_with("llmkey_released_waiting{")).collect();
        (metrics.contains("llmkey_leader 1") && shown == wanted).then_some(())
    })
    .await;
}

/// The constants of time are real: within the patience of a test no periodic look comes.
#[tokio::test]
async fn a_ledger_that_waits_is_counted_and_looked_at_when_it_or_its_account_changes() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-released", 1, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "waiting").await;
    let ledgers = ledgers(&t);
    let name = ledger_name(&t.namespace, "chat");
    t.minted("chat", json!({"deletionGracePeriod": "15s"})).await;
    t.ready("chat").await;
    gone(&t).await;
    waits_for(&operator, None).await;

    let good = ledgers.get(&name).await.unwrap();
    let garbled = json!({"data": {"record": ByteString(b"{}".to_vec())}});
    ledgers.patch(&name, &PatchParams::default(), &Patch::Merge(&garbled)).await.unwrap();
    waits_for(&operator, Some("LedgerUnreadable")).await;

    let providers: Api<LLMProvider> = Api::all(t.client.clone());
    providers.delete(&t.provider, &DeleteParams::default()).await.unwrap();
    let mut restored = ledgers.get(&name).await.unwrap();
    restored.data = good.data;
    ledgers.replace(&name, &PostParams::default(), &restored).await.unwrap();
    waits_for(&operator, Some("AdminCredentialMissing")).await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);

    // Its LLMProvider comes back: the ledger itself does not change.
    t.llm_provider(&t.provider, json!({})).await;
    wait("the key is revoked", async || t.sandbox().live_keys(&t.project).is_empty().then_some(())).await;
    waits_for(&operator, None).await;
    let told = |reason: &str| {
        let lines = operator.log();
        let about = lines.lines().filter(|line| line.contains("a deleted LLMKey's key waits: "));
        about.filter(|line| line.contains(reason)).count()
    };
    assert_eq!((told("LedgerUnreadable"), told("AdminCredentialMissing")), (1, 1), "told once each");
}

#[tokio::test]
async fn a_reconcile_that_outlives_its_key_leaves_no_series_and_no_ledger() {
    let t = Tenant::new("outlived").await;
    let slow = FaultRule::on(Operation::ListModels, Fault::slow(2000)).project(&t.project).times(1);
    let fault = t.sandbox().add_fault(slow);
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", json!({})).await;
    wait("its key is being checked", async || {
        let faults = t.sandbox().faults();
        faults.iter().any(|report| report.id == fault && report.fired > 0).then_some(())
    })
    .await;
    gone(&t).await;
    // It was being made when the LLMKey went, and nobody else would tell of it.
    let (ledgers, name) = (ledgers(&t), ledger_name(&t.namespace, "chat"));
    wait("its ledger is made", async || ledgers.get_opt(&name).await.unwrap()).await;
    wait("its ledger goes", async || ledgers.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    let metrics = t.operator().get("/metrics").await.1;
    assert!(metrics.contains("llmkey_key_ready{") || metrics.contains("llmkey_leader 1"));
    assert!(!metrics.contains(&t.namespace), "{metrics}");
}
