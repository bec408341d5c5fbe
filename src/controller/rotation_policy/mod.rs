//! The controller of both policy kinds: says whether the schedule works, how many keys follow it, and where they stand.

mod tally;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::ReconcileError;
use super::context::Ctx;
use crate::api::{
    ClusterRotationPolicy, ConditionStatus, ConditionType, Conditions, FIELD_MANAGER, LLMKey, PolicyKind,
    Reason, RotationPolicy, RotationPolicySpec, RotationPolicyStatus,
};
use crate::domain::schedule;
use crate::telemetry::metrics::{Controller, Outcome};
use tally::{Tally, tally};

/// Between two counts of the keys: so seldom a status is written, unless the spec was changed.
const RECOUNT: Duration = Duration::from_secs(30);

/// With test time, too.
const RECOUNT_LEAST: Duration = Duration::from_secs(1);

/// What a reconcile knows.
struct Observed {
    generation: i64,
    spec: Result<RotationPolicySpec, ()>,
    tally: Tally,
}

/// One reconcile of a namespaced policy.
pub async fn reconcile(
    policy: Arc<DeserializeGuard<RotationPolicy>>,
    ctx: Arc<Ctx>,
) -> Result<Action, ReconcileError> {
    let (name, namespace) = (policy.name_any(), policy.namespace().unwrap_or_default());
    let (spec, status) = split(policy.0.as_ref(), |p| (p.spec.clone(), p.status.clone()));
    let tally = count(&ctx, &spec, |key| {
        key.namespace().as_deref() == Some(&namespace)
            && key
                .spec
                .rotation_policy_ref
                .as_ref()
                .is_some_and(|r| r.kind == PolicyKind::RotationPolicy && r.name == name)
    });
    let observed = Observed { generation: policy.meta().generation.unwrap_or_default(), spec, tally };
    let api: Api<PartialObjectMeta<RotationPolicy>> = Api::namespaced(ctx.client.clone(), &namespace);
    write(&ctx, &api, &name, &observed, &status.unwrap_or_default()).await
}

/// One reconcile of a cluster policy.
pub async fn reconcile_cluster(
    policy: Arc<DeserializeGuard<ClusterRotationPolicy>>,
    ctx: Arc<Ctx>,
) -> Result<Action, ReconcileError> {
    let name = policy.name_any();
    let (spec, status) = split(policy.0.as_ref(), |p| (p.spec.policy.clone(), p.status.clone()));
    let tally = count(&ctx, &spec, |key| match &key.spec.rotation_policy_ref {
        Some(reference) => reference.kind == PolicyKind::ClusterRotationPolicy && reference.name == name,
        None => name == "default",
    });
    let observed = Observed { generation: policy.meta().generation.unwrap_or_default(), spec, tally };
    let api: Api<PartialObjectMeta<ClusterRotationPolicy>> = Api::all(ctx.client.clone());
    write(&ctx, &api, &name, &observed, &status.unwrap_or_default()).await
}

type Parts = (Result<RotationPolicySpec, ()>, Option<RotationPolicyStatus>);

fn split<P>(
    policy: Result<&P, &InvalidObject>,
    parts: impl Fn(&P) -> (RotationPolicySpec, Option<RotationPolicyStatus>),
) -> Parts {
    match policy {
        Ok(policy) => {
            let (spec, status) = parts(policy);
            (Ok(spec), status)
        }
        Err(_) => (Err(()), None),
    }
}

fn count(ctx: &Ctx, spec: &Result<RotationPolicySpec, ()>, follows: impl Fn(&LLMKey) -> bool) -> Tally {
    let keys = ctx.stores.keys.state();
    let keys = keys.iter().filter_map(|key| key.0.as_ref().ok()).filter(|key| follows(key));
    let timeout = spec.as_ref().ok().and_then(|spec| spec.timeout);
    let timeout = timeout.map_or(ctx.timings.rotation_timeout, |given| ctx.timings.scale(given.into()));
    tally(keys, timeout, ctx.clock.now())
}

fn recount(ctx: &Ctx) -> Action {
    Action::requeue(ctx.timings.scale(RECOUNT).max(RECOUNT_LEAST))
}

/// A policy has no effects: its decision is its status.
fn status(o: &Observed, before: &[Condition], now: chrono::DateTime<chrono::Utc>) -> RotationPolicyStatus {
    use ConditionStatus::{False, True};
    let mut conditions = Conditions::new(before, o.generation, now);
    conditions.set(ConditionType::Reconciling, False, Reason::Idle, "");
    let described = match o.spec.as_ref().map(schedule::parse) {
        Ok(Ok(plan)) => {
            conditions.set(ConditionType::Ready, True, Reason::ScheduleValid, "the schedule works");
            conditions.set(ConditionType::Stalled, False, Reason::NotStalled, "");
            Some(schedule::describe(&plan))
        }
        Ok(Err(error)) => {
            conditions.set(ConditionType::Ready, False, Reason::ScheduleImpossible, &error.to_string());
            conditions.set(ConditionType::Stalled, True, Reason::ScheduleImpossible, &error.to_string());
            None
        }
        Err(()) => {
            let message = "the resource as it is stored does not have the CRD's form; apply it again";
            conditions.set(ConditionType::Ready, False, Reason::Malformed, message);
            conditions.set(ConditionType::Stalled, True, Reason::Malformed, message);
            None
        }
    };
    RotationPolicyStatus {
        observed_generation: Some(o.generation),
        conditions: conditions.finish(),
        schedule: described,
        keys: Some(o.tally.keys),
        in_flight: Some(o.tally.in_flight),
        waiting: Some(o.tally.waiting),
        waiting_for: o.tally.waiting_for.clone(),
        overdue: Some(o.tally.overdue),
        failed: Some(o.tally.failed),
        upcoming: o.tally.upcoming.clone(),
    }
}

async fn write<K>(
    ctx: &Ctx,
    api: &Api<PartialObjectMeta<K>>,
    name: &str,
    observed: &Observed,
    before: &RotationPolicyStatus,
) -> Result<Action, ReconcileError>
where
    K: Resource<DynamicType = ()>,
{
    if !ctx.leader.is_leader() {
        return Err(ReconcileError::NotLeader);
    }
    if !ctx.is_loaded() {
        return Ok(Action::requeue(super::LOADING));
    }
    let pass = ctx.metrics.begin(Controller::RotationPolicy, ctx.clock);
    let status = status(observed, &before.conditions, ctx.clock.now());
    if status == *before {
        pass.finish(Outcome::Skipped);
        return Ok(recount(ctx));
    }
    let patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status});
    api.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await?;
    pass.finish(Outcome::Applied);
    Ok(recount(ctx))
}
