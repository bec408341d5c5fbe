//! What the keys of a policy tell together: pure, from their status.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use crate::api::{
    ConditionType, LLMKey, LLMKeyStatus, Reason, UpcomingKey, WaitingFor, parse_rfc3339, rfc3339,
};

/// Rotations to come that a status names.
const UPCOMING: usize = 10;

/// Reasons that a status names.
const REASONS: usize = 16;

/// Counts of LLMKeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All that follow the policy.
    pub keys: i32,
    /// The next key is on its way.
    pub in_flight: i32,
    /// Due, and not begun.
    pub waiting: i32,
    /// The same by reason, the most frequent first.
    pub waiting_for: Vec<WaitingFor>,
    /// Due for longer than the policy's `timeout`.
    pub overdue: i32,
    /// Due or begun, and stalled.
    pub failed: i32,
    /// The next that are due.
    pub upcoming: Vec<UpcomingKey>,
}

/// Counts.
pub fn tally<'a>(keys: impl Iterator<Item = &'a LLMKey>, timeout: Duration, now: DateTime<Utc>) -> Tally {
    let late = chrono::Duration::from_std(timeout).unwrap_or(chrono::Duration::MAX);
    let mut tally = Tally::default();
    let mut reasons: BTreeMap<&str, i32> = BTreeMap::new();
    let mut upcoming: Vec<(DateTime<Utc>, &LLMKey)> = Vec::new();
    for key in keys {
        tally.keys = tally.keys.saturating_add(1);
        let Some(status) = &key.status else { continue };
        let due = holds(status, ConditionType::RotationDue);
        let begun = on_its_way(status) || due == Some(Reason::Rotating.as_str());
        let waits = due.filter(|_| !begun);
        if let Some(reason) = waits {
            *reasons.entry(reason).or_default() += 1;
        }
        tally.in_flight += i32::from(begun);
        tally.waiting += i32::from(waits.is_some());
        tally.failed +=
            i32::from((begun || due.is_some()) && holds(status, ConditionType::Stalled).is_some());
        let Some(next) = status.next_rotation_time.as_deref().and_then(parse_rfc3339) else { continue };
        if next > now {
            upcoming.push((next, key));
        } else if now.signed_duration_since(next) >= late {
            tally.overdue += 1;
        }
    }
    let mut reasons: Vec<(&str, i32)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, keys)| -keys);
    reasons.truncate(REASONS);
    tally.waiting_for =
        reasons.into_iter().map(|(reason, keys)| WaitingFor { reason: reason.to_owned(), keys }).collect();
    upcoming.sort_by_cached_key(|(next, key)| (*next, key.namespace(), key.name_any()));
    upcoming.truncate(UPCOMING);
    tally.upcoming = upcoming.into_iter().map(shown).collect();
    tally
}

fn shown((next, key): (DateTime<Utc>, &LLMKey)) -> UpcomingKey {
    UpcomingKey { namespace: key.namespace().unwrap_or_default(), name: key.name_any(), time: rfc3339(next) }
}

/// The reason of a condition that is True.
fn holds(status: &LLMKeyStatus, kind: ConditionType) -> Option<&str> {
    let condition = status.conditions.iter().find(|c| c.type_ == kind.as_str())?;
    (condition.status == "True").then_some(condition.reason.as_str())
}

/// A version is on its way beside the published one.
fn on_its_way(status: &LLMKeyStatus) -> bool {
    status.current_version.is_some_and(|current| {
        status
            .versions
            .iter()
            .any(|v| v.version != current && matches!(v.state.as_str(), "Pending" | "Publishing"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// `due` is the reason of `RotationDue`, if it is True.
    fn key(name: &str, next: Option<i64>, due: Option<&str>, stalled: bool) -> LLMKey {
        let condition = |kind: &str, status: bool, reason: &str| {
            json!({
                "type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": "",
                "lastTransitionTime": rfc3339(at(0)),
            })
        };
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"providerRef": {"name": "acme"}, "source": {"mint": {}}},
            "status": {
                "currentVersion": 1, "nextRotationTime": next.map(|seconds| rfc3339(at(seconds))),
                "conditions": [
                    condition("RotationDue", due.is_some(), due.unwrap_or("NotDue")),
                    condition("Stalled", stalled, "MintFailed"),
                ],
                "versions": [{
                    "version": 1, "state": "Current", "origin": "Minted", "reason": "Initial",
                }],
            },
        }))
        .unwrap()
    }

    fn count(keys: &[LLMKey]) -> Tally {
        tally(keys.iter(), Duration::from_secs(60), at(0))
    }

    #[test]
    fn each_key_counts_where_it_stands() {
        let mut rotating = key("rotating", Some(-10), Some("WaitingForProvider"), false);
        let mut next = rotating.status.as_ref().unwrap().versions[0].clone();
        next.version = 2;
        next.state = "Pending".into();
        rotating.status.as_mut().unwrap().versions.insert(0, next);
        let mut new = key("new", None, None, false);
        new.status = None;
        let tally = count(&[
            rotating,
            new,
            key("turn", Some(-10), Some("WaitingForTurn"), false),
            key("late", Some(-60), Some("WaitingForTurn"), false),
            key("window", Some(50), Some("WaitingForWindow"), false),
            key("stuck", Some(-100), Some("Rotating"), true),
            key("at-rest", Some(90), None, false),
            key("stalled-at-rest", Some(80), None, true),
        ]);
        assert_eq!((tally.keys, tally.in_flight, tally.waiting), (8, 2, 3));
        assert_eq!((tally.overdue, tally.failed), (2, 1));
        let reasons: Vec<_> = tally.waiting_for.iter().map(|w| (w.reason.as_str(), w.keys)).collect();
        assert_eq!(reasons, [("WaitingForTurn", 2), ("WaitingForWindow", 1)]);
        let names: Vec<_> = tally.upcoming.iter().map(|next| next.name.as_str()).collect();
        assert_eq!(names, ["window", "stalled-at-rest", "at-rest"], "soonest first");
    }

    #[test]
    fn lists_are_bounded_and_stable() {
        let mut keys: Vec<LLMKey> = (0..40)
            .map(|n| key(&format!("k{n:02}"), Some(100 - n / 2), Some(&format!("R{n:02}")), false))
            .collect();
        let first = count(&keys);
        assert_eq!((first.upcoming.len(), first.waiting_for.len(), first.waiting), (UPCOMING, REASONS, 40));
        assert_eq!(first.upcoming[0].name, "k38");
        keys.reverse();
        assert_eq!(count(&keys), first);
    }
}
