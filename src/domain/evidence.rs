//! Which workloads use the target Secret, and which of them have its current version: what a revocation rests on.
//!
//! Pods are the evidence. A pod has what the Secret held when its containers started, so one that was created a margin after the
//! Secret was written has the new value, and an older one counts as having the old. What a template asks for is only a plan.

mod reads;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::after;
use super::timings::Timings;
pub use reads::{Reads, Use, uses};
pub use workloads::{Owner, Rollout, controller_of, daemon_set, deployment, stateful_set};

/// Restarts of one workload for one version. A third one would be a fight.
pub const MAX_TRIES: u32 = 2;

/// Workloads of a namespace that restart at the same time, by the operator's doing.
pub const RESTARTS_AT_ONCE: usize = 3;

/// Creation times are cut to whole seconds, and the clocks of several API servers differ a little.
const SLACK: Duration = Duration::from_secs(2);

/// Kind of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// Restarted by its template's annotation.
    Deployment,
    /// Restarted by its template's annotation.
    StatefulSet,
    /// Restarted by its template's annotation.
    DaemonSet,
    /// Runs to its end.
    Job,
    /// Each run starts anew; one that runs is waited for.
    CronJob,
    /// A pod that nothing would make again.
    Pod,
    /// What another controller owns: kind and group.
    Other(String),
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Pod => "Pod",
            Self::Other(kind) => kind,
        })
    }
}

/// A workload of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A pod that uses the Secret and is not at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodUse {
    /// When it was created.
    pub created: DateTime<Utc>,
    /// It is being deleted.
    pub ending: bool,
    /// How it has the value.
    pub reads: Reads,
}

/// A workload with pods that use the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// Which.
    pub workload: Workload,
    /// Its pods that use the Secret.
    pub pods: Vec<PodUse>,
    /// What a restart has to know; none for what cannot be restarted, or is gone.
    pub rollout: Option<Rollout>,
}

/// What one look at a namespace told about one Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Census {
    /// The workloads that use it.
    pub consumers: Vec<Consumer>,
    /// Workloads of the namespace whose restart by the operator is not over.
    pub restarting: usize,
    /// The operator may restart workloads.
    pub may_restart: bool,
}

/// A look at the consumers of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// When it began.
    pub at: DateTime<Utc>,
    /// What it told, or why it told nothing.
    pub found: Result<Census, String>,
}

/// Restarts of one workload so far, on record before they happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Kind and name, as [`Workload`] is written.
    pub workload: String,
    /// How often.
    pub tries: u32,
    /// The last time.
    pub at: DateTime<Utc>,
}

/// What stands in the template's annotation after the given try.
pub fn mark(key: &str, version: i32, tries: u32) -> String {
    if tries > 1 { format!("{key}/{version}/{tries}") } else { format!("{key}/{version}") }
}

/// What keeps a workload from the current version, and waits for a person (or for its end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obstacle {
    /// Its template or itself says `llmkeys.dev/restart: "false"`.
    OptedOut,
    /// Its update strategy replaces no pods, or not all of them.
    OnDelete,
    /// It is paused.
    Paused,
    /// A run that began with the older version is not over.
    RunningJob,
    /// Another controller owns it, or takes the restart back.
    OwnedByController,
    /// A rollout does not end, or did not replace the pods.
    RolloutFailed,
    /// Admission refused the restart.
    RefusedByAdmission,
    /// Nothing would make the pod again.
    BarePod,
    /// The operator restarts nothing here.
    RolloutDisabled,
}

impl Obstacle {
    /// Every obstacle.
    pub const ALL: [Self; 9] = [
        Self::OptedOut,
        Self::OnDelete,
        Self::Paused,
        Self::RunningJob,
        Self::OwnedByController,
        Self::RolloutFailed,
        Self::RefusedByAdmission,
        Self::BarePod,
        Self::RolloutDisabled,
    ];

    /// The obstacle as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OptedOut => "OptedOut",
            Self::OnDelete => "OnDelete",
            Self::Paused => "Paused",
            Self::RunningJob => "RunningJob",
            Self::OwnedByController => "OwnedByController",
            Self::RolloutFailed => "RolloutFailed",
            Self::RefusedByAdmission => "RefusedByAdmission",
            Self::BarePod => "BarePod",
            Self::RolloutDisabled => "RolloutDisabled",
        }
    }
}

