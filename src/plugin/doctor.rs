//! `kubectl llmkey doctor`: whether an installation works, and what to do where it does not.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde::Serialize;

use super::PluginError;
use super::args::DoctorArgs;
use super::cluster::{self, connect, list, refused};
use super::story::{State, said, story};
use super::table::{span, table};
use crate::api::{self, LLMKey, LLMProvider, parse_rfc3339};
use crate::controller::install::{INSTALL_SECRET, KEYRING_SECRET};
use crate::kube_ext::clock::Clock;

/// What the chart calls its objects.
pub const SELECTOR: &str = "app.kubernetes.io/part-of=llmkey-operator";
/// A difference of clocks that confuses nobody.
const SKEW: TimeDelta = TimeDelta::seconds(30);
/// A Lease that is older than that is nobody's: four times its duration.
const LEASE_AGE: TimeDelta = TimeDelta::seconds(60);
/// Names that one line has room for.
const SHOWN: usize = 3;

/// What to do where one may not look.
const ASK: &str = "ask who may read it to run this";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It may be as it should be, or concerns few.
    Warning,
    /// It is not as it should be.
    Failed,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Failed, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each check.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing failed.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Failed)
    }
}

/// Looks at everything. What may not be read is a warning.
///
/// # Errors
/// The cluster does not answer.
pub async fn doctor(args: &DoctorArgs, clock: Clock) -> Result<Report, PluginError> {
    let (client, namespace) = connect(&args.cluster).await?;
    let (version, server) = answers(&client).await?;
    let mut findings = vec![
        Finding::ok("cluster", format!("Kubernetes {version} answers")),
        skew(clock.now(), server),
        kinds(&client).await,
    ];
    if findings.iter().any(|finding| finding.verdict == Verdict::Failed) {
        // Without the kinds nothing of the rest can be there.
        return Ok(Report { findings });
    }
    let home = &args.operator_namespace;
    findings.push(may_read("operator", deployments(&client, home).await));
    findings.push(may_read("leader", leader(&client, home, server).await));
    findings.push(may_read("keyring", keyring(&client, home).await));
    findings.push(may_read("leash", leash(&client).await));
    findings.push(may_read("providers", providers(&client).await));
    let everywhere = args.all_namespaces;
    findings.push(may_read("keys", keys(&client, &namespace, everywhere, server).await));
    Ok(Report { findings })
}

/// What may not be read is not known.
fn may_read(check: &'static str, finding: Result<Finding, PluginError>) -> Finding {
    finding.unwrap_or_else(|error| Finding::warning(check, error.to_string(), ASK))
}

/// The server's version, and its time: that of its answer's `Date`.
async fn answers(client: &Client) -> Result<(String, DateTime<Utc>), PluginError> {
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| PluginError::Kubeconfig(error.to_string()))?;
    let answer = client.send(request).await.map_err(|error| refused("the cluster's version", &error))?;
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let time = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|time| time.to_utc());
    let version =
        client.apiserver_version().await.map_err(|error| refused("the cluster's version", &error))?;
    let time = time.ok_or_else(|| PluginError::Refused("the cluster does not tell its time".to_owned()))?;
    Ok((version.git_version, time))
}

fn skew(here: DateTime<Utc>, server: DateTime<Utc>) -> Finding {
    let difference = (here - server).abs();
    if difference <= SKEW {
        return Finding::ok("clock", "this machine and the API server agree on the time");
    }
    let found = format!("this machine's clock and the API server's differ by {}", span(difference));
    Finding::warning("clock", found, "the operator goes by the API server's; set the clock that is wrong")
}

async fn kinds(client: &Client) -> Finding {
    const REMEDY: &str =
        "helm install llmkey-operator charts/llmkey-operator -n llmkey-system --create-namespace";
    let wanted =
        api::crds().into_iter().filter_map(|crd| Some(crd["spec"]["names"]["kind"].as_str()?.to_owned()));
    let served: Vec<String> = match client.list_api_group_resources("llmkeys.dev/v1alpha1").await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.kind).collect(),
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => {
            let why = refused("the kinds of llmkeys.dev/v1alpha1", &error).to_string();
            return Finding::warning("kinds", why, ASK);
        }
    };
    let missing: Vec<String> = wanted.filter(|kind| !served.contains(kind)).collect();
    if missing.is_empty() {
        return Finding::ok("kinds", "llmkeys.dev/v1alpha1 is served");
    }
    Finding::failed("kinds", format!("the cluster does not know {}", missing.join(", ")), REMEDY)
}

