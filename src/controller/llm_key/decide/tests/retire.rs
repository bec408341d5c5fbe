//! Rules of revocation, deletion and taking over.

use std::time::Duration;

use serde_json::json;

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::{World, facts};
use crate::api::{ConditionType, DeletionPolicy, PAUSED, Reason};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{
    Abandoned, Current, Intent, Overlap, Retained, Retiring, Revoked,
};

/// A minted key, rotated ten minutes after its creation.
fn in_overlap() -> Run {
    let mut run = after(World::minting(), 600);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run
}

/// What status says of the overlap.
fn held(run: &Run, reason: &str) {
    let conditions = run.world.key.as_ref().unwrap().status.as_ref().unwrap().conditions.iter();
    let overlap = conditions.into_iter().find(|c| c.type_ == "OverlapActive").unwrap();
    assert_eq!((overlap.status.as_str(), overlap.reason.as_str()), ("True", reason), "{}", run.story());
}

#[test]
fn the_older_key_is_revoked_after_the_minimum_and_quiet() {
    let mut run = in_overlap();
    run.until(&[], 4199).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    run.until(&[], 4300).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current]);
    let first = run.world.record().version(1).unwrap();
    assert_eq!(first.basis, Some(RevocationBasis::ProviderQuiet));
    assert!(first.sealed.is_none());
}

#[test]
fn a_key_in_use_is_kept() {
    let mut run = in_overlap();
    let late = run.world.now + chrono::Duration::seconds(6 * 3600);
    run.world.provider.keys[0].used = Some(late);
    run.until(&[], 6 * 3600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    held(&run, "StillInUse");
    run.until(&[], 8 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current]);
}

#[test]
fn without_quiet_the_minimum_alone_is_the_basis() {
    let mut run = in_overlap();
    run.world.policy.quiet_for = Duration::ZERO;
    run.until(&[], 4300).unwrap();
    assert_eq!(run.world.record().version(1).unwrap().basis, Some(RevocationBasis::MinimumElapsed));
}

#[test]
fn a_pause_and_a_missing_policy_hold_an_overlap() {
    let mut run = in_overlap();
    run.world.annotate(PAUSED, "true");
    run.until(&[], 9000).unwrap();
    held(&run, "Paused");
    let mut run = in_overlap();
    run.world.policy.problem = Some((Reason::PolicyNotFound, "it does not exist".into()));
    run.until(&[], 9000).unwrap();
    held(&run, "PolicyNotFound");
    assert_eq!(states(&run.world), [Overlap, Current]);
}

#[test]
fn the_older_key_is_kept_while_the_newer_one_does_not_work() {
    for verdict in [Verdict::ProviderDown, Verdict::Rejected, Verdict::RateLimited { retry_after: None }] {
        let mut run = in_overlap();
        run.world.provider.answers = Some(verdict);
        run.until(&[], 9000).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current], "{verdict:?}");
    }
}

#[test]
fn a_shared_key_is_kept_before_and_after_l4() {
    let mut run = in_overlap();
    let first = facts(&run.world.provider.keys[0].bytes).fingerprint;
    run.world.elsewhere.insert(first.clone());
    run.until(&[], 9000).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current]);
    let mut run = in_overlap();
    let l4 = run.effects + 7;
    run.faults.insert(l4, super::driver::Fault::CrashAfter);
    run.until(&[], 4202).unwrap();
    assert_eq!(states(&run.world), [Retiring, Current], "{}", run.story());
    run.world.elsewhere.insert(first);
    run.until(&[], 9000).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Retiring, Current], 2));
    held(&run, "KeyShared");
}

#[test]
fn a_secret_that_was_set_back_after_l4_is_repaired_before_the_revocation() {
    let mut run = in_overlap();
    let l4 = run.effects + 7;
    run.faults.insert(l4, super::driver::Fault::CrashAfter);
    run.until(&[], 4202).unwrap();
    assert_eq!(states(&run.world), [Retiring, Current], "{}", run.story());
    let old = run.world.provider.keys[0].bytes.clone();
    run.world.target.as_mut().unwrap().bytes.clone_from(&old);
    run.until(&[], 9000).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_ne!(run.world.target.as_ref().unwrap().bytes, old);
    assert_eq!(states(&run.world), [Revoked, Current]);
}

