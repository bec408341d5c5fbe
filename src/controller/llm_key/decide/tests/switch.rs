//! `desiredState: Disabled` at a provider that can switch keys off.

use super::deliver::{after, ready, states};
use super::driver::Run;
use super::world::{World, every};
use crate::api::DesiredState;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Revoked};

const HOUR: i64 = 3600;

fn switching() -> World {
    let mut world = World::minting();
    world.provider.switches = true;
    world
}

fn desire(run: &mut Run, state: DesiredState) {
    run.world.edit(|key| key.spec.desired_state = state);
}

fn off(run: &Run) -> usize {
    run.world.provider.off.len()
}

#[test]
fn all_keys_are_off_and_nothing_is_made_checked_or_revoked_until_they_are_on_again() {
    let mut world = switching();
    world.policy = every(24);
    let mut run = after(world, 25 * HOUR);
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    desire(&mut run, DesiredState::Disabled);
    run.until(&[], 26 * HOUR).unwrap();
    assert_eq!((off(&run), ready(&run.world)), (2, "False SwitchedOff".into()), "{}", run.story());
    let (calls, writes) = (run.effects, run.world.history.writes);
    run.world.rotate("now");
    run.until(&[], 100 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert!(run.effects <= calls + 1 && run.world.history.writes <= writes + 1, "{}", run.story());

    desire(&mut run, DesiredState::Active);
    run.until(&[], 101 * HOUR).unwrap();
    assert_eq!((off(&run), ready(&run.world)), (0, "True KeyValid".into()), "{}", run.story());
    run.until(&[], 160 * HOUR).unwrap();
    assert!(run.world.record().versions.len() > 2, "rotations go on: {}", run.story());
}

#[test]
fn a_restart_while_the_keys_are_off_replaces_none() {
    let mut run = after(switching(), 600);
    run.world.policy.replace_invalid = true;
    desire(&mut run, DesiredState::Disabled);
    run.until(&[], 1200).unwrap();
    let mut next = Run::new(run.world.clone());
    next.until(&[], 5 * HOUR).unwrap();
    assert_eq!((states(&next.world), off(&next)), (vec![Current], 1), "{}", next.story());
    desire(&mut next, DesiredState::Active);
    next.until(&[], 6 * HOUR).unwrap();
    assert_eq!(ready(&next.world), "True KeyValid", "{}", next.story());
    assert_eq!(states(&next.world), [Current]);
}

#[test]
fn disabled_from_the_beginning_makes_no_key() {
    let mut world = switching();
    world.edit(|key| key.spec.desired_state = DesiredState::Disabled);
    let mut run = after(world, HOUR);
    assert_eq!((run.world.live_keys().count(), ready(&run.world)), (0, "False SwitchedOff".into()));
    desire(&mut run, DesiredState::Active);
    run.until(&[], 2 * HOUR).unwrap();
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current], "True KeyValid".into()));
}

#[test]
fn keys_that_are_off_are_revoked_by_name() {
    let mut run = after(switching(), 600);
    desire(&mut run, DesiredState::Disabled);
    run.until(&[], 1200).unwrap();
    desire(&mut run, DesiredState::Revoked);
    run.until(&[], HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked], "{}", run.story());
}

#[test]
fn a_listed_key_is_replaced_and_revoked_also_while_all_are_to_be_off() {
    let mut run = after(switching(), 600);
    desire(&mut run, DesiredState::Disabled);
    run.until(&[], 1200).unwrap();
    // The new key is accepted only after a while: until then it is no key that is off.
    run.world.provider.spreading = std::time::Duration::from_secs(300);
    run.world.edit(|key| key.spec.revoked_versions = vec![1]);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!((states(&run.world), off(&run)), (vec![Revoked, Current], 2), "{}", run.story());
    assert_eq!(ready(&run.world), "False SwitchedOff");
}
