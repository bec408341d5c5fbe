//! The controller of both policy kinds: says whether the schedule works, and how many keys follow it.

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

/// Between two counts of the keys.
const RECOUNT: Duration = Duration::from_secs(60);

/// What a reconcile knows.
struct Observed {
    generation: i64,
    spec: Result<RotationPolicySpec, ()>,
    keys: usize,
}

/// One reconcile of a namespaced policy.
pub async fn reconcile(
    policy: Arc<DeserializeGuard<RotationPolicy>>,
    ctx: Arc<Ctx>,
) -> Result<Action, ReconcileError> {
    let (name, namespace) = (policy.name_any(), policy.namespace().unwrap_or_default());
    let (spec, status) = split(policy.0.as_ref(), |p| (p.spec.clone(), p.status.clone()));
    let keys = count(&ctx, |key| {
        key.namespace().as_deref() == Some(&namespace)
            && key
                .spec
                .rotation_policy_ref
                .as_ref()
                .is_some_and(|r| r.kind == PolicyKind::RotationPolicy && r.name == name)
    });
    let observed = Observed { generation: policy.meta().generation.unwrap_or_default(), spec, keys };
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
    let keys = count(&ctx, |key| match &key.spec.rotation_policy_ref {
        Some(reference) => reference.kind == PolicyKind::ClusterRotationPolicy && reference.name == name,
        None => name == "default",
    });
    let observed = Observed { generation: policy.meta().generation.unwrap_or_default(), spec, keys };
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

fn count(ctx: &Ctx, follows: impl Fn(&LLMKey) -> bool) -> usize {
    ctx.stores.keys.state().iter().filter(|key| key.0.as_ref().is_ok_and(&follows)).count()
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
        keys: i32::try_from(o.keys).ok(),
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
        return Ok(Action::requeue(RECOUNT));
    }
    let patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status});
    api.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await?;
    pass.finish(Outcome::Applied);
    Ok(Action::requeue(RECOUNT))
}
