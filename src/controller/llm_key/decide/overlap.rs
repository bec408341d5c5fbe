//! Two keys work: what must be known before the older one is revoked.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::consumers::{self, Evidence};
use super::gate::delta;
use super::retire::holder;
use super::successor;
use crate::api::{ConditionStatus, ConditionType, Reason, ValidationMode, rfc3339};
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan, Subject, TargetView, Work};
use crate::domain::lifecycle::{Origin, RevocationBasis, VersionState};
use crate::ledger::{Record, Version};

pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(old) = record.versions.iter().find(|v| v.state == VersionState::Overlap) else { return };
    if old.origin == Origin::Supplied && o.provider.problem.is_none() && !o.provider.ends_supplied {
        // The consent was taken back: it is its owner's again.
        let mut next = successor(record, env);
        if next.advance(old.version, VersionState::Retained) {
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        }
        return;
    }
    let Some(delivered) = record.current() else {
        hold(
            plan,
            Reason::OverlapMinimum,
            format!("version {} is kept: no newer version is delivered", old.version),
        );
        return;
    };
    if let Some(held) = held(o, record, old) {
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
    let terms = terms(o, old);
    let Some(evidence) = consumers::advance(o, record, delivered, since, &terms, env, plan) else { return };
    let evidence = elsewhere(o, old, &terms).map_or(evidence, Evidence::Missing);
    let over = since + delta(env.timings.scale(terms.minimum));
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
    let Some(basis) = basis(o, old, &evidence, (&terms, since), env, plan) else { return };
    if terms.manual && o.key.approved != Some(old.version) {
        hold(
            plan,
            Reason::WaitingForApproval,
            format!(
                "version {} is kept until its revocation is approved: set the annotation llmkeys.dev/approve-revoke to \"{}\"",
                old.version, old.version
            ),
        );
        return;
    }
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
    if evidence.asked() && basis != RevocationBasis::MaximumReached && !o.pass.looked_for_l4 {
        // What was known of them may have changed.
        plan.effects.push(Effect::LookAtConsumers { since: None });
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

/// Pods that began with another Secret are not looked at: an LLMKey of the same name, which was deleted, delivered to that one.
fn elsewhere(o: &Observed, old: &Version, terms: &Terms) -> Option<String> {
    let other = old.target.as_ref().filter(|target| **target != o.key.target_name)?;
    let told = format!(
        "it was delivered in Secret {other}, and who began with that one is not known; if nobody uses it any more, set the annotation \
         llmkeys.dev/approve-revoke to \"{}\"",
        old.version
    );
    (terms.consumers && o.key.approved != Some(old.version)).then_some(told)
}

/// What is asked of an overlap.
pub(super) struct Terms {
    /// Both keys work at least this long.
    minimum: Duration,
    /// Evidence is waited for this long.
    maximum: Duration,
    /// The provider must not have seen the older key for this long.
    quiet_for: Duration,
    /// All workloads must have the current version.
    pub consumers: bool,
    /// A person must approve.
    manual: bool,
    /// At the maximum the older key is revoked without evidence.
    revoke_when_stuck: bool,
}

/// By the policy in force, or, if there is none any more, by the one under which the overlap began.
fn terms(o: &Observed, old: &Version) -> Terms {
    let now = Terms {
        minimum: o.policy.overlap_minimum,
        maximum: o.policy.overlap_maximum,
        quiet_for: o.policy.quiet_for,
        consumers: o.policy.consumers,
        manual: o.policy.manual,
        revoke_when_stuck: o.policy.revoke_when_stuck,
    };
    match (&o.policy.shown, &old.overlap) {
        (None, Some(begun)) if begun.policy.is_some() => Terms {
            minimum: Duration::from_secs(begun.minimum_seconds),
            maximum: begun.maximum_seconds.map_or(now.maximum, Duration::from_secs),
            quiet_for: Duration::from_secs(begun.quiet_for_seconds),
            consumers: begun.consumers.unwrap_or(now.consumers),
            manual: begun.manual.unwrap_or(now.manual),
            revoke_when_stuck: begun.revoke_when_stuck.unwrap_or(now.revoke_when_stuck),
        },
        _ => now,
    }
}

/// What the revocation would rest on; none while evidence is missing, or has to be asked for first.
fn basis(
    o: &Observed,
    old: &Version,
    evidence: &Evidence,
    (terms, since): (&Terms, DateTime<Utc>),
    env: &Env,
    plan: &mut Plan,
) -> Option<RevocationBasis> {
    let maximum = since + delta(env.timings.scale(terms.maximum.max(terms.minimum)));
    let stuck = terms.revoke_when_stuck && env.now >= maximum;
    if let Evidence::Missing(what) = evidence {
        if stuck {
            return Some(RevocationBasis::MaximumReached);
        }
        let end = match (terms.revoke_when_stuck, env.now >= maximum) {
            (true, _) => {
                plan.wake_at(maximum);
                format!("; it is revoked all the same at {}", rfc3339(maximum))
            }
            (false, true) => format!("; overlap.maximum passed at {}, and onStuck is Hold", rfc3339(maximum)),
            (false, false) => String::new(),
        };
        hold(plan, Reason::WaitingForConsumers, format!("version {} is kept: {what}{end}", old.version));
        return None;
    }
    let quiet = quiet(o, old, env.timings.scale(terms.quiet_for), env, plan);
    if quiet.is_none() && terms.revoke_when_stuck {
        if stuck && plan.effects.is_empty() {
            return Some(RevocationBasis::MaximumReached);
        }
        if !stuck {
            plan.wake_at(maximum);
        }
    }
    evidence.basis().filter(|_| quiet.is_some()).or(quiet)
}

/// What a person or a missing policy holds.
fn held(o: &Observed, record: &Record, old: &Version) -> Option<(Reason, String)> {
    if super::pin::keeps(&o.key, record, old) {
        return Some((
            Reason::Pinned,
            format!("version {} is kept: spec.pinnedVersion wants its key", old.version),
        ));
    }
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
        // An answer of a time to come was had while the clock was wrong.
        let age = env.now - *asked;
        *version == old.version && age >= delta(Duration::ZERO) && age < delta(env.timings.last_use_fresh)
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