#[test]
fn a_revocation_waits_for_the_admin_credential_and_for_the_right_account() {
    let mut run = in_overlap();
    let l4 = run.effects + 7;
    run.faults.insert(l4, super::driver::Fault::CrashAfter);
    run.until(&[], 4202).unwrap();
    run.world.account_problem = Some((Reason::AdminCredentialMissing, "its Secret is gone".into()));
    run.until(&[], 9000).unwrap();
    assert!(says(&plan(&run.world), ConditionType::Stalled, Reason::AdminCredentialMissing));
    run.world.account_problem = None;
    run.world.host = "elsewhere.example".into();
    run.until(&[], 12_000).unwrap();
    assert_eq!(states(&run.world), [Retiring, Current]);
    run.world.host = "api.openai.com".into();
    run.until(&[], 15_000).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
}

#[test]
fn a_lost_attempt_is_not_given_up_by_a_search_at_another_account() {
    let mut run = Run::faulty(World::minting(), &[(3, super::driver::Fault::CrashAfter)]);
    run.until(&[], 1).unwrap();
    run.world.host = "elsewhere.example".into();
    run.world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
    run.until(&[], 3600).unwrap();
    assert_eq!(states(&run.world), [Intent], "{}", run.story());
    assert!(says(&plan(&run.world), ConditionType::Stalled, Reason::AccountChanged));
    run.world.host = "api.openai.com".into();
    run.until(&[], 7200).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Abandoned], 0), "{}", run.story());
}

#[test]
fn an_attempt_that_was_refused_binds_nobody_to_its_account() {
    let mut world = World::minting();
    world.provider.refuses.insert("proj_1".into());
    let mut run = Run::new(world);
    run.until(&[], 600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!((states(&run.world), &run.world.record().versions[0].account), (vec![Intent], &None));
    run.world.project = "proj_2".into();
    run.until(&[], 1800).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Current], "{}", run.story());
    assert_eq!(run.world.live_keys().map(|k| k.project.as_str()).collect::<Vec<_>>(), ["proj_2"]);
}

#[test]
fn a_rotation_that_fails_is_told_as_due_and_nobody_waits_for_it() {
    let mut run = Run::new(World::minting());
    run.until(&[], 60).unwrap();
    run.world.provider.refuses.insert("proj_1".into());
    run.world.rotate("now");
    run.until(&[], 120).unwrap();
    let told = |run: &Run, kind: &str| {
        let status = run.world.key.as_ref().unwrap().status.clone().unwrap();
        let found = status.conditions.into_iter().find(|c| c.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason)
    };
    assert_eq!(told(&run, "RotationDue"), "True MintFailed", "{}", run.story());
    assert_eq!(told(&run, "Reconciling"), "False Idle");
    assert_eq!(ready(&run.world), "True KeyValid");
    run.until(&[], 600).unwrap();
    assert_eq!(told(&run, "RotationDue"), "True RotationFailed", "{}", run.story());
    assert_eq!(told(&run, "Reconciling"), "False Idle");
    run.world.provider.refuses.clear();
    run.until(&[], 3600).unwrap();
    assert_eq!(told(&run, "RotationDue"), "False NotDue", "{}", run.story());
}

#[test]
fn the_project_of_a_provider_may_change_at_any_time() {
    let mut run = Run::faulty(World::minting(), &[(3, super::driver::Fault::ReplyLost)]);
    run.until(&[], 1).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Intent], 1), "{}", run.story());
    run.world.project = "proj_2".into();
    run.until(&[], 600).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    let projects = |run: &Run| run.world.live_keys().map(|k| k.project.clone()).collect::<Vec<_>>();
    assert_eq!(
        (states(&run.world), projects(&run)),
        (vec![Current], vec!["proj_2".into()]),
        "{}",
        run.story()
    );
    run.world.project = "proj_3".into();
    run.world.rotate("now");
    run.until(&[], 9000).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(projects(&run), ["proj_3"]);
}

#[test]
fn a_policy_that_goes_during_an_overlap_does_not_shorten_it() {
    let mut run = after(World::minting(), 600);
    run.world.policy.shown = Some("ClusterRotationPolicy/default (Defaulted)".into());
    run.world.policy.overlap_minimum = Duration::from_secs(4 * 3600);
    run.world.rotate("now");
    run.until(&[], 660).unwrap();
    run.world.policy = super::world::by_hand();
    run.world.policy.shown = None;
    run.until(&[], 4 * 3600 + 600).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    run.until(&[], 4 * 3600 + 900).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
}

