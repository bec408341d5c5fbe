//! The history of rotations as status shows it: a projection of the ledger's.

use super::model::{Env, Observed};
use super::retry::Standing;
use crate::api::{LastRotation, RotationError, RotationFrom, RotationStatus, rfc3339};
use crate::domain::lifecycle::RotationReason;
use crate::ledger::{Outcome, Record, Rotation};

/// Rotations that status shows.
const MAX_SHOWN: usize = 10;

/// What status says of one that its policy's `timeout` has passed over.
const TIMED_OUT: &str = "TimedOut";

/// The last rotations, newest first. The first version of all is none.
pub fn shown(o: &Observed, record: &Record, env: &Env) -> Vec<RotationStatus> {
    let rotations = record.rotations.iter().rev().filter(|r| r.reason != RotationReason::Initial);
    rotations.take(MAX_SHOWN).map(|rotation| status(o, record, rotation, env)).collect()
}

/// The newest one that ended, failed, or takes too long.
pub fn last(o: &Observed, record: &Record, env: &Env) -> Option<LastRotation> {
    let ended = record.rotations.iter().rev().find_map(|rotation| {
        let (result, time) = outcome(o, record, rotation, env);
        Some(LastRotation {
            version: rotation.version,
            reason: rotation.reason.as_str().to_owned(),
            result: result.to_owned(),
            time: time?,
        })
    });
    // What an earlier program did has no history.
    ended.or_else(|| {
        let published = record.versions.iter().filter(|v| v.published_at.is_some());
        let newest = published.max_by_key(|v| v.version)?;
        Some(LastRotation {
            version: newest.version,
            reason: newest.reason.as_str().to_owned(),
            result: Outcome::Succeeded.as_str().to_owned(),
            time: newest.published_at.map(rfc3339)?,
        })
    })
}

/// How it stands, and when it ended, failed or should have ended.
fn outcome(o: &Observed, record: &Record, rotation: &Rotation, env: &Env) -> (&'static str, Option<String>) {
    let stored = || (rotation.outcome.as_str(), rotation.ended_at.map(rfc3339));
    if matches!(rotation.outcome, Outcome::Succeeded | Outcome::GivenUp) {
        return stored();
    }
    let Some(version) = record.version(rotation.version).filter(|v| v.state.in_flight()) else {
        return stored();
    };
    match o.standing(version, env) {
        Standing::Going => (Outcome::InProgress.as_str(), None),
        Standing::Failed(at, _) => (Outcome::Failed.as_str(), Some(rfc3339(at))),
        Standing::TimedOut(at) => (TIMED_OUT, Some(rfc3339(at))),
    }
}

fn status(o: &Observed, record: &Record, rotation: &Rotation, env: &Env) -> RotationStatus {
    let (outcome, ended_at) = outcome(o, record, rotation, env);
    let key = rotation.key.as_ref();
    RotationStatus {
        version: rotation.version,
        reason: rotation.reason.as_str().to_owned(),
        method: rotation.method.as_str().to_owned(),
        requested_by: rotation.asked_by(),
        requested_at: rotation.requested_by.as_ref().and_then(|r| r.at).map(rfc3339),
        started_at: rfc3339(rotation.started_at),
        ended_at,
        outcome: outcome.to_owned(),
        attempts: (rotation.attempts > 0).then(|| i32::try_from(rotation.attempts).unwrap_or(i32::MAX)),
        last_four: key.map(|k| k.last_four.clone()).filter(|l| !l.is_empty()),
        fingerprint: key.map(|k| k.fingerprint.clone()),
        from: rotation.from.as_ref().map(|from| RotationFrom {
            version: from.version,
            last_four: from.key.as_ref().map(|k| k.last_four.clone()).filter(|l| !l.is_empty()),
            fingerprint: from.key.as_ref().map(|k| k.fingerprint.clone()),
            revocation_basis: from.basis.map(|b| b.as_str().to_owned()),
            revoked_at: from.revoked_at.map(rfc3339),
        }),
        last_error: rotation.failure.as_ref().map(|failure| RotationError {
            reason: failure.reason.clone(),
            class: failure.class.as_str().to_owned(),
            time: rfc3339(failure.at),
        }),
    }
}
