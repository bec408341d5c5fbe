//! The operator with the rights of each `rbac.scope`, and no others, through the life of a key: RBAC of a real API server refuses, its
//! audit log tells what was asked.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::testbed::{ControlPlane, Options};
use serde_json::{Value, json};

use super::consumers::{Kubelet, using};
use super::stage::{DIVISOR, Operator, Stage, Tenant, installed, state, wait};

/// A control plane of its own with these namespaces, and the chart with the values that they give.
async fn staged(prefixes: &[&str], values: impl FnOnce(&[String]) -> Value) -> (&'static Stage, Vec<String>) {
    let cluster: &ControlPlane = Box::leak(Box::new(ControlPlane::start(Options::default()).await.unwrap()));
    let mut namespaces = Vec::new();
    for prefix in prefixes {
        namespaces.push(cluster.namespace(prefix).await.unwrap());
    }
    let stage = installed(cluster, &values(&namespaces)).await;
    (Box::leak(Box::new(stage)), namespaces)
}

/// The operator as the chart would start it.
async fn operate(stage: &Stage, name: &str) -> Operator {
    let flags: Vec<&str> = stage.installation.scope.iter().map(String::as_str).collect();
    let operator = Operator::start_with(stage.cluster, &stage.installation, name, DIVISOR, "debug", &flags);
    operator.ready().await;
    operator
}

/// What the operator has asked of the API server since that many events.
fn asked(stage: &Stage, from: usize) -> Vec<Value> {
    let account = format!(
        "system:serviceaccount:{}:{}",
        stage.installation.namespace, stage.installation.service_account
    );
    let mut events = stage.cluster.audit_events().unwrap().split_off(from);
    events.retain(|event| event["user"]["username"] == *account);
    events
}

fn events_so_far(stage: &Stage) -> usize {
    stage.cluster.audit_events().unwrap().len()
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event.pointer(field).and_then(Value::as_str).unwrap_or_default()
}

/// Where Secrets were listed or watched: a namespace, or nothing for all of them.
fn listed(events: &[Value]) -> BTreeSet<&str> {
    let lists = events.iter().filter(|event| {
        text(event, "/objectRef/resource") == "secrets" && ["list", "watch"].contains(&text(event, "/verb"))
    });
    lists.map(|event| text(event, "/objectRef/namespace")).collect()
}

fn refused(events: &[Value]) -> Vec<String> {
    let refused = events.iter().filter(|event| event["responseStatus"]["code"] == 403);
    refused.map(|event| format!("{} {}", text(event, "/verb"), text(event, "/requestURI"))).collect()
}

async fn rotated(t: &Tenant, token: &str, older: i32) {
    t.annotate("chat", "llmkeys.dev/rotate", Some(token)).await;
    t.until("chat", "the older key is revoked", |key| state(key, older).as_deref() == Some("Revoked")).await;
}

/// Created, delivered, repaired, rotated, revoked; a workload that uses it is restarted; and a supplied key is replaced.
async fn life(t: &Tenant) {
    let kubelet = Kubelet::start(t);
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(t.client.clone(), &t.namespace);
    let web = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": using(&["chat"])}},
    }))
    .unwrap();
    deployments.create(&PostParams::default(), &web).await.unwrap();
    wait("a pod uses the key", async || {
        (deployments.get("web").await.unwrap().status?.available_replicas == Some(1)).then_some(())
    })
    .await;

    let uid = async || Some(t.secrets().get_opt("chat").await.unwrap()?.metadata.uid?);
    let before = uid().await;
    t.secrets().delete("chat", &DeleteParams::default()).await.unwrap();
    wait("the target is written again", async || uid().await.filter(|now| Some(now) != before.as_ref()))
        .await;

    rotated(t, "once", 1).await;
    let second = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert_ne!(first, second);
    let template = deployments.get("web").await.unwrap().spec.unwrap().template.metadata.unwrap();
    assert!(template.annotations.unwrap_or_default().contains_key("llmkeys.dev/restarted-for"));
    drop(kubelet);

    t.source("own", &t.person_key("first")).await;
    t.supplied("own", json!({})).await;
    t.ready("own").await;
    let next = t.person_key("second");
    t.source("own", &next).await;
    t.until("own", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    assert_eq!(t.delivered("own", "OPENAI_API_KEY").await.unwrap(), next);
}

#[tokio::test]
async fn in_the_whole_cluster_secrets_are_watched() {
    let values = |_: &[String]| json!({"rollout": {"enabled": true}});
    let (stage, namespaces) = staged(&["whole"], values).await;
    let t = Tenant::of(stage, namespaces[0].clone()).await;
    let from = events_so_far(stage);
    let _operator = operate(stage, "operator-cluster").await;
    life(&t).await;
    let events = asked(stage, from);
    assert_eq!(refused(&events), Vec::<String>::new());
    assert!(listed(&events).contains(""), "{:?}", listed(&events));
}

