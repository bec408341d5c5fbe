//! The admission policies on the operator's own service account, asked with its own token. RBAC is made to
//! allow everything here, so that it is the policies that refuse.

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Error};
use llmkey_operator::{api, testbed};
use serde_json::{Value, json};
use testbed::{ControlPlane, Installation, install_chart};

use crate::common::wait;

/// Who asks, and where.
struct Leash {
    installation: Installation,
    admin: Client,
    operator: Client,
    tenant: String,
}

impl Leash {
    async fn new(name: &str) -> Self {
        let cluster: &ControlPlane = testbed::shared().await.unwrap();
        let tenant = cluster.namespace("tenant").await.unwrap();
        let home = cluster.namespace(name).await.unwrap();
        let installation = install_chart(cluster, &home, &json!({})).await.unwrap();
        let (admin, operator) = (cluster.admin().unwrap(), installation.client(cluster).await.unwrap());
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": format!("{home}-all")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": installation.service_account, "namespace": home}],
        }))
        .unwrap();
        Api::all(admin.clone()).create(&PostParams::default(), &binding).await.unwrap();
        let leash = Self { installation, admin, operator, tenant };
        leash.rbac_allows_everything().await;
        leash
    }

    async fn rbac_allows_everything(&self) {
        let pods: Api<Pod> = Api::namespaced(self.operator.clone(), &self.tenant);
        wait("the operator may do everything", async || {
            pods.list(&ListParams::default()).await.ok().map(drop)
        })
        .await;
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.operator.clone(), &self.tenant)
    }

    fn own(&self) -> Api<Secret> {
        Api::namespaced(self.operator.clone(), &self.installation.namespace)
    }

    async fn exists(&self, namespace: &str, secret: &Secret) -> Secret {
        let api: Api<Secret> = Api::namespaced(self.admin.clone(), namespace);
        api.create(&PostParams::default(), secret).await.unwrap()
    }

    async fn foreign(&self, value: Value) -> Secret {
        self.exists(&self.tenant, &secret(value)).await
    }

    fn resource(&self, client: &Client, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(api::GROUP, api::VERSION, kind));
        match kind {
            "LLMKey" | "RotationPolicy" => Api::namespaced_with(client.clone(), &self.tenant, &resource),
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}

fn secret(mut value: Value) -> Secret {
    let owner = value.as_object_mut().unwrap().remove("owner");
    let mut secret = json!({"metadata": {}, "data": {"KEY": "c2stdGVzdA=="}, "type": "Opaque"});
    for (field, value) in value.as_object().unwrap() {
        match field.as_str() {
            "type" | "immutable" => secret[field] = value.clone(),
            _ => secret["metadata"][field] = value.clone(),
        }
    }
    if let Some(owner) = owner {
        secret["metadata"]["ownerReferences"] = json!([owner]);
    }
    serde_json::from_value(secret).unwrap()
}

/// An owner reference; owners need not exist, and the garbage collector takes its time.
fn owner(name: &str) -> Value {
    json!({"apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "name": name, "uid": "00000000-0000-0000-0000-000000000001",
           "controller": true, "blockOwnerDeletion": true})
}

fn changed(secret: &Secret, change: impl FnOnce(&mut Value)) -> Secret {
    let mut value = serde_json::to_value(secret).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Error>, part: &str) {
    match answer {
        Err(Error::Api(status)) => {
            assert!(
                status.code == 403 && status.message.contains(part),
                "{}: {}",
                status.code,
                status.message
            );
        }
        other => panic!("not refused: {other:?}"),
    }
}

const FOREIGN: &str = "may change and delete only Secrets whose controller is an LLMKey";
const OWN: &str = "may write only ledgers";
const METADATA: &str = "may not change an LLMKey's labels, annotations or owners";
const FINALIZERS: &str = "only its own finalizer";
const STATUS: &str = "may write only the status of policies and providers";
const UNOWNED: &str = "must have an LLMKey as its controller";

