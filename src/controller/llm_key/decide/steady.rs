//! Nothing is under way: due times, probes, and the finalizer that is needed only while there is something to revoke.

use super::gate::delta;
use super::rotate::{due_time, supply_next};
use super::spare::{self, Steady};
use super::switch;
use super::usage;
use crate::api::ValidationMode;
use crate::controller::llm_key::model::{Effect, Env, Look, Observed, Plan, Subject};
use crate::domain::health::last_slot;
use crate::domain::lifecycle::VersionState;
use crate::domain::names::slot_offset;
use crate::ledger::{Record, Summary};

/// Only the summary is known: enough to say what is due, and when to look again.
pub(super) fn steady(o: &Observed, summary: &Summary, env: &Env, plan: &mut Plan) {
    if switch::wanted_off(o) {
        switch::at_rest(summary.switched_off, plan);
        return;
    }
    if o.key.pinned.is_some() || summary.switched_off.is_some() {
        // Whether the pin is carried out, or a key is off, stands in the record.
        plan.look = Look::Everything;
    }
    if let Some(since) = summary.retained_since.filter(|_| o.policy.problem.is_none())
        && let Some(at) = since.checked_add_signed(delta(env.timings.scale(o.policy.retain_for)))
    {
        if env.now >= at {
            plan.look = Look::Everything;
        } else {
            plan.wake_at(at);
        }
    }
    if let Some(at) = super::matching::due(o, env) {
        if env.now >= at {
            plan.look = Look::Everything;
        } else {
            plan.wake_at(at);
        }
    }
    let at = summary.published_at.and_then(|at| due_time(o, &summary.lineage, at, env, plan));
    let is_due = at.is_some_and(|at| env.now >= at);
    let refused = super::rotate::refused(o, None, summary.spare.is_some(), env, plan);
    let spent = usage::spent(o, o.key.id_shown.as_deref(), summary.published_at);
    if !o.key.pool.is_empty() {
        super::pool::glance(o, is_due || refused, plan);
    } else if refused || (is_due || spent) && o.key.minted {
        let place = if is_due {
            super::turn::scheduled(o, &summary.lineage, summary.published_at, env)
        } else {
            usage::place(o, env.now)
        };
        if refused || !super::turn::waits(o, place, env, plan) {
            plan.look = Look::Everything;
        }
    } else if is_due {
        supply_next(o, plan);
    }
    if let Some(at) = next_probe(o, &summary.lineage, env) {
        if env.now >= at {
            plan.look = plan.look.max(Look::Ledger);
        }
        plan.wake_at(at);
    }
    match spare::steady(o, summary, env, plan) {
        Steady::Rests => {}
        Steady::Checks => plan.look = plan.look.max(Look::Ledger),
        Steady::Changes => plan.look = Look::Everything,
    }
}

/// The delivered key is checked at its slots, and at once again after a rejection.
pub(super) fn probe(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(delivered) = record.delivered().filter(|v| super::at_home(o, v)) else { return };
    let Some(mut at) = next_probe(o, &record.lineage, env) else { return };
    let shown = delivered.key.as_ref().map(|k| &k.shown);
    if o.memory.health.as_ref().is_none_or(|h| Some(&h.fingerprint) != shown) {
        // Delivered by a process that died before it could tell.
        at = env.now;
    }
    if env.now >= at && !o.pass.checked_delivered {
        plan.effects.push(Effect::Validate(Subject::Delivered(delivered.version)));
    } else if env.now < at {
        plan.wake_at(at);
    } else {
        plan.wake_at(env.now + delta(env.timings.rejection_confirmation_gap));
    }
}

/// When the delivered key is to be checked next; in the past if it is due.
pub fn next_probe(o: &Observed, lineage: &str, env: &Env) -> Option<chrono::DateTime<chrono::Utc>> {
    if o.key.validation == ValidationMode::Disabled || o.provider.problem.is_some() || o.key.revoke_all {
        return None;
    }
    let interval = env.timings.scale(o.key.interval);
    let started = o.memory.started.unwrap_or(env.now);
    if let Some(health) = &o.memory.health {
        let asked = health.last.map(|(_, at)| at);
        if health.confirming(o.key.threshold) || (asked.is_none() && health.accepted.is_none()) {
            return Some(asked.map_or(started, |at| at + delta(env.timings.rejection_confirmation_gap)));
        }
        if let Some(wanted) = o.memory.check_asked
            && asked.is_none_or(|at| at <= wanted)
        {
            return Some(wanted);
        }
        if let Some((verdict, at)) = health.last
            && !verdict.accepts()
            && !verdict.refuses()
        {
            // An outage is asked about more often than a good key, yet not in a storm.
            return Some(at + delta(env.timings.outage_recheck.min(interval)));
        }
    }
    let since = o.memory.health.as_ref().and_then(|h| h.last).map_or(started, |(_, at)| at.max(started));
    let slot = last_slot(env.now, interval, slot_offset(lineage, interval));
    Some(if slot > since { slot } else { slot + delta(interval) })
}

/// The finalizer goes when deletion has nothing to revoke.
pub(super) fn finalizer(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let grace = record.deletion_grace_seconds.is_some_and(|seconds| seconds != o.key.grace.as_secs());
    if (grace || record.retain_on_delete != o.key.retain_on_delete) && record.minted_alive().next().is_some()
    {
        // The ledger outlives the LLMKey: what deletion means must stand there before the finalizer goes.
        let mut next = super::successor(record, env);
        super::on_deletion(o, &mut next);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    let intents = record.versions.iter().any(|v| v.state == VersionState::Intent);
    // Set before there was room: taken off meanwhile it would be set again at once.
    let waits = plan.awaits_room && o.key.finalizer;
    let needed = (record.minted_alive().next().is_some() || intents || waits) && !o.key.retain_on_delete;
    if needed != o.key.finalizer {
        plan.effects.push(Effect::SetFinalizer(needed));
    }
}
