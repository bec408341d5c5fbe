//! The floor: the smallest controller that makes the operator's Kubernetes calls, and nothing else.
//!
//! From a watch on LLMKeys, for each new one: GET the source Secret, POST a Secret of a ledger's type, labels and
//! size, POST the target Secret with its owner reference, PATCH a status of the same size by server-side apply. It
//! has no cache, no queue, no retry, no cryptography and no memory of what it did.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config, Resource, ResourceExt};
use llmkey_operator::api::{
    ConditionStatus, ConditionType, Conditions, FIELD_MANAGER, KEY_FINGERPRINT_LABEL_PREFIX, KEY_LABEL,
    LLMKey, MANAGED_BY, MANAGED_BY_LABEL, Reason,
};
use llmkey_operator::crypto::{Keyring, SystemEntropy};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::ledger::{self, Record};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Failure;
use super::load::{SOURCE_ENTRY, source_name};

/// What the child process of the benchmark is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Credentials: those of the operator.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where ledgers go.
    #[arg(long)]
    operator_namespace: String,
    /// Keys at the same time.
    #[arg(long)]
    concurrency: usize,
    /// A file that appears once the watch is current.
    #[arg(long)]
    ready_file: PathBuf,
    /// Base URL of a provider that is asked about each key before it is published.
    #[arg(long, requires = "ca_file")]
    ask: Option<String>,
    /// The provider's certificate authority.
    #[arg(long)]
    ca_file: Option<PathBuf>,
}

/// The objects that all keys share, made once.
struct Floor {
    client: Client,
    secrets: Api<Secret>,
    ledger: Secret,
    status: Value,
    provider: Option<(reqwest::Client, String)>,
}

/// Runs until it is killed.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(&arguments.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    let client = Client::try_from(config)?;
    let provider = match (arguments.ask, arguments.ca_file) {
        (Some(url), Some(path)) => Some((provider_client(&std::fs::read(path)?)?, format!("{url}/models"))),
        _ => None,
    };
    let floor = Arc::new(Floor {
        secrets: Api::namespaced(client.clone(), &arguments.operator_namespace),
        ledger: ledger_template(&arguments.operator_namespace)?,
        status: status_template(),
        client,
        provider,
    });
    let slots = Arc::new(Semaphore::new(arguments.concurrency));
    let keys: Api<LLMKey> = Api::all(floor.client.clone());
    let mut events = std::pin::pin!(watcher(keys, watcher::Config::default().streaming_lists()));
    while let Some(event) = events.next().await {
        match event? {
            Event::InitDone => std::fs::write(&arguments.ready_file, "")?,
            Event::Apply(key) | Event::InitApply(key) => {
                if key.status.as_ref().is_some_and(|status| status.current_version.is_some()) {
                    continue;
                }
                let slot = Arc::clone(&slots).acquire_owned().await?;
                let floor = Arc::clone(&floor);
                tokio::spawn(async move {
                    if let Err(error) = floor.deliver(&key).await {
                        tracing::error!(%error, name = key.name_any(), "the floor failed");
                    }
                    drop(slot);
                });
            }
            _ => {}
        }
    }
    Ok(())
}

impl Floor {
    async fn deliver(&self, key: &LLMKey) -> Result<(), Failure> {
        let name = key.name_any();
        let namespace = key.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let source = secrets.get(&source_name(&name)).await?;
        let value =
            source.data.as_ref().and_then(|data| data.get(SOURCE_ENTRY)).ok_or("the source has no key")?;
        self.ask(value).await?;
        let mut ledger = self.ledger.clone();
        ledger.metadata.name = Some(ledger_name(&namespace, &name));
        // As long as a fingerprint's label, and distinct.
        ledger.labels_mut().insert(format!("{KEY_FINGERPRINT_LABEL_PREFIX}{name:0>40}"), String::new());
        let ledger = self.secrets.create(&PostParams::default(), &ledger).await?;
        let target = secrets.create(&PostParams::default(), &target(key, &name, value.clone())).await?;
        let mut status = self.status.clone();
        status["secretName"] = json!(name);
        status["observed"] = json!({
            "ledger": ledger.resource_version(),
            "source": source.resource_version(),
            "target": target.resource_version(),
        });
        let patch = json!({
            "apiVersion": LLMKey::api_version(&()),
            "kind": LLMKey::kind(&()),
            "metadata": {"resourceVersion": key.resource_version()},
            "status": status,
        });
        let keys: Api<PartialObjectMeta<LLMKey>> = Api::namespaced(self.client.clone(), &namespace);
        keys.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await?;
        Ok(())
    }