fn put() -> PostParams {
    PostParams::default()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

#[tokio::test]
async fn allows_the_life_of_a_target() {
    let leash = Leash::new("leash-life").await;
    let secrets = leash.secrets();
    let created =
        secrets.create(&dry_run(), &secret(json!({"name": "t", "owner": owner("k")}))).await.unwrap();
    assert_eq!(created.metadata.name.as_deref(), Some("t"));
    // Stored by a person: the garbage collector would take an owned one whose owner does not exist.
    let target = leash.foreign(json!({"name": "t", "annotations": {"llmkeys.dev/adopt-by": "k"}})).await;
    let adopted = changed(&target, |s| s["metadata"]["ownerReferences"] = json!([owner("k")]));
    secrets.replace("t", &dry_run(), &adopted).await.unwrap();

    let key = real_owner(&leash, "k").await;
    let owned = leash.foreign(json!({"name": "owned", "owner": key})).await;
    let next = changed(&owned, |s| s["data"]["KEY"] = json!("c2stbmV4dA=="));
    let stored = secrets.replace("owned", &put(), &next).await.unwrap();
    assert_eq!(stored.data.unwrap()["KEY"].0, b"sk-next");
    // Handed over to the next LLMKey of the same name.
    let successor = changed(&owned, |s| {
        s["metadata"]["ownerReferences"][0]["uid"] = json!("00000000-0000-0000-0000-000000000002");
        s["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    });
    secrets.replace("owned", &dry_run(), &successor).await.unwrap();
    secrets.delete("owned", &DeleteParams::default()).await.unwrap();
}

async fn real_owner(leash: &Leash, name: &str) -> Value {
    let key = create_key(leash, name).await;
    let mut reference = owner(name);
    reference["uid"] = json!(key.metadata.uid);
    reference
}

async fn create_key(leash: &Leash, name: &str) -> DynamicObject {
    let key = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
        "metadata": {"name": name, "labels": {"team": "a"}, "annotations": {"note": "mine"}, "finalizers": ["example.com/theirs"]},
        "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "supplied", "key": "api-key"}}},
    }))
    .unwrap();
    leash.resource(&leash.admin, "LLMKey").create(&put(), &key).await.unwrap()
}

#[tokio::test]
async fn refuses_to_touch_secrets_of_others() {
    let leash = Leash::new("leash-others").await;
    let secrets = leash.secrets();
    let foreign = leash.foreign(json!({"name": "foreign"})).await;
    let change = changed(&foreign, |s| s["data"]["KEY"] = json!("c2stbmV4dA=="));
    refused(secrets.replace("foreign", &put(), &change).await, FOREIGN);
    let taken = changed(&foreign, |s| s["metadata"]["ownerReferences"] = json!([owner("k")]));
    refused(secrets.replace("foreign", &put(), &taken).await, FOREIGN);
    // An invitation that the operator writes itself is none.
    let invited = changed(&taken, |s| s["metadata"]["annotations"] = json!({"llmkeys.dev/adopt-by": "k"}));
    refused(secrets.replace("foreign", &put(), &invited).await, FOREIGN);
    refused(secrets.delete("foreign", &DeleteParams::default()).await, FOREIGN);
    let everything = ListParams::default();
    refused(secrets.delete_collection(&DeleteParams::default(), &everything).await, FOREIGN);
}

#[tokio::test]
async fn refuses_to_answer_another_invitation() {
    let leash = Leash::new("leash-invitation").await;
    let target = leash.foreign(json!({"name": "t", "annotations": {"llmkeys.dev/adopt-by": "other"}})).await;
    let taken = changed(&target, |s| s["metadata"]["ownerReferences"] = json!([owner("k")]));
    refused(leash.secrets().replace("t", &put(), &taken).await, FOREIGN);
    refused(leash.secrets().delete("t", &DeleteParams::default()).await, FOREIGN);
}

#[tokio::test]
async fn refuses_secrets_without_an_owner_and_of_other_owners() {
    let leash = Leash::new("leash-unowned").await;
    let secrets = leash.secrets();
    refused(secrets.create(&put(), &secret(json!({"name": "t"}))).await, UNOWNED);
    for (field, value) in
        [("controller", json!(false)), ("apiVersion", json!("apps/v1")), ("kind", json!("LLMProvider"))]
    {
        let mut other = owner("k");
        other[field] = value;
        refused(secrets.create(&put(), &secret(json!({"name": "t", "owner": other}))).await, UNOWNED);
    }
    let owned = leash.foreign(json!({"name": "owned", "owner": real_owner(&leash, "k").await})).await;
    let released =
        changed(&owned, |s| drop(s["metadata"].as_object_mut().unwrap().remove("ownerReferences")));
    refused(secrets.replace("owned", &put(), &released).await, UNOWNED);
}

#[tokio::test]
async fn refuses_other_types_and_a_change_of_immutability() {
    let leash = Leash::new("leash-types").await;
    let secrets = leash.secrets();
    // The server would fill this one with a service account's token.
    let token =
        secret(json!({"name": "t", "owner": owner("k"), "type": "kubernetes.io/service-account-token",
                              "annotations": {"kubernetes.io/service-account.name": "default"}}));
    refused(secrets.create(&put(), &token).await, "only Secrets of type Opaque");
    let owned = leash.foreign(json!({"name": "owned", "owner": real_owner(&leash, "k").await})).await;
    let sealed = changed(&owned, |s| s["immutable"] = json!(true));
    refused(secrets.replace("owned", &put(), &sealed).await, "nor whether it is immutable");
    let retyped = changed(&owned, |s| s["type"] = json!("example.com/other"));
    let answer = secrets.replace("owned", &put(), &retyped).await;
    assert!(matches!(answer, Err(Error::Api(status)) if matches!(status.code, 403 | 422)));
}

#[tokio::test]
async fn in_its_namespace_only_ledgers_and_the_keyring_are_written() {
    let leash = Leash::new("leash-own").await;
    let own = leash.own();
    let ledger = secret(json!({"name": "llmkey-abc", "type": "llmkeys.dev/ledger"}));
    let stored = own.create(&put(), &ledger).await.unwrap();
    own.replace("llmkey-abc", &put(), &changed(&stored, |s| s["data"]["KEY"] = json!("eA=="))).await.unwrap();
    own.delete("llmkey-abc", &DeleteParams::default()).await.unwrap();
    for name in ["llmkey-keyring", "llmkey-install"] {
        let stored = own.create(&put(), &secret(json!({"name": name}))).await.unwrap();
        own.replace(name, &put(), &changed(&stored, |s| s["data"]["KEY"] = json!("eA=="))).await.unwrap();
        refused(own.delete(name, &DeleteParams::default()).await, "may not delete its keyring");
    }
    let home = &leash.installation.namespace;
    let label = json!({"llmkeys.dev/admin-credential": "true"});
    let credential = leash.exists(home, &secret(json!({"name": "openai-admin", "labels": label}))).await;
    refused(
        own.replace("openai-admin", &put(), &changed(&credential, |s| s["data"]["KEY"] = json!("eA==")))
            .await,
        OWN,
    );
    let bare = changed(&credential, |s| drop(s["metadata"].as_object_mut().unwrap().remove("labels")));
    refused(own.replace("openai-admin", &put(), &bare).await, OWN);
    refused(own.delete("openai-admin", &DeleteParams::default()).await, OWN);
    refused(own.create(&put(), &secret(json!({"name": "other"}))).await, OWN);
    refused(own.create(&put(), &secret(json!({"name": "t", "owner": owner("k")}))).await, OWN);
    let labelled = secret(json!({"name": "llmkey-x", "type": "llmkeys.dev/ledger", "labels": label}));
    refused(own.create(&put(), &labelled).await, "may not write admin credentials");
}

#[tokio::test]
async fn of_an_llm_key_only_status_and_its_finalizer_are_written() {
    let leash = Leash::new("leash-keys").await;
    create_key(&leash, "k").await;
    let keys = leash.resource(&leash.operator, "LLMKey");
    let merge = async |patch: Value| keys.patch("k", &PatchParams::default(), &Patch::Merge(patch)).await;
    let theirs = json!("example.com/theirs");
    merge(json!({"metadata": {"finalizers": [theirs, api::FINALIZER]}})).await.unwrap();
    merge(json!({"metadata": {"finalizers": [theirs]}})).await.unwrap();
    let status =
        json!({"apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "status": {"observedGeneration": 1}});
    let apply = PatchParams::apply(api::FIELD_MANAGER).force();
    keys.patch_status("k", &apply, &Patch::Apply(status)).await.unwrap();

    refused(merge(json!({"spec": {"model": "other"}})).await, "may not change an LLMKey's spec");
    refused(
        merge(json!({"spec": {"target": {"data": {"X": "$(KEY)"}}}})).await,
        "may not change an LLMKey's spec",
    );
    refused(merge(json!({"metadata": {"labels": {"team": "b"}}})).await, METADATA);
    refused(merge(json!({"metadata": {"labels": null}})).await, METADATA);
    refused(merge(json!({"metadata": {"annotations": {"llmkeys.dev/rotate": "now"}}})).await, METADATA);
    refused(merge(json!({"metadata": {"annotations": {"note": null}}})).await, METADATA);
    let references = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}]);
    refused(merge(json!({"metadata": {"ownerReferences": references}})).await, METADATA);
    refused(merge(json!({"metadata": {"finalizers": null}})).await, FINALIZERS);
    refused(merge(json!({"metadata": {"finalizers": [theirs, "example.com/more"]}})).await, FINALIZERS);
    refused(keys.delete("k", &DeleteParams::default()).await, "neither create nor delete");
    let mut copy = keys.get("k").await.unwrap();
    copy.metadata = kube::api::ObjectMeta { name: Some("copy".to_owned()), ..Default::default() };
    refused(keys.create(&put(), &copy).await, "neither create nor delete");
}

