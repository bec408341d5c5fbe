//! The load: source Secrets, LLMKeys created by parallel clients, and a watch that sees when each is ready.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DeleteParams, ListParams, PostParams};
use kube::core::{Object, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use llmkey_operator::api::{LEDGER_TYPE, LLMKey};
use llmkey_operator::kube_ext::clock::Clock;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Failure;

/// Clients that create at the same time.
const PARALLEL: usize = 32;
/// Longest wait for all keys of a burst.
const READY_WITHIN: Duration = Duration::from_secs(900);
/// The prefix of all key values; the sandbox accepts what begins so.
pub const VALUE_PREFIX: &str = "sk-proj-bench-";
/// Length of OpenAI's project keys.
const VALUE_LENGTH: usize = 164;
/// The LLMProvider of all keys.
pub const PROVIDER: &str = "sandbox";
/// The entry of each source Secret.
pub const SOURCE_ENTRY: &str = "api-key";

/// The keys of one phase: a namespace of their own.
#[derive(Clone)]
pub struct Load {
    /// As a member of `system:masters`: API priority and fairness does not queue the load.
    pub admin: Client,
    /// Where LLMKeys, sources and targets lie.
    pub namespace: String,
    /// How many.
    pub count: usize,
    /// Whether the operator asks the provider before it publishes.
    pub validated: bool,
    /// The process's clock.
    pub clock: Clock,
}

/// When things happened to each key, on the process's clock.
#[derive(Clone, Default)]
pub struct Times {
    /// The create was sent.
    pub sent: Vec<Option<Duration>>,
    /// The load's watch showed the target Secret, where it is watched.
    pub secret: Vec<Option<Duration>>,
    /// The load's watch showed `Ready=True`.
    pub ready: Vec<Option<Duration>>,
}

impl Times {
    /// From the first create to the last key ready.
    pub fn burst(&self) -> Duration {
        let first = self.sent.iter().flatten().min().copied().unwrap_or_default();
        let last = self.ready.iter().flatten().max().copied().unwrap_or_default();
        last.saturating_sub(first)
    }

    /// From the first create sent to the last one.
    pub fn creating(&self) -> Duration {
        let first = self.sent.iter().flatten().min().copied().unwrap_or_default();
        self.sent.iter().flatten().max().copied().unwrap_or_default().saturating_sub(first)
    }

    /// From each create to its end.
    pub fn latencies(&self, ends: &[Option<Duration>]) -> Vec<Duration> {
        self.sent.iter().zip(ends).filter_map(|(sent, end)| Some((*end)?.saturating_sub((*sent)?))).collect()
    }
}

/// The name of a key by its number.
pub fn key_name(index: usize) -> String {
    format!("key-{index:05}")
}

/// The name of a key's source by the key's name.
pub fn source_name(key: &str) -> String {
    format!("{key}-source")
}

fn index_of(name: &str) -> Option<usize> {
    name.strip_prefix("key-")?.parse().ok()
}

/// The value of a key: distinct, and as long as a real one.
pub fn value(namespace: &str, index: usize) -> String {
    let mut value = format!("{VALUE_PREFIX}{namespace}-{index:05}-");
    value.extend(std::iter::repeat_n('x', VALUE_LENGTH.saturating_sub(value.len())));
    value
}

/// Runs `work` for every index below `count`, at most [`PARALLEL`] at a time.
pub async fn in_parallel<F, W>(count: usize, work: W) -> Result<(), Failure>
where
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), kube::Error>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..PARALLEL.min(count) {
        let (next, work) = (Arc::clone(&next), work.clone());
        workers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(());
                }
                work(index).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended?.map_err(|error: kube::Error| Failure::from(error))?;
    }
    Ok(())
}

#[derive(Clone, Debug, Deserialize)]
struct Ignored {}

#[derive(Clone, Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// An LLMKey as the load's watch reads it: no more than it needs.
type Seen = Object<Ignored, Conditions>;