/// What a workload with older pods waits for, without anybody's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Waits {
    /// It has its turn when others are through.
    RestartPending,
    /// Its pods are being replaced.
    Restarting,
    /// Its containers read the file anew within a while.
    Reloading,
}

impl Waits {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::RestartPending, Self::Restarting, Self::Reloading];

    /// What status shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RestartPending => "RestartPending",
            Self::Restarting => "Restarting",
            Self::Reloading => "Reloading",
        }
    }
}

/// Where a workload stands. In the order in which status lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It does not get there by itself.
    Straggler(Obstacle),
    /// It is on its way.
    Stale(Waits),
    /// All its pods are newer, or say that they read the file anew.
    Presumed,
    /// All its pods are newer.
    Current,
}

impl Standing {
    /// The state as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Straggler(_) => "Straggler",
            Self::Stale(_) => "Stale",
            Self::Presumed => "Presumed",
            Self::Current => "Current",
        }
    }

    /// Why, where there is a why.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Straggler(obstacle) => Some(obstacle.as_str()),
            Self::Stale(waits) => Some(waits.as_str()),
            Self::Presumed | Self::Current => None,
        }
    }

    /// Whether it counts as having the current version.
    pub const fn is_current(self) -> bool {
        matches!(self, Self::Presumed | Self::Current)
    }
}

/// A workload, judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Judged {
    /// Which.
    pub workload: Workload,
    /// Where it stands.
    pub standing: Standing,
    /// Pods that may have the older value.
    pub stale: usize,
}

/// What is asked of a census.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Name of the LLMKey.
    pub key: &'a str,
    /// The version that they should have.
    pub version: i32,
    /// When the Secret got it.
    pub since: DateTime<Utc>,
    /// Restarts for this version so far.
    pub restarts: &'a [Restart],
    /// Workloads whose restart admission refused.
    pub refused: &'a BTreeSet<String>,
    /// The LLMKey lets its workloads be restarted.
    pub automatic: bool,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Pods that are created from then on have the version that the Secret got at `since`.
pub fn current_from(since: DateTime<Utc>, timings: &Timings) -> DateTime<Utc> {
    after(since, timings.consumer_margin)
}

/// From then on a look tells of every pod that may have the older version, and what is restarted starts with the newer one.
pub fn looks_from(since: DateTime<Utc>, timings: &Timings) -> DateTime<Utc> {
    after(current_from(since, timings), SLACK)
}

/// Where each workload stands, stragglers first.
pub fn judge(census: &Census, question: &Question<'_>, timings: &Timings) -> Vec<Judged> {
    let mut judged: Vec<Judged> =
        census.consumers.iter().map(|consumer| stand(consumer, census, question, timings)).collect();
    judged.sort_by(|a, b| (a.standing, &a.workload).cmp(&(b.standing, &b.workload)));
    judged
}

fn stand(consumer: &Consumer, census: &Census, question: &Question<'_>, timings: &Timings) -> Judged {
    let current_from = current_from(question.since, timings);
    let older: Vec<&PodUse> = consumer.pods.iter().filter(|pod| pod.created < current_from).collect();
    let read_anew = question.now >= after(question.since, timings.reload_presumed);
    let stale: Vec<&PodUse> =
        older.iter().copied().filter(|pod| pod.reads != Reads::Anew || !read_anew).collect();
    let standing = if older.is_empty() {
        Standing::Current
    } else if stale.is_empty() {
        Standing::Presumed
    } else if stale.iter().all(|pod| pod.reads == Reads::Anew) {
        Standing::Stale(Waits::Reloading)
    } else {
        behind(consumer, &stale, census, question, timings)
    };
    Judged { workload: consumer.workload.clone(), standing, stale: stale.len() }
}