async fn deployments(client: &Client, home: &str) -> Result<Finding, PluginError> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), home);
    let found = api.list(&ListParams::default().labels(SELECTOR)).await;
    let found = found.map_err(|error| refused(&format!("Deployments of namespace {home}"), &error))?;
    Ok(running(&found.items, home))
}

fn running(deployments: &[Deployment], home: &str) -> Finding {
    let Some(deployment) = deployments.first() else {
        let found = format!("no Deployment of the chart is in namespace {home}");
        return Finding::failed(
            "operator",
            found,
            "name the operator's namespace with --operator-namespace, or install it",
        );
    };
    let name = deployment.name_any();
    if deployments.len() > 1 {
        let found = format!("{} Deployments of the chart are in namespace {home}", deployments.len());
        return Finding::failed("operator", found, "one installation for each cluster: uninstall the others");
    }
    let available = deployment.status.as_ref().and_then(|s| s.available_replicas).unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let version = deployment.labels().get("app.kubernetes.io/version").cloned().unwrap_or_default();
    if available == 0 {
        let remedy =
            format!("kubectl -n {home} describe deployment {name}; kubectl -n {home} logs deployment/{name}");
        return Finding::failed("operator", format!("none of its {wanted} pods is available"), remedy);
    }
    let found = format!("{available} of {wanted} pods are available, version {version}");
    if version != env!("CARGO_PKG_VERSION") {
        let found = format!("{found}; this command is of version {}", env!("CARGO_PKG_VERSION"));
        return Finding::warning("operator", found, "install the command of the operator's version");
    }
    if available < wanted {
        return Finding::warning("operator", found, format!("kubectl -n {home} get pods"));
    }
    Finding::ok("operator", found)
}

async fn leader(client: &Client, home: &str, now: DateTime<Utc>) -> Result<Finding, PluginError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), home);
    let found = api.list(&ListParams::default()).await;
    let found = found.map_err(|error| refused(&format!("Leases of namespace {home}"), &error))?;
    Ok(leads(&found.items, home, now))
}

fn leads(leases: &[Lease], home: &str, now: DateTime<Utc>) -> Finding {
    let held = leases.iter().filter_map(|lease| {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())?;
        let renewed = parse_rfc3339(&spec.renew_time.as_ref()?.0.to_string())?;
        (now - renewed <= LEASE_AGE).then(|| (lease.name_any(), holder.clone()))
    });
    match held.collect::<Vec<_>>().as_slice() {
        [(lease, holder)] => Finding::ok("leader", format!("{holder} leads (Lease {lease})")),
        [] => {
            let remedy = format!(
                "kubectl -n {home} get leases; without election (--leader-elect=false) there is none"
            );
            Finding::failed("leader", format!("no Lease of namespace {home} is held"), remedy)
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(lease, _)| lease.as_str()).collect();
            Finding::warning(
                "leader",
                format!("several Leases are held: {}", names.join(", ")),
                "one of them is the operator's",
            )
        }
    }
}

async fn keyring(client: &Client, home: &str) -> Result<Finding, PluginError> {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), home);
    let mut missing = Vec::new();
    for name in [INSTALL_SECRET, KEYRING_SECRET] {
        let found = api.get_metadata_opt(name).await;
        if found.map_err(|error| refused(&format!("Secret {name} of namespace {home}"), &error))?.is_none() {
            missing.push(name);
        }
    }
    Ok(match missing.as_slice() {
        [] => Finding::ok("keyring", "the install Secret and the keyring are there"),
        [KEYRING_SECRET] => Finding::warning(
            "keyring",
            format!("Secret {KEYRING_SECRET} is not there"),
            "well if the chart's keyring.existingSecret names another; else restore it from a backup",
        ),
        names => Finding::failed(
            "keyring",
            format!("missing: {}", names.join(", ")),
            "restore them from a backup: ledgers cannot be read without them (docs/security.md)",
        ),
    })
}

