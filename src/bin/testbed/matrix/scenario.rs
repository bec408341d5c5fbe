//! The stories that are disturbed.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::sandbox::{OwnerAccess, Sandbox};
use llmkey_operator::testbed::apply;
use serde_json::{Value, json};

use super::Failure;
use super::cell::Cell;
use super::effect::Kind;
use super::probe::TARGET;

/// The admin credential's Secret of a cell, and its LLMProvider, have the namespace's name.
const POLICY: &str = "policy";
const SOURCE: &str = "chat-source";

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// S1.
    CreateMinted,
    /// S1, supplied.
    CreateSupplied,
    /// S2.
    Rotate,
    /// S4.
    RevokeNow,
    /// S5.
    DeleteKey,
    /// S6.
    DeleteNamespace,
    /// S8.
    LoseTarget,
}

impl Scenario {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::CreateMinted,
        Self::CreateSupplied,
        Self::Rotate,
        Self::RevokeNow,
        Self::DeleteKey,
        Self::DeleteNamespace,
        Self::LoseTarget,
    ];

    /// The first part of a cell's name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CreateMinted => "S1",
            Self::CreateSupplied => "S1s",
            Self::Rotate => "S2",
            Self::RevokeNow => "S4",
            Self::DeleteKey => "S5",
            Self::DeleteNamespace => "S6",
            Self::LoseTarget => "S8",
        }
    }

    /// What happens.
    pub const fn story(self) -> &'static str {
        match self {
            Self::CreateMinted => "an LLMKey whose key the operator makes is created",
            Self::CreateSupplied => "an LLMKey whose key a person supplies is created",
            Self::Rotate => "a made key is rotated by annotation; the overlap lasts 10m (2 s here)",
            Self::RevokeNow => "all keys of an LLMKey are revoked by `desiredState: Revoked`",
            Self::DeleteKey => "an LLMKey with a made key is deleted, without grace",
            Self::DeleteNamespace => "the namespace of an LLMKey with a made key is deleted, without grace",
            Self::LoseTarget => "a person deletes the target Secret of a made key",
        }
    }

    /// By its code.
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.code() == code)
    }

    /// Whether the story begins with a key that is ready.
    pub const fn begins_ready(self) -> bool {
        !matches!(self, Self::CreateMinted | Self::CreateSupplied)
    }

    /// Whether an effect belongs to the story in every run. While a namespace ends, Kubernetes may delete the target before
    /// the LLMKey: then it is written once more, which is refused.
    pub const fn counts(self, kind: Kind) -> bool {
        !matches!(
            (self, kind),
            (Self::DeleteNamespace, Kind::TargetCreate | Kind::TargetUpdate | Kind::Status)
        )
    }

    /// What lies there before the story begins. `provider` is the address that the operator calls, `authority` who signed
    /// its certificate.
    pub fn ground(
        self,
        cell: &Cell,
        sandbox: &Sandbox,
        operator_namespace: &str,
        provider: &str,
        authority: &str,
    ) -> Vec<Value> {
        let namespace = &cell.namespace;
        let mut ground = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": namespace, "namespace": operator_namespace,
                             "labels": {"llmkeys.dev/admin-credential": "true"}},
                "stringData": {"credential": sandbox.admin_key(), "host": provider},
            }),
            json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": namespace},
                "spec": {
                    "type": "OpenAI", "baseURL": format!("https://{provider}/v1"), "caBundle": authority,
                    "addresses": "AllowPrivate", "openAI": {"project": cell.project},
                    "adminCredentialRef": {"name": namespace}, "allowedNamespaces": [namespace],
                },
            }),
            json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
                "metadata": {"name": POLICY, "namespace": namespace},
                // Two seconds here: long enough that the overlap is always waited for.
                "spec": {"overlap": {"minimum": "10m", "evidence": {"quietFor": "0s"}}},
            }),
        ];
        if self == Self::CreateSupplied {
            let value = format!("sk-proj-{}T3BlbkFJsupplied", namespace.replace('-', ""));
            if sandbox.register_key(&value, &cell.project, "supplied", OwnerAccess::Active).is_none() {
                cell.violates("INVALID: the sandbox lost the project".to_owned());
            }
            ground.push(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SOURCE, "namespace": namespace},
                "stringData": {"key": value},
            }));
        }
        if self.begins_ready() {
            ground.push(self.key(cell));
        }
        ground
    }

    /// The LLMKey. Its slots for checks lie far apart, so that none falls into the story.
    fn key(self, cell: &Cell) -> Value {
        let source = match self {
            Self::CreateSupplied => json!({"secretRef": {"name": SOURCE, "key": "key"}}),
            _ => json!({"mint": {}}),
        };
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": TARGET, "namespace": cell.namespace},
            "spec": {
                "providerRef": {"name": cell.namespace}, "source": source,
                "rotationPolicyRef": {"name": POLICY}, "deletionGracePeriod": "0s",
                "validation": {"interval": "168h"},
            },
        })
    }

    /// The story begins.
    pub async fn begin(self, client: &Client, cell: &Cell) -> Result<(), Failure> {
        let keys: Api<LLMKey> = Api::namespaced(client.clone(), &cell.namespace);
        match self {
            Self::CreateMinted | Self::CreateSupplied => apply(client, &[self.key(cell)]).await?,
            Self::Rotate => {
                let patch = json!({"metadata": {"annotations": {"llmkeys.dev/rotate": "1"}}});
                keys.patch(TARGET, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Self::RevokeNow => {
                cell.watch(false);
                let patch = json!({"spec": {"desiredState": "Revoked"}});
                keys.patch(TARGET, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Self::LoseTarget => {
                // The workload finds it again when it is written.
                cell.watch(false);
                let secrets: Api<Secret> = Api::namespaced(client.clone(), &cell.namespace);
                secrets.delete(TARGET, &DeleteParams::default()).await?;
            }
            Self::DeleteKey => {
                cell.watch(false);
                keys.delete(TARGET, &DeleteParams::default()).await?;
            }
            Self::DeleteNamespace => {
                cell.watch(false);
                let namespaces: Api<Namespace> = Api::all(client.clone());
                namespaces.delete(&cell.namespace, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }

    /// Whether a state is the story's end, by what anybody can see. Only the undisturbed run is judged so; the others must
    /// come to the same state as it.
    pub fn ended(self, state: &Value) -> bool {
        let ready = state["key"]["conditions"]["Ready"].as_str().is_some_and(|r| r.starts_with("True"));
        let versions = &state["key"]["versions"];
        let begins = |index: usize, what: &str| {
            versions[index].as_str().is_some_and(|version| version.starts_with(what))
        };
        let gone = state["key"].is_null() && state["ledger"] == false && state["live"] == 0;
        match self {
            Self::CreateMinted | Self::CreateSupplied => {
                ready && state["live"] == 1 && !versions[0].is_null()
            }
            Self::Rotate => ready && begins(0, "2 Current") && begins(1, "1 Revoked") && state["live"] == 1,
            Self::RevokeNow => begins(0, "1 Revoked") && state["target"].is_null() && state["live"] == 0,
            Self::DeleteKey | Self::DeleteNamespace => gone,
            Self::LoseTarget => ready && state["delivered"] == true && state["live"] == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_ends_when_the_older_key_is_revoked() {
        let state = |first: &str| json!({"key": {"conditions": {"Ready": "True Published"}, "versions": ["2 Current", first]}, "live": 1});
        assert!(Scenario::Rotate.ended(&state("1 Revoked Minted")));
        assert!(!Scenario::Rotate.ended(&state("1 Retiring Minted")));
        assert!(!Scenario::DeleteKey.ended(&state("1 Revoked Minted")));
    }
}
