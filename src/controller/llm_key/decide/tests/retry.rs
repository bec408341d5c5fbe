//! Tries that fail: what the next process knows of them, and when a rotation has failed.

use chrono::{DateTime, Utc};

use super::deliver::{after, ready, says, states};
use super::driver::Run;
use super::world::{World, at};
use crate::api::{ConditionType, ObservedVersions, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::fold::{Failure, Learned};
use crate::controller::llm_key::model::{Effect, LedgerView, Memory, Observed};
use crate::controller::llm_key::status::{news, status};
use crate::domain::backoff::Class;
use crate::domain::lifecycle::VersionState::{Current, Intent};
use crate::ledger::{Outcome, Retry, Rotation};

/// A rotation that was asked for at 600 s while the provider refuses to make keys, at `until`.
fn refused(until: i64) -> Run {
    let mut run = after(World::minting(), 600);
    run.world.provider.refuses.insert("proj_1".into());
    run.world.rotate("now");
    run.until(&[], until).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Current, Intent]);
    run
}

fn rotation(run: &Run) -> &Rotation {
    run.world.record().rotation(2).unwrap()
}

fn retry(run: &Run) -> Retry {
    rotation(run).retry.clone().unwrap_or_else(|| panic!("no retry\n{}", run.story()))
}

/// What a process that has just started sees.
fn started(world: &World) -> Observed {
    world.observe(&Memory::default()).0
}

/// When the next try is, for a process that starts now.
fn next_try(world: &World) -> DateTime<Utc> {
    let mut run = Run::new(world.clone());
    let end = world.now + chrono::Duration::hours(2);
    while run.world.now < end {
        let next = run.world.now.timestamp() - at(0).timestamp() + 1;
        run.until(&[], next).unwrap();
        if run.names.contains(&"mint") {
            return run.world.now - chrono::Duration::seconds(1);
        }
    }
    panic!("no try within two hours\n{}", run.story());
}

fn mints(names: &[&str]) -> usize {
    names.iter().filter(|name| **name == "mint").count()
}

#[test]
fn a_failure_stands_in_the_ledger_by_the_write_that_follows_it_anyway() {
    let run = refused(640);
    let failure = rotation(&run).failure.clone().unwrap();
    assert_eq!((failure.reason.as_str(), failure.class), ("MintFailed", Class::Transient));
    let kept = retry(&run);
    assert!(kept.failures >= 4 && kept.tried_at.is_none(), "{kept:?}");
    assert_eq!((rotation(&run).attempts, rotation(&run).outcome), (kept.failures, Outcome::InProgress));
    let begun = run.names.iter().filter(|name| **name == "mint").count() - 1;
    let written = run.names.iter().filter(|name| **name == "swap_ledger").count();
    // For each try the attempt before and its end after; and two for the first version.
    assert_eq!(written, 2 * begun + 2, "{}", run.story());
}

#[test]
fn a_process_that_starts_waits_for_what_the_ledger_says() {
    for seconds in [601, 610, 640, 700, 1500] {
        let run = refused(seconds);
        let kept = retry(&run);
        let o = started(&run.world);
        assert_eq!(o.memory.failed_mints(), kept.failures, "{}", run.story());
        assert_eq!(o.memory.failing[&Reason::MintFailed].not_before, kept.not_before);
        let tried = next_try(&run.world);
        assert!(tried >= kept.not_before.min(run.world.now), "{tried} before {kept:?}");
        assert!(
            (tried - kept.not_before.max(run.world.now)).num_seconds() <= 2,
            "{tried} long after {kept:?}"
        );
    }
}

