//! Rules of delivery: first versions, replacements, due times.

use super::driver::Run;
use super::world::{World, at, by_hand, every};
use crate::api::{ConditionType, PAUSED, Reason, RotationMode, ValidationMode};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{Memory, Plan};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState::{
    self, Current, Overlap, Pending, Publishing, Retained, Revoked,
};

/// A run that is let go for so many seconds.
pub fn after(world: World, seconds: i64) -> Run {
    let mut run = Run::new(world);
    let end = run.world.now.timestamp() - at(0).timestamp() + seconds;
    run.until(&[], end).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    run
}

pub fn states(world: &World) -> Vec<VersionState> {
    world.ledger.as_ref().map(|l| l.record.versions.iter().map(|v| v.state).collect()).unwrap_or_default()
}

/// What a process that starts now would plan.
pub fn plan(world: &World) -> Plan {
    let mut world = world.clone();
    let (o, _) = world.observe(&Memory::default());
    decide(&o, &world.env())
}

pub fn says(plan: &Plan, condition: ConditionType, reason: Reason) -> bool {
    plan.findings.iter().find(|f| f.condition == condition).is_some_and(|f| f.reason == reason)
}

pub fn ready(world: &World) -> String {
    let key = world.key.as_ref().unwrap();
    let ready = key.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Ready").unwrap();
    format!("{} {}", ready.status, ready.reason)
}

fn target(world: &World) -> Option<&str> {
    world.target.as_ref().map(|t| t.bytes.as_str())
}

fn mode(world: &mut World, mode: ValidationMode) {
    world.edit(|key| key.spec.validation.mode = mode);
}

#[test]
fn a_supplied_key_costs_one_ledger_one_target_and_one_status() {
    let run = after(World::supplying("sk-1"), 10);
    assert_eq!(states(&run.world), [Publishing]);
    assert_eq!(run.world.history.writes, 3, "{}", run.story());
    assert_eq!(ready(&run.world), "True KeyValid");
}

#[test]
fn a_rejected_first_key_is_never_delivered_in_required_mode() {
    let mut world = World::supplying("sk-1");
    world.supply("sk-1", Verdict::Rejected);
    let run = after(world, 7200);
    assert_eq!(target(&run.world), None);
    assert!(run.world.ledger.is_none());
    assert_eq!(ready(&run.world), "False RejectedNotPublished");
}

#[test]
fn after_a_rejection_an_outage_does_not_deliver() {
    let mut world = World::supplying("sk-1");
    world.supply("sk-1", Verdict::Rejected);
    let mut run = after(world, 60);
    run.world.provider.answers = Some(Verdict::ProviderDown);
    run.until(&[], 7200).unwrap();
    assert_eq!(target(&run.world), None);
}

#[test]
fn a_first_key_that_nobody_can_judge_is_delivered_after_two_minutes() {
    let mut world = World::supplying("sk-1");
    world.provider.answers = Some(Verdict::ProviderDown);
    let mut run = after(world, 119);
    assert_eq!(target(&run.world), None);
    run.until(&[], 140).unwrap();
    assert_eq!(target(&run.world), Some("sk-1"));
    assert_eq!(ready(&run.world), "Unknown NotYetValidated");
}

#[test]
fn other_modes_deliver_at_once() {
    for (how, wanted) in [
        (ValidationMode::Advisory, "True PublishedUnchecked"),
        (ValidationMode::Disabled, "True ValidationDisabled"),
    ] {
        let mut world = World::supplying("sk-1");
        world.supply("sk-1", Verdict::Rejected);
        mode(&mut world, how);
        let run = after(world, 5);
        assert_eq!((target(&run.world), ready(&run.world).as_str()), (Some("sk-1"), wanted));
    }
}

#[test]
fn a_replacement_goes_over_a_good_key_only_when_valid() {
    for verdict in [Verdict::Rejected, Verdict::ProviderDown, Verdict::Unknown] {
        let mut run = after(World::supplying("sk-1"), 10);
        run.world.supply("sk-2", verdict);
        run.until(&[], 7200).unwrap();
        assert_eq!(target(&run.world), Some("sk-1"), "{verdict:?}");
        run.world.supply("sk-2", Verdict::Valid);
        run.until(&[], 9000).unwrap();
        assert_eq!(target(&run.world), Some("sk-2"), "{verdict:?}");
        assert_eq!(states(&run.world), [Retained, Current]);
    }
}

