//! Rules of the workloads that use the target: who holds a revocation, who is restarted, and how often.

use std::time::Duration;

use super::deliver::{after, states};
use super::driver::Run;
use super::world::{World, at, by_hand, hours};
use crate::api::ValidationMode;
use crate::controller::llm_key::model::PolicyView;
use crate::domain::evidence::{Consumer, PodUse, Reads, Rollout, Workload, WorkloadKind};
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Revoked};

/// One workload of each kind, with a pod as old as the world.
pub fn using(mut world: World, kinds: &[WorkloadKind]) -> World {
    world.consumers =
        kinds
            .iter()
            .map(|kind| Consumer {
                workload: Workload { kind: kind.clone(), name: "app".into() },
                pods: vec![PodUse { created: at(0), ending: false, reads: Reads::Once }],
                rollout: matches!(kind, WorkloadKind::Deployment | WorkloadKind::StatefulSet)
                    .then(|| Rollout { uid: "uid".into(), settled: true, ..Rollout::default() }),
            })
            .collect();
    world
}

/// Rotated after ten minutes; the overlap's minimum is an hour.
fn rotated(world: World) -> Run {
    let mut run = after(world, 600);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run
}

fn until(run: &mut Run, end: i64) {
    run.until(&[], end).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
}

fn condition(run: &Run, kind: &str) -> (String, String, String) {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn basis(run: &Run) -> Option<RevocationBasis> {
    run.world.record().version(1).and_then(|v| v.basis)
}

fn looks(run: &Run) -> usize {
    run.names.iter().filter(|name| **name == "look_at_consumers").count()
}

#[test]
fn a_pod_that_nobody_replaces_holds_the_older_key() {
    let mut run = rotated(using(World::minting(), &[WorkloadKind::Pod]));
    until(&mut run, 24 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current]);
    let (status, reason, message) = condition(&run, "ConsumersCurrent");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "WaitingForConsumers"));
    assert!(message.contains("Pod/app (1 pod, BarePod)"), "{message}");
    assert_eq!(condition(&run, "OverlapActive").1, "WaitingForConsumers");
    let shown = &run.world.key.as_ref().unwrap().status.as_ref().unwrap().consumers;
    assert_eq!((shown[0].kind.as_str(), shown[0].state.as_str()), ("Pod", "Straggler"));
    assert_eq!((shown[0].reason.as_deref(), shown[0].stale_pods), (Some("BarePod"), 1));

    run.world.consumers[0].pods[0].created = run.world.now;
    until(&mut run, 25 * 3600);
    assert_eq!(
        (states(&run.world), basis(&run)),
        (vec![Revoked, Current], Some(RevocationBasis::ConsumersProven))
    );
    assert_eq!(condition(&run, "ConsumersCurrent").1, "AllCurrent");
    assert!(run.world.key.as_ref().unwrap().status.as_ref().unwrap().consumers.is_empty());
}

#[test]
fn nothing_is_restarted_for_a_key_that_the_provider_refuses() {
    for (spreading, restarts) in [(0, 1), (48, 0)] {
        let mut world = using(World::minting(), &[WorkloadKind::Deployment]);
        world.edit(|key| key.spec.validation.mode = ValidationMode::Advisory);
        let mut run = after(world, 600);
        run.world.provider.spreading = hours(spreading);
        run.world.rotate("now");
        until(&mut run, 3 * 3600);
        assert_eq!(run.world.record().current().unwrap().version, 2, "{}", run.story());
        assert_eq!(run.world.history.restarts.len(), restarts, "{}", run.story());
    }
}

#[test]
fn what_waits_for_a_person_is_looked_at_ever_more_seldom() {
    let mut run = rotated(using(World::minting(), &[WorkloadKind::Pod]));
    until(&mut run, 24 * 3600);
    let looks = looks(&run);
    assert!((280..320).contains(&looks), "every 5 minutes in the long run: {looks}");
}

#[test]
fn without_an_overlap_nobody_is_looked_at() {
    let mut run = rotated(using(World::minting(), &[WorkloadKind::Deployment]));
    until(&mut run, 8 * 3600);
    assert_eq!(states(&run.world), [Revoked, Current]);
    let before = looks(&run);
    assert!(before <= 4, "{before}\n{}", run.story());
    until(&mut run, 72 * 3600);
    assert_eq!(looks(&run), before);
}

#[test]
fn a_workload_is_restarted_once_and_not_before_kubelets_have_the_new_value() {
    let mut run = rotated(using(World::minting(), &[WorkloadKind::Deployment, WorkloadKind::StatefulSet]));
    assert!(run.world.history.restarts.is_empty());
    until(&mut run, 8 * 3600);
    assert_eq!(
        (states(&run.world), basis(&run)),
        (vec![Revoked, Current], Some(RevocationBasis::ConsumersProven))
    );
    assert_eq!(run.world.history.restarts.values().copied().collect::<Vec<_>>(), [1, 1]);
    let target = run.world.target.as_ref().unwrap().written;
    let mut pods = run.world.consumers.iter().flat_map(|c| &c.pods);
    assert!(pods.all(|pod| pod.created >= target + chrono::Duration::seconds(60)), "{}", run.story());
    let marks: Vec<_> =
        run.world.consumers.iter().map(|c| c.rollout.as_ref().unwrap().restarted_for.clone()).collect();
    assert_eq!(marks, [Some("chat/2".to_owned()), Some("chat/2".to_owned())]);
}