#[test]
fn restarts_do_not_make_the_provider_be_asked_more_often() {
    for unknown in [false, true] {
        let mut steady = after(World::minting(), 600);
        if unknown {
            steady.world.provider.full = true;
        } else {
            steady.world.provider.refuses.insert("proj_1".into());
        }
        steady.world.rotate("now");
        let (mut world, from) = (steady.world.clone(), steady.names.len());
        steady.until(&[], 600 + 1800).unwrap();
        let mut restarted = 0;
        for n in 1..=45 {
            let mut run = Run::new(world);
            run.until(&[], 600 + n * 40).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
            restarted += mints(&run.names);
            world = run.world;
        }
        let usual = mints(&steady.names[from..]);
        assert!(
            restarted <= usual + 1,
            "{restarted} tries with restarts, {usual} without (unknown: {unknown})"
        );
        assert!(restarted >= 5, "it goes on: {restarted}");
    }
}

#[test]
fn a_try_whose_end_is_not_known_counts_as_one_that_failed() {
    let mut run = after(World::minting(), 600);
    run.world.provider.full = true;
    run.world.rotate("now");
    run.until(&[], 900).unwrap();
    let kept = retry(&run);
    assert!(kept.tried_at.is_some(), "{kept:?}");
    let o = started(&run.world);
    let failing = &o.memory.failing[&Reason::MintFailed];
    assert_eq!(failing.count, kept.failures + 1);
    assert!(failing.not_before > kept.tried_at.unwrap() && failing.message.contains("not known"));
}

#[test]
fn an_edit_or_a_new_token_skips_the_wait_and_counts_anew() {
    let run = refused(1500);
    assert!(next_try(&run.world) > run.world.now + chrono::Duration::seconds(10));
    let edits: [fn(&mut World); 3] = [
        |w| w.edit(|_| {}),
        |w| w.rotate("again"),
        |w| w.edits += 1, /* of the policy or the LLMProvider */
    ];
    for edit in edits {
        let mut run = Run::new(run.world.clone());
        edit(&mut run.world);
        assert_eq!(started(&run.world).memory.failed_mints(), 0);
        assert!(next_try(&run.world) <= run.world.now + chrono::Duration::seconds(1));
        run.until(&[], 1502).unwrap();
        assert!((1..3).contains(&retry(&run).failures), "{:?}\n{}", retry(&run), run.story());
        assert_eq!(rotation(&run).outcome, Outcome::InProgress);
    }
}

#[test]
fn after_as_many_failures_as_the_policy_allows_the_rotation_has_failed_and_goes_on() {
    let mut run = refused(1500);
    let told = |run: &Run| run.world.key.as_ref().unwrap().status.clone().unwrap();
    let due = |run: &Run| {
        let status = told(run);
        let due = status.conditions.into_iter().find(|c| c.type_ == "RotationDue").unwrap();
        format!("{} {}", due.status, due.reason)
    };
    assert_eq!((due(&run), rotation(&run).outcome), ("True RotationFailed".into(), Outcome::Failed));
    let last = told(&run).last_rotation.unwrap();
    assert_eq!((last.version, last.result.as_str()), (2, "Failed"));
    assert_eq!(told(&run).rotations[0].last_error.as_ref().unwrap().reason, "MintFailed");
    assert_eq!(ready(&run.world), "True KeyValid", "what is delivered still works");

    let (before, from) = (rotation(&run).attempts, run.names.len());
    run.until(&[], 1500 + 4 * 3600).unwrap();
    let tries = mints(&run.names[from..]);
    assert!((30..50).contains(&tries), "every five or six minutes: {tries}");
    assert_eq!(usize::try_from(rotation(&run).attempts - before).unwrap(), tries);
    assert!(run.world.record().rotations.len() == 2 && due(&run) == "True RotationFailed");

    run.world.provider.refuses.clear();
    run.until(&[], 1500 + 4 * 3600 + 400).unwrap();
    assert_eq!(rotation(&run).outcome, Outcome::Succeeded, "by itself: {}", run.story());
    assert_eq!(due(&run), "False NotDue");
    assert_eq!(told(&run).last_rotation.unwrap().result, "Succeeded");
    assert_eq!(rotation(&run).retry, None);
}

