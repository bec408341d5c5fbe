//! The version on its way: intent, mint, seal, validate, deliver, current.

use super::gate::{Gate, delta, gate};
use super::rotate::over_budget;
use super::{chosen, lease, pin, retention, retire, spare, unnamed};
use super::{due, mint_name, successor};
use crate::api::Reason;
use crate::controller::llm_key::model::{
    Effect, Env, Minted, Observed, Plan, SourceView, Subject, TargetView, Work,
};
use crate::domain::budget;
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::ledger::{AccountRef, OverlapTerms, Record, Version};

pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(version) = record.in_flight() else { return };
    if o.key.revoke_all {
        return;
    }
    super::history::tell(o, record, version, env, plan);
    match version.state {
        // The source is another one now: what the attempt may have made goes, and then the intent.
        VersionState::Intent
            if !o.key.minted || o.former.as_ref().is_some_and(|former| retire::at(former, version)) =>
        {
            retire::abandon_intents(&super::view(o, record), env, plan);
        }
        VersionState::Intent if pin::unwanted(o, record, version, env) => {
            pin::abandon_attempt(o, record, version, env, plan);
        }
        VersionState::Intent => mint(o, record, version, env, plan),
        VersionState::Pending => deliver(o, record, version, env, plan),
        _ => publish(o, record, version, env, plan),
    }
    if record.delivered().is_some_and(|delivered| delivered.version != version.version) {
        under_way(plan);
    }
}

/// Said last, so that what says more is told first. The older key works meanwhile: nobody has to wait.
fn under_way(plan: &mut Plan) {
    let message = if plan.stalled() {
        "the rotation is under way and cannot go on: see Stalled"
    } else {
        "the next key is on its way"
    };
    due(plan, Reason::Rotating, message);
}