#[test]
fn a_restart_that_is_taken_back_is_tried_twice_and_never_again() {
    let mut run = after(using(World::minting(), &[WorkloadKind::Deployment]), 600);
    run.world.restarts_are_reverted = true;
    run.world.rotate("now");
    until(&mut run, 48 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert_eq!(run.world.history.restarts.values().copied().collect::<Vec<_>>(), [2]);
    let (_, _, message) = condition(&run, "ConsumersCurrent");
    assert!(message.contains("Deployment/app (1 pod, OwnedByController)"), "{message}");
}

#[test]
fn who_reads_the_file_anew_is_presumed_current_after_five_minutes() {
    let mut world = using(World::minting(), &[WorkloadKind::Pod]);
    world.consumers[0].pods[0].reads = Reads::Anew;
    world.policy.overlap_minimum = Duration::ZERO;
    world.policy.quiet_for = Duration::ZERO;
    let mut run = rotated(world);
    let written = run.world.target.as_ref().unwrap().written;
    until(&mut run, 3600);
    assert_eq!((states(&run.world), basis(&run)), (vec![Revoked, Current], Some(RevocationBasis::Presumed)));
    let retired = run.world.record().version(1).unwrap().retiring_at.unwrap();
    assert!(retired >= written + chrono::Duration::seconds(300));
    assert_eq!(condition(&run, "ConsumersCurrent").1, "PresumedCurrent");
}

#[test]
fn at_the_maximum_the_policy_says_whether_the_key_is_held_or_revoked() {
    for (revoke, wanted) in [(false, vec![Overlap, Current]), (true, vec![Revoked, Current])] {
        let mut world = using(World::minting(), &[WorkloadKind::Pod]);
        world.policy.overlap_maximum = hours(4);
        world.policy.revoke_when_stuck = revoke;
        let mut run = rotated(world);
        until(&mut run, 4 * 3600);
        assert_eq!(states(&run.world), [Overlap, Current]);
        until(&mut run, 6 * 3600);
        assert_eq!(states(&run.world), wanted, "{}", run.story());
        if revoke {
            assert_eq!(basis(&run), Some(RevocationBasis::MaximumReached));
        } else {
            let (_, _, message) = condition(&run, "OverlapActive");
            assert!(message.contains("onStuck is Hold"), "{message}");
        }
    }
}

#[test]
fn at_the_maximum_a_key_that_is_never_quiet_is_revoked_too() {
    let mut world = World::minting();
    world.policy.overlap_maximum = hours(4);
    world.policy.revoke_when_stuck = true;
    let mut run = rotated(world);
    run.world.provider.keys[0].used = Some(at(48 * 3600));
    until(&mut run, 4 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current]);
    until(&mut run, 6 * 3600);
    assert_eq!(basis(&run), Some(RevocationBasis::MaximumReached));
}

#[test]
fn a_policy_that_ignores_workloads_neither_looks_nor_restarts() {
    let mut world = using(World::minting(), &[WorkloadKind::Deployment, WorkloadKind::Pod]);
    world.policy.consumers = false;
    let mut run = rotated(world);
    until(&mut run, 8 * 3600);
    assert_eq!(
        (states(&run.world), basis(&run)),
        (vec![Revoked, Current], Some(RevocationBasis::ProviderQuiet))
    );
    assert_eq!((looks(&run), run.world.history.restarts.len()), (0, 0));
    assert_eq!(condition(&run, "ConsumersCurrent").1, "NotObserved");
}

#[test]
fn a_policy_that_goes_leaves_its_terms_and_an_earlier_ones_say_nothing_of_workloads() {
    let gone = || PolicyView { shown: None, ..by_hand() };
    let mut world = World::minting();
    world.policy.consumers = false;
    let mut run = rotated(world.clone());
    run.world.policy = gone();
    until(&mut run, 8 * 3600);
    assert_eq!((states(&run.world), looks(&run)), (vec![Revoked, Current], 0));

    let mut run = rotated(world);
    let old = run.world.ledger.as_mut().unwrap().record.version_mut(1).unwrap();
    old.overlap.as_mut().unwrap().consumers = None;
    run.world.policy = gone();
    until(&mut run, 8 * 3600);
    assert!(looks(&run) >= 2, "what is in force asks for it");
}

#[test]
fn a_rollout_of_none_leaves_the_restart_to_a_person() {
    let mut run = after(using(World::minting(), &[WorkloadKind::Deployment]), 600);
    run.world.edit(|key| key.spec.target.rollout = Some(crate::api::TargetRollout::None));
    run.world.rotate("now");
    until(&mut run, 8 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert!(run.world.history.restarts.is_empty());
    assert!(condition(&run, "ConsumersCurrent").2.contains("RolloutDisabled"));
}

#[test]
fn a_pod_that_appears_at_the_last_moment_is_seen_before_the_revocation_is_recorded() {
    let mut run = rotated(World::minting());
    // The looks of an hour said that nobody uses the Secret.
    until(&mut run, 4000);
    run.world = using(run.world.clone(), &[WorkloadKind::Pod]);
    until(&mut run, 8 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
}

#[test]
fn where_the_policy_asks_a_person_approves_each_revocation() {
    let mut world = World::minting();
    world.policy.manual = true;
    let mut run = rotated(world);
    run.world.annotate(crate::api::APPROVE_REVOKE, "7");
    until(&mut run, 8 * 3600);
    assert_eq!(states(&run.world), [Overlap, Current]);
    assert_eq!(condition(&run, "OverlapActive").1, "WaitingForApproval");
    run.world.annotate(crate::api::APPROVE_REVOKE, "1");
    until(&mut run, 9 * 3600);
    assert_eq!(states(&run.world), [Revoked, Current]);
}