    async fn ask(&self, value: &ByteString) -> Result<(), Failure> {
        let Some((client, url)) = &self.provider else { return Ok(()) };
        let reply = client.get(url).bearer_auth(std::str::from_utf8(&value.0)?).send().await?;
        let accepted = reply.status().is_success();
        reply.bytes().await?;
        if accepted { Ok(()) } else { Err("the provider refuses a key".into()) }
    }
}

fn provider_client(authority: &[u8]) -> Result<reqwest::Client, Failure> {
    let authorities = reqwest::Certificate::from_pem_bundle(authority)?;
    Ok(reqwest::Client::builder().no_proxy().tls_certs_merge(authorities).build()?)
}

fn target(key: &LLMKey, name: &str, value: ByteString) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
                (KEY_LABEL.to_owned(), name.to_owned()),
            ])),
            owner_references: key.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([
            ("OPENAI_API_KEY".to_owned(), value),
            ("OPENAI_BASE_URL".to_owned(), ByteString(b"https://127.0.0.1:40000/v1".to_vec())),
        ])),
        ..Secret::default()
    }
}

/// A real ledger of one published version; only its name and label differ from key to key.
fn ledger_template(namespace: &str) -> Result<Secret, Failure> {
    let uid = "0b54a5a1-6d2a-4d3e-9c0a-0a1b2c3d4e5f";
    let record: Record = serde_json::from_value(json!({
        "format": ledger::FORMAT, "install": uid, "namespace": "bench-0000000000", "name": "key-00000", "lineage": uid,
        "owner": uid, "epoch": 1, "writer": "0123456789abcdef",
        "versions": [{
            "version": 1, "state": "Publishing", "origin": "Supplied", "reason": "Initial",
            "key": {"fingerprint": "0".repeat(64), "shown": "0".repeat(12), "lastFour": "xxxx"},
            "sealed": {
                "kek": "k2u5xq7a",
                "info": "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
                "nonce": "QEFCQ0RFRkdISUpL",
                // Base64 of a key of 164 characters and the tag of 16 bytes.
                "ciphertext": "A".repeat(240),
            },
            "createdAt": "2026-01-01T00:00:00Z",
        }],
    }))?;
    let keyring = Keyring::from_secret_data(&Keyring::generate(&mut SystemEntropy)?)?;
    let mut secret = ledger::encode(&record, namespace, &keyring)?;
    secret.labels_mut().retain(|label, _| !label.starts_with(KEY_FINGERPRINT_LABEL_PREFIX));
    Ok(secret)
}

/// The status of a key that was just published and found valid.
fn status_template() -> Value {
    use ConditionStatus::{False, True, Unknown};
    let now = Clock::start().now();
    let mut conditions = Conditions::new(&[], 1, now);
    let time = llmkey_operator::api::rfc3339(now);
    for (kind, status, reason, message) in [
        (
            ConditionType::Ready,
            True,
            Reason::KeyValid,
            "Secret key-00000 has a key that the provider accepts",
        ),
        (ConditionType::Reconciling, False, Reason::Idle, ""),
        (ConditionType::Stalled, False, Reason::NotStalled, ""),
        (ConditionType::Healthy, True, Reason::KeyValid, "the provider accepts the key"),
        (ConditionType::RotationDue, False, Reason::NotDue, ""),
        (
            ConditionType::ConsumersCurrent,
            Unknown,
            Reason::NotObserved,
            "workloads that use the Secret are not looked at",
        ),
        (ConditionType::OverlapActive, False, Reason::NoOverlap, ""),
    ] {
        conditions.set(kind, status, reason, message);
    }
    json!({
        "observedGeneration": 1,
        "conditions": conditions.finish(),
        "provider": "OpenAI (sandbox)",
        "health": {"state": "Valid", "since": time},
        "currentVersion": 1, "lastFour": "xxxx", "fingerprint": "0".repeat(12),
        "versions": [{
            "version": 1, "state": "Publishing", "origin": "Supplied", "reason": "Initial",
            "lastFour": "xxxx", "fingerprint": "0".repeat(12), "publishedAt": time,
        }],
    })
}
