//! Keys in two slots that are made anew in turn: to make one is to end another, and a lost answer is told by the slot.

use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::World;
use crate::api::DesiredState;
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState::{Abandoned, Current, Intent, Overlap, Revoked};
use crate::domain::lifecycle::{RevocationBasis, RotationReason};

const HOUR: i64 = 3600;

fn slots(world: &World) -> Vec<&str> {
    world.record().versions.iter().filter_map(|v| v.slot.as_ref()).map(|slot| slot.name.as_str()).collect()
}

fn places(run: &Run, name: &str) -> Vec<usize> {
    (1..).zip(&run.names).filter(|(_, n)| **n == name).map(|(place, _)| place).collect()
}

fn desire(world: &mut World, state: DesiredState) {
    world.edit(|key| key.spec.desired_state = state);
}

fn told(run: &Run, condition: &str) -> (String, String, String) {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    let found = status.conditions.iter().find(|c| c.type_ == condition).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn the_second_slot_comes_first_and_the_given_key_of_the_other_works_on() {
    let run = after(World::slotting(), HOUR);
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert_eq!(slots(&run.world), ["Key2"]);
    assert_eq!(run.world.provider.slots["Key1"], "sk-given-Key1");
    assert_eq!(run.world.target.as_ref().map(|t| &t.bytes), Some(&run.world.provider.slots["Key2"]));
    let reads = ["take_lease", "read_slots", "create_ledger", "take_lease", "mint"];
    let order: Vec<_> = run.names.iter().filter(|name| reads.contains(name)).copied().collect();
    assert_eq!(order, reads, "{}", run.story());
    assert!(places(&run, "find_strays").is_empty() && places(&run, "look_up").is_empty());
}

#[test]
fn slots_take_turns_and_none_is_made_anew_before_its_key_was_revoked() {
    let mut run = after(World::slotting(), HOUR);
    run.until(&[(HOUR, |w| w.rotate("1"))], 4 * HOUR).unwrap();
    assert_eq!(
        (states(&run.world), slots(&run.world)),
        (vec![Revoked, Current], vec!["Key2", "Key1"]),
        "{}",
        run.story()
    );
    run.until(&[(4 * HOUR, |w| w.rotate("2")), (4 * HOUR + 60, |w| w.rotate("3"))], 4 * HOUR + 600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Overlap, Current], "{}", run.story());
    assert_eq!(told(&run, "RotationDue").1, "OverlapActive");
    run.until(&[], 12 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Revoked, Current], "{}", run.story());
    assert_eq!(slots(&run.world), ["Key2", "Key1", "Key2", "Key1"]);
    assert_eq!(run.world.live_keys().count(), 1);
    let ids: std::collections::BTreeSet<_> =
        run.world.record().versions.iter().map(|v| &v.provider_key_id).collect();
    assert_eq!(ids.len(), 4, "the same slot comes again under another id");
}

