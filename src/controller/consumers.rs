//! A look at the pods and workloads of a namespace: listed, never watched or cached, and shared by the `LLMKey`s of the namespace for
//! a short while.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use k8s_openapi::NamespaceResourceScope as Namespaced;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::context::Ctx;
use crate::api::from_k8s;
use crate::domain::evidence::{
    Census, Consumer, Owner, PodUse, Reads, Rollout, Workload, WorkloadKind, controller_of, daemon_set,
    deployment, stateful_set, uses,
};

/// Objects in one answer.
const PAGE: u32 = 500;

/// A pod that uses Secrets and is not at its end.
struct Member {
    name: Box<str>,
    created: DateTime<Utc>,
    ending: bool,
    owner: Workload,
    uses: Vec<(Box<str>, Reads)>,
}

/// One look at a namespace.
pub struct Roster {
    /// When it began.
    pub at: DateTime<Utc>,
    pods: Vec<Member>,
    rollouts: BTreeMap<Workload, Rollout>,
}

/// The last look at each namespace; the lock lets one look at a time happen, so that those who wait have it too.
type Shared = Arc<tokio::sync::Mutex<Option<Arc<Roster>>>>;

/// The last looks, by namespace.
#[derive(Default)]
pub struct Rosters(Mutex<HashMap<String, Shared>>);

impl Rosters {
    fn of(&self, namespace: &str) -> Shared {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(namespace.to_owned()).or_default())
    }

    /// Forgets the last look at a namespace: something was changed there.
    pub fn forget(&self, namespace: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(namespace);
    }

    /// Forgets looks that nobody will use any more.
    fn drop_old(&self, before: DateTime<Utc>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, shared| match shared.try_lock() {
            Ok(last) => last.as_ref().is_some_and(|roster| roster.at >= before),
            Err(_) => true,
        });
    }
}

/// A look at a namespace that began at `not_before` or later. One that was had within the last `consumer_look` serves all.
pub async fn look(ctx: &Ctx, namespace: &str, not_before: DateTime<Utc>) -> Result<Arc<Roster>, kube::Error> {
    let shared = ctx.rosters.of(namespace);
    let mut last = shared.lock().await;
    let interval = chrono::Duration::from_std(ctx.timings.consumer_look).unwrap_or_default();
    let now = ctx.clock.now();
    if let Some(roster) = last.as_ref()
        && roster.at >= not_before
        && (roster.at..roster.at + interval).contains(&now)
    {
        return Ok(Arc::clone(roster));
    }
    *last = None;
    let roster = Arc::new(list(&ctx.client, namespace, ctx.clock.now()).await?);
    *last = Some(Arc::clone(&roster));
    drop(last);
    ctx.rosters.drop_old(now - interval * 4);
    Ok(roster)
}

/// Looks at a namespace with the client's rights, now: `at`.
pub async fn list(client: &Client, namespace: &str, at: DateTime<Utc>) -> Result<Roster, kube::Error> {
    // Rollouts first: pods that are older than a rollout that was over before are no part of it.
    let mut rollouts = BTreeMap::new();
    let mut keep = |kind, meta: &ObjectMeta, rollout| {
        rollouts.insert(Workload { kind, name: meta.name.clone().unwrap_or_default() }, rollout);
    };
    let each = |d: Deployment| keep(WorkloadKind::Deployment, &d.metadata, deployment(&d));
    pages(&namespaced(client, namespace), each).await?;
    let each = |s: StatefulSet| keep(WorkloadKind::StatefulSet, &s.metadata, stateful_set(&s));
    pages(&namespaced(client, namespace), each).await?;
    let each = |d: DaemonSet| keep(WorkloadKind::DaemonSet, &d.metadata, daemon_set(&d));
    pages(&namespaced(client, namespace), each).await?;
    let mut found: Vec<(Owner, Member)> = Vec::new();
    pages(&namespaced::<Pod>(client, namespace), |pod| found.extend(member(&pod))).await?;
    let of_kind = |wanted: fn(&Owner) -> bool| found.iter().any(|(owner, _)| wanted(owner));
    let replica_sets = if of_kind(|o| matches!(o, Owner::ReplicaSet(_))) {
        owners::<ReplicaSet>(client, namespace).await?
    } else {
        BTreeMap::new()
    };
    let jobs = if of_kind(|o| matches!(o, Owner::Job(_))) {
        owners::<Job>(client, namespace).await?
    } else {
        BTreeMap::new()
    };
    let owned =
        |(owner, pod): (Owner, Member)| Member { owner: top(owner, pod.owner, &replica_sets, &jobs), ..pod };
    let pods = found.into_iter().map(owned).collect();
    Ok(Roster { at, pods, rollouts })
}

fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = Namespaced>,
{
    Api::namespaced(client.clone(), namespace)
}

/// Every object, page by page, of one moment. Without a resourceVersion the API server asks etcd's quorum.
async fn pages<K>(api: &Api<K>, mut each: impl FnMut(K)) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut each);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(()),
        }
    }
}

/// Who owns each object of a kind.
async fn owners<K>(client: &Client, namespace: &str) -> Result<BTreeMap<String, Owner>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = Namespaced> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = namespaced(client, namespace);
    let mut found = BTreeMap::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list_metadata(&params).await?;
        let each = |object: PartialObjectMeta<K>| (object.name_any(), controller_of(&object.metadata));
        found.extend(page.items.into_iter().map(each));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(found),
        }
    }
}

/// A pod that uses Secrets and has not ended; until its owner's owner is known it counts as its own.
fn member(pod: &Pod) -> Option<(Owner, Member)> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let uses: Vec<(Box<str>, Reads)> =
        uses(pod).into_iter().map(|u| (u.secret.into_boxed_str(), u.reads)).collect();
    if uses.is_empty() {
        return None;
    }
    let member = Member {
        name: pod.name_any().into(),
        // One without a creation time counts as old.
        created: pod.creation_timestamp().map(|t| from_k8s(&t)).unwrap_or_default(),
        ending: pod.metadata.deletion_timestamp.is_some(),
        owner: Workload { kind: WorkloadKind::Pod, name: pod.name_any() },
        uses,
    };
    Some((controller_of(&pod.metadata), member))
}

/// The workload at the top of the chain.
fn top(
    owner: Owner,
    itself: Workload,
    replica_sets: &BTreeMap<String, Owner>,
    jobs: &BTreeMap<String, Owner>,
) -> Workload {
    match owner {
        Owner::Nobody => itself,
        Owner::Workload(workload) => workload,
        Owner::ReplicaSet(name) => match replica_sets.get(&name) {
            Some(Owner::Workload(workload)) => workload.clone(),
            _ => Workload { kind: WorkloadKind::Other("ReplicaSet.apps".into()), name },
        },
        Owner::Job(name) => match jobs.get(&name) {
            Some(Owner::Workload(workload)) if workload.kind == WorkloadKind::CronJob => workload.clone(),
            _ => Workload { kind: WorkloadKind::Job, name },
        },
    }
}

/// A pod that uses a Secret and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Its name.
    pub pod: &'a str,
    /// The workload that it belongs to.
    pub workload: &'a Workload,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// How it has the value.
    pub reads: Reads,
}

impl Roster {
    /// The pods that use one Secret.
    pub fn holders(&self, secret: &str) -> Vec<Holder<'_>> {
        let mut holders = Vec::new();
        for pod in &self.pods {
            if let Some((_, reads)) = pod.uses.iter().find(|(name, _)| **name == *secret) {
                let Member { name, created, owner, .. } = pod;
                holders.push(Holder { pod: name, workload: owner, created: *created, reads: *reads });
            }
        }
        holders
    }

    /// What it tells of one Secret.
    pub fn census(&self, secret: &str, may_restart: bool) -> Census {
        let mut consumers: BTreeMap<&Workload, Vec<PodUse>> = BTreeMap::new();
        for pod in &self.pods {
            if let Some((_, reads)) = pod.uses.iter().find(|(name, _)| **name == *secret) {
                let used = PodUse { created: pod.created, ending: pod.ending, reads: *reads };
                consumers.entry(&pod.owner).or_default().push(used);
            }
        }
        let restarting = |rollout: &&Rollout| rollout.restarted_for.is_some() && !rollout.settled;
        Census {
            consumers: consumers
                .into_iter()
                .map(|(workload, pods)| Consumer {
                    workload: workload.clone(),
                    pods,
                    rollout: self.rollouts.get(workload).cloned(),
                })
                .collect(),
            restarting: self.rollouts.values().filter(restarting).count(),
            may_restart,
        }
    }
}
