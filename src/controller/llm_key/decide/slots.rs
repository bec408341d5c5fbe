//! Keys in a fixed number of slots ([`MintKind::Slots`]): one slot's key is made anew, which ends the key that it had. The slots can be read
//! at any time, so a lost answer loses nothing: whether it has happened is told by what the slot holds, and the intent has on record
//! what it held before.
//!
//! **To make a key is to end another one.** A slot is taken only if nobody needs what it holds: no version of this ledger that may work,
//! and no other ledger. So a rotation waits for the end of the overlap before it, which is the evidence that the slot's key may go.
//!
//! **What is given up needs no call.** Each slot always holds some key. One that was made for an attempt which was given up is known to
//! nobody, and the next attempt in that slot ends it.

use super::gate::delta;
use super::{due, retire};
use crate::api::Reason;
use crate::controller::llm_key::model::{Effect, Env, Minted, Observed, Plan, SlotView, Work};
use crate::domain::lifecycle::{Origin, VersionState};
use crate::ledger::{Record, Slot, Tenancy, Version};
use crate::provider::MintKind;

/// Whether keys are made in slots.
pub(super) const fn is_so(o: &Observed) -> bool {
    matches!(o.provider.mint, MintKind::Slots)
}

/// Whether there is room for a key that nobody has yet: not where the account's keys are fixed in number.
pub(super) fn room_for_a_spare(o: &Observed) -> bool {
    o.provider.tenancy == Tenancy::Shared
}

/// Before an intent: the slots are read, and one of them is free. True while there is something to do, or to wait for.
pub(super) fn before_intent(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    if !is_so(o) {
        return false;
    }
    if retire::waiting(record, &o.memory, Work::Mint, env, plan) || late(o, record, env, plan) {
        return true;
    }
    let Some(slots) = &o.pass.slots else {
        plan.effects.push(Effect::ReadSlots);
        return true;
    };
    let Err(why) = free(record, slots) else { return false };
    if record.delivered().is_none() {
        plan.stall(Reason::SlotsTaken, why.clone());
    }
    due(plan, Reason::SlotsTaken, why);
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    true
}

/// A request of an attempt that was given up by an earlier process may still be on its way.
fn late(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let newest = record.versions.last();
    let given_up = newest.is_some_and(|v| v.state == VersionState::Abandoned && v.slot.is_some());
    let Some(started) = o.memory.started.filter(|_| given_up) else { return false };
    let arrived = started + delta(env.timings.list_visibility_lag);
    if env.now < arrived {
        plan.wake_at(arrived);
    }
    env.now < arrived
}

/// The slot that the next intent is for.
pub(super) fn next(o: &Observed, record: &Record) -> Option<Slot> {
    let slots = o.pass.slots.as_ref().filter(|_| is_so(o))?;
    free(record, slots).ok()
}

/// In turn: not the slot of the newest version that was delivered, if another one is free. Before any was, the first one: what was
/// there before goes on in the other.
fn free(record: &Record, slots: &[SlotView]) -> Result<Slot, String> {
    let open = |slot: &&SlotView| slot.holder.is_none() && needs(record, &slot.fingerprint).is_none();
    let delivered = record.versions.iter().rev().filter(|v| v.published_at.is_some());
    let last = delivered.filter_map(|v| v.slot.as_ref()).map(|slot| slot.name.as_str()).next();
    let found = slots.iter().filter(open).min_by_key(|slot| Some(slot.name.as_str()) == last);
    let found = found.map(|slot| Slot { name: slot.name.clone(), before: slot.fingerprint.clone() });
    found.ok_or_else(|| taken(record, slots))
}

/// The version that needs a slot's key. What a person supplied and has replaced since is not protected: both slots were handed over.
fn needs<'a>(record: &'a Record, fingerprint: &str) -> Option<&'a Version> {
    let left = |v: &Version| v.state == VersionState::Retained && v.origin == Origin::Supplied;
    record.versions.iter().find(|v| v.state.key_may_work() && !left(v) && v.has_key(fingerprint))
}

fn taken(record: &Record, slots: &[SlotView]) -> String {
    let who = slots.iter().map(|SlotView { name, fingerprint, holder }| {
        let version = needs(record, fingerprint);
        match (version, holder) {
            (Some(v), _) => format!("{name} has the key of version {} ({})", v.version, v.state.as_str()),
            (None, holder) => format!("{name} has the key of {}", holder.as_deref().unwrap_or("nobody")),
        }
    });
    format!(
        "no key can be made without ending one that may be in use: {}. It goes on when one of them is revoked (spec.revokedVersions \
         does that at once), or its slot's key is made anew at the provider",
        who.collect::<Vec<_>>().join(", ")
    )
}

/// Whether the version is an intent for a slot.
pub(super) fn is(version: &Version) -> bool {
    version.state == VersionState::Intent && version.slot.is_some()
}

/// What this reconcile found in the intent's slot. Of an older attempt it counts no more: another replica may have had the key made
/// anew since.
pub(super) fn made<'a>(o: &'a Observed, record: &Record, version: &Version) -> Option<&'a Minted> {
    o.pass.minted.as_ref().filter(|minted| version.slot.is_none() || minted.attempt == record.attempt)
}