/// A workload of a person, on which the operator is tried.
async fn workload(leash: &Leash, kind: &str, spec: Value) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let mut whole = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}, "annotations": {"note": "mine"}},
                     "spec": {"containers": [{"name": "app", "image": "app"}]}},
    });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": kind, "spec": whole,
        "metadata": {"name": "web", "labels": {"team": "a"}, "annotations": {"note": "mine"}},
    }))
    .unwrap();
    let theirs: Api<DynamicObject> = Api::namespaced_with(leash.admin.clone(), &leash.tenant, &resource);
    theirs.create(&put(), &object).await.unwrap();
    Api::namespaced_with(leash.operator.clone(), &leash.tenant, &resource)
}

#[tokio::test]
async fn of_workloads_only_the_annotation_that_restarts_them_is_written() {
    const SPEC: &str = "only its template's annotation llmkeys.dev/restarted-for";
    const METADATA: &str = "may not change a workload's labels, annotations, owners or finalizers";
    const OTHERS: &str = "neither create nor delete workloads";
    let leash = Leash::new("leash-workloads").await;
    let stateful = json!({"replicas": 0, "serviceName": "web"});
    for (kind, spec) in [
        ("Deployment", json!({"replicas": 0})),
        ("StatefulSet", stateful),
        ("DaemonSet", json!({"updateStrategy": {"type": "OnDelete"}})),
    ] {
        let own = workload(&leash, kind, spec).await;
        let merge =
            async |patch: Value| own.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await;
        let template =
            |annotations: Value| json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let probe = Patch::Merge(json!({"spec": {"minReadySeconds": 7}}));
        let dry_run = PatchParams::default().dry_run();
        refused_in_time(async || own.patch("web", &dry_run, &probe).await, SPEC).await;
        // As the operator does it, and taken back.
        let applied = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
                             "spec": template(json!({"llmkeys.dev/restarted-for": "chat/2"}))["spec"]});
        let apply = PatchParams::apply(api::RESTART_FIELD_MANAGER).force();
        own.patch("web", &apply, &Patch::Apply(&applied)).await.unwrap();
        merge(template(json!({"llmkeys.dev/restarted-for": "chat/3"}))).await.unwrap();
        merge(template(json!({"llmkeys.dev/restarted-for": null}))).await.unwrap();

        refused(merge(template(json!({"note": "theirs"}))).await, SPEC);
        refused(merge(template(json!({"note": null}))).await, SPEC);
        refused(merge(template(json!({"llmkeys.dev/restarted-for": "chat/4", "other": "x"}))).await, SPEC);
        refused(merge(json!({"spec": {"template": {"metadata": {"labels": {"more": "x"}}}}})).await, SPEC);
        let containers = json!([{"name": "app", "image": "theirs"}]);
        refused(merge(json!({"spec": {"template": {"spec": {"containers": containers}}}})).await, SPEC);
        refused(merge(json!({"spec": {"template": {"spec": {"serviceAccountName": "other"}}}})).await, SPEC);
        refused(merge(json!({"spec": {"revisionHistoryLimit": 3}})).await, SPEC);
        refused(merge(json!({"metadata": {"labels": {"team": "b"}}})).await, METADATA);
        refused(merge(json!({"metadata": {"annotations": {"note": "theirs"}}})).await, METADATA);
        refused(merge(json!({"metadata": {"finalizers": ["example.com/x"]}})).await, METADATA);
        refused(own.delete("web", &DeleteParams::default()).await, OTHERS);
        let mut copy = own.get("web").await.unwrap();
        copy.metadata = kube::api::ObjectMeta { name: Some("copy".to_owned()), ..Default::default() };
        refused(own.create(&put(), &copy).await, OTHERS);
        if kind != "DaemonSet" {
            let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
            refused(own.patch_scale("web", &PatchParams::default(), &scale).await, OTHERS);
            refused(merge(json!({"spec": {"replicas": 3}})).await, SPEC);
        }
    }
}

