//! The history of rotations: what each record tells, whatever happened on the way.

use serde_json::json;

use super::deliver::{after, states};
use super::driver::{Fault, Run};
use super::world::{World, at};
use crate::api::{FIELD_MANAGER, LLMKeyStatus, ROTATE, rfc3339};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{Current, Pending, Revoked};
use crate::ledger::{Method, Outcome, Requester, Rotation};

fn status(run: &Run) -> LLMKeyStatus {
    run.world.key.as_ref().unwrap().status.clone().unwrap()
}

fn rotation(run: &Run, version: i32) -> Rotation {
    let found = run.world.record().rotation(version).cloned();
    found.unwrap_or_else(|| panic!("no rotation to {version}\n{}", run.story()))
}

fn condition(run: &Run, kind: &str) -> String {
    let status = status(run);
    let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    format!("{} {}", found.status, found.reason)
}

/// A person sets the annotation; the API server notes by which client.
fn rotate_by(world: &mut World, manager: &str) {
    let time = rfc3339(world.now);
    world.edit(|key| {
        key.metadata.annotations.get_or_insert_default().insert(ROTATE.into(), manager.into());
        let owned = json!({"f:metadata": {"f:annotations": {"f:llmkeys.dev/rotate": {}}}});
        key.metadata.managed_fields =
            serde_json::from_value(json!([{"manager": manager, "time": time, "fieldsV1": owned}])).unwrap();
    });
}

#[test]
fn a_rotation_by_hand_is_told_from_who_asked_to_what_became_of_the_older_key() {
    let mut run = after(World::minting(), 600);
    let before = run.names.len();
    rotate_by(&mut run.world, "team-a-cli");
    run.until(&[], 660).unwrap();
    let told = rotation(&run, 2);
    assert_eq!((told.outcome, told.method, told.attempts), (Outcome::Succeeded, Method::Minted, 1));
    let requester = Requester { manager: "team-a-cli".into(), at: Some(at(600)) };
    assert_eq!((told.requested_by.as_ref(), told.started_at), (Some(&requester), at(600)));
    assert_eq!(told.ended_at, run.world.record().version(2).unwrap().published_at);
    let from = told.from.unwrap();
    assert_eq!((from.version, from.basis, from.revoked_at), (1, None, None));

    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current]);
    let writes = run.names[before..].iter().filter(|name| **name == "swap_ledger").count();
    assert_eq!(writes, 5, "L1 to L5, and nothing for the history: {}", run.story());
    let shown = status(&run).rotations;
    let [shown] = &shown[..] else { panic!("the first version is no rotation: {shown:?}") };
    assert_eq!((shown.version, shown.reason.as_str(), shown.outcome.as_str()), (2, "Requested", "Succeeded"));
    assert_eq!(shown.requested_by, "team-a-cli (unverified)");
    assert_eq!(shown.requested_at.as_deref(), Some(rfc3339(at(600)).as_str()));
    let from = shown.from.clone().unwrap();
    assert_eq!((from.version, from.revocation_basis.as_deref()), (1, Some("ProviderQuiet")));
    assert_eq!(from.revoked_at, run.world.record().version(1).unwrap().revoked_at.map(rfc3339));
    assert_ne!((&from.last_four, &from.fingerprint), (&None, &shown.fingerprint));
    let told = status(&run).versions;
    assert_eq!(told[0].requested_by.as_deref(), Some("team-a-cli (unverified)"));
    assert_eq!(told[1].requested_by, None);

    let last = status(&run);
    run.world.edit(|key| key.status = None);
    run.until(&[], 3 * 3600 + 60).unwrap();
    assert_eq!((status(&run).rotations, status(&run).last_rotation), (last.rotations, last.last_rotation));
}

#[test]
fn what_the_operator_does_by_itself_it_asked_for() {
    let mut world = World::minting();
    world.policy = super::world::every(24);
    let run = after(world, 24 * 3600 + 600);
    assert_eq!(rotation(&run, 2).asked_by(), FIELD_MANAGER);
    assert_eq!(status(&run).rotations[0].reason, "Schedule");
}