/// The load's watches, and what they have seen.
pub struct Observer {
    times: Arc<Mutex<Times>>,
    ready: watch::Receiver<usize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Load {
    /// Creates all source Secrets.
    pub async fn sources(&self) -> Result<(), Failure> {
        let api: Api<Secret> = Api::namespaced(self.admin.clone(), &self.namespace);
        let namespace = self.namespace.clone();
        in_parallel(self.count, move |index| {
            let (api, value) = (api.clone(), value(&namespace, index));
            async move {
                let secret: Secret = serde_json::from_value(json!({
                    "metadata": {"name": source_name(&key_name(index))},
                    "stringData": {SOURCE_ENTRY: value},
                }))
                .map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &secret).await.map(drop)
            }
        })
        .await
    }

    fn key(&self, index: usize) -> Result<LLMKey, serde_json::Error> {
        let name = key_name(index);
        let mode = if self.validated { "Required" } else { "Disabled" };
        serde_json::from_value(json!({
            "apiVersion": LLMKey::api_version(&()),
            "kind": LLMKey::kind(&()),
            "metadata": {"name": name},
            "spec": {
                "providerRef": {"name": PROVIDER},
                "source": {"secretRef": {"name": source_name(&name), "key": SOURCE_ENTRY}},
                "validation": {"mode": mode},
            },
        }))
    }

    /// Starts watching; returns once the watches are current. `secrets`: watch target Secrets as well.
    pub async fn observe(&self, secrets: bool) -> Result<Observer, Failure> {
        let empty = vec![None; self.count];
        let times = Times { sent: empty.clone(), secret: empty.clone(), ready: empty };
        let times = Arc::new(Mutex::new(times));
        let (progress, ready) = watch::channel(0);
        let (started, mut starts) = tokio::sync::mpsc::channel(2);
        let mut tasks = vec![tokio::spawn(self.clone().watch_keys(times.clone(), progress, started.clone()))];
        if secrets {
            tasks.push(tokio::spawn(self.clone().watch_secrets(times.clone(), started)));
        }
        for _ in 0..tasks.len() {
            starts.recv().await.ok_or("a watch did not start")?;
        }
        Ok(Observer { times, ready, tasks })
    }

