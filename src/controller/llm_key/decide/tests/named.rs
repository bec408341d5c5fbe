//! Keys whose ids are chosen here: one id for all attempts of a version, the key read again after a lost answer, and no id used twice.

use super::crash::scenarios::spend;
use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::World;
use crate::api::ValidationMode;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{Current, Intent, Revoked};
use crate::domain::names::MintName;

const HOUR: i64 = 3600;

/// Positions of an effect in the story, from 1.
fn places(run: &Run, name: &str) -> Vec<usize> {
    (1..).zip(&run.names).filter(|(_, n)| **n == name).map(|(place, _)| place).collect()
}

fn id(run: &Run, version: i32) -> Option<String> {
    run.world.record().version(version)?.provider_key_id.clone()
}

#[test]
fn the_id_is_on_record_before_the_key_is_made_and_stays_the_same_in_every_attempt() {
    let mut run = Run::new(World::naming());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    assert_eq!(states(&run.world), [Intent]);
    let named = id(&run, 1).unwrap();
    assert!(named.parse::<MintName>().is_ok_and(|name| name.version == 1 && name.attempt_number() == 1));
    assert_eq!(run.world.record().versions[0].key, None, "nobody knows the key");
    run.until(&[], 300).unwrap();
    assert!(places(&run, "mint").len() > 1);
    assert!(id(&run, 1).as_ref() == Some(&named) && run.world.record().versions[0].mint_name != id(&run, 1));
    assert_eq!(run.world.record().mints.len(), 1, "what was not made costs no budget");
    run.until(&[(300, |w| w.provider.full = false)], 600).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    let [key] = &run.world.provider.keys[..] else { panic!("{}", run.story()) };
    assert_eq!(key.id, named);
}

#[test]
fn a_lost_answer_leads_to_the_very_key_that_was_made() {
    let undisturbed = after(World::naming(), HOUR);
    let [mint] = places(&undisturbed, "mint")[..] else { panic!("{}", undisturbed.story()) };
    assert!(places(&undisturbed, "look_up").is_empty() && places(&undisturbed, "choose").is_empty());
    for fault in [Fault::ReplyLost, Fault::CrashAfter, Fault::Twice, Fault::Another] {
        let mut run = Run::faulty(World::naming(), &[(mint, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(states(&run.world), [Current], "{}", run.story());
        let [key] = &run.world.provider.keys[..] else { panic!("{fault:?}: {}", run.story()) };
        assert_eq!(key.revoked, None);
        assert_eq!(run.world.target.as_ref().map(|t| &t.bytes), Some(&key.bytes));
        if fault != Fault::Twice && fault != Fault::Another {
            assert_eq!(places(&run, "mint"), [mint], "it is read, not made: {}", run.story());
            assert_eq!(places(&run, "look_up").len(), 1);
        }
    }
}

#[test]
fn what_is_given_up_is_revoked_by_its_id_whether_it_was_made_or_not() {
    let mint = places(&after(World::naming(), HOUR), "mint")[0];
    for fault in [Fault::NotDone, Fault::ReplyLost] {
        let mut run = Run::faulty(World::naming(), &[(mint, fault)]);
        run.until(&[], 1).unwrap();
        assert_eq!(states(&run.world), [Intent]);
        run.until(&[(1, World::delete)], HOUR + 60).unwrap();
        assert_eq!(states(&run.world), [Revoked], "{}", run.story());
        assert_eq!(run.world.record().versions[0].basis, Some(RevocationBasis::NeverPublished));
        assert!(places(&run, "check_shared").is_empty(), "nobody can have its bytes: {}", run.story());
        assert_eq!(run.world.live_keys().count(), 0);
    }
}

/// The request of an attempt that was given up is late by an hour. Nobody has its bytes; it is found by its name.
#[test]
fn a_key_that_comes_after_it_was_given_up_is_a_stray() {
    let mut run = Run::new(World::naming());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    let request = World::request(run.world.record(), 1).unwrap();
    run.until(&[(1, World::delete)], HOUR + 60).unwrap();
    assert_eq!(states(&run.world), [Revoked], "{}", run.story());
    run.world.make(&request, 1);
    assert_eq!(run.world.live_keys().count(), 1);
    run.until(&[], 9 * HOUR).unwrap();
    assert_eq!(run.world.live_keys().count(), 0, "{}", run.story());
    assert!(run.world.ledger.is_none());
}

#[test]
fn an_id_that_a_deleted_key_has_is_given_up_and_the_next_version_has_another() {
    let mut run = Run::new(World::naming());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    let spent = id(&run, 1);
    let opened = |w: &mut World| {
        spend(w);
        w.provider.full = false;
    };
    run.until(&[(1, opened)], HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert!(id(&run, 1) == spent && id(&run, 2) != spent);
    let live: Vec<_> = run.world.live_keys().map(|key| Some(key.id.clone())).collect();
    assert_eq!(live, [id(&run, 2)]);
}

#[test]
fn a_key_that_was_delivered_before_it_was_known_everywhere_is_not_called_invalid_for_it() {
    let mut world = World::naming();
    world.edit(|key| {
        key.spec.validation.mode = ValidationMode::Advisory;
        key.spec.validation.interval = Some(crate::api::GoDuration::from_secs(60));
    });
    world.provider.spreading = std::time::Duration::from_secs(600);
    let mut run = after(world, 590);
    let health = |run: &Run| run.world.key.as_ref().unwrap().status.clone().unwrap().health.unwrap().state;
    assert_eq!((states(&run.world), health(&run).as_str()), (vec![Current], "Unknown"), "{}", run.story());
    run.until(&[], 1200).unwrap();
    assert_eq!(health(&run), "Valid", "{}", run.story());
    // Afterwards a refusal is one.
    let refuse = |w: &mut World| w.provider.answers = Some(crate::domain::health::Verdict::Rejected);
    run.until(&[(1200, refuse)], 1500).unwrap();
    assert_eq!(health(&run), "Invalid", "{}", run.story());
}
