//! The policy's `spares`.

use std::time::Duration;

use serde_json::json;

use super::deliver::{after, ready, states};
use super::driver::{Event, Run};
use super::world::{Request, World, at};
use crate::api::{GoDuration, OnReplacementFailure, PAUSED, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{Effect, LedgerView, Look, Memory, Observed};
use crate::domain::budget::PER_KEY;
use crate::domain::health::{Health, Verdict};
use crate::domain::lifecycle::VersionState::{
    self, Abandoned, Current, Intent, Overlap, Pending, Retained, Revoked, Spare,
};
use crate::domain::lifecycle::{RevocationBasis, RotationReason};

const HOUR: i64 = 3600;

/// A minted key under a policy that asks for a spare.
pub fn sparing() -> World {
    let mut world = World::minting();
    world.policy.spares = 1;
    world
}

/// The same, checked every so often. New keys are refused for a moment, and what turns bad is not known at once.
pub fn checked_every(seconds: u64) -> World {
    let mut world = sparing();
    world.edit(|key| key.spec.validation.interval = Some(GoDuration(Duration::from_secs(seconds))));
    world.provider.spreading = Duration::from_secs(1);
    world
}

/// Somebody deletes the key in use at the provider.
pub fn withdraw_delivered(world: &mut World) {
    let id = world.record().delivered().and_then(|v| v.provider_key_id.clone());
    withdraw(world, id.as_ref());
}

/// Somebody deletes the spare at the provider.
pub fn withdraw_spare(world: &mut World) {
    let id = world.record().spare().and_then(|v| v.provider_key_id.clone());
    withdraw(world, id.as_ref());
}

fn withdraw(world: &mut World, id: Option<&String>) {
    let now = world.now;
    for key in world.provider.keys.iter_mut().filter(|k| Some(&k.id) == id) {
        key.revoked.get_or_insert(now);
    }
}

/// Ten minutes after its creation.
fn with_a_spare() -> Run {
    let run = after(sparing(), 600);
    assert_eq!(states(&run.world), [Current, Spare], "{}", run.story());
    run
}

fn burn(run: &mut Run, versions: &[i32]) {
    run.world.edit(|key| key.spec.revoked_versions = versions.to_vec());
}

/// What status says of the next key.
fn told(run: &Run) -> (String, String) {
    let conditions = &run.world.key.as_ref().unwrap().status.as_ref().unwrap().conditions;
    let due = conditions.iter().find(|c| c.type_ == "RotationDue").unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "False"), "{}", run.story());
    (due.status.clone(), due.message.clone())
}

fn version(run: &Run, number: i32) -> (VersionState, RotationReason, Option<RevocationBasis>) {
    let version = run.world.record().version(number).unwrap();
    (version.state, version.reason, version.basis)
}

const NEVER: Option<RevocationBasis> = Some(RevocationBasis::NeverPublished);

#[test]
fn a_spare_is_made_and_checked_once_the_key_is_delivered() {
    let mut run = with_a_spare();
    assert_eq!((run.world.live_keys().count(), run.world.history.published), (2, 1));
    assert_eq!(told(&run), ("False".into(), "version 2 is ready as a spare".into()));
    assert_eq!(ready(&run.world), "True KeyValid");
    let shown = run.world.key.as_ref().unwrap().status.as_ref().unwrap().versions[0].clone();
    assert_eq!((shown.state.as_str(), shown.reason.as_str(), shown.published_at), ("Spare", "Spare", None));
    let events = run.names.iter().filter(|name| **name == "announce").count();
    assert_eq!(events, 2, "published, and the spare is ready");
    run.world.history.writes = 0;
    run.until(&[], 48 * HOUR).unwrap();
    assert_eq!((states(&run.world), run.world.history.writes), (vec![Current, Spare], 0));
}

#[test]
fn a_policy_without_spares_makes_none() {
    let run = after(World::minting(), 48 * HOUR);
    assert_eq!(states(&run.world), [Current]);
}

