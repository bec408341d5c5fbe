//! What is asked of the cluster for a bundle, each part for itself: what cannot be had is told, and the rest goes on.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::{self, Kind};
use super::pick::{masked, pick, place};
use super::write::Entry;
use super::{Missing, log};
use crate::api::{ClusterRotationPolicy, LEDGER_TYPE, LLMKey, LLMProvider, RotationPolicy, crds};
use crate::kube_ext::events::CONTROLLER;
use crate::ledger::all_unverified;
use crate::plugin::PluginError;
use crate::plugin::cluster::{list, refused};
use crate::plugin::doctor::SELECTOR;

/// The operator's container, and the name of its port with metrics, as the chart has them.
const CONTAINER: &str = "operator";
const METRICS_PORT: &str = "metrics";
/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Flags whose values say nothing but how the operator works. Of others only the name is told.
const FLAGS: [&str; 12] = [
    "--audit-log",
    "--concurrency",
    "--keyring-dir",
    "--leader-elect",
    "--lease-name",
    "--log-format",
    "--log-level",
    "--metrics-listen",
    "--per-key-metrics",
    "--rollout",
    "--secrets",
    "--watch-namespaces",
];

/// What the bundle is about.
pub struct Asked {
    /// The cluster.
    pub client: Client,
    /// The namespace of LLMKeys; none: all.
    pub namespace: Option<String>,
    /// The operator's namespace.
    pub home: String,
    /// Log lines of each pod at most.
    pub log_lines: u32,
    /// Where log lines are instead of in the cluster.
    pub log_file: Option<PathBuf>,
}

/// What was had, and what not.
#[derive(Default)]
struct Parts {
    entries: Vec<Entry>,
    missing: Vec<Missing>,
}

impl Parts {
    fn keep<T: Serialize>(&mut self, name: &str, found: Result<T, PluginError>) -> Result<(), PluginError> {
        match found {
            Ok(found) => {
                let text = serde_json::to_string_pretty(&found)? + "\n";
                self.entries.push(Entry { name: format!("{name}.json"), text });
            }
            Err(error) => self.lack(name, error.to_string()),
        }
        Ok(())
    }

    fn lack(&mut self, part: impl Into<String>, why: impl AsRef<str>) {
        self.missing.push(Missing { part: part.into(), why: masked(why.as_ref()) });
    }
}

/// Asks for everything.
pub async fn all(asked: &Asked) -> Result<(Vec<Entry>, Vec<Missing>), PluginError> {
    let mut parts = Parts::default();
    let client = &asked.client;
    let home = asked.home.as_str();
    parts.keep("crds", definitions(client).await)?;
    let keys = objects::<LLMKey>(&asked.scoped(), "LLMKeys", Kind::Key).await;
    parts.keep("llmkeys", keys)?;
    let policies = objects::<RotationPolicy>(&asked.scoped(), "RotationPolicies", Kind::Policy).await;
    parts.keep("rotationpolicies", policies)?;
    let everywhere = Api::<ClusterRotationPolicy>::all(client.clone());
    parts.keep(
        "clusterrotationpolicies",
        objects(&everywhere, "ClusterRotationPolicies", Kind::Policy).await,
    )?;
    parts.keep("llmproviders", providers(client).await)?;
    parts.keep("events", events(asked).await)?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), home);
    parts.keep("leases", objects(&leases, &format!("Leases of namespace {home}"), Kind::Lease).await)?;
    parts.keep("ledgers", ledgers(client, home).await)?;
    parts.keep("ledger-secrets", ledger_secrets(client, home).await)?;
    parts.keep("deployments", deployments(client, home).await)?;
    let pods = pods(client, home).await;
    let found: Vec<Pod> = pods.as_ref().cloned().unwrap_or_default();
    parts.keep("pods", pods.map(|pods| pods.iter().map(|pod| picked(pod, Kind::Pod)).collect::<Vec<_>>()))?;
    logs(asked, &found, &mut parts).await;
    for pod in &found {
        metrics(client, home, pod, &mut parts).await;
    }
    if found.is_empty() {
        parts.lack("metrics", format!("no pod of the operator is in namespace {home}"));
    }
    Ok((parts.entries, parts.missing))
}

impl Asked {
    fn scoped<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

fn picked<T: Serialize>(object: &T, kind: Kind) -> Value {
    let value = serde_json::to_value(object).unwrap_or_default();
    pick(&value, &fields::of(kind))
}

async fn objects<K>(api: &Api<K>, what: &str, kind: Kind) -> Result<Vec<Value>, PluginError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    Ok(list(api, what).await?.iter().map(|object| picked(object, kind)).collect())
}

async fn definitions(client: &Client) -> Result<Vec<Value>, PluginError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut found = Vec::new();
    for crd in crds() {
        let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let what = format!("CustomResourceDefinition {name}");
        let definition = api.get_opt(&name).await.map_err(|error| refused(&what, &error))?;
        found.extend(definition.map(|definition| picked(&definition, Kind::Crd)));
    }
    Ok(found)
}

/// A URL may hold more than a place.
async fn providers(client: &Client) -> Result<Vec<Value>, PluginError> {
    let api: Api<LLMProvider> = Api::all(client.clone());
    let mut found = objects(&api, "LLMProviders", Kind::Provider).await?;
    for url in found.iter_mut().flat_map(|provider| {
        let Value::Object(parts) = provider else { return Vec::new() };
        parts.values_mut().filter_map(|part| part.get_mut("baseURL")).collect()
    }) {
        *url = Value::String(place(url.as_str().unwrap_or_default()));
    }
    Ok(found)
}

