//! `maxConcurrent`: what waits for its turn, what does not, and who has one.

use chrono::{DateTime, Utc};

use super::deliver::{after, plan, says, states};
use super::driver::Run;
use super::world::{World, at, every};
use crate::api::{ConditionType, GoDuration, PAUSED, Reason, rfc3339};
use crate::controller::llm_key::decide::{decide, standing};
use crate::controller::llm_key::model::{Effect, Failing, LedgerView, Look, Memory, Observed, TargetView};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RotationReason;
use crate::domain::lifecycle::VersionState::{Current, Intent, Overlap, Revoked};
use crate::domain::turns::{Ahead, Place, Standing, Turn};
use crate::ledger::Summary;

const DAY: i64 = 24 * 3600;

fn waiting(run: &Run) -> bool {
    says(&plan(&run.world), ConditionType::RotationDue, Reason::WaitingForTurn)
}

/// A minted key that rotates daily, ten minutes old; no room for another rotation.
fn crowded() -> Run {
    let mut world = World::minting();
    world.policy = every(24);
    let mut run = after(world, 600);
    run.world.turn = Turn::Waits(Ahead::Hundreds);
    run
}

fn look(run: &Run) -> Observed {
    run.world.observe(&Memory::default()).0
}

fn stands(run: &Run, o: &Observed) -> Standing {
    let env = run.world.clone().env();
    standing(o, &decide(o, &env), &env)
}

#[test]
fn a_rotation_that_is_due_waits_for_its_turn_and_costs_nothing_meanwhile() {
    let mut run = crowded();
    run.until(&[], DAY - 60).unwrap();
    assert!(!waiting(&run), "not due yet");
    run.until(&[], DAY + 60).unwrap();
    assert_eq!(states(&run.world), [Current]);
    let told = plan(&run.world);
    assert!(waiting(&run) && told.effects.is_empty() && told.wake.is_some(), "{told:?}");
    let message = &told.findings.iter().find(|f| f.reason == Reason::WaitingForTurn).unwrap().message;
    assert!(message.contains("RotationPolicy/tests replaces 10 keys at a time"), "{message}");
    assert!(message.contains("more than 100 are before this one"), "{message}");
    let writes = run.world.history.writes;
    run.until(&[], DAY + 5 * 3600).unwrap();
    assert_eq!(run.world.history.writes, writes, "{}", run.story());
    run.world.turn = Turn::Now;
    run.until(&[], DAY + 5 * 3600 + 600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

#[test]
fn a_person_waits_too_and_is_answered_when_it_begins() {
    let mut run = crowded();
    run.world.rotate("1");
    run.until(&[], 3600).unwrap();
    assert!(waiting(&run));
    assert_eq!((states(&run.world), run.world.record().handled_rotate.clone()), (vec![Current], None));
    let place = plan(&run.world).in_line.unwrap();
    assert!(!place.scheduled, "before all schedules");
    run.world.turn = Turn::Now;
    run.until(&[], 4200).unwrap();
    assert_eq!(run.world.record().handled_rotate.as_deref(), Some("1"), "{}", run.story());
    assert_eq!(run.world.record().current().unwrap().reason, RotationReason::Requested);
}

#[test]
fn first_keys_burnt_and_refused_ones_and_keys_without_a_policy_do_not_wait() {
    let crowd = Turn::Waits(Ahead::Thousands);
    let mut world = World::minting();
    world.turn = crowd;
    assert_eq!(states(&after(world, 600).world), [Current], "a first key");

    let mut run = crowded();
    run.world.edit(|key| key.spec.revoked_versions = vec![1]);
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());

    let mut run = crowded();
    run.world.policy.replace_invalid = true;
    run.world
        .edit(|key| key.spec.validation.interval = Some(GoDuration(std::time::Duration::from_secs(600))));
    run.world.provider.answers = Some(Verdict::Rejected);
    let refused = (660..2400).find(|second| {
        run.until(&[], *second).unwrap();
        states(&run.world).len() == 2
    });
    assert!(refused.is_some(), "{}", run.story());

    let mut run = crowded();
    run.world.policy.shown = None;
    run.world.rotate("1");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "nobody else's keys count: {}", run.story());
}

#[test]
fn nobody_asks_for_a_turn_before_all_else_is_right() {
    let mut run = crowded();
    run.until(&[], DAY + 60).unwrap();
    let asks = |world: &World| {
        let mut o = world.observe(&Memory::default()).0;
        o.turn = None;
        let plan = decide(&o, &world.clone().env());
        assert!(!plan.effects.iter().any(|e| matches!(e, Effect::SwapLedger(_))), "{:?}", plan.effects);
        plan.in_line
    };
    let due: DateTime<Utc> =
        run.world.record().current().unwrap().published_at.unwrap() + chrono::Duration::seconds(DAY);
    assert_eq!(asks(&run.world), Some(Place { scheduled: true, due }));
    let mut held = run.world.clone();
    held.annotate(PAUSED, "true");
    assert_eq!(asks(&held), None, "paused");
    let mut held = run.world.clone();
    held.account_problem = Some((Reason::AdminCredentialMissing, "none".into()));
    assert_eq!(asks(&held), None, "stalled");
    run.world.turn = Turn::Now;
    run.until(&[], DAY + 120).unwrap();
    run.until(&[], DAY + 600).unwrap();
    run.world.rotate("1");
    assert_eq!(asks(&run.world), None, "an overlap is open");
}

