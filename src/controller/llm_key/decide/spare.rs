//! The spare: a key that is made, checked and kept back, so that the next rotation need not wait for the provider.
//!
//! Its version goes the way of any other up to the point of delivery, with the reason `Spare`. A rotation takes it by giving it
//! its own reason, in one write of the ledger, and delivers it like any version that is sealed and not yet delivered.

use chrono::{DateTime, Utc};

use super::flight::{self, over_good};
use super::gate::{Gate, again, delta, gate};
use super::rotate::{before_intent, intent, next_number};
use super::slots::room_for_a_spare;
use super::{at_home, chosen, due, retire, successor};
use crate::api::{ConditionStatus, ConditionType, LLMKeyStatus, Reason, ValidationMode};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan, Subject, TargetView};
use crate::domain::budget;
use crate::domain::health::{Health, Verdict, last_slot};
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::domain::names::slot_offset;
use crate::ledger::{Record, Summary, Version};

/// Keys of the hourly budget that are left for rotations.
const KEPT_FOR_ROTATIONS: usize = 1;

/// The version that the next rotation takes: made as a spare, or on the way to be one.
pub(super) fn usable<'a>(o: &Observed, record: &'a Record) -> Option<&'a Version> {
    record.spare().filter(|v| newest(o, record, v)).filter(|v| match v.state {
        // Where its next attempt is made is found out then.
        VersionState::Intent => true,
        _ => v.account == o.provider.account && at_home(o, v) && !refused(o, v),
    })
}

/// The target carries what the record takes for a spare: the ledger is older than that.
pub(super) fn is_delivered(o: &Observed, record: &Record) -> bool {
    let spare = record.spare().filter(|v| v.state == VersionState::Spare).map(|v| v.version);
    matches!(&o.target, TargetView::Ours { carries, .. } if spare.is_some() && *carries == spare)
}

/// The spare, if it is ready to be taken.
pub(super) fn ready<'a>(o: &Observed, record: &'a Record) -> Option<&'a Version> {
    usable(o, record).filter(|v| v.state == VersionState::Spare)
}

/// An attempt that no rotation can take must be given up before another one begins.
pub(super) fn in_the_way(o: &Observed, record: &Record) -> bool {
    record.spare().is_some_and(|v| v.state == VersionState::Intent) && usable(o, record).is_none()
}

/// L1 of a rotation that takes the spare.
pub(super) fn promoted(record: &Record, number: i32, reason: RotationReason, env: &Env) -> Option<Record> {
    let mut next = successor(record, env);
    let ready = record.version(number).is_some_and(|v| v.state == VersionState::Spare);
    if ready && !next.advance(number, VersionState::Pending) {
        return None;
    }
    let version = next.version_mut(number)?;
    version.reason = reason;
    version.promoted_at = Some(env.now);
    Some(next)
}

/// Whether a spare that a rotation has taken may be delivered. It was found good before, so that over a key which is known to be
/// bad it need not wait for a provider that does not answer.
pub(super) fn gate_promoted(
    o: &Observed,
    record: &Record,
    version: &Version,
    shown: &str,
    env: &Env,
    plan: &mut Plan,
) -> Gate {
    let over_good = over_good(o, record);
    let health = o.memory.candidate.as_ref().filter(|h| h.fingerprint == shown);
    match health.and_then(|h| h.last) {
        _ if o.key.validation != ValidationMode::Required || o.provider.problem.is_some() => {}
        Some((verdict, asked)) if verdict.refuses() => {
            due(plan, Reason::WaitingForProvider, "the provider refused the spare; it is asked again");
            return again(asked, env.timings.rejection_confirmation_gap, env, plan);
        }
        Some((verdict, _)) if !verdict.accepts() && verdict != Verdict::AddressRefused && !over_good => {
            return Gate::Publish;
        }
        _ => {}
    }
    gate(o, shown, Some(version.created_at), over_good, env, plan)
}

/// Whether the provider has refused the key as often as it takes to believe it.
pub(super) fn confirmed_refused(health: Option<&Health>, shown: &str) -> bool {
    health.is_some_and(|h| h.fingerprint == shown && h.accepted == Some(false))
}

/// What comes before rotations: a key that was made for it goes on record, and one that serves nobody any more goes.
pub(super) fn tidy(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(spare) = record.spare().filter(|_| !o.key.revoke_all) else { return };
    if spare.state == VersionState::Intent && chosen::made(o, record, spare).is_some() && o.key.minted {
        take(make_step(o, record, spare, env), plan);
        return;
    }
    if !needless(o, record, spare) {
        return;
    }
    if spare.state == VersionState::Intent {
        let mut sub = Plan::default();
        retire::abandon_intents(&super::view(o, record), env, &mut sub);
        take(sub, plan);
    } else if may_retire(o) && spare.within_reach(o.provider.account.as_ref()) {
        give_up(record, spare.version, env, plan);
    }
}

/// What comes when nothing else is to be done: one is made, checked, and looked after.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.revoke_all || !o.key.minted {
        return;
    }
    match record.spare() {
        None => begin(o, record, env, plan),
        Some(v) if v.state == VersionState::Intent => make(o, record, v, env, plan),
        Some(v) if v.state == VersionState::Pending => check(o, record, v, env, plan),
        Some(v) => look_after(o, record, v, env, plan),
    }
}