async fn events(asked: &Asked) -> Result<Vec<Value>, PluginError> {
    let mut apis: Vec<Api<Event>> = vec![asked.scoped()];
    if asked.namespace.as_deref().is_some_and(|namespace| namespace != "default") {
        // Those of LLMProviders.
        apis.push(Api::namespaced(asked.client.clone(), "default"));
    }
    let mut found = Vec::new();
    for api in apis {
        let events = list(&api, "events").await?;
        let own = events.iter().filter(|event| event.reporting_controller.as_deref() == Some(CONTROLLER));
        found.extend(own.map(|event| pick(&serde_json::to_value(event).unwrap_or_default(), fields::EVENT)));
    }
    Ok(found)
}

async fn ledgers(client: &Client, home: &str) -> Result<Vec<Value>, PluginError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), home);
    let records = all_unverified(&secrets).await;
    let records = records.map_err(|error| refused(&format!("ledgers of namespace {home}"), &error))?;
    Ok(records
        .iter()
        .map(|record| pick(&serde_json::to_value(record).unwrap_or_default(), fields::LEDGER))
        .collect())
}

async fn ledger_secrets(client: &Client, home: &str) -> Result<Vec<Value>, PluginError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), home);
    let params = ListParams::default().fields(&format!("type={LEDGER_TYPE}"));
    let found = secrets.list_metadata(&params).await;
    let found = found.map_err(|error| refused(&format!("Secrets of namespace {home}"), &error))?;
    Ok(found.items.iter().map(|secret| picked(secret, Kind::LedgerSecret)).collect())
}

async fn deployments(client: &Client, home: &str) -> Result<Vec<Value>, PluginError> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), home);
    let found = api.list(&ListParams::default().labels(SELECTOR)).await;
    let found = found.map_err(|error| refused(&format!("Deployments of namespace {home}"), &error))?;
    let told = |deployment: &Deployment| {
        let mut told = picked(deployment, Kind::Deployment);
        let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
        let args: Vec<String> =
            containers.iter().flat_map(|c| c.args.iter().flatten()).map(|a| flag(a)).collect();
        told["args"] = args.into();
        told
    };
    Ok(found.items.iter().map(told).collect())
}

/// An argument: its value only where that says nothing but how the operator works.
fn flag(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, _)) if FLAGS.contains(&name) => masked(argument),
        Some((name, _)) if name.starts_with("--") => format!("{}=…", masked(name)),
        None if ["run", "drain"].contains(&argument) || FLAGS.contains(&argument) => argument.to_owned(),
        _ => "…".to_owned(),
    }
}

async fn pods(client: &Client, home: &str) -> Result<Vec<Pod>, PluginError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), home);
    let found = api.list(&ListParams::default().labels(SELECTOR)).await;
    Ok(found.map_err(|error| refused(&format!("Pods of namespace {home}"), &error))?.items)
}

async fn logs(asked: &Asked, pods: &[Pod], parts: &mut Parts) {
    let most = usize::try_from(asked.log_lines).unwrap_or(usize::MAX);
    if let Some(file) = &asked.log_file {
        match fs::read(file) {
            Ok(bytes) => {
                let text = log::lines(&String::from_utf8_lossy(&bytes), most);
                parts.entries.push(Entry { name: "logs/given.jsonl".into(), text });
            }
            Err(error) => parts.lack("logs", format!("{}: {error}", file.display())),
        }
        return;
    }
    if pods.is_empty() {
        parts.lack("logs", format!("no pod of the operator is in namespace {}", asked.home));
    }
    let api: Api<Pod> = Api::namespaced(asked.client.clone(), &asked.home);
    for pod in pods {
        let name = pod.name_any();
        let restarted = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .any(|container| container.restart_count > 0);
        // What it said before it was started again is often what is looked for.
        for previous in [false, true].into_iter().take(1 + usize::from(restarted)) {
            let params = LogParams {
                container: Some(CONTAINER.to_owned()),
                tail_lines: Some(asked.log_lines.into()),
                previous,
                ..LogParams::default()
            };
            let part = format!("logs/{name}{}.jsonl", if previous { "-previous" } else { "" });
            match in_time(api.logs(&name, &params)).await {
                Ok(text) => parts.entries.push(Entry { name: part, text: log::lines(&text, most) }),
                Err(why) => parts.lack(part, why),
            }
        }
    }
}

/// What the API server had from a pod, or why not.
async fn in_time(answer: impl Future<Output = Result<String, kube::Error>>) -> Result<String, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| refused("the pod", &error).to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Through the API server, which reaches pods where a desk does not.
async fn metrics(client: &Client, home: &str, pod: &Pod, parts: &mut Parts) {
    let name = pod.name_any();
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let mut open = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let Some(port) = open.find(|port| port.name.as_deref() == Some(METRICS_PORT)) else { return };
    let path = format!("/api/v1/namespaces/{home}/pods/{name}:{}/proxy/metrics", port.container_port);
    let file = format!("metrics/{name}.txt");
    let request = match http::Request::get(path).body(Vec::new()) {
        Ok(request) => request,
        Err(error) => return parts.lack(file, error.to_string()),
    };
    match in_time(client.request_text(request)).await {
        Ok(text) => parts.entries.push(Entry { name: file, text: log::metrics(&text) }),
        Err(why) => parts.lack(file, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_arguments_only_harmless_values_are_told() {
        let told = ["run", "--secrets=poll", "--identity=secret", "secret", "--rollout"].map(flag);
        assert_eq!(told, ["run", "--secrets=poll", "--identity=…", "…", "--rollout"]);
    }
}
