//! When a key is rotated next, and after that: what the operator does by, status shows and `kubectl llmkey plan` prints.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::schedule::{self, Plan};
use super::timings::Timings;

/// What makes a key due.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The policy's schedule, if it has one that works.
    pub schedule: Option<&'a Plan>,
    /// When the policy's trigger `Expiry` asks for the next key.
    pub expiry: Option<DateTime<Utc>>,
    /// The operator makes the key, or has a pool of them. What a person has to supply is asked for at any time: windows do not count.
    pub minted: bool,
    /// The key's lineage, by which jitter is shared out.
    pub seed: &'a str,
}

/// What decides the time of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The schedule, with the key's share of jitter.
    Schedule,
    /// The schedule, and then the policy's next window.
    Window,
    /// The key expires.
    Expiry,
}

impl Cause {
    /// The cause as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "Schedule",
            Self::Window => "Window",
            Self::Expiry => "Expiry",
        }
    }
}

/// A rotation to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upcoming {
    /// When it may begin.
    pub at: DateTime<Utc>,
    /// When it is due by the schedule, or the expiry.
    pub due: DateTime<Utc>,
    /// Why then.
    pub cause: Cause,
    /// The key's share of jitter in `due`.
    pub jitter: Duration,
}

/// When the trigger `Expiry` asks for the next key, `before` the key expires.
pub fn expiry(
    expires_at: Option<DateTime<Utc>>,
    before: Option<Duration>,
    timings: &Timings,
) -> Option<DateTime<Utc>> {
    expires_at?.checked_sub_signed(TimeDelta::from_std(timings.scale(before?)).ok()?)
}

/// The next rotation of a key whose current version was published at `published`. One that is overdue in a closed window begins
/// when the next one opens after `now`.
pub fn next(
    terms: &Terms<'_>,
    published: DateTime<Utc>,
    now: DateTime<Utc>,
    timings: &Timings,
) -> Option<Upcoming> {
    let scheduled = terms.schedule.and_then(|plan| {
        let (due, jitter) = schedule::next_and_jitter(plan, published, terms.seed, timings)?;
        let at = if terms.minted { opening(plan, due, now)? } else { due };
        Some(Upcoming { at, due, cause: if at > due { Cause::Window } else { Cause::Schedule }, jitter })
    });
    let expiry =
        terms.expiry.map(|at| Upcoming { at, due: at, cause: Cause::Expiry, jitter: Duration::ZERO });
    [scheduled, expiry].into_iter().flatten().min_by_key(|next| next.at)
}

/// When a rotation that is due at `due` may begin. One that may begin now might have done so since the first opening: that time
/// does not change while it is looked at.
fn opening(plan: &Plan, due: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let first = schedule::may_start(plan, due)?;
    if first >= now {
        return Some(first);
    }
    let open = schedule::may_start(plan, now)?;
    Some(if open == now { first } else { open })
}

/// The next `count` rotations until `end`, each taken to happen when it may begin. Nothing follows one that is due already: when
/// it happens is not known. After an expiry the next key's is not known either.
pub fn all(
    terms: &Terms<'_>,
    published: DateTime<Utc>,
    now: DateTime<Utc>,
    end: DateTime<Utc>,
    count: usize,
    timings: &Timings,
) -> Vec<Upcoming> {
    let mut found = Vec::new();
    let mut terms = *terms;
    let mut published = published;
    while found.len() < count {
        let Some(next) = next(&terms, published, now, timings).filter(|next| next.at <= end) else { break };
        found.push(next);
        // Each is after the one before, so that this ends.
        if next.at <= now || next.at <= published {
            break;
        }
        if next.cause == Cause::Expiry {
            terms.expiry = None;
        }
        published = next.at;
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::rfc3339;

    fn plan(spec: serde_json::Value) -> Plan {
        schedule::parse(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        crate::api::parse_rfc3339(text).unwrap()
    }

    fn terms(schedule: &Plan) -> Terms<'_> {
        Terms { schedule: Some(schedule), expiry: None, minted: true, seed: "uid-1" }
    }

    fn told(terms: &Terms<'_>, published: &str, now: &str, count: usize) -> Vec<String> {
        let all = all(terms, at(published), at(now), DateTime::<Utc>::MAX_UTC, count, &Timings::default());
        all.iter().map(|next| format!("{} {}", rfc3339(next.at), next.cause.as_str())).collect()
    }

    #[test]
    fn each_counts_from_the_one_before() {
        let daily = plan(json!({"schedule": {"interval": "24h"}, "jitter": "0s"}));
        assert_eq!(
            told(&terms(&daily), "2027-01-01T00:00:00Z", "2027-01-01T01:00:00Z", 3),
            [
                "2027-01-02T00:00:00Z Schedule",
                "2027-01-03T00:00:00Z Schedule",
                "2027-01-04T00:00:00Z Schedule"
            ]
        );
        let due = told(&terms(&daily), "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z", 3);
        assert_eq!(due, ["2027-01-02T00:00:00Z Schedule"], "what follows it is not known");
        let by_hand = plan(json!({}));
        assert!(told(&terms(&by_hand), "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 3).is_empty());
    }

    #[test]
    fn a_closed_window_is_waited_for_by_keys_that_the_operator_makes() {
        let spec = json!({
            "schedule": {"interval": "24h"}, "jitter": "0s",
            "windows": [{"name": "nights", "cron": "0 22 * * *", "duration": "6h"}],
        });
        let nights = plan(spec);
        let (published, now) = ("2027-01-01T12:00:00Z", "2027-01-01T13:00:00Z");
        assert_eq!(
            told(&terms(&nights), published, now, 2),
            ["2027-01-02T22:00:00Z Window", "2027-01-03T22:00:00Z Schedule"]
        );
        let supplied = Terms { minted: false, ..terms(&nights) };
        assert_eq!(told(&supplied, published, now, 1), ["2027-01-02T12:00:00Z Schedule"]);
        let late = "2027-01-05T13:00:00Z";
        assert_eq!(told(&terms(&nights), published, late, 1), ["2027-01-05T22:00:00Z Window"]);
        let open = "2027-01-05T23:00:00Z";
        assert_eq!(
            told(&terms(&nights), published, open, 3),
            ["2027-01-02T22:00:00Z Window"],
            "since when it may begin"
        );
    }

    #[test]
    fn an_expiry_wins_and_happens_once() {
        let weekly = plan(json!({"schedule": {"interval": "168h"}, "jitter": "0s"}));
        let expiring = Terms { expiry: Some(at("2027-01-03T00:00:00Z")), minted: false, ..terms(&weekly) };
        assert_eq!(
            told(&expiring, "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 3),
            ["2027-01-03T00:00:00Z Expiry", "2027-01-10T00:00:00Z Schedule", "2027-01-17T00:00:00Z Schedule"]
        );
    }
}
