//! What effects teach: failures, health, attempts.

use super::deliver::after;
use super::driver::Run;
use super::world::{World, facts};
use crate::api::Reason;
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::fold::{Failure, Learned};
use crate::controller::llm_key::model::{Effect, Memory, Minted, Subject};
use crate::domain::backoff::Class;
use crate::domain::health::Verdict;

fn failure() -> Failure {
    Failure {
        reason: Reason::MintFailed,
        message: "it failed".into(),
        class: Class::Transient,
        retry_after: None,
    }
}

#[test]
fn failures_in_a_row_are_counted_and_forgotten_after_a_success() {
    let mut world = after(World::minting(), 60).world;
    let (mut o, _) = world.observe(&Memory::default());
    let env = world.env();
    let mut waits = Vec::new();
    for count in 1..=6 {
        o.pass.fenced = Some(1);
        o.fail(failure(), &env);
        let failing = &o.memory.failing[&Reason::MintFailed];
        assert_eq!((failing.count, o.pass.fenced), (count, None), "a failed attempt is never used again");
        waits.push(failing.not_before);
    }
    assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
    let minted = Minted { attempt: 1, id: "svc".into(), facts: facts("sk") };
    o.learn(&Effect::Mint { version: 1 }, Learned::Minted(minted), &env);
    assert!(o.memory.failing.is_empty());
}

#[test]
fn what_is_known_of_a_key_before_its_delivery_is_known_of_it_afterwards() {
    let mut world = after(World::minting(), 60).world;
    let (mut o, _) = world.observe(&Memory::default());
    let env = world.env();
    o.memory.health = None;
    let shown = world.record().version(1).unwrap().key.clone().unwrap().shown;
    let asked = Effect::Validate(Subject::Candidate(1));
    let answer = Learned::Answer {
        subject: Subject::Candidate(1),
        fingerprint: shown.clone(),
        verdict: Verdict::RestrictedScope,
    };
    o.learn(&asked, answer, &env);
    let written = Learned::TargetWritten { version: 1, since: Some(env.now) };
    o.learn(&Effect::WriteTarget { version: 1 }, written, &env);
    let health = o.memory.health.unwrap();
    assert_eq!((health.fingerprint, health.accepted), (shown, Some(true)));
    assert_eq!(o.memory.candidate, None);
}

#[test]
fn a_provider_that_makes_no_keys_is_asked_ever_more_seldom() {
    let mut run = Run::new(World::minting());
    run.world.provider.full = true;
    run.until(&[], 3600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    let calls = run.names.iter().filter(|name| **name == "mint").count();
    assert!((10..25).contains(&calls), "{calls} calls in an hour\n{}", run.story());
    assert_eq!(run.world.live_keys().count(), 0);
}

#[test]
fn what_failed_after_a_long_call_is_tried_again_without_any_other_event() {
    let mut world = World::minting();
    let (mut o, _) = world.observe(&Memory::default());
    let before = world.env();
    o.fail(failure(), &before);
    world.now += chrono::Duration::seconds(60);
    let plan = decide(&o, &world.env());
    // The reconcile ends with the failure: what is planned is left to the next one.
    assert!(!plan.effects.is_empty(), "{plan:?}");
    assert!(plan.wake.is_some(), "nothing would ever wake it: {plan:?}");
}