#[test]
fn a_value_that_a_person_supplies_names_who_wrote_it() {
    let mut run = after(World::supplying("sk-1"), 60);
    assert!(run.world.record().rotations.is_empty());
    run.world.supply("sk-2", Verdict::Valid);
    run.world.supplied_by = Some(Requester { manager: "vault-sync".into(), at: Some(at(60)) });
    run.until(&[], 120).unwrap();
    let told = rotation(&run, 2);
    assert_eq!((told.outcome, told.method, told.attempts), (Outcome::Succeeded, Method::Supplied, 0));
    assert_eq!(told.asked_by(), "vault-sync (unverified)");
    run.world.supply("sk-1", Verdict::Valid);
    run.until(&[], 180).unwrap();
    assert_eq!(rotation(&run, 3).method, Method::Reused);
    let versions: Vec<i32> = status(&run).rotations.iter().map(|r| r.version).collect();
    assert_eq!(versions, [3, 2], "the newest first");
}

#[test]
fn a_crash_at_any_step_leaves_one_record_that_ends() {
    let mut reference = after(World::minting(), 600);
    let begin = reference.effects;
    rotate_by(&mut reference.world, "team-a-cli");
    reference.until(&[], 3 * 3600).unwrap();
    for k in begin + 1..=reference.effects {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost, Fault::Another] {
            let mut run = Run::faulty(World::minting(), &[(k, fault)]);
            run.until(&[(600, |w| rotate_by(w, "team-a-cli"))], 8 * 3600).unwrap();
            let context = || format!("{k} {fault:?}\n{}", run.story());
            let record = run.world.record();
            assert_eq!(record.rotations.len(), 2, "{}", context());
            let told = rotation(&run, 2);
            assert_eq!(told.outcome, Outcome::Succeeded, "{}", context());
            assert_eq!(told.asked_by(), "team-a-cli (unverified)", "{}", context());
            let from = told.from.as_ref().unwrap();
            assert_eq!(from.basis, Some(RevocationBasis::ProviderQuiet), "{}", context());
            assert!(from.revoked_at.is_some() && told.retry.is_none(), "{}", context());
            let last = status(&run).last_rotation.unwrap();
            assert_eq!((last.version, last.result.as_str()), (2, "Succeeded"), "{}", context());
        }
    }
}

#[test]
fn a_rotation_that_takes_longer_than_the_time_out_says_so_and_goes_on() {
    let mut run = after(World::minting(), 600);
    run.world.rotate("now");
    run.world.provider.spreading = std::time::Duration::from_secs(100 * 3600);
    run.world.timings.new_key_deadline = std::time::Duration::from_secs(200 * 3600);
    run.until(&[], 600 + 3500).unwrap();
    assert_eq!(states(&run.world), [Current, Pending]);
    assert_eq!(condition(&run, "RotationDue"), "True WaitingForProvider", "{}", run.story());
    let last = status(&run).last_rotation.unwrap();
    assert_eq!((last.version, last.result.as_str()), (1, "Succeeded"));
    run.until(&[], 600 + 3700).unwrap();
    assert_eq!(condition(&run, "RotationDue"), "True RotationFailed", "{}", run.story());
    let last = status(&run).last_rotation.unwrap();
    assert_eq!((last.version, last.result.as_str()), (2, "TimedOut"));
    assert_eq!(last.time, rfc3339(at(600 + 3600)));
    assert_eq!(status(&run).rotations[0].outcome, "TimedOut");
    run.world.provider.spreading = std::time::Duration::ZERO;
    run.until(&[], 600 + 4200).unwrap();
    let last = status(&run).last_rotation.unwrap();
    assert_eq!((last.version, last.result.as_str()), (2, "Succeeded"), "{}", run.story());
    assert_eq!(condition(&run, "RotationDue"), "False NotDue");
}
