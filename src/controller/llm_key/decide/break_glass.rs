//! `spec.revokedVersions`: versions whose keys a person wants to be refused now, without overlap and without evidence.

use super::due;
use super::flight::carried;
use super::gate::delta;
use super::rotate::{self, fold_delivery, intent};
use super::successor;
use crate::api::{OnReplacementFailure, Reason};
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan};
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};
use crate::ledger::{Record, Version};

/// One step. Neither `llmkeys.dev/paused` nor an overlap holds it; what workloads have is replaced before it is revoked.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.revoked_versions.is_empty() || o.key.revoke_all {
        return;
    }
    if record.in_flight().is_some_and(|v| v.state == VersionState::Pending && carried(o, v.version)) {
        // Workloads have that one already: first the ledger says so, and then it is replaced like any other.
        return;
    }
    let delivered = record.delivered().map(|v| v.version);
    let listed: Vec<&Version> =
        record.versions.iter().filter(|v| v.origin == Origin::Minted && is_listed(o, record, v)).collect();
    if let Some(attempt) = listed.iter().find(|v| v.state == VersionState::Intent) {
        super::pin::abandon_attempt(o, record, attempt, env, plan);
        plan.hold = true;
        return;
    }
    let now: Vec<i32> = listed
        .iter()
        .filter(|v| {
            matches!(v.state, VersionState::Pending | VersionState::Overlap | VersionState::Spare)
                || v.put_off(env.now).is_some()
                || Some(v.version) == delivered && given_up(o, record, v, env, plan)
        })
        .map(|v| v.version)
        .collect();
    // A key that another version goes on needing is revoked once that one is replaced.
    let now: Vec<i32> = now.iter().copied().filter(|number| !needed(record, *number, &now)).collect();
    if !now.is_empty() {
        plan.effects.push(Effect::SwapLedger(Box::new(retiring(record, &now, env))));
        return;
    }
    if let Some(compromised) = listed.iter().find(|v| Some(v.version) == delivered) {
        replace(o, record, compromised, env, plan);
    }
}

/// Whether the version, or another one with its key, stands in the list: a key is compromised, not a number.
fn is_listed(o: &Observed, record: &Record, version: &Version) -> bool {
    let named = |number: i32| o.key.revoked_versions.contains(&number);
    named(version.version)
        || version.key_of.is_some_and(named)
        || version.key.as_ref().is_some_and(|key| rotate::listed(&o.key, record, key))
}

/// Whether a version that is not among `going` needs the version's key.
fn needed(record: &Record, number: i32, going: &[i32]) -> bool {
    let Some(key) = record.version(number).and_then(|v| v.key.as_ref()) else { return false };
    record
        .versions
        .iter()
        .any(|v| v.state.protects_key() && v.has_key(&key.fingerprint) && !going.contains(&v.version))
}

/// Said after everything else was planned: it must not keep the next key from being taken.
pub(super) fn supplied(o: &Observed, record: &Record, _: &Env, plan: &mut Plan) {
    let listed = |v: &&Version| v.origin == Origin::Supplied && is_listed(o, record, v);
    if let Some(version) = record.delivered().filter(listed) {
        let remedy = if o.key.pool.is_empty() {
            "put another key into the source Secret"
        } else {
            "it is replaced as soon as the pool has another key, see RotationDue;"
        };
        plan.stall(
            Reason::NotSupported,
            format!(
                "spec.revokedVersions: version {} was supplied, so the operator cannot revoke it; {remedy} and delete this \
                 one at the provider",
                version.version
            ),
        );
    }
}

/// L4 of all of them.
fn retiring(record: &Record, numbers: &[i32], env: &Env) -> Record {
    let mut next = successor(record, env);
    for number in numbers {
        let undelivered = record.version(*number).filter(|v| v.state == VersionState::Pending);
        if let Some(version) = undelivered {
            super::pin::asks_again(version, &mut next);
        }
        let begun = next.advance(*number, VersionState::Retiring);
        if let Some(version) = next.version_mut(*number)
            && (begun || version.put_off(env.now).is_some())
        {
            version.retiring_at = Some(env.now);
            version.basis = Some(RevocationBasis::Explicit);
        }
    }
    next
}

/// The replacement has not come within the policy's time-out, and the spec says that this is worse than no key.
fn given_up(o: &Observed, record: &Record, listed: &Version, env: &Env, plan: &mut Plan) -> bool {
    let replacement = record.in_flight().filter(|v| v.version != listed.version);
    let Some(replacement) =
        replacement.filter(|_| o.key.on_replacement_failure == OnReplacementFailure::RevokeAnyway)
    else {
        return false;
    };
    let at = replacement.wanted_since() + delta(env.timings.scale(o.policy.timeout));
    if env.now < at {
        plan.wake_at(at);
    }
    env.now >= at
}

/// Begins the version that takes its place, unless one is on its way.
fn replace(o: &Observed, record: &Record, compromised: &Version, env: &Env, plan: &mut Plan) {
    if record.in_flight().is_some_and(|v| v.version != compromised.version) {
        return;
    }
    let number = compromised.version;
    if !o.key.minted {
        due(
            plan,
            Reason::SupplyNextKey,
            format!("version {number} is to be revoked: put the next key into the source Secret"),
        );
    } else if plan.stalled() {
        due(
            plan,
            Reason::Rotating,
            format!("version {number} is to be revoked and cannot be replaced: see Stalled"),
        );
    } else if super::spare::in_the_way(o, record) {
        due(plan, Reason::Rotating, "the next key is made when the attempt to make a spare is given up");
    } else if !o.key.finalizer && !o.key.retain_on_delete {
        plan.effects.push(Effect::SetFinalizer(true));
    } else if rotate::before_intent(o, record, env, plan) {
        // Planned, or told.
    } else if let Some(mut next) = intent(o, record, RotationReason::BreakGlass, env) {
        fold_delivery(record, &mut next);
        due(plan, Reason::Rotating, format!("version {number} is to be revoked: the next key is being made"));
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    }
}