#[test]
fn a_lost_answer_leads_to_the_key_that_the_slot_has() {
    let [mint] = places(&after(World::slotting(), HOUR), "mint")[..] else { panic!("one mint") };
    for fault in [Fault::ReplyLost, Fault::CrashAfter] {
        let mut run = Run::faulty(World::slotting(), &[(mint, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(states(&run.world), [Current], "{fault:?}: {}", run.story());
        assert_eq!(places(&run, "mint"), [mint], "it is found, not made: {}", run.story());
        assert_eq!(places(&run, "look_up").len(), 1);
        assert_eq!(run.world.live_keys().count(), 1);
    }
    for fault in [Fault::NotDone, Fault::CrashBefore] {
        let mut run = Run::faulty(World::slotting(), &[(mint, fault)]);
        run.until(&[], HOUR).unwrap();
        assert_eq!(states(&run.world), [Current], "{fault:?}: {}", run.story());
        assert_eq!(run.world.provider.keys.len(), 1);
    }
}

/// A copy of the request that comes after the slot was read ends what was read: the provider refuses it, and it is never delivered.
#[test]
fn a_copy_that_comes_late_costs_a_key_that_nobody_had() {
    let [mint] = places(&after(World::slotting(), HOUR), "mint")[..] else { panic!("one mint") };
    let mut run = Run::faulty(World::slotting(), &[(mint, Fault::Twice)]);
    run.until(&[], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(slots(&run.world), ["Key2", "Key2"], "what was given goes on");
    assert_eq!(run.world.record().versions[0].basis, Some(RevocationBasis::NeverPublished));
    let delivered = run.world.target.as_ref().unwrap();
    assert!(run.world.verdict(&delivered.bytes).accepts());
}

#[test]
fn what_is_given_up_is_no_call_and_the_next_one_ends_it() {
    let mint = places(&after(World::slotting(), HOUR), "mint")[0];
    let mut run = Run::faulty(World::slotting(), &[(mint, Fault::ReplyLost)]);
    run.until(&[], 1).unwrap();
    assert_eq!(states(&run.world), [Intent]);
    let pooled: fn(&mut World) = |w| {
        w.fill("a", "sk-pool-a1", Verdict::Valid);
        w.edit(|key| key.spec.source = serde_json::from_value(super::world::pool(&["a"])).unwrap());
    };
    run.until(&[(1, pooled)], HOUR).unwrap();
    assert_eq!(states(&run.world), [Abandoned, Current], "{}", run.story());
    assert!(places(&run, "revoke").is_empty() && places(&run, "revoke_stray").is_empty());
    assert_eq!(run.world.holder, None, "the account is free again");
}

#[test]
fn everything_is_revoked_at_once_and_comes_back() {
    let mut run = after(World::slotting(), HOUR);
    run.until(&[(HOUR, |w| w.rotate("1")), (HOUR + 60, |w| desire(w, DesiredState::Revoked))], 2 * HOUR)
        .unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked], "{}", run.story());
    assert!(run.world.target.is_none() && run.world.live_keys().count() == 0);
    run.until(&[(2 * HOUR, |w| desire(w, DesiredState::Active))], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
}

#[test]
fn a_slot_that_another_hand_makes_anew_is_replaced_where_the_policy_says_so() {
    let mut world = World::slotting();
    world.policy.replace_invalid = true;
    // A key that stops while nobody asks is Ready until it is asked about.
    world.provider.spreading = std::time::Duration::from_secs(1);
    let mut run = after(world, HOUR);
    run.until(&[(HOUR, |w| w.renew_by_hand("Key2"))], 30 * HOUR).unwrap();
    let last = run.world.record().current().unwrap();
    assert_eq!(last.reason, RotationReason::Invalid, "{}", run.story());
    assert!(run.world.verdict(&run.world.target.as_ref().unwrap().bytes).accepts());
}

#[test]
fn a_compromised_key_waits_for_a_word_on_the_older_one_that_has_the_other_slot() {
    let mut run = after(World::slotting(), HOUR);
    run.until(&[(HOUR, |w| w.rotate("1"))], HOUR + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    run.until(&[(HOUR + 60, |w| w.edit(|key| key.spec.revoked_versions = vec![2]))], HOUR + 300).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    let (_, reason, message) = told(&run, "RotationDue");
    assert_eq!(reason, "SlotsTaken");
    assert!(message.contains("version 1") && message.contains("version 2"), "{message}");
    run.until(&[(HOUR + 300, |w| w.edit(|key| key.spec.revoked_versions = vec![1, 2]))], HOUR + 1800)
        .unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
}

#[test]
fn a_slot_whose_key_another_llmkey_delivers_is_left_alone() {
    let mut world = World::slotting();
    world.elsewhere.insert(super::world::facts("sk-given-Key2").fingerprint);
    let run = after(world, HOUR);
    assert_eq!(slots(&run.world), ["Key1"], "{}", run.story());
    let mut both = World::slotting();
    for slot in ["Key1", "Key2"] {
        both.elsewhere.insert(super::world::facts(&format!("sk-given-{slot}")).fingerprint);
    }
    let run = after(both, HOUR);
    assert!(run.world.ledger.is_none() && run.world.provider.keys.is_empty());
    assert_eq!(told(&run, "Stalled").1, "SlotsTaken");
}

#[test]
fn there_is_no_room_for_a_spare() {
    let mut world = World::slotting();
    world.policy.spares = 1;
    let run = after(world, HOUR);
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    let (_, reason, message) = told(&run, "RotationDue");
    assert_eq!(reason, "NotDue");
    assert!(message.contains("no room"), "{message}");
}
