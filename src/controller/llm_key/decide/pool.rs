//! `spec.source.pool`: supplied keys that are used in order, each value once.
//!
//! Members are read one after another until one has a key that was never published; with the one in use these are all that
//! a decision needs. Which values were used stands in the ledger, so neither pruning nor another process forgets it.

mod survey;

use std::fmt::Write;

use self::survey::{Offer, Survey, holder, survey, unknown_holder};
use super::flight::over_good;
use super::gate::{Gate, gate};
use super::rotate::{fold_delivery, next_rotation, refused, supplied};
use super::{due, successor};
use crate::api::{ConditionStatus, ConditionType, PoolMember, PoolStatus, Reason, RotationMode};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Look, Observed, Plan, SourceView, Subject};
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::ledger::{Record, Version};

/// Starts a new version, the first one included, if one is due and a member has a key for it.
pub(super) fn start(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let delivered = record.delivered();
    if record.in_flight().is_some() && record.versions.len() > 1 {
        return;
    }
    let scheduled =
        delivered.and_then(|v| next_rotation(o, record, v.published_at.or(Some(v.created_at)), env, plan));
    let why = reason(o, record, scheduled.is_some_and(|at| env.now >= at), env, plan);
    if o.provider.problem.is_some() {
        // Whose keys they would be is not known.
        if why.is_some() && delivered.is_some() {
            due(plan, Reason::ScheduleDue, "a rotation is due and cannot start: see Stalled");
        }
        return;
    }
    if matches!(o.source, SourceView::Unchanged) && (why.is_none() || rests(o, plan)) {
        return;
    }
    if let Some(members) = unknown_holder(o, delivered) {
        plan.effects.push(Effect::ReadMembers { members });
        return;
    }
    let survey = match survey(o, record, env) {
        Ok(survey) => survey,
        Err(members) => {
            plan.effects.push(Effect::ReadMembers { members });
            return;
        }
    };
    if let Some(next) = named(o, record, env) {
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    plan.pool = Some(shown(o, &survey));
    if let Some(offer) = survey.changed {
        // A person put it there: no schedule, no window and no mode of the policy is asked.
        take(o, record, offer, RotationReason::SourceChanged, env, plan);
    } else if let Some(why) = why {
        advance(o, record, &survey, why, env, plan);
    } else {
        wait(o, record, &survey, plan);
    }
}

/// A glance shows that a rotation is due, and what status said of it when everything was read still holds. Says so again.
pub(super) fn rests(o: &Observed, plan: &mut Plan) -> bool {
    let holds = |reason| reason == Reason::SupplyNextKey || reason == Reason::RemindOnly && reminds(o);
    match o.key.pool_told.as_ref().filter(|told| told.settled && holds(told.reason)) {
        Some(told) => {
            due(plan, told.reason, told.message.clone());
            true
        }
        None => false,
    }
}

/// A glance: what is due is told from status if nothing has changed, else everything is read.
pub(super) fn glance(o: &Observed, is_due: bool, plan: &mut Plan) {
    let told = plan.findings.iter().any(|f| f.condition == ConditionType::RotationDue);
    let told_no_more = !is_due && !told && o.key.pool_told.is_some();
    if told_no_more || is_due && !rests(o, plan) {
        plan.look = Look::Everything;
    }
}

/// Whether nothing of the member in use waits to be delivered.
pub fn settled(o: &Observed) -> bool {
    let LedgerView::Present(ledger) = &o.ledger else { return matches!(o.ledger, LedgerView::Unread(_)) };
    if matches!(o.source, SourceView::Unchanged) {
        return true;
    }
    let record = &ledger.record;
    let Some(member) = record.delivered().and_then(|v| v.member.as_ref()) else { return false };
    if !o.key.pool.iter().any(|m| m.name == *member) {
        return !o.pass.members.is_empty();
    }
    match o.pass.members.get(member) {
        Some(SourceView::Value(facts)) => record.was_used(&facts.fingerprint),
        Some(_) => true,
        None => false,
    }
}

/// Why the next member's turn has come.
fn reason(
    o: &Observed,
    record: &Record,
    overdue: bool,
    env: &Env,
    plan: &mut Plan,
) -> Option<RotationReason> {
    let Some(current) = record.delivered() else {
        return Some(if record.versions.is_empty() {
            RotationReason::Initial
        } else {
            RotationReason::Replaced
        });
    };
    let shown = current.key.as_ref().map(|k| k.shown.as_str());
    let requested = o.key.rotate.is_some() && o.key.rotate != record.handled_rotate;
    if o.key.revoked_versions.contains(&current.version) {
        Some(RotationReason::BreakGlass)
    } else if refused(o, shown, false, env, plan) {
        Some(RotationReason::Invalid)
    } else if requested || record.awaiting_supply {
        Some(RotationReason::Requested)
    } else if current.member.is_none() {
        Some(RotationReason::SourceChanged)
    } else {
        overdue.then_some(RotationReason::Schedule)
    }
}

/// The policy leaves supplied keys to a person: by its mode, or because the spec does not name it.
fn reminds(o: &Observed) -> bool {
    o.policy.mode == RotationMode::RemindOnly || o.policy.defaulted
}

/// The delivered key is the one of a member that the ledger does not name for it: the source was another one, or the member
/// had another name. It stays, as that member's.
fn named(o: &Observed, record: &Record, env: &Env) -> Option<Record> {
    let delivered = record.delivered().filter(|v| v.origin == Origin::Supplied)?;
    let known = |name: &String| o.key.pool.iter().any(|m| m.name == *name);
    if delivered.member.as_ref().is_some_and(known) {
        return None;
    }
    let member = holder(o, delivered)?.name.clone();
    let mut next = successor(record, env);
    next.version_mut(delivered.version)?.member = Some(member);
    next.note_used();
    Some(next)
}

fn shown(o: &Observed, survey: &Survey<'_>) -> PoolStatus {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    PoolStatus {
        total: count(o.key.pool.len()),
        unused: count(survey.unused),
        next: survey.next.map(|offer| offer.member.name.clone()),
        skipped: survey.skipped.clone(),
    }
}