#[test]
fn the_source_may_not_bring_back_a_revoked_key() {
    let mut run = after(World::minting(), 10);
    run.world.rotate("now");
    run.until(&[], 3 * 3600).unwrap();
    let first = run.world.provider.keys.first().unwrap().bytes.clone();
    run.world.edit(|key| {
        key.spec.source =
            serde_json::from_value(serde_json::json!({"secretRef": {"name": "source", "key": "key"}}))
                .unwrap();
    });
    run.world.supply(&first, Verdict::Valid);
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(ready(&run.world), "False SourceWasRevoked");
    assert_ne!(target(&run.world), Some(first.as_str()));
}

#[test]
fn supplied_to_minted_and_back_is_a_rotation_like_any_other() {
    let mut run = after(World::supplying("sk-1"), 10);
    run.world.edit(|key| key.spec.source = serde_json::from_value(serde_json::json!({"mint": {}})).unwrap());
    run.until(&[], 600).unwrap();
    assert_eq!(states(&run.world), [Retained, Current], "{}", run.story());
    run.world.edit(|key| {
        key.spec.source =
            serde_json::from_value(serde_json::json!({"secretRef": {"name": "source", "key": "key"}}))
                .unwrap();
    });
    run.until(&[], 1200).unwrap();
    assert_eq!(states(&run.world), [Retained, Overlap, Current], "{}", run.story());
}

#[test]
fn an_open_attempt_ends_when_the_source_becomes_a_supplied_one() {
    let mut world = World::minting();
    world.account_problem = None;
    let mut run = Run::faulty(world, &[(3, super::driver::Fault::CrashAfter)]);
    run.until(&[], 1).unwrap();
    assert_eq!(run.world.live_keys().count(), 1);
    run.world.supply("sk-1", Verdict::Valid);
    run.world.edit(|key| {
        key.spec.source =
            serde_json::from_value(serde_json::json!({"secretRef": {"name": "source", "key": "key"}}))
                .unwrap();
    });
    run.until(&[], 600).unwrap();
    assert_eq!(target(&run.world), Some("sk-1"), "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 0, "{}", run.story());
}

#[test]
fn a_schedule_rotates_minted_keys_and_asks_for_supplied_ones() {
    let mut world = World::minting();
    world.policy = every(24);
    let run = after(world, 24 * 3600 + 60);
    assert_eq!(states(&run.world), [Overlap, Current]);
    let mut world = World::supplying("sk-1");
    world.policy = every(24);
    let run = after(world, 24 * 3600 + 60);
    assert_eq!(states(&run.world), [Publishing]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::SupplyNextKey));
}

#[test]
fn a_policy_that_only_reminds_still_obeys_a_token() {
    let mut world = World::minting();
    world.policy = every(24);
    world.policy.mode = RotationMode::RemindOnly;
    let mut run = after(world, 24 * 3600 + 60);
    assert_eq!(states(&run.world), [Current]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::RemindOnly));
    run.world.rotate("now");
    run.until(&[], 25 * 3600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
}

#[test]
fn a_token_rotates_once_and_one_that_was_there_at_creation_never() {
    let mut world = World::minting();
    world.rotate("old");
    let mut run = after(world, 600);
    assert_eq!(states(&run.world), [Current]);
    run.world.rotate("new");
    run.until(&[], 5 * 24 * 3600).unwrap();
    assert_eq!(states(&run.world).len(), 2);
    assert_eq!(run.world.record().handled_rotate.as_deref(), Some("new"));
}

#[test]
fn a_pause_holds_what_has_not_begun() {
    let mut world = World::minting();
    world.annotate(PAUSED, "true");
    let run = after(world, 3600);
    assert!(run.world.ledger.is_none());
    let mut run = after(World::minting(), 60);
    run.world.rotate("now");
    run.world.annotate(PAUSED, "true");
    run.until(&[], 7200).unwrap();
    assert_eq!(states(&run.world), [Current]);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::Paused));
}

#[test]
fn a_reminder_is_told_of_once() {
    let mut world = World::minting();
    world.policy = every(24);
    let schedule = world.policy.schedule.as_mut().unwrap();
    schedule.reminders = vec![std::time::Duration::from_secs(3600)];
    let run = after(world, 24 * 3600 - 60);
    let told = run.story.iter().filter(|line| line.contains("RotationReminder")).count();
    assert_eq!(told, 1, "{}", run.story());
}

#[test]
fn somebody_elses_secret_is_left_alone_until_it_is_offered() {
    let mut world = World::minting();
    world.target = Some(super::world::Target {
        owner: None,
        bytes: "theirs".into(),
        written: at(0),
        resource_version: 1,
        adoptable: false,
    });
    let mut run = after(world, 600);
    assert_eq!((target(&run.world), run.world.live_keys().count()), (Some("theirs"), 0));
    assert_eq!(ready(&run.world), "False TargetForeign");
    run.world.target.as_mut().unwrap().adoptable = true;
    run.until(&[], 1200).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid", "{}", run.story());
}