/// Only the summary is known. Whether the record must be read for the spare's sake.
pub(super) fn steady(o: &Observed, summary: &Summary, env: &Env, plan: &mut Plan) -> Steady {
    let wanted = o.key.minted && o.policy.spares > 0 && room_for_a_spare(o);
    if o.key.revoke_all || o.key.paused || o.policy.problem.is_some() {
        return Steady::Rests;
    }
    if wanted != summary.spare.is_some() {
        return Steady::Changes;
    }
    if !wanted || !checked(o) {
        return Steady::Rests;
    }
    let at = next_check(o, o.memory.spare.as_ref(), &summary.lineage, env);
    plan.wake_at(at);
    if env.now >= at { Steady::Checks } else { Steady::Rests }
}

/// What a glance leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steady {
    /// Nothing.
    Rests,
    /// The spare is to be checked.
    Checks,
    /// One is missing, or there is one too many.
    Changes,
}

/// What is told of the next key while no rotation is due.
pub fn at_rest(o: &Observed, before: &LLMKeyStatus) -> Option<String> {
    match &o.ledger {
        LedgerView::Present(ledger) => {
            let spare = ledger.record.spare().filter(|v| v.state == VersionState::Spare)?;
            Some(format!("version {} is ready as a spare", spare.version))
        }
        // As it was told by whoever read the ledger.
        LedgerView::Unread(_) => {
            let kind = ConditionType::RotationDue.as_str();
            let told = before.conditions.iter().find(|c| c.type_ == kind)?;
            (told.reason == Reason::NotDue.as_str()).then(|| told.message.clone())
        }
        _ => None,
    }
}

fn newest(o: &Observed, record: &Record, version: &Version) -> bool {
    version.version + 1 == next_number(o, record)
}

fn refused(o: &Observed, version: &Version) -> bool {
    // A new key may be refused for a while.
    version.state == VersionState::Spare
        && version.key.as_ref().is_some_and(|key| confirmed_refused(o.memory.spare.as_ref(), &key.shown))
}

/// Nobody will ever take it: the source or the policy asks for none, its number has been overtaken, the LLMProvider names another
/// project, or the provider refuses it.
fn needless(o: &Observed, record: &Record, spare: &Version) -> bool {
    let moved = match spare.state {
        VersionState::Intent => o.former.as_ref().is_some_and(|former| retire::at(former, spare)),
        _ => spare.account != o.provider.account,
    };
    let unasked = !o.key.minted || o.policy.problem.is_none() && o.policy.spares == 0;
    unasked || !newest(o, record, spare) || moved || refused(o, spare)
}

/// Nothing holds an L4: no pause, no missing policy, no account that cannot be used or is frozen.
fn may_retire(o: &Observed) -> bool {
    let usable = o.provider.problem.is_none() && o.provider.account_problem.is_none();
    usable && !o.key.paused && o.policy.problem.is_none()
}

/// L4 of a key that nobody was ever given.
fn give_up(record: &Record, number: i32, env: &Env, plan: &mut Plan) {
    if retire::is_needed(record, number) {
        return;
    }
    plan.effects.extend(retire::never_published(record, number, env).map(Box::new).map(Effect::SwapLedger));
}

/// L1 of a spare: only while one key works and nothing is under way.
fn begin(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(delivered) = record.current().filter(|_| o.policy.spares > 0) else { return };
    if !room_for_a_spare(o) {
        missing(plan, "the account has no room for one beside the key in use and the older one");
        return;
    }
    let idle = record.versions.iter().all(|v| !v.state.open());
    if o.key.paused || o.policy.problem.is_some() || plan.stalled() || !idle || !healthy(o, delivered) {
        return;
    }
    if over_budget(record, env, plan) {
        return;
    }
    if !o.key.finalizer && !o.key.retain_on_delete {
        plan.effects.push(Effect::SetFinalizer(true));
    } else if before_intent(o, record, env, plan) {
        // Planned, or told.
    } else if let Some(next) = intent(o, record, RotationReason::Spare, env) {
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    }
}

/// The delivered key works, as far as the last answer tells.
fn healthy(o: &Observed, delivered: &Version) -> bool {
    if delivered.origin != Origin::Minted || !at_home(o, delivered) {
        return false;
    }
    let shown = delivered.key.as_ref().map(|k| &k.shown);
    !checked(o)
        || o.memory.health.as_ref().is_some_and(|h| {
            Some(&h.fingerprint) == shown
                && h.accepted == Some(true)
                && h.rejections == 0
                && h.last.is_none_or(|(verdict, _)| verdict.accepts())
        })
}

fn checked(o: &Observed) -> bool {
    o.key.validation != ValidationMode::Disabled
}

fn make(o: &Observed, record: &Record, spare: &Version, env: &Env, plan: &mut Plan) {
    let attempt = Some(record.attempt);
    let fenced = spare.account.is_some() && o.pass.fenced == attempt;
    // An attempt that the provider refused is closed in any case.
    if o.pass.refused != attempt && (plan.stalled() || !fenced && over_budget(record, env, plan)) {
        return;
    }
    take(make_step(o, record, spare, env), plan);
}

