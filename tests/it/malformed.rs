//! Resources that do not have the CRD's form, as an older or a loosened CRD let them in: each is told, none stops the
//! others. On a control plane whose CRDs may be changed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::bad_input::secret;
use super::stage::{Tenant, traced, wait};

/// Lets any spec in.
async fn loosen(t: &Tenant, plural: &str) {
    let crds: Api<CustomResourceDefinition> = Api::all(t.client.clone());
    let name = format!("{plural}.llmkeys.dev");
    let mut crd = crds.get(&name).await.unwrap();
    let version = &mut crd.spec.versions[0];
    version.selectable_fields = None;
    let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
    schema.x_kubernetes_validations = None;
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let any = serde_json::from_value(any).unwrap();
    schema.properties.as_mut().unwrap().insert("spec".to_owned(), any);
    crds.replace(&name, &PostParams::default(), &crd).await.unwrap();
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("llmkeys.dev", "v1alpha1", kind), plural)
}

/// Waits until the resource is Stalled as Malformed, with nothing of its contents in the message.
async fn told(api: &Api<DynamicObject>, name: &str) {
    wait(&format!("{name} is told to be malformed"), async || {
        let found = api.get(name).await.unwrap();
        let conditions = found.data["status"]["conditions"].as_array()?.clone();
        let stalled = conditions.iter().find(|c| c["type"] == "Stalled")?;
        let message = stalled["message"].as_str()?;
        (stalled["status"] == "True"
            && stalled["reason"] == "Malformed"
            && message.contains("apply it again"))
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_stops_nobody() {
    let t = Tenant::on(traced().await, "malformed").await;
    t.minted("good", json!({})).await;
    t.minted("turned", json!({"deletionGracePeriod": "5m"})).await;
    t.ready("good").await;
    t.ready("turned").await;
    let delivered = secret(&t, "turned").await;
    for plural in ["llmkeys", "rotationpolicies", "llmproviders"] {
        loosen(&t, plural).await;
    }
    let key_type = resource("LLMKey", "llmkeys");
    let keys: Api<DynamicObject> = Api::namespaced_with(t.client.clone(), &t.namespace, &key_type);
    let bad = |name: &str, kind: &str, spec: Value| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap()
    };
    let created = async |api: &Api<DynamicObject>, object: DynamicObject| {
        wait("the loosened CRD is in force", async || {
            api.create(&PostParams::default(), &object).await.ok().map(drop)
        })
        .await;
    };
    created(&keys, bad("text", "LLMKey", json!({"providerRef": "x", "source": "sk-secret-by-mistake"})))
        .await;
    created(&keys, bad("empty", "LLMKey", json!({}))).await;
    told(&keys, "text").await;
    told(&keys, "empty").await;

    // One that was good, with a key and a finalizer: nothing of it is touched.
    let turn = json!({"spec": {"source": {"mint": "yes"}}});
    keys.patch("turned", &PatchParams::default(), &Patch::Merge(turn)).await.unwrap();
    told(&keys, "turned").await;
    assert_eq!(secret(&t, "turned").await, delivered);

    // What LLMKeys refer to can be malformed as well.
    let policy_type = resource("RotationPolicy", "rotationpolicies");
    let policies: Api<DynamicObject> = Api::namespaced_with(t.client.clone(), &t.namespace, &policy_type);
    created(&policies, bad("odd", "RotationPolicy", json!({"schedule": "monthly"}))).await;
    told(&policies, "odd").await;
    let providers: Api<DynamicObject> =
        Api::all_with(t.client.clone(), &resource("LLMProvider", "llmproviders"));
    let odd = format!("{}-odd", t.namespace);
    created(&providers, bad(&odd, "LLMProvider", json!({"type": "Nobody"}))).await;
    told(&providers, &odd).await;
    t.minted("by-policy", json!({"rotationPolicyRef": {"name": "odd"}})).await;
    t.minted("by-provider", json!({"providerRef": {"name": odd}})).await;
    for (name, word) in [("by-policy", "RotationPolicy/odd"), ("by-provider", odd.as_str())] {
        t.until(name, "Malformed", |key| {
            super::stage::find(key, "Stalled").is_some_and(|(s, r, m)| {
                s == "True" && r == "Malformed" && m.contains(word) && m.contains("apply it again")
            })
        })
        .await;
    }

    // Nobody else is held up, and each heals when it is applied again.
    t.minted("another", json!({})).await;
    t.ready("another").await;
    let mend = json!({"spec": {"schedule": null}});
    policies.patch("odd", &PatchParams::default(), &Patch::Merge(mend)).await.unwrap();
    t.ready("by-policy").await;
    t.llm_provider(&odd, json!({})).await;
    t.ready("by-provider").await;
    let mend = json!({"spec": {"providerRef": {"name": t.provider}, "source": {"mint": {}}}});
    keys.patch("text", &PatchParams::default(), &Patch::Merge(mend)).await.unwrap();
    t.ready("text").await;
    assert!(!t.operator().log().contains("sk-secret-by-mistake"));

    // Deletion does not wait for it to be readable, and its key is revoked all the same.
    let before = t.sandbox().live_keys(&t.project).len();
    keys.delete("turned", &DeleteParams::default()).await.unwrap();
    wait("the malformed LLMKey is gone", async || {
        keys.get_opt("turned").await.unwrap().is_none().then_some(())
    })
    .await;
    wait("its key is revoked", async || (t.sandbox().live_keys(&t.project).len() < before).then_some(()))
        .await;
}