pub(super) fn mint(o: &Observed, record: &Record, version: &Version, env: &Env, plan: &mut Plan) {
    if let Some(minted) = chosen::made(o, record, version) {
        let next = minted_record(record, version.version, minted, env);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    if chosen::is_spent(o, record, version) {
        end(version, chosen::given_up(record, version.version, env), plan);
        return;
    }
    let open = version.account.is_some();
    let known = chosen::recovers(version);
    // A key that is known may still come from an earlier attempt: its intent stays open, and is tried again.
    if open && !known && o.pass.refused == Some(record.attempt) {
        plan.effects.push(Effect::SwapLedger(Box::new(closed(record, version.version, env))));
        return;
    }
    let account = o.provider.account.as_ref();
    if open && !version.within_reach(account) {
        plan.stall(Reason::AccountChanged, retire::elsewhere(version));
        return;
    }
    if plan.stalled()
        || retire::waiting(record, &o.memory, Work::Mint, env, plan)
        || open && !chosen::is(version) && retire::unlisted(record, &o.pass, &o.memory, env, plan)
    {
        progressing(record, plan);
        return;
    }
    if known && version.account.as_ref() != account {
        // The LLMProvider names another project now; the key that was chosen for this one may be there or not.
        end(version, chosen::given_up(record, version.version, env), plan);
        return;
    }
    let fenced = open && o.pass.fenced == Some(record.attempt);
    if !fenced && over_budget(record, env, plan) {
        return;
    }
    progressing(record, plan);
    if let Some(lease) = lease::missing(o) {
        plan.effects.push(lease);
    } else if !fenced && unnamed::is_full(o, record, env, plan) {
        // Listed first, or told.
    } else if !fenced && !known && chosen::is_missing(o) {
        plan.effects.push(Effect::Choose);
    } else if !fenced {
        // An earlier attempt may have made a key whose bytes are lost. Fence it first, so that a late writer
        // cannot make it live between our reading and our revoking.
        let mut next = refenced(record, version.version, account, chosen::Fresh::of(o), env);
        if let Some(version) = next.version_mut(version.version) {
            version.before = unnamed::before(o, record).or(version.before.take());
        }
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    } else if let Some(of) = &version.account
        && (!known || chosen::is_absent(o, record, version, plan))
        && (version.slot.is_some() || retire::searched(of, record.attempt, &o.pass, plan))
    {
        if Some(of) != account {
            // The LLMProvider names another project now, and nothing is left in this one.
            plan.effects.push(Effect::SwapLedger(Box::new(closed(record, version.version, env))));
        } else if o.pass.found_none && record.mints.len() > 1 {
            // The attempt before this one made no key.
            let mut next = successor(record, env);
            next.mints.remove(record.mints.len() - 2);
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        } else {
            plan.effects.push(Effect::Mint { version: version.version });
        }
    }
}

/// Said last, so that a failure is told first.
fn progressing(record: &Record, plan: &mut Plan) {
    if !record.versions.iter().any(|v| v.state == VersionState::Current) {
        plan.progress(Reason::Progressing, "the key is being made");
    }
}

/// The next attempt, at the account of the one before; one that was refused binds nobody to its account. A key that was
/// chosen stays the same.
pub(super) fn refenced(
    record: &Record,
    number: i32,
    account: Option<&AccountRef>,
    fresh: chosen::Fresh<'_>,
    env: &Env,
) -> Record {
    let mut next = successor(record, env);
    next.attempt += 1;
    if account.is_some() {
        budget::spend(&mut next.mints, env.timings.mint_budget_window, env.now);
    }
    let name = mint_name(&next, number, env);
    if let Some(version) = next.version_mut(number) {
        version.mint_name = name;
        version.account = version.account.take().or_else(|| account.cloned());
        chosen::put(version, fresh);
    }
    next
}

/// No attempt so far has left a key behind: the last one was refused, or is fenced and was searched for. So the next one may
/// be made at whatever account there is then.
fn closed(record: &Record, number: i32, env: &Env) -> Record {
    let mut next = successor(record, env);
    next.mints.pop();
    if let Some(version) = next.version_mut(number) {
        version.mint_name = None;
        version.account = None;
    }
    next
}

fn minted_record(record: &Record, number: i32, minted: &Minted, env: &Env) -> Record {
    let mut next = successor(record, env);
    if next.advance(number, VersionState::Pending)
        && let Some(version) = next.version_mut(number)
    {
        version.provider_key_id = Some(minted.id.clone());
        version.key = Some(minted.facts.clone());
    }
    next
}

fn deliver(o: &Observed, record: &Record, version: &Version, env: &Env, plan: &mut Plan) {
    if carried(o, version.version) {
        plan.effects.push(Effect::SwapLedger(Box::new(current(o, record, version.version, env))));
        announce(o, record, version, plan);
        return;
    }
    if matches!(o.target, TargetView::Foreign(..)) || o.key.template_problem.is_some() {
        return;
    }
    let Some(facts) = &version.key else { return };
    if !super::at_home(o, version) {
        plan.stall(Reason::AccountChanged, retire::elsewhere(version));
        return;
    }
    let borrowed = pin::borrowed(o, record, version);
    if borrowed && pin::refused(o, facts) {
        // The key was delivered before, by the version that it is borrowed from: that one goes on answering for it.
        let mut next = successor(record, env);
        if next.advance(version.version, VersionState::Abandoned) {
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        }
        return;
    }
    let was_spare = version.spare_since.is_some();
    let refused = if was_spare {
        spare::confirmed_refused(o.memory.candidate.as_ref(), &facts.shown)
    } else {
        made_long_ago_and_refused(o, facts.shown.as_str(), version, env)
    };
    if refused {
        end(version, retire::never_published(record, version.version, env), plan);
        return;
    }
    let made = (!borrowed).then_some(version.created_at);
    let gate = if was_spare {
        spare::gate_promoted(o, record, version, &facts.shown, env, plan)
    } else {
        gate(o, &facts.shown, made, over_good(o, record), env, plan)
    };
    match gate {
        Gate::Ask if borrowed => plan.effects.push(Effect::Validate(Subject::Pinned(version.version))),
        Gate::Ask => plan.effects.push(Effect::Validate(Subject::Candidate(version.version))),
        Gate::Publish => plan.effects.push(Effect::WriteTarget { version: version.version }),
        Gate::Hold => {}
    }
}

/// The version comes to nothing.
fn end(version: &Version, next: Option<Record>, plan: &mut Plan) {
    let Some(mut next) = next else { return };
    if version.reason == RotationReason::Requested {
        // What was asked for has not happened: the token asks again.
        next.handled_rotate = None;
    }
    plan.effects.push(Effect::SwapLedger(Box::new(next)));
}

/// A new key that the provider refuses after the deadline was never a key. What it said before may be out of date.
fn made_long_ago_and_refused(o: &Observed, fingerprint: &str, version: &Version, env: &Env) -> bool {
    let deadline = version.created_at + delta(env.timings.new_key_deadline);
    o.memory
        .before_delivery(fingerprint)
        .is_some_and(|h| h.last.is_some_and(|(v, at)| v.refuses() && at >= deadline))
}

pub(super) fn over_good(o: &Observed, record: &Record) -> bool {
    let Some(delivered) = record.delivered() else { return false };
    let shown = delivered.key.as_ref().map(|k| &k.shown);
    let health = o.memory.health.as_ref().filter(|h| Some(&h.fingerprint) == shown);
    health.is_none_or(|h| h.accepted != Some(false))
}

fn publish(o: &Observed, record: &Record, version: &Version, env: &Env, plan: &mut Plan) {
    let alone = record.versions.len() == 1;
    if carried(o, version.version) {
        if !alone {
            plan.effects.push(Effect::SwapLedger(Box::new(current(o, record, version.version, env))));
            announce(o, record, version, plan);
        }
        return;
    }
    // The supplied value changed again before it was delivered: the newer one is taken instead.
    if let (Origin::Supplied, SourceView::Value(facts)) = (version.origin, &o.source)
        && version.key.as_ref() != Some(facts)
        && record.current().is_some()
    {
        let mut next = successor(record, env);
        if next.advance(version.version, VersionState::Abandoned) {
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        }
        return;
    }
    if !alone && !matches!(o.target, TargetView::Foreign(..)) && o.key.template_problem.is_none() {
        plan.effects.push(Effect::WriteTarget { version: version.version });
    }
}

pub(super) fn carried(o: &Observed, version: i32) -> bool {
    matches!(&o.target, TargetView::Ours { carries, .. } if *carries == Some(version))
}

/// L3: the version is current, the one before is superseded.
fn current(o: &Observed, record: &Record, number: i32, env: &Env) -> Record {
    let mut next = successor(record, env);
    let since = match &o.target {
        TargetView::Ours { since, .. } => since.unwrap_or(env.now),
        _ => env.now,
    };
    let since = pin::published(record.version(number), since, env.now);
    pin::close_older(&mut next, number);
    let older: Vec<(i32, bool)> = next
        .versions
        .iter()
        .filter(|v| {
            v.version != number && matches!(v.state, VersionState::Current | VersionState::Publishing)
        })
        .map(|v| (v.version, is_to_end(o, v)))
        .collect();
    for (old, ends) in older {
        let state = if ends { VersionState::Overlap } else { VersionState::Retained };
        if next.advance(old, state)
            && let Some(version) = next.version_mut(old)
        {
            version.superseded_at = Some(since);
            version.overlap = (state == VersionState::Overlap).then(|| OverlapTerms {
                policy: o.policy.shown.clone(),
                minimum_seconds: o.policy.overlap_minimum.as_secs(),
                quiet_for_seconds: o.policy.quiet_for.as_secs(),
                maximum_seconds: Some(o.policy.overlap_maximum.as_secs()),
                consumers: Some(o.policy.consumers),
                manual: Some(o.policy.manual),
                revoke_when_stuck: Some(o.policy.revoke_when_stuck),
            });
        }
    }
    reclaimed(&mut next, number);
    if next.advance(number, VersionState::Current)
        && let Some(version) = next.version_mut(number)
    {
        version.published_at = Some(since);
        version.target = Some(o.key.target_name.clone());
    }
    next.awaiting_supply = false;
    next.revoked_by_spec = false;
    super::on_deletion(o, &mut next);
    retention::forget(o, &mut next, env);
    next.prune();
    next
}

/// Whether the version's key is ended at the provider once it is superseded: one that was made here, or a supplied one whose id is known,
/// where the `LLMProvider` consents.
fn is_to_end(o: &Observed, version: &Version) -> bool {
    let consented = o.provider.ends_supplied
        && version.provider_key_id.is_some()
        && version.within_reach(o.provider.account.as_ref());
    version.origin == Origin::Minted || consented
}

/// A supplied value came back while it was in overlap: the newer version answers for it.
fn reclaimed(next: &mut Record, number: i32) {
    let Some(facts) =
        next.version(number).filter(|v| v.origin == Origin::Supplied).and_then(|v| v.key.clone())
    else {
        return;
    };
    let before = |v: &&Version| {
        v.version != number
            && v.origin == Origin::Supplied
            && v.state == VersionState::Overlap
            && v.has_key(&facts.fingerprint)
    };
    let older: Vec<i32> = next.versions.iter().filter(before).map(|v| v.version).collect();
    for old in older {
        let _closed = next.advance(old, VersionState::Republished);
    }
}

fn announce(o: &Observed, record: &Record, version: &Version, plan: &mut Plan) {
    let first = record.versions.iter().all(|v| v.published_at.is_none());
    let (reason, what) = if first { (Reason::Published, "published") } else { (Reason::Rotated, "rotated") };
    let older = record.current().filter(|v| v.version != version.version && v.origin == Origin::Supplied);
    let older =
        older.filter(|old| !is_to_end(o, old) && (version.member.is_some() || o.provider.ends_supplied));
    let older = older.map_or_else(String::new, |old| {
        let delete = super::pool::delete(old);
        format!("; {delete} at the provider when nothing uses it any more")
    });
    plan.effects.push(Effect::Announce {
        warning: false,
        reason,
        note: format!("{what}: Secret {} carries version {}{older}", o.key.target_name, version.version),
    });
}
