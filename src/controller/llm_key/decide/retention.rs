//! Keys of superseded versions that were not revoked: sealed for a while, so that a pin can publish them again.

use chrono::{DateTime, Utc};

use super::gate::delta;
use super::{pin, successor};
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan};
use crate::domain::lifecycle::VersionState;
use crate::ledger::{Record, Version};

/// One write when the time of a key is over, or when there are more of them than the policy keeps.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let mut next = successor(record, env);
    forget(o, &mut next, env);
    if next.versions != record.versions {
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    } else if o.policy.problem.is_none()
        && let Some(at) = record.versions.iter().filter_map(|v| until(o, record, v, env)).min()
    {
        plan.wake_at(at);
    }
}

/// Drops the bytes of keys that are kept for nobody any more. Without the policy nobody knows which.
pub(super) fn forget(o: &Observed, next: &mut Record, env: &Env) {
    if o.policy.problem.is_some() {
        return;
    }
    let mut kept = 0;
    let mut over = Vec::new();
    for version in next.versions.iter().rev() {
        let Some(at) = until(o, next, version, env) else { continue };
        if kept < o.policy.retain_versions && env.now < at {
            kept += 1;
        } else {
            over.push(version.version);
        }
    }
    for version in next.versions.iter_mut().filter(|v| over.contains(&v.version)) {
        version.sealed = None;
    }
}

/// How long a superseded version's key is kept; none if it is needed, pinned, or not there.
fn until(o: &Observed, record: &Record, version: &Version, env: &Env) -> Option<DateTime<Utc>> {
    let kept = version.state == VersionState::Retained
        && version.sealed.is_some()
        && !pin::keeps(&o.key, record, version);
    kept.then(|| version.superseded_since().checked_add_signed(delta(env.timings.scale(o.policy.retain_for))))
        .flatten()
}