async fn leash(client: &Client) -> Result<Finding, PluginError> {
    let params = ListParams::default().labels(SELECTOR);
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let policies = policies.list(&params).await.map_err(|e| refused("ValidatingAdmissionPolicies", &e))?;
    let bindings =
        bindings.list(&params).await.map_err(|e| refused("ValidatingAdmissionPolicyBindings", &e))?;
    let bound = |name: &str| {
        bindings.iter().any(|b| b.spec.as_ref().is_some_and(|s| s.policy_name.as_deref() == Some(name)))
    };
    let loose = policies.iter().filter(|policy| !bound(&policy.name_any())).count();
    let count = policies.items.len();
    Ok(match (count, loose) {
        (0, _) => Finding::warning(
            "leash",
            "no admission policy keeps the operator's account from writing what is not its own",
            "helm upgrade with leash.enabled=true",
        ),
        (_, 0) => Finding::ok("leash", format!("{count} admission policies bind the operator's account")),
        (_, loose) => Finding::failed(
            "leash",
            format!("{loose} of {count} admission policies are not bound"),
            "helm upgrade puts the bindings back",
        ),
    })
}

async fn providers(client: &Client) -> Result<Finding, PluginError> {
    let found: Vec<LLMProvider> = list(&Api::all(client.clone()), "LLMProviders").await?;
    Ok(accounts(&found))
}

fn accounts(providers: &[LLMProvider]) -> Finding {
    let mut wrong = Vec::new();
    for provider in providers {
        let name = provider.name_any();
        let Some(status) = &provider.status else {
            wrong.push(format!("{name}: the operator has not looked at it"));
            continue;
        };
        if let Some(frozen) = &status.frozen {
            wrong.push(format!("{name}: frozen ({})", frozen.reason));
        } else if let Some(c) = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False") {
            wrong.push(format!("{name}: {}", said(c)));
        }
    }
    if wrong.is_empty() {
        return Finding::ok("providers", format!("{} LLMProviders, none with a problem", providers.len()));
    }
    Finding::failed(
        "providers",
        few(&wrong),
        "kubectl describe llmprovider; docs/concepts.md#reasons has a remedy for each reason",
    )
}

async fn keys(
    client: &Client,
    namespace: &str,
    everywhere: bool,
    now: DateTime<Utc>,
) -> Result<Finding, PluginError> {
    let objects = cluster::read_keys(client, namespace, everywhere).await?;
    Ok(works(&objects.keys, now))
}

fn works(keys: &[LLMKey], now: DateTime<Utc>) -> Finding {
    let told = |wanted: &[State]| -> Vec<String> {
        let told = keys.iter().map(|key| (key, story(key, now)));
        let told = told.filter(|(_, (state, _))| wanted.contains(state));
        told.map(|(key, (_, why))| {
            format!("{}/{}: {why}", key.namespace().unwrap_or_default(), key.name_any())
        })
        .collect()
    };
    let (broken, waiting) = (told(&[State::NotReady, State::Unseen]), told(&[State::Waiting]));
    let remedy = "kubectl llmkey describe NAME says what it waits for";
    if !broken.is_empty() {
        return Finding::failed("keys", few(&broken), remedy);
    }
    if !waiting.is_empty() {
        return Finding::warning("keys", few(&waiting), remedy);
    }
    Finding::ok("keys", format!("{} LLMKeys, none with a problem", keys.len()))
}

/// The first of them, and how many more there are.
fn few(told: &[String]) -> String {
    let first: Vec<&str> = told.iter().take(SHOWN).map(String::as_str).collect();
    let more = told.len().saturating_sub(SHOWN);
    if more == 0 { first.join("; ") } else { format!("{}; and {more} more", first.join("; ")) }
}

/// The answer for people.
pub fn text(report: &Report) -> String {
    let rows: Vec<[String; 3]> = report
        .findings
        .iter()
        .map(|f| [f.check.to_owned(), format!("{:?}", f.verdict), f.found.clone()])
        .collect();
    let remedies =
        report.findings.iter().filter_map(|f| Some(format!("{}: {}\n", f.check, f.remedy.as_ref()?)));
    let remedies: String = remedies.collect();
    let mut blocks = vec![table(["CHECK", "RESULT", "WHAT IS THERE"], &rows)];
    if !remedies.is_empty() {
        blocks.push(format!("What to do:\n{remedies}"));
    }
    blocks.join("\n")
}

#[cfg(test)]
mod tests;