    async fn watch_keys(
        self,
        times: Arc<Mutex<Times>>,
        progress: watch::Sender<usize>,
        started: tokio::sync::mpsc::Sender<()>,
    ) {
        let resource = ApiResource::erase::<LLMKey>(&());
        let api: Api<Seen> = Api::namespaced_with(self.admin.clone(), &self.namespace, &resource);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default().streaming_lists()));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone) => drop(started.send(()).await),
                Ok(Event::Apply(key) | Event::InitApply(key)) if is_ready(&key) => {
                    let at = self.clock.monotonic();
                    if note(&times, &key.name_any(), |times| &mut times.ready, at) {
                        progress.send_modify(|count| *count += 1);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the load's watch"),
            }
        }
    }

    async fn watch_secrets(self, times: Arc<Mutex<Times>>, started: tokio::sync::mpsc::Sender<()>) {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default().streaming_lists()));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone) => drop(started.send(()).await),
                Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                    let at = self.clock.monotonic();
                    note(&times, &secret.name_any(), |times| &mut times.secret, at);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the load's watch"),
            }
        }
    }

    async fn create(
        self,
        api: Api<LLMKey>,
        times: Arc<Mutex<Times>>,
        index: usize,
    ) -> Result<(), kube::Error> {
        let key = self.key(index).map_err(kube::Error::SerdeError)?;
        let sent = self.clock.monotonic();
        if let Some(slot) = lock(&times).sent.get_mut(index) {
            *slot = Some(sent);
        }
        api.create(&PostParams::default(), &key).await.map(drop)
    }

    /// Creates all LLMKeys as fast as the server takes them and waits until the last is ready.
    pub async fn burst(&self, observer: &mut Observer) -> Result<Times, Failure> {
        let api: Api<LLMKey> = Api::namespaced(self.admin.clone(), &self.namespace);
        let (load, times) = (self.clone(), Arc::clone(&observer.times));
        in_parallel(self.count, move |index| load.clone().create(api.clone(), times.clone(), index)).await?;
        observer.all_ready(self.count).await
    }

    /// Creates one LLMKey each `period` and waits until the last is ready.
    pub async fn trickle(&self, observer: &mut Observer, period: Duration) -> Result<Times, Failure> {
        let api: Api<LLMKey> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut beat = tokio::time::interval(period);
        let mut creates = JoinSet::new();
        for index in 0..self.count {
            beat.tick().await;
            creates.spawn(self.clone().create(api.clone(), observer.times.clone(), index));
        }
        while let Some(ended) = creates.join_next().await {
            ended??;
        }
        observer.all_ready(self.count).await
    }

    /// Fails unless every key is ready and shows its version: a burst must not only pass through `Ready`.
    pub async fn verify(&self) -> Result<(), Failure> {
        let keys: Api<LLMKey> = Api::namespaced(self.admin.clone(), &self.namespace);
        let list = keys.list(&ListParams::default()).await?;
        let whole = |key: &LLMKey| {
            key.status.as_ref().is_some_and(|status| {
                status.current_version == Some(1)
                    && status.versions.len() == 1
                    && status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            })
        };
        let found = list.items.iter().filter(|key| whole(key)).count();
        if found == self.count {
            Ok(())
        } else {
            Err(format!("only {found} of {} keys stay ready", self.count).into())
        }
    }

    /// Bytes of one LLMKey with status, its target and its ledger, as JSON.
    pub async fn object_bytes(&self, operator_namespace: &str) -> Result<[usize; 3], Failure> {
        let name = key_name(self.count / 2);
        let keys: Api<LLMKey> = Api::namespaced(self.admin.clone(), &self.namespace);
        let targets: Api<Secret> = Api::namespaced(self.admin.clone(), &self.namespace);
        let ledgers: Api<Secret> = Api::namespaced(self.admin.clone(), operator_namespace);
        let ledger = llmkey_operator::domain::names::ledger_name(&self.namespace, &name);
        Ok([
            serde_json::to_vec(&keys.get(&name).await?)?.len(),
            serde_json::to_vec(&targets.get(&name).await?)?.len(),
            serde_json::to_vec(&ledgers.get(&ledger).await?)?.len(),
        ])
    }

    /// Deletes everything that the phase left.
    pub async fn clear(&self, operator_namespace: &str) -> Result<(), Failure> {
        let (params, all) = (DeleteParams::default(), ListParams::default());
        let keys: Api<PartialObjectMeta<LLMKey>> = Api::namespaced(self.admin.clone(), &self.namespace);
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.admin.clone(), &self.namespace);
        let ledgers: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.admin.clone(), operator_namespace);
        keys.delete_collection(&params, &all).await?;
        secrets.delete_collection(&params, &all).await?;
        ledgers.delete_collection(&params, &all.fields(&format!("type={LEDGER_TYPE}"))).await?;
        Ok(())
    }
}

impl Observer {
    async fn all_ready(&mut self, count: usize) -> Result<Times, Failure> {
        let all = self.ready.wait_for(|ready| *ready >= count);
        let in_time = tokio::time::timeout(READY_WITHIN, all).await.is_ok();
        if !in_time {
            let ready = *self.ready.borrow();
            return Err(
                format!("{ready} of {count} keys are ready after {} s", READY_WITHIN.as_secs()).into()
            );
        }
        Ok(lock(&self.times).clone())
    }
}

fn lock(times: &Mutex<Times>) -> std::sync::MutexGuard<'_, Times> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ready(key: &Seen) -> bool {
    let conditions = key.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
}

/// Notes the first time that something happened to a key. Anything else's name is no key's.
fn note(
    times: &Mutex<Times>,
    name: &str,
    field: impl Fn(&mut Times) -> &mut Vec<Option<Duration>>,
    at: Duration,
) -> bool {
    let Some(index) = index_of(name) else { return false };
    match field(&mut lock(times)).get_mut(index) {
        Some(slot @ None) => {
            *slot = Some(at);
            true
        }
        _ => false,
    }
}
