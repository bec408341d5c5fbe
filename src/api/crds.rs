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
    schema["properties"]["status"]["default"] = json!({"observedGeneration": -1});
    crd
}

/// All CRDs, in the order of their names.
pub fn all() -> Vec<Value> {
    vec![crd::<ClusterRotationPolicy>(), crd::<LLMKey>(), crd::<LLMProvider>(), crd::<RotationPolicy>()]
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
