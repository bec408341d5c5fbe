//! How many keys may be made within a while, so that no loop runs up a bill.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::after;

/// Keys that are made for one `LLMKey` within the window at most.
pub const PER_KEY: usize = 5;

/// When another one may be made, if that is not now. `made` are the times of those before, in order.
pub fn waits_until(
    made: &[DateTime<Utc>],
    limit: usize,
    window: Duration,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let counted = made.len().checked_sub(limit)?;
    // The oldest of the last `limit`: with it gone there is room.
    let free = made.get(counted).map_or(DateTime::<Utc>::MAX_UTC, |oldest| after(*oldest, window));
    (now < free).then_some(free)
}

/// Notes one that may be made now, and forgets those that do not count any more.
pub fn spend(made: &mut Vec<DateTime<Utc>>, window: Duration, now: DateTime<Utc>) {
    made.retain(|at| now < after(*at, window));
    made.push(now);
}

/// When the last one stops counting.
pub fn forgotten_at(made: &[DateTime<Utc>], window: Duration) -> Option<DateTime<Utc>> {
    made.iter().max().map(|last| after(*last, window))
}

/// When it is the turn of `key`, which asks now. `waiting` keeps a time for each that has asked, so that nobody is overtaken;
/// whoever has not come back for an hour has lost it.
pub fn slot(
    made: &[DateTime<Utc>],
    waiting: &mut BTreeMap<String, DateTime<Utc>>,
    key: &str,
    limit: usize,
    window: Duration,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    waiting.retain(|_, at| now < after(*at, window));
    let mut taken: Vec<DateTime<Utc>> = made.to_vec();
    taken.extend(waiting.iter().filter(|(other, _)| *other != key).map(|(_, at)| *at));
    taken.sort_unstable();
    // A time that was kept for it counts, unless the limit was lowered since.
    let room = |at: &DateTime<Utc>| waits_until(made, limit, window, now.max(*at)).is_none();
    let kept = waiting.get(key).copied().filter(room);
    let at = kept.unwrap_or_else(|| waits_until(&taken, limit, window, now).unwrap_or(now));
    waiting.insert(key.to_owned(), at);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn there_is_room_when_the_oldest_that_counts_is_an_hour_old() {
        let made = [at(0), at(10), at(20)];
        assert_eq!(waits_until(&made, 4, HOUR, at(30)), None);
        assert_eq!(waits_until(&made, 3, HOUR, at(30)), Some(at(3600)));
        assert_eq!(waits_until(&made, 3, HOUR, at(3600)), None);
        assert_eq!(waits_until(&made, 2, HOUR, at(3600)), Some(at(3610)));
        assert_eq!(waits_until(&[], 0, HOUR, at(0)), Some(DateTime::<Utc>::MAX_UTC), "never");
    }

    #[test]
    fn whoever_asked_first_is_next() {
        let mut waiting = BTreeMap::new();
        let made = [at(0), at(10)];
        let mut ask =
            |key: &str, made: &[DateTime<Utc>], now| slot(made, &mut waiting, key, 2, HOUR, at(now));
        assert_eq!(ask("a", &made, 20), at(3600));
        assert_eq!(ask("b", &made, 30), at(3610));
        assert_eq!(ask("c", &made, 40), at(7200), "behind both of them");
        assert_eq!(ask("b", &made, 50), at(3610), "asked again");
        assert_eq!(ask("c", &made, 3605), at(7200), "the place that is free is kept for another");
        assert_eq!(ask("a", &made, 3605), at(3600));
        let made = [at(10), at(3605)];
        assert_eq!(ask("d", &made, 3606), at(7210));
    }

    #[test]
    fn however_often_one_asks_no_hour_sees_more_than_the_limit() {
        let (mut made, mut all) = (Vec::new(), Vec::new());
        for now in (0..20_000).step_by(7).map(at) {
            if waits_until(&made, PER_KEY, HOUR, now).is_none() {
                spend(&mut made, HOUR, now);
                all.push(now);
            }
        }
        assert!(made.len() <= PER_KEY, "the record stays bounded");
        for (n, first) in all.iter().enumerate() {
            let within = all[n..].iter().take_while(|t| **t < *first + HOUR).count();
            assert!(within <= PER_KEY, "{within} from {first}");
        }
        assert!(all.len() >= 5 * PER_KEY, "and goes on: {}", all.len());
    }
}
