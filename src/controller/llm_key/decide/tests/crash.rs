//! Each scenario runs undisturbed, then again with a fault at each of its effects, and must come to the same end.

pub mod scenarios;

use std::collections::BTreeMap;

use scenarios::{HOUR, SCENARIOS, Scenario};

use super::driver::{Fault, Run};
use super::world::World;

/// What must be the same in the end, whatever happened on the way.
fn end_of(world: &World) -> BTreeMap<&'static str, String> {
    let mut end = BTreeMap::new();
    let alive = world.live_keys().count();
    end.insert("keys at the provider", alive.to_string());
    if let Some(ledger) = &world.ledger {
        let record = &ledger.record;
        let versions: Vec<String> = record
            .versions
            .iter()
            .map(|v| {
                let works =
                    v.provider_key_id.as_ref().is_some_and(|id| world.live_keys().any(|k| k.id == *id));
                format!("{} {:?} {:?} {:?} alive={works}", v.version, v.state, v.reason, v.basis)
            })
            .collect();
        end.insert("versions", versions.join(", "));
        end.insert("token", format!("{:?}", record.handled_rotate));
        end.insert("owned", record.owner.is_some().to_string());
        let carried = record.delivered().and_then(|v| World::bytes_of(record, v.version));
        let right = world.target.as_ref().map(|t| Some(&t.bytes) == carried.as_ref());
        end.insert("target is right", format!("{right:?}"));
    }
    if let Some(key) = &world.key {
        end.insert("finalizer", format!("{:?}", key.metadata.finalizers.as_ref().map(Vec::len)));
        let conditions = key.status.iter().flat_map(|s| &s.conditions);
        let told: Vec<String> =
            conditions.map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect();
        end.insert("conditions", told.join(", "));
    }
    end
}

/// Runs with faults; what is broken is told with the whole story.
fn tell(scenario: &Scenario, faults: &[(usize, Fault)]) -> Result<Run, String> {
    let mut run = Run::faulty((scenario.world)(), faults);
    match run.until(scenario.events, scenario.end) {
        Ok(()) => Ok(run),
        Err(broken) => Err(format!("{}, {faults:?}: {broken}\n{}", scenario.name, run.story())),
    }
}

fn converges(scenario: &Scenario, reference: &Run, faults: &[(usize, Fault)]) -> Result<(), String> {
    let run = tell(scenario, faults)?;
    let problem = |what: String| Err(format!("{}, {faults:?}: {what}\n{}", scenario.name, run.story()));
    if run.world.history.faults == 0 {
        return problem("no fault was struck".into());
    }
    let lost = run.world.unaccounted();
    // A mint that the provider carried out twice is found by the next search by name.
    let twice = faults.iter().filter(|(_, f)| *f == Fault::Twice).map(|(k, _)| *k).max();
    let searched = twice.is_none_or(|k| run.names[k..].contains(&"find_strays"));
    if !searched && run.world.live_keys().all(|k| !lost.contains(&k.id) || run.world.named(k)) {
        return Ok(());
    }
    let (end, wanted) = (end_of(&run.world), end_of(&reference.world));
    for (what, wanted) in &wanted {
        if end.get(what) != Some(wanted) {
            return problem(format!("another end: {what}\n   is {:?}\n  not {wanted:?}", end.get(what)));
        }
    }
    if lost.is_empty() { Ok(()) } else { problem(format!("I2: {lost:?} are lost")) }
}

/// Tells the first few of all that is wrong.
fn none(problems: &[String], runs: usize) {
    let first: Vec<&str> = problems.iter().take(4).map(String::as_str).collect();
    let heads: Vec<&str> = problems.iter().filter_map(|p| p.lines().next()).collect();
    assert!(
        problems.is_empty(),
        "{} of {runs} runs are wrong\n{}\n\n{}",
        problems.len(),
        heads.join("\n"),
        first.join("\n\n")
    );
}

/// After the last write there is silence: a converged resource causes no writes.
fn is_silent(scenario: &Scenario, run: &Run) {
    let mut again = Run::new(run.world.clone());
    again.world.history.writes = 0;
    let end = scenario.end + 24 * HOUR;
    again.until(&[], end).unwrap();
    assert_eq!(again.world.history.writes, 0, "{}: writes after the end\n{}", scenario.name, again.story());
}

#[test]
fn undisturbed_runs_end_well_and_fall_silent() {
    for scenario in SCENARIOS {
        let run = tell(scenario, &[]).unwrap_or_else(|broken| panic!("{broken}"));
        assert!(run.world.unaccounted().is_empty(), "{}\n{}", scenario.name, run.story());
        is_silent(scenario, &run);
    }
}

#[test]
fn every_single_fault_converges() {
    let mut runs = 0;
    let mut problems = Vec::new();
    for scenario in SCENARIOS {
        let reference = tell(scenario, &[]).unwrap_or_else(|broken| panic!("{broken}"));
        for k in 1..=reference.effects {
            for fault in Fault::ALL {
                if fault == Fault::Twice && reference.names[k - 1] != "mint" {
                    continue;
                }
                problems.extend(converges(scenario, &reference, &[(k, fault)]).err());
                runs += 1;
            }
        }
    }
    none(&problems, runs);
}

/// Two faults, the second also while the first is being recovered from.
#[test]
fn every_pair_of_faults_of_a_rotation_converges() {
    let mut runs = 0;
    let mut problems = Vec::new();
    let kinds = [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost];
    for scenario in SCENARIOS.iter().filter(|s| s.name == "rotate") {
        let reference = tell(scenario, &[]).unwrap_or_else(|broken| panic!("{broken}"));
        for (first, second) in (1..=reference.effects).flat_map(|a| (a + 1..=a + 8).map(move |b| (a, b))) {
            for (a, b) in kinds.into_iter().flat_map(|a| kinds.into_iter().map(move |b| (a, b))) {
                problems.extend(converges(scenario, &reference, &[(first, a), (second, b)]).err());
                runs += 1;
            }
        }
    }
    none(&problems, runs);
}

/// The provider is slow in everything: new keys are refused and not listed for a while, revoked ones work on.
#[test]
fn every_crash_with_a_slow_provider_loses_no_key() {
    let mut problems = Vec::new();
    let mut runs = 0;
    for scenario in SCENARIOS {
        let slow = |world: &mut World| {
            world.provider.spreading = std::time::Duration::from_secs(20);
            world.provider.lingering = std::time::Duration::from_secs(40);
            world.provider.list_lag = std::time::Duration::from_secs(30);
        };
        let mut reference = Run::new((scenario.world)());
        slow(&mut reference.world);
        reference
            .until(scenario.events, scenario.end)
            .unwrap_or_else(|e| panic!("{e}\n{}", reference.story()));
        for k in 1..=reference.effects {
            for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost] {
                let mut run = Run::faulty((scenario.world)(), &[(k, fault)]);
                slow(&mut run.world);
                runs += 1;
                let ended = run.until(scenario.events, scenario.end);
                let lost = run.world.unaccounted();
                let found = run.world.live_keys().all(|k| !lost.contains(&k.id) || run.world.named(k));
                if ended.is_err() || !found {
                    problems.push(format!(
                        "{}, {k} {fault:?}: {ended:?}, {lost:?}\n{}",
                        scenario.name,
                        run.story()
                    ));
                }
            }
        }
    }
    none(&problems, runs);
}
