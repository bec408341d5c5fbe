//! When to try again after a failure, from what was recorded of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::timings::Timings;
use super::{after, share};

/// Of the delay, the most that jitter adds: one part in this many.
const JITTER_PART: u32 = 5;

/// Who can make the next try succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Time: outage, throttling, conflict. Tried again soon, then ever more seldom.
    Transient,
    /// A person: a missing Secret, a wrong field, a refused credential. An edit is seen at once by the watch; without
    /// one there is only a slow look.
    User,
}

impl Class {
    /// The class as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "Transient",
            Self::User => "User",
        }
    }
}

/// Failures of one call in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failures {
    /// How many in a row, 1 after the first.
    pub count: u32,
    /// When the last one was.
    pub last: DateTime<Utc>,
    /// Of the last one.
    pub class: Class,
    /// How long the provider asked to wait, if it did.
    pub retry_after: Option<Duration>,
}

/// Before this the call is not tried again. `seed` (lineage) gives each key its own stable jitter, so that keys that
/// failed together do not return together.
pub fn not_before(failures: &Failures, seed: &str, timings: &Timings) -> DateTime<Utc> {
    let delay = match failures.class {
        Class::User => timings.user_error_resync,
        Class::Transient => {
            let doublings = failures.count.saturating_sub(1).min(31);
            timings.retry_base.saturating_mul(1 << doublings).min(timings.retry_max)
        }
    };
    let asked = failures.retry_after.unwrap_or_default().min(timings.retry_after_max);
    let delay = delay.max(asked);
    let purpose = format!("backoff-{}", failures.count);
    after(failures.last, delay + share(&purpose, seed, delay / JITTER_PART))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delay(count: u32, class: Class, retry_after: Option<u64>) -> Duration {
        let last = DateTime::UNIX_EPOCH;
        let failures = Failures { count, last, class, retry_after: retry_after.map(Duration::from_secs) };
        (not_before(&failures, "lineage", &Timings::default()) - last).to_std().unwrap()
    }

    fn within(delay: Duration, seconds: u64) -> bool {
        (seconds * 1000..=seconds * 1200).contains(&u64::try_from(delay.as_millis()).unwrap())
    }

    #[test]
    fn doubles_from_one_second_to_five_minutes() {
        for (count, seconds) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (33, 300), (u32::MAX, 300)]
        {
            assert!(within(delay(count, Class::Transient, None), seconds), "{count}");
        }
    }

    #[test]
    fn a_persons_error_is_looked_at_slowly_and_a_providers_wish_is_kept_within_reason() {
        assert!(within(delay(1, Class::User, None), 600));
        assert!(within(delay(1, Class::Transient, Some(30)), 30));
        assert!(within(delay(12, Class::Transient, Some(30)), 300));
        assert!(within(delay(1, Class::Transient, Some(u64::MAX)), 3600));
    }

    proptest! {
        #[test]
        fn stable_per_seed_and_never_before_the_failure(
            count in any::<u32>(), at in 0i64..4_000_000_000, seed in ".{0,40}", asked in proptest::option::of(any::<u64>()),
        ) {
            let last = DateTime::from_timestamp(at, 0).unwrap();
            let failures = Failures { count, last, class: Class::Transient, retry_after: asked.map(Duration::from_secs) };
            let timings = Timings::default();
            let time = not_before(&failures, &seed, &timings);
            prop_assert!(time > last);
            prop_assert_eq!(time, not_before(&failures, &seed, &timings));
        }
    }
}
