//! The order of a restore in docs/operations.md: the operator's namespace is there, the LLMKeys come back, then the operator starts.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::restart::{kill, leads, start};
use super::stage::{Tenant, empty_stage, state, wait};

#[tokio::test]
async fn an_llmkey_that_comes_back_without_its_status_goes_on_with_its_ledger() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = Tenant::on(stage, "restored").await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    let mint = async || t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    mint().await;
    t.ready("chat").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    kill(stage, operator).await;

    // The tenant's namespace is lost while nobody is there who would take that for a deletion.
    t.delete("chat").await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    t.keys().patch("chat", &PatchParams::default(), &free).await.unwrap();
    wait("the LLMKey and its Secret are gone", async || {
        let key = t.keys().get_opt("chat").await.unwrap();
        (key.is_none() && t.delivered("chat", "OPENAI_API_KEY").await.is_none()).then_some(())
    })
    .await;

    mint().await;
    let operator = start(stage);
    leads(&operator).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.as_ref().unwrap().current_version, Some(2));
    assert_eq!(state(&key, 1).as_deref(), Some("Revoked"), "status is rebuilt");
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(value));
    assert_eq!((t.mints(), t.revocations()), (2, 1), "nothing is made or revoked for it");
    t.annotate("chat", "llmkeys.dev/rotate", Some("2")).await;
    t.until("chat", "it rotates", |key| state(key, 2).as_deref() == Some("Revoked")).await;
    drop(operator);
}
