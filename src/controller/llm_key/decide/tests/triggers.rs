//! What makes a rotation due besides the schedule.

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::{World, at, hours};
use crate::api::{ConditionType, GoDuration, Reason, rfc3339};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RotationReason;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Retained, Revoked};

#[test]
fn a_supplied_key_that_expires_is_asked_for_in_time() {
    let mut world = World::supplying("sk-supplied-1");
    world.policy.expiry_before = Some(hours(24));
    world.edit(|key| key.spec.expires_at = Some(rfc3339(at(48 * 3600))));
    let mut run = after(world, 3600);
    let due = |run: &Run| says(&plan(&run.world), ConditionType::RotationDue, Reason::SupplyNextKey);
    assert!(!due(&run));
    let next = run.world.key.as_ref().unwrap().status.as_ref().unwrap().next_rotation_time.clone();
    assert_eq!(next, Some(rfc3339(at(24 * 3600))));
    run.until(&[], 24 * 3600 + 60).unwrap();
    assert!(due(&run), "{}", run.story());
    run.world.supply("sk-supplied-2", Verdict::Valid);
    run.world.edit(|key| key.spec.expires_at = Some(rfc3339(at(1000 * 3600))));
    run.until(&[], 25 * 3600).unwrap();
    assert!(!due(&run));
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Retained, Current], "True KeyValid".into()));
}

/// The overlap waits for the current key to work, which it never will.
#[test]
fn a_person_who_asks_does_not_wait_for_the_overlap_of_a_key_that_does_not_work() {
    let mut run = after(World::minting(), 600);
    run.world.rotate("1");
    run.until(&[], 660).unwrap();
    run.world.edit(|key| key.spec.validation.interval = Some(GoDuration::from_secs(600)));
    run.world.provider.answers = Some(Verdict::Rejected);
    let invalid = |run: &Run| {
        let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
        status.health.as_ref().is_some_and(|health| health.state == "Invalid")
    };
    let confirmed = (660..1900).find(|second| {
        run.until(&[], *second).unwrap();
        invalid(&run)
    });
    let confirmed = confirmed.unwrap();
    run.until(&[], confirmed + 10).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "no trigger asks for another one: {}", run.story());
    run.world.provider.answers = None;
    run.world.rotate("2");
    run.until(&[], confirmed + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Overlap, Current], "{}", run.story());
    assert!(ready(&run.world).starts_with("True"), "{}", ready(&run.world));
    run.until(&[], 100 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
}

#[test]
fn a_rotation_that_is_due_waits_for_the_window_and_a_person_does_not() {
    let world = |windows: serde_json::Value| {
        let mut world = World::minting();
        let spec = serde_json::from_value(serde_json::json!({
            "schedule": {"interval": "24h"}, "jitter": "0s", "windows": windows,
        }))
        .unwrap();
        world.policy.schedule = Some(crate::domain::schedule::parse(&spec).unwrap());
        after(world, 600)
    };
    let always = world(serde_json::json!([]));
    let due = always.world.key.as_ref().unwrap().status.as_ref().unwrap().next_rotation_time.clone();
    let due = crate::api::parse_rfc3339(&due.unwrap()).unwrap();
    let opens = due + chrono::Duration::hours(7);
    let cron = opens.format("%M %H * * *").to_string();
    let windows = serde_json::json!([{"name": "daily", "cron": cron, "duration": "1h"}]);
    let (mut run, mut asked) = (world(windows.clone()), world(windows));
    let opens = opens - chrono::Duration::seconds(i64::from(chrono::Timelike::second(&opens)));
    let shown = run.world.key.as_ref().unwrap().status.as_ref().unwrap().next_rotation_time.clone();
    assert_eq!(shown, Some(rfc3339(opens)));
    let seconds = |time: chrono::DateTime<chrono::Utc>| (time - at(0)).num_seconds();
    run.until(&[], seconds(due) + 60).unwrap();
    assert_eq!(states(&run.world), [Current]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::WaitingForWindow));
    asked.until(&[], seconds(due) + 60).unwrap();
    asked.world.rotate("now");
    asked.until(&[], seconds(due) + 120).unwrap();
    assert_eq!(states(&asked.world), [Overlap, Current], "{}", asked.story());
    run.until(&[], seconds(opens) - 1).unwrap();
    assert_eq!(states(&run.world), [Current]);
    run.until(&[], seconds(opens) + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

#[test]
fn a_minted_key_that_is_refused_is_replaced_only_where_the_policy_says_so() {
    for replace in [false, true] {
        let mut world = World::minting();
        world.policy.replace_invalid = replace;
        let mut run = after(world, 600);
        // An overlap is open: a key that does not work does not wait for its end.
        run.world.rotate("now");
        run.until(&[], 660).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current]);
        run.world
            .edit(|key| key.spec.validation.interval = Some(GoDuration(std::time::Duration::from_secs(600))));
        run.world.provider.answers = Some(Verdict::Rejected);
        let told =
            |run: &Run| run.world.key.as_ref().unwrap().status.as_ref().unwrap().health.clone().unwrap();
        let confirmed = (660..1900).find(|second| {
            run.until(&[], *second).unwrap();
            told(&run).state == "Invalid"
        });
        let confirmed = confirmed.unwrap();
        assert_eq!(states(&run.world), [Overlap, Current]);
        run.world.provider.answers = None;
        run.until(&[], confirmed + 119).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current], "two minutes");
        run.until(&[], confirmed + 125).unwrap();
        let record = run.world.record();
        if replace {
            assert_eq!(record.current().map(|v| (v.version, v.reason)), Some((3, RotationReason::Invalid)));
            assert_eq!(ready(&run.world), "True KeyValid", "{}", run.story());
        } else {
            assert_eq!(
                (states(&run.world), ready(&run.world)),
                (vec![Overlap, Current], "False KeyInvalid".into())
            );
        }
        run.until(&[], 12 * 3600).unwrap();
        if replace {
            assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
        }
    }
}
