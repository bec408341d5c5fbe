//! The stages, each awaited with a deadline.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use llmkey_operator::api::{LLMKey, ROTATE, VersionStatus};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Effect, LogEntry, Operation};
use llmkey_operator::testbed::apply;
use reqwest::{Certificate, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::place::{TENANT, holds};
use super::quickstart::{self, KEY};
use super::show::{self, brief, heading, masked, say};
use super::{Demo, DemoError};

/// A stage that takes longer than this does not come.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The request that the demo makes for a rotation.
const TOKEN: &str = "demo-1";
const SECRET_ENTRY: &str = "OPENAI_API_KEY";

/// From an applied file to a refused old key.
pub async fn all(demo: &Demo) -> Result<(), DemoError> {
    let stages = Stages { demo, client: demo.place.admin()? };
    stages.laid()?;
    stages.applied().await?;
    let minted = stages.minted().await?;
    stages.sealed().await?;
    stages.validated(&minted).await?;
    let first = stages.delivered().await?;
    let second = stages.rotated(&first).await?;
    stages.refused(&first, &second).await
}

struct Stages<'a> {
    demo: &'a Demo,
    client: Client,
}

impl Stages<'_> {
    /// Awaits one thing; ends at once if the operator does.
    async fn within<T>(
        &self,
        stage: &'static str,
        seen: impl Future<Output = Result<T, DemoError>>,
    ) -> Result<T, DemoError> {
        let failed = |problem: String| DemoError::Stage { stage, problem };
        let ended = async {
            loop {
                tokio::time::sleep(POLL).await;
                if let Err(error) = self.demo.operator_lives() {
                    return error.to_string();
                }
            }
        };
        tokio::select! {
            result = seen => result,
            problem = ended => Err(failed(problem)),
            () = tokio::time::sleep(DEADLINE) => Err(failed(format!("not within {} s", DEADLINE.as_secs()))),
        }
    }

    async fn key_when(&self, wanted: impl Fn(&LLMKey) -> bool) -> Result<LLMKey, DemoError> {
        let keys: Api<LLMKey> = Api::namespaced(self.client.clone(), TENANT);
        loop {
            if let Some(key) = keys.get_opt(KEY).await?.filter(&wanted) {
                return Ok(key);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn entry(&self, wanted: impl Fn(&LogEntry) -> bool) -> Result<LogEntry, DemoError> {
        Ok(self.demo.sandbox.wait_for_entry(wanted).await)
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The value that workloads get.
    async fn mounted(&self) -> Result<Zeroizing<String>, DemoError> {
        let secret = self.secrets(TENANT).get(KEY).await?;
        let bytes = secret.data.and_then(|mut data| data.remove(SECRET_ENTRY));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0).ok());
        text.map(Zeroizing::new).ok_or_else(|| DemoError::Stage {
            stage: "the delivered Secret",
            problem: format!("it has no {SECRET_ENTRY}"),
        })
    }

    fn laid(&self) -> Result<(), DemoError> {
        let page = self.demo.sandbox.status_url().unwrap_or_default();
        say(format!(
            "A provider of its own at {}: it speaks OpenAI's API for keys; its view: {page}",
            self.demo.sandbox.base_url()
        ))?;
        say(format!("The Helm chart is installed, and the operator runs as {}", self.demo.place.user))
    }

    async fn applied(&self) -> Result<(), DemoError> {
        heading(2, "A user applies the quickstart")?;
        let operator = &self.demo.place.operator_namespace;
        let manifests = quickstart::manifests(&self.demo.sandbox, TENANT, operator)?;
        apply(&self.client, &manifests).await?;
        say(format!("$ kubectl apply -f {}", quickstart::FILE))?;
        for manifest in &manifests {
            let text = |pointer| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            say(format!("{} {}", text("/kind"), text("/metadata/name")))?;
        }
        say(
            "Changed for the demo: the provider above in place of api.openai.com, and an overlap of 0s, without evidence, in \
             place of a day.",
        )
    }

    async fn minted(&self) -> Result<String, DemoError> {
        heading(3, "The operator mints a key")?;
        let made = |entry: &LogEntry| {
            entry.operation == Operation::CreateServiceAccount && entry.effect == Effect::Committed
        };
        let entry = self.within("a key made at the provider", self.entry(made)).await?;
        let id = entry.key_ids.first().cloned().unwrap_or_default();
        say(format!(
            "The provider made the service account {} with the key {id}.",
            entry.name.as_deref().unwrap_or("(without a name)")
        ))?;
        say(
            "That name was in the operator's ledger before the call: a crash here leaves nothing that nobody knows.",
        )?;
        Ok(id)
    }

    /// The ledger, as anybody who may read it sees it.
    async fn sealed(&self) -> Result<(), DemoError> {
        heading(4, "It is sealed")?;
        let (namespace, name) = (&self.demo.place.operator_namespace, ledger_name(TENANT, KEY));
        let secrets = self.secrets(namespace);
        let sealed = async {
            loop {
                if let Some(secret) = secrets.get_opt(&name).await?
                    && let Some(version) = version_of(&secret, 1)
                    && version["sealed"].is_object()
                {
                    return Ok(version);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let version = self.within("the sealed key in the ledger", sealed).await?;
        say(format!("Secret {namespace}/{name} is the key's ledger. What it holds of version 1:"))?;
        say(format!("  sealed  {}", brief(&version["sealed"])))?;
        say(format!("  account {}", brief(&version["account"])))
    }

    async fn validated(&self, id: &str) -> Result<(), DemoError> {
        heading(5, "The provider accepts it")?;
        let accepted = |entry: &LogEntry| {
            entry.operation == Operation::ListModels
                && entry.effect == Effect::Committed
                && entry.key_ids.iter().any(|key| key == id)
        };
        let entry = self.within("the key accepted by the provider", self.entry(accepted)).await?;
        say(format!(
            "GET /v1/models with the new key: {}. No tokens are spent.",
            entry.status.unwrap_or_default()
        ))
    }

    async fn delivered(&self) -> Result<Zeroizing<String>, DemoError> {
        heading(6, "It is delivered")?;
        let ready = |key: &LLMKey| condition(key, "Ready") == Some("True") && current(key) == Some(1);
        self.within("the LLMKey Ready", self.key_when(ready)).await?;
        let key = self.mounted().await?;
        let secret = self.secrets(TENANT).get(KEY).await?;
        say(format!("Secret {TENANT}/{KEY}, for workloads to mount:"))?;
        for (entry, value) in secret.data.iter().flatten() {
            let text = String::from_utf8_lossy(&value.0);
            let shown = if text == key.as_str() { masked(&key) } else { text.into_owned() };
            say(format!("  {entry} = {shown}"))?;
        }
        self.nowhere_else(&key).await?;
        show::keys(&self.demo.place, TENANT).await?;
        Ok(key)
    }

    /// The key stands in the target Secret and nowhere else, the ledger included.
    async fn nowhere_else(&self, key: &str) -> Result<(), DemoError> {
        let found = |problem: String| DemoError::Stage { stage: "the key only in its Secret", problem };
        let ledger = self.secrets(&self.demo.place.operator_namespace).get(&ledger_name(TENANT, KEY)).await?;
        if ledger.data.iter().flatten().any(|(_, value)| holds(&value.0, key.as_bytes())) {
            return Err(found("the ledger holds it as it is".to_owned()));
        }
        let Some((count, keys)) = self.demo.place.etcd_search(key).await? else { return Ok(()) };
        let target = format!("/registry/secrets/{TENANT}/{KEY}");
        if keys != [target.clone()] {
            return Err(found(format!("etcd holds it under {}", keys.join(", "))));
        }
        say(format!("Of the {count} values that etcd has ever stored, only {target} holds the key."))
    }

    async fn rotated(&self, first: &str) -> Result<Zeroizing<String>, DemoError> {
        heading(7, "A rotation")?;
        say(format!("$ kubectl annotate llmkey {KEY} --namespace {TENANT} {ROTATE}={TOKEN}"))?;
        let keys: Api<LLMKey> = Api::namespaced(self.client.clone(), TENANT);
        let annotation = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: TOKEN}}}));
        keys.patch(KEY, &PatchParams::default(), &annotation).await?;

        let published = |key: &LLMKey| current(key) == Some(2);
        self.within("version 2 in the Secret", self.key_when(published)).await?;
        let second = self.mounted().await?;
        if *second == *first {
            return Err(DemoError::Stage {
                stage: "version 2 in the Secret",
                problem: "the Secret still holds the key of version 1".to_owned(),
            });
        }
        say("A second key was made, sealed, accepted and delivered, while the first one went on working.")?;

        let revoked = |key: &LLMKey| {
            version(key, 1).is_some_and(|version| version.state == "Revoked")
                && condition(key, "Ready") == Some("True")
                && handled(key) == Some(TOKEN)
        };
        let key = self.within("version 1 revoked", self.key_when(revoked)).await?;
        say("Then the first one was revoked, and the provider was asked until it refused it:")?;
        self.in_order()?;
        for version in key.status.iter().flat_map(|status| &status.versions) {
            say(format!("  {}", told(version)))?;
        }
        show::keys(&self.demo.place, TENANT).await?;
        Ok(second)
    }

    /// At the provider, the first key ended after the second one was accepted.
    fn in_order(&self) -> Result<(), DemoError> {
        let log = self.demo.sandbox.log();
        let done = |operation| {
            log.iter().filter(move |entry| entry.operation == operation && entry.effect == Effect::Committed)
        };
        let made = done(Operation::CreateServiceAccount).nth(1);
        let accepted = made.and_then(|made| {
            done(Operation::ListModels).find(|entry| entry.key_ids.iter().any(|id| made.key_ids.contains(id)))
        });
        let ended = done(Operation::DeleteServiceAccount).next();
        let entries: Vec<&LogEntry> = [made, accepted, ended].into_iter().flatten().collect();
        for entry in &entries {
            say(format!(
                "  provider's log {:>3}: {} of {} → {}",
                entry.sequence,
                entry.operation.path(),
                entry.name.as_deref().unwrap_or_default(),
                entry.status.unwrap_or_default()
            ))?;
        }
        if entries.len() == 3 && entries.is_sorted_by_key(|entry| entry.sequence) {
            return Ok(());
        }
        Err(DemoError::Stage {
            stage: "the second key accepted before the first one ended",
            problem: "the provider's log has another order".to_owned(),
        })
    }

    async fn refused(&self, first: &str, second: &str) -> Result<(), DemoError> {
        heading(8, "The old key is refused")?;
        let sandbox = &self.demo.sandbox;
        let authority = Certificate::from_pem(sandbox.ca_pem().as_bytes())?;
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build()?;
        let url = format!("{}/models", sandbox.base_url());
        for (which, key, wanted) in
            [("old", first, StatusCode::UNAUTHORIZED), ("new", second, StatusCode::OK)]
        {
            let status = client.get(&url).bearer_auth(key).timeout(DEADLINE).send().await?.status();
            say(format!("$ curl {url} with the {which} key {}: {status}", masked(key)))?;
            if status != wanted {
                return Err(DemoError::Stage {
                    stage: "the old key refused and the new one accepted",
                    problem: format!("the provider answered {status} to the {which} key"),
                });
            }
        }
        let live = sandbox.live_keys(sandbox.project_id()).len();
        if live != 1 {
            return Err(DemoError::Stage {
                stage: "one key left at the provider",
                problem: format!("there are {live}"),
            });
        }
        say("One key is left at the provider: the one in the Secret.")
    }
}

