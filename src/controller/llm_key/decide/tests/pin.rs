//! `spec.pinnedVersion`: versions and keys kept apart.

mod revoked;

use serde_json::json;

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::{World, every, facts};
use crate::api::{ConditionType, DesiredState, PAUSED, Reason, ValidationMode};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState::{
    Abandoned, Current, Intent, Overlap, Pending, Republished, Retained, Revoked,
};
use crate::domain::lifecycle::{Origin, RotationReason};
use crate::ledger::Version;

fn pin(run: &mut Run, version: Option<i32>) {
    run.world.edit(|key| key.spec.pinned_version = version);
}

fn burn(run: &mut Run, versions: &[i32]) {
    run.world.edit(|key| key.spec.revoked_versions = versions.to_vec());
}

fn version(run: &Run, number: i32) -> Version {
    run.world.record().version(number).unwrap().clone()
}

fn fingerprint(run: &Run, number: i32) -> String {
    version(run, number).key.unwrap().fingerprint
}

/// What the target holds, as a version's key.
fn carries(run: &Run, number: i32) -> bool {
    let target = run.world.target.as_ref().unwrap();
    facts(&target.bytes).fingerprint == fingerprint(run, number)
}

/// What status says of a version's pin.
fn told(run: &Run, number: i32) -> String {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    status.versions.iter().find(|v| v.version == number).unwrap().pin.clone().unwrap()
}

fn condition(run: &Run, kind: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    status.conditions.iter().find(|c| c.type_ == kind).unwrap().clone()
}

fn revocations(run: &Run) -> usize {
    run.world.provider.keys.iter().filter(|k| k.revoked.is_some()).count()
}

/// A minted key, rotated ten minutes after its creation.
fn in_overlap() -> Run {
    let mut run = after(World::minting(), 600);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run
}

/// Three keys that a person supplied one after another.
fn supplied_thrice() -> Run {
    let mut run = after(World::supplying("sk-supplied-1"), 600);
    for (at, bytes) in [(1200, "sk-supplied-2"), (1800, "sk-supplied-3")] {
        run.world.supply(bytes, Verdict::Valid);
        run.until(&[], at).unwrap();
    }
    assert_eq!(states(&run.world), [Retained, Retained, Current], "{}", run.story());
    run
}

#[test]
fn the_key_of_the_older_version_is_published_as_a_new_one_that_alone_answers_for_it() {
    let mut run = in_overlap();
    pin(&mut run, Some(1));
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Republished, Overlap, Current], "{}", run.story());
    let (first, third) = (version(&run, 1), version(&run, 3));
    assert_eq!(third.key, first.key);
    assert_eq!((&third.provider_key_id, &third.account), (&first.provider_key_id, &first.account));
    assert_eq!((third.origin, third.reason, third.key_of), (Origin::Minted, RotationReason::Pinned, Some(1)));
    assert!(first.sealed.is_none() && third.sealed.is_some() && carries(&run, 3));
    assert_eq!(run.world.provider.keys.len(), 2, "no key is made");
    // The key of version 2 goes through its overlap.
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Current], "{}", run.story());
    assert_eq!((ready(&run.world), revocations(&run)), ("True KeyValid".into(), 1));
    assert_eq!([1, 2, 3].map(|n| told(&run, n)), ["Possible", "Revoked", "Possible"]);
    // Both numbers of the key are the same wish.
    pin(&mut run, Some(3));
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Current]);
    // Without the pin the key is superseded, and revoked once.
    pin(&mut run, None);
    run.world.rotate("again");
    run.until(&[], 8 * 3600).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Revoked, Current], "{}", run.story());
    assert_eq!((run.world.live_keys().count(), revocations(&run)), (1, 2));
    assert_eq!(version(&run, 3).basis, Some(crate::domain::lifecycle::RevocationBasis::ProviderQuiet));
    // A key whose L4 was recorded is never published again.
    pin(&mut run, Some(1));
    run.until(&[], 9 * 3600).unwrap();
    assert_eq!(ready(&run.world), "False PinImpossible");
    assert_eq!(states(&run.world), [Republished, Revoked, Revoked, Current]);
}

