//! Bad input: targets. What is not ours stays as it is, and what cannot be rendered replaces nothing.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use llmkey_operator::sandbox::Operation;
use serde_json::json;

use super::bad_input::{calls, count, looked_again, others_go_on, patch_secret, secret, stalled};
use super::stage::{Tenant, is, state, wait};

#[tokio::test]
async fn of_two_keys_for_one_secret_the_later_waits_without_a_call() {
    let t = Tenant::new("conflict").await;
    t.minted("first", json!({"target": {"secretName": "shared"}})).await;
    t.ready("first").await;
    let good = secret(&t, "shared").await;
    t.minted("second", json!({"target": {"secretName": "shared"}})).await;
    let words = ["LLMKey first", "Secret shared", "choose another target.secretName"];
    stalled(&t, "second", "TargetConflict", &words).await;
    looked_again(&t, "second").await;
    looked_again(&t, "first").await;
    t.ready("first").await;
    stalled(&t, "second", "TargetConflict", &words).await;
    assert_eq!(count(&t, Operation::CreateServiceAccount), 1);
    assert_eq!(secret(&t, "shared").await, good);
    t.delete("first").await;
    t.ready("second").await;
    let owners = secret(&t, "shared").await.metadata.owner_references.unwrap();
    assert_eq!(owners[0].name, "second");
}

#[tokio::test]
async fn two_keys_that_come_at_once_do_not_block_each_other() {
    let t = Tenant::new("at-once").await;
    for name in ["one", "two", "three"] {
        t.source(name, &t.person_key(name)).await;
        t.supplied(name, json!({"target": {"secretName": "shared"}})).await;
    }
    let owner = |secret: Option<Secret>| secret?.metadata.owner_references?.first().map(|r| r.name.clone());
    let winner = super::stage::wait("one of them delivers", async || {
        owner(t.secrets().get_opt("shared").await.unwrap())
    })
    .await;
    t.ready(&winner).await;
    for name in ["one", "two", "three"].into_iter().filter(|name| *name != winner) {
        stalled(&t, name, "TargetConflict", &["Secret shared"]).await;
    }
    t.ready(&winner).await;
}

#[tokio::test]
async fn a_strangers_secret_stays_until_it_is_offered() {
    let t = Tenant::new("foreign").await;
    let stranger: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "chat"},
        "stringData": {"OPENAI_API_KEY": "somebody-else's", "other": "too"},
    }))
    .unwrap();
    let before = t.secrets().create(&PostParams::default(), &stranger).await.unwrap();
    t.minted("chat", json!({})).await;
    let words = ["Secret chat", "kubectl annotate secret chat llmkeys.dev/adopt-by=chat"];
    stalled(&t, "chat", "TargetForeign", &words).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, before);
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    let annotation = |key: &str| json!({"metadata": {"annotations": {"llmkeys.dev/adopt-by": key}}});
    patch_secret(&t, "chat", annotation("another")).await;
    looked_again(&t, "chat").await;
    stalled(&t, "chat", "TargetForeign", &words).await;
    assert_eq!(secret(&t, "chat").await.data, before.data);
    patch_secret(&t, "chat", annotation("chat")).await;
    t.ready("chat").await;
    let taken = secret(&t, "chat").await;
    assert_eq!(taken.metadata.uid, before.metadata.uid);
    assert!(!taken.data.unwrap().contains_key("other"));
    let key = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&key));
}

#[tokio::test]
async fn a_secret_of_another_type_is_not_taken_even_if_offered() {
    let t = Tenant::new("offered-type").await;
    let offered: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"name": "chat", "annotations": {"llmkeys.dev/adopt-by": "chat"}},
        "stringData": {"password": "x"},
    }))
    .unwrap();
    let before = t.secrets().create(&PostParams::default(), &offered).await.unwrap();
    t.minted("chat", json!({})).await;
    stalled(&t, "chat", "TargetForeign", &["Secret chat", "type", "delete it"]).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, before);
    assert_eq!(calls(&t), []);
    t.secrets().delete("chat", &DeleteParams::default()).await.unwrap();
    t.ready("chat").await;
}

#[tokio::test]
async fn a_target_that_kubernetes_does_not_let_us_write_is_told() {
    let t = Tenant::new("immutable").await;
    let (first, second) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &first).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    patch_secret(&t, "chat", json!({"immutable": true})).await;
    let before = secret(&t, "chat").await;
    t.source("chat", &second).await;
    stalled(&t, "chat", "RefusedByKubernetes", &["Secret chat could not be written", "immutable"]).await;
    assert_eq!(secret(&t, "chat").await, before);
    others_go_on(&t).await;
    t.secrets().delete("chat", &DeleteParams::default()).await.unwrap();
    t.until("chat", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(second));
}

#[tokio::test]
async fn a_text_that_cannot_be_rendered_replaces_nothing() {
    let t = Tenant::new("texts").await;
    let data = json!({"KEY": "$(KEY)", "MODEL": "$(MODEL)"});
    t.minted("chat", json!({"target": {"data": data}})).await;
    let words = ["spec.target.data[MODEL]", "$(MODEL) has no value", "set spec.model"];
    stalled(&t, "chat", "TargetTemplateInvalid", &words).await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.patch("chat", json!({"spec": {"model": "gpt-4o"}})).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "MODEL").await.as_deref(), Some("gpt-4o"));

    let good = secret(&t, "chat").await;
    t.patch("chat", json!({"spec": {"model": null}})).await;
    stalled(&t, "chat", "TargetTemplateInvalid", &words).await;
    assert_eq!(secret(&t, "chat").await, good);
    t.patch("chat", json!({"spec": {"target": {"data": {"MODEL": null}}}})).await;
    t.ready("chat").await;
    assert!(t.delivered("chat", "MODEL").await.is_none());
}

