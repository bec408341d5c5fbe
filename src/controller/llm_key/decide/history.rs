//! The history of rotations goes along with every write of the ledger; and what is told of one that does not get on.

use super::due;
use crate::api::{Reason, rfc3339};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan};
use crate::controller::llm_key::retry::Standing;
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::ledger::{Record, Requester, Version};

/// Takes the history into what is planned to be written.
pub(crate) fn note(o: &Observed, env: &Env, plan: &mut Plan) {
    let before = match &o.ledger {
        LedgerView::Present(ledger) => Some(&ledger.record),
        _ => None,
    };
    for effect in &mut plan.effects {
        if let Effect::CreateLedger(next) | Effect::SwapLedger(next) = effect {
            next.follow_rotations(before, env.now, |version| asked(o, version));
            if next.owner.is_some() {
                o.keep_failures(before, next, env);
            }
        }
    }
}

/// Who asked for a version, as far as Kubernetes tells it.
fn asked(o: &Observed, version: &Version) -> Option<Requester> {
    match version.reason {
        RotationReason::Requested => o.key.asked.rotate.clone(),
        RotationReason::BreakGlass => o.key.asked.revoked_versions.clone(),
        RotationReason::Pinned => o.key.asked.pinned_version.clone(),
        RotationReason::SourceChanged if version.origin == Origin::Supplied => o.supplied_by.clone(),
        _ => None,
    }
}

/// Tells of a rotation that has failed, or takes too long. Said first: what it waits for is told with it, or by `Stalled`.
pub(super) fn tell(o: &Observed, record: &Record, version: &Version, env: &Env, plan: &mut Plan) {
    if !matches!(version.state, VersionState::Intent | VersionState::Pending) {
        return;
    }
    let number = version.version;
    match o.standing(version, env) {
        Standing::Going => plan.wake_at(o.times_out(version, env)),
        Standing::Failed(_, message) => due(
            plan,
            Reason::RotationFailed,
            format!(
                "{message}; that was at least {} times in a row (retry.attempts). It is tried again at the longest intervals, and \
                 at once after an edit or a new llmkeys.dev/rotate",
                o.policy.retry_attempts
            ),
        ),
        Standing::TimedOut(end) => {
            let failure = record.rotation(number).and_then(|r| r.failure.as_ref());
            let last = failure.map_or_else(String::new, |f| format!("; the last failure is {}", f.reason));
            due(
                plan,
                Reason::RotationFailed,
                format!(
                    "version {number} is not delivered, and the policy's timeout for it ended at {}; it goes on being tried{last}",
                    rfc3339(end)
                ),
            );
        }
    }
}