#[test]
fn a_lost_ledger_is_never_a_first_start() {
    let mut run = after(World::minting(), 60);
    run.world.ledger = None;
    let plan = plan(&run.world);
    assert!(plan.effects.is_empty() && says(&plan, ConditionType::Stalled, Reason::LedgerMissing));
}

#[test]
fn a_target_that_was_changed_or_deleted_is_written_again() {
    let mut run = after(World::minting(), 60);
    let good = run.world.target.clone().unwrap().bytes;
    run.world.target.as_mut().unwrap().bytes = "edited".into();
    run.until(&[], 120).unwrap();
    assert_eq!(target(&run.world), Some(good.as_str()));
    run.world.target = None;
    run.until(&[], 180).unwrap();
    assert_eq!(target(&run.world), Some(good.as_str()), "{}", run.story());
}

/// A process that died after it wrote the newer version left no word of that; then a person deleted the Secret, and nobody can say
/// whether the newer key works.
#[test]
fn a_deleted_target_gets_the_key_that_is_known_to_work() {
    let mut run = after(World::minting(), 60);
    let older = run.world.target.clone().unwrap().bytes;
    run.world.policy = by_hand();
    run.world.rotate("now");
    let before = run.effects;
    let whole = after_rotation(&run.world);
    let written = before + 1 + whole.iter().position(|name| *name == "write_target").unwrap();
    run.faults.insert(written, super::driver::Fault::CrashAfter);
    while run.effects < written {
        let next = run.world.now.timestamp() - at(0).timestamp() + 1;
        run.until(&[], next).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    }
    let newer = run.world.target.take().unwrap().bytes;
    assert_ne!(newer, older, "{}", run.story());
    assert_eq!(run.world.record().version(2).unwrap().state, Pending, "{}", run.story());
    run.world.provider.answers = Some(Verdict::ProviderDown);
    let next = run.world.now.timestamp() - at(0).timestamp() + 2;
    run.until(&[], next).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(target(&run.world), Some(older.as_str()), "{}", run.story());
    run.world.provider.answers = None;
    run.until(&[], next + 900).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(target(&run.world), Some(newer.as_str()), "{}", run.story());
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

/// Names of the effects of the rotation that was just asked for.
fn after_rotation(world: &World) -> Vec<&'static str> {
    let mut run = Run::new(world.clone());
    let end = world.now.timestamp() - at(0).timestamp() + 30;
    run.until(&[], end).unwrap();
    run.names
}

#[test]
fn a_pending_key_leaves_the_target_alone() {
    let mut run = after(World::minting(), 60);
    run.world.provider.spreading = std::time::Duration::from_secs(300);
    run.world.rotate("now");
    let before = run.effects;
    run.until(&[], 200).unwrap();
    let names: Vec<&str> = run.names[before..].to_vec();
    assert!(!names.contains(&"write_target"), "{}", run.story());
    assert_eq!(ready(&run.world), "True KeyValid");
}

#[test]
fn a_key_is_given_up_on_what_the_provider_says_after_the_deadline() {
    let mut run = after(World::minting(), 60);
    run.world.policy = by_hand();
    run.world.provider.spreading = std::time::Duration::from_secs(899);
    run.world.rotate("now");
    run.until(&[], 120).unwrap();
    // Nobody looks for an hour: the refusal of then says nothing of now.
    run.world.now += chrono::Duration::hours(1);
    run.until(&[], 3800).unwrap();
    assert_eq!(run.world.record().version(2).unwrap().state, Current, "{}", run.story());
}

#[test]
fn a_new_key_that_is_never_accepted_is_revoked_and_never_delivered() {
    let mut run = after(World::minting(), 60);
    run.world.policy = by_hand();
    run.world.provider.spreading = std::time::Duration::from_secs(900_000);
    let good = run.world.target.clone().unwrap().bytes;
    run.world.provider.supplied.insert(good.clone(), Verdict::Valid);
    run.world.rotate("now");
    run.until(&[], 1500).unwrap();
    assert_eq!(target(&run.world), Some(good.as_str()));
    assert!(run.names.contains(&"revoke"), "{}", run.story());
    // The token asked for a rotation that has not happened: another key is made for it.
    assert_eq!(states(&run.world), [Current, Revoked, Pending], "{}", run.story());
    run.world.provider.spreading = std::time::Duration::ZERO;
    run.world.provider.supplied.clear();
    run.until(&[], 9000).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
}
