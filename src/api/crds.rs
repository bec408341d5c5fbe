//! The CRDs as they are installed: what the derive makes, tidied.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{ClusterRotationPolicy, LLMKey, LLMProvider, RotationPolicy};

/// One CRD. Explicit nulls are pruned by the server, and a resource that no controller has seen yet
/// reads `observedGeneration: -1`, so that GitOps tools wait for it.
pub fn crd<K: CustomResourceExt>() -> Value {
    let mut crd = serde_json::to_value(K::crd()).unwrap_or_default();
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    if let Some(root) = schema.as_object_mut() {
        root.remove("title");
    }
    bound_conditions(&mut schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"]);
    schema["properties"]["status"]["default"] = json!({"observedGeneration": -1});
    crd
}

/// All CRDs, in the order of their names.
pub fn all() -> Vec<Value> {
    vec![crd::<ClusterRotationPolicy>(), crd::<LLMKey>(), crd::<LLMProvider>(), crd::<RotationPolicy>()]
}

/// The bounds that Kubernetes documents for its `Condition`; the Rust type carries none.
fn bound_conditions(condition: &mut Value) {
    for (field, bounds) in [
        ("message", json!({"maxLength": 32_768})),
        ("observedGeneration", json!({"minimum": 0})),
        (
            "reason",
            json!({"minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}),
        ),
        ("status", json!({"enum": ["True", "False", "Unknown"]})),
        ("type", json!({"maxLength": 316})),
    ] {
        if let (Some(schema), Value::Object(bounds)) = (condition[field].as_object_mut(), bounds) {
            schema.extend(bounds);
        }
    }
}

fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|v| !v.is_null());
            }
            for bound in ["minimum", "maximum"] {
                if let Some(number) = map.get(bound).and_then(Value::as_f64)
                    && number.fract() == 0.0
                    && let Ok(whole) = format!("{number:.0}").parse::<i64>()
                {
                    map.insert(bound.to_owned(), json!(whole));
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