#[tokio::test]
async fn an_unknown_variable_is_refused_at_admission() {
    let t = Tenant::new("variable").await;
    let key = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
        "metadata": {"name": "chat", "namespace": t.namespace},
        "spec": {"providerRef": {"name": t.provider}, "source": {"mint": {}},
                 "target": {"data": {"KEY": "$(APIKEY)"}}},
    }))
    .unwrap();
    let refused = t.keys().create(&PostParams::default(), &key).await.unwrap_err().to_string();
    assert!(refused.contains("KEY, BASE_URL, MODEL, CONFIG and VERSION"), "{refused}");
}

#[tokio::test]
async fn a_config_that_is_too_large_replaces_nothing() {
    let t = Tenant::new("config").await;
    let with = |length: usize| json!({"text": "x".repeat(length)});
    let data = json!({"KEY": "$(KEY)", "CONFIG": "$(CONFIG)"});
    t.minted("chat", json!({"target": {"data": data}, "config": with(9000)})).await;
    stalled(&t, "chat", "TargetTemplateInvalid", &["spec.config", "8192 bytes"]).await;
    assert_eq!(calls(&t), []);
    t.patch("chat", json!({"spec": {"config": with(10)}})).await;
    t.ready("chat").await;
    let good = secret(&t, "chat").await;
    t.patch("chat", json!({"spec": {"config": with(9000)}})).await;
    stalled(&t, "chat", "TargetTemplateInvalid", &["spec.config"]).await;
    assert_eq!(secret(&t, "chat").await, good);
    t.patch("chat", json!({"spec": {"config": with(11)}})).await;
    t.ready("chat").await;
}

#[tokio::test]
async fn what_would_not_hold_the_key_is_refused_at_admission() {
    let t = Tenant::new("keyless").await;
    t.minted("chat", json!({})).await;
    for text in ["$(MODEL)", "$$(KEY)", "", "KEY"] {
        let patch = Patch::Merge(json!({"spec": {"target": {"data": {"ENTRY": text}}}}));
        let refused = t.keys().patch("chat", &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(refused.contains("no entry has $(KEY)"), "{text}: {refused}");
    }
    t.ready("chat").await;
}

/// Whether an event on the LLMKey has the reason.
async fn was_announced(t: &Tenant, name: &str, reason: &str) -> bool {
    let events: Api<Event> = Api::namespaced(t.client.clone(), &t.namespace);
    let found = events.list(&ListParams::default()).await.unwrap();
    found.items.iter().any(|event| {
        event.reason.as_deref() == Some(reason)
            && event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name)
    })
}

/// Waits until an entry of the Secret is this text.
async fn holds(t: &Tenant, entry: &str, text: &str) {
    wait(text, async || (t.delivered("chat", entry).await.as_deref() == Some(text)).then_some(())).await;
}

#[tokio::test]
async fn an_edit_of_the_texts_is_carried_out_at_once_and_is_no_repair() {
    let t = Tenant::new("edited").await;
    let data = json!({"KEY": "$(KEY)", "MODEL": "$(MODEL)"});
    t.minted("chat", json!({"target": {"data": data}, "model": "m-0"})).await;
    t.ready("chat").await;
    for number in 1..6 {
        let model = format!("m-{number}");
        t.patch("chat", json!({"spec": {"model": model}})).await;
        let key = t
            .until("chat", "the operator has seen the spec", |key| {
                key.status.as_ref().and_then(|s| s.observed_generation) == key.metadata.generation
            })
            .await;
        assert!(is(&key, "Ready", "True") && is(&key, "Reconciling", "False"), "{:?}", key.status);
        assert_eq!(t.delivered("chat", "MODEL").await, Some(model));
    }
    assert!(!was_announced(&t, "chat", "TargetRepaired").await);

    // What another hand changes is told of.
    patch_secret(&t, "chat", json!({"stringData": {"MODEL": "theirs"}})).await;
    holds(&t, "MODEL", "m-5").await;
    wait("the repair is told of", async || was_announced(&t, "chat", "TargetRepaired").await.then_some(()))
        .await;
}

#[tokio::test]
async fn another_url_of_the_provider_is_rendered_though_nothing_is_checked() {
    let t = Tenant::new("moved").await;
    let name = format!("{}-own", t.namespace);
    let at = async |host: &str| {
        let spec = json!({
            "type": "OpenAICompatible", "baseURL": format!("https://{host}.example/v1"),
            "openAI": null, "adminCredentialRef": null,
        });
        t.llm_provider(&name, spec).await;
    };
    at("one").await;
    t.source("chat", &t.person_key("one")).await;
    let spec = json!({
        "providerRef": {"name": name}, "validation": {"mode": "Disabled"},
        "target": {"data": {"KEY": "$(KEY)", "URL": "$(BASE_URL)"}},
    });
    t.supplied("chat", spec).await;
    t.ready("chat").await;
    holds(&t, "URL", "https://one.example/v1").await;
    at("two").await;
    holds(&t, "URL", "https://two.example/v1").await;
    at("three").await;
    holds(&t, "URL", "https://three.example/v1").await;
    assert!(!was_announced(&t, "chat", "TargetRepaired").await);
}
