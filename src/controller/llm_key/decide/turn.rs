//! Whether a rotation that is due may begin beside the others of its policy.

use super::due;
use super::gate::delta;
use crate::api::{Reason, RotationMode};
use crate::controller::llm_key::model::{Env, LedgerView, Observed, Plan};
use crate::domain::turns::{Place, Standing, Turn};
use crate::domain::upcoming;
use crate::ledger::Version;

use super::upcoming::terms;

/// Failures in a row after which a rotation that is under way gives its turn to another one.
const PATIENCE: u32 = 5;

/// Whether a rotation may begin now. If not, the plan says that it stands in line.
pub(super) fn is_now(o: &Observed, place: Place, env: &Env, plan: &mut Plan) -> bool {
    let Some(policy) = o.policy.shown.as_deref().filter(|_| o.turn != Some(Turn::Now)) else { return true };
    plan.in_line = Some(place);
    if let Some(Turn::Waits(ahead)) = o.turn {
        let at_a_time = match o.policy.max_concurrent {
            1 => "one key".to_owned(),
            n => format!("{n} keys"),
        };
        let message = format!(
            "a rotation is due; {policy} replaces {at_a_time} at a time (maxConcurrent), and {}",
            ahead.as_str()
        );
        due(plan, Reason::WaitingForTurn, message);
        // Whoever has a turn is woken. This is for the case that nobody does it.
        plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    }
    false
}

/// The place of a scheduled rotation: by its due time, which windows do not change.
pub(super) fn scheduled(
    o: &Observed,
    lineage: &str,
    published: Option<chrono::DateTime<chrono::Utc>>,
    env: &Env,
) -> Place {
    let next = published.and_then(|published| {
        upcoming::next(&terms(o, lineage, &env.timings), published, env.now, &env.timings)
    });
    Place { scheduled: true, due: next.map_or(env.now, |next| next.due) }
}

/// The place of one that a person asked for.
pub(super) const fn requested(env: &Env) -> Place {
    Place { scheduled: false, due: env.now }
}

/// At a glance: whether a minted key that is due has to wait, so that nothing else needs to be read.
pub(super) fn waits(o: &Observed, place: Place, env: &Env, plan: &mut Plan) -> bool {
    // What else may hold it only a full look tells.
    let free = !o.key.paused && o.policy.mode == RotationMode::Automatic && !plan.stalled();
    free && !is_now(o, place, env, plan)
}

/// Where the key stands beside the others of its policy.
pub fn standing(o: &Observed, plan: &Plan, env: &Env) -> Standing {
    if o.key.deleting {
        return Standing::Aside;
    }
    if let Some(place) = plan.in_line {
        return Standing::Waiting(place);
    }
    let LedgerView::Present(ledger) = &o.ledger else { return Standing::Aside };
    match ledger.record.rotating() {
        Some(version) if !gives_way(o, version, env) => Standing::Rotating,
        _ => Standing::Aside,
    }
}

/// A rotation that fails for long goes on trying, and another one may begin beside it. One that waits for its account's
/// `mintsPerHour` keeps its turn: others would only wait there as well.
fn gives_way(o: &Observed, version: &Version, env: &Env) -> bool {
    let mut failing = o.memory.failing.values();
    if failing.any(|f| f.reason == Reason::MintBudget) {
        return false;
    }
    let mut failing = o.memory.failing.values();
    let fails = failing.any(|f| match f.reason {
        Reason::RevokeFailed => false,
        Reason::MintFailed => f.count >= PATIENCE,
        _ => f.at_provider(),
    });
    fails || env.now >= version.wanted_since() + delta(env.timings.scale(o.policy.timeout))
}
