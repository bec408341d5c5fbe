//! An account that one LLMKey has for itself.

use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::{Holder, World};
use crate::domain::lifecycle::VersionState::{Current, Revoked};

const HOUR: i64 = 3600;

fn alone() -> World {
    let mut world = World::minting();
    world.provider.for_one = true;
    world
}

fn place(run: &Run, name: &str) -> usize {
    run.names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name}: {}", run.story())) + 1
}

#[test]
fn the_account_is_taken_before_there_is_a_ledger_and_confirmed_before_there_is_a_key() {
    let run = after(alone(), HOUR);
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    let steps = ["take_lease", "create_ledger", "take_lease", "mint"];
    let told: Vec<_> = run.names.iter().filter(|name| steps.contains(name)).copied().collect();
    assert_eq!(told, steps);
    assert_eq!(run.world.holder, Some(Holder::Us(Some(run.world.ledger.as_ref().unwrap().uid.clone()))));
}

#[test]
fn at_another_ones_account_nothing_is_called_and_nothing_is_written() {
    let mut run = after(World { holder: Some(Holder::Another), ..alone() }, HOUR);
    assert!(run.world.ledger.is_none() && run.world.provider.keys.is_empty());
    let stalled = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    let stalled = stalled.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "AccountLeased"));
    assert!(stalled.message.contains("team-b/other"), "{}", stalled.message);
    // It is looked at again by itself when that one is done.
    run.until(&[(HOUR, |w| w.holder = None)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current], "{}", run.story());
}

#[test]
fn every_fault_around_the_lease_leaves_one_key_and_one_holder() {
    for name in ["take_lease", "create_ledger", "mint"] {
        let at = place(&after(alone(), HOUR), name);
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost, Fault::NotDone] {
            let mut run = Run::faulty(alone(), &[(at, fault)]);
            run.until(&[], HOUR)
                .unwrap_or_else(|broken| panic!("{name} {fault:?}: {broken}\n{}", run.story()));
            assert_eq!(states(&run.world), [Current], "{name} {fault:?}\n{}", run.story());
            assert_eq!(run.world.live_keys().count(), 1);
        }
    }
}

#[test]
fn a_ledger_that_is_done_gives_the_account_back_before_it_goes() {
    let mut run = after(alone(), HOUR);
    run.until(&[(HOUR, World::delete)], 9 * HOUR).unwrap();
    assert!(run.world.ledger.is_none() && run.world.holder.is_none(), "{}", run.story());
    assert!(place(&run, "return_lease") > place(&run, "revoke"));
    assert_eq!(run.world.live_keys().count(), 0);
    let at = place(&run, "return_lease");
    let mut killed = Run::faulty(alone(), &[(at, Fault::CrashAfter)]);
    killed.until(&[(HOUR, World::delete)], 9 * HOUR).unwrap();
    assert!(killed.world.ledger.is_none() && killed.world.holder.is_none(), "{}", killed.story());
}

#[test]
fn who_makes_no_keys_there_any_more_gives_the_account_back() {
    let mut run = after(alone(), HOUR);
    let pooled = |w: &mut World| {
        w.fill("a", "sk-pool-a1", crate::domain::health::Verdict::Valid);
        w.edit(|key| key.spec.source = serde_json::from_value(super::world::pool(&["a"])).unwrap());
    };
    run.until(&[(HOUR, pooled)], 9 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(run.world.holder, None);
}
