//! Workloads that use the Secret: they hold the older key until they have the newer one, and are restarted for it. Pods are made
//! by the workload controllers; no node runs, so that tests say when a pod is ready.

use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use llmkey_operator::api::{ConsumerStatus, LLMKey};
use serde_json::{Value, json};

use super::stage::{Tenant, because, find, is, now, state, wait};
use super::workload::{time, version};

/// No minimum and no quiet: consumers alone are waited for.
fn at_once(overlap: &Value) -> Value {
    let mut spec = json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}});
    spec["overlap"].as_object_mut().unwrap().extend(overlap.as_object().unwrap().clone());
    spec
}

/// Minted keys of these names under one policy, Ready.
async fn ready(t: &Tenant, policy: Value, names: &[&str], changes: Value) {
    t.policy("policy", policy).await;
    for name in names {
        let mut spec = json!({"rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "1m"}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        t.minted(name, spec).await;
    }
    for name in names {
        t.ready(name).await;
    }
}

async fn rotate(t: &Tenant, name: &str) {
    t.annotate(name, "llmkeys.dev/rotate", Some("1")).await;
}

async fn revoked(t: &Tenant, name: &str) -> LLMKey {
    t.until(name, "version 1 is Revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await
}

async fn held(t: &Tenant, name: &str, why: &str) -> LLMKey {
    let held = |key: &LLMKey| {
        because(key, "OverlapActive", "WaitingForConsumers")
            && consumers(key).iter().any(|c| c.reason.as_deref() == Some(why))
    };
    t.until(name, &format!("held by a straggler: {why}"), held).await
}

fn consumers(key: &LLMKey) -> Vec<ConsumerStatus> {
    key.status.as_ref().map(|s| s.consumers.clone()).unwrap_or_default()
}

fn basis(key: &LLMKey) -> String {
    version(key, 1).revocation_basis.clone().unwrap_or_default()
}

pub(crate) fn using(secrets: &[&str]) -> Value {
    let from: Vec<Value> = secrets.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
    json!({"containers": [{"name": "app", "image": "app", "envFrom": from}]})
}

fn api<K>(t: &Tenant) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(t.client.clone(), &t.namespace)
}

pub(crate) async fn pod(t: &Tenant, annotations: Value, spec: Value) {
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "annotations": annotations}, "spec": spec,
    }))
    .unwrap();
    api::<Pod>(t).create(&PostParams::default(), &pod).await.unwrap();
}

/// Deletes the pod and waits until it is gone.
pub(crate) async fn remove_pod(t: &Tenant) {
    let pods: Api<Pod> = api(t);
    pods.delete("app", &DeleteParams::default().grace_period(0)).await.unwrap();
    wait("the pod goes", async || pods.get_opt("app").await.unwrap().is_none().then_some(())).await;
}

async fn deployment(t: &Tenant, changes: Value, pod: Value) {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}},
    });
    for (field, value) in changes.as_object().unwrap() {
        object[field].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    }
    let object: Deployment = serde_json::from_value(object).unwrap();
    api::<Deployment>(t).create(&PostParams::default(), &object).await.unwrap();
}

/// Says of each pod of the namespace that it is ready, as a kubelet does. Ends when dropped.
pub(crate) struct Kubelet(tokio::task::JoinHandle<()>);

impl Kubelet {
    pub(crate) fn start(t: &Tenant) -> Self {
        let pods: Api<Pod> = api(t);
        Self(tokio::spawn(async move {
            let ready =
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            let watched =
                watcher(pods.clone(), watcher::Config::default()).default_backoff().applied_objects();
            let mut watched = std::pin::pin!(watched);
            while let Some(shown) = watched.next().await {
                let Ok(pod) = shown else { continue };
                let running = pod.status.and_then(|s| s.phase).is_some_and(|phase| phase == "Running");
                if !running {
                    let name = pod.metadata.name.unwrap_or_default();
                    drop(pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&ready)).await);
                }
            }
        }))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn available(t: &Tenant) -> Deployment {
    let all = async || {
        let web = api::<Deployment>(t).get("web").await.unwrap();
        (web.status.as_ref()?.available_replicas == Some(2)).then_some(web)
    };
    wait("the Deployment is available", all).await
}

fn restarted_for(web: &Deployment) -> Option<String> {
    let template = web.spec.as_ref()?.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get("llmkeys.dev/restarted-for").cloned()
}

