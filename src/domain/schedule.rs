//! When a key is due: interval, calendar or cron, with a stable share of jitter for each key.
//!
//! Everything counts from the publishing of the current version, so a restart changes nothing. Cron and its daylight
//! saving rules are croner's: a fire inside the hour that clocks skip happens at the end of the gap, a fire inside the
//! hour that they repeat happens once.

mod parse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

use super::timings::Timings;
use super::{after, share};
use crate::api::Period;

pub use parse::{ScheduleError, parse};

/// Jitter never exceeds this.
const JITTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Default jitter: the period divided by this.
const JITTER_DEFAULT_PART: u32 = 10;
/// Jitter never exceeds the period divided by this, so that no key misses a turn or swaps two.
const JITTER_MAX_PART: u32 = 4;

/// A schedule that was understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What makes a key due.
    pub rule: Rule,
    /// Spread of due times as the policy sets it; none: 10 % of the period.
    pub jitter: Option<Duration>,
    /// Durations before the due time at which to remind, longest first, each once.
    pub reminders: Vec<Duration>,
    /// When a rotation that is due may start; at any time if there are none.
    pub windows: Vec<Window>,
}

/// A time in which rotations may start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// When it opens.
    pub opens: Cron,
    /// How long it stays open. Never divided: cron is not either.
    pub length: Duration,
    /// Whose clock.
    pub zone: Tz,
}

/// What makes a key due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Only a person does.
    ByHand,
    /// So long after publishing.
    Every(Duration),
    /// The start of a period, the first one at least half a period after publishing.
    Calendar {
        /// Which.
        period: Period,
        /// Its starts.
        starts: Cron,
        /// Whose midnight.
        zone: Tz,
    },
    /// The next fire after publishing.
    Cron {
        /// As the user wrote it.
        text: String,
        /// When it fires.
        fires: Cron,
        /// Whose clock.
        zone: Tz,
    },
}

/// When the key of `seed` (its lineage) is due, if its current version was published at `published_at`. Always after
/// that; never later for an earlier publishing; none if by hand or if no further fire exists.
pub fn next_due(
    plan: &Plan,
    published_at: DateTime<Utc>,
    seed: &str,
    timings: &Timings,
) -> Option<DateTime<Utc>> {
    next_and_jitter(plan, published_at, seed, timings).map(|(due, _)| due)
}

/// The same, and how much of it is the key's share of jitter.
pub fn next_and_jitter(
    plan: &Plan,
    published_at: DateTime<Utc>,
    seed: &str,
    timings: &Timings,
) -> Option<(DateTime<Utc>, Duration)> {
    let (base, period) = match &plan.rule {
        Rule::ByHand => return None,
        Rule::Every(interval) => {
            let interval = timings.scale(*interval);
            (after(published_at, interval), interval)
        }
        Rule::Calendar { starts, zone, .. } => {
            let local = published_at.with_timezone(zone);
            let last =
                starts.find_previous_occurrence(&local, true).map_or(published_at, |last| last.to_utc());
            let mut due = fire_after(starts, *zone, published_at)?;
            if due - published_at < published_at - last {
                due = fire_after(starts, *zone, due)?;
            }
            (due, gap_after(starts, *zone, due)?)
        }
        Rule::Cron { fires, zone, .. } => {
            let due = fire_after(fires, *zone, published_at)?;
            (due, gap_after(fires, *zone, due)?)
        }
    };
    let jitter = jitter(plan, period, seed, timings);
    Some((after(base, jitter), jitter))
}

/// When a rotation that is due at `due` may start: then, if a window is open or the policy has none, else when the next
/// one opens. None if none ever opens again.
pub fn may_start(plan: &Plan, due: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if plan.windows.is_empty() {
        return Some(due);
    }
    let next = |window: &Window| {
        let length = TimeDelta::from_std(window.length).ok()?;
        // The first one that is not over at `due`.
        let opens = fire_after(&window.opens, window.zone, due.checked_sub_signed(length)?)?;
        Some(opens.max(due))
    };
    plan.windows.iter().filter_map(next).min()
}

/// Which reminder is active at `now` and when the next begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reminders {
    /// The reminder that began last, as the policy writes it. None before the first one and from the due time on, when
    /// the key is simply due.
    pub active: Option<Duration>,
    /// When the next one begins.
    pub next: Option<DateTime<Utc>>,
}

/// The reminders of a key that was published at `published_at` and is due at `due`. One that would begin before the
/// publishing is left out: it would remind of a rotation that was just done.
pub fn reminder_due(
    plan: &Plan,
    published_at: DateTime<Utc>,
    due: DateTime<Utc>,
    now: DateTime<Utc>,
    timings: &Timings,
) -> Reminders {
    let mut found = Reminders::default();
    // Longest first, so that each later one begins later.
    for reminder in &plan.reminders {
        let Some(begins) =
            due.checked_sub_signed(TimeDelta::from_std(timings.scale(*reminder)).unwrap_or(TimeDelta::MAX))
        else {
            continue;
        };
        if begins <= published_at {
            continue;
        }
        if begins > now {
            found.next = Some(begins);
            break;
        }
        found.active = Some(*reminder);
    }
    if now >= due {
        found.active = None;
    }
    found
}

/// The schedule in one line, for a status column.
pub fn describe(plan: &Plan) -> String {
    let rule = match &plan.rule {
        Rule::ByHand => "by hand".to_owned(),
        Rule::Every(interval) => format!("every {}", go_duration(*interval)),
        Rule::Calendar { period, zone, .. } => format!("{period:?} ({zone})"),
        Rule::Cron { text, zone, .. } => format!("{text} ({zone})"),
    };
    match plan.windows.len() {
        0 => rule,
        1 => format!("{rule}, in a window"),
        n => format!("{rule}, in {n} windows"),
    }
}

/// As users write durations, without zero parts: `720h`, `1h30m`, `90s` as `1m30s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let mut text = String::new();
    for (n, unit) in parts.iter().filter(|(n, _)| *n > 0) {
        text += &n.to_string();
        text += unit;
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// This key's share, in whole seconds: due times are shown in whole seconds and should be what is shown.
fn jitter(plan: &Plan, period: Duration, seed: &str, timings: &Timings) -> Duration {
    let wanted = plan.jitter.map_or(period / JITTER_DEFAULT_PART, |jitter| timings.scale(jitter));
    let spread = wanted.min(JITTER_MAX).min(period / JITTER_MAX_PART);
    Duration::from_secs(share("jitter", seed, spread).as_secs())
}

/// The first fire after `time`. croner gives up inside a gap of more than two hours, as when a zone crosses the date
/// line and leaves out a whole day: the search then goes on behind it, so that no key stops rotating.
fn fire_after(cron: &Cron, zone: Tz, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    [0, 24, 48].into_iter().find_map(|hours| {
        let from = time.checked_add_signed(TimeDelta::hours(hours))?.with_timezone(&zone);
        let fire = cron.find_next_occurrence(&from, false).ok()?.to_utc();
        (fire > time).then_some(fire)
    })
}

fn gap_after(cron: &Cron, zone: Tz, fire: DateTime<Utc>) -> Option<Duration> {
    (fire_after(cron, zone, fire)? - fire).to_std().ok()
}
