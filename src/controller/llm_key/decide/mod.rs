//! What to do next: a pure function of what was observed and the time. Total: it never fails.
//!
//! One call plans one step. The driver carries it out, folds what it learned into the observation and calls again,
//! until nothing is left to do; after a crash the next process starts from observation alone and comes to the same
//! steps, because every effect that cannot be repeated stands in the ledger before it happens.

mod break_glass;
mod chosen;
pub mod consumers;
mod first;
mod flight;
mod gate;
mod history;
pub(crate) mod lease;
mod matching;
mod overlap;
pub mod pin;
pub mod pool;
mod release;
mod retention;
pub mod retire;
mod rotate;
mod slots;
pub mod spare;
mod steady;
mod strays;
pub mod switch;
#[cfg(test)]
mod tests;
mod turn;
mod unnamed;
mod upcoming;
mod usage;

pub(crate) use history::note;
pub(crate) use release::{give_up, grace};
pub(crate) use strays::strays;
pub use turn::standing;
pub(crate) use unnamed::strays as unnamed_strays;
pub use upcoming::upcoming;

use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan, TargetView};
use crate::domain::lifecycle::{Origin, VersionState};
use crate::domain::names::{AttemptId, MintName};
use crate::ledger::{Ledger, Record, Version};

/// More attempts than were ever made between a ledger and the copy of it that was put back.
const LOST_ATTEMPTS: u32 = 1000;

/// Plans the next step.
pub fn decide(o: &Observed, env: &Env) -> Plan {
    let mut plan = next_step(o, env);
    note(o, env, &mut plan);
    plan
}

fn next_step(o: &Observed, env: &Env) -> Plan {
    let mut plan = Plan::default();
    if o.key.deleting {
        release::release(o, env, &mut plan);
        return plan;
    }
    blockers(o, env, &mut plan);
    match &o.ledger {
        LedgerView::Unreadable(reason, message) => plan.stall(*reason, message.clone()),
        LedgerView::Absent if switch::wanted_off(o) => switch::first(&mut plan),
        LedgerView::Absent => first::first(o, env, &mut plan),
        LedgerView::Unread(summary) => steady::steady(o, summary, env, &mut plan),
        LedgerView::Present(ledger) => present(o, ledger, env, &mut plan),
    }
    for failing in o.memory.failing.values() {
        let waits = env.now < failing.not_before;
        if waits && !plan.effects.is_empty() && !failing.at_provider() {
            // What failed in the cluster is not tried again before its time. Calls at the provider wait where they are
            // planned.
            plan.stall(failing.reason, failing.message.clone());
            plan.effects.clear();
        }
        // Whatever failed is tried again, also where nothing else would wake.
        if waits || !plan.effects.is_empty() {
            plan.wake_at(failing.not_before);
        }
    }
    pin::tell(o, &mut plan);
    if o.key.disable && !switch::wanted_off(o) {
        // All goes on as if it were Active.
        plan.stall(
            Reason::NotSupported,
            format!(
                "desiredState: Disabled: the operator cannot switch keys off at {}; nothing is changed. Revoked ends them, and \
                 Active takes the wish back",
                o.provider.shown
            ),
        );
    }
    plan
}

/// What a person must put right. Nothing new starts meanwhile; what is delivered stays.
fn blockers(o: &Observed, env: &Env, plan: &mut Plan) {
    if let Some((reason, message)) = &o.provider.problem {
        plan.stall(*reason, message.clone());
    }
    if o.key.minted
        && let Some((reason, message)) = &o.provider.account_problem
    {
        plan.stall(*reason, message.clone());
        if matches!(reason, Reason::KeyLimit | Reason::AccountLeased) {
            // Whoever makes room does not know of this one.
            plan.wake_at(env.now + gate::delta(env.timings.provider_check_interval));
        }
    }
    if o.key.revoke_all && !o.key.minted {
        plan.stall(
            Reason::NotSupported,
            "desiredState: Revoked works for minted keys; a supplied key must be deleted at the provider by who made it",
        );
    }
    if let Some((reason, message)) = &o.policy.problem {
        plan.stall(*reason, message.clone());
    }
    if let Some(message) = &o.key.template_problem {
        plan.stall(Reason::TargetTemplateInvalid, message.clone());
    }
    if let super::model::SourceView::Problem(reason, message) = &o.source {
        plan.stall(*reason, message.clone());
    }
    if let TargetView::Foreign(reason, message) = &o.target {
        plan.stall(*reason, message.clone());
    }
}

