//! What keys have used: what status tells of it, and the rotations that it makes due.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::deliver::{after, plan, says, states};
use super::driver::Run;
use super::world::{World, at, every};
use crate::api::{ConditionType, LLMKeyStatus, PAUSED, Reason, RotationMode, UsageAmounts, rfc3339};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{LedgerView, Look, Memory};
use crate::domain::lifecycle::RotationReason;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Revoked};
use crate::domain::turns::{Ahead, Turn};
use crate::domain::usage::{Amounts, KeyUsage, Micros, Reading, Thresholds, Window};
use crate::ledger::Summary;

fn requests(n: i64) -> Amounts {
    Amounts { requests: Some(n), cost: Some(Micros(n * 250_000)), ..Amounts::default() }
}

fn id(world: &World, version: i32) -> String {
    world.record().version(version).unwrap().provider_key_id.clone().unwrap()
}

/// The provider tells of a version's key.
fn tell(world: &mut World, version: i32, as_of: DateTime<Utc>, total: Amounts) {
    let mut keys = world.usage.take().map(|reading| reading.keys).unwrap_or_default();
    keys.insert(id(world, version).into(), KeyUsage { total, window: None });
    world.usage = Some(Reading { as_of, keys });
}

fn status(run: &Run) -> &LLMKeyStatus {
    run.world.key.as_ref().unwrap().status.as_ref().unwrap()
}

fn shown(n: i64, cost: &str) -> UsageAmounts {
    let (requests, cost_usd) = (Some(n), Some(cost.to_owned()));
    UsageAmounts { requests, cost_usd, ..UsageAmounts::default() }
}

/// A key whose policy lets it be used for 100 requests.
fn limited() -> Run {
    let mut world = World::minting();
    world.policy.usage = Thresholds { requests: Some(100), ..Thresholds::default() };
    after(world, 600)
}

#[test]
fn a_key_that_has_used_its_share_is_replaced_once() {
    let mut run = limited();
    tell(&mut run.world, 1, at(601), requests(99));
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Current]);
    tell(&mut run.world, 1, at(3600), requests(100));
    run.until(&[], 3700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    let record = run.world.record();
    assert_eq!(record.current().map(|v| v.reason), Some(RotationReason::Usage));
    assert_eq!(record.rotation(2).map(|r| (r.reason, r.asked_by())), {
        Some((RotationReason::Usage, "llmkey-operator".to_owned()))
    });
    // The older key goes on being used, and the next one begins.
    tell(&mut run.world, 1, at(7200), requests(500));
    tell(&mut run.world, 2, at(7200), requests(1));
    run.until(&[], 48 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(status(&run).usage.as_ref().unwrap().total, Some(shown(1, "0.25")));
    let told = |n: i32| status(&run).versions.iter().find(|v| v.version == n).unwrap().usage.clone();
    assert_eq!((told(1), told(2)), (Some(shown(500, "125.00")), Some(shown(1, "0.25"))));
}

#[test]
fn a_reading_from_before_a_keys_publishing_tells_nothing_of_it() {
    let mut run = limited();
    let published = run.world.record().current().unwrap().published_at.unwrap_or(at(0));
    tell(&mut run.world, 1, published, requests(1000));
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Current]);
    tell(&mut run.world, 1, published + chrono::Duration::seconds(1), requests(1000));
    run.until(&[], 800).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
}

#[test]
fn it_waits_for_the_overlap_of_the_last_rotation_and_holds_where_schedules_do() {
    let mut run = limited();
    run.world.rotate("1");
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    tell(&mut run.world, 2, at(701), requests(100));
    run.until(&[], 800).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::OverlapActive));
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());

    let mut held = limited();
    held.world.edit(|key| {
        drop(key.metadata.annotations.get_or_insert_default().insert(PAUSED.into(), "true".into()));
    });
    tell(&mut held.world, 1, at(601), requests(100));
    held.until(&[], 700).unwrap();
    assert!(says(&plan(&held.world), ConditionType::RotationDue, Reason::Paused));
    let mut reminded = limited();
    reminded.world.policy.mode = RotationMode::RemindOnly;
    tell(&mut reminded.world, 1, at(601), requests(100));
    reminded.until(&[], 700).unwrap();
    assert!(says(&plan(&reminded.world), ConditionType::RotationDue, Reason::RemindOnly));
    assert_eq!((states(&held.world), states(&reminded.world)), (vec![Current], vec![Current]));
}

