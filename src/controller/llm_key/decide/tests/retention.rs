//! The policy's `retention`.

use super::deliver::{after, plan, states};
use super::driver::Run;
use super::world::{World, at, hours};
use crate::api::{PAUSED, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{LedgerView, Look, Memory};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState::{Current, Retained};
use crate::ledger::Summary;

const DAY: i64 = 24 * 3600;

/// Five supplied keys, a day after another.
fn supplied(retain: impl FnOnce(&mut World)) -> Run {
    let mut world = World::supplying("sk-supplied-1");
    retain(&mut world);
    let mut run = after(world, DAY);
    for n in 2..=5 {
        run.world.supply(&format!("sk-supplied-{n}"), Verdict::Valid);
        // Whoever changes the source is heard at once.
        run.until(&[], i64::from(n) * DAY).unwrap();
    }
    assert_eq!(states(&run.world), [Retained, Retained, Retained, Retained, Current], "{}", run.story());
    run
}

fn sealed(run: &Run) -> Vec<i32> {
    run.world.record().versions.iter().filter(|v| v.sealed.is_some()).map(|v| v.version).collect()
}

#[test]
fn so_many_superseded_keys_stay_sealed() {
    assert_eq!(sealed(&supplied(|_| ())), [2, 3, 4, 5]);
    assert_eq!(sealed(&supplied(|w| w.policy.retain_versions = 1)), [4, 5]);
}

#[test]
fn and_so_long_with_one_write_when_the_time_is_over() {
    let mut run = supplied(|w| {
        w.policy.retain_versions = 20;
        w.policy.retain_for = hours(10 * 24);
    });
    assert_eq!(sealed(&run), [1, 2, 3, 4, 5]);
    let (status, writes) = (run.world.key.as_ref().unwrap().status.clone(), run.world.history.writes);
    run.until(&[], 10 * DAY).unwrap();
    assert_eq!(run.world.history.writes, writes, "nothing is due yet: {}", run.story());
    run.until(&[], 11 * DAY + 60).unwrap();
    assert_eq!(sealed(&run), [2, 3, 4, 5], "{}", run.story());
    assert_eq!(run.world.history.writes, writes + 2, "the ledger and the status: {}", run.story());
    assert_ne!(run.world.key.as_ref().unwrap().status, status);
    run.until(&[], 16 * DAY).unwrap();
    assert_eq!(sealed(&run), [5], "{}", run.story());
    assert_eq!(plan(&run.world).effects, []);
}

#[test]
fn a_pinned_key_and_a_missing_policy_let_none_go() {
    let mut run = supplied(|w| w.policy.retain_for = hours(10 * 24));
    run.world.edit(|key| key.spec.pinned_version = Some(2));
    run.world.annotate(PAUSED, "true");
    run.until(&[], 30 * DAY).unwrap();
    assert_eq!(sealed(&run), [2, 5], "{}", run.story());

    let mut run = supplied(|w| w.policy.retain_for = hours(10 * 24));
    run.world.policy.problem = Some((Reason::PolicyNotFound, "it does not exist".into()));
    run.until(&[], 30 * DAY).unwrap();
    assert_eq!(sealed(&run), [2, 3, 4, 5], "{}", run.story());
}

#[test]
fn a_glance_knows_when_the_oldest_goes() {
    let run = supplied(|_| ());
    let summary = Summary::of(run.world.record());
    let oldest = run.world.record().version(2).unwrap().superseded_at;
    assert_eq!(summary.retained_since, oldest);
    let (mut o, _) = run.world.observe(&Memory::default());
    o.ledger = LedgerView::Unread(summary);
    let mut env = run.world.clone().env();
    assert_eq!(decide(&o, &env).look, Look::Nothing);
    let over = oldest.unwrap() + chrono::Duration::hours(720);
    env.now = over - chrono::Duration::seconds(1);
    assert_ne!(decide(&o, &env).look, Look::Everything);
    env.now = over;
    assert_eq!(decide(&o, &env).look, Look::Everything);
    o.key.pinned = Some(1);
    env.now = at(5 * DAY);
    assert_eq!(decide(&o, &env).look, Look::Everything, "a pin needs the record");
}
