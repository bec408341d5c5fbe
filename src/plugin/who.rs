//! `kubectl llmkey who`: which pods have which version of a key, by the evidence that the operator judges by.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde::Serialize;

use super::PluginError;
use super::args::KeyArgs;
use super::cluster::{connect, key, refused};
use super::table::{notes, table};
use crate::api::{LLMKey, LLMKeyStatus, TargetRollout, VersionStatus, parse_rfc3339, rfc3339};
use crate::controller::consumers::{Holder, Roster, list};
use crate::controller::llm_key::written;
use crate::domain::evidence::{Question, Reads, Standing, current_from, judge};
use crate::domain::timings::Timings;
use crate::kube_ext::clock::Clock;

/// What no list of pods shows; part of every answer.
const UNSEEN: &str = "copies of the key, programs that read the Secret through the API, and pods of other namespaces are not seen";

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Secret that pods use.
    pub secret: String,
    /// The published version.
    pub current_version: Option<i32>,
    /// Pods that are created from then on have it, RFC 3339.
    pub since: Option<String>,
    /// Workloads, by the version that their pods have: those with older ones first.
    pub workloads: Vec<Row>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// Pods of one workload with the same version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Kind of the workload.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The version that the pods have; none: one that status does not know any more.
    pub version: Option<i32>,
    /// State of that version: Current, Overlap, Revoked, ...
    pub version_state: Option<String>,
    /// Last four characters of its key.
    pub last_four: Option<String>,
    /// Where the workload stands: Current, Presumed, Stale or Straggler.
    pub state: String,
    /// Why, if it is Stale or a Straggler.
    pub reason: Option<String>,
    /// `Once`, or `Anew` for pods that say that they read the file anew.
    pub reads: &'static str,
    /// The pods.
    pub pods: Vec<String>,
}

/// Asks the cluster.
pub async fn who(args: &KeyArgs, clock: Clock, timings: &Timings) -> Result<Report, PluginError> {
    let (client, namespace) = connect(&args.cluster).await?;
    let key = key(&Api::namespaced(client.clone(), &namespace), &namespace, &args.name).await?;
    holders(&client, &key, clock, timings).await
}

/// The same of an `LLMKey` that was read.
pub async fn holders(
    client: &Client,
    key: &LLMKey,
    clock: Clock,
    timings: &Timings,
) -> Result<Report, PluginError> {
    let namespace = key.namespace().unwrap_or_default();
    let mut notes = Vec::new();
    let at = clock.now();
    let roster = list(client, &namespace, at).await.map_err(|error| {
        refused(
            &format!(
                "pods, Deployments, StatefulSets, DaemonSets, ReplicaSets and Jobs of namespace {namespace}"
            ),
            &error,
        )
    })?;
    let written = match secret_written(client, &namespace, &secret_of(key)).await {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if status.code == 403 => {
            notes.push("you may not read the Secret, so its time is that of the publishing; after a repair it is later".to_owned());
            None
        }
        Err(error) => {
            return Err(refused(&format!("Secret {} of namespace {namespace}", secret_of(key)), &error));
        }
    };
    Ok(report(key, &roster, written, at, timings, notes))
}

fn secret_of(key: &LLMKey) -> String {
    key.spec.target.secret_name.clone().unwrap_or_else(|| key.name_any())
}

/// When the operator last wrote the Secret. Its values are not asked for.
async fn secret_written(
    client: &Client,
    namespace: &str,
    secret: &str,
) -> Result<Option<DateTime<Utc>>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found: Option<PartialObjectMeta<Secret>> = api.get_metadata_opt(secret).await?;
    Ok(found.and_then(|secret| written(&secret.metadata)))
}

/// Judges what was listed.
fn report(
    key: &LLMKey,
    roster: &Roster,
    written: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    timings: &Timings,
    mut notes: Vec<String>,
) -> Report {
    let status = key.status.clone().unwrap_or_default();
    let secret = secret_of(key);
    let published = Published::of(&status, written, timings);
    let mut rows: BTreeMap<(bool, String, String, Option<i32>, Reads), Row> = BTreeMap::new();
    let standings = standings(key, &status, roster, &published, now, timings);
    for holder in roster.holders(&secret) {
        let version = published.held(&holder);
        let name = holder.workload.to_string();
        let current = version.is_some() && version == status.current_version;
        let shown = status.versions.iter().find(|v| Some(v.version) == version);
        let place =
            (current, holder.workload.kind.to_string(), holder.workload.name.clone(), version, holder.reads);
        let row = rows.entry(place).or_insert_with(|| {
            let (state, reason) = match standings.get(&name).filter(|_| !current) {
                Some((state, reason)) => (state.clone(), reason.clone()),
                None => ("Current".to_owned(), None),
            };
            Row {
                kind: holder.workload.kind.to_string(),
                name: holder.workload.name.clone(),
                version,
                version_state: shown.map(|v| v.state.clone()),
                last_four: shown.and_then(|v| v.last_four.clone()),
                state,
                reason,
                reads: if holder.reads == Reads::Anew { "Anew" } else { "Once" },
                pods: Vec::new(),
            }
        });
        row.pods.push(holder.pod.to_owned());
    }
    if status.current_version.is_none() {
        notes.push("nothing is published yet".to_owned());
    }
    notes.push(UNSEEN.to_owned());
    Report {
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        secret,
        current_version: status.current_version,
        since: published.current.map(|(_, from)| rfc3339(from)),
        workloads: rows.into_values().collect(),
        notes,
    }
}

/// From when on a pod that is created has which version.
struct Published {
    /// All that status knows, by time.
    times: Vec<(DateTime<Utc>, i32)>,
    /// The current one, and from when on.
    current: Option<(i32, DateTime<Utc>)>,
    /// When the Secret got it.
    since: Option<DateTime<Utc>>,
}