/// A workload with pods that have the older value.
fn behind(
    consumer: &Consumer,
    stale: &[&PodUse],
    census: &Census,
    question: &Question<'_>,
    timings: &Timings,
) -> Standing {
    let on_its_way = || Standing::Stale(Waits::Restarting);
    if stale.iter().all(|pod| pod.ending) {
        return on_its_way();
    }
    let rollout = match (&consumer.workload.kind, &consumer.rollout) {
        (WorkloadKind::Job | WorkloadKind::CronJob, _) => return Standing::Straggler(Obstacle::RunningJob),
        (WorkloadKind::Other(_), _) => return Standing::Straggler(Obstacle::OwnedByController),
        (WorkloadKind::Pod, _) | (_, None) => return Standing::Straggler(Obstacle::BarePod),
        (_, Some(rollout)) => rollout,
    };
    let obstacle = if rollout.opted_out {
        Some(Obstacle::OptedOut)
    } else if rollout.on_delete {
        Some(Obstacle::OnDelete)
    } else if rollout.paused {
        Some(Obstacle::Paused)
    } else if !question.automatic || !census.may_restart {
        Some(Obstacle::RolloutDisabled)
    } else {
        None
    };
    if let Some(obstacle) = obstacle {
        return Standing::Straggler(obstacle);
    }
    let name = consumer.workload.to_string();
    let before = question.restarts.iter().find(|restart| restart.workload == name);
    let began = before.map_or(question.since, |restart| restart.at);
    if !rollout.settled {
        let late = question.now >= after(began, timings.rollout_deadline);
        return if rollout.failed || late {
            Standing::Straggler(Obstacle::RolloutFailed)
        } else {
            on_its_way()
        };
    }
    let Some(before) = before else { return Standing::Stale(Waits::RestartPending) };
    if question.now < after(before.at, timings.restart_retry) {
        return on_its_way();
    }
    if before.tries < MAX_TRIES {
        return Standing::Stale(Waits::RestartPending);
    }
    let marked =
        rollout.restarted_for.as_deref() == Some(&mark(question.key, question.version, before.tries));
    Standing::Straggler(if marked {
        Obstacle::RolloutFailed
    } else if question.refused.contains(&name) {
        Obstacle::RefusedByAdmission
    } else {
        Obstacle::OwnedByController
    })
}

/// The workloads that are restarted next, as far as the budget of the namespace goes. None while one of them does not come back:
/// what is wrong with it may be wrong with all.
pub fn next_restarts<'a>(
    census: &'a Census,
    judged: &[Judged],
    restarts: &[Restart],
) -> Vec<(&'a Workload, &'a Rollout)> {
    let restarted = |workload: &Workload| {
        let name = workload.to_string();
        restarts.iter().any(|restart| restart.workload == name)
    };
    let failed = |one: &Judged| {
        one.standing == Standing::Straggler(Obstacle::RolloutFailed) && restarted(&one.workload)
    };
    if judged.iter().any(failed) {
        return Vec::new();
    }
    let budget = RESTARTS_AT_ONCE.saturating_sub(census.restarting);
    judged
        .iter()
        .filter(|one| one.standing == Standing::Stale(Waits::RestartPending))
        .filter_map(|one| {
            let consumer = census.consumers.iter().find(|consumer| consumer.workload == one.workload)?;
            Some((&consumer.workload, consumer.rollout.as_ref()?))
        })
        .take(budget)
        .collect()
}

/// Tries as they stand after the given workloads are restarted once more.
pub fn tried_again<'a>(
    restarts: &[Restart],
    workloads: impl IntoIterator<Item = &'a Workload>,
    at: DateTime<Utc>,
) -> Vec<Restart> {
    let mut all: BTreeMap<String, Restart> =
        restarts.iter().map(|restart| (restart.workload.clone(), restart.clone())).collect();
    for workload in workloads {
        let name = workload.to_string();
        let entry = all.entry(name.clone()).or_insert(Restart { workload: name, tries: 0, at });
        entry.tries += 1;
        entry.at = at;
    }
    all.into_values().collect()
}

/// The tries of one workload so far.
pub fn tries(restarts: &[Restart], workload: &Workload) -> u32 {
    let name = workload.to_string();
    restarts.iter().find(|restart| restart.workload == name).map_or(0, |restart| restart.tries)
}
