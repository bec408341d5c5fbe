//! A ledger whose LLMKey is gone: wait for the grace, revoke, and go.

use crate::api::rfc3339;
use crate::controller::llm_key::decide::{give_up, retire, successor};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan};
use crate::domain::lifecycle::VersionState;
use crate::ledger::{Record, Released, Version};

/// Plans the next step.
pub fn decide(o: &Observed, env: &Env) -> Plan {
    let mut plan = Plan::default();
    if let LedgerView::Present(ledger) = &o.ledger {
        step(o, &ledger.record, env, &mut plan);
    }
    plan
}

fn step(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(released) = record.released.as_ref().filter(|_| record.owner.is_none()) else {
        plan.effects.push(Effect::SwapLedger(Box::new(release(record, env))));
        return;
    };
    if env.now < released.revoke_not_before {
        plan.wake_at(released.revoke_not_before);
        return;
    }
    if record.versions.iter().any(|v| v.state.protects_key()) {
        let mut next = successor(record, env);
        give_up(&mut next, env);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    let view = retire::View {
        record,
        account_problem: o.provider.account_problem.as_ref(),
        account: o.provider.account.as_ref(),
        memory: &o.memory,
        pass: &o.pass,
    };
    retire::abandon_intents(&view, env, plan);
    if plan.effects.is_empty() {
        retire::advance(&view, env, plan);
    }
    if record.versions.iter().any(|v| matches!(v.state, VersionState::Intent | VersionState::Retiring)) {
        plan.wake_at(env.now + interval(env.timings.provider_check_interval));
        return;
    }
    // Late writers of a replica that was paused may still come: the ledger stays for a while.
    let last = record.versions.iter().filter_map(|v| v.revoked_at).fold(released.at, std::cmp::Ord::max);
    let end = last + interval(env.timings.sweep_interval * env.timings.sweep_clean_count);
    if env.now < end {
        plan.wake_at(end);
    } else if searched(&view, plan) {
        tracing::info!(
            namespace = record.namespace,
            name = record.name,
            since = rfc3339(released.at),
            "an empty ledger goes"
        );
        plan.effects.push(Effect::DeleteLedger);
    }
}

/// Whether no project that keys were made in holds one of a lost attempt, as far as the account at hand reaches.
fn searched(view: &retire::View<'_>, plan: &mut Plan) -> bool {
    let reached = |v: &&Version| matches!((&v.account, view.account), (Some(of), Some(at_hand)) if of.same_but_for_the_project(at_hand));
    let minted = view.record.versions.iter().filter(|v| v.mint_name.is_some());
    minted.filter(reached).all(|version| retire::searched_after(view, version, plan))
}

/// The LLMKey went without a word: it had nothing to revoke, or its finalizer was taken off by another hand.
fn release(record: &Record, env: &Env) -> Record {
    let mut next = successor(record, env);
    next.owner = None;
    next.released = Some(Released {
        at: env.now,
        revoke_not_before: env.now + interval(env.timings.deletion_grace),
        hand_over: true,
    });
    next
}

fn interval(duration: std::time::Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}