#[tokio::test]
async fn a_pod_older_than_the_secret_holds_the_older_key_until_it_is_replaced() {
    let t = Tenant::new("pod").await;
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    pod(&t, json!({}), using(&["chat"])).await;
    rotate(&t, "chat").await;
    let key = held(&t, "chat", "BarePod").await;
    let published = time(version(&key, 2).published_at.as_ref());
    t.asked_after(published + chrono::TimeDelta::seconds(8)).await;
    let key = t.get("chat").await;
    assert_eq!(state(&key, 1).as_deref(), Some("Overlap"));
    assert!(t.sandbox().accepts(&first) && is(&key, "Ready", "True") && is(&key, "Stalled", "False"));
    assert!(
        because(&key, "ConsumersCurrent", "WaitingForConsumers") && is(&key, "ConsumersCurrent", "False")
    );
    let (_, _, message) = find(&key, "ConsumersCurrent").unwrap();
    assert!(message.contains("Pod/app"), "{message}");
    assert_eq!(key.status.as_ref().unwrap().consumers_total, Some(1));

    remove_pod(&t).await;
    pod(&t, json!({}), using(&["chat"])).await;
    let key = revoked(&t, "chat").await;
    assert_eq!(basis(&key), "ConsumersProven");
    assert!(!t.sandbox().accepts(&first));
    let key = t.until("chat", "all current", |key| because(key, "ConsumersCurrent", "AllCurrent")).await;
    assert!(is(&key, "ConsumersCurrent", "True") && consumers(&key).is_empty());
}

