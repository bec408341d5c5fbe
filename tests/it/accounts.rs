//! Where keys are: projects that change, and keys that more than one LLMKey has.

use serde_json::json;

use super::stage::{Tenant, because, find, is, state, wait};
use super::workload::version;

async fn tenant(prefix: &str) -> Tenant {
    let t = Tenant::new(prefix).await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t
}

#[tokio::test]
async fn a_wrong_project_is_put_right_and_a_key_is_made() {
    let t = tenant("wrong-project").await;
    t.llm_provider(&t.provider, json!({"openAI": {"project": "proj_nobodys"}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.until("chat", "the provider refuses", |key| because(key, "Stalled", "ProjectNotFound")).await;
    t.llm_provider(&t.provider, json!({})).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.unwrap().versions.len(), 1);
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn after_a_change_of_project_the_next_key_is_made_there_and_the_old_one_revoked() {
    let t = tenant("moved-project").await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let first = version(&t.ready("chat").await, 1).provider_key_id.unwrap();
    let other = t.sandbox().create_project(&format!("{}-other", t.namespace));
    t.llm_provider(&t.provider, json!({"openAI": {"project": other}})).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "the first is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.as_ref().unwrap().current_version, Some(2));
    assert!(t.sandbox().live_keys(&t.project).is_empty(), "{first} lives");
    let live = t.sandbox().live_keys(&other).remove(0);
    assert!(version(&key, 2).provider_key_id.unwrap().contains(&live.id));
}

#[tokio::test]
async fn a_key_that_another_llmkey_needs_is_revoked_once_that_one_has_its_own() {
    let t = tenant("shared").await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    t.source("copy", &t.delivered("chat", "OPENAI_API_KEY").await.unwrap()).await;
    t.supplied("copy", json!({})).await;
    t.ready("copy").await;

    t.patch("chat", json!({"spec": {"desiredState": "Revoked"}})).await;
    let key = t.until("chat", "it is held", |key| because(key, "Stalled", "KeyShared")).await;
    let (_, _, message) = find(&key, "Stalled").unwrap();
    assert!(message.contains(&format!("LLMKey {}/copy has the same key", t.namespace)), "{message}");
    assert_eq!(state(&key, 1).as_deref(), Some("Retiring"));
    assert!(is(&t.get("copy").await, "Ready", "True"));

    // A version that the copy had once, and that is nobody's any more, holds nothing up.
    t.source("copy", &t.person_key("own")).await;
    t.until("copy", "it has its own", |key| state(key, 1).as_deref() == Some("Retained")).await;
    t.until("chat", "it is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    let minted = || t.sandbox().live_keys(&t.project).into_iter().filter(|k| k.service_account_id.is_some());
    wait("no minted key is left", async || (minted().count() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_key_that_is_made_anew_at_another_provider_leaves_none_behind() {
    let t = tenant("moved-provider").await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    t.delete("chat").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("chat").await.unwrap().is_none().then_some(()))
        .await;
    // Within the grace, from another account, which makes no keys: the one that does is not the LLMKey's any more.
    t.source("chat", &t.person_key("second")).await;
    let spec = json!({"provider": "OpenAI", "validation": {"mode": "Disabled"},
        "source": {"secretRef": {"name": "chat-source", "key": "key"}}});
    t.key("chat", json!({}), spec).await;
    t.until("chat", "the supplied key is delivered", |key| is(key, "Ready", "True")).await;
    wait("the minted key is revoked", async || (!t.sandbox().accepts(&first)).then_some(())).await;
    let key = t.until("chat", "told", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    assert!(is(&key, "Stalled", "False"), "{key:?}");
}
