use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{RotationPolicySpec, parse_rfc3339};

fn spec(value: serde_json::Value) -> RotationPolicySpec {
    serde_json::from_value(value).unwrap()
}

fn plan(value: serde_json::Value) -> Plan {
    parse(&spec(value)).unwrap()
}

/// Without jitter: what the schedule itself says.
fn cron(expression: &str, zone: &str) -> Plan {
    plan(json!({"jitter": "0s", "schedule": {"cron": {"expression": expression, "timeZone": zone}}}))
}

fn calendar(period: &str, zone: &str) -> Plan {
    plan(json!({"jitter": "0s", "schedule": {"calendar": {"period": period, "timeZone": zone}}}))
}

fn at(text: &str) -> DateTime<Utc> {
    parse_rfc3339(text).unwrap()
}

fn due(plan: &Plan, published_at: DateTime<Utc>) -> DateTime<Utc> {
    next_due(plan, published_at, "lineage", &Timings::default()).unwrap()
}

fn error(schedule: &serde_json::Value) -> String {
    parse(&spec(json!({ "schedule": schedule }))).unwrap_err().to_string()
}

/// Expression, zone, publishing, and the fires that follow one another.
const DAYLIGHT_SAVING: &[(&str, &str, &str, &[&str])] = &[
    // New York, 8 March 2026: 02:00 to 03:00 does not exist. The fire moves to the end of the gap, then back.
    (
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"],
    ),
    // A fire before the gap happens once.
    (
        "30 1 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T01:30:00-05:00", "2026-03-09T01:30:00-04:00"],
    ),
    // New York, 1 November 2026: 01:00 to 02:00 happens twice. The fire happens once, the first time.
    (
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"],
    ),
    // Published between the two: not again on that day.
    ("30 1 * * *", "America/New_York", "2026-11-01T01:10:00-05:00", &["2026-11-02T01:30:00-05:00"]),
    // Hourly goes on through both.
    (
        "0 * * * *",
        "America/New_York",
        "2026-11-01T00:30:00-04:00",
        &["2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00", "2026-11-01T02:00:00-05:00"],
    ),
    (
        "0 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:30:00+01:00",
        &["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"],
    ),
    // Cairo, 24 April 2026: midnight itself does not exist.
    (
        "0 0 * * *",
        "Africa/Cairo",
        "2026-04-23T12:00:00Z",
        &["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"],
    ),
    // Lord Howe, 4 October 2026: a gap of half an hour.
    (
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T12:00:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
    ),
    // Sunday is 0 and 7.
    ("0 3 * * 7", "UTC", "2026-11-22T04:00:00Z", &["2026-11-29T03:00:00Z"]),
    ("0 3 * * 0", "UTC", "2026-11-22T04:00:00Z", &["2026-11-29T03:00:00Z"]),
    ("0 3 * * SUN", "UTC", "2026-11-22T04:00:00Z", &["2026-11-29T03:00:00Z"]),
    // Last day of the month, also in a leap year.
    ("0 3 L * *", "UTC", "2028-02-01T00:00:00Z", &["2028-02-29T03:00:00Z", "2028-03-31T03:00:00Z"]),
    // Day of month and day of week together: either.
    ("0 3 13 * 5", "UTC", "2026-11-12T00:00:00Z", &["2026-11-13T03:00:00Z", "2026-11-20T03:00:00Z"]),
    ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
];

#[test]
fn cron_through_daylight_saving() {
    for (expression, zone, published, fires) in DAYLIGHT_SAVING {
        let plan = cron(expression, zone);
        let mut time = at(published);
        for fire in *fires {
            time = due(&plan, time);
            assert_eq!(time, at(fire), "{expression} {zone} after {published}");
        }
    }
}