#[test]
fn the_next_rotation_takes_the_spare_and_another_follows_its_overlap() {
    let mut run = with_a_spare();
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(run.world.provider.keys.len(), 2, "nothing was made for it");
    assert_eq!(version(&run, 2), (Current, RotationReason::Requested, None));
    assert_eq!(run.world.record().handled_rotate.as_deref(), Some("now"));
    run.until(&[], 8 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current, Spare], "{}", run.story());
    assert_eq!(version(&run, 1).2, Some(RevocationBasis::ProviderQuiet));
    let published = run.world.record().version(2).unwrap().published_at.unwrap();
    assert!(published >= at(600), "due times count from the publishing, not from the making");
}

#[test]
fn a_key_that_is_confirmed_as_refused_is_replaced_by_the_spare_within_seconds() {
    let mut run = after(checked_every(600), 3000);
    assert_eq!(states(&run.world), [Current, Spare], "{}", run.story());
    withdraw_delivered(&mut run.world);
    let first = |run: &mut Run, is_so: fn(&Run) -> bool| {
        let so = (3000..5000).find(|second| {
            run.until(&[], *second).unwrap();
            is_so(run)
        });
        so.unwrap_or_else(|| panic!("{}", run.story()))
    };
    let confirming = |run: &Run| {
        let conditions = &run.world.key.as_ref().unwrap().status.as_ref().unwrap().conditions;
        conditions.iter().any(|c| c.reason == Reason::ConfirmingRejection.as_str())
    };
    let rejected = first(&mut run, confirming);
    let published = first(&mut run, |run| run.world.history.published == 2);
    // Three rejections, ten seconds apart.
    let confirmed = rejected + 20;
    assert!((confirmed..=confirmed + 5).contains(&published), "{rejected} {published}\n{}", run.story());
    assert_eq!(run.world.provider.keys.len(), 2, "nothing was made for it");
    assert_eq!(version(&run, 2), (Current, RotationReason::Invalid, None));
    assert_eq!(ready(&run.world), "True KeyValid");
    run.until(&[], 12 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current, Spare], "{}", run.story());
}

#[test]
fn over_a_refused_key_the_spare_goes_though_the_provider_does_not_answer() {
    for (accepted, delivered) in [(Verdict::Rejected, 2), (Verdict::Valid, 1)] {
        let mut run = with_a_spare();
        run.world.rotate("now");
        run.world.provider.answers = Some(Verdict::ProviderDown);
        let facts = run.world.record().version(1).unwrap().key.clone().unwrap();
        let mut health = Health::unknown(&facts.shown, run.world.now);
        (0..3).for_each(|_| health.observe(accepted, run.world.now, 3));
        let memory = Memory { health: Some(health), ..Memory::default() };
        let (mut o, mut held) = run.world.observe(&memory);
        for _ in 0..20 {
            let env = run.world.env();
            let plan = decide(&o, &env);
            assert!(!plan.effects.iter().any(|e| matches!(e, Effect::Mint { .. })), "{plan:?}");
            for effect in &plan.effects {
                let learned = run.world.perform(&o, &mut held, effect).unwrap();
                o.learn(effect, learned, &env);
            }
        }
        assert_eq!(run.world.history.published, delivered, "{accepted:?}");
    }
}

#[test]
fn a_spare_that_the_provider_refuses_goes_and_another_is_made() {
    let mut run = after(checked_every(600), 3000);
    withdraw_spare(&mut run.world);
    run.until(&[], 3000 + 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked, Spare], "{}", run.story());
    assert_eq!(version(&run, 2).2, NEVER);
    assert_eq!((run.world.history.published, ready(&run.world)), (1, "True KeyValid".into()));
}

