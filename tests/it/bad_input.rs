//! Bad input: references that lead nowhere. Each is told with object and remedy, changes nothing that works, and
//! heals without a restart. The other kinds of bad input are in the files `bad_*`; what they share is here.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use llmkey_operator::api::{LLMKey, LLMProvider, RotationPolicy};
use llmkey_operator::sandbox::{LogEntry, Operation};
use serde_json::{Value, json};

use super::stage::{Tenant, find, state};

/// Waits until the LLMKey is Stalled for the reason, and checks that the message helps.
pub(crate) async fn stalled(t: &Tenant, name: &str, reason: &str, words: &[&str]) -> LLMKey {
    let told = |key: &LLMKey| find(key, "Stalled").is_some_and(|(s, r, _)| s == "True" && r == reason);
    let key = t.until(name, reason, told).await;
    let (_, _, message) = find(&key, "Stalled").unwrap();
    for word in words {
        assert!(message.contains(word), "{reason}: {word:?} is missing in {message:?}");
    }
    assert_eq!(key.status.as_ref().unwrap().observed_generation, key.metadata.generation);
    let ready = find(&key, "Ready").unwrap();
    assert_eq!((ready.0.as_str(), ready.1.as_str()), ("False", reason));
    key
}

/// Another LLMKey of the namespace works all the same.
pub(crate) async fn others_go_on(t: &Tenant) {
    t.source("neighbour", "sk-neighbour-0123456789abcdef").await;
    let checks_nothing = json!({
        "providerRef": null, "provider": "OpenAI", "validation": {"mode": "Disabled"},
    });
    t.supplied("neighbour", checks_nothing).await;
    t.ready("neighbour").await;
    assert!(t.delivered("neighbour", "OPENAI_API_KEY").await.is_some());
}

/// Calls for keys of the tenant's project: not the look at the account itself.
/// Calls that tell of an account as a whole: it is checked, swept and asked for usage all the time.
pub(crate) const ABOUT_THE_ACCOUNT: [Operation; 5] = [
    Operation::GetProject,
    Operation::ListServiceAccounts,
    Operation::GetCompletionsUsage,
    Operation::GetEmbeddingsUsage,
    Operation::GetCosts,
];

pub(crate) fn calls(t: &Tenant) -> Vec<LogEntry> {
    let mut log = t.sandbox().log_of(&t.project);
    log.retain(|entry| !ABOUT_THE_ACCOUNT.contains(&entry.operation));
    log
}

/// How many calls of the tenant's project are this one.
pub(crate) fn count(t: &Tenant, operation: Operation) -> usize {
    t.sandbox().log_of(&t.project).iter().filter(|entry| entry.operation == operation).count()
}

/// The Secret, to be compared later: data, owner and version.
pub(crate) async fn secret(t: &Tenant, name: &str) -> Secret {
    t.secrets().get(name).await.unwrap()
}

/// Waits until the operator has looked at the LLMKey again, after an edit that changes nothing that is delivered.
pub(crate) async fn looked_again(t: &Tenant, name: &str) -> LLMKey {
    let before = t.get(name).await.metadata.generation;
    let mark = format!("edit-{}", before.unwrap());
    t.patch(name, json!({"spec": {"model": mark}})).await;
    t.until(name, "another look", |key| key.status.as_ref().and_then(|s| s.observed_generation) > before)
        .await
}

pub(crate) async fn delete_provider(t: &Tenant, name: &str) {
    let api: Api<LLMProvider> = Api::all(t.client.clone());
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_policy_holds_everything_until_it_exists() {
    let t = Tenant::new("no-policy").await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "monthly"}})).await;
    stalled(&t, "chat", "PolicyNotFound", &["RotationPolicy/monthly", "create it"]).await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.policy("monthly", json!({"schedule": {"calendar": {"period": "Monthly"}}})).await;
    t.ready("chat").await;

    let good = secret(&t, "chat").await;
    let policies: Api<RotationPolicy> = Api::namespaced(t.client.clone(), &t.namespace);
    policies.delete("monthly", &DeleteParams::default()).await.unwrap();
    stalled(&t, "chat", "PolicyNotFound", &["RotationPolicy/monthly"]).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, good);
    t.policy("monthly", json!({"schedule": {"calendar": {"period": "Monthly"}}})).await;
    t.ready("chat").await;
    assert_eq!(secret(&t, "chat").await, good);
}

#[tokio::test]
async fn an_unknown_provider_holds_everything_until_it_exists() {
    let t = Tenant::new("no-provider").await;
    let provider = format!("{}-later", t.namespace);
    t.source("chat", &t.person_key("one")).await;
    t.supplied("chat", json!({"providerRef": {"name": provider}})).await;
    stalled(&t, "chat", "ProviderNotFound", &[&provider, "ask the platform's administrators"]).await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.llm_provider(&provider, json!({})).await;
    t.ready("chat").await;

    // With the provider goes the knowledge of what to deliver: the Secret must not be emptied.
    let good = secret(&t, "chat").await;
    delete_provider(&t, &provider).await;
    stalled(&t, "chat", "ProviderNotFound", &[&provider]).await;
    looked_again(&t, "chat").await;
    stalled(&t, "chat", "ProviderNotFound", &[&provider]).await;
    assert_eq!(secret(&t, "chat").await, good);
    t.llm_provider(&provider, json!({})).await;
    t.ready("chat").await;
    assert_eq!(secret(&t, "chat").await, good);
}

