//! The chart as users install it: by helm, on a cluster of its own, with its Deployment.

use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use llmkey_operator::api::{self, LLMKey};
use llmkey_operator::testbed::{self, ControlPlane, Options, tools};
use serde_json::json;

use super::stage::wait;

const HOME: &str = "llmkey-system";

fn output(kubeconfig: &Path, args: &[&str]) -> Output {
    Command::new(tools::helm().unwrap())
        .args(args)
        .args(["--namespace", HOME])
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap()
}

fn helm(kubeconfig: &Path, args: &[&str]) {
    let output = output(kubeconfig, args);
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

/// Does what a node would with the pod of the Job: runs its command, and says how that ended. The text that it printed.
pub(crate) async fn run_as_a_node(client: &Client, kubeconfig: &Path) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), HOME);
    let ours = ListParams::default().labels("app.kubernetes.io/name=llmkey-operator-drain");
    let pod = wait("the drain's pod", async || {
        let pending = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Pending");
        // One that has failed stays until the next is made.
        pods.list(&ours).await.unwrap().items.into_iter().find(pending)
    })
    .await;
    let spec = pod.spec.unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
        .args(spec.containers[0].args.as_ref().unwrap())
        .env("POD_NAMESPACE", HOME)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    let phase = if output.status.success() { "Succeeded" } else { "Failed" };
    let status = json!({"status": {"phase": phase}});
    let name = pod.metadata.name.unwrap();
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Uninstalls. Whether helm was content, and what the drain said.
async fn uninstall(client: &Client, kubeconfig: &Path) -> (bool, String) {
    let (file, words) = (kubeconfig.to_owned(), ["uninstall", "llmkey-operator"]);
    let helm = tokio::task::spawn_blocking(move || output(&file, &words).status.success());
    let said = run_as_a_node(client, kubeconfig).await;
    (helm.await.unwrap(), said)
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
    // One that the operator has seen: it holds its namespace.
    let finalizer = json!({"metadata": {"finalizers": [api::FINALIZER]}});
    keys.patch("openai", &PatchParams::default(), &Patch::Merge(finalizer)).await.unwrap();

    // With the CRDs the LLMKey would go, and nobody could finish it.
    helm(&kubeconfig, &["upgrade", "llmkey-operator", &chart, "--set", "crds.keep=false"]);
    // An upgrade takes away what a release has no more, and no Job is asked before it.
    let gone = output(&kubeconfig, &["upgrade", "llmkey-operator", &chart, "--set", "crds.enabled=false"]);
    let why = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(!gone.status.success() && why.contains("crds.keep=true"), "{why}");
    assert_eq!(crds(&client).await, 4);
    let (gone, said) = uninstall(&client, &kubeconfig).await;
    assert!(!gone && said.contains("1 LLMKeys exist, and their CRD goes with this release"), "{said}");
    assert_eq!(crds(&client).await, api::crds().len());
    keys.get("openai").await.unwrap();

    // The way back that it tells of.
    helm(&kubeconfig, &["rollback", "llmkey-operator", "3"]);
    helm(&kubeconfig, &["upgrade", "llmkey-operator", &chart, "--set", "crds.keep=true"]);
    let (gone, said) = uninstall(&client, &kubeconfig).await;
    assert!(gone && said.contains("nothing is left to make or to revoke"), "{said}");
    assert!(said.contains("1 LLMKeys stay, default/openai for one"), "{said}");
    assert_eq!(crds(&client).await, api::crds().len());
    helm(&kubeconfig, &["install", "llmkey-operator", &chart]);
    assert_eq!(keys.get("openai").await.unwrap().metadata.generation, Some(1));
}
