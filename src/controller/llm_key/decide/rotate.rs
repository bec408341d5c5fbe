//! A new version: why, when, and the first record of it.

use chrono::{DateTime, Utc};

use super::flight::over_good;
use super::gate::{Gate, delta, gate};
use super::{chosen, due, lease, mint_name, slots, spare, successor, turn, unnamed, usage};
use crate::api::{Reason, RotationMode, ValidationMode};
use crate::controller::llm_key::model::{
    Effect, Env, KeyView, Observed, Plan, SourceView, Subject, TargetView,
};
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};
use crate::domain::{budget, schedule, upcoming};
use crate::ledger::{KeyFacts, Record, Version};

/// One more than the newest version and every number of `spec.revokedVersions`, so that none of those is ever published
/// again, also if the ledger is younger than the spec.
pub(super) fn next_number(o: &Observed, record: &Record) -> i32 {
    record.next_number().max(o.key.revoked_versions.last().map_or(1, |newest| newest + 1))
}

/// What comes before the intent: the account is taken, and the key is chosen, if it is another one than a spare that is there.
/// True while there is something to do, or to wait for.
pub(super) fn before_intent(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let choice = chosen::is_missing(o) && spare::usable(o, record).is_none();
    let first = lease::missing(o).or_else(|| choice.then_some(Effect::Choose));
    let waits = first.is_some();
    plan.effects.extend(first);
    let waits = waits
        || slots::before_intent(o, record, env, plan)
        || spare::usable(o, record).is_none() && unnamed::before_intent(o, record, env, plan);
    plan.awaits_room |= waits;
    waits
}

/// L1 of a minted version: its name is on record before the provider hears of it. A rotation takes the spare, if there is one.
pub(super) fn intent(o: &Observed, record: &Record, reason: RotationReason, env: &Env) -> Option<Record> {
    let account = o.provider.account.clone()?;
    if let Some(spare) = spare::usable(o, record) {
        let mut next = spare::promoted(record, spare.version, reason, env)?;
        super::on_deletion(o, &mut next);
        return Some(next);
    }
    let mut next = successor(record, env);
    next.attempt += 1;
    super::on_deletion(o, &mut next);
    budget::spend(&mut next.mints, env.timings.mint_budget_window, env.now);
    let number = next_number(o, record);
    let name = mint_name(&next, number, env)?;
    let mut version = Version {
        account: Some(account),
        mint_name: Some(name),
        ..Version::begun(number, VersionState::Intent, Origin::Minted, reason, env.now)
    };
    chosen::put(&mut version, chosen::Fresh::of(o));
    version.before = unnamed::before(o, record);
    version.slot = slots::next(o, record);
    if version.slot.is_none() && slots::is_so(o) {
        return None;
    }
    next.versions.push(version);
    next.prune();
    Some(next)
}

/// A supplied version, sealed and about to be delivered.
pub(super) fn supplied(
    o: &Observed,
    record: &Record,
    facts: &KeyFacts,
    reason: RotationReason,
    env: &Env,
) -> Record {
    let mut next = successor(record, env);
    super::on_deletion(o, &mut next);
    let number = next_number(o, record);
    next.versions.push(Version {
        key: Some(facts.clone()),
        account: o.provider.account.clone(),
        // The first one becomes current without a write of its own.
        target: Some(o.key.target_name.clone()),
        ..Version::begun(number, VersionState::Publishing, Origin::Supplied, reason, env.now)
    });
    next.prune();
    next
}

