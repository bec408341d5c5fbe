//! Keys without names: a stray is told by what was not there before, and what was there before is never touched.

use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::{ProviderKey, World, at};
use crate::api::DesiredState;
use crate::domain::health::Verdict;
use crate::domain::lifecycle::Origin;
use crate::domain::lifecycle::VersionState::{Abandoned, Current, Overlap, Revoked};

const HOUR: i64 = 3600;

fn places(run: &Run, name: &str) -> Vec<usize> {
    (1..).zip(&run.names).filter(|(_, n)| **n == name).map(|(place, _)| place).collect()
}

fn told(run: &Run, condition: &str) -> (String, String, String) {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    let found = status.conditions.iter().find(|c| c.type_ == condition).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn live(world: &World) -> Vec<&str> {
    world.live_keys().map(|key| key.id.as_str()).collect()
}

/// A key that another hand has made at the account.
fn put(world: &mut World, id: &str) {
    world.provider.keys.push(ProviderKey {
        name: String::new(),
        id: id.to_owned(),
        bytes: format!("sk-{id}"),
        project: world.project.clone(),
        host: world.host.clone(),
        made: at(-HOUR),
        revoked: None,
        used: None,
    });
}

fn with(ids: &[&str]) -> World {
    let mut world = World::unnamed();
    for id in ids {
        put(&mut world, id);
    }
    world
}

#[test]
fn what_is_there_is_on_record_before_the_first_key_is_asked_for() {
    let run = after(with(&["ACCA1"]), HOUR);
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    let steps = ["take_lease", "list_keys", "create_ledger", "take_lease", "find_strays", "mint"];
    let order: Vec<_> = run.names.iter().filter(|name| steps.contains(name)).copied().collect();
    assert_eq!(order, ["take_lease", "list_keys", "create_ledger", "take_lease", "mint"], "{}", run.story());
    let before = run.world.record().versions[0].before.as_ref().unwrap();
    assert_eq!((before.project.as_str(), &before.ids[..]), ("proj_1", &["ACCA1".to_owned()][..]));
}

#[test]
fn a_lost_answer_leaves_a_key_that_is_told_by_its_absence_before_and_goes() {
    let first = places(&after(with(&[]), HOUR), "mint")[0];
    for fault in [Fault::ReplyLost, Fault::CrashAfter] {
        let mut run = Run::faulty(with(&[]), &[(first, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(states(&run.world), [Current], "{fault:?}: {}", run.story());
        assert_eq!(run.world.provider.keys.len(), 2, "one was lost: {}", run.story());
        assert!(run.world.provider.keys[0].revoked.is_some());
        assert_eq!(places(&run, "revoke_stray").len(), 1);
    }
    for fault in [Fault::NotDone, Fault::CrashBefore] {
        let mut run = Run::faulty(with(&[]), &[(first, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(
            (states(&run.world), run.world.provider.keys.len()),
            (vec![Current], 1),
            "{}",
            run.story()
        );
        assert!(places(&run, "revoke_stray").is_empty());
    }
}

/// The first key of the account is somebody else's: the lost one takes the last room, and must go before another is made.
#[test]
fn a_stray_that_takes_the_last_room_goes_first_and_a_persons_key_stays() {
    let first = places(&after(with(&["ACCA1"]), HOUR), "mint")[0];
    let mut run = Run::faulty(with(&["ACCA1"]), &[(first, Fault::ReplyLost)]);
    run.until(&[], HOUR).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert!(live(&run.world).contains(&"ACCA1") && live(&run.world).len() == 2);
}

#[test]
fn a_full_account_is_told_with_the_ids_of_what_is_there() {
    let mut run = after(with(&["ACCA1", "ACCA2"]), HOUR);
    assert!(run.world.ledger.is_none() && places(&run, "mint").is_empty(), "{}", run.story());
    let (status, reason, message) = told(&run, "Stalled");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "SlotsTaken"));
    assert!(message.contains("ACCA1") && message.contains("ACCA2"), "{message}");
    // Somebody makes room: it goes on by itself, and what was left stays.
    let room: fn(&mut World) = |w| w.provider.keys.retain(|key| key.id != "ACCA1");
    run.until(&[(HOUR, room)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert!(live(&run.world).contains(&"ACCA2"));
    // There is no room for a rotation, and the key works on.
    run.until(&[(2 * HOUR, |w| w.rotate("1"))], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current]);
    let (_, reason, message) = told(&run, "RotationDue");
    assert_eq!(reason, "SlotsTaken", "{message}");
    assert!(
        message.contains("ACCA2, which the operator did not make") && message.contains("version 1"),
        "{message}"
    );
    assert_eq!(told(&run, "Stalled").0, "False");
    let room: fn(&mut World) = |w| w.provider.keys.retain(|key| key.id != "ACCA2");
    run.until(&[(3 * HOUR, room)], 4 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

#[test]
fn a_rotation_waits_for_the_end_of_the_overlap_before_it() {
    let mut run = after(with(&[]), HOUR);
    run.until(&[(HOUR, |w| w.rotate("1")), (HOUR + 60, |w| w.rotate("2"))], HOUR + 600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(told(&run, "RotationDue").1, "OverlapActive");
    run.until(&[], 9 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
}

/// Carried out twice, the second copy takes the room of the next rotation: it goes before that.
#[test]
fn a_copy_that_nobody_knows_goes_before_the_next_key_is_made() {
    let first = places(&after(with(&[]), HOUR), "mint")[0];
    let mut run = Run::faulty(with(&[]), &[(first, Fault::Twice)]);
    run.until(&[], HOUR).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Current], 2), "{}", run.story());
    run.until(&[(HOUR, |w| w.rotate("1"))], 9 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
    assert!(run.world.target.as_ref().is_some_and(|t| run.world.verdict(&t.bytes).accepts()));
}

/// The provider said no while the list was late: the lost key fills the account, is seen later, and goes.
#[test]
fn a_stray_that_is_listed_late_is_found_after_the_refusal() {
    let mut world = with(&["ACCA1"]);
    world.provider.list_lag = std::time::Duration::from_secs(900);
    let first = places(&after(world.clone(), HOUR), "mint")[0];
    let mut run = Run::faulty(world, &[(first, Fault::ReplyLost)]);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert_eq!(live(&run.world).len(), 2, "{}", run.story());
    assert!(live(&run.world).contains(&"ACCA1"));
}

#[test]
fn what_status_shows_as_delivered_is_no_stray_of_an_older_ledger() {
    let mut run = after(with(&[]), HOUR);
    let older = run.world.ledger.clone();
    run.until(&[(HOUR, |w| w.rotate("1"))], HOUR + 600).unwrap();
    let delivered = run.world.record().versions[1].provider_key_id.clone().unwrap();
    let mut restored = older.unwrap();
    restored.resource_version = run.world.next().to_string();
    run.world.ledger = Some(restored);
    run.until(&[(HOUR + 601, |w| w.rotate("go on"))], HOUR + 1200).unwrap();
    assert!(live(&run.world).contains(&delivered.as_str()), "{}", run.story());
}

#[test]
fn all_is_revoked_at_once_and_comes_back_and_the_account_is_given_back() {
    let desire = |state: DesiredState| move |w: &mut World| w.edit(|key| key.spec.desired_state = state);
    let mut run = after(with(&["ACCA1"]), HOUR);
    desire(DesiredState::Revoked)(&mut run.world);
    run.until(&[], 2 * HOUR).unwrap();
    assert_eq!((states(&run.world), live(&run.world)), (vec![Revoked], vec!["ACCA1"]), "{}", run.story());
    desire(DesiredState::Active)(&mut run.world);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    run.until(&[(3 * HOUR, World::delete)], 12 * HOUR).unwrap();
    assert_eq!((live(&run.world), run.world.holder.is_none()), (vec!["ACCA1"], true), "{}", run.story());
}

#[test]
fn an_attempt_that_nobody_wants_any_more_leaves_nothing() {
    let first = places(&after(with(&["ACCA1"]), HOUR), "mint")[0];
    let mut run = Run::faulty(with(&["ACCA1"]), &[(first, Fault::ReplyLost)]);
    run.until(&[], 1).unwrap();
    let pooled: fn(&mut World) = |w| {
        w.fill("a", "sk-pool-a1", crate::domain::health::Verdict::Valid);
        w.edit(|key| key.spec.source = serde_json::from_value(super::world::pool(&["a"])).unwrap());
    };
    run.until(&[(1, pooled)], HOUR).unwrap();
    assert_eq!(
        (states(&run.world), live(&run.world)),
        (vec![Abandoned, Current], vec!["ACCA1"]),
        "{}",
        run.story()
    );
    assert_eq!(run.world.holder, None);
}

#[test]
fn who_waits_for_room_beside_a_supplied_key_writes_nothing_meanwhile() {
    let mut world = with(&["ACCA1", "ACCA2"]);
    world.supply("sk-supplied-1", Verdict::Valid);
    world.edit(|key| {
        key.spec.source.mint = None;
        let secret = serde_json::from_value(serde_json::json!({"name": "source", "key": "key"})).unwrap();
        key.spec.source.secret_ref = Some(secret);
    });
    let mut run = after(world, 600);
    let made: fn(&mut World) = |w| {
        w.edit(|key| {
            key.spec.source.secret_ref = None;
            key.spec.source.mint = Some(crate::api::Mint {});
        });
    };
    run.until(&[(600, made)], 660).unwrap();
    assert_eq!(told(&run, "RotationDue").1, "SlotsTaken", "{}", run.story());
    let (set, writes) = (places(&run, "set_finalizer").len(), run.world.history.writes);
    run.until(&[], HOUR).unwrap();
    let now = (places(&run, "set_finalizer").len(), run.world.history.writes);
    assert_eq!((now, set), ((set, writes), 1), "{}", run.story());
    let room: fn(&mut World) = |w| w.provider.keys.retain(|key| key.id != "ACCA1");
    run.until(&[(HOUR, room)], 2 * HOUR).unwrap();
    assert_eq!(run.world.record().current().map(|v| v.origin), Some(Origin::Minted), "{}", run.story());
}