#[test]
fn a_new_token_for_a_failed_rotation_asks_for_the_key_that_it_makes() {
    let mut run = refused(1500);
    run.world.provider.refuses.clear();
    run.until(&[(1500, |w| w.rotate("again"))], 1510).unwrap();
    assert_eq!(run.world.record().handled_rotate.as_deref(), Some("again"), "{}", run.story());
    run.until(&[], 5 * 3600).unwrap();
    let newest = run.world.record().current().unwrap().version;
    assert_eq!(newest, 2, "no second rotation follows: {}", run.story());
}

#[test]
fn the_failure_is_told_of_once_also_by_the_next_process() {
    let mut run = refused(1500);
    let key = run.world.key.clone().unwrap();
    let failed = key.status.clone().unwrap();
    let mut before = failed.clone();
    for condition in before.conditions.iter_mut().filter(|c| c.type_ == "RotationDue") {
        "Rotating".clone_into(&mut condition.reason);
    }
    let told = |before, after| {
        let news = news(before, after);
        news.iter().filter(|(_, reason, _)| *reason == Reason::RotationFailed).count()
    };
    assert_eq!(told(&before, &failed), 1);
    let (o, env) = (started(&run.world), run.world.env());
    let after = status(&o, &decide(&o, &env), &failed, ObservedVersions::default(), &env);
    assert_eq!(told(&failed, &after), 0, "{:?}", after.conditions);
    assert_eq!(after.last_rotation, failed.last_rotation);
}

#[test]
fn the_policy_says_how_many_failures_are_too_many() {
    let mut world = World::minting();
    world.policy.retry_attempts = 1;
    world.provider.refuses.insert("proj_1".into());
    let mut run = after(world, 30);
    let record = run.world.record();
    assert_eq!(record.rotation(1).unwrap().outcome, Outcome::Failed, "a first key as well");
    assert_eq!(ready(&run.world), "Unknown MintFailed");
    run.world.provider.refuses.clear();
    run.until(&[], 290).unwrap();
    assert_eq!(mints(&run.names), 1, "the longest interval at once: {}", run.story());
    run.until(&[], 400).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid");
}

#[test]
fn what_a_person_must_mend_stalls_the_next_process_as_well_until_it_is_mended() {
    let mut run = after(World::minting(), 600);
    run.world.rotate("now");
    let mut held = run.world.observe(&Memory::default()).1;
    let (mut o, env) = (started(&run.world), run.world.env());
    let [Effect::SwapLedger(begun)] = &decide(&o, &env).effects[..] else { panic!("no L1") };
    let l1 = Effect::SwapLedger(begun.clone());
    let written = run.world.perform(&o, &mut held, &l1).unwrap();
    o.learn(&l1, written, &env);
    let refused = Failure {
        reason: Reason::AdminCredentialInvalid,
        message: "the provider rejected the admin credential".into(),
        class: Class::User,
        retry_after: None,
    };
    o.learn(&Effect::Mint { version: 2 }, Learned::MintRefused(refused), &env);
    let [closed] = &decide(&o, &env).effects[..] else { panic!("the refusal is not put on record") };
    run.world.perform(&o, &mut held, closed).unwrap();

    let next = started(&run.world);
    let plan = decide(&next, &run.world.env());
    assert!(says(&plan, ConditionType::Stalled, Reason::AdminCredentialInvalid), "{:?}", plan.findings);
    assert!(plan.effects.is_empty());
    let record = run.world.record();
    let failure = record.rotation(2).unwrap().failure.clone().unwrap();
    assert_eq!((failure.reason.as_str(), failure.class), ("AdminCredentialInvalid", Class::User));
    assert!(retry(&run).not_before >= env.now + chrono::Duration::minutes(10));
    let mended = Observed { edits: "another credential".into(), memory: Memory::default(), ..next };
    assert!(matches!(mended.ledger, LedgerView::Present(_)));
    assert!(!decide(&mended, &run.world.env()).stalled());
}