#[test]
fn a_key_that_cannot_be_revoked_holds_up_no_other() {
    let mut run = in_overlap();
    let first = facts(&run.world.provider.keys[0].bytes).fingerprint;
    run.world.elsewhere.insert(first);
    run.world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
    run.until(&[], 700).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Retiring, Revoked], 1));
    assert_eq!(ready(&run.world), "False KeyShared", "a person asked for it");
    assert!(run.world.target.is_none(), "the newest key is revoked, and so its Secret goes");
    run.world.elsewhere.clear();
    run.until(&[], 9000).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Revoked, Revoked], 0));
}

#[test]
fn a_second_rotation_waits_for_the_end_of_the_overlap() {
    let mut run = in_overlap();
    run.world.rotate("again");
    run.until(&[], 3000).unwrap();
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::OverlapActive));
    run.until(&[], 4300).unwrap();
    assert_eq!(states(&run.world), [Revoked, Overlap, Current]);
}

#[test]
fn revoked_as_desired_means_all_keys_then_the_target() {
    let mut run = in_overlap();
    run.world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
    run.until(&[], 700).unwrap();
    assert_eq!((states(&run.world), run.world.live_keys().count()), (vec![Revoked, Revoked], 0));
    assert!(run.world.target.is_none());
    assert_eq!(ready(&run.world), "False Revoked");
}

/// What it is, what happens before the deletion, when an LLMKey of the same name comes, and whether it has the key.
type Case = (&'static str, fn(&mut World), i64, bool);

#[test]
fn keys_are_handed_over_only_in_time_to_the_same_account_and_not_after_the_namespace_went() {
    let cases: [Case; 5] = [
        ("in time", |_| (), 1200, true),
        ("too late", |_| (), 2 * 3600, false),
        ("its namespace went", |w| w.namespace_terminating = true, 1200, false),
        (
            "it was revoked",
            |w| {
                w.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
            },
            1200,
            false,
        ),
        ("retained", |w| w.edit(|key| key.spec.deletion_policy = Some(DeletionPolicy::Retain)), 1200, true),
    ];
    for (name, before, back, kept) in cases {
        let mut run = after(World::minting(), 500);
        before(&mut run.world);
        run.until(&[(600, World::delete)], back).unwrap();
        run.world.namespace_terminating = false;
        run.world.create(&json!({"providerRef": {"name": "openai"}, "source": {"mint": {}}}));
        run.until(&[], back + 600).unwrap();
        let first = run.world.provider.keys[0].revoked;
        assert_eq!(first.is_none(), kept, "{name}: {first:?}\n{}", run.story());
        assert_eq!(run.world.live_keys().count(), 1, "{name}\n{}", run.story());
        assert_eq!(ready(&run.world), "True KeyValid", "{name}");
    }
}

/// Deleted after ten minutes with a grace of 24 h, and back ten minutes later.
fn back_with(change: impl FnOnce(&mut World), spec: &serde_json::Value) -> Run {
    let mut run = after(World::minting(), 500);
    let grace = Some(serde_json::from_value(json!("24h")).unwrap());
    run.world.edit(|key| key.spec.deletion_grace_period = grace);
    run.until(&[(600, World::delete)], 1200).unwrap();
    change(&mut run.world);
    run.world.create(spec);
    run.until(&[], 1260).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    run
}

#[test]
fn an_llm_key_that_comes_back_for_another_account_ends_no_key_before_the_grace_that_it_was_deleted_with() {
    let spec = json!({"providerRef": {"name": "openai"}, "source": {"mint": {}}});
    let mut run = back_with(|world| world.project = "proj_2".into(), &spec);
    assert_eq!(states(&run.world), [Overlap, Current], "the same account: {}", run.story());
    run.until(&[], 9000).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "with the evidence of an overlap: {}", run.story());

    let spec = json!({"providerRef": {"name": "second"}, "source": {"mint": {}}});
    let mut run = back_with(|world| world.llm_provider = "second".into(), &spec);
    assert_eq!(states(&run.world), [Retiring, Current], "{}", run.story());
    held(&run, "OverlapMinimum");
    run.until(&[], 600 + 24 * 3600 - 60).unwrap();
    assert_eq!(run.world.live_keys().count(), 2, "{}", run.story());
    run.until(&[], 600 + 24 * 3600 + 60).unwrap();
    assert_eq!(
        (states(&run.world), run.world.live_keys().count()),
        (vec![Revoked, Current], 1),
        "{}",
        run.story()
    );

    for burnt in [json!({"revokedVersions": [1]}), json!({"desiredState": "Revoked"})] {
        let mut run = back_with(|world| world.llm_provider = "second".into(), &spec);
        run.world.edit(|key| {
            let mut whole = serde_json::to_value(&key.spec).unwrap();
            whole.as_object_mut().unwrap().extend(burnt.as_object().unwrap().clone());
            key.spec = serde_json::from_value(whole).unwrap();
        });
        run.until(&[], 1400).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
        assert_eq!(states(&run.world)[0], Revoked, "{burnt}: {}", run.story());
    }
}

