//! What anybody can see of all cells at one time, in a form in which two runs can be compared.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use llmkey_operator::api::{LLMKey, LLMProvider};
use llmkey_operator::controller::install::KEYRING_SECRET;
use llmkey_operator::crypto::PRIMARY_ENTRY;
use llmkey_operator::ledger::unverified;
use llmkey_operator::sandbox::{KeyRecord, KeyState, Sandbox};
use serde_json::{Map, Value, json};

use super::Failure;
use super::cell::Cell;
use super::probe::{ENTRY, TARGET, fingerprint};

/// Everything at one time.
pub struct World {
    keys: HashMap<String, Value>,
    targets: HashMap<String, Secret>,
    ledgers: HashMap<String, Value>,
    frozen: HashMap<String, String>,
}

impl World {
    /// Reads it.
    pub async fn read(admin: &Client, operator_namespace: &str) -> Result<Self, Failure> {
        let all = ListParams::default();
        let keys = Api::<LLMKey>::all(admin.clone()).list(&all).await?.items;
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=llmkey-operator");
        let secrets = Api::<Secret>::all(admin.clone()).list(&ours).await?.items;
        let providers = Api::<LLMProvider>::all(admin.clone()).list(&all).await?.items;
        let mut world = Self {
            keys: HashMap::new(),
            targets: HashMap::new(),
            ledgers: HashMap::new(),
            frozen: HashMap::new(),
        };
        for provider in providers {
            let name = provider.name_any();
            let frozen = provider.status.and_then(|status| status.frozen);
            world.frozen.extend(frozen.map(|frozen| (name, frozen.reason)));
        }
        for key in keys {
            world.keys.insert(key.namespace().unwrap_or_default(), serde_json::to_value(&key)?);
        }
        let keyring = secrets.iter().find(|secret| secret.name_any() == KEYRING_SECRET);
        let newest = keyring.and_then(|secret| secret.data.as_ref()?.get(PRIMARY_ENTRY));
        let newest = newest.map(|id| String::from_utf8_lossy(&id.0).into_owned()).unwrap_or_default();
        for secret in secrets {
            let namespace = secret.namespace().unwrap_or_default();
            if namespace == operator_namespace {
                world.ledgers.extend(ledger(&secret, &newest).map(|told| (secret.name_any(), told)));
            } else if secret.name_any() == TARGET {
                world.targets.insert(namespace, secret);
            }
        }
        Ok(world)
    }

    /// What is to be compared of one cell: no names, times or values, but whether the delivered key is the one that lives.
    pub fn of(&self, cell: &Cell, sandbox: &Sandbox) -> Value {
        let mut state = self.alone(cell, sandbox);
        if !cell.others.is_empty() {
            state["others"] = cell.others.iter().map(|other| self.alone(other, sandbox)).collect();
        }
        state
    }

    fn alone(&self, cell: &Cell, sandbox: &Sandbox) -> Value {
        let live: Vec<KeyRecord> =
            cell.projects.iter().flat_map(|project| sandbox.live_keys(project)).collect();
        // The target of a deleted LLMKey is Kubernetes' garbage collector's.
        let target = self.targets.get(&cell.namespace).filter(|_| self.keys.contains_key(&cell.namespace));
        let delivered = target.and_then(|secret| secret.data.as_ref()?.get(ENTRY));
        let delivered = delivered.map(|key| fingerprint(&key.0));
        json!({
            "key": self.keys.get(&cell.namespace).map(key),
            "target": target.map(|secret| json!({
                "entries": secret.data.as_ref().map(|data| data.keys().collect::<Vec<_>>()),
                "labels": secret.metadata.labels,
                "owned": secret.owner_references().len(),
            })),
            "delivered": live.iter().any(|key| Some(&key.fingerprint) == delivered.as_ref()),
            "ledger": self.ledgers.get(&cell.ledger),
            "live": live.len(),
            "frozen": self.frozen.get(&cell.namespace),
        })
    }

    /// Keys at the provider that no version in status points to: nobody would ever revoke them.
    pub fn lost(&self, cell: &Cell, sandbox: &Sandbox) -> Vec<String> {
        let others = cell.others.iter().flat_map(|other| self.lost_alone(other, sandbox));
        self.lost_alone(cell, sandbox).into_iter().chain(others).collect()
    }

