//! Effects on workloads: looking at them, and restarting them.

use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::Resource;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Actor, NotDone, gone};
use crate::api::{RESTART_FIELD_MANAGER, RESTARTED_FOR};
use crate::controller::brief;
use crate::controller::consumers;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Observed, RestartOrder};
use crate::domain::evidence::{Look, WorkloadKind};

/// Writes of others that a restart gives way to in one try.
const CONFLICTS: usize = 5;

impl Actor<'_> {
    /// Who uses the target. That pods cannot be listed is an answer, too: the older key is kept, and nothing else stops.
    pub(super) async fn look_at_consumers(&self, o: &Observed, since: Option<DateTime<Utc>>) -> Learned {
        let now = self.ctx.clock.now();
        // One that serves a revocation begins after the question.
        let not_before = since.unwrap_or_else(|| self.ctx.clock.now_precise());
        let look = match consumers::look(self.ctx, &o.key.namespace, not_before).await {
            Ok(roster) => {
                Look { at: roster.at, found: Ok(roster.census(&o.key.target_name, self.ctx.may_restart)) }
            }
            Err(error) => {
                tracing::warn!(
                    namespace = o.key.namespace,
                    name = o.key.name,
                    error = brief(&error),
                    "who uses the Secret is not known"
                );
                let why = match &error {
                    kube::Error::Api(status) if status.code == 403 => {
                        "the operator may not list pods and workloads: its roles are older than the program"
                    }
                    _ => "the API server did not list them",
                };
                Look { at: now, found: Err(why.to_owned()) }
            }
        };
        Learned::Consumers(look)
    }

    /// Sets the annotation of a template, unless another hand has touched it since it was looked at: then that was a restart.
    pub(super) async fn restart(&self, o: &Observed, order: &RestartOrder) -> Result<Learned, NotDone> {
        let resource = match order.workload.kind {
            WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
            WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            WorkloadKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            _ => return Ok(Learned::Restarted { refused: false }),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.ctx.client.clone(), &o.key.namespace, &resource);
        let done = set_mark(&api, &resource, order).await;
        // What was looked at before is not so any more.
        self.ctx.rosters.forget(&o.key.namespace);
        match done {
            Ok(refused) => Ok(Learned::Restarted { refused }),
            Err(error) => Err(NotDone::Kube(Box::new(error))),
        }
    }
}

/// Whether the annotation was refused.
async fn set_mark(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    order: &RestartOrder,
) -> Result<bool, kube::Error> {
    let name = &order.workload.name;
    for _ in 0..CONFLICTS {
        let found = match api.get(name).await {
            Ok(found) => found,
            Err(error) if gone(&error) => return Ok(false),
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(true),
            Err(error) => return Err(error),
        };
        let pointer = "/spec/template/metadata/annotations";
        let marked = found.data.pointer(pointer).and_then(|a| a.get(RESTARTED_FOR)).and_then(Value::as_str);
        if found.meta().uid.as_deref() != Some(&order.uid) || marked != order.before.as_deref() {
            return Ok(false);
        }
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "uid": order.uid, "resourceVersion": found.meta().resource_version},
            "spec": {"template": {"metadata": {"annotations": {RESTARTED_FOR: order.mark}}}},
        });
        let params = PatchParams::apply(RESTART_FIELD_MANAGER).force();
        match api.patch(name, &params, &Patch::Apply(&patch)).await {
            Ok(_) => return Ok(false),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::warn!(
                    namespace = api.namespace(),
                    workload = %order.workload,
                    code = status.code,
                    "a restart was refused"
                );
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