#[tokio::test]
async fn a_namespace_that_is_not_allowed_causes_no_call() {
    let t = Tenant::new("not-allowed").await;
    let tenant = team(&t).await;
    let keys: Api<LLMKey> = Api::namespaced(tenant.clone(), &t.namespace);
    let providers: Api<LLMProvider> = Api::all(tenant);
    let other = format!("{}-other", t.namespace);
    t.llm_provider(&other, json!({"allowedNamespaces": ["somebody-else"]})).await;
    let refused = providers.list(&kube::api::ListParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

    t.source("supplied", &t.person_key("one")).await;
    for (name, source) in [
        ("minted", json!({"mint": {}})),
        ("supplied", json!({"secretRef": {"name": "supplied-source", "key": "key"}})),
    ] {
        let key: LLMKey = serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": name, "namespace": t.namespace},
            "spec": {"providerRef": {"name": other}, "source": source},
        }))
        .unwrap();
        keys.create(&PostParams::default(), &key).await.unwrap();
    }
    let words = [other.as_str(), t.namespace.as_str(), "allowedNamespaces"];
    for name in ["minted", "supplied"] {
        let key = stalled(&t, name, "NamespaceNotAllowed", &words).await;
        assert!(!find(&key, "Stalled").unwrap().2.contains("somebody-else"));
        assert!(t.secrets().get_opt(name).await.unwrap().is_none());
    }
    others_go_on(&t).await;
    assert_eq!(calls(&t), []);
    t.llm_provider(&other, json!({})).await;
    t.ready("minted").await;
    t.ready("supplied").await;
}

#[tokio::test]
async fn a_namespace_that_is_shut_out_later_keeps_its_secret() {
    let t = Tenant::new("shut-out").await;
    let (first, second) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &first).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    let good = secret(&t, "chat").await;
    t.llm_provider(&t.provider, json!({"allowedNamespaces": ["somebody-else"]})).await;
    stalled(&t, "chat", "NamespaceNotAllowed", &[&t.namespace]).await;
    let before = calls(&t).len();
    t.source("chat", &second).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, good);
    assert_eq!(calls(&t).len(), before);
    // The value that came meanwhile is taken now.
    t.llm_provider(&t.provider, json!({})).await;
    t.until("chat", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(second));
    // A list that is applied empty means nobody.
    t.llm_provider(&t.provider, json!({"allowedNamespaces": []})).await;
    let api: Api<LLMProvider> = Api::all(t.client.clone());
    assert!(api.get(&t.provider).await.unwrap().spec.allowed_namespaces.is_empty());
    stalled(&t, "chat", "NamespaceNotAllowed", &[&t.namespace]).await;
}

#[tokio::test]
async fn a_schedule_that_never_comes_is_told_on_policy_and_key() {
    let t = Tenant::new("no-date").await;
    let never = json!({"schedule": {"cron": {"expression": "30 2 30 2 *"}}});
    t.policy("leap", never.clone()).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "leap"}})).await;
    let words = ["RotationPolicy/leap", "30 2 30 2 *", "never happens", "check that the day exists"];
    stalled(&t, "chat", "ScheduleImpossible", &words).await;
    let policies: Api<RotationPolicy> = Api::namespaced(t.client.clone(), &t.namespace);
    super::stage::wait("the policy says so", async || {
        let status = policies.get("leap").await.unwrap().status?;
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.reason == "ScheduleImpossible")
            .then_some(())
    })
    .await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    t.policy("leap", json!({"schedule": {"cron": {"expression": "30 2 29 2 *"}}})).await;
    let key = t.ready("chat").await;
    assert!(key.status.unwrap().next_rotation_time.is_some());

    let good = secret(&t, "chat").await;
    t.policy("leap", never).await;
    stalled(&t, "chat", "ScheduleImpossible", &words).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, good);
}

/// What a team has in its namespace: LLMKeys and Secrets, nothing else and nowhere else.
async fn team(t: &Tenant) -> kube::Client {
    let objects = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "team", "namespace": t.namespace}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
         "metadata": {"name": "team", "namespace": t.namespace},
         "rules": [
            {"apiGroups": ["llmkeys.dev"], "resources": ["llmkeys"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]},
         ]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "team", "namespace": t.namespace},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "team"},
         "subjects": [{"kind": "ServiceAccount", "name": "team", "namespace": t.namespace}]},
    ]);
    let objects: Vec<Value> = serde_json::from_value(objects).unwrap();
    llmkey_operator::testbed::apply(&t.client, &objects).await.unwrap();
    let client = t.stage.cluster.service_account_client(&t.namespace, "team").await.unwrap();
    let own: Api<LLMKey> = Api::namespaced(client.clone(), &t.namespace);
    super::stage::wait("the team's rights are in force", async || {
        own.list(&kube::api::ListParams::default()).await.ok().map(drop)
    })
    .await;
    client
}

/// Changes a Secret.
pub(crate) async fn patch_secret(t: &Tenant, name: &str, patch: Value) {
    t.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}