fn make_step(o: &Observed, record: &Record, spare: &Version, env: &Env) -> Plan {
    let mut sub = Plan::default();
    flight::mint(o, record, spare, env, &mut sub);
    sub
}

/// What keeps a spare from being made is told beside the key that works, and holds up nothing.
fn take(sub: Plan, plan: &mut Plan) {
    plan.effects.extend(sub.effects);
    if let Some(wake) = sub.wake {
        plan.wake_at(wake);
    }
    if let Some(finding) = sub.findings.first() {
        missing(plan, &finding.message);
    }
}

fn missing(plan: &mut Plan, why: &str) {
    tell(plan, format!("there is no spare yet: {why}"));
}

fn tell(plan: &mut Plan, message: String) {
    plan.find(ConditionType::RotationDue, ConditionStatus::False, Reason::NotDue, message);
}

/// The last keys of the budget are for rotations.
fn over_budget(record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let most = budget::PER_KEY - KEPT_FOR_ROTATIONS;
    let window = env.timings.mint_budget_window;
    let Some(free) = budget::waits_until(&record.mints, most, window, env.now) else { return false };
    let at = crate::api::rfc3339(free);
    missing(plan, &format!("{most} keys were made a short while ago; it is made at {at}"));
    plan.wake_at(free);
    true
}

/// P2: it is kept once the provider accepts it.
fn check(o: &Observed, record: &Record, spare: &Version, env: &Env, plan: &mut Plan) {
    let Some(facts) = &spare.key else { return };
    if !checked(o) {
        return keep(record, spare, env, plan);
    }
    if o.provider.problem.is_some() || !at_home(o, spare) {
        return;
    }
    let health = o.memory.spare.as_ref().filter(|h| h.fingerprint == facts.shown);
    let (why, pause, asked) = match health.and_then(|h| h.last) {
        None => {
            plan.effects.push(Effect::Validate(Subject::Spare(spare.version)));
            return;
        }
        Some((verdict, _)) if verdict.accepts() => return keep(record, spare, env, plan),
        Some((verdict, asked)) if verdict.refuses() => {
            if asked >= spare.created_at + delta(env.timings.new_key_deadline) {
                if may_retire(o) {
                    give_up(record, spare.version, env, plan);
                }
                return;
            }
            ("the provider does not accept the new key yet", env.timings.new_key_recheck, asked)
        }
        Some((Verdict::RateLimited { retry_after }, asked)) => {
            let pause = retry_after.unwrap_or_default().max(env.timings.outage_recheck);
            ("the provider throttles us", pause, asked)
        }
        Some((_, asked)) => {
            ("the provider has not said that it accepts the new key", env.timings.outage_recheck, asked)
        }
    };
    missing(plan, why);
    if again(asked, pause, env, plan) == Gate::Ask {
        plan.effects.push(Effect::Validate(Subject::Spare(spare.version)));
    }
}

fn keep(record: &Record, spare: &Version, env: &Env, plan: &mut Plan) {
    let mut next = successor(record, env);
    if next.advance(spare.version, VersionState::Spare)
        && let Some(version) = next.version_mut(spare.version)
    {
        version.spare_since = Some(env.now);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        plan.effects.push(Effect::Announce {
            warning: false,
            reason: Reason::SpareReady,
            note: format!("version {} is ready as a spare", spare.version),
        });
    }
}

/// A spare is checked at the slots of the delivered key.
fn look_after(o: &Observed, record: &Record, spare: &Version, env: &Env, plan: &mut Plan) {
    if usable(o, record).is_none() {
        let why = "it cannot be taken now, and goes when its account can be used and nothing holds it";
        tell(plan, format!("version {} was made as a spare; {why}", spare.version));
    }
    if !checked(o) || o.provider.problem.is_some() || !at_home(o, spare) {
        return;
    }
    let shown = spare.key.as_ref().map(|k| &k.shown);
    let health = o.memory.spare.as_ref().filter(|h| Some(&h.fingerprint) == shown);
    let at = next_check(o, health, &record.lineage, env);
    if env.now >= at {
        plan.effects.push(Effect::Validate(Subject::Spare(spare.version)));
    } else {
        plan.wake_at(at);
    }
}

/// At the slots, and soon again after a rejection.
fn next_check(o: &Observed, health: Option<&Health>, lineage: &str, env: &Env) -> DateTime<Utc> {
    let last = health.and_then(|h| h.last).map(|(_, at)| at);
    if let (Some(at), true) = (last, health.is_some_and(|h| h.confirming(o.key.threshold))) {
        return at + delta(env.timings.rejection_confirmation_gap);
    }
    let interval = env.timings.scale(o.key.interval);
    let started = o.memory.started.unwrap_or(env.now);
    let since = last.map_or(started, |at| at.max(started));
    let slot = last_slot(env.now, interval, slot_offset(lineage, interval));
    if slot > since { slot } else { slot + delta(interval) }
}