/// A policy takes a moment to be in force.
async fn refused_in_time<T: std::fmt::Debug>(ask: impl AsyncFn() -> Result<T, Error>, part: &str) {
    wait("the policy on workloads refuses", async || ask().await.is_err().then_some(())).await;
    refused(ask().await, part);
}

#[tokio::test]
async fn of_policies_and_providers_only_the_status_is_written() {
    let leash = Leash::new("leash-status").await;
    let name = leash.tenant.clone();
    for (kind, spec) in [
        ("RotationPolicy", json!({})),
        ("ClusterRotationPolicy", json!({})),
        ("LLMProvider", json!({"type": "OpenAI", "allowedNamespaces": []})),
    ] {
        let manifest = json!({"apiVersion": "llmkeys.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let api = leash.resource(&leash.operator, kind);
        refused(api.create(&put(), &object).await, STATUS);
        leash.resource(&leash.admin, kind).create(&put(), &object).await.unwrap();
        let status = Patch::Merge(json!({"status": {"observedGeneration": 1}}));
        api.patch_status(&name, &PatchParams::default(), &status).await.unwrap();
        let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        refused(api.patch(&name, &PatchParams::default(), &label).await, STATUS);
        let spec = Patch::Merge(json!({"spec": {"allowedNamespaces": ["*"], "mode": "RemindOnly"}}));
        refused(api.patch(&name, &PatchParams::default(), &spec).await, STATUS);
        refused(api.delete(&name, &DeleteParams::default()).await, STATUS);
    }
}

/// The leash is on the operator, on nobody else.
#[tokio::test]
async fn others_are_not_held() {
    let leash = Leash::new("leash-free").await;
    let foreign = leash.foreign(json!({"name": "foreign"})).await;
    let secrets: Api<Secret> = Api::namespaced(leash.admin.clone(), &leash.tenant);
    secrets
        .replace("foreign", &put(), &changed(&foreign, |s| s["data"]["KEY"] = json!("eA==")))
        .await
        .unwrap();
    secrets.delete("foreign", &DeleteParams::default()).await.unwrap();
}