#[tokio::test]
async fn a_pod_that_has_ended_and_one_that_only_pulls_images_hold_nothing() {
    let t = Tenant::new("ended").await;
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    pod(&t, json!({}), using(&["chat"])).await;
    let pods: Api<Pod> = api(&t);
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("app", &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    let pulls: Pod = serde_json::from_value(json!({
        "metadata": {"name": "pulls"},
        "spec": {"containers": [{"name": "app", "image": "app"}], "imagePullSecrets": [{"name": "chat"}]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pulls).await.unwrap();
    rotate(&t, "chat").await;
    let key = revoked(&t, "chat").await;
    assert_eq!(basis(&key), "MinimumElapsed", "nobody was asked who could have proven anything");
}

#[tokio::test]
async fn at_the_maximum_hold_holds_and_revoke_revokes() {
    let t = Tenant::new("maximum").await;
    // 30 minutes are 6 s.
    ready(&t, at_once(&json!({"maximum": "30m"})), &["chat"], json!({})).await;
    pod(&t, json!({}), using(&["chat"])).await;
    rotate(&t, "chat").await;
    let passed = |key: &LLMKey| {
        find(key, "OverlapActive").is_some_and(|(_, _, message)| message.contains("onStuck is Hold"))
    };
    let key = t.until("chat", "the maximum has passed", passed).await;
    assert_eq!(state(&key, 1).as_deref(), Some("Overlap"));
    assert!(is(&key, "Ready", "True"));
    t.policy("policy", at_once(&json!({"maximum": "30m", "onStuck": "Revoke"}))).await;
    let key = revoked(&t, "chat").await;
    assert_eq!(basis(&key), "MaximumReached");
    assert!(now() > time(version(&key, 2).published_at.as_ref()) + chrono::TimeDelta::seconds(6));
}

#[tokio::test]
async fn a_pod_that_reads_the_file_anew_is_presumed_current() {
    let t = Tenant::new("reload").await;
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    let spec = json!({
        "containers": [{"name": "app", "image": "app", "volumeMounts": [{"name": "key", "mountPath": "/key"}]}],
        "volumes": [{"name": "key", "projected": {"sources": [{"secret": {"name": "chat"}}]}}],
    });
    pod(&t, json!({"llmkeys.dev/reload": "true"}), spec).await;
    rotate(&t, "chat").await;
    let key = revoked(&t, "chat").await;
    assert_eq!(basis(&key), "Presumed");
}

#[tokio::test]
async fn a_deployment_is_restarted_once_for_all_keys_that_it_uses() {
    let t = Tenant::new("rollout").await;
    let kubelet = Kubelet::start(&t);
    ready(&t, at_once(&json!({})), &["chat", "embed"], json!({})).await;
    let keep = json!({"metadata": {"annotations": {"llmkeys.dev/restart": "false"}}});
    deployment(&t, keep, using(&["chat", "embed"])).await;
    available(&t).await;
    for name in ["chat", "embed"] {
        rotate(&t, name).await;
    }
    for name in ["chat", "embed"] {
        let key = held(&t, name, "OptedOut").await;
        assert_eq!((consumers(&key)[0].kind.as_str(), consumers(&key)[0].stale_pods), ("Deployment", 2));
    }
    let deployments: Api<Deployment> = api(&t);
    let before = available(&t).await;
    assert_eq!(restarted_for(&before), None);
    let allow = json!({"metadata": {"annotations": {"llmkeys.dev/restart": null}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(&allow)).await.unwrap();
    for name in ["chat", "embed"] {
        assert_eq!(basis(&revoked(&t, name).await), "ConsumersProven");
    }
    let after = deployments.get("web").await.unwrap();
    let mark = restarted_for(&after).unwrap();
    assert!(mark == "chat/2" || mark == "embed/2", "{mark}");
    let sets = api::<ReplicaSet>(&t).list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(sets.items.len(), 2, "one restart for both");
    let managers = after.metadata.managed_fields.unwrap_or_default();
    assert!(managers.iter().any(|m| m.manager.as_deref() == Some("llmkey-operator-restart")));
    drop(kubelet);
}

#[tokio::test]
async fn a_stateful_set_is_restarted_and_one_that_says_on_delete_is_not() {
    let t = Tenant::new("stateful").await;
    let kubelet = Kubelet::start(&t);
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    let sets: Api<StatefulSet> = api(&t);
    for (name, strategy) in [("db", "RollingUpdate"), ("kept", "OnDelete")] {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": 2, "serviceName": name, "selector": {"matchLabels": {"app": name}},
                     "updateStrategy": {"type": strategy},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": using(&["chat"])}},
        }))
        .unwrap();
        sets.create(&PostParams::default(), &set).await.unwrap();
        let ready = async || {
            let status = sets.get(name).await.unwrap().status?;
            (status.ready_replicas == Some(2)).then_some(())
        };
        wait("the StatefulSet is ready", ready).await;
    }
    rotate(&t, "chat").await;
    let all_but_one = |key: &LLMKey| {
        let shown = consumers(key);
        let stands =
            |name: &str| shown.iter().find(|c| c.name == name).map(|c| (c.state.clone(), c.stale_pods));
        stands("db") == Some(("Current".into(), 0)) && stands("kept") == Some(("Straggler".into(), 2))
    };
    t.until("chat", "one is restarted, the other is not", all_but_one).await;
    held(&t, "chat", "OnDelete").await;
    let mark = async |name: &str| {
        let template = sets.get(name).await.unwrap().spec.unwrap().template.metadata.unwrap();
        template.annotations.and_then(|a| a.get("llmkeys.dev/restarted-for").cloned())
    };
    assert_eq!((mark("db").await.as_deref(), mark("kept").await), (Some("chat/2"), None));
    let pods: Api<Pod> = api(&t);
    let kept = ListParams::default().labels("app=kept");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &kept).await.unwrap();
    assert_eq!(basis(&revoked(&t, "chat").await), "ConsumersProven");
    drop(kubelet);
}

#[tokio::test]
async fn a_paused_deployment_is_a_straggler_until_it_goes_on() {
    let t = Tenant::new("paused-web").await;
    let kubelet = Kubelet::start(&t);
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    deployment(&t, json!({}), using(&["chat"])).await;
    available(&t).await;
    let deployments: Api<Deployment> = api(&t);
    let pause = |paused: bool| Patch::Merge(json!({"spec": {"paused": paused}}));
    deployments.patch("web", &PatchParams::default(), &pause(true)).await.unwrap();
    rotate(&t, "chat").await;
    let key = held(&t, "chat", "Paused").await;
    assert!(is(&key, "Ready", "True"));
    assert_eq!(restarted_for(&deployments.get("web").await.unwrap()), None);
    deployments.patch("web", &PatchParams::default(), &pause(false)).await.unwrap();
    assert_eq!(basis(&revoked(&t, "chat").await), "ConsumersProven");
    assert_eq!(restarted_for(&deployments.get("web").await.unwrap()).as_deref(), Some("chat/2"));
    drop(kubelet);
}

#[tokio::test]
async fn a_person_restarts_what_the_key_does_not_let_the_operator_restart() {
    let t = Tenant::new("by-hand").await;
    let kubelet = Kubelet::start(&t);
    ready(&t, at_once(&json!({})), &["chat"], json!({"target": {"rollout": "None"}})).await;
    deployment(&t, json!({}), using(&["chat"])).await;
    available(&t).await;
    rotate(&t, "chat").await;
    held(&t, "chat", "RolloutDisabled").await;
    let deployments: Api<Deployment> = api(&t);
    assert_eq!(restarted_for(&deployments.get("web").await.unwrap()), None);
    // As `kubectl rollout restart` does.
    let restart = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(&restart)).await.unwrap();
    assert_eq!(basis(&revoked(&t, "chat").await), "ConsumersProven");
    assert_eq!(restarted_for(&deployments.get("web").await.unwrap()), None);
    drop(kubelet);
}

#[tokio::test]
async fn a_running_job_is_waited_for() {
    let t = Tenant::new("job").await;
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    let mut spec = using(&["chat"]);
    spec["restartPolicy"] = json!("Never");
    let job: Job =
        serde_json::from_value(json!({"metadata": {"name": "batch"}, "spec": {"template": {"spec": spec}}}))
            .unwrap();
    api::<Job>(&t).create(&PostParams::default(), &job).await.unwrap();
    let pods: Api<Pod> = api(&t);
    let runs = async || pods.list(&ListParams::default()).await.unwrap().items.pop()?.metadata.name;
    let name = wait("the Job has a pod", runs).await;
    rotate(&t, "chat").await;
    let key = held(&t, "chat", "RunningJob").await;
    assert_eq!((consumers(&key)[0].kind.as_str(), consumers(&key)[0].name.as_str()), ("Job", "batch"));
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    revoked(&t, "chat").await;
}

/// A policy of the tenant that refuses restarts by the operator's annotation.
async fn refuse_restarts(t: &Tenant) {
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": {"name": t.namespace},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["UPDATE"],
            }]},
            "validations": [{
                "expression": "!('llmkeys.dev/restarted-for' in object.spec.template.metadata.?annotations.orValue({}))",
                "message": "no restarts here",
            }],
        },
    }))
    .unwrap();
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": {"name": t.namespace},
        "spec": {
            "policyName": t.namespace, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": t.namespace}}},
        },
    }))
    .unwrap();
    Api::all(t.client.clone()).create(&PostParams::default(), &policy).await.unwrap();
    Api::all(t.client.clone()).create(&PostParams::default(), &binding).await.unwrap();
    let mark =
        json!({"spec": {"template": {"metadata": {"annotations": {"llmkeys.dev/restarted-for": "x"}}}}});
    let deployments: Api<Deployment> = api(t);
    let dry_run = PatchParams::default().dry_run();
    let refused =
        async || deployments.patch("web", &dry_run, &Patch::Merge(&mark)).await.is_err().then_some(());
    wait("restarts are refused", refused).await;
}

