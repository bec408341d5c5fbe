//! `desiredState: Disabled`: keys are switched off at the provider and stay where they are; `Active` switches them on again.
//!
//! While they are off nothing is made, delivered anew, checked or revoked but what a person asks for by name: revocations that are
//! on record, `revokedVersions`, `desiredState: Revoked` and deletion go on.

use super::gate::delta;
use super::{matching, retire, successor, view};
use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::controller::llm_key::model::{Effect, Env, Look, Observed, Plan, Work};
use crate::domain::lifecycle::Origin;
use crate::ledger::{Extent, Record, Switch, Version};

/// Whether the keys are to be off, and can be.
pub fn wanted_off(o: &Observed) -> bool {
    o.key.disable && o.provider.can_disable && (o.key.minted || o.provider.matches)
}

/// Before there is a key: none is made.
pub(super) fn first(plan: &mut Plan) {
    let message = "desiredState: Disabled: no key is made or delivered before it is Active";
    plan.find(ConditionType::Ready, ConditionStatus::False, Reason::SwitchedOff, message);
    plan.hold = true;
}

/// One step towards all keys being as the spec wants them.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let off = wanted_off(o);
    if off && let Some(version) = matching::missing(o, record) {
        plan.stall(
            Reason::NotMatched,
            format!(
                "desiredState: Disabled: which key of the account version {} is, is not known, so it is not switched off: {}; switch it \
                 off at the provider, or take the wish back",
                version.version,
                matching::why(o)
            ),
        );
        return;
    }
    if off {
        told(record.switched_off() == Some(Extent::All), plan);
        plan.hold = true;
    } else if record.switched_off().is_none() {
        return;
    }
    let (wish, end) = if off {
        (Switch::TurningOff, Some(Switch::Off))
    } else {
        let message = "the keys are being switched on at the provider";
        plan.find(ConditionType::Ready, ConditionStatus::Unknown, Reason::SwitchingOn, message);
        plan.progress(Reason::SwitchingOn, message);
        (Switch::TurningOn, None)
    };
    let moved = |from: &dyn Fn(&Version) -> bool, to: Option<Switch>| {
        let numbers: Vec<i32> = record.switchable().filter(|v| from(v)).map(|v| v.version).collect();
        (!numbers.is_empty()).then(|| {
            let mut next = successor(record, env);
            for version in next.versions.iter_mut().filter(|v| numbers.contains(&v.version)) {
                version.switch = to;
            }
            Effect::SwapLedger(Box::new(next))
        })
    };
    let to_wish = |v: &Version| {
        if off {
            !matches!(v.switch, Some(Switch::Off | Switch::TurningOff))
        } else {
            v.switch.is_some_and(|s| s != wish)
        }
    };
    if let Some(swap) = moved(&to_wish, Some(wish)) {
        plan.effects.push(swap);
        return;
    }
    let view = view(o, record);
    if retire::waiting(record, &o.memory, Work::Switch, env, plan) {
        return;
    }
    for version in record.switchable().filter(|v| v.switch == Some(wish)) {
        let what = if off { "cannot be switched off" } else { "cannot be switched on" };
        if !o.pass.switched.contains(&version.version)
            && !retire::unreachable(&view, version, what, env, plan)
            && (!off || !is_held(o, version, env, plan))
        {
            plan.effects.push(Effect::Switch { version: version.version, on: !off });
        }
        if !plan.effects.is_empty() {
            return;
        }
    }
    let answered = |v: &Version| v.switch == Some(wish) && o.pass.switched.contains(&v.version);
    if let Some(swap) = moved(&answered, end) {
        plan.effects.push(swap);
    }
}

/// Whether a supplied key may not be switched off, because another ledger has it too; true as well while that is asked.
fn is_held(o: &Observed, version: &Version, env: &Env, plan: &mut Plan) -> bool {
    if version.origin != Origin::Supplied {
        return false;
    }
    let number = version.version;
    let Some(shared) = o.pass.shared.get(&number) else {
        plan.effects.push(Effect::CheckShared { version: number });
        return true;
    };
    let Some(holder) = shared else { return false };
    plan.stall(
        Reason::KeyShared,
        format!(
            "version {number} is not switched off: {holder} has the same key; give that one a key of its own"
        ),
    );
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    true
}

/// Only the summary is known.
pub(super) fn at_rest(off: Option<Extent>, plan: &mut Plan) {
    let off = off == Some(Extent::All);
    told(off, plan);
    if !off {
        plan.look = Look::Everything;
    }
}

fn told(off: bool, plan: &mut Plan) {
    let (reason, message) = if off {
        (
            Reason::SwitchedOff,
            "the keys are switched off at the provider, as the spec asks; Active switches them on again",
        )
    } else {
        (Reason::SwitchingOff, "the keys are being switched off at the provider")
    };
    plan.find(ConditionType::Ready, ConditionStatus::False, reason, message);
}
