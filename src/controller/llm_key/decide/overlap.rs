//! Two keys work: what must be known before the older one is revoked.

use std::time::Duration;

use super::gate::delta;
use super::retire::holder;
use super::successor;
use crate::api::{ConditionStatus, ConditionType, Reason, ValidationMode};
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan, Subject, TargetView, Work};
use crate::domain::lifecycle::{RevocationBasis, VersionState};
use crate::ledger::{Record, Version};

pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(old) = record.versions.iter().find(|v| v.state == VersionState::Overlap) else { return };
    let Some(delivered) = record.current() else {
        hold(
            plan,
            Reason::OverlapMinimum,
            format!("version {} is kept: no newer version is delivered", old.version),
        );
        return;
    };
    if let Some(held) = held(o, old) {
        hold(plan, held.0, held.1);
        return;
    }
    let since = match &o.target {
        TargetView::Ours { carries, since, .. } if *carries == Some(delivered.version) => {
            since.or(delivered.published_at).max(delivered.published_at)
        }
        _ => {
            hold(
                plan,
                Reason::OverlapMinimum,
                "the older key is kept: the target does not carry the current version",
            );
            return;
        }
    };
    let Some(since) = since else { return };
    let (minimum, quiet_for) = terms(o, old);
    let over = since + delta(env.timings.scale(minimum));
    if env.now < over {
        hold(
            plan,
            Reason::OverlapMinimum,
            format!(
                "version {} still works beside version {} until {}",
                old.version,
                delivered.version,
                crate::api::rfc3339(over)
            ),
        );
        plan.wake_at(over);
        return;
    }
    if let Some(failing) = o.memory.waits(Work::Revoke, env.now) {
        hold(plan, failing.reason, failing.message.clone());
        return;
    }
    let Some(basis) = quiet(o, old, env.timings.scale(quiet_for), env, plan) else { return };
    if !delivered_works(o, delivered, env, plan) {
        return;
    }
    if !o.pass.shared.contains_key(&old.version) {
        plan.effects.push(Effect::CheckShared { version: old.version });
        return;
    }
    if let Some(holder) = holder(&o.pass, record, old) {
        hold(plan, Reason::KeyShared, format!("version {} is kept: {holder} has the same key", old.version));
        plan.wake_at(env.now + delta(env.timings.provider_check_interval));
        return;
    }
    let mut next = successor(record, env);
    if next.advance(old.version, VersionState::Retiring)
        && let Some(version) = next.version_mut(old.version)
    {
        version.retiring_at = Some(env.now);
        version.basis = Some(basis);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    }
}

/// What is asked of the overlap: by the policy in force, or, if there is none any more, by the one under which it began.
fn terms(o: &Observed, old: &Version) -> (Duration, Duration) {
    match (&o.policy.shown, &old.overlap) {
        (None, Some(begun)) if begun.policy.is_some() => {
            (Duration::from_secs(begun.minimum_seconds), Duration::from_secs(begun.quiet_for_seconds))
        }
        _ => (o.policy.overlap_minimum, o.policy.quiet_for),
    }
}

/// What a person or a missing policy holds.
fn held(o: &Observed, old: &Version) -> Option<(Reason, String)> {
    if o.key.paused {
        return Some((
            Reason::Paused,
            format!("version {} is kept: the annotation llmkeys.dev/paused holds it", old.version),
        ));
    }
    if let Some((reason, message)) = &o.policy.problem {
        return Some((*reason, format!("version {} is kept: {message}", old.version)));
    }
    if let Some((reason, message)) = o.provider.problem.as_ref().or(o.provider.account_problem.as_ref()) {
        return Some((*reason, format!("version {} is kept: {message}", old.version)));
    }
    (!old.within_reach(o.provider.account.as_ref()))
        .then(|| (Reason::AccountChanged, super::retire::elsewhere(old)))
}

/// The basis, once the provider has not seen the older key for long enough.
fn quiet(
    o: &Observed,
    old: &Version,
    quiet_for: Duration,
    env: &Env,
    plan: &mut Plan,
) -> Option<RevocationBasis> {
    if quiet_for.is_zero() || !o.provider.reports_last_use {
        return Some(RevocationBasis::MinimumElapsed);
    }
    let answer = o.memory.last_use.filter(|(version, asked, _)| {
        *version == old.version && env.now - *asked < delta(env.timings.last_use_fresh)
    });
    let Some((_, asked, used)) = answer else {
        plan.effects.push(Effect::ReadLastUse { version: old.version });
        return None;
    };
    // A key that was never used is quiet since it was superseded.
    let last = used.or(old.superseded_at)?;
    let quiet_at = last + delta(quiet_for);
    if env.now >= quiet_at {
        return Some(RevocationBasis::ProviderQuiet);
    }
    hold(
        plan,
        Reason::StillInUse,
        format!(
            "version {} is kept: the provider saw it last at {}; it must be quiet until {}",
            old.version,
            crate::api::rfc3339(last),
            crate::api::rfc3339(quiet_at)
        ),
    );
    plan.wake_at(quiet_at.max(asked + delta(env.timings.last_use_fresh)));
    None
}

/// The new key must work now, or the older one is the only one that does.
fn delivered_works(o: &Observed, delivered: &Version, env: &Env, plan: &mut Plan) -> bool {
    if !super::at_home(o, delivered) {
        hold(plan, Reason::AccountChanged, super::retire::elsewhere(delivered));
        return false;
    }
    if o.key.validation == ValidationMode::Disabled {
        return true;
    }
    if !o.pass.checked_delivered {
        plan.effects.push(Effect::Validate(Subject::Delivered(delivered.version)));
        return false;
    }
    let works = o.memory.health.as_ref().and_then(|h| h.last).is_some_and(|(verdict, _)| verdict.accepts());
    if !works {
        hold(
            plan,
            Reason::OverlapMinimum,
            "the older key is kept: the provider does not accept the current one now",
        );
        plan.wake_at(env.now + delta(env.timings.recheck));
    }
    works
}

fn hold(plan: &mut Plan, reason: Reason, message: impl Into<String>) {
    plan.find(ConditionType::OverlapActive, ConditionStatus::True, reason, message);
}