/// Of a converged key only the ledger's summary is known.
#[test]
fn a_glance_reads_everything_when_a_threshold_is_reached_and_its_turn_has_come() {
    let mut run = limited();
    let look = |run: &Run, turn: Turn| {
        let (mut o, _) = run.world.observe(&Memory::default());
        o.ledger = LedgerView::Unread(Summary::of(run.world.record()));
        o.turn = Some(turn);
        let plan = decide(&o, &run.world.clone().env());
        (plan.look, plan.in_line.map(|place| place.due))
    };
    tell(&mut run.world, 1, at(601), requests(99));
    run.until(&[], 700).unwrap();
    assert_ne!(look(&run, Turn::Now).0, Look::Everything);
    run.world.usage = None;
    tell(&mut run.world, 1, at(702), requests(100));
    assert_eq!(look(&run, Turn::Now), (Look::Everything, None));
    let (waits, due) = look(&run, Turn::Waits(Ahead::Few));
    assert!(waits != Look::Everything && due == Some(at(702)), "{waits:?} {due:?}");
}

#[test]
fn status_changes_when_the_amounts_do_and_not_with_each_reading() {
    let mut run = after(World::minting(), 600);
    assert_eq!(status(&run).usage, None, "nothing was read yet");
    let writes = |run: &Run| run.world.history.writes;
    let before = writes(&run);
    run.world.usage = Some(Reading { as_of: at(650), keys: BTreeMap::new() });
    run.until(&[], 660).unwrap();
    assert_eq!((writes(&run), &status(&run).usage), (before, &None), "the provider tells nothing of it");
    tell(&mut run.world, 1, at(670), requests(0));
    run.until(&[], 680).unwrap();
    assert_eq!(
        (writes(&run), &status(&run).usage),
        (before, &None),
        "the provider tells that nobody used it"
    );
    tell(&mut run.world, 1, at(700), requests(2));
    run.until(&[], 710).unwrap();
    let usage = status(&run).usage.clone().unwrap();
    assert_eq!((usage.reason.as_str(), usage.as_of.as_deref()), ("Reported", Some(&*rfc3339(at(700)))));
    assert_eq!((usage.total, usage.window), (Some(shown(2, "0.50")), None));
    let before = writes(&run);
    tell(&mut run.world, 1, at(4300), requests(2));
    run.until(&[], 4400).unwrap();
    assert_eq!(writes(&run), before, "{}", run.story());
    // A restart, before anything is read again.
    run.world.usage = None;
    let told = status(&run).usage.clone();
    run.until(&[], 4500).unwrap();
    assert_eq!((writes(&run), &status(&run).usage), (before, &told));
    let mut reading = Reading { as_of: at(8000), keys: BTreeMap::new() };
    let window = Window { start: Some(at(7200)), amounts: requests(1) };
    reading.keys.insert(id(&run.world, 1).into(), KeyUsage { total: requests(3), window: Some(window) });
    run.world.usage = Some(reading);
    run.until(&[], 8100).unwrap();
    let usage = status(&run).usage.clone().unwrap();
    let window = usage.window.unwrap();
    assert_eq!((window.start.as_deref(), window.amounts()), (Some(&*rfc3339(at(7200))), shown(1, "0.25")));
    assert_eq!((usage.total, usage.as_of), (Some(shown(3, "0.75")), Some(rfc3339(at(8000)))));
}

#[test]
fn the_next_key_begins_with_nothing_and_the_older_ones_total_stays_with_its_version() {
    let mut run = after(World::minting(), 600);
    tell(&mut run.world, 1, at(601), requests(7));
    run.until(&[], 650).unwrap();
    run.world.rotate("1");
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert_eq!(status(&run).usage, None);
    let told = |run: &Run| status(run).versions.iter().map(|v| v.usage.clone()).collect::<Vec<_>>();
    assert_eq!(told(&run), [None, Some(shown(7, "1.75"))], "the newest first");
    run.world.usage = None;
    run.until(&[], 48 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current]);
    assert_eq!(told(&run), [None, Some(shown(7, "1.75"))]);
}

#[test]
fn of_a_supplied_key_status_says_once_that_nothing_is_reported() {
    let run = after(World::supplying("sk-supplied-1"), 600);
    let usage = status(&run).usage.clone().unwrap();
    assert_eq!((usage.reason.as_str(), usage.as_of, usage.total), ("NotReported", None, None));
    assert_eq!(run.world.history.writes, 3, "with what was to be written anyway: {}", run.story());
    let mut scheduled = World::supplying("sk-supplied-1");
    scheduled.policy = every(720);
    scheduled.policy.usage = Thresholds { requests: Some(1), ..Thresholds::default() };
    let mut run = after(scheduled, 600);
    run.world.usage = Some(Reading { as_of: at(601), keys: BTreeMap::new() });
    run.until(&[], 700).unwrap();
    assert!(
        says(&plan(&run.world), ConditionType::RotationDue, Reason::NotDue)
            || plan(&run.world).findings.is_empty()
    );
}
