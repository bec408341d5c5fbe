//! The only place that reads time. Everything that decides gets it as an argument.

use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};

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
    #[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
    pub fn now_precise(&self) -> DateTime<Utc> {
        Utc::now()
    }

    /// Time since this clock was started. Never goes back, and does not follow corrections of the wall clock.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
