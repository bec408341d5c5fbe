//! `desiredState: Disabled`: keys are switched off at the provider and stay where they are; `Active` switches them on again.
//!
//! While they are off nothing is made, delivered anew, checked or revoked but what a person asks for by name: revocations that are
//! on record, `revokedVersions`, `desiredState: Revoked` and deletion go on.

use super::{retire, successor, view};
use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::controller::llm_key::model::{Effect, Env, Look, Observed, Plan, Work};
use crate::ledger::{Extent, Record, Switch, Version};

/// Whether the keys are to be off, and can be.
pub fn wanted_off(o: &Observed) -> bool {
    o.key.disable && o.key.minted && o.provider.can_disable
}

/// Before there is a key: none is made.
pub(super) fn first(plan: &mut Plan) {
    let message = "desiredState: Disabled: no key is made; Active makes one";
    plan.find(ConditionType::Ready, ConditionStatus::False, Reason::SwitchedOff, message);
    plan.hold = true;
}

/// One step towards all keys being as the spec wants them.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let off = wanted_off(o);
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
        {
            plan.effects.push(Effect::Switch { version: version.version, on: !off });
            return;
        }
    }
    let answered = |v: &Version| v.switch == Some(wish) && o.pass.switched.contains(&v.version);
    if let Some(swap) = moved(&answered, end) {
        plan.effects.push(swap);
    }
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
