//! What workloads do with a key, and what the provider heard of it all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use llmkey_operator::api::{LLMKey, VersionStatus, parse_rfc3339};
use llmkey_operator::sandbox::{LogEntry, Operation, Sandbox};
use reqwest::{Certificate, Client};
use tokio::task::JoinHandle;

use super::common::poll;
use super::stage::{Tenant, wait};

/// Time between two calls of a workload.
const PACE: Duration = Duration::from_millis(50);

/// Something that uses a key at the sandbox all the time. Ends when dropped.
pub(crate) struct Workload {
    task: JoinHandle<()>,
    answers: Arc<Mutex<Answers>>,
}

/// Where it has its key from.
enum Holder {
    Mount(Box<Api<Secret>>, String),
    Memory(String),
}

impl Holder {
    async fn key(&self) -> Option<String> {
        match self {
            Self::Memory(key) => Some(key.clone()),
            Self::Mount(secrets, secret) => {
                let found = secrets.get(secret).await.ok()?;
                String::from_utf8(found.data?.remove("OPENAI_API_KEY")?.0).ok()
            }
        }
    }
}

/// How its calls went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) accepted: u32,
    pub(crate) refused: Vec<String>,
}

impl Workload {
    /// Reads the Secret before each call, as a pod does that mounts it.
    pub(crate) fn of_secret(tenant: &Tenant, secret: &str) -> Self {
        Self::start(tenant.sandbox(), Holder::Mount(Box::new(tenant.secrets()), secret.to_owned()))
    }

    /// Holds one key for ever, as a process does that read it at its start.
    pub(crate) fn of_key(tenant: &Tenant, key: String) -> Self {
        Self::start(tenant.sandbox(), Holder::Memory(key))
    }

    fn start(sandbox: &Sandbox, holder: Holder) -> Self {
        let client = client(sandbox);
        let url = format!("{}/models", sandbox.base_url());
        let answers = Arc::new(Mutex::new(Answers::default()));
        let told = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            loop {
                if let Some(key) = holder.key().await {
                    let answer = client.get(&url).bearer_auth(&key).send().await;
                    let mut told = told.lock().unwrap();
                    match answer {
                        Ok(answer) if answer.status().is_success() => told.accepted += 1,
                        Ok(answer) => told.refused.push(answer.status().to_string()),
                        Err(error) => told.refused.push(error.to_string()),
                    }
                }
                tokio::time::sleep(PACE).await;
            }
        });
        Self { task, answers }
    }

    pub(crate) fn answers(&self) -> Answers {
        self.answers.lock().unwrap().clone()
    }

    /// Waits until it was accepted so many times more.
    pub(crate) async fn goes_on(&self, calls: u32) {
        let wanted = self.answers().accepted + calls;
        wait("the workload's calls", async || (self.answers().accepted >= wanted).then_some(())).await;
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An HTTP client that trusts the sandbox.
pub(crate) fn client(sandbox: &Sandbox) -> Client {
    let authority = Certificate::from_pem(sandbox.ca_pem().as_bytes()).unwrap();
    Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap()
}

impl Tenant {
    /// What the provider heard of an operation in this project, oldest first.
    pub(crate) fn calls(&self, operation: Operation) -> Vec<LogEntry> {
        let mut log = self.sandbox().log_of(&self.project);
        log.retain(|entry| entry.operation == operation);
        log
    }

    /// How many keys were asked for at the provider.
    pub(crate) fn mints(&self) -> usize {
        self.calls(Operation::CreateServiceAccount).len()
    }

    /// How many keys were asked to be revoked at the provider.
    pub(crate) fn revocations(&self) -> usize {
        self.calls(Operation::DeleteServiceAccount).len()
    }

    /// Waits until the provider was asked about a key of this project at `time` or later: the operator has
    /// looked since.
    pub(crate) async fn asked_after(&self, time: DateTime<Utc>) {
        let asked =
            async || self.calls(Operation::ListModels).iter().any(|entry| entry.time >= time).then_some(());
        let found = poll(asked).await;
        assert!(
            found.is_some(),
            "no check of a key after {time}; operator:\n{}",
            self.stage.last_words(&self.namespace)
        );
    }

    /// The spec changes in a way that asks for nothing; waits until the operator has dealt with it.
    pub(crate) async fn settled(&self, name: &str) -> LLMKey {
        let mut seconds = 3601;
        if let Some(grace) = self.get(name).await.spec.deletion_grace_period {
            seconds = Duration::from(grace).as_secs() + 1;
        }
        let grace = format!("{seconds}s");
        self.patch(name, serde_json::json!({"spec": {"deletionGracePeriod": grace}})).await;
        self.until(name, "the operator has seen the spec", |key| {
            key.status.as_ref().and_then(|s| s.observed_generation) == key.metadata.generation
        })
        .await
    }
}

/// A version as status shows it.
pub(crate) fn version(key: &LLMKey, number: i32) -> VersionStatus {
    let versions = &key.status.as_ref().unwrap().versions;
    versions.iter().find(|v| v.version == number).cloned().unwrap_or_else(|| panic!("no version {number}"))
}

/// A time of status.
pub(crate) fn time(text: Option<&String>) -> DateTime<Utc> {
    parse_rfc3339(text.unwrap()).unwrap()
}
