//! The CRDs as they are shipped: generated from the types, bounded, described, and harmless to GitOps tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use llmkey_operator::api;
use llmkey_operator::testbed;
use serde_json::{Value, json};

use super::common::wait;

const STALE: &str = "run `make crds`";

fn path(crd: &Value) -> PathBuf {
    let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
    testbed::source_dir().join("crds").join(format!("{plural}.yaml"))
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Calls `visit` with the path and the schema of every field below `schema`.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}{{}}"), &schema["additionalProperties"], visit);
    }
}

fn every_field(mut visit: impl FnMut(&str, &Value)) {
    for crd in api::crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(&kind, schema(&crd), &mut visit);
    }
}

#[test]
fn the_files_are_those_of_the_types() {
    let mut expected = BTreeSet::new();
    for crd in api::crds() {
        let path = path(&crd);
        let file =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; {STALE}", path.display()));
        assert_eq!(file, serde_saphyr::to_string(&crd).unwrap(), "{} is stale; {STALE}", path.display());
        expected.insert(path);
    }
    let found: BTreeSet<PathBuf> = fs::read_dir(testbed::source_dir().join("crds"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_page_of_all_fields_is_that_of_the_types() {
    let page = fs::read_to_string(testbed::source_dir().join("docs/reference.md")).unwrap();
    assert!(page == api::reference(), "docs/reference.md is stale; {STALE}");
    every_field(|path, _| {
        let field = path.split_once('.').map(|(_, field)| field).filter(|field| field.contains('.'));
        let item = path.ends_with("[]") || path.ends_with("{}");
        assert!(item || field.is_none_or(|field| page.contains(&format!("\n| `{field}` | "))), "{path}");
    });
}

#[test]
fn every_string_list_and_map_is_bounded() {
    every_field(|path, field| {
        let bounded = match field["type"].as_str() {
            Some("string") => {
                field["maxLength"].is_u64() || field["enum"].is_array() || field["format"] == "date-time"
            }
            Some("array") => field["maxItems"].is_u64(),
            // These two have no fields.
            Some("object")
                if field.get("properties").is_none()
                    && !["mint", "slots"].contains(&path.rsplit('.').next().unwrap_or_default()) =>
            {
                field["maxProperties"].is_u64()
            }
            _ => true,
        };
        assert!(bounded, "{path} has no bound: {field}");
    });
}

#[test]
fn every_field_is_described() {
    every_field(|path, field| {
        let item = path.ends_with("[]") || path.ends_with("{}");
        assert!(
            item || field["description"].as_str().is_some_and(|text| text.len() > 5),
            "{path} has no description"
        );
    });
}

#[test]
fn types_are_those_that_every_client_can_read() {
    every_field(|path, field| {
        assert!(field.get("nullable").is_none(), "{path}: an explicit null would stay in storage");
        assert_ne!(field["type"], "number", "{path}: no floats");
        let format = field["format"].as_str().unwrap_or_default();
        assert!(!format.starts_with("uint"), "{path}: the server enforces no bounds for {format}");
        for bound in ["minimum", "maximum"] {
            assert!(field.get(bound).is_none_or(Value::is_i64), "{path}: {bound} is no integer");
        }
        let values = field["enum"].as_array();
        assert!(values.is_none_or(|values| values.iter().all(Value::is_string)), "{path}: an enum with null");
    });
}

#[test]
fn lists_of_objects_merge_by_key() {
    every_field(|path, field| {
        let objects = field["type"] == "array" && field["items"]["type"] == "object";
        let history = path.ends_with(".history");
        assert!(
            !objects || history || field["x-kubernetes-list-type"] == "map",
            "{path} is replaced as a whole"
        );
    });
}

#[test]
fn an_unseen_resource_does_not_look_finished() {
    for crd in api::crds() {
        assert_eq!(schema(&crd)["properties"]["status"]["default"], json!({"observedGeneration": -1}));
    }
}

#[test]
fn every_duration_says_its_bounds() {
    every_field(|path, field| {
        if field["pattern"].as_str().is_some_and(|pattern| pattern.contains("(ms|s|m|h)"))
            && !path.ends_with("[]")
        {
            assert!(field["x-kubernetes-validations"].is_array(), "{path} takes any duration");
            let text = field["description"].as_str().unwrap();
            assert!(
                text.contains(" to ") && text.contains('h'),
                "{path}: the description names no bounds: {text}"
            );
        }
    });
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(api::GROUP, api::VERSION, kind))
}

#[tokio::test]
async fn a_minimal_key_gets_its_defaults_and_another_apply_changes_nothing() {
    let cluster = testbed::shared().await.unwrap();
    let client = cluster.admin().unwrap();
    testbed::apply(&client, &api::crds()).await.unwrap();
    let namespace = cluster.namespace("defaults").await.unwrap();
    let keys: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource("LLMKey"));

    let manifest = json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "openai"},
        "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "supplied", "key": "api-key"}},
                 "rotationPolicyRef": {"name": "monthly"}},
    });
    let params = PatchParams::apply("gitops");
    let first = keys.patch("openai", &params, &Patch::Apply(&manifest)).await.unwrap();
    assert_eq!(
        first.data["spec"],
        json!({
            "provider": "OpenAI",
            "source": {"secretRef": {"name": "supplied", "key": "api-key"}},
            "rotationPolicyRef": {"kind": "RotationPolicy", "name": "monthly"},
            "target": {},
            "validation": {"mode": "Required"},
            "desiredState": "Active",
        })
    );
    assert_eq!(first.data["status"], json!({"observedGeneration": -1}));

    // The server stores a default of the status with the first write after the creation, whoever makes it.
    // An operator of another test may write a status in between, until it is at rest.
    let apply = async || keys.patch("openai", &params, &Patch::Apply(&manifest)).await.unwrap();
    let last = wait("another apply changes nothing", async || {
        let (second, third) = (apply().await, apply().await);
        (second.metadata.resource_version == third.metadata.resource_version).then_some(third)
    })
    .await;
    assert_eq!((&last.data["spec"], last.metadata.generation), (&first.data["spec"], Some(1)));
}

#[tokio::test]
async fn explicit_nulls_are_not_stored() {
    let cluster = testbed::shared().await.unwrap();
    let client = cluster.admin().unwrap();
    testbed::apply(&client, &api::crds()).await.unwrap();
    let namespace = cluster.namespace("nulls").await.unwrap();
    let keys: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource("LLMKey"));
    let key = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "openai"},
        "spec": {"provider": "OpenAI", "providerRef": null, "target": null, "model": null,
                 "source": {"secretRef": {"name": "supplied", "key": "api-key"}, "mint": null}},
    }))
    .unwrap();
    let stored = keys.create(&PostParams::default(), &key).await.unwrap();
    assert_eq!(stored.data["spec"]["source"], json!({"secretRef": {"name": "supplied", "key": "api-key"}}));
    assert_eq!(stored.data["spec"]["target"], json!({}));
    assert!(stored.data["spec"].get("providerRef").is_none() && stored.data["spec"].get("model").is_none());
}
