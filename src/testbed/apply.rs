//! Server-side apply of arbitrary manifests, in an order that works on an empty cluster.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::Error;

const FIELD_MANAGER: &str = "testbed";
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Applies manifests: CRDs first, until they are established, then namespaces, then the rest in the
/// given order. `List`s are unfolded; a namespaced object without a namespace goes to the client's own.
pub async fn apply(client: &Client, manifests: &[Value]) -> Result<(), Error> {
    let mut ordered = Vec::new();
    for manifest in manifests {
        match manifest["items"].as_array() {
            Some(items) if manifest["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                ordered.extend(items.iter());
            }
            _ => ordered.push(manifest),
        }
    }
    ordered.sort_by_key(|manifest| rank(manifest));

    let mut resources = HashMap::new();
    for manifest in ordered {
        let object: DynamicObject =
            serde_json::from_value(manifest.clone()).map_err(Error::format("a manifest"))?;
        let what = describe(&object);
        let kind = object.types.as_ref().map(GroupVersionKind::try_from);
        let Some(Ok(kind)) = kind else {
            return Err(Error::Format { what, problem: "no apiVersion and kind".to_owned() });
        };
        if !resources.contains_key(&kind) {
            resources.insert(kind.clone(), resolve(client, &kind).await?);
        }
        let Some((resource, scope)) = resources.get(&kind) else { continue };
        let api: Api<DynamicObject> = match (scope, &object.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), resource),
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), resource),
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&object.name_any(), &params, &Patch::Apply(manifest))
            .await
            .map_err(Error::kube(format!("apply {what}")))?;
        if is_crd(manifest) {
            established(client, &object.name_any()).await?;
        }
    }
    Ok(())
}

fn is_crd(manifest: &Value) -> bool {
    manifest["kind"] == "CustomResourceDefinition"
}

fn rank(manifest: &Value) -> u8 {
    match manifest["kind"].as_str() {
        Some("CustomResourceDefinition") => 0,
        Some("Namespace") => 1,
        _ => 2,
    }
}

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| &types.kind);
    format!("{kind} {}", object.name_any())
}

/// Asks the server which resource serves a kind. A CRD is served a moment after it is established.
async fn resolve(client: &Client, kind: &GroupVersionKind) -> Result<(ApiResource, Scope), Error> {
    let what = || format!("find {} {}", kind.api_version(), kind.kind);
    let search = async {
        loop {
            match discovery::pinned_kind(client, kind).await {
                Ok((resource, capabilities)) => return Ok((resource, capabilities.scope)),
                Err(error) if not_served(&error) => tokio::time::sleep(POLL).await,
                Err(error) => return Err(Error::kube(what())(error)),
            }
        }
    };
    tokio::time::timeout(SERVED_WITHIN, search).await.unwrap_or_else(|_| {
        Err(Error::Format { what: what(), problem: "the API server does not serve it".to_owned() })
    })
}

fn not_served(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}

async fn established(client: &Client, name: &str) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let what = || format!("wait for the CRD {name}");
    match tokio::time::timeout(SERVED_WITHIN, await_condition(api, name, is_crd_established())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::format(what())(error)),
        Err(_) => Err(Error::Format { what: what(), problem: "not established".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_come_before_namespaces_before_the_rest() {
        let mut manifests =
            ["Secret", "Namespace", "CustomResourceDefinition", "LLMKey"].map(|kind| json!({ "kind": kind }));
        manifests.sort_by_key(rank);
        let kinds: Vec<&str> = manifests.iter().filter_map(|manifest| manifest["kind"].as_str()).collect();
        assert_eq!(kinds, ["CustomResourceDefinition", "Namespace", "Secret", "LLMKey"]);
    }
}
