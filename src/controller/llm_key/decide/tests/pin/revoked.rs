//! Pinned versions whose keys are to be revoked.

use super::*;

#[test]
fn a_listed_number_is_its_key_whichever_version_has_it() {
    // Listed by the number of the closed version: the key is compromised, so the current one is replaced.
    let mut run = in_overlap();
    pin(&mut run, Some(1));
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Current]);
    pin(&mut run, Some(3));
    burn(&mut run, &[1]);
    run.until(&[], 4 * 3600).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Revoked, Current], "{}", run.story());
    assert_eq!((ready(&run.world).as_str(), run.world.live_keys().count()), ("False PinImpossible", 1));
    assert_eq!(version(&run, 4).reason, RotationReason::BreakGlass);
    pin(&mut run, None);
    run.until(&[], 5 * 3600).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid");
}

#[test]
fn a_pinned_key_may_take_the_place_of_a_listed_one() {
    let mut run = in_overlap();
    run.world.provider.refuses.insert("proj_1".into());
    run.world.edit(|key| {
        key.spec.pinned_version = Some(1);
        key.spec.revoked_versions = vec![2];
    });
    run.until(&[], 760).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Current], "{}", run.story());
    assert_eq!((run.world.provider.keys.len(), carries(&run, 3)), (2, true));

    // Also of one whose replacement cannot be made.
    let mut run = in_overlap();
    run.world.provider.refuses.insert("proj_1".into());
    burn(&mut run, &[2]);
    run.until(&[], 760).unwrap();
    assert_eq!(states(&run.world), [Overlap, Current, Intent]);
    pin(&mut run, Some(1));
    run.until(&[], 1200).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Abandoned, Current], "{}", run.story());
    assert!(carries(&run, 4));
}

#[test]
fn a_pinned_key_that_is_refused_does_not_keep_a_listed_one_from_being_replaced() {
    let mut run = in_overlap();
    let first = run.world.provider.keys[0].bytes.clone();
    run.world.provider.supplied.insert(first, Verdict::Rejected);
    run.world.edit(|key| {
        key.spec.pinned_version = Some(1);
        key.spec.revoked_versions = vec![2];
    });
    run.until(&[], 900).unwrap();
    assert_eq!(states(&run.world), [Overlap, Revoked, Current], "{}", run.story());
    assert_eq!(ready(&run.world), "False PinImpossible");
    assert_eq!(version(&run, 3).reason, RotationReason::BreakGlass);
}

#[test]
fn both_versions_of_a_key_go_at_once_and_the_key_once() {
    for wish in ["listed", "listed and pinned by the new number", "revoked", "deleted"] {
        let mut run = in_overlap();
        let effects = run.effects;
        run.faults.insert(effects + 3, crate::controller::llm_key::decide::tests::driver::Fault::CrashBefore);
        pin(&mut run, Some(1));
        run.until(&[], 661).unwrap();
        assert_eq!(states(&run.world), [Overlap, Current, Pending], "{}", run.story());
        match wish {
            "listed" => run.world.edit(|key| {
                key.spec.pinned_version = None;
                key.spec.revoked_versions = vec![1];
            }),
            "revoked" => run.world.edit(|key| key.spec.desired_state = DesiredState::Revoked),
            "deleted" => run.world.delete(),
            _ => run.world.edit(|key| {
                key.spec.pinned_version = Some(3);
                key.spec.revoked_versions = vec![1];
            }),
        }
        run.until(&[], 661 + 3600 + 200).unwrap_or_else(|broken| panic!("{wish}: {broken}\n{}", run.story()));
        let wanted = match wish {
            "revoked" | "deleted" => vec![Revoked, Revoked, Abandoned],
            _ => vec![Revoked, Current, Abandoned],
        };
        assert_eq!(states(&run.world), wanted, "{wish}: {}", run.story());
    }
}

#[test]
fn deletion_and_the_state_revoked_end_a_pinned_key_once() {
    for wish in ["revoked", "deleted"] {
        let mut run = in_overlap();
        pin(&mut run, Some(1));
        run.until(&[], 700).unwrap();
        assert_eq!(states(&run.world), [Republished, Overlap, Current]);
        match wish {
            "revoked" => run.world.edit(|key| key.spec.desired_state = DesiredState::Revoked),
            _ => run.world.delete(),
        }
        run.until(&[], 700 + 3600 + 200).unwrap_or_else(|broken| panic!("{wish}: {broken}\n{}", run.story()));
        assert_eq!(states(&run.world), [Republished, Revoked, Revoked], "{wish}: {}", run.story());
        assert_eq!(run.world.live_keys().count(), 0);
    }
}
