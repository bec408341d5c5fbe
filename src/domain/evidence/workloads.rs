//! Who owns a pod, and where a workload's rollout stands.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;

use super::{Workload, WorkloadKind};
use crate::api::{RESTART, RESTARTED_FOR};

/// Who owns an object, one step up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// A `ReplicaSet`, whose own owner is to be found.
    ReplicaSet(String),
    /// A Job, which may be a `CronJob`'s.
    Job(String),
    /// A workload.
    Workload(Workload),
}

/// The controller of an object.
pub fn controller_of(meta: &ObjectMeta) -> Owner {
    let owner = meta.owner_references.iter().flatten().find(|r| r.controller == Some(true));
    let Some(OwnerReference { api_version, kind, name, .. }) = owner else { return Owner::Nobody };
    let (group, _) = api_version.split_once('/').unwrap_or(("", api_version));
    let workload = |kind| Owner::Workload(Workload { kind, name: name.clone() });
    match (group, kind.as_str()) {
        ("apps", "ReplicaSet") => Owner::ReplicaSet(name.clone()),
        ("batch", "Job") => Owner::Job(name.clone()),
        ("apps", "Deployment") => workload(WorkloadKind::Deployment),
        ("apps", "StatefulSet") => workload(WorkloadKind::StatefulSet),
        ("apps", "DaemonSet") => workload(WorkloadKind::DaemonSet),
        ("batch", "CronJob") => workload(WorkloadKind::CronJob),
        // A static pod: its file on the node makes it.
        ("", "Node") => Owner::Nobody,
        ("", kind) => workload(WorkloadKind::Other(kind.to_owned())),
        (group, kind) => workload(WorkloadKind::Other(format!("{kind}.{group}"))),
    }
}

/// What a restart of a workload has to know.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of the workload")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rollout {
    /// Uid of the workload.
    pub uid: String,
    /// It says `llmkeys.dev/restart: "false"`.
    pub opted_out: bool,
    /// Its update strategy leaves pods to somebody else.
    pub on_delete: bool,
    /// It is paused.
    pub paused: bool,
    /// Its template's `llmkeys.dev/restarted-for`.
    pub restarted_for: Option<String>,
    /// Its controller has carried out what its template says.
    pub settled: bool,
    /// Its controller says that it does not get there.
    pub failed: bool,
}

impl Rollout {
    fn of(meta: &ObjectMeta, template: Option<&ObjectMeta>) -> Self {
        let of_template = template.and_then(|t| t.annotations.as_ref());
        let says_no = |annotations: Option<&BTreeMap<String, String>>| {
            annotations.and_then(|a| a.get(RESTART)).is_some_and(|value| value == "false")
        };
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            opted_out: says_no(of_template) || says_no(meta.annotations.as_ref()),
            restarted_for: of_template.and_then(|a| a.get(RESTARTED_FOR)).cloned(),
            ..Self::default()
        }
    }
}

/// The controller has seen the object as it is now.
fn observed(meta: &ObjectMeta, generation: Option<i64>) -> bool {
    generation.unwrap_or_default() >= meta.generation.unwrap_or_default()
}

/// A Deployment's.
pub fn deployment(of: &Deployment) -> Rollout {
    let spec = of.spec.as_ref();
    let mut rollout = Rollout::of(&of.metadata, spec.and_then(|s| s.template.metadata.as_ref()));
    rollout.paused = spec.and_then(|s| s.paused) == Some(true);
    let Some(status) = &of.status else { return rollout };
    let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
    let count = |n: Option<i32>| n.unwrap_or_default();
    rollout.settled = observed(&of.metadata, status.observed_generation)
        && count(status.updated_replicas) == wanted
        && count(status.replicas) == wanted
        && count(status.available_replicas) == wanted;
    rollout.failed = status.conditions.iter().flatten().any(|c| {
        c.type_ == "Progressing"
            && c.status == "False"
            && c.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    rollout
}

/// A `StatefulSet`'s. One with a partition leaves the pods below it as they are.
pub fn stateful_set(of: &StatefulSet) -> Rollout {
    let spec = of.spec.as_ref();
    let mut rollout = Rollout::of(&of.metadata, spec.and_then(|s| s.template.metadata.as_ref()));
    let strategy = spec.and_then(|s| s.update_strategy.as_ref());
    let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition);
    rollout.on_delete = strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete"))
        || partition.is_some_and(|partition| partition > 0);
    let Some(status) = &of.status else { return rollout };
    let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
    rollout.settled = observed(&of.metadata, status.observed_generation)
        && status.current_revision == status.update_revision
        && status.replicas == wanted
        && status.ready_replicas.unwrap_or_default() == wanted;
    rollout
}

/// A `DaemonSet`'s.
pub fn daemon_set(of: &DaemonSet) -> Rollout {
    let spec = of.spec.as_ref();
    let mut rollout = Rollout::of(&of.metadata, spec.and_then(|s| s.template.metadata.as_ref()));
    let strategy = spec.and_then(|s| s.update_strategy.as_ref());
    rollout.on_delete = strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete"));
    let Some(status) = &of.status else { return rollout };
    let wanted = status.desired_number_scheduled;
    rollout.settled = observed(&of.metadata, status.observed_generation)
        && status.updated_number_scheduled.unwrap_or_default() == wanted
        && status.number_available.unwrap_or_default() == wanted;
    rollout
}