#[test]
fn one_rejection_is_not_believed() {
    let mut run = after(checked_every(600), 3000);
    let bytes = run.world.provider.keys[1].bytes.clone();
    run.world.provider.supplied.insert(bytes.clone(), Verdict::Rejected);
    let key = |run: &Run| run.world.provider.keys[1].used;
    let before = key(&run);
    (3000..5000)
        .find(|second| {
            run.until(&[], *second).unwrap();
            key(&run) != before
        })
        .unwrap();
    run.world.provider.supplied.insert(bytes, Verdict::Valid);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Spare], "{}", run.story());
}

#[test]
fn a_spare_that_is_refused_when_it_is_taken_is_confirmed_and_replaced() {
    let mut run = with_a_spare();
    withdraw_spare(&mut run.world);
    run.world.rotate("now");
    run.until(&[], 605).unwrap();
    assert_eq!(states(&run.world), [Current, Pending], "{}", run.story());
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Overlap, Revoked, Current], "{}", run.story());
    assert_eq!((version(&run, 2).2, version(&run, 3).1), (NEVER, RotationReason::Requested));
}

#[test]
fn what_keeps_a_spare_from_being_made_holds_up_nothing() {
    let mut run = after(World::minting(), 600);
    let events: [Event; 1] = [(600, |w| {
        w.policy.spares = 1;
        w.provider.full = true;
    })];
    run.until(&events, 2 * HOUR).unwrap();
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Current, Intent], "True KeyValid".into()));
    let (status, message) = told(&run);
    assert!(status == "False" && message.starts_with("there is no spare yet: "), "{message}");
    let conditions = run.world.key.as_ref().unwrap().status.as_ref().unwrap().conditions.clone();
    assert!(conditions.iter().all(|c| c.type_ != "Reconciling" || c.status == "False"));

    // A rotation takes what is there of it, and ends when a key can be made.
    let events: [Event; 2] = [(2 * HOUR, |w| w.rotate("now")), (3 * HOUR, |w| w.provider.full = false)];
    run.until(&events, 3 * HOUR + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(version(&run, 2).1, RotationReason::Requested);
}

#[test]
fn no_spare_is_made_while_the_key_does_not_work_or_an_overlap_is_open() {
    let mut run = after(World::minting(), 600);
    run.world.rotate("now");
    run.world.policy.spares = 1;
    run.until(&[], 4000).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());

    let mut run = after(checked_every(600), 3000);
    run.world.policy.spares = 0;
    run.until(&[(3000, |_| ())], 3100).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked], "{}", run.story());
    run.world.provider.answers = Some(Verdict::Rejected);
    run.until(&[], 5000).unwrap();
    run.until(&[(5000, |w| w.policy.spares = 1)], 7000).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked], "{}", run.story());
}

#[test]
fn a_policy_that_asks_for_none_any_more_ends_it_and_a_missing_one_does_not() {
    let missing: fn(&mut World) = |w| {
        w.policy.spares = 0;
        w.policy.problem = Some((Reason::PolicyNotFound, "it does not exist".into()));
    };
    let mut run = with_a_spare();
    run.until(&[(600, missing)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Spare]);
    run.until(&[(2 * HOUR, |w| w.policy.problem = None)], 2 * HOUR + 60).unwrap();
    assert_eq!((states(&run.world), version(&run, 2).2), (vec![Current, Revoked], NEVER));
    assert_eq!(run.world.live_keys().count(), 1);
}

#[test]
fn a_pause_neither_makes_nor_ends_one() {
    let mut run = after(World::minting(), 600);
    run.world.annotate(PAUSED, "true");
    run.until(&[(600, |w| w.policy.spares = 1)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current]);

    let mut run = with_a_spare();
    run.world.annotate(PAUSED, "true");
    run.until(&[(600, |w| w.policy.spares = 0)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Spare]);
    run.world.rotate("now");
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Spare], "a rotation is a rotation");
}

