//! The workload of each cell: it reads the target Secret again and again and uses the key that it finds there.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use llmkey_operator::sandbox::Sandbox;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cell::Cell;

/// The target Secret, by the LLMKey's name.
pub const TARGET: &str = "chat";
/// The variable that OpenAI's SDKs read.
pub const ENTRY: &str = "OPENAI_API_KEY";
/// What a person writes over it.
const BY_HAND: &str = "overwritten-by-hand";

/// The sandbox's name for a key.
pub fn fingerprint(key: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(key)).chars().take(12).collect()
}

/// Reads targets and asks the provider.
pub struct Prober {
    admin: Client,
    sandbox: Arc<Sandbox>,
}

/// What a workload finds.
struct Found {
    resource_version: Option<String>,
    key: Option<String>,
}

impl Prober {
    /// Workloads that read as an administrator.
    pub fn new(admin: Client, sandbox: Arc<Sandbox>) -> Self {
        Self { admin, sandbox }
    }

    /// An administrator, past the proxy.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    fn secrets(&self, cell: &Cell) -> Api<Secret> {
        Api::namespaced(self.admin.clone(), &cell.namespace)
    }

    async fn read(&self, cell: &Cell) -> Option<Found> {
        let secret = self.secrets(cell).get_opt(TARGET).await.ok()?;
        let Some(secret) = secret else { return Some(Found { resource_version: None, key: None }) };
        let key = secret.data.unwrap_or_default().remove(ENTRY);
        let key = key.and_then(|bytes| String::from_utf8(bytes.0).ok());
        Some(Found { resource_version: secret.metadata.resource_version, key })
    }

    /// One use of the key in the target Secret. A refusal counts if the Secret is the same before and after it; a Secret
    /// that a person took away or changed says nothing.
    pub async fn probe(&self, cell: &Cell) {
        if !cell.watched() {
            return;
        }
        let Some(found) = self.read(cell).await else { return };
        match &found.key {
            Some(key) if key == BY_HAND => return,
            Some(key) if self.sandbox.accepts(key) => return,
            None if cell.by_hand() => return,
            _ => {}
        }
        let again = self.read(cell).await;
        let same = again.is_some_and(|again| again.resource_version == found.resource_version);
        // It may have been told to stop meanwhile: the LLMKey is being deleted.
        if same && cell.watched() {
            let what = if found.key.is_some() { "refused by the provider" } else { "not there" };
            cell.violates(format!("I1: the key in the target Secret is {what}"));
        }
    }

    /// A person overwrites the key.
    pub async fn overwrite(&self, cell: &Cell) {
        let patch = Patch::Merge(json!({"stringData": {ENTRY: BY_HAND}}));
        let written = self.secrets(cell).patch(TARGET, &PatchParams::default(), &patch).await;
        if let Err(error) = written {
            cell.violates(format!("INVALID: the target could not be overwritten: {error}"));
        }
    }

    /// A person deletes the target Secret.
    pub async fn delete(&self, cell: &Cell) {
        if let Err(error) = self.secrets(cell).delete(TARGET, &DeleteParams::default()).await {
            cell.violates(format!("INVALID: the target could not be deleted: {error}"));
        }
    }
}