/// Nothing is due. Says who is next, and warns if nobody is.
fn wait(o: &Observed, record: &Record, survey: &Survey<'_>, plan: &mut Plan) {
    let mut message = match survey.in_use {
        Some(member) => format!("the key of pool member {} is in use", member.name),
        None => "the key in use came from a member that the pool has no more".to_owned(),
    };
    let reason = if let Some(next) = survey.next {
        let name = &next.member.name;
        let _ = write!(message, ", {name} is next; unused: {} of {}", survey.unused, o.key.pool.len());
        Reason::NotDue
    } else {
        let _ = write!(message, " and no unused one is left: {}", survey.refill(o));
        Reason::LastPoolMember
    };
    message += &survey.passed_over();
    if let Some(old) = superseded(record) {
        let _ = write!(message, "; {old}");
    }
    if let Some(retry) = survey.retry.filter(|_| survey.in_use.is_some_and(|m| is_passed_over(survey, m))) {
        // A person's new key for the member in use: asked again until the provider takes it.
        plan.wake_at(retry);
    }
    plan.find(ConditionType::RotationDue, ConditionStatus::False, reason, message);
}

fn is_passed_over(survey: &Survey<'_>, member: &PoolMember) -> bool {
    survey.skipped.iter().any(|s| s.name == member.name && s.reason == Reason::RejectedNotPublished.as_str())
}

/// Which older key a person should delete: the operator revokes none that it did not make.
fn superseded(record: &Record) -> Option<String> {
    let current = record.delivered()?;
    let old = record.versions.iter().rev().find(|v| {
        v.state == VersionState::Retained && v.origin == Origin::Supplied && v.key != current.key
    })?;
    Some(format!("{} at the provider when nothing uses it any more", delete(old)))
}

/// Names a supplied version's key to the person who deletes it.
pub(super) fn delete(old: &Version) -> String {
    let of = old.member.as_ref().map_or_else(String::new, |member| format!("pool member {member}, "));
    let last_four = old.key.as_ref().map_or("", |k| k.last_four.as_str());
    format!("delete the key of version {} ({of}it ends in {last_four})", old.version)
}