/// The record was read: the first step that is due is the plan.
fn present(o: &Observed, ledger: &Ledger, env: &Env, plan: &mut Plan) {
    let record = &ledger.record;
    if let (Some(id), Some(account)) = (nobodys(o, record), &o.provider.account) {
        plan.effects.push(Effect::RevokeStray { project: account.project.clone(), id });
        return;
    }
    if record.owner.as_deref() != Some(o.key.uid.as_str()) {
        release::take_over(o, record, env, plan);
        return;
    }
    if rolled_back(o, record, env, plan) {
        return;
    }
    // Told whatever else is under way.
    if let Some(published) = record.delivered().map(|v| v.published_at.unwrap_or(v.created_at)) {
        plan.next_rotation = rotate::when(o, &record.lineage, published, env);
    }
    let steps: [fn(&Observed, &Record, &Env, &mut Plan); 17] = [
        repair_before_revocation,
        // Before the next key is made for a listed one: the pinned one may take its place.
        pin::advance,
        break_glass::advance,
        flight::advance,
        spare::tidy,
        rotate::revoke_all,
        repair,
        rotate::start,
        // After the start: a key that cannot be revoked keeps nobody from getting another one.
        retire_step,
        break_glass::supplied,
        matching::advance,
        switch::advance,
        overlap::advance,
        retention::advance,
        steady::probe,
        spare::advance,
        lease::give_back,
    ];
    for step in steps {
        step(o, record, env, plan);
        if !plan.effects.is_empty() || plan.hold {
            return;
        }
    }
    steady::finalizer(o, record, env, plan);
}

/// The ledger is older than what status tells of: an older copy of it was put back. What is delivered may be newer than all
/// that it knows, so nothing is done by it until a person says how to go on.
fn rolled_back(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    if !o.key.is_newer_than(record) && !spare::is_delivered(o, record) {
        return false;
    }
    let requested = o.key.rotate.is_some() && o.key.rotate != o.key.last_handled_rotate;
    if requested && !plan.stalled() {
        let mut next = successor(record, env);
        // Also where nothing but the delivery of a spare was lost, another key is made.
        let number = o.key.newest_shown.max(record.next_number());
        crate::controller::sweeper::decide::raise(&mut next, number, env);
        next.attempt = next.attempt.saturating_add(LOST_ATTEMPTS);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return true;
    }
    plan.stall(
        Reason::LedgerRolledBack,
        format!(
            "status or Secret tell of version {}, the ledger only of {}: an older ledger was put back; nothing is made, revoked or \
             delivered. Restore the newest one, or set llmkeys.dev/rotate to go on from this one with a new key",
            o.key.newest_shown,
            record.spare().map_or(record.next_number(), |v| v.version) - 1
        ),
    );
    true
}

/// A key that this pass made, if another replica closed its attempt meanwhile: no record will ever hold it.
fn nobodys(o: &Observed, record: &Record) -> Option<String> {
    // What a slot holds stays there; nobody has it.
    let minted = o.pass.minted.as_ref().filter(|_| !slots::is_so(o))?;
    let expected =
        record.attempt == minted.attempt && record.versions.iter().any(|v| v.state == VersionState::Intent);
    let holds = |v: &Version| v.provider_key_id.as_ref() == Some(&minted.id) && v.state.key_may_work();
    let recorded = record.versions.iter().any(holds);
    (!expected && !recorded).then(|| minted.id.clone())
}

