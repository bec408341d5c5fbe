//! Supplied keys whose ids the provider tells: switched off and on, and ended after a newer one, where that is consented to.

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::{ProviderKey, World, hours};
use crate::api::{ConditionType, DesiredState, Reason, ValidationMode};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Publishing, Republished, Retained, Revoked};

const HOUR: i64 = 3600;

/// A key that a person made at the provider, and put into the source Secret.
fn supply(world: &mut World, id: &str, bytes: &str) {
    world.supply(bytes, Verdict::Valid);
    world.provider.supplied.clear();
    let (project, host) = (world.project.clone(), world.host.clone());
    let (name, id, bytes) = ("a person's".to_owned(), id.to_owned(), bytes.to_owned());
    let made = world.now;
    world.provider.keys.push(ProviderKey { name, id, bytes, project, host, made, revoked: None, used: None });
}

fn world(ends: bool) -> World {
    let mut world = World::supplying("sk-first-0123456789");
    world.provider.matches = true;
    world.provider.ends_supplied = ends;
    world.provider.switches = true;
    world.policy.overlap_minimum = hours(2);
    supply(&mut world, "key_1", "sk-first-0123456789");
    world
}

fn ids(world: &World) -> Vec<Option<&str>> {
    world.record().versions.iter().map(|v| v.provider_key_id.as_deref()).collect()
}

fn live(world: &World) -> Vec<&str> {
    world.live_keys().map(|key| key.id.as_str()).collect()
}

fn next(run: &mut Run, id: &str, bytes: &str, until: i64) {
    supply(&mut run.world, id, bytes);
    run.until(&[], until).unwrap_or_else(|broken| panic!("{broken}\n{}", run.story()));
}

#[test]
fn the_id_is_on_record_once_the_key_is_accepted_and_costs_one_write() {
    let run = after(world(false), 60);
    assert_eq!(
        (states(&run.world), ids(&run.world)),
        (vec![Current], vec![Some("key_1")]),
        "{}",
        run.story()
    );
    assert_eq!(ready(&run.world), "True KeyValid");
    // Ledger, target, status; the id, and status once more.
    assert!(run.world.history.writes <= 5, "{}", run.story());
    let writes = run.world.history.writes;
    let mut run = Run::new(run.world);
    run.until(&[], 5 * HOUR).unwrap();
    assert_eq!(run.world.history.writes, writes, "a restart asks for nothing: {}", run.story());
}

#[test]
fn two_keys_that_look_alike_are_none_and_nothing_is_guessed() {
    let mut alike = world(true);
    let mut twin = alike.provider.keys[0].clone();
    twin.id = "key_2".into();
    alike.provider.keys.push(twin);
    let run = after(alike, 5 * HOUR);
    assert_eq!((states(&run.world), ids(&run.world)), (vec![Publishing], vec![None]), "{}", run.story());
    let mut elsewhere = world(true);
    elsewhere.provider.keys[0].project = "another".into();
    let mut run = after(elsewhere, HOUR);
    assert_eq!(ids(&run.world), [None]);
    // It is there later.
    run.world.provider.keys[0].project.clone_from(&run.world.project);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(ids(&run.world), [Some("key_1")], "{}", run.story());
}

#[test]
fn a_key_that_nobody_checks_is_not_matched() {
    let mut unchecked = world(true);
    unchecked.edit(|key| key.spec.validation.mode = ValidationMode::Disabled);
    let run = after(unchecked, 5 * HOUR);
    assert_eq!(ids(&run.world), [None], "{}", run.story());
    let mut refused = world(true);
    refused.edit(|key| key.spec.validation.mode = ValidationMode::Advisory);
    refused.provider.answers = Some(Verdict::Rejected);
    let run = after(refused, 5 * HOUR);
    assert_eq!(ids(&run.world), [None], "{}", run.story());
}

