//! The ground that every other integration test stands on.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use llmkey_operator::testbed::{self, apply};
use serde_json::json;

#[tokio::test]
async fn serves_the_version_that_it_was_built_from() {
    let cluster = testbed::shared().await.unwrap();
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        assert_eq!(cluster.version(), "v1.36.3");
    }
    let answered = cluster.admin().unwrap().apiserver_version().await.unwrap();
    assert_eq!(answered.git_version, cluster.version());
}

#[tokio::test]
async fn denies_an_account_without_rights() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = cluster.namespace("rbac").await.unwrap();
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
    let manifests = [
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "watched", "namespace": namespace },
                "stringData": { "value": canary } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "plain", "namespace": namespace } }),
    ];
    let client = cluster.admin().unwrap();
    apply(&client, &manifests).await.unwrap();
    Api::<ConfigMap>::namespaced(client.clone(), &namespace).get("plain").await.unwrap();
    Api::<Secret>::namespaced(client, &namespace)
        .delete("watched", &kube::api::DeleteParams::default())
        .await
        .unwrap();

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
    assert!(!std::fs::read_to_string(cluster.audit_log()).unwrap().contains(canary));

    let key = format!("/registry/secrets/{namespace}/watched");
    let history: Vec<_> =
        cluster.etcd_get_all().await.unwrap().into_iter().filter(|entry| entry.key == key).collect();
    assert_eq!(history.len(), 2, "the write and the deletion");
    assert!(history[0].value.windows(canary.len()).any(|window| window == canary.as_bytes()));
    assert!(history[1].value.is_empty());
}
