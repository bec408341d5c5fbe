//! Deletion, and the LLMKey of the same name that comes after.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::gate::delta;
use super::successor;
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan};
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};
use crate::ledger::{Record, Released, Version};

/// The finalizer only notes in the ledger that the owner is gone, and goes: no namespace hangs on a provider.
pub(super) fn release(o: &Observed, env: &Env, plan: &mut Plan) {
    if !o.key.finalizer {
        return;
    }
    if let LedgerView::Present(ledger) = &o.ledger
        && ledger.record.owner.as_deref() == Some(o.key.uid.as_str())
    {
        plan.effects.push(Effect::SwapLedger(Box::new(released(o, &ledger.record, env))));
    }
    plan.effects.push(Effect::SetFinalizer(false));
}

fn released(o: &Observed, record: &Record, env: &Env) -> Record {
    let mut next = successor(record, env);
    next.owner = None;
    super::on_deletion(o, &mut next);
    let at_once = o.key.revoke_all || record.revoked_by_spec;
    let grace = if at_once { chrono::Duration::zero() } else { grace(&next, env) };
    next.released = Some(Released {
        at: env.now,
        revoke_not_before: env.now + grace,
        hand_over: !o.key.namespace_terminating && !at_once,
    });
    next
}

/// How long after its deletion the LLMKey's keys are left alone.
pub(crate) fn grace(record: &Record, env: &Env) -> chrono::Duration {
    let said = record.deletion_grace_seconds.map(Duration::from_secs);
    delta(said.map_or(env.timings.deletion_grace, |said| env.timings.scale(said)))
}

/// An LLMKey of the same name continues the name's ledger, whatever became of the keys.
pub(super) fn take_over(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.minted && o.provider.account.is_none() {
        // Whether the keys may stay cannot be told before the account is known.
        return;
    }
    let revocable = record.minted_alive().next().is_some();
    if revocable && !o.key.finalizer && !o.key.retain_on_delete {
        plan.effects.push(Effect::SetFinalizer(true));
        return;
    }
    let mut next = successor(record, env);
    next.owner = Some(o.key.uid.clone());
    next.released = None;
    // One that is there at creation is answered; a later one asks.
    let asked = o.key.asked.rotate.as_ref().and_then(|requester| requester.at);
    if asked.is_none_or(|at| at <= o.key.created) {
        next.handled_rotate = o.key.rotate.clone().or(next.handled_rotate);
    }
    if !keeps_keys(o, record, env) {
        // By the terms of the LLMKey that they were made for.
        let until = match &record.released {
            _ if record.revoked_by_spec => env.now,
            Some(released) if released.hand_over => released.revoke_not_before.max(env.now),
            Some(_) => env.now,
            // Nobody has noted the deletion: its LLMKey went without the operator, or is another cluster's.
            None => env.now + grace(record, env),
        };
        supersede(o, &mut next, until, env);
    }
    super::on_deletion(o, &mut next);
    plan.effects.push(Effect::SwapLedger(Box::new(next)));
}

fn keeps_keys(o: &Observed, record: &Record, env: &Env) -> bool {
    let in_time = record
        .released
        .as_ref()
        .is_none_or(|r| r.hand_over && (!o.key.minted || env.now < r.revoke_not_before));
    let same_source = record.delivered().is_none_or(|v| (v.origin == Origin::Minted) == o.key.minted);
    let same_account = !o.key.minted
        || record.minted_alive().all(|v| v.account.is_none() || v.account == o.provider.account);
    in_time && same_source && same_account && !record.revoked_by_spec
}

/// The keys of another account or of another kind of source, whose LLMKey came back as a new one: workloads may go on using them
/// until `until`. Where this LLMKey can end them there is an overlap, with its evidence; elsewhere they are revoked then.
fn supersede(o: &Observed, record: &mut Record, until: DateTime<Utc>, env: &Env) {
    if env.now < until && !record.retain_on_delete {
        let reached =
            |v: &&Version| v.origin == Origin::Minted && v.within_reach(o.provider.account.as_ref());
        let published = |v: &&Version| matches!(v.state, VersionState::Publishing | VersionState::Current);
        let older: Vec<i32> =
            record.versions.iter().filter(reached).filter(published).map(|v| v.version).collect();
        for number in older {
            if record.advance(number, VersionState::Overlap)
                && let Some(version) = record.version_mut(number)
            {
                version.superseded_at = Some(env.now);
            }
        }
        let account = o.provider.account.clone();
        end(record, |v| v.state == VersionState::Overlap && v.within_reach(account.as_ref()), until, env);
    } else {
        give_up(record, env);
    }
}

/// What was delivered to the LLMKey before goes on to revocation, or stays with its owner.
pub(crate) fn give_up(record: &mut Record, env: &Env) {
    end(record, |_| false, env.now, env);
}

/// The same but for versions that `stays` names; what workloads may have is revoked from `until` on.
fn end(record: &mut Record, stays: impl Fn(&Version) -> bool, until: DateTime<Utc>, env: &Env) {
    let staying: Vec<String> = record
        .versions
        .iter()
        .filter(|v| stays(v))
        .filter_map(|v| v.key.as_ref().map(|key| key.fingerprint.clone()))
        .collect();
    let live: Vec<(i32, bool)> = record
        .versions
        .iter()
        .filter(|v| v.state.protects_key() && !stays(v))
        // The key of a version on its way that was pinned is an older version's, which is among them; one that stays answers for its own.
        .map(|v| {
            let pinned = v.state == VersionState::Pending && v.reason == RotationReason::Pinned;
            let borrowed = pinned || staying.iter().any(|key| v.has_key(key));
            (v.version, v.origin == Origin::Minted && !borrowed)
        })
        .collect();
    for (number, own) in live {
        // Nobody was ever given a spare, so nobody can want to keep it.
        let spare = record.spare().is_some_and(|v| v.version == number);
        let kept = record.retain_on_delete;
        let revoke = own && (spare || !kept);
        // One on its way may stand in the target already.
        let maybe_out = !spare && record.version(number).is_none_or(|v| v.reason != RotationReason::Spare);
        let to = match (revoke, record.version(number).map(|v| v.state)) {
            (true, _) => VersionState::Retiring,
            (false, Some(VersionState::Pending)) => VersionState::Abandoned,
            (false, _) => VersionState::Retained,
        };
        if record.advance(number, to)
            && let Some(version) = record.version_mut(number)
            && revoke
        {
            version.retiring_at = Some(if maybe_out { until } else { env.now });
            version.basis =
                Some(if kept { RevocationBasis::NeverPublished } else { RevocationBasis::Explicit });
        }
    }
}
