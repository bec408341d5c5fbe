//! `kubectl llmkey support-bundle`: what somebody needs who helps with an installation, and nothing that is secret.
//!
//! Secrecy rests on what is copied, not on what is taken out: each kind has a list of fields ([`fields`]), and nothing else enters. Data of
//! Secrets is never asked for, except that of ledgers, which hold sealed keys, and of which the record's listed fields are copied.

mod fields;
mod log;
mod parts;
mod pick;
mod write;

use std::path::PathBuf;

use kube::Client;
use serde::Serialize;
use serde_json::json;

use super::PluginError;
use super::args::{BundleArgs, DoctorArgs};
use super::cluster::connect;
use super::doctor;
use super::table::table;
use crate::api::rfc3339;
use crate::kube_ext::clock::Clock;
use parts::Asked;
use write::Entry;

/// What is said to whoever opens it.
const README: &str = "\
What kubectl llmkey support-bundle found. Look through it before you hand it on.

It has no keys and no data of Secrets: of each object only listed fields were copied. It has names: of namespaces, LLMKeys, Secrets,
workloads, providers' projects and key ids, pods and nodes, and the last four characters and keyed hashes of keys, as status shows them.

bundle.json              when, of which versions, and what could not be had
doctor.json              the checks of kubectl llmkey doctor
crds.json                which versions of the kinds are served and stored
deployments.json, pods.json, leases.json    the operator
llmkeys.json, rotationpolicies.json, clusterrotationpolicies.json, llmproviders.json    what is declared, and its status
ledgers.json             states, fingerprints and times of all versions, as the ledgers have them; without the sealed keys
ledger-secrets.json      the Secrets that hold them, by name and version
events.json              the operator's events
logs/                    the operator's last log lines; fields that are not known were left out
metrics/                 the operator's own metrics
";

/// A part that the bundle does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which.
    pub part: String,
    /// Why not.
    pub why: String,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where.
    pub place: PathBuf,
    /// Its files: name and bytes.
    pub files: Vec<(String, usize)>,
    /// What could not be had.
    pub missing: Vec<Missing>,
}

/// Gathers and writes.
///
/// # Errors
/// The cluster cannot be reached, or the place cannot be written.
pub async fn bundle(args: &BundleArgs, clock: Clock) -> Result<Report, PluginError> {
    let (client, namespace) = connect(&args.cluster).await?;
    let now = clock.now();
    let place = args
        .to
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("llmkey-support-{}.tar.gz", now.format("%Y%m%dT%H%M%SZ"))));
    let asked = Asked {
        client: client.clone(),
        namespace: (!args.all_namespaces).then_some(namespace.clone()),
        home: args.operator_namespace.clone(),
        log_lines: args.log_lines,
        log_file: args.log_file.clone(),
    };
    let (mut entries, missing) = parts::all(&asked).await?;
    entries.push(Entry { name: "doctor.json".into(), text: examined(args, clock).await? });
    let about = json!({
        "madeAt": rfc3339(now),
        "plugin": env!("CARGO_PKG_VERSION"),
        "kubernetes": version(&client).await,
        "namespaces": asked.namespace.as_deref().unwrap_or("all"),
        "operatorNamespace": args.operator_namespace,
        "missing": missing,
    });
    entries.push(Entry { name: "bundle.json".into(), text: serde_json::to_string_pretty(&about)? + "\n" });
    entries.push(Entry { name: "README.txt".into(), text: README.into() });
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let seconds = now.timestamp().try_into().unwrap_or_default();
    write::write(&place, &entries, seconds).map_err(|error| PluginError::File {
        file: place.display().to_string(),
        why: format!("{error}; name another place with --to"),
    })?;
    let files = entries.into_iter().map(|entry| (entry.name, entry.text.len())).collect();
    Ok(Report { place, files, missing })
}

async fn examined(args: &BundleArgs, clock: Clock) -> Result<String, PluginError> {
    let checks = DoctorArgs {
        operator_namespace: args.operator_namespace.clone(),
        all_namespaces: args.all_namespaces,
        output: super::Output::Json,
        cluster: args.cluster.clone(),
    };
    let report = serde_json::to_value(doctor::doctor(&checks, clock).await?)?;
    let told =
        pick::pick(&report, &["findings check", "findings verdict", "findings found", "findings remedy"]);
    Ok(serde_json::to_string_pretty(&told)? + "\n")
}

async fn version(client: &Client) -> String {
    client.apiserver_version().await.map_or_else(|_| "not known".to_owned(), |version| version.git_version)
}

/// The answer for people.
pub fn text(report: &Report) -> String {
    let rows: Vec<[String; 2]> =
        report.files.iter().map(|(name, bytes)| [name.clone(), bytes.to_string()]).collect();
    let mut blocks = vec![table(["FILE", "BYTES"], &rows)];
    if !report.missing.is_empty() {
        let missing = report.missing.iter().map(|m| format!("{}: {}\n", m.part, m.why));
        blocks.push(format!("Not in it:\n{}", missing.collect::<String>()));
    }
    blocks.push(format!(
        "Written to {}. It has names, and no keys; look through it before you hand it on.\n",
        report.place.display()
    ));
    blocks.join("\n")
}