/// A rotation is due: the next member's turn, under the rules that hold for keys that the operator makes.
fn advance(
    o: &Observed,
    record: &Record,
    survey: &Survey<'_>,
    why: RotationReason,
    env: &Env,
    plan: &mut Plan,
) {
    let Some(offer) = survey.next.or(survey.again) else {
        used_up(o, record, survey, env, plan);
        return;
    };
    let delivered = record.delivered().is_some();
    let at_once = matches!(why, RotationReason::Invalid | RotationReason::BreakGlass);
    let by_rule = matches!(why, RotationReason::Schedule | RotationReason::Invalid);
    let open =
        record.versions.iter().any(|v| matches!(v.state, VersionState::Overlap | VersionState::Retiring));
    if o.key.paused && !matches!(why, RotationReason::BreakGlass | RotationReason::Initial) {
        let message = "a rotation is due; the annotation llmkeys.dev/paused holds it";
        if !delivered {
            plan.progress(Reason::Paused, message);
        }
        due(plan, Reason::Paused, message);
    } else if by_rule && reminds(o) {
        let why = if o.policy.defaulted {
            "the policy named default rotates only keys that the operator made"
        } else {
            "the policy only reminds"
        };
        let name = &offer.member.name;
        due(
            plan,
            Reason::RemindOnly,
            format!("a rotation is due; {why}: set llmkeys.dev/rotate to go on to pool member {name}"),
        );
    } else if delivered && open && !at_once {
        due(
            plan,
            Reason::OverlapActive,
            "a rotation is due; it starts when the overlap of the last one is over",
        );
    } else if plan.stalled() {
        due(plan, Reason::ScheduleDue, "a rotation is due and cannot start: see Stalled");
    } else {
        take(o, record, offer, why, env, plan);
    }
}

/// No member has a key that can be published: a person must act.
fn used_up(o: &Observed, record: &Record, survey: &Survey<'_>, env: &Env, plan: &mut Plan) {
    if let Some(retry) = survey.retry {
        plan.wake_at(retry);
    }
    let message = format!(
        "the next key is due and the pool of {}/{} is used up: {}{}",
        o.key.namespace,
        o.key.name,
        survey.refill(o),
        survey.passed_over()
    );
    let Some(delivered) = record.delivered() else {
        plan.stall(Reason::SupplyNextKey, message.clone());
        due(plan, Reason::SupplyNextKey, message);
        return;
    };
    let requested = o.key.rotate.as_ref().filter(|t| record.handled_rotate.as_ref() != Some(*t));
    if let Some(token) = requested {
        let mut next = successor(record, env);
        next.handled_rotate = Some(token.clone());
        next.awaiting_supply = true;
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    due(plan, Reason::SupplyNextKey, format!("{message}; then {} at the provider", delete(delivered)));
}

/// Checks a member's key and publishes it.
fn take(o: &Observed, record: &Record, offer: Offer<'_>, why: RotationReason, env: &Env, plan: &mut Plan) {
    let name = &offer.member.name;
    if why == RotationReason::SourceChanged && o.key.paused {
        due(
            plan,
            Reason::Paused,
            format!("pool member {name} holds another key; the annotation llmkeys.dev/paused holds it"),
        );
        return;
    }
    if plan.stalled() {
        return;
    }
    let shown = offer.facts.shown.as_str();
    let said = o.memory.candidate.as_ref().filter(|h| h.fingerprint == shown).and_then(|h| h.last);
    if said.is_some_and(|(verdict, _)| verdict.refuses()) {
        // It was refused long enough ago, or it would not be offered.
        plan.effects.push(Effect::Validate(Subject::Member(offer.place)));
        return;
    }
    match gate(o, shown, None, over_good(o, record), env, plan) {
        Gate::Ask => plan.effects.push(Effect::Validate(Subject::Member(offer.place))),
        Gate::Hold => {
            if record.delivered().is_some() {
                due(
                    plan,
                    Reason::Rotating,
                    format!("the key of pool member {name} is checked before it is delivered"),
                );
            } else if !plan.stalled() {
                plan.progress(Reason::Progressing, format!("the key of pool member {name} is being checked"));
            }
        }
        Gate::Publish => {
            let next = taken(o, record, offer, why, env);
            let version = next.versions.last().map_or(1, |v| v.version);
            plan.effects.push(if matches!(o.ledger, LedgerView::Absent) {
                Effect::CreateLedger(Box::new(next))
            } else {
                Effect::SwapLedger(Box::new(next))
            });
            plan.effects.push(Effect::WriteTarget { version });
        }
    }
}

/// The record with the member's key as the next version. The write that publishes it also says that it was used.
fn taken(o: &Observed, record: &Record, offer: Offer<'_>, why: RotationReason, env: &Env) -> Record {
    let mut noted = record.clone();
    noted.note_used();
    let mut next = supplied(o, &noted, offer.facts, why, env);
    if let Some(version) = next.versions.last_mut() {
        version.member = Some(offer.member.name.clone());
    }
    next.note_used();
    next.handled_rotate = o.key.rotate.clone().or(next.handled_rotate);
    fold_delivery(record, &mut next);
    next
}