#[test]
fn calendar_takes_the_first_boundary_at_least_half_a_period_away() {
    for (period, zone, published, expected) in [
        ("Daily", "UTC", "2026-11-22T12:00:00Z", "2026-11-23T00:00:00Z"),
        ("Daily", "UTC", "2026-11-22T12:00:01Z", "2026-11-24T00:00:00Z"),
        ("Daily", "UTC", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("Daily", "UTC", "2026-11-22T23:59:59Z", "2026-11-24T00:00:00Z"),
        ("Weekly", "UTC", "2026-11-23T09:00:00Z", "2026-11-30T00:00:00Z"),
        ("Weekly", "UTC", "2026-11-27T09:00:00Z", "2026-12-07T00:00:00Z"),
        ("Monthly", "Europe/Berlin", "2026-11-05T00:00:00Z", "2026-12-01T00:00:00+01:00"),
        ("Monthly", "Europe/Berlin", "2026-11-20T00:00:00Z", "2027-01-01T00:00:00+01:00"),
        ("Monthly", "Europe/Berlin", "2026-03-02T00:00:00Z", "2026-04-01T00:00:00+02:00"),
        ("Quarterly", "America/New_York", "2026-10-10T00:00:00Z", "2027-01-01T00:00:00-05:00"),
        ("Quarterly", "America/New_York", "2026-12-10T00:00:00Z", "2027-04-01T00:00:00-04:00"),
        // No midnight on that day.
        ("Daily", "Africa/Cairo", "2026-04-23T02:00:00+02:00", "2026-04-24T01:00:00+03:00"),
        // Midnight twice on that day: the first.
        ("Daily", "America/Havana", "2026-10-31T06:00:00-04:00", "2026-11-01T00:00:00-04:00"),
        // Published in the second of the two, an hour into a day of 25 hours.
        ("Daily", "America/Havana", "2026-11-01T00:10:00-05:00", "2026-11-02T00:00:00-05:00"),
    ] {
        assert_eq!(due(&calendar(period, zone), at(published)), at(expected), "{period} {zone} {published}");
    }
}

#[test]
fn a_day_that_a_zone_left_out_stops_nothing() {
    // Samoa had no 30 December 2011.
    let plan = calendar("Daily", "Pacific/Apia");
    let mut time = at("2011-12-28T12:30:00Z");
    for _ in 0..5 {
        let next = due(&plan, time);
        assert!(next - time <= TimeDelta::hours(48) && next > time, "{time} {next}");
        time = next;
    }
}

#[test]
fn intervals_count_from_publishing_and_divide_in_tests() {
    let plan = plan(json!({"jitter": "0s", "schedule": {"interval": "720h"}}));
    let published = at("2026-11-22T14:00:00Z");
    assert_eq!(due(&plan, published), published + TimeDelta::hours(720));
    let fast = next_due(&plan, published, "lineage", &Timings::divided_by(3600)).unwrap();
    assert_eq!(fast, published + TimeDelta::seconds(720));
    // Calendar and cron are the user's clock: never divided.
    let monthly = calendar("Monthly", "UTC");
    assert_eq!(
        next_due(&monthly, published, "lineage", &Timings::divided_by(3600)),
        next_due(&monthly, published, "lineage", &Timings::default())
    );
}

#[test]
fn by_hand_is_never_due() {
    for value in [json!({}), json!({"schedule": {}})] {
        let plan = plan(value);
        assert_eq!(next_due(&plan, at("2026-11-22T14:00:00Z"), "lineage", &Timings::default()), None);
        assert_eq!(describe(&plan), "by hand");
    }
}

#[test]
fn errors_say_what_to_write() {
    let cron = |expression: &str| error(&json!({"cron": {"expression": expression}}));
    for (text, words) in [
        (error(&json!({"calendar": {"period": "Daily", "timeZone": "Berlin"}})), "use an IANA name"),
        (error(&json!({"cron": {"expression": "0 3 * * *", "timeZone": ""}})), "use an IANA name"),
        (cron("30 2 30 2 *"), "never happens"),
        (cron("0 3 31 4,6,9,11 *"), "never happens"),
        (cron("0 0 3 * * *"), "five fields"),
        (cron("@daily"), "five fields"),
        (cron("0 3 * *"), "five fields"),
        (cron("60 3 * * *"), "not a cron expression"),
        (cron("0 25 * * *"), "not a cron expression"),
        (cron("a b c d e"), "not a cron expression"),
        (cron("* * * * *"), "more often than once an hour"),
        (cron("*/30 * * * *"), "more often than once an hour"),
        (cron("0,59 3 * * *"), "more often than once an hour"),
        (error(&json!({"interval": "30m"})), "at least 1h"),
        (error(&json!({"interval": "720h", "calendar": {"period": "Daily"}})), "only one of"),
    ] {
        assert!(text.contains(words) && text.starts_with("spec.schedule"), "{text}");
    }
    assert!(parse(&spec(json!({"schedule": {"cron": {"expression": "0 * * * *"}}}))).is_ok());
}

#[test]
fn one_line_for_the_status() {
    for (schedule, line) in [
        (json!({"interval": "720h"}), "every 720h"),
        (json!({"interval": "90m"}), "every 1h30m"),
        (json!({"calendar": {"period": "Monthly", "timeZone": "Europe/Berlin"}}), "Monthly (Europe/Berlin)"),
        (json!({"calendar": {"period": "Daily"}}), "Daily (UTC)"),
        (json!({"cron": {"expression": "0  3 1 * *"}}), "0 3 1 * * (UTC)"),
    ] {
        assert_eq!(describe(&plan(json!({ "schedule": schedule }))), line);
    }
    assert_eq!(go_duration(Duration::ZERO), "0s");
    assert_eq!(go_duration(Duration::from_secs(3605)), "1h5s");
}

#[test]
fn jitter_spreads_keys_within_its_bounds() {
    let published = at("2026-11-22T14:00:00Z");
    for (jitter, hours, bound) in [
        (None, 720, 24 * 3600),
        (None, 24, 8640),
        (Some("1h"), 720, 3600),
        (Some("24h"), 720, 24 * 3600),
        // Never beyond a quarter of the period.
        (Some("24h"), 4, 3600),
    ] {
        let mut value = json!({"schedule": {"interval": format!("{hours}h")}});
        if let Some(jitter) = jitter {
            value["jitter"] = json!(jitter);
        }
        let plan = plan(value);
        let shares: Vec<i64> = (0..500)
            .map(|n| {
                let due = next_due(&plan, published, &format!("lineage-{n}"), &Timings::default()).unwrap();
                (due - published - TimeDelta::hours(hours)).num_seconds()
            })
            .collect();
        assert!(shares.iter().all(|share| (0..bound).contains(share)));
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(*least < bound / 20 && *most > bound * 19 / 20, "{least} {most} of {bound}");
    }
}

#[test]
fn a_daily_key_with_wide_jitter_misses_no_day() {
    let plan = plan(json!({"jitter": "24h", "schedule": {"calendar": {"period": "Daily"}}}));
    for n in 0..50 {
        let seed = format!("lineage-{n}");
        let mut time = at("2026-11-22T01:00:00Z");
        let first = next_due(&plan, time, &seed, &Timings::default()).unwrap();
        for day in 0..30 {
            let due = next_due(&plan, time, &seed, &Timings::default()).unwrap();
            assert_eq!(due, first + TimeDelta::days(day));
            // Published some minutes after it was due.
            time = due + TimeDelta::minutes(7);
        }
    }
}

#[test]
fn reminders_begin_before_the_due_time_and_end_with_it() {
    let plan = plan(json!({"reminders": ["24h", "168h", "24h"], "schedule": {"interval": "720h"}}));
    let published = at("2026-11-01T00:00:00Z");
    let due = at("2026-12-01T00:00:00Z");
    let hours = |n: u64| Some(Duration::from_secs(n * 3600));
    for (now, active, next) in [
        ("2026-11-10T00:00:00Z", None, Some("2026-11-24T00:00:00Z")),
        ("2026-11-24T00:00:00Z", hours(168), Some("2026-11-30T00:00:00Z")),
        ("2026-11-29T23:59:59Z", hours(168), Some("2026-11-30T00:00:00Z")),
        ("2026-11-30T00:00:00Z", hours(24), None),
        ("2026-12-01T00:00:00Z", None, None),
    ] {
        let expected = Reminders { active, next: next.map(at) };
        assert_eq!(reminder_due(&plan, published, due, at(now), &Timings::default()), expected, "{now}");
    }
    // Published three days before: the reminder of a week would speak of a rotation that was just done.
    let late = at("2026-11-28T00:00:00Z");
    assert_eq!(
        reminder_due(&plan, late, due, late + TimeDelta::hours(1), &Timings::default()),
        Reminders { active: None, next: Some(at("2026-11-30T00:00:00Z")) }
    );
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let zones = prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Africa/Cairo",
        "Australia/Lord_Howe",
        "America/Havana",
        "Asia/Kathmandu",
        "Pacific/Chatham",
        "Africa/Casablanca",
        "America/St_Johns",
        "Asia/Beirut",
        "Antarctica/Troll",
    ]);
    let schedules = prop_oneof![
        (1u32..9000).prop_map(|hours| json!({"interval": format!("{hours}h")})),
        (prop::sample::select(vec!["Daily", "Weekly", "Monthly", "Quarterly"]), zones.clone())
            .prop_map(|(period, zone)| json!({"calendar": {"period": period, "timeZone": zone}})),
        (
            prop::sample::select(vec![
                "0 * * * *",
                "30 2 * * *",
                "30 1,2,3 * * *",
                "0 0 1,3 * *",
                "15 2 * * 0",
                "0 3 L * *",
                "0 0 13 * 5",
                "59 23 31 12 *",
                "0 */6 * * *",
                "0 2 * 3,10 0",
            ]),
            zones
        )
            .prop_map(|(expression, zone)| json!({"cron": {"expression": expression, "timeZone": zone}})),
    ];
    let jitter = prop::option::of((0u32..=86_400).prop_map(|seconds| format!("{seconds}s")));
    (schedules, jitter).prop_map(|(schedule, jitter)| match jitter {
        Some(jitter) => plan(json!({"schedule": schedule, "jitter": jitter})),
        None => plan(json!({"schedule": schedule})),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn due_is_after_publishing_monotone_and_the_same_again(
        plan in any_plan(), from in 1_700_000_000i64..2_200_000_000, nanos in 0u32..1_000_000_000,
        later in 0i64..200_000, divisor in prop::sample::select(vec![1u32, 60, 3600, 86_400]), seed in "[a-f0-9]{8}",
    ) {
        let timings = Timings::divided_by(divisor);
        let published = DateTime::from_timestamp(from, nanos).unwrap();
        let due = next_due(&plan, published, &seed, &timings).unwrap();
        prop_assert!(due > published);
        prop_assert_eq!(Some(due), next_due(&plan.clone(), published, &seed, &timings));
        let again = next_due(&plan, published + TimeDelta::seconds(later), &seed, &timings).unwrap();
        prop_assert!(again >= due, "{} then {}", due, again);
        if let Rule::Calendar { .. } = plan.rule {
            prop_assert!(due - published >= TimeDelta::hours(11));
        }
    }
}

#[test]
fn a_rotation_starts_in_a_window_or_when_the_next_one_opens() {
    let nights =
        json!({"name": "nights", "cron": "0 22 * * 1-5", "duration": "6h", "timeZone": "Europe/Berlin"});
    let sundays =
        json!({"name": "sundays", "cron": "0 0 * * 0", "duration": "24h", "timeZone": "Europe/Berlin"});
    let starts = |windows: serde_json::Value, due: &str| {
        may_start(&plan(json!({ "windows": windows })), at(due)).unwrap()
    };
    // 20 November 2026 is a Friday. Berlin is an hour ahead of UTC in winter, two in summer.
    for (windows, due, start) in [
        (json!([]), "2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
        (json!([nights]), "2026-11-20T12:00:00Z", "2026-11-20T21:00:00Z"),
        (json!([nights]), "2026-11-20T21:00:00Z", "2026-11-20T21:00:00Z"),
        (json!([nights]), "2026-11-21T02:59:59Z", "2026-11-21T02:59:59Z"),
        (json!([nights]), "2026-11-21T03:00:00Z", "2026-11-23T21:00:00Z"),
        (json!([nights, sundays]), "2026-11-21T03:00:00Z", "2026-11-21T23:00:00Z"),
        (json!([sundays, nights]), "2026-11-22T12:00:00Z", "2026-11-22T12:00:00Z"),
        (json!([nights]), "2026-07-17T12:00:00Z", "2026-07-17T20:00:00Z"),
    ] {
        assert_eq!(starts(windows, due), at(start), "due {due}");
    }
}

#[test]
fn a_window_that_never_opens_is_an_error_that_names_it() {
    let error =
        |window: serde_json::Value| parse(&spec(json!({ "windows": [window] }))).unwrap_err().to_string();
    let never = error(json!({"name": "leap", "cron": "0 0 30 2 *", "duration": "1h"}));
    assert_eq!(
        never,
        "spec.windows, leap: \"0 0 30 2 *\" never happens; check that the day exists in that month"
    );
    let garbled = error(json!({"name": "odd", "cron": "99 0 * * *", "duration": "1h"}));
    assert!(garbled.starts_with("spec.windows, odd: \"99 0 * * *\" is not a cron expression: "), "{garbled}");
    let zone = error(json!({"name": "odd", "cron": "0 0 * * *", "duration": "1h", "timeZone": "Berlin"}));
    assert!(zone.starts_with("spec.windows, odd: \"Berlin\" is not a time zone;"), "{zone}");
}
