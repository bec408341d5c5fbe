//! The chart as users install it: by helm, on a cluster of its own, with its Deployment.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use llmkey_operator::api::{self, LLMKey};
use llmkey_operator::testbed::{self, ControlPlane, Options, tools};
use serde_json::json;

const HOME: &str = "llmkey-system";

fn helm(kubeconfig: &Path, args: &[&str]) {
    let output = Command::new(tools::helm().unwrap())
        .args(args)
        .args(["--namespace", HOME])
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    assert!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace that admits only pods of the restricted standard.
async fn restricted_namespace(client: &Client) {
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {"name": HOME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
}

/// No node runs here: whether the pod would be admitted is asked without effect.
async fn pod_is_admitted(client: &Client) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), HOME);
    let template = deployments.get("llmkey-operator").await.unwrap().spec.unwrap().template;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "probe", "labels": template.metadata.unwrap().labels}, "spec": template.spec,
    }))
    .unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    Api::<Pod>::namespaced(client.clone(), HOME).create(&dry_run, &pod).await.unwrap();
}

async fn crds(client: &Client) -> usize {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    crds.list(&ListParams::default())
        .await
        .unwrap()
        .items
        .iter()
        .filter(|crd| crd.spec.group == api::GROUP)
        .count()
}

#[tokio::test]
async fn a_release_comes_goes_and_comes_back_while_the_keys_stay() {
    let cluster = ControlPlane::start(Options::default()).await.unwrap();
    let client = cluster.admin().unwrap();
    restricted_namespace(&client).await;
    let kubeconfig = cluster.admin_kubeconfig();
    let chart = testbed::source_dir().join("charts/llmkey-operator").display().to_string();
    // What the server knows without other products' CRDs, it accepts.
    let further = ["--set", "networkPolicy.enabled=true,grafanaDashboard.enabled=true"];
    helm(&kubeconfig, &[&["install", "llmkey-operator", &chart], &further[..]].concat());
    pod_is_admitted(&client).await;

    let keys: Api<LLMKey> = Api::namespaced(client.clone(), "default");
    let key = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "openai"},
        "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "supplied", "key": "api-key"}}},
    }))
    .unwrap();
    keys.create(&PostParams::default(), &key).await.unwrap();

    helm(&kubeconfig, &["upgrade", "llmkey-operator", &chart, "--set", "replicaCount=3"]);
    helm(&kubeconfig, &["uninstall", "llmkey-operator"]);
    assert_eq!(crds(&client).await, api::crds().len());
    helm(&kubeconfig, &["install", "llmkey-operator", &chart]);
    assert_eq!(keys.get("openai").await.unwrap().metadata.generation, Some(1));
}
