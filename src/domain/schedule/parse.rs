//! From a policy's spec to a plan, or to an error that its author can act on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::{Plan, Rule, Window};
use crate::api::{Period, RotationPolicySpec};

/// Keys rotate at most this often.
const MIN_PERIOD: Duration = Duration::from_secs(60 * 60);
/// Fires are counted from here: the last second of 2023, so that the first hour that counts is a whole one.
const BEFORE_FIRST_FIRE: DateTime<Utc> = match DateTime::from_timestamp(1_704_067_199, 0) {
    Some(time) => time,
    None => DateTime::<Utc>::UNIX_EPOCH,
};

/// Why a schedule cannot be followed. Each text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ScheduleError {
    /// More than one of the three.
    #[error("spec.schedule: set only one of interval, calendar and cron")]
    Ambiguous,
    /// Not in the IANA database.
    #[error(
        "spec.schedule: {zone:?} is not a time zone; use an IANA name such as Europe/Berlin, or leave it out for UTC"
    )]
    UnknownTimeZone {
        /// What was written.
        zone: String,
    },
    /// Not a cron expression.
    #[error("spec.schedule.cron.expression: {expression:?} is not a cron expression: {why}")]
    NotCron {
        /// What was written.
        expression: String,
        /// What the parser says.
        why: String,
    },
    /// Names a date that does not exist.
    #[error(
        "spec.schedule.cron.expression: {expression:?} never happens; check that the day exists in that month"
    )]
    NeverFires {
        /// What was written.
        expression: String,
    },
    /// More often than hourly.
    #[error(
        "spec.schedule.cron.expression: {expression:?} fires more often than once an hour; give the minute as one number, such as \"0 * * * *\""
    )]
    TooOften {
        /// What was written.
        expression: String,
    },
    /// A window that cannot be understood, or never opens.
    #[error("spec.windows, {name}: {why}")]
    Window {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Shorter than an hour.
    #[error("spec.schedule.interval: at least 1h")]
    IntervalTooShort,
}

/// Reads what a policy says about time. The CRD's rules refuse most of these errors at admission; objects that were
/// stored before a rule existed meet them here.
pub fn parse(spec: &RotationPolicySpec) -> Result<Plan, ScheduleError> {
    let mut reminders: Vec<Duration> = spec.reminders.iter().map(|reminder| reminder.0).collect();
    reminders.sort_unstable_by(|a, b| b.cmp(a));
    reminders.dedup();
    let windows = spec.windows.iter().map(window).collect::<Result<_, _>>()?;
    Ok(Plan { rule: rule(spec)?, jitter: spec.jitter.map(|jitter| jitter.0), reminders, windows })
}

fn window(written: &crate::api::Window) -> Result<Window, ScheduleError> {
    let wrong = |error: &ScheduleError| ScheduleError::Window {
        name: written.name.clone(),
        why: error.to_string().replace("spec.schedule.cron.expression: ", "").replace("spec.schedule: ", ""),
    };
    let opens = cron(&written.cron).map_err(|error| wrong(&error))?;
    let zone = zone(written.time_zone.as_deref()).map_err(|error| wrong(&error))?;
    opens
        .find_next_occurrence(&BEFORE_FIRST_FIRE, false)
        .map_err(|_| wrong(&ScheduleError::NeverFires { expression: written.cron.clone() }))?;
    Ok(Window { opens, length: written.duration.0, zone })
}

fn rule(spec: &RotationPolicySpec) -> Result<Rule, ScheduleError> {
    let Some(schedule) = &spec.schedule else { return Ok(Rule::ByHand) };
    match (&schedule.interval, &schedule.calendar, &schedule.cron) {
        (None, None, None) => Ok(Rule::ByHand),
        (Some(interval), None, None) if interval.0 < MIN_PERIOD => Err(ScheduleError::IntervalTooShort),
        (Some(interval), None, None) => Ok(Rule::Every(interval.0)),
        (None, Some(calendar), None) => {
            let expression = match calendar.period {
                Period::Daily => "0 0 * * *",
                Period::Weekly => "0 0 * * 1",
                Period::Monthly => "0 0 1 * *",
                Period::Quarterly => "0 0 1 1,4,7,10 *",
            };
            let starts = cron(expression)?;
            Ok(Rule::Calendar { period: calendar.period, starts, zone: zone(calendar.time_zone.as_deref())? })
        }
        (None, None, Some(written)) => {
            let zone = zone(written.time_zone.as_deref())?;
            let fires = cron(&written.expression)?;
            check_fires(&written.expression, &fires)?;
            // Written with any white space; shown with single spaces.
            let text = written.expression.split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(Rule::Cron { text, fires, zone })
        }
        _ => Err(ScheduleError::Ambiguous),
    }
}

fn zone(name: Option<&str>) -> Result<Tz, ScheduleError> {
    let Some(name) = name else { return Ok(Tz::UTC) };
    name.parse().map_err(|_| ScheduleError::UnknownTimeZone { zone: name.to_owned() })
}

fn cron(expression: &str) -> Result<Cron, ScheduleError> {
    let not_cron = |why: String| ScheduleError::NotCron { expression: expression.to_owned(), why };
    if expression.split_whitespace().count() != 5 {
        return Err(not_cron("five fields: minute, hour, day of month, month, day of week".to_owned()));
    }
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(expression)
        .map_err(|error| not_cron(error.to_string()))
}

/// Two fires show whether an expression is too frequent: a minute field with two values fires twice in its first hour.
/// In UTC, where no hour is skipped or repeated. To find that nothing ever fires takes the whole of croner's search.
fn check_fires(expression: &str, fires: &Cron) -> Result<(), ScheduleError> {
    let next = |time| {
        let never = |_| ScheduleError::NeverFires { expression: expression.to_owned() };
        fires.find_next_occurrence(&time, false).map_err(never)
    };
    let first = next(BEFORE_FIRST_FIRE)?;
    if (next(first)? - first).to_std().is_ok_and(|gap| gap < MIN_PERIOD) {
        return Err(ScheduleError::TooOften { expression: expression.to_owned() });
    }
    Ok(())
}
