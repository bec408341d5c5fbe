//! Bad input: accounts. An admin credential goes only where it belongs, and a wrong one causes few calls.

use std::net::TcpListener;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use llmkey_operator::api::LLMProvider;
use llmkey_operator::sandbox::{Answer, Effect, Fault, FaultRule, Operation};
use serde_json::json;

use super::bad_input::{calls, count, others_go_on, secret, stalled};
use super::stage::{Tenant, wait};

/// Waits until the LLMProvider is Stalled for the reason.
async fn provider_stalled(t: &Tenant, name: &str, reason: &str, words: &[&str]) {
    let api: Api<LLMProvider> = Api::all(t.client.clone());
    wait(&format!("LLMProvider {name}: {reason} {words:?}"), async || {
        let conditions = api.get(name).await.unwrap().status?.conditions;
        let found = conditions.into_iter().find(|c| c.type_ == "Stalled")?;
        let told = words.iter().all(|word| found.message.contains(word));
        (found.status == "True" && found.reason == reason && told).then_some(())
    })
    .await;
}

async fn provider_ready(t: &Tenant, name: &str) {
    let api: Api<LLMProvider> = Api::all(t.client.clone());
    wait(&format!("LLMProvider {name} is Ready"), async || {
        let conditions = api.get(name).await.unwrap().status?.conditions;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_admin_credential_is_told_and_heals_with_the_secret() {
    let t = Tenant::new("wrong-admin").await;
    let host = t.sandbox().addr().to_string();
    t.credential(&t.provider, "sk-admin-this-is-the-wrong-one-0123456789", &host).await;
    provider_stalled(
        &t,
        &t.provider,
        "AdminCredentialInvalid",
        &[&t.project, "rejected the admin credential"],
    )
    .await;
    // Until then it was swept with a good one.
    let swept = count(&t, Operation::ListServiceAccounts);
    t.minted("chat", json!({})).await;
    stalled(&t, "chat", "AdminCredentialInvalid", &["version 1", "rejected the admin credential"]).await;
    let tries =
        count(&t, Operation::CreateServiceAccount) + count(&t, Operation::ListServiceAccounts) - swept;
    assert!(tries <= 3, "{tries} calls with a credential that was refused");
    others_go_on(&t).await;
    t.credential(&t.provider, t.sandbox().admin_key(), &host).await;
    t.ready("chat").await;
    provider_ready(&t, &t.provider).await;
    let made = t.sandbox().log_of(&t.project).into_iter().filter(|entry| {
        entry.operation == Operation::CreateServiceAccount && entry.effect == Effect::Committed
    });
    assert_eq!(made.count(), 1);

    // A credential that is refused later changes nothing that works.
    let good = secret(&t, "chat").await;
    t.credential(&t.provider, "sk-admin-this-is-the-wrong-one-0123456789", &host).await;
    provider_stalled(&t, &t.provider, "AdminCredentialInvalid", &[]).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("now")).await;
    stalled(&t, "chat", "AdminCredentialInvalid", &["version 2"]).await;
    assert_eq!(secret(&t, "chat").await, good);
    t.credential(&t.provider, t.sandbox().admin_key(), &host).await;
    t.until("chat", "version 2", |key| super::stage::state(key, 2).as_deref() == Some("Current")).await;
    t.ready("chat").await;
}

#[tokio::test]
async fn an_admin_credential_without_the_label_or_its_parts_is_not_used() {
    let t = Tenant::new("unlabelled").await;
    let home: Api<Secret> = Api::namespaced(t.client.clone(), &t.stage.installation.namespace);
    let patch = async |value: serde_json::Value| {
        home.patch(&t.provider, &PatchParams::default(), &Patch::Merge(value)).await.unwrap();
    };
    patch(json!({"metadata": {"labels": {"llmkeys.dev/admin-credential": null}}})).await;
    let place = format!("Secret {} in namespace {}", t.provider, t.stage.installation.namespace);
    let label = "llmkeys.dev/admin-credential=true";
    provider_stalled(&t, &t.provider, "AdminCredentialMissing", &[&place, label]).await;
    t.minted("chat", json!({})).await;
    stalled(&t, "chat", "AdminCredentialMissing", &[&place, label]).await;
    assert_eq!(calls(&t), []);
    patch(json!({"metadata": {"labels": {"llmkeys.dev/admin-credential": "true"}}, "data": {"host": null}}))
        .await;
    provider_stalled(&t, &t.provider, "AdminCredentialMissing", &[&place, "credential and host"]).await;
    home.delete(&t.provider, &DeleteParams::default()).await.unwrap();
    provider_stalled(&t, &t.provider, "AdminCredentialMissing", &[&place, "does not exist; create it"]).await;
    stalled(&t, "chat", "AdminCredentialMissing", &[&place]).await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.credential(&t.provider, t.sandbox().admin_key(), &t.sandbox().addr().to_string()).await;
    t.ready("chat").await;
}

#[tokio::test]
async fn a_credential_for_another_host_is_not_sent_there() {
    let t = Tenant::new("other-host").await;
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = trap.local_addr().unwrap().to_string();
    let name = format!("{}-moved", t.namespace);
    t.llm_provider(&name, json!({"baseURL": format!("https://{address}/v1")})).await;
    let words = [address.as_str(), &t.sandbox().addr().to_string()];
    provider_stalled(&t, &name, "AdminCredentialHostMismatch", &words).await;
    t.minted("chat", json!({"providerRef": {"name": name}})).await;
    stalled(&t, "chat", "AdminCredentialHostMismatch", &words).await;
    others_go_on(&t).await;
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody called");
    assert_eq!(calls(&t), []);
    t.llm_provider(&name, json!({})).await;
    t.ready("chat").await;
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody called");
}

#[tokio::test]
async fn a_private_address_is_called_only_if_the_provider_says_so() {
    let t = Tenant::new("private").await;
    let name = format!("{}-public", t.namespace);
    t.llm_provider(&name, json!({"addresses": "PublicOnly", "openAI": {"project": t.project}})).await;
    let words = ["spec.baseURL", "spec.addresses to AllowPrivate"];
    provider_stalled(&t, &name, "AddressRefused", &words).await;
    t.source("supplied", &t.person_key("one")).await;
    t.supplied("supplied", json!({"providerRef": {"name": name}})).await;
    t.minted("minted", json!({"providerRef": {"name": name}})).await;
    for key in ["supplied", "minted"] {
        stalled(&t, key, "AddressRefused", &[&name, words[0], words[1]]).await;
    }
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.llm_provider(&name, json!({})).await;
    t.ready("supplied").await;
    t.ready("minted").await;
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_told_like_the_address() {
    let t = Tenant::new("private-name").await;
    let name = format!("{}-name", t.namespace);
    let url = format!("https://localhost:{}/v1", t.sandbox().addr().port());
    t.llm_provider(&name, json!({"addresses": "PublicOnly", "baseURL": url})).await;
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", json!({"providerRef": {"name": name}})).await;
    stalled(&t, "chat", "AddressRefused", &[&name, "no public address", "to AllowPrivate"]).await;
    assert_eq!(calls(&t), []);
    assert!(t.secrets().get_opt("chat").await.unwrap().is_none());
    t.llm_provider(&name, json!({})).await;
    t.ready("chat").await;
    t.llm_provider(&name, json!({"addresses": "PublicOnly", "baseURL": url})).await;
    t.patch("chat", json!({"spec": {"validation": {"interval": "1m"}}})).await;
    let key = stalled(&t, "chat", "AddressRefused", &[&name, "to AllowPrivate"]).await;
    assert!(super::stage::because(&key, "Healthy", "AddressRefused"));
}

#[tokio::test]
async fn no_namespace_hangs_on_a_provider_that_is_down() {
    let t = Tenant::new("down").await;
    t.minted("chat", json!({"deletionGracePeriod": "1m"})).await;
    t.ready("chat").await;
    let tries = || count(&t, Operation::ListServiceAccounts) + count(&t, Operation::DeleteServiceAccount);
    let before = tries();
    let down = Fault::refuse(Answer::Unavailable { retry_after_seconds: None });
    t.sandbox().add_fault(FaultRule::on_all(down).project(&t.project));
    let namespaces: Api<Namespace> = Api::all(t.client.clone());
    namespaces.delete(&t.namespace, &DeleteParams::default()).await.unwrap();
    let gone = wait("the namespace is gone", async || {
        namespaces.get_opt(&t.namespace).await.unwrap().is_none().then_some(())
    });
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    // The account is searched for lost keys before anything is revoked there.
    wait("revocation was tried", async || (tries() > before).then_some(())).await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
    t.sandbox().clear_faults(Some(&t.project));
    wait("the key is revoked when the provider is back", async || {
        t.sandbox().live_keys(&t.project).is_empty().then_some(())
    })
    .await;
}