#[test]
fn a_glance_is_enough_to_wait_and_not_to_begin() {
    let mut run = crowded();
    run.until(&[], DAY + 60).unwrap();
    let glance = |turn| {
        let mut o = look(&run);
        let LedgerView::Present(ledger) = &o.ledger else { panic!("no ledger") };
        o.ledger = LedgerView::Unread(Summary::of(&ledger.record));
        o.target = TargetView::Unread;
        o.turn = turn;
        decide(&o, &run.world.clone().env())
    };
    let asks = glance(None);
    assert!(asks.in_line.is_some() && asks.look == Look::Nothing);
    let waits = glance(Some(run.world.turn));
    let whole = plan(&run.world);
    assert_eq!((waits.look, waits.in_line, &waits.findings), (Look::Nothing, whole.in_line, &whole.findings));
    assert_eq!(glance(Some(Turn::Now)).look, Look::Everything);
}

#[test]
fn a_rotation_counts_from_l1_to_l3() {
    let mut run = crowded();
    assert_eq!(stands(&run, &look(&run)), Standing::Aside);
    run.until(&[], DAY + 60).unwrap();
    assert!(matches!(stands(&run, &look(&run)), Standing::Waiting(_)));
    run.world.turn = Turn::Now;
    run.world.provider.spreading = std::time::Duration::from_secs(300);
    run.until(&[], DAY + 200).unwrap();
    assert_eq!(states(&run.world).len(), 2, "{}", run.story());
    assert_eq!(stands(&run, &look(&run)), Standing::Rotating, "the new key is not accepted yet");
    run.until(&[], DAY + 1200).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(stands(&run, &look(&run)), Standing::Aside, "an overlap is no rotation");
}

#[test]
fn one_that_fails_for_long_gives_way_and_one_that_waits_for_its_account_does_not() {
    let mut run = crowded();
    run.world.turn = Turn::Now;
    run.world.provider.full = true;
    run.until(&[], DAY + 60).unwrap();
    assert_eq!(states(&run.world), [Current, Intent], "{}", run.story());
    let failing = |reason, count| {
        let mut o = look(&run);
        let not_before = run.world.now + chrono::Duration::hours(2);
        let failing = Failing { reason, message: String::new(), count, not_before, at: run.world.now };
        // Without what the ledger tells of the tries before.
        o.memory.failing.clear();
        o.memory.failing.insert(reason, failing);
        stands(&run, &o)
    };
    assert_eq!(failing(Reason::MintFailed, 4), Standing::Rotating);
    assert_eq!(failing(Reason::MintFailed, 5), Standing::Aside);
    assert_eq!(failing(Reason::AdminCredentialInvalid, 1), Standing::Aside, "a person has to act");
    assert_eq!(failing(Reason::RevokeFailed, 9), Standing::Rotating, "another key's revocation");
    assert_eq!(failing(Reason::MintBudget, 9), Standing::Rotating);
    run.world.now += chrono::Duration::hours(1);
    assert_eq!(stands(&run, &look(&run)), Standing::Aside, "longer than the policy's timeout");
}

#[test]
fn status_shows_the_next_three_and_none_while_one_is_due() {
    let mut run = crowded();
    let upcoming = |run: &Run| {
        let status = run.world.key.as_ref().unwrap().status.clone().unwrap();
        let times: Vec<String> = status.upcoming.iter().map(|next| next.time.clone()).collect();
        (times, status.next_rotation_time)
    };
    let published = run.world.record().current().unwrap().published_at.unwrap();
    let days = |n: i64| rfc3339(published + chrono::Duration::seconds(n * DAY));
    assert_eq!(upcoming(&run), (vec![days(1), days(2), days(3)], Some(days(1))));
    let writes = run.world.history.writes;
    run.until(&[], DAY - 3600).unwrap();
    assert_eq!(run.world.history.writes, writes, "no writes at rest: {}", run.story());
    run.until(&[], DAY + 3600).unwrap();
    assert_eq!(upcoming(&run), (Vec::new(), Some(days(1))), "since when it is due");
    assert!(at(0) < run.world.now);
}

#[test]
fn one_that_takes_an_old_spare_has_all_the_time_that_others_have() {
    let mut run = crowded();
    run.world.turn = Turn::Now;
    run.world.provider.full = true;
    run.until(&[], DAY + 60).unwrap();
    run.world.now += chrono::Duration::hours(1);
    assert_eq!(stands(&run, &look(&run)), Standing::Aside);
    let now = run.world.now;
    run.world.ledger.as_mut().unwrap().record.versions[1].promoted_at = Some(now);
    let mut o = look(&run);
    o.memory.failing.clear();
    assert_eq!(stands(&run, &o), Standing::Rotating);
}
