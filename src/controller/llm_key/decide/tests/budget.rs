//! How many keys are made, whatever happens; and a ledger that is older than what was delivered.

use serde_json::json;

use super::driver::{Fault, Run};
use super::world::{World, at};
use crate::api::{GoDuration, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{Effect, Env, Memory, Plan};
use crate::domain::budget::PER_KEY;
use crate::domain::lifecycle::VersionState;

fn told(plan: &Plan, reason: Reason) -> bool {
    plan.findings.iter().any(|finding| finding.reason == reason)
}

/// Whether the plan says so without doing anything.
fn says(run: &mut Run, reason: Reason) -> Plan {
    let (o, _) = run.world.observe(&Memory::default());
    let plan = decide(&o, &run.world.env());
    assert!(told(&plan, reason), "{:?}\n{}", plan.findings, run.story());
    plan
}

/// No hour sees more keys than the budget has.
fn hold(run: &Run) {
    let made: Vec<_> = run.world.provider.keys.iter().map(|key| key.made).collect();
    for (n, first) in made.iter().enumerate() {
        let within = made[n..].iter().take_while(|at| **at < *first + chrono::Duration::hours(1)).count();
        assert!(within <= PER_KEY, "{within} keys\n{}", run.story());
    }
}

#[test]
fn mints_whose_answers_are_lost_again_and_again_do_not_run_up_a_bill() {
    let mut faults = Vec::new();
    for _ in 0..12 {
        let mut run = Run::faulty(World::minting(), &faults);
        run.until(&[], 6 * 3600).unwrap();
        let struck = |n: usize| faults.iter().any(|(number, _)| *number == n);
        let next = run.names.iter().zip(1..).find(|(name, n)| **name == "mint" && !struck(*n)).unwrap();
        faults.push((next.1, Fault::ReplyLost));
    }
    let mut run = Run::faulty(World::minting(), &faults);
    run.until(&[], 6 * 3600).unwrap();
    assert_eq!(run.world.provider.keys.len(), 13, "it goes on: {}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
    hold(&run);
}

#[test]
fn what_another_replica_attempts_is_not_fenced_while_its_key_may_be_unlisted() {
    let mut whole = Run::new(World::minting());
    whole.until(&[], 30).unwrap();
    let mint = whole.names.iter().position(|name| *name == "mint").unwrap();
    let mut run = Run::faulty(World::minting(), &[(mint + 1, Fault::ReplyLost)]);
    run.until(&[], 2).unwrap();
    let attempted = *run.world.record().mints.last().unwrap();
    // A replica that has been there for long, and knows of the attempt by the ledger alone.
    let memory = Memory { started: Some(at(-7200)), ..Memory::default() };
    let mut plan_at = |seconds| {
        let (o, _) = run.world.observe(&memory);
        let env = run.world.env();
        decide(&o, &Env { now: attempted + chrono::Duration::seconds(seconds), ..env })
    };
    let lag = 30 + 30;
    assert_eq!(plan_at(2).effects, []);
    let late = plan_at(lag - 1);
    assert_eq!(late.effects, []);
    assert_eq!(late.wake, Some(attempted + chrono::Duration::seconds(lag)));
    let fenced = plan_at(lag).effects;
    assert!(matches!(&fenced[..], [Effect::SwapLedger(next)] if next.attempt == 2), "{fenced:?}");
}

#[test]
fn an_llmkey_that_is_deleted_and_created_again_has_no_new_budget() {
    fn create(world: &mut World) {
        let spec = json!({
            "providerRef": {"name": "openai"}, "source": {"mint": {}}, "deletionGracePeriod": "0s",
            "validation": {"interval": "12h"},
        });
        world.create(&spec);
    }
    let mut world = World::minting();
    world.edit(|key| key.spec.deletion_grace_period = Some(GoDuration(std::time::Duration::ZERO)));
    let mut run = Run::new(world);
    let again =
        |n: i64| [(n * 120 + 60, World::delete as fn(&mut World)), (n * 120 + 90, create as fn(&mut World))];
    let events: Vec<_> = (0..90).flat_map(again).collect();
    run.until(&events, 4 * 3600).unwrap();
    assert!(run.world.provider.keys.len() > 2 * PER_KEY, "{}", run.story());
    hold(&run);
}

#[test]
fn rotations_by_hand_wait_for_the_budget_and_say_until_when() {
    let mut world = World::minting();
    world.policy.overlap_minimum = std::time::Duration::ZERO;
    world.policy.quiet_for = std::time::Duration::ZERO;
    let mut run = Run::new(world);
    run.until(
        &[
            (60, |w| w.rotate("1")),
            (120, |w| w.rotate("2")),
            (180, |w| w.rotate("3")),
            (240, |w| w.rotate("4")),
            (300, |w| w.rotate("5")),
        ],
        1800,
    )
    .unwrap();
    assert_eq!(run.world.provider.keys.len(), PER_KEY, "{}", run.story());
    let plan = says(&mut run, Reason::MintBudget);
    assert!(plan.effects.iter().all(|effect| !matches!(effect, Effect::SwapLedger(_))));
    assert!(plan.wake.is_some_and(|wake| wake <= at(3600)), "{:?}", plan.wake);
    assert!(!plan.stalled(), "nobody has to act");
    run.until(&[], 3700).unwrap();
    assert_eq!(run.world.record().delivered().unwrap().version, 6, "{}", run.story());
}

#[test]
fn an_outage_without_effect_uses_nothing_of_the_budget() {
    let mut world = World::minting();
    world.provider.full = true;
    let mut run = Run::new(world);
    run.until(&[], 1800).unwrap();
    assert!(run.world.record().attempt > 5, "{}", run.story());
    assert!(run.world.record().mints.len() <= 2, "{:?}", run.world.record().mints);
    run.world.provider.full = false;
    run.until(&[], 2400).unwrap();
    assert!(run.world.record().delivered().is_some(), "{}", run.story());
}

#[test]
fn an_older_ledger_delivers_nothing_and_goes_on_only_when_a_person_says_so() {
    let mut run = Run::new(World::minting());
    run.until(&[], 60).unwrap();
    let old = run.world.ledger.clone().unwrap();
    run.until(&[(60, |w| w.rotate("1"))], 600).unwrap();
    let target = run.world.target.clone().unwrap();
    run.world.ledger = Some(crate::ledger::Ledger { resource_version: "back".into(), ..old });
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(run.world.target.as_ref(), Some(&target), "{}", run.story());
    assert_eq!((run.world.provider.keys.len(), run.world.live_keys().count()), (2, 2));
    let plan = says(&mut run, Reason::LedgerRolledBack);
    assert!(plan.stalled() && plan.effects.is_empty());
    let status = run.world.key.as_ref().unwrap().status.clone().unwrap();
    assert_eq!((status.current_version, status.versions.len()), (Some(2), 2), "status goes on telling");

    run.until(&[(3 * 3600, |w| w.rotate("2"))], 4 * 3600).unwrap();
    let record = run.world.record();
    assert_eq!(record.delivered().unwrap().version, 3, "no number is given twice: {}", run.story());
    assert_eq!(record.version(2).unwrap().state, VersionState::Abandoned);
    assert_ne!(run.world.target.as_ref(), Some(&target));
}
