//! The quickstart example, with the sandbox in place of OpenAI.

use std::fs;

use llmkey_operator::sandbox::Sandbox;
use llmkey_operator::testbed::{source_dir, tools};
use serde_json::{Value, json};

use super::DemoError;

/// The example that the demo applies.
pub const FILE: &str = "examples/01-quickstart.yaml";
/// Name of its LLMKey.
pub const KEY: &str = "chat";

/// The example's objects for one tenant's namespace, which comes first. What a user would write is changed in three
/// places: the account, which is the sandbox's; the namespaces; and the overlap, which would be a day, and a minute at least
/// where workloads are looked at.
pub fn manifests(sandbox: &Sandbox, tenant: &str, operator: &str) -> Result<Vec<Value>, DemoError> {
    let path = source_dir().join(FILE);
    let unusable = |problem: String| DemoError::NotStarted(format!("{}: {problem}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
    let mut objects = tools::manifests(&text).map_err(|error| unusable(error.to_string()))?;
    for object in &mut objects {
        match object["kind"].as_str() {
            Some("Secret") => {
                object["metadata"]["namespace"] = json!(operator);
                object["stringData"] =
                    json!({"credential": sandbox.admin_key(), "host": sandbox.addr().to_string()});
            }
            Some("LLMProvider") => {
                object["spec"]["baseURL"] = json!(sandbox.base_url());
                object["spec"]["caBundle"] = json!(sandbox.ca_pem());
                object["spec"]["addresses"] = json!("AllowPrivate");
                object["spec"]["openAI"]["project"] = json!(sandbox.project_id());
                object["spec"]["allowedNamespaces"] = json!([tenant]);
            }
            Some("RotationPolicy") => {
                object["metadata"]["namespace"] = json!(tenant);
                object["spec"]["overlap"] = json!({
                    "minimum": "0s", "evidence": {"consumers": "Ignored", "quietFor": "0s"},
                });
            }
            _ => object["metadata"]["namespace"] = json!(tenant),
        }
    }
    objects.insert(0, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": tenant}}));
    Ok(objects)
}