#[test]
fn a_pin_of_the_key_in_use_writes_nothing_and_holds_what_would_be_due() {
    let mut world = World::minting();
    world.policy = every(24);
    let mut run = after(world, 600);
    pin(&mut run, Some(1));
    run.until(&[], 1200).unwrap();
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current], "True KeyValid".into()));
    assert!(!plan(&run.world).findings.iter().any(|f| f.condition == ConditionType::RotationDue));
    run.until(&[], 25 * 3600).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::Pinned));
    run.world.rotate("now");
    run.until(&[], 26 * 3600).unwrap();
    assert_eq!(states(&run.world), [Current]);
    assert_eq!(run.world.record().handled_rotate, None);
    assert_eq!(ready(&run.world), "True KeyValid");
    pin(&mut run, None);
    run.until(&[], 26 * 3600 + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(version(&run, 2).reason, RotationReason::Requested);
}

#[test]
fn after_the_pin_the_schedule_counts_from_the_publishing() {
    let mut world = World::minting();
    world.policy = every(24);
    let mut run = after(world, 24 * 3600 + 60);
    assert_eq!(states(&run.world), [Overlap, Current]);
    pin(&mut run, Some(1));
    run.until(&[], 24 * 3600 + 120).unwrap();
    let published = version(&run, 3).published_at.unwrap();
    pin(&mut run, None);
    run.until(&[], 47 * 3600).unwrap();
    let next = plan(&run.world).next_rotation.unwrap();
    assert_eq!(next, published + chrono::Duration::hours(24));
    assert_eq!(states(&run.world), [Republished, Revoked, Current], "{}", run.story());
}

#[test]
fn a_supplied_key_that_is_kept_is_published_again_and_the_source_waits() {
    let mut run = supplied_thrice();
    assert_eq!([1, 2, 3].map(|n| told(&run, n)), ["Possible"; 3]);
    pin(&mut run, Some(1));
    run.until(&[], 1900).unwrap();
    assert_eq!(states(&run.world), [Republished, Retained, Retained, Current], "{}", run.story());
    assert!(carries(&run, 1) && ready(&run.world) == "True KeyValid");
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::Pinned), "the source holds another");
    pin(&mut run, Some(2));
    run.until(&[], 2000).unwrap();
    assert!(carries(&run, 2), "{}", run.story());
    pin(&mut run, None);
    run.until(&[], 2100).unwrap();
    assert!(carries(&run, 3), "the source's value counts again: {}", run.story());
    assert_eq!(revocations(&run), 0);
}

#[test]
fn what_cannot_be_published_is_told_with_what_can() {
    // Revoked, unknown, refused, and given up before it was published.
    let mut run = in_overlap();
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current]);
    for number in [1, 7] {
        pin(&mut run, Some(number));
        run.until(&[], 3 * 3600 + 60 * i64::from(number)).unwrap();
        assert_eq!(ready(&run.world), "False PinImpossible");
        let plan = plan(&run.world);
        let stalled = plan.findings.iter().find(|f| f.condition == ConditionType::Stalled).unwrap();
        assert!(stalled.message.contains("Version 2 can be pinned"), "{}", stalled.message);
        assert_eq!(states(&run.world), [Revoked, Current]);
    }
    pin(&mut run, Some(2));
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid");

    let mut run = supplied_thrice();
    run.world.supply("sk-supplied-3", Verdict::Valid);
    run.world.provider.supplied.insert("sk-supplied-1".into(), Verdict::Rejected);
    pin(&mut run, Some(1));
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(ready(&run.world), "False PinImpossible");
    assert_eq!(states(&run.world), [Retained, Retained, Current], "nothing is written: {}", run.story());
    run.world.provider.supplied.insert("sk-supplied-1".into(), Verdict::Valid);
    run.until(&[], 5 * 3600).unwrap();
    assert!(carries(&run, 1) && ready(&run.world) == "True KeyValid", "{}", run.story());
}

#[test]
fn a_key_that_the_ledger_holds_no_more_cannot_be_pinned() {
    let mut world = World::supplying("sk-supplied-1");
    world.policy.retain_versions = 1;
    let mut run = after(world, 600);
    for (at, bytes) in [(1200, "sk-supplied-2"), (1800, "sk-supplied-3")] {
        run.world.supply(bytes, Verdict::Valid);
        run.until(&[], at).unwrap();
    }
    assert_eq!([1, 2, 3].map(|n| told(&run, n)), ["Forgotten", "Possible", "Possible"]);
    pin(&mut run, Some(1));
    run.until(&[], 2400).unwrap();
    assert_eq!(ready(&run.world), "False PinImpossible");
}