#[test]
fn what_deletion_means_for_a_key_says_the_llm_key_that_it_was_made_for() {
    for (then, next, alive) in [("Retain", "Revoke", 2), ("Revoke", "Retain", 1)] {
        let policy = |name: &str| Some(serde_json::from_value(json!(name)).unwrap());
        let mut run = after(World::minting(), 500);
        run.world.edit(|key| key.spec.deletion_policy = policy(then));
        run.until(&[(600, World::delete)], 1200).unwrap();
        run.world.llm_provider = "second".into();
        let spec = json!({"providerRef": {"name": "second"}, "source": {"mint": {}}, "deletionPolicy": next});
        run.world.create(&spec);
        run.until(&[], 9000).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
        assert_eq!(run.world.live_keys().count(), alive, "{then}: {}", run.story());
    }
}

#[test]
fn a_revocation_that_the_provider_does_not_carry_out_is_told() {
    let mut run = in_overlap();
    run.world.provider.lingering = Duration::from_secs(48 * 3600);
    run.until(&[], 4500).unwrap();
    assert_eq!(states(&run.world), [Retiring, Current], "{}", run.story());
    assert!(!says(&plan(&run.world), ConditionType::Stalled, Reason::RevokeFailed), "it takes its time");
    run.until(&[], 9000).unwrap();
    held(&run, "RevokeFailed");
    assert_eq!(ready(&run.world), "True KeyValid");
    run.world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
    run.until(&[], 24 * 3600).unwrap();
    assert_eq!(ready(&run.world), "False RevokeFailed", "a person asked for it");
}

#[test]
fn an_older_key_in_another_secret_waits_for_a_word() {
    let mut run = after(World::minting(), 500);
    run.until(&[(600, World::delete)], 1200).unwrap();
    run.world.create(&json!({
        "providerRef": {"name": "openai"}, "source": {"mint": {}}, "target": {"secretName": "elsewhere"},
    }));
    run.until(&[], 1300).unwrap();
    run.world.rotate("now");
    run.until(&[], 9000).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    held(&run, "WaitingForConsumers");
    run.world.annotate("llmkeys.dev/approve-revoke", "1");
    run.until(&[], 9100).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
}

#[test]
fn a_retained_key_survives_the_deletion_of_everything() {
    let mut world = World::minting();
    world.edit(|key| key.spec.deletion_policy = Some(DeletionPolicy::Retain));
    let mut run = after(world, 500);
    run.until(&[(600, World::delete)], 24 * 3600).unwrap();
    // Without its ledger the key would be nobody's, and a sweep would end it.
    let kept = run.world.record().versions.iter().filter(|v| v.provider_key_id.is_some());
    assert_eq!(kept.map(|v| v.state).collect::<Vec<_>>(), [Retained], "{}", run.story());
    assert_eq!(run.world.live_keys().count(), 1);
}

#[test]
fn the_finalizer_is_there_only_while_deletion_has_something_to_revoke() {
    let finalizer = |run: &Run| {
        let key = run.world.key.as_ref().unwrap();
        key.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty())
    };
    assert!(!finalizer(&after(World::supplying("sk-1"), 60)));
    let mut run = after(World::minting(), 60);
    assert!(finalizer(&run));
    run.world.edit(|key| key.spec.desired_state = serde_json::from_value(json!("Revoked")).unwrap());
    run.until(&[], 300).unwrap();
    assert!(!finalizer(&run));
}
