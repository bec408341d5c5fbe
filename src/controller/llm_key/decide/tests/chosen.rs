//! Keys that are chosen here: sealed before they are made, one for all attempts, and revoked by their id when they are given up.

use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::World;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{Current, Intent, Revoked};

const HOUR: i64 = 3600;

/// Positions of an effect in the story, from 1.
fn places(run: &Run, name: &str) -> Vec<usize> {
    (1..).zip(&run.names).filter(|(_, n)| **n == name).map(|(place, _)| place).collect()
}

fn sealed(run: &Run, version: i32) -> Option<String> {
    World::bytes_of(run.world.record(), version)
}

#[test]
fn the_key_is_sealed_before_it_is_made() {
    let mut run = Run::new(World::choosing());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    assert_eq!(states(&run.world), [Intent]);
    let version = &run.world.record().versions[0];
    assert!(version.provider_key_id.is_some() && version.key.is_some());
    let chosen = sealed(&run, 1).unwrap();
    assert!(run.world.provider.keys.is_empty());
    // Tried again and again, it is the same one.
    run.until(&[], 300).unwrap();
    assert!(places(&run, "mint").len() > 1);
    assert_eq!(sealed(&run, 1), Some(chosen.clone()));
    run.until(&[(300, |w| w.provider.full = false)], 600).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert_eq!(run.world.provider.keys.iter().map(|k| &k.bytes).collect::<Vec<_>>(), [&chosen]);
}

#[test]
fn a_lost_answer_leads_to_the_very_key_that_was_made() {
    let undisturbed = after(World::choosing(), HOUR);
    let [mint] = places(&undisturbed, "mint")[..] else { panic!("{}", undisturbed.story()) };
    for fault in [Fault::ReplyLost, Fault::CrashAfter, Fault::Twice, Fault::Another] {
        let mut run = Run::faulty(World::choosing(), &[(mint, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(states(&run.world), [Current], "{}", run.story());
        let [key] = &run.world.provider.keys[..] else { panic!("{fault:?}: {}", run.story()) };
        assert_eq!(key.revoked, None);
        assert_eq!(run.world.target.as_ref().map(|t| &t.bytes), Some(&key.bytes));
        if fault != Fault::Twice && fault != Fault::Another {
            assert_eq!(places(&run, "mint"), [mint], "it is found, not made: {}", run.story());
            assert_eq!(places(&run, "look_up").len(), 1);
        }
    }
}

#[test]
fn another_attempt_with_the_same_key_costs_no_budget() {
    let mut run = Run::new(World::choosing());
    run.world.provider.full = true;
    run.until(&[], 600).unwrap();
    assert!(places(&run, "mint").len() > 2);
    assert_eq!(run.world.record().mints.len(), 1);
    // Nor does it give back what keys cost that were made.
    run.until(&[(600, |w| w.provider.full = false)], 1000).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    let again = |w: &mut World| {
        w.provider.full = true;
        w.rotate("1");
    };
    run.until(&[(1000, again)], 1500).unwrap();
    assert_eq!(run.world.record().mints.len(), 2, "{}", run.story());
}

#[test]
fn what_is_given_up_is_revoked_by_its_id_whether_it_was_made_or_not() {
    let mint = places(&after(World::choosing(), HOUR), "mint")[0];
    for fault in [Fault::NotDone, Fault::ReplyLost] {
        let mut run = Run::faulty(World::choosing(), &[(mint, fault)]);
        run.until(&[], 1).unwrap();
        assert_eq!(states(&run.world), [Intent]);
        let pooled = |w: &mut World| {
            w.fill("a", "sk-pool-a1", crate::domain::health::Verdict::Valid);
            w.edit(|key| key.spec.source = serde_json::from_value(super::world::pool(&["a"])).unwrap());
        };
        run.until(&[(1, pooled)], HOUR).unwrap();
        assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
        assert_eq!(run.world.record().versions[0].basis, Some(RevocationBasis::NeverPublished));
        assert!(places(&run, "revoke_stray").is_empty(), "{}", run.story());
        assert_eq!(run.world.live_keys().count(), 0);
    }
}

/// The request of an attempt that was given up is late by an hour. Nobody has its bytes; it is found by its name.
#[test]
fn a_key_that_comes_after_it_was_given_up_is_a_stray() {
    let mut run = Run::new(World::choosing());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    let request = World::request(run.world.record(), 1).unwrap();
    // The grace, and a little more.
    run.until(&[(1, World::delete)], HOUR + 60).unwrap();
    assert_eq!(states(&run.world), [Revoked], "{}", run.story());
    run.world.make(&request, 1);
    assert_eq!(run.world.live_keys().count(), 1);
    run.until(&[], 9 * HOUR).unwrap();
    assert_eq!(run.world.live_keys().count(), 0, "{}", run.story());
    assert!(run.world.ledger.is_none());
}

#[test]
fn an_attempt_that_the_provider_refuses_is_made_again_with_the_same_key() {
    let mut run = Run::new(World::choosing());
    run.world.provider.refuses.insert("proj_1".into());
    run.until(&[], 1).unwrap();
    // An earlier attempt of it may still come.
    let chosen = sealed(&run, 1);
    assert!(chosen.is_some());
    run.until(&[(1, |w| w.provider.refuses.clear())], 600).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert_eq!(run.world.provider.keys.iter().map(|k| Some(&k.bytes)).collect::<Vec<_>>(), [chosen.as_ref()]);
}

#[test]
fn in_another_project_another_key_is_made() {
    let mut run = Run::new(World::choosing());
    run.world.provider.full = true;
    run.until(&[], 1).unwrap();
    let chosen = sealed(&run, 1);
    let moved = |w: &mut World| {
        w.project = "proj_2".into();
        w.provider.full = false;
    };
    run.until(&[(1, moved)], HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    let [key] = &run.world.provider.keys[..] else { panic!("{}", run.story()) };
    assert!(key.project == "proj_2" && Some(&key.bytes) != chosen.as_ref());
}
