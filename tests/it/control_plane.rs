//! The ground that every other integration test stands on.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use llmkey_operator::testbed::process::Workspace;
use llmkey_operator::testbed::{self, ControlPlane, Options, apply, render_chart};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::common::wait;

#[tokio::test]
async fn serves_the_version_that_it_was_built_from() {
    let cluster = tokio::spawn(testbed::shared()).await.unwrap().unwrap();
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        assert_eq!(cluster.version(), "v1.36.3");
    }
    let answered = cluster.admin().unwrap().apiserver_version().await.unwrap();
    assert_eq!(answered.git_version, cluster.version());
}

#[tokio::test]
async fn denies_an_account_without_rights() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = tokio::spawn(cluster.namespace("rbac")).await.unwrap().unwrap();
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("nobody".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin().unwrap(), &namespace);
    accounts.create(&PostParams::default(), &account).await.unwrap();

    let client = cluster.service_account_client(&namespace, "nobody").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let error = secrets.list(&ListParams::default()).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!(status.code, 403);
    assert!(status.message.contains("system:serviceaccount:rbac-"), "{}", status.message);
}

#[tokio::test]
async fn audits_requests_without_their_bodies_and_keeps_history() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = cluster.namespace("audit").await.unwrap();
    let canary = "canary-4c1f9e";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "watched", "namespace": namespace },
        "stringData": { "value": canary },
    });
    let client = cluster.admin().unwrap();
    apply(&client, &[secret]).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    secrets.delete("watched", &DeleteParams::default()).await.unwrap();

    let verbs: Vec<String> = cluster
        .audit_events()
        .unwrap()
        .iter()
        .filter(|event| {
            event["objectRef"]["namespace"] == namespace.as_str() && event["objectRef"]["name"] == "watched"
        })
        .map(|event| event["verb"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["patch", "delete"]);
    assert!(!fs::read_to_string(cluster.audit_log()).unwrap().contains(canary));

    let key = format!("/registry/secrets/{namespace}/watched");
    let history: Vec<_> =
        cluster.etcd_get_all().await.unwrap().into_iter().filter(|entry| entry.key == key).collect();
    assert_eq!(history.len(), 2, "the write and the deletion");
    assert!(history[0].value.windows(canary.len()).any(|window| window == canary.as_bytes()));
    assert!(history[1].value.is_empty());
}

#[tokio::test]
async fn applies_a_rendered_chart_in_an_order_that_works() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = format!("chart-{}", testbed::process::random_suffix().unwrap());
    let chart = Workspace::create(false).unwrap();
    write_chart(chart.path());
    let values = json!({ "colour": "green: # \"quoted\"" });
    let (path, target) = (chart.path().to_owned(), namespace.clone());
    let render = move || render_chart(&path, "rendered", &target, &values);
    let manifests = tokio::task::spawn_blocking(render).await.unwrap().unwrap();

    let client = cluster.admin().unwrap();
    apply(&client, &manifests).await.unwrap();
    let config: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let found = config.get("rendered").await.unwrap();
    assert_eq!(found.data.unwrap()["colour"], "green: # \"quoted\"");
}

/// A chart whose documents come in the wrong order: an object of the chart's own kind first.
fn write_chart(dir: &Path) {
    for folder in ["templates", "crds"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "things.testbed.example" },
        "spec": { "group": "testbed.example", "scope": "Namespaced",
                  "names": { "plural": "things", "singular": "thing", "kind": "Thing" },
                  "versions": [{ "name": "v1", "served": true, "storage": true,
                                 "schema": { "openAPIV3Schema": { "type": "object" } } }] },
    });
    let chart = "apiVersion: v2\nname: testing\nversion: 0.1.0\nkubeVersion: '>=1.30.0-0'\n";
    let objects = "\
apiVersion: testbed.example/v1
kind: Thing
metadata: {name: first, namespace: {{ .Release.Namespace }}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
data: {colour: {{ .Values.colour | quote }}}
---
apiVersion: v1
kind: Namespace
metadata: {name: {{ .Release.Namespace }}}
";
    fs::write(dir.join("crds/thing.yaml"), crd.to_string()).unwrap();
    fs::write(dir.join("Chart.yaml"), chart).unwrap();
    fs::write(dir.join("templates/objects.yaml"), objects).unwrap();
}

#[tokio::test]
async fn runs_the_controllers() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = cluster.namespace("controllers").await.unwrap();
    let client = cluster.admin().unwrap();
    let labels = json!({ "app": "idle" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "idle", "namespace": namespace },
        "spec": { "replicas": 2, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "main", "image": "none" }] } } },
    });
    apply(&client, &[deployment]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    wait("two pods exist", async || {
        (pods.list(&ListParams::default()).await.unwrap().items.len() == 2).then_some(())
    })
    .await;

    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    wait("the namespace is gone", async || {
        namespaces.get_opt(&namespace).await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn restarts_the_api_server_with_its_data() {
    let flags = vec!["--max-requests-inflight=77".to_owned()];
    let options = Options { extra_apiserver_args: flags, ..Options::default() };
    let cluster = ControlPlane::start(options).await.unwrap();
    let namespace = cluster.namespace("kept").await.unwrap();
    let before = cluster.apiserver_pid();
    cluster.restart_apiserver().await.unwrap();
    assert_ne!(cluster.apiserver_pid(), before);
    let namespaces: Api<Namespace> = Api::all(cluster.admin().unwrap());
    assert!(namespaces.get_opt(&namespace).await.unwrap().is_some());
    assert!(
        fs::read_to_string(format!("/proc/{}/cmdline", cluster.apiserver_pid())).unwrap().contains("=77")
    );
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
}

#[tokio::test]
async fn leaves_nothing_behind_when_its_process_is_killed() {
    let mut testbed = tokio::process::Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("up")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(testbed.stdout.take().unwrap()).lines();
    let mut address = None;
    let kubeconfig = loop {
        let line = lines.next_line().await.unwrap().expect("the control plane starts");
        address = address.or_else(|| line.split_once("https://").map(|(_, address)| address.to_owned()));
        if let Some((_, path)) = line.split_once("KUBECONFIG=") {
            break path.to_owned();
        }
    };
    let (dir, address) = (Path::new(&kubeconfig).parent().unwrap(), address.unwrap());
    TcpStream::connect(&address).await.unwrap();

    testbed.kill().await.unwrap();
    wait("the API server is gone", async || TcpStream::connect(&address).await.is_err().then_some(())).await;
    wait("the directory is gone", async || (!dir.exists()).then_some(())).await;
}