#[test]
fn a_rotation_under_way_is_given_up_and_asks_again_after_the_pin() {
    let mut run = after(World::minting(), 600);
    run.world.provider.refuses.insert("proj_1".into());
    run.world.rotate("now");
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Current, Intent]);
    pin(&mut run, Some(1));
    run.until(&[], 900).unwrap();
    assert_eq!(states(&run.world), [Current, Abandoned], "{}", run.story());
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::Pinned));

    let mut run = after(World::minting(), 600);
    run.world.provider.spreading = std::time::Duration::from_secs(600);
    run.world.rotate("now");
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Current, Pending], "{}", run.story());
    pin(&mut run, Some(1));
    run.until(&[], 900).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked], "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
    assert_eq!(run.world.record().handled_rotate, None, "the token asks again");
    run.world.provider.spreading = std::time::Duration::ZERO;
    pin(&mut run, None);
    run.until(&[], 1200).unwrap();
    assert_eq!(states(&run.world), [Overlap, Revoked, Current], "{}", run.story());
}

#[test]
fn a_pin_that_is_taken_out_on_the_way_leaves_the_key_with_the_older_version() {
    for then in [None, Some(2)] {
        let mut run = in_overlap();
        // The ledger has the new version; the process dies before the Secret has.
        let effects = run.effects;
        run.faults.insert(effects + 3, super::driver::Fault::CrashBefore);
        pin(&mut run, Some(1));
        run.until(&[], 661).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current, Pending], "{}", run.story());
        pin(&mut run, then);
        run.until(&[], 700).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current, Abandoned], "{}", run.story());
        assert!(carries(&run, 2) && version(&run, 3).sealed.is_none());
        run.until(&[], 4 * 3600).unwrap();
        assert_eq!(states(&run.world), [Revoked, Current, Abandoned], "{}", run.story());
        assert_eq!(revocations(&run), 1);
    }
}

#[test]
fn an_overlap_does_not_end_while_its_key_is_pinned() {
    let mut run = in_overlap();
    run.world.policy.problem = Some((Reason::PolicyNotFound, "it does not exist".into()));
    pin(&mut run, Some(1));
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run.world.policy.problem = None;
    run.world.provider.answers = Some(Verdict::ProviderDown);
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(condition(&run, "OverlapActive").reason, "Pinned");
    run.world.provider.answers = None;
    run.until(&[], 3 * 3600 + 60).unwrap();
    assert_eq!(states(&run.world), [Republished, Overlap, Current], "{}", run.story());
}

#[test]
fn a_pause_holds_a_pin_like_any_other_beginning() {
    let mut run = in_overlap();
    run.world.annotate(PAUSED, "true");
    pin(&mut run, Some(1));
    run.until(&[], 9 * 3600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::Paused));
    run.world.annotate(PAUSED, "false");
    run.until(&[], 9 * 3600 + 60).unwrap();
    assert_eq!(states(&run.world), [Republished, Overlap, Current], "{}", run.story());
}

#[test]
fn a_pinned_key_that_is_refused_is_not_replaced() {
    let mut world = World::minting();
    world.policy.replace_invalid = true;
    let mut run = after(world, 600);
    pin(&mut run, Some(1));
    run.world.provider.answers = Some(Verdict::Rejected);
    run.until(&[], 20 * 3600).unwrap();
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current], "False KeyInvalid".into()));
    let stalled = condition(&run, "Stalled");
    assert!(stalled.message.contains("spec.pinnedVersion"), "{}", stalled.message);
    assert_eq!(condition(&run, "RotationDue").reason, "Pinned");
    pin(&mut run, None);
    run.until(&[], 20 * 3600 + 60).unwrap();
    assert_eq!(states(&run.world), [Current, Pending], "{}", run.story());
}

#[test]
fn a_first_version_is_made_whatever_is_pinned() {
    let mut world = World::minting();
    world.edit(|key| key.spec.pinned_version = Some(1));
    let run = after(world, 60);
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current], "True KeyValid".into()));
    let mut world = World::supplying("sk-supplied-1");
    world.edit(|key| key.spec.pinned_version = Some(5));
    let run = after(world, 60);
    assert_eq!(ready(&run.world), "False PinImpossible");
    assert!(carries(&run, 1));
}