    fn lost_alone(&self, cell: &Cell, sandbox: &Sandbox) -> Vec<String> {
        let versions = self.keys.get(&cell.namespace).map(|key| key["status"]["versions"].to_string());
        let known = |id: &str| versions.as_ref().is_some_and(|text| text.contains(id));
        let keys = cell.projects.iter().flat_map(|project| sandbox.keys(project));
        let alone = cell.name.scenario.at_litellm();
        let made = |key: &KeyRecord| alone || key.service_account_id.is_some();
        let minted = keys.filter(|key| key.state != KeyState::Deleted && made(key));
        minted.filter(|key| !known(&key.id)).map(|key| key.service_account_name.unwrap_or(key.id)).collect()
    }
}

/// A ledger's format, and whether it needs no key-encryption key but the newest; none if it is none.
fn ledger(secret: &Secret, newest: &str) -> Option<Value> {
    let record = unverified(secret)?;
    let mac: Value = serde_json::from_slice(&secret.data.as_ref()?.get("mac")?.0).ok()?;
    let sealed = record.versions.iter().filter_map(|version| version.sealed.as_ref());
    let newest = mac["kek"] == newest && sealed.map(|envelope| &envelope.kek).all(|kek| kek == newest);
    Some(json!({"format": record.format, "newest": newest}))
}

fn key(key: &Value) -> Value {
    let status = &key["status"];
    let conditions: Map<String, Value> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            (text("type"), Value::String(format!("{} {}", text("status"), text("reason"))))
        })
        .collect();
    let versions: Vec<String> = status["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| {
            let fields = ["version", "state", "origin", "reason", "revocationBasis"];
            let told = fields.iter().map(|field| &version[*field]).filter(|value| !value.is_null());
            let told: Vec<String> =
                told.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
            told.join(" ")
        })
        .collect();
    let consumers: Vec<String> = status["consumers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|consumer| {
            let fields = ["kind", "name", "state", "reason"].map(|field| consumer[field].as_str());
            fields.map(Option::unwrap_or_default).join(" ")
        })
        .collect();
    json!({
        "finalizers": key["metadata"]["finalizers"],
        "deleting": key["metadata"]["deletionTimestamp"].is_string(),
        "conditions": conditions,
        "versions": versions,
        "currentVersion": status["currentVersion"],
        "health": status["health"]["state"],
        "lastHandledRotate": status["lastHandledRotate"],
        "consumers": consumers,
        "seen": status["observedGeneration"] == key["metadata"]["generation"],
    })
}

/// Where two states differ, for a person.
pub fn difference(wanted: &Value, found: &Value) -> String {
    let mut told = Vec::new();
    differences("", wanted, found, &mut told);
    told.join("; ")
}

fn differences(path: &str, wanted: &Value, found: &Value, told: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (name, value) in wanted {
                differences(&format!("{path}.{name}"), value, found.get(name).unwrap_or(&Value::Null), told);
            }
            for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
                told.push(format!("{path}.{name} is there"));
            }
        }
        _ if wanted == found => {}
        _ => told.push(format!("{path} is {found} instead of {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_place() {
        let wanted = json!({"key": {"live": 1, "health": "Valid"}, "ledger": true});
        let found = json!({"key": {"live": 2, "health": "Valid", "more": 1}, "ledger": true});
        assert_eq!(difference(&wanted, &found), ".key.live is 2 instead of 1; .key.more is there");
        assert_eq!(difference(&wanted, &wanted), "");
    }

    #[test]
    fn what_differs_in_every_run_is_left_out() {
        let key = |time: &str, id: &str| {
            super::key(&json!({"metadata": {"generation": 1}, "status": {
                "observedGeneration": 1, "currentVersion": 1,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Published", "lastTransitionTime": time}],
                "versions": [{"version": 1, "state": "Current", "origin": "Minted", "providerKeyID": id}],
            }}))
        };
        assert_eq!(key("2026-01-01T00:00:00Z", "a"), key("2026-01-02T00:00:00Z", "b"));
        assert_eq!(key("", "")["versions"], json!(["1 Current Minted"]));
    }
}
