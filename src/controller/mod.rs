//! The controllers.

pub mod account;
pub mod consumers;
pub mod context;
pub mod fleet;
pub mod index;
pub mod install;
pub mod keyring;
mod lease;
pub mod llm_key;
pub mod llm_provider;
pub mod parsed;
pub mod queue;
pub mod released;
pub mod rotation_policy;
pub mod sight;
pub mod sweeper;
pub mod usage;
pub mod watches;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::Action;
use serde_json::json;

use crate::api::{ConditionStatus, ConditionType, Conditions, FIELD_MANAGER, Reason};
use context::Ctx;

/// Why a reconcile ended early. What a person must mend is no error: it stands in the conditions.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not do it.
    #[error("the API server did not answer as hoped: {}", brief(.0))]
    Kube(Box<kube::Error>),
    /// This replica may not work any more.
    #[error("this replica is not the leader any more")]
    NotLeader,
    /// The program is wrong.
    #[error("a fault of the program ended the reconcile; please report it")]
    Panicked,
    /// The system has no randomness.
    #[error("the system's random source failed")]
    Randomness,
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

/// What a pass over one object comes to. A fault of the program that one object meets must not keep all others waiting, nor
/// end the process, which would meet it again when it starts.
pub fn contained<'a, T: 'a>(
    pass: impl Future<Output = Result<T, ReconcileError>> + Send + 'a,
) -> BoxFuture<'a, Result<T, ReconcileError>> {
    let ended = AssertUnwindSafe(pass).catch_unwind();
    ended.map(|ended| ended.unwrap_or(Err(ReconcileError::Panicked))).boxed()
}

/// How long a count waits for the first full lists.
pub const LOADING: Duration = Duration::from_millis(100);

/// A kube error in one line; its own text prints whole objects.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let message: String = status.message.chars().take(300).collect();
            format!("{} {}: {message}", status.code, status.reason)
        }
        kube::Error::HyperError(_) | kube::Error::Service(_) => "connection failed".to_owned(),
        _ => "request failed".to_owned(),
    }
}

/// What follows an error: another try, soon at first.
#[expect(clippy::needless_pass_by_value, reason = "the controller's signature")]
pub fn retry<K>(_: Arc<K>, error: &ReconcileError, ctx: Arc<Ctx>) -> Action {
    Action::requeue(retry_after(error, &ctx))
}

/// When to try again after an error.
pub fn retry_after(error: &ReconcileError, ctx: &Ctx) -> Duration {
    match error {
        ReconcileError::Kube(inner) if matches!(&**inner, kube::Error::Api(s) if s.is_conflict()) => {
            Duration::from_millis(100)
        }
        // Should the Lease be renewed after all, nothing else would bring the object back.
        ReconcileError::NotLeader => ctx.timings.retry_base.max(Duration::from_secs(1)),
        ReconcileError::Panicked => {
            tracing::error!(%error, "reconcile failed");
            ctx.timings.provider_check_interval
        }
        ReconcileError::Kube(_) | ReconcileError::Randomness => {
            tracing::warn!(%error, "reconcile failed");
            ctx.timings.retry_base.max(Duration::from_millis(200)) * 5
        }
    }
}

/// Says on a resource that cannot be read that it cannot be read. The text of the error may quote the resource, so
/// only its place is told.
pub async fn malformed<K>(ctx: &Ctx, invalid: &InvalidObject, namespaced: bool)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let metadata = &invalid.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().unwrap_or_default();
    tracing::warn!(kind = %K::kind(&()), namespace, name, "a stored resource cannot be read");
    let mut conditions = Conditions::new(&[], metadata.generation.unwrap_or_default(), ctx.clock.now());
    let message = "the resource as it is stored does not have the CRD's form; apply it again";
    conditions.set(ConditionType::Ready, ConditionStatus::False, Reason::Malformed, message);
    conditions.set(ConditionType::Stalled, ConditionStatus::True, Reason::Malformed, message);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "status": {"observedGeneration": metadata.generation, "conditions": conditions.finish()},
    });
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    if namespaced && let Err(error) = api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        tracing::warn!(namespace, name, error = brief(&error), "its status could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::{ReconcileError, contained};

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_object_alone() {
        let faulty = contained::<()>(async { panic!("no key of the map") });
        assert!(matches!(faulty.await, Err(ReconcileError::Panicked)));
        assert!(matches!(contained(async { Ok(7) }).await, Ok(7)));
        assert!(matches!(
            contained::<()>(async { Err(ReconcileError::NotLeader) }).await,
            Err(ReconcileError::NotLeader)
        ));
    }
}
