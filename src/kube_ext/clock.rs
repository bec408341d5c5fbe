//! The only place that reads time. Everything that decides gets it as an argument.
//!
//! Times are the API server's: a node whose clock is wrong must shorten no overlap and no grace.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};
use http::HeaderMap;
use http::header::DATE;

/// Seconds by which the API server's clock is ahead of this machine's.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// What the answers of this minute and of the one before said, of each the least.
static SAID: Mutex<Said> = Mutex::new(Said { minute: 0, now: None, before: None });

/// Differences up to so many seconds are the network's, and the header's whole seconds.
const TOLERANCE: i64 = 2;

/// Wall clock and monotonic clock of this process. All copies count from the same start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now. One for each process: times of two clocks cannot be compared.
    #[expect(clippy::disallowed_methods, reason = "the one monotonic clock of the process")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Wall clock, cut to whole seconds: what the API stores, so that a stored time compares equal to its source.
    pub fn now(&self) -> DateTime<Utc> {
        self.now_precise().trunc_subsecs(0)
    }

    /// Wall clock at full precision, for logs, Leases and events.
    pub fn now_precise(&self) -> DateTime<Utc> {
        wall() + chrono::Duration::seconds(AHEAD.load(Ordering::Relaxed))
    }

    /// Follows the API server's clock, as the headers of one of its responses tell it. A response that was long on its way
    /// sets the clock back, never forward: what waits then waits longer. So does one of several API servers whose clock is ahead of the
    /// others': the least that was said within a minute or two counts.
    pub fn follow(&self, headers: &HeaderMap) {
        let Some(ahead) = ahead(headers, wall()) else { return };
        let minute = self.monotonic().as_secs() / 60;
        let ahead = SAID.lock().unwrap_or_else(PoisonError::into_inner).least(minute, ahead);
        let before = AHEAD.swap(ahead, Ordering::Relaxed);
        if before.abs_diff(ahead) > TOLERANCE.unsigned_abs() {
            tracing::warn!(
                seconds = ahead,
                "this node's clock differs from the API server's, whose time is used; set the node's clock"
            );
        }
    }

    /// Time since this clock was started. Never goes back, and does not follow corrections of the wall clock.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// See [`SAID`].
struct Said {
    minute: u64,
    now: Option<i64>,
    before: Option<i64>,
}

impl Said {
    fn least(&mut self, minute: u64, ahead: i64) -> i64 {
        if minute != self.minute {
            self.before = self.now.take().filter(|_| minute == self.minute + 1);
            self.minute = minute;
        }
        let now = self.now.map_or(ahead, |least| least.min(ahead));
        self.now = Some(now);
        self.before.map_or(now, |before| before.min(now))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// How far the server's clock is ahead of `own`; nothing if the headers do not tell.
fn ahead(headers: &HeaderMap, own: DateTime<Utc>) -> Option<i64> {
    let date = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
    let ahead = (date.with_timezone(&Utc) - own).num_seconds();
    Some(if ahead.abs() <= TOLERANCE { 0 } else { ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_follows_the_servers_and_one_that_is_right_stays() {
        let own = DateTime::from_timestamp(1_800_000_000, 400_000_000).unwrap();
        let said = |seconds: i64| {
            let date = own + chrono::Duration::seconds(seconds);
            let text = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            ahead(&HeaderMap::from_iter([(DATE, text.parse().unwrap())]), own)
        };
        assert_eq!([said(0), said(1), said(-2)], [Some(0); 3]);
        assert_eq!((said(3600), said(-3600)), (Some(3599), Some(-3600)));
        assert_eq!(ahead(&HeaderMap::new(), own), None);
        assert_eq!(ahead(&HeaderMap::from_iter([(DATE, "yesterday".parse().unwrap())]), own), None);
    }

    #[test]
    fn of_servers_that_differ_the_one_behind_counts() {
        let mut said = Said { minute: 0, now: None, before: None };
        assert_eq!(said.least(0, 7200), 7200, "nobody else was heard");
        assert_eq!((said.least(0, 0), said.least(0, 7200)), (0, 0));
        assert_eq!(said.least(1, 7200), 0, "the other one was heard a minute ago");
        assert_eq!(said.least(1, -30), -30);
        assert_eq!((said.least(2, 7200), said.least(3, 7200)), (-30, 7200), "all say so for a minute");
        assert_eq!(said.least(9, 60), 60);
    }

    #[test]
    fn wall_time_is_whole_seconds() {
        assert_eq!(Clock::start().now().timestamp_subsec_nanos(), 0);
    }

    #[test]
    fn copies_share_their_start() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.monotonic();
        assert!(copy.monotonic() >= first);
    }
}