#[test]
fn a_supplied_key_is_switched_off_and_on() {
    let mut run = after(world(false), HOUR);
    run.world.edit(|key| key.spec.desired_state = DesiredState::Disabled);
    run.until(&[], 2 * HOUR).unwrap();
    assert_eq!(ready(&run.world), "False SwitchedOff", "{}", run.story());
    assert!(run.world.provider.off.contains("key_1"));
    run.world.edit(|key| key.spec.desired_state = DesiredState::Active);
    run.until(&[], 3 * HOUR).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid", "{}", run.story());
    assert!(run.world.provider.off.is_empty());
    assert_eq!(states(&run.world), [Current]);
}

#[test]
fn one_that_is_not_told_or_that_another_ledger_has_is_not_switched_off() {
    let mut unknown = world(false);
    unknown.provider.keys[0].project = "another".into();
    unknown.edit(|key| key.spec.desired_state = DesiredState::Active);
    let mut run = after(unknown, HOUR);
    run.world.edit(|key| key.spec.desired_state = DesiredState::Disabled);
    run.until(&[], 2 * HOUR).unwrap();
    assert!(says(&plan(&run.world), ConditionType::Stalled, Reason::NotMatched), "{}", run.story());
    assert!(run.world.provider.off.is_empty());

    let mut run = after(world(false), HOUR);
    let shared = run.world.record().versions[0].key.as_ref().unwrap().fingerprint.clone();
    run.world.elsewhere.insert(shared.clone());
    run.world.edit(|key| key.spec.desired_state = DesiredState::Disabled);
    run.until(&[], 2 * HOUR).unwrap();
    assert!(run.world.provider.off.is_empty(), "{}", run.story());
    run.world.elsewhere.remove(&shared);
    run.until(&[], 3 * HOUR).unwrap();
    assert!(run.world.provider.off.contains("key_1"), "{}", run.story());
}

#[test]
fn without_consent_an_older_key_stays() {
    let mut run = after(world(false), HOUR);
    next(&mut run, "key_2", "sk-second-0123456789", 50 * HOUR);
    assert_eq!(states(&run.world), [Retained, Current], "{}", run.story());
    assert_eq!(live(&run.world), ["key_1", "key_2"]);
}

#[test]
fn with_consent_it_is_ended_on_the_evidence_of_a_made_one() {
    let mut run = after(world(true), HOUR);
    next(&mut run, "key_2", "sk-second-0123456789", 2 * HOUR);
    assert_eq!(states(&run.world), [Overlap, Current], "{}", run.story());
    assert_eq!(live(&run.world), ["key_1", "key_2"], "both work during the overlap");
    run.until(&[], 8 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Revoked, Current], "{}", run.story());
    assert_eq!(live(&run.world), ["key_2"]);
    assert_ne!(run.world.record().versions[0].basis, Some(RevocationBasis::Explicit));
}

#[test]
fn consent_that_is_taken_back_and_an_unknown_id_leave_it_to_its_owner() {
    let mut run = after(world(true), HOUR);
    next(&mut run, "key_2", "sk-second-0123456789", 2 * HOUR);
    run.world.provider.ends_supplied = false;
    run.until(&[], 50 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Retained, Current], "{}", run.story());

    let mut unknown = world(true);
    unknown.provider.keys[0].project = "another".into();
    let mut run = after(unknown, HOUR);
    next(&mut run, "key_2", "sk-second-0123456789", 50 * HOUR);
    assert_eq!(states(&run.world), [Retained, Current], "{}", run.story());
    assert_eq!(live(&run.world), ["key_1", "key_2"]);
}

#[test]
fn a_value_that_comes_back_in_its_overlap_is_not_ended() {
    let mut run = after(world(true), HOUR);
    next(&mut run, "key_2", "sk-second-0123456789", 2 * HOUR);
    run.world.supply("sk-first-0123456789", Verdict::Valid);
    run.world.provider.supplied.clear();
    run.until(&[], 50 * HOUR).unwrap();
    assert_eq!(states(&run.world), [Republished, Revoked, Current], "{}", run.story());
    assert_eq!(live(&run.world), ["key_1"]);
}

#[test]
fn the_first_one_has_on_record_where_it_is_delivered() {
    let run = after(world(true), 60);
    assert_eq!(run.world.record().versions[0].target.as_deref(), Some("chat"), "{}", run.story());
}