#[test]
fn a_leaked_key_is_replaced_by_the_spare_and_a_leaked_spare_goes() {
    let mut run = with_a_spare();
    burn(&mut run, &[1]);
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current, Spare], "{}", run.story());
    assert_eq!(version(&run, 2).1, RotationReason::BreakGlass);

    let mut run = with_a_spare();
    burn(&mut run, &[2]);
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked, Spare], "{}", run.story());
    assert_eq!(version(&run, 2).2, Some(RevocationBasis::Explicit));

    let mut run = with_a_spare();
    burn(&mut run, &[1, 2]);
    run.until(&[], 630).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current, Spare], "{}", run.story());
}

#[test]
fn the_time_for_a_replacement_counts_from_the_taking_of_the_spare() {
    let mut run = with_a_spare();
    run.until(&[], 3 * HOUR).unwrap();
    run.world.provider.answers = Some(Verdict::ProviderDown);
    run.world.edit(|key| key.spec.on_replacement_failure = Some(OnReplacementFailure::RevokeAnyway));
    burn(&mut run, &[1]);
    run.until(&[], 4 * HOUR - 60).unwrap();
    assert_eq!(states(&run.world), [Current, Pending], "{}", run.story());
    run.until(&[], 4 * HOUR + 60).unwrap();
    assert_ne!(states(&run.world)[0], Current, "{}", run.story());
}

#[test]
fn a_number_that_was_overtaken_is_never_published() {
    let mut run = with_a_spare();
    burn(&mut run, &[9]);
    run.until(&[], 700).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked, Spare], "{}", run.story());
    assert_eq!((version(&run, 2).2, run.world.record().versions[2].version), (NEVER, 10));
}

#[test]
fn deletion_ends_the_spare_and_retain_keeps_only_what_was_delivered() {
    let mut run = with_a_spare();
    run.until(&[(600, World::delete)], 3 * HOUR).unwrap();
    assert_eq!(run.world.live_keys().count(), 0, "{}", run.story());
    assert!(run.world.ledger.is_none());

    let mut run = with_a_spare();
    let retain = serde_json::from_value(json!("Retain")).unwrap();
    run.world.edit(|key| key.spec.deletion_policy = Some(retain));
    run.until(&[(660, World::delete)], 4 * HOUR).unwrap();
    assert_eq!((states(&run.world), version(&run, 2).2), (vec![Retained, Revoked], NEVER));
    assert_eq!(run.world.live_keys().count(), 1, "{}", run.story());
}

#[test]
fn revoked_by_spec_means_the_spare_as_well() {
    let mut run = with_a_spare();
    let revoked = serde_json::from_value(json!("Revoked")).unwrap();
    run.world.edit(|key| key.spec.desired_state = revoked);
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked], "{}", run.story());
    assert!(run.world.target.is_none());
    let active = serde_json::from_value(json!("Active")).unwrap();
    run.world.edit(|key| key.spec.desired_state = active);
    run.until(&[], 720).unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current, Spare], "{}", run.story());
}