/// `desiredState: Revoked`: all keys at once, without overlap or grace, then the target.
pub(super) fn revoke_all(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if !o.key.revoke_all || !o.key.minted {
        return;
    }
    if o.key.paused && record.versions.iter().any(|v| v.state.protects_key()) {
        plan.progress(
            Reason::Paused,
            "the keys are to be revoked; the annotation llmkeys.dev/paused holds it",
        );
        return;
    }
    if record.versions.iter().any(|v| v.state == VersionState::Intent) {
        super::retire::abandon_intents(&super::view(o, record), env, plan);
        return;
    }
    let put_off = |v: &Version| v.put_off(env.now).is_some();
    if record.versions.iter().any(|v| v.state.protects_key() || put_off(v)) {
        let mut next = successor(record, env);
        for version in next.versions.iter_mut().filter(|v| put_off(v)) {
            version.retiring_at = Some(env.now);
        }
        let live: Vec<(i32, VersionState)> = next
            .versions
            .iter()
            .filter(|v| v.state.protects_key())
            .map(|v| {
                let to = match (v.origin, v.state, v.reason) {
                    // Its key is an older version's, which is among them.
                    (_, VersionState::Pending, RotationReason::Pinned)
                    | (Origin::Supplied, VersionState::Pending, _) => VersionState::Abandoned,
                    (Origin::Minted, ..) => VersionState::Retiring,
                    (Origin::Supplied, ..) => VersionState::Retained,
                };
                (v.version, to)
            })
            .collect();
        for (number, to) in live {
            if next.advance(number, to)
                && let Some(v) = next.version_mut(number)
            {
                v.retiring_at = (to == VersionState::Retiring).then_some(env.now);
                v.basis = (to == VersionState::Retiring).then_some(RevocationBasis::Explicit);
            }
        }
        next.revoked_by_spec = true;
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    // An older key that another LLMKey holds up does not keep a dead one in the Secret.
    let newest = record.versions.iter().rev().find(|v| v.key.is_some() && v.reason != RotationReason::Spare);
    let gone = newest.is_none_or(|v| v.state != VersionState::Retiring);
    if gone && matches!(o.target, TargetView::Ours { .. }) && !o.pass.deleted_target {
        plan.effects.push(Effect::DeleteTarget);
    }
}

/// Starts a new version, if one is due and nothing stands in its way.
pub(super) fn start(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.revoke_all || super::switch::wanted_off(o) || super::pin::holds(o, record, env, plan) {
        return;
    }
    if o.key.minted {
        start_minted(o, record, env, plan);
    } else if !o.key.pool.is_empty() {
        super::pool::start(o, record, env, plan);
    } else {
        start_supplied(o, record, env, plan);
    }
}

fn start_minted(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let requested = o.key.rotate.as_ref().filter(|t| record.handled_rotate.as_ref() != Some(*t));
    let delivered = record.delivered();
    let scheduled = delivered.and_then(|v| next_rotation(o, record, v.published_at, env, plan));
    let overdue = scheduled.is_some_and(|at| env.now >= at);
    let shown = delivered.and_then(|v| v.key.as_ref()).map(|k| k.shown.as_str());
    let ready = spare::ready(o, record).is_some();
    let spent = delivered.is_some_and(|v| {
        usage::spent(o, v.provider_key_id.as_deref(), v.published_at.or(Some(v.created_at)))
    });
    let reason = match (delivered, requested, overdue) {
        (None, _, _) => RotationReason::Replaced,
        (Some(_), _, _) if refused(o, shown, ready, env, plan) => RotationReason::Invalid,
        (Some(_), Some(_), _) => RotationReason::Requested,
        (Some(v), None, _) if v.origin == Origin::Supplied => RotationReason::SourceChanged,
        (Some(_), None, true) => RotationReason::Schedule,
        (Some(_), None, false) if spent => RotationReason::Usage,
        (Some(_), None, false) => return,
    };
    if record.in_flight().is_some_and(|v| Some(v.version) != delivered.map(|d| d.version)) {
        return;
    }
    let by_hand =
        !matches!(reason, RotationReason::Schedule | RotationReason::Usage | RotationReason::Invalid);
    if o.key.paused {
        due(plan, Reason::Paused, "a rotation is due; the annotation llmkeys.dev/paused holds it");
    } else if o.policy.mode == RotationMode::RemindOnly && !by_hand {
        due(
            plan,
            Reason::RemindOnly,
            "a rotation is due; the policy only reminds: set llmkeys.dev/rotate to start it",
        );
    } else if delivered.is_some()
        && reason != RotationReason::Invalid
        && !(reason == RotationReason::Requested && works_no_more(o, shown))
        && record.versions.iter().any(|v| matches!(v.state, VersionState::Overlap | VersionState::Retiring))
    {
        // Where nothing that works is delivered, a user waits for a key: that an older one is still being revoked is no reason.
        due(
            plan,
            Reason::OverlapActive,
            "a rotation is due; it starts when the overlap of the last one is over",
        );
    } else if plan.stalled() {
        due(plan, Reason::ScheduleDue, "a rotation is due and cannot start: see Stalled");
    } else if spare::in_the_way(o, record) {
        due(plan, Reason::Rotating, "the rotation begins when the attempt to make a spare is given up");
    } else if spare::usable(o, record).is_none() && over_budget(record, env, plan)
        || !has_turn(o, record, reason, env, plan)
    {
        // Told.
    } else if !o.key.finalizer && !o.key.retain_on_delete {
        plan.effects.push(Effect::SetFinalizer(true));
    } else if before_intent(o, record, env, plan) {
        // Planned, or told.
    } else if let Some(mut next) = intent(o, record, reason, env) {
        next.handled_rotate = o.key.rotate.clone().or(next.handled_rotate);
        fold_delivery(record, &mut next);
        if delivered.is_none() {
            plan.progress(Reason::Rotating, "a new key is being made");
        }
        due(plan, Reason::Rotating, "the next key is being made");
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    }
}

/// Whether the provider has said for certain that the delivered key does not work: then the overlap of the last rotation, which
/// waits for that very key, is no reason to make a person wait.
fn works_no_more(o: &Observed, shown: Option<&str>) -> bool {
    let health = o.memory.health.as_ref().filter(|health| Some(health.fingerprint.as_str()) == shown);
    health.is_some_and(|health| health.accepted == Some(false))
}

/// Whether the policy has room for it. A key that does not work, or is another kind of key now, does not wait.
fn has_turn(o: &Observed, record: &Record, reason: RotationReason, env: &Env, plan: &mut Plan) -> bool {
    let place = match reason {
        RotationReason::Requested => turn::requested(env),
        RotationReason::Schedule => {
            turn::scheduled(o, &record.lineage, record.delivered().and_then(|v| v.published_at), env)
        }
        RotationReason::Usage => usage::place(o, env.now),
        _ => return true,
    };
    turn::is_now(o, place, env, plan)
}

/// Whether so many keys were made for the LLMKey that the next one has to wait; says until when.
pub(super) fn over_budget(record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let window = env.timings.mint_budget_window;
    let Some(free) = budget::waits_until(&record.mints, budget::PER_KEY, window, env.now) else {
        return false;
    };
    let message = format!(
        "{} keys were made for this LLMKey a short while ago; the next one is made at {}",
        budget::PER_KEY,
        crate::api::rfc3339(free)
    );
    if record.delivered().is_none() {
        plan.progress(Reason::MintBudget, message.clone());
    }
    due(plan, Reason::MintBudget, message);
    plan.wake_at(free);
    true
}

fn start_supplied(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let delivered = record.delivered();
    let scheduled =
        delivered.and_then(|v| next_rotation(o, record, v.published_at.or(Some(v.created_at)), env, plan));
    let is_due = record.awaiting_supply || scheduled.is_some_and(|at| env.now >= at);
    if let SourceView::Value(facts) = &o.source
        && delivered.and_then(|v| v.key.as_ref()).map(|k| &k.fingerprint) != Some(&facts.fingerprint)
        && record.in_flight().is_none_or(|v| v.state == VersionState::Publishing)
    {
        replace(o, record, facts, env, plan);
        if is_due && plan.effects.is_empty() {
            // What stands in the source is not delivered: the next key is still waited for.
            supply_next(o, plan);
        }
        return;
    }
    let requested = o.key.rotate.as_ref().filter(|t| record.handled_rotate.as_ref() != Some(*t));
    if let Some(token) = requested {
        let mut next = successor(record, env);
        next.handled_rotate = Some(token.clone());
        next.awaiting_supply = true;
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    if is_due {
        supply_next(o, plan);
    }
}

/// A person must act, and where.
pub(super) fn supply_next(o: &Observed, plan: &mut Plan) {
    let expiry = o.key.expires_at.map_or_else(String::new, |at| {
        format!("; spec.expiresAt says {}: change it with the key", crate::api::rfc3339(at))
    });
    due(
        plan,
        Reason::SupplyNextKey,
        format!(
            "the key is due for rotation: put the next one into the source Secret of {}/{}, then delete the old one at the \
             provider when nothing uses it any more{expiry}",
            o.key.namespace, o.key.name
        ),
    );
}

/// Whether a version of this key stands in `spec.revokedVersions`.
pub(super) fn listed(key: &KeyView, record: &Record, facts: &KeyFacts) -> bool {
    record.versions.iter().any(|v| key.revoked_versions.contains(&v.version) && v.has_key(&facts.fingerprint))
}

fn replace(o: &Observed, record: &Record, facts: &KeyFacts, env: &Env, plan: &mut Plan) {
    if record.was_retired(&facts.fingerprint) || listed(&o.key, record, facts) {
        plan.stall(
            Reason::SourceWasRevoked,
            "the source Secret holds a key that was revoked here before, or stands in spec.revokedVersions; put another key \
             into it",
        );
        return;
    }
    if o.key.paused {
        due(
            plan,
            Reason::Paused,
            "the source Secret holds another key; the annotation llmkeys.dev/paused holds it",
        );
        return;
    }
    if plan.stalled() {
        return;
    }
    match gate(o, &facts.shown, None, over_good(o, record), env, plan) {
        Gate::Ask => plan.effects.push(Effect::Validate(Subject::Source)),
        Gate::Hold => {}
        Gate::Publish => {
            let reason = if record.versions.is_empty() {
                RotationReason::Initial
            } else {
                RotationReason::SourceChanged
            };
            let mut next = supplied(o, record, facts, reason, env);
            let number = next.versions.last().map_or(0, |v| v.version);
            fold_delivery(record, &mut next);
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
            plan.effects.push(Effect::WriteTarget { version: number });
        }
    }
}

/// A first version whose L3 was folded is current from here on, since another one follows it.
pub(super) fn fold_delivery(record: &Record, next: &mut Record) {
    if let Some(first) = record.delivered().filter(|v| v.state == VersionState::Publishing)
        && next.advance(first.version, VersionState::Current)
        && let Some(v) = next.version_mut(first.version)
    {
        v.published_at = v.published_at.or(Some(v.created_at));
    }
}

/// When the next rotation is due, with the reminders before it.
pub(super) fn next_rotation(
    o: &Observed,
    record: &Record,
    published: Option<DateTime<Utc>>,
    env: &Env,
    plan: &mut Plan,
) -> Option<DateTime<Utc>> {
    due_time(o, &record.lineage, published?, env, plan)
}

pub(super) fn due_time(
    o: &Observed,
    lineage: &str,
    published: DateTime<Utc>,
    env: &Env,
    plan: &mut Plan,
) -> Option<DateTime<Utc>> {
    let at = when(o, lineage, published, env)?;
    plan.next_rotation = Some(at);
    if env.now < at {
        plan.wake_at(at);
        if let Some(schedule) = &o.policy.schedule {
            if schedule::next_due(schedule, published, lineage, &env.timings)
                .is_some_and(|due| due <= env.now)
            {
                let opens = crate::api::rfc3339(at);
                let message = format!("a rotation is due; the policy's next window opens at {opens}");
                due(plan, Reason::WaitingForWindow, message);
            }
            remind(o, schedule, published, at, env, plan);
        }
    }
    Some(at)
}

/// When the next rotation starts: as scheduled, in a window of the policy, or in time before the key expires. What a person
/// has to supply is asked for at any time.
pub(super) fn when(
    o: &Observed,
    lineage: &str,
    published: DateTime<Utc>,
    env: &Env,
) -> Option<DateTime<Utc>> {
    let terms = super::upcoming::terms(o, lineage, &env.timings);
    upcoming::next(&terms, published, env.now, &env.timings).map(|next| next.at)
}

/// Whether the next key comes without a person: it is made, or taken from a pool.
pub(super) const fn needs_no_person(o: &Observed) -> bool {
    o.key.minted || !o.key.pool.is_empty()
}

/// Whether the delivered key is to be replaced because the provider refuses it.
///
/// A spare that is ready takes its place at once; it is there for that.
pub(super) fn refused(o: &Observed, shown: Option<&str>, spare: bool, env: &Env, plan: &mut Plan) -> bool {
    if !(o.policy.replace_invalid || spare)
        || !needs_no_person(o)
        || o.key.validation == ValidationMode::Disabled
    {
        return false;
    }
    let Some(health) = o.memory.health.as_ref().filter(|h| h.accepted == Some(false)) else { return false };
    if shown.is_some_and(|shown| shown != health.fingerprint) {
        return false;
    }
    let wait = if spare { chrono::Duration::zero() } else { delta(env.timings.replace_invalid_after) };
    let at = health.since + wait;
    if env.now < at {
        plan.wake_at(at);
    }
    env.now >= at
}

/// Tells once of each reminder that begins while this process looks.
fn remind(
    o: &Observed,
    schedule: &schedule::Plan,
    published: DateTime<Utc>,
    at: DateTime<Utc>,
    env: &Env,
    plan: &mut Plan,
) {
    let reminders = schedule::reminder_due(schedule, published, at, env.now, &env.timings);
    if let Some(next) = reminders.next {
        plan.wake_at(next);
    }
    let Some(before) = reminders.active else { return };
    if o.memory.reminded == Some((at, before)) {
        return;
    }
    plan.effects.push(Effect::NoteReminder { due: at, before });
    plan.effects.push(Effect::Announce {
        warning: false,
        reason: Reason::RotationReminder,
        note: format!("the next rotation is due at {}", crate::api::rfc3339(at)),
    });
}