#[tokio::test]
async fn with_polling_secrets_of_tenants_are_never_listed_or_watched() {
    let values = |_: &[String]| json!({"rollout": {"enabled": true}, "rbac": {"scope": "cluster-polling"}});
    let (stage, namespaces) = staged(&["polled"], values).await;
    let t = Tenant::of(stage, namespaces[0].clone()).await;
    let from = events_so_far(stage);
    let operator = operate(stage, "operator-polling").await;
    life(&t).await;

    // A source that comes later is found, too; one that is there before its LLMKey is found at once.
    t.supplied("late", json!({})).await;
    super::bad_input::stalled(&t, "late", "SourceNotFound", &[]).await;
    t.source("late", &t.person_key("late")).await;
    t.ready("late").await;

    let events = asked(stage, from);
    assert_eq!(refused(&events), Vec::<String>::new());
    assert_eq!(listed(&events), BTreeSet::from([stage.installation.namespace.as_str()]));
    let asks = |event: &&Value| {
        text(event, "/verb") == "get"
            && text(event, "/objectRef/resource") == "secrets"
            && text(event, "/objectRef/namespace") == t.namespace
    };
    let names: BTreeSet<&str> =
        events.iter().filter(asks).map(|event| text(event, "/objectRef/name")).collect();
    assert_eq!(names, BTreeSet::from(["chat", "late", "late-source", "own", "own-source"]));
    drop(operator);
}

/// Whether the operator has written to the ledger of the namespace's LLMKey `chat`.
fn ledger_written(stage: &Stage, from: usize, t: &Tenant) -> bool {
    let ledger = ledger_name(&t.namespace, "chat");
    let wrote = |event: &Value| {
        text(event, "/objectRef/name") == ledger && !["get", "list", "watch"].contains(&text(event, "/verb"))
    };
    asked(stage, from).iter().any(wrote)
}

#[tokio::test]
async fn only_the_namespaces_of_the_list_are_touched() {
    let values = |namespaces: &[String]| json!({"rollout": {"enabled": true}, "rbac": {"scope": "namespaces", "namespaces": &namespaces[..2]}});
    let (stage, namespaces) = staged(&["served", "also", "unlisted"], values).await;
    let home = stage.installation.namespace.as_str();
    let (a, b) =
        (Tenant::of(stage, namespaces[0].clone()).await, Tenant::of(stage, namespaces[1].clone()).await);
    let unlisted = Tenant::of(stage, namespaces[2].clone()).await;
    unlisted.source("own", &unlisted.person_key("left")).await;
    unlisted.supplied("own", json!({})).await;
    unlisted.minted("chat", json!({})).await;

    let from = events_so_far(stage);
    let operator = operate(stage, "operator-namespaces").await;
    life(&a).await;
    let events = asked(stage, from);
    assert_eq!(refused(&events), Vec::<String>::new());
    assert_eq!(listed(&events), BTreeSet::from([home, &a.namespace, &b.namespace]));
    assert!(!events.iter().any(|event| text(event, "/objectRef/namespace") == unlisted.namespace));
    for name in ["chat", "own"] {
        let key: LLMKey = unlisted.get(name).await;
        assert_eq!(key.status.and_then(|status| status.observed_generation), Some(-1), "{name}");
        assert_eq!(unlisted.secrets().get_opt(name).await.unwrap(), None::<Secret>);
    }
    assert_eq!(stage.sandbox.keys(&unlisted.project).len(), 1, "the person's own, none was made");
    drop(operator);

    // The rights to one namespace are gone when the operator starts again. That it sees no LLMKey there does not mean that there is
    // none: its ledger is not released, and its key goes on.
    let bindings: Api<RoleBinding> = Api::namespaced(a.client.clone(), &a.namespace);
    let name = format!("{}-keys", stage.installation.name);
    let binding = bindings.get(&name).await.unwrap();
    bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    let client = stage.installation.client(stage.cluster).await.unwrap();
    let looks: Api<Secret> = Api::namespaced(client, &a.namespace);
    wait("the rights are gone", async || looks.list(&ListParams::default()).await.is_err().then_some(()))
        .await;
    let from = events_so_far(stage);
    let operator = operate(stage, "operator-one-of-two").await;
    // It leads when the Lease of the one before is over.
    let told = "the operator may not look into the namespace";
    wait("it is told that one is out of sight", async || operator.log().contains(told).then_some(())).await;
    life(&b).await;
    assert!(!ledger_written(stage, from, &a));

    // With the rights it goes on by itself.
    let mut again = binding;
    again.metadata.resource_version = None;
    bindings.create(&PostParams::default(), &again).await.unwrap();
    let _kubelet = Kubelet::start(&a);
    rotated(&a, "twice", 2).await;
    assert!(ledger_written(stage, from, &a));
}