#[tokio::test]
async fn a_restart_that_admission_refuses_is_tried_twice_and_the_key_is_held() {
    let t = Tenant::new("refused").await;
    let kubelet = Kubelet::start(&t);
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    deployment(&t, json!({}), using(&["chat"])).await;
    available(&t).await;
    refuse_restarts(&t).await;
    rotate(&t, "chat").await;
    let key = held(&t, "chat", "RefusedByAdmission").await;
    assert!(is(&key, "Ready", "True"));
    let after = now() + chrono::TimeDelta::seconds(5);
    t.asked_after(after).await;
    held(&t, "chat", "RefusedByAdmission").await;
    let by_operator = |event: &&Value| {
        event["objectRef"]["namespace"] == *t.namespace
            && event["objectRef"]["resource"] == "deployments"
            && event["verb"] == "patch"
            && event["user"]["username"].as_str().is_some_and(|name| name.contains("llmkey-operator"))
    };
    let events = t.stage.cluster.audit_events().unwrap();
    assert_eq!(events.iter().filter(by_operator).count(), 2);
    assert_eq!(restarted_for(&api::<Deployment>(&t).get("web").await.unwrap()), None);
    drop(kubelet);
}

/// Lists of the tenant's pods and workloads, by the operator.
fn looks(t: &Tenant) -> Vec<String> {
    let account = format!(
        "system:serviceaccount:{}:{}",
        t.stage.installation.namespace, t.stage.installation.service_account
    );
    let events = t.stage.cluster.audit_events().unwrap();
    let of_tenant = |event: &&Value| {
        event["user"]["username"] == *account
            && event["verb"] == "list"
            && event["objectRef"]["namespace"] == *t.namespace
            && event["objectRef"]["apiGroup"] != "llmkeys.dev"
            && event["objectRef"]["resource"] != "secrets"
    };
    events.iter().filter(of_tenant).map(|event| event["objectRef"]["resource"].to_string()).collect()
}

#[tokio::test]
async fn workloads_are_listed_only_while_an_older_key_works() {
    let t = Tenant::new("looks").await;
    ready(&t, at_once(&json!({})), &["chat"], json!({})).await;
    t.settled("chat").await;
    assert!(looks(&t).is_empty(), "{:?}", looks(&t));
    rotate(&t, "chat").await;
    revoked(&t, "chat").await;
    let during = looks(&t);
    // Nobody uses the Secret: one look, and one before the revocation is recorded; a lost race with another write may cost more.
    assert!((8..=16).contains(&during.len()), "{during:?}");
    t.settled("chat").await;
    assert_eq!(looks(&t).len(), during.len());
}