#[test]
fn without_checks_the_key_is_published_at_once() {
    let mut world = World::minting();
    world.edit(|key| key.spec.validation.mode = ValidationMode::Disabled);
    let mut run = after(world, 600);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    pin(&mut run, Some(1));
    run.until(&[], 665).unwrap();
    assert_eq!(states(&run.world), [Republished, Overlap, Current], "{}", run.story());
}

#[test]
fn a_secret_that_was_set_back_by_hand_is_no_earlier_publishing() {
    let mut run = in_overlap();
    let first = run.world.provider.keys[0].bytes.clone();
    // Another hand puts the older key into the Secret; the write that follows changes nothing, so it bears no new time.
    let target = run.world.target.as_mut().unwrap();
    target.bytes.clone_from(&first);
    let written = target.written;
    run.until(&[], 3600).unwrap();
    let version = Version { reason: RotationReason::Pinned, ..version(&run, 1) };
    let late = Version { created_at: run.world.now, ..version.clone() };
    let published = super::super::pin::published;
    assert_eq!(published(Some(&late), written, run.world.now), run.world.now);
    assert_eq!(published(Some(&version), written, run.world.now), written);
}

#[test]
fn disabled_is_told_and_changes_nothing() {
    let mut world = World::minting();
    world.policy = every(24);
    world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Disabled")).unwrap());
    let mut run = after(world, 600);
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current], "False NotSupported".into()));
    run.until(&[], 25 * 3600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "the schedule goes on: {}", run.story());
    run.world.edit(|key| key.spec.desired_state = DesiredState::Active);
    run.until(&[], 26 * 3600).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid");
}

#[test]
fn what_the_secret_has_is_replaced_before_it_is_revoked() {
    let mut run = in_overlap();
    // The Secret has the pinned key; the process dies before the ledger says so.
    let effects = run.effects;
    run.faults.insert(effects + 4, super::driver::Fault::CrashBefore);
    pin(&mut run, Some(1));
    run.until(&[], 661).unwrap();
    assert_eq!((states(&run.world), carries(&run, 3)), (vec![Overlap, Current, Pending], true));
    run.world.edit(|key| {
        key.spec.pinned_version = None;
        key.spec.revoked_versions = vec![1];
    });
    run.until(&[], 900).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Republished, Overlap, Revoked, Current], "{}", run.story());
}

#[test]
fn a_pinned_key_and_the_sources_are_each_asked_at_their_own_pace() {
    let mut run = supplied_thrice();
    run.world.provider.supplied.insert("sk-supplied-1".into(), Verdict::Rejected);
    run.world.supply("sk-supplied-4", Verdict::Rejected);
    run.world.edit(|key| {
        key.spec.pinned_version = Some(1);
        key.spec.revoked_versions = vec![3];
    });
    let before = run.effects;
    run.until(&[], 1800 + 3600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert!(run.effects - before < 60, "{}", run.story());
    assert!(carries(&run, 3));
    run.world.supply("sk-supplied-4", Verdict::Valid);
    run.until(&[], 1800 + 7200).unwrap();
    assert_eq!(run.world.record().current().unwrap().version, 4, "{}", run.story());
    assert_eq!(ready(&run.world), "False PinImpossible");
    run.world.provider.supplied.insert("sk-supplied-1".into(), Verdict::Valid);
    run.until(&[], 1800 + 10_800).unwrap();
    assert!(carries(&run, 1), "{}", run.story());
}

#[test]
fn a_pinned_key_that_is_refused_on_the_way_stays_with_the_older_version() {
    let mut run = in_overlap();
    let effects = run.effects;
    run.faults.insert(effects + 3, super::driver::Fault::CrashBefore);
    pin(&mut run, Some(1));
    run.until(&[], 661).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current, Pending]);
    let first = run.world.provider.keys[0].bytes.clone();
    run.world.provider.supplied.insert(first, Verdict::Rejected);
    run.until(&[], 3 * 3600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Overlap, Current, Abandoned], "{}", run.story());
    assert_eq!((ready(&run.world).as_str(), revocations(&run)), ("False PinImpossible", 0));
}

#[test]
fn two_versions_in_their_overlap_keep_one_key() {
    let mut run = in_overlap();
    let ledger = run.world.ledger.as_mut().unwrap();
    let twin = Version { version: 3, ..ledger.record.versions[0].clone() };
    ledger.record.versions.push(twin);
    run.until(&[], 9 * 3600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Overlap, Current, Overlap], "{}", run.story());
    assert_eq!(condition(&run, "OverlapActive").reason, "KeyShared");
}