#[test]
fn another_project_means_another_spare_and_an_account_out_of_reach_means_none() {
    let mut run = with_a_spare();
    run.until(&[(600, |w| w.project = "proj_2".into())], 700).unwrap();
    assert_eq!(states(&run.world), [Current, Revoked, Spare], "{}", run.story());
    let project = |n: usize| run.world.record().versions[n].account.as_ref().unwrap().project.clone();
    assert_eq!((project(0), project(2)), ("proj_1".into(), "proj_2".into()));

    let mut run = with_a_spare();
    let host: fn(&mut World) = |w| w.host = "eu.api.openai.com".into();
    run.until(&[(600, host)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Spare], "{}", run.story());
    run.until(&[(2 * HOUR, |w| w.host = "api.openai.com".into())], 3 * HOUR).unwrap();
    run.until(&[(3 * HOUR, |w| w.rotate("now"))], 3 * HOUR + 60).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

#[test]
fn a_supplied_source_means_no_spare() {
    let mut run = with_a_spare();
    run.until(
        &[(600, |w| {
            w.supply("sk-supplied-1", Verdict::Valid);
            w.edit(|key| {
                key.spec.source.mint = None;
                let secret = serde_json::from_value(json!({"name": "source", "key": "key"})).unwrap();
                key.spec.source.secret_ref = Some(secret);
            });
        })],
        8 * HOUR,
    )
    .unwrap();
    assert_eq!(states(&run.world), [Revoked, Revoked, Current], "{}", run.story());
    assert_eq!(version(&run, 2).2, NEVER);
}

#[test]
fn an_attempt_that_is_not_wanted_any_more_is_given_up_and_its_key_found() {
    let mut run = after(World::minting(), 600);
    run.world.provider.full = true;
    run.until(&[(600, |w| w.policy.spares = 1)], 900).unwrap();
    assert_eq!(states(&run.world), [Current, Intent]);
    let name = run.world.record().versions[1].mint_name.clone().unwrap();
    run.world.make(&Request { name, bytes: None, slot: None, id: None }, 1);
    run.until(&[(900, |w| w.policy.spares = 0)], 2 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Current, Abandoned], "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
}

#[test]
fn the_last_key_of_the_budget_is_for_rotations() {
    let mut world = checked_every(60);
    world.provider.lingering = Duration::ZERO;
    let mut run = after(world, 120);
    // Every spare is withdrawn as soon as it is there.
    for second in 120..3000 {
        run.until(&[], second).unwrap();
        withdraw_spare(&mut run.world);
    }
    assert_eq!(run.world.provider.keys.len(), PER_KEY - 1, "{}", run.story());
    let (_, message) = told(&run);
    assert!(message.starts_with("there is no spare yet: 4 keys were made"), "{message}");
    run.until(&[(3000, |w| w.rotate("now"))], 3060).unwrap();
    assert_eq!((run.world.provider.keys.len(), states(&run.world)[0]), (PER_KEY, Overlap));
}

#[test]
fn a_glance_sees_what_is_missing() {
    let run = with_a_spare();
    let (mut o, _) = run.world.observe(&Memory::default());
    let summary = crate::ledger::Summary::of(run.world.record());
    assert!(!summary.open && summary.spare == Some(2));
    let env = run.world.clone().env();
    let look = |o: &Observed| decide(o, &env).look;
    o.ledger = LedgerView::Unread(summary.clone());
    assert_eq!(look(&o), Look::Nothing);
    for change in [(|o| o.policy.spares = 0) as fn(&mut Observed), |o| {
        if let LedgerView::Unread(summary) = &mut o.ledger {
            summary.spare = None;
        }
    }] {
        let mut changed = o.clone();
        change(&mut changed);
        assert_eq!(look(&changed), Look::Everything);
        changed.key.paused = true;
        assert_eq!(look(&changed), Look::Nothing);
    }
}

#[test]
fn an_older_ledger_that_knows_the_delivered_key_as_a_spare_delivers_and_revokes_nothing() {
    for lost_status in [false, true] {
        let mut run = with_a_spare();
        let old = run.world.ledger.clone().unwrap();
        run.world.rotate("1");
        run.until(&[], 660).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
        let target = run.world.target.clone().unwrap();
        run.world.ledger = Some(crate::ledger::Ledger { resource_version: "back".into(), ..old });
        if let Some(status) = run.world.key.as_mut().unwrap().status.as_mut() {
            status.versions.retain(|_| !lost_status);
        }
        run.until(&[], 9 * HOUR).unwrap();
        assert_eq!(run.world.target.as_ref(), Some(&target), "{}", run.story());
        assert!(ready(&run.world).ends_with("LedgerRolledBack"), "{}", ready(&run.world));
        assert_eq!(states(&run.world), [Current, Spare]);

        run.until(&[(9 * HOUR, |w| w.rotate("2"))], 24 * HOUR).unwrap();
        let record = run.world.record();
        assert_eq!(record.delivered().map(|v| v.version), Some(4), "{}", run.story());
        let second = version(&run, 2);
        assert_eq!((second.0, second.2), (Revoked, Some(RevocationBasis::ProviderQuiet)));
    }
}