fn view<'a>(o: &'a Observed, record: &'a Record) -> retire::View<'a> {
    retire::View {
        record,
        account_problem: o.provider.account_problem.as_ref().or(o.provider.problem.as_ref()),
        account: o.provider.account.as_ref(),
        lease: lease::missing(o),
        former: o.former.as_ref(),
        memory: &o.memory,
        pass: &o.pass,
    }
}

fn retire_step(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    retire::advance(&view(o, record), env, plan);
}

/// A Secret that was changed by another hand may hold the key that is about to be revoked.
fn repair_before_revocation(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if record.in_flight().is_none() && record.versions.iter().any(|v| v.state == VersionState::Retiring) {
        repair(o, record, env, plan);
    }
}

/// Whether a minted key belongs to the account at hand. Elsewhere it is neither shown nor delivered with that URL.
fn at_home(o: &Observed, version: &Version) -> bool {
    version.origin == Origin::Supplied || version.within_reach(o.provider.account.as_ref())
}

/// The target must carry the delivered version, whatever happened to it.
fn repair(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(delivered) = record.delivered().filter(|v| at_home(o, v)) else { return };
    let drifted = match &o.target {
        TargetView::Ours { carries, .. } if *carries == Some(delivered.version) => return,
        TargetView::Ours { changed, .. } => *changed,
        TargetView::Absent | TargetView::PreviousOwner | TargetView::Offered => true,
        TargetView::Unread | TargetView::Foreign(..) => return,
    };
    if o.key.template_problem.is_some() || o.pass.wrote_target == Some(delivered.version) {
        return;
    }
    if !drifted {
        // Only what is to be rendered has changed. That is no repair: it neither waits nor is told of.
        plan.effects.push(Effect::WriteTarget { version: delivered.version });
        return;
    }
    let again = o.memory.repaired.map(|at| at + gate::delta(env.timings.drift_repair_gap));
    if let Some(again) = again.filter(|again| env.now < *again) {
        // Somebody writes it as well: no race, and nothing is revoked while it is not right.
        plan.find(
            ConditionType::Reconciling,
            ConditionStatus::True,
            Reason::TargetContested,
            format!(
                "Secret {} is changed by another hand again and again; find out whose, and stop it",
                o.key.target_name
            ),
        );
        plan.wake_at(again);
        plan.hold = true;
        return;
    }
    plan.effects.push(Effect::WriteTarget { version: delivered.version });
    plan.effects.push(Effect::Announce {
        warning: false,
        reason: Reason::TargetRepaired,
        note: format!("Secret {} delivers version {} again", o.key.target_name, delivered.version),
    });
}

/// The record as the next write has it: a higher epoch and the writer's mark.
pub(crate) fn successor(record: &Record, env: &Env) -> Record {
    Record { epoch: record.epoch + 1, writer: format!("{:016x}", env.nonce), ..record.clone() }
}

/// What deletion of the LLMKey means for its keys, on record: nobody can be asked once it is gone.
fn on_deletion(o: &Observed, next: &mut Record) {
    next.retain_on_delete = o.key.retain_on_delete;
    next.deletion_grace_seconds = Some(o.key.grace.as_secs());
}

/// The name of the record's newest attempt to mint a version.
fn mint_name(record: &Record, number: i32, env: &Env) -> Option<String> {
    let attempt = AttemptId::new(record.attempt, env.nonce).ok()?;
    let version = u32::try_from(number).ok()?;
    Some(MintName::new(&record.install, &record.lineage, version, attempt).ok()?.to_string())
}

fn due(plan: &mut Plan, reason: Reason, message: impl Into<String>) {
    plan.find(ConditionType::RotationDue, ConditionStatus::True, reason, message);
}