/// A version of the ledger's record.
fn version_of(ledger: &Secret, number: i32) -> Option<Value> {
    let record = ledger.data.as_ref()?.get("record")?;
    let record: Value = serde_json::from_slice(&record.0).ok()?;
    record["versions"].as_array()?.iter().find(|version| version["version"] == number).cloned()
}

fn condition<'a>(key: &'a LLMKey, kind: &str) -> Option<&'a str> {
    let status =
        key.status.as_ref().filter(|status| status.observed_generation == key.metadata.generation)?;
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

fn current(key: &LLMKey) -> Option<i32> {
    key.status.as_ref()?.current_version
}

fn handled(key: &LLMKey) -> Option<&str> {
    key.status.as_ref()?.last_handled_rotate.as_deref()
}

fn version(key: &LLMKey, number: i32) -> Option<&VersionStatus> {
    key.status.as_ref()?.versions.iter().find(|version| version.version == number)
}

fn told(version: &VersionStatus) -> String {
    let time = |label: &str, time: &Option<String>| {
        time.as_deref().map(|time| format!(", {label} {time}")).unwrap_or_default()
    };
    let basis = version.revocation_basis.as_deref().map(|basis| format!(" ({basis})")).unwrap_or_default();
    format!(
        "version {}: {}, …{}, {}{}{}{basis}",
        version.version,
        version.state,
        version.last_four.as_deref().unwrap_or_default(),
        version.reason,
        time("published", &version.published_at),
        time("revoked", &version.revoked_at),
    )
}