impl Published {
    fn of(status: &LLMKeyStatus, written: Option<DateTime<Utc>>, timings: &Timings) -> Self {
        let time = |v: &VersionStatus| parse_rfc3339(v.published_at.as_deref()?);
        let current = status.versions.iter().find(|v| Some(v.version) == status.current_version);
        let since = current.and_then(time).map(|at| written.map_or(at, |written| at.max(written)));
        let mut times: Vec<(DateTime<Utc>, i32)> = status
            .versions
            .iter()
            .filter(|v| Some(v.version) != status.current_version)
            .filter_map(|v| Some((current_from(time(v)?, timings), v.version)))
            .collect();
        let current = since.zip(status.current_version).map(|(at, n)| (n, current_from(at, timings)));
        times.extend(current.map(|(n, from)| (from, n)));
        times.sort_unstable();
        Self { times, current, since }
    }

    /// The version that a pod has at least. A repaired Secret counts from the repair, as it does for the operator: until
    /// then a pod may have what another hand had put there.
    fn held(&self, holder: &Holder<'_>) -> Option<i32> {
        self.times.iter().rev().find(|(from, _)| *from <= holder.created).map(|(_, version)| *version)
    }
}

/// Where each workload stands: as the operator says where it looked at this version, else as anybody can tell.
fn standings(
    key: &LLMKey,
    status: &LLMKeyStatus,
    roster: &Roster,
    published: &Published,
    now: DateTime<Utc>,
    timings: &Timings,
) -> BTreeMap<String, (String, Option<String>)> {
    let mut standings = BTreeMap::new();
    let open = status.versions.iter().any(|v| v.state == "Overlap");
    if let (Some((version, _)), Some(since)) = (published.current, published.since) {
        let question = Question {
            key: &key.name_any(),
            version,
            since,
            restarts: &[],
            refused: &BTreeSet::new(),
            automatic: key.spec.target.rollout != Some(TargetRollout::None),
            now,
        };
        for judged in judge(&roster.census(&secret_of(key), true), &question, timings) {
            // Nobody restarts anything once no older key works.
            let reason =
                judged.standing.reason().filter(|_| open || !matches!(judged.standing, Standing::Stale(_)));
            let told = (judged.standing.as_str().to_owned(), reason.map(str::to_owned));
            standings.insert(judged.workload.to_string(), told);
        }
    }
    for consumer in &status.consumers {
        let told = (consumer.state.clone(), consumer.reason.clone());
        standings.insert(format!("{}/{}", consumer.kind, consumer.name), told);
    }
    standings
}

/// The answer for people.
pub fn text(report: &Report) -> String {
    let Report { name, secret, workloads, .. } = report;
    let mut blocks = Vec::new();
    if let (Some(version), Some(since)) = (report.current_version, &report.since) {
        blocks.push(format!(
            "{name} is at version {version}; pods that use Secret {secret} and were created from {since} on have it.\n"
        ));
    }
    if workloads.is_empty() {
        blocks.push(format!("No pod uses Secret {secret}.\n"));
    } else {
        let rows: Vec<[String; 6]> = workloads.iter().map(cells).collect();
        blocks.push(table(["WORKLOAD", "PODS", "VERSION", "KEY", "STATE", "REASON"], &rows));
    }
    blocks.extend(notes(&report.notes));
    blocks.join("\n")
}

fn cells(row: &Row) -> [String; 6] {
    let version = match (row.version, &row.version_state) {
        (Some(version), Some(state)) => format!("{version} ({state})"),
        (Some(version), None) => version.to_string(),
        (None, _) => "unknown".to_owned(),
    };
    [
        format!("{}/{}", row.kind, row.name),
        row.pods.len().to_string(),
        version,
        row.last_four.as_ref().map_or_else(String::new, |four| format!("...{four}")),
        row.state.clone(),
        row.reason.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Version 1 from 0 s on, version 2 from 1000 s on.
    fn status() -> LLMKeyStatus {
        serde_json::from_value(json!({
            "currentVersion": 2,
            "versions": [
                {"version": 2, "state": "Current", "origin": "Minted", "reason": "Schedule", "publishedAt": rfc3339(at(1000))},
                {"version": 1, "state": "Overlap", "origin": "Minted", "reason": "Initial", "publishedAt": rfc3339(at(0))},
                {"version": 3, "state": "Pending", "origin": "Minted", "reason": "Schedule"},
            ],
        }))
        .unwrap()
    }

    fn held(published: &Published, created: i64) -> Option<i32> {
        let workload = crate::domain::evidence::Workload {
            kind: crate::domain::evidence::WorkloadKind::Pod,
            name: "app".into(),
        };
        let holder = Holder { pod: "app", workload: &workload, created: at(created), reads: Reads::Once };
        published.held(&holder)
    }

    #[test]
    fn a_pod_has_what_the_secret_held_a_margin_before_it_was_created() {
        let timings = Timings::default();
        let published = Published::of(&status(), None, &timings);
        let found: Vec<_> = [30, 60, 1059, 1060].map(|created| held(&published, created)).into();
        assert_eq!(found, [None, Some(1), Some(1), Some(2)]);
        let repaired = Published::of(&status(), Some(at(5000)), &timings);
        assert_eq!([5059, 5060].map(|created| held(&repaired, created)), [Some(1), Some(2)]);
        assert_eq!(repaired.current, Some((2, at(5060))));
        let older = Published::of(&status(), Some(at(10)), &timings);
        assert_eq!(older.current, Some((2, at(1060))), "a time before the publishing is no repair of it");
    }
}
