//! `spec.revokedVersions`.

use serde_json::json;

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::World;
use crate::api::{ConditionType, OnReplacementFailure, PAUSED, Reason};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState::{Current, Intent, Overlap, Retained, Revoked};
use crate::domain::lifecycle::{RevocationBasis, RotationReason};

fn burn(run: &mut Run, versions: &[i32]) {
    run.world.edit(|key| key.spec.revoked_versions = versions.to_vec());
}

/// A minted key, ten minutes old.
fn delivered() -> Run {
    let run = after(World::minting(), 600);
    assert_eq!(states(&run.world), [Current]);
    run
}

#[test]
fn what_is_in_use_is_replaced_first_and_then_revoked_without_overlap() {
    let mut run = delivered();
    burn(&mut run, &[1]);
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    let record = run.world.record();
    assert_eq!(record.version(1).unwrap().basis, Some(RevocationBasis::Explicit));
    assert_eq!(record.version(2).unwrap().reason, RotationReason::BreakGlass);
    assert_eq!((ready(&run.world), run.world.live_keys().count()), ("True KeyValid".into(), 1));
    run.until(&[], 7200).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "a list that was carried out asks for nothing more");
}

#[test]
fn neither_an_overlap_nor_a_pause_holds_it() {
    let mut run = delivered();
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run.world.edit(|key| {
        key.metadata.annotations.get_or_insert_default().insert(PAUSED.into(), "true".into());
    });
    burn(&mut run, &[2]);
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Revoked, Current], "the other overlap goes on: {}", run.story());
    burn(&mut run, &[1, 2]);
    run.until(&[], 730).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
}

#[test]
fn no_listed_number_is_ever_given_to_a_version() {
    let mut run = delivered();
    burn(&mut run, &[7]);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    let numbers: Vec<i32> = run.world.record().versions.iter().map(|v| v.version).collect();
    assert_eq!(numbers, [1, 8]);
    let mut world = World::minting();
    world.edit(|key| key.spec.revoked_versions = vec![3, 2]);
    let first = after(world, 60).world.record().versions[0].clone();
    assert_eq!((first.version, first.state), (4, Current));
    let mut world = World::supplying("sk-supplied-1");
    world.edit(|key| key.spec.revoked_versions = vec![1]);
    let run = after(world, 60);
    assert_eq!(run.world.record().versions[0].version, 2);
    assert_eq!(ready(&run.world), "True KeyValid", "{}", run.story());
}

#[test]
fn without_a_replacement_it_holds_or_goes_as_the_spec_says() {
    for (failure, states_then, ready_then) in [
        (OnReplacementFailure::Hold, [Current, Intent], "True KeyValid"),
        (OnReplacementFailure::RevokeAnyway, [Revoked, Intent], "Unknown MintFailed"),
    ] {
        let mut run = delivered();
        run.world.provider.refuses.insert("proj_1".into());
        run.world.edit(|key| key.spec.on_replacement_failure = Some(failure));
        burn(&mut run, &[1]);
        run.until(&[], 600 + 3500).unwrap();
        assert_eq!(states(&run.world), [Current, Intent], "within the time-out: {}", run.story());
        assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::RotationFailed));
        run.until(&[], 600 + 3800).unwrap();
        assert_eq!(states(&run.world), states_then, "{failure:?} {}", run.story());
        assert_eq!(ready(&run.world), ready_then, "{failure:?}");
        run.world.provider.refuses.clear();
        run.until(&[], 600 + 7200).unwrap();
        assert_eq!(states(&run.world), [Revoked, Current], "{failure:?} {}", run.story());
        assert_eq!((ready(&run.world), run.world.live_keys().count()), ("True KeyValid".into(), 1));
    }
}

#[test]
fn a_supplied_key_must_be_replaced_and_deleted_by_a_person() {
    let mut run = after(World::supplying("sk-supplied-1"), 600);
    burn(&mut run, &[1]);
    run.until(&[], 660).unwrap();
    assert_eq!(ready(&run.world), "False NotSupported");
    assert!(says(&plan(&run.world), ConditionType::Stalled, Reason::NotSupported));
    run.world.supply("sk-supplied-2", Verdict::Valid);
    run.until(&[], 1200).unwrap();
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Retained, Current], "True KeyValid".into()));
}

#[test]
fn a_version_on_its_way_is_given_up_and_leaves_no_key() {
    let mut world = World::minting();
    world.provider.refuses.insert("proj_1".into());
    let mut run = Run::new(world);
    run.until(&[], 60).unwrap();
    assert_eq!(states(&run.world), [Intent]);
    run.world.provider.refuses.clear();
    burn(&mut run, &[1]);
    run.until(&[], 1200).unwrap();
    let record = run.world.record();
    assert_eq!(record.versions.last().map(|v| (v.version, v.state)), Some((2, Current)), "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
    assert_eq!(serde_json::to_value(record.versions[0].state).unwrap(), json!("Abandoned"));
}

#[test]
fn a_rotation_whose_version_is_listed_before_it_is_delivered_is_asked_for_again() {
    let mut run = delivered();
    run.world.provider.refuses.insert("proj_1".into());
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Current, Intent]);
    run.world.provider.refuses.clear();
    burn(&mut run, &[2]);
    run.until(&[], 2400).unwrap();
    let record = run.world.record();
    let newest = record.versions.last().map(|v| (v.version, v.state, v.reason));
    assert_eq!(newest, Some((3, Current, RotationReason::Requested)), "{}", run.story());
    assert_eq!(record.handled_rotate.as_deref(), Some("now"));
}
