//! Each scenario runs undisturbed, then again with a fault at each of its effects, and must come to the same end.

use std::collections::BTreeMap;

use serde_json::json;

use super::driver::{Event, Fault, Run};
use super::world::{World, at};
use crate::api::LLMKey;
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState;

/// A scenario: the world at its beginning, what people do and when, and its end.
struct Scenario {
    name: &'static str,
    world: fn() -> World,
    events: &'static [Event],
    end: i64,
}

const HOUR: i64 = 3600;

fn create_again(world: &mut World) {
    let mut spec = json!({"providerRef": {"name": "openai"}, "source": {"mint": {}}});
    spec["validation"] = json!({"interval": "12h"});
    world.create(spec);
}

fn desire(world: &mut World, state: &str) {
    let state = serde_json::from_value(json!(state)).unwrap();
    world.edit(|key: &mut LLMKey| key.spec.desired_state = state);
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create, minted", world: World::minting, events: &[], end: 6 * HOUR },
    Scenario {
        name: "create, supplied",
        world: || World::supplying("sk-supplied-1"),
        events: &[],
        end: 6 * HOUR,
    },
    Scenario { name: "rotate", world: World::minting, events: &[(600, |w| w.rotate("now"))], end: 8 * HOUR },
    Scenario {
        name: "delete and create again in time",
        world: World::minting,
        events: &[(600, World::delete), (1200, create_again)],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete and create again too late",
        world: World::minting,
        events: &[(600, World::delete), (600 + HOUR + 120, create_again)],
        end: 9 * HOUR,
    },
    Scenario { name: "delete", world: World::minting, events: &[(600, World::delete)], end: 9 * HOUR },
    Scenario {
        name: "delete in an overlap",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (1200, World::delete)],
        end: 9 * HOUR,
    },
    Scenario {
        name: "desired state Revoked",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (1200, |w| desire(w, "Revoked"))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "Revoked and Active again",
        world: World::minting,
        events: &[(600, |w| desire(w, "Revoked")), (1800, |w| desire(w, "Active"))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "the source changes",
        world: || World::supplying("sk-supplied-1"),
        events: &[(600, |w| w.supply("sk-supplied-2", Verdict::Valid))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "the Secret is changed by hand in an overlap",
        world: World::minting,
        events: &[
            (600, |w| w.rotate("now")),
            (900, |w| {
                let old = w.provider.keys.iter().map(|k| k.bytes.clone()).next();
                if let (Some(target), Some(old)) = (&mut w.target, old) {
                    target.bytes = old;
                    target.resource_version += 1_000_000;
                }
            }),
        ],
        end: 9 * HOUR,
    },
];

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
fn tell(scenario: &Scenario, faults: &[(usize, Fault)]) -> Run {
    let mut run = Run::faulty((scenario.world)(), faults);
    if let Err(broken) = run.until(scenario.events, scenario.end) {
        panic!("{}, {faults:?}: {broken}\n{}", scenario.name, run.story());
    }
    run
}

fn converges(scenario: &Scenario, reference: &Run, faults: &[(usize, Fault)]) {
    let run = tell(scenario, faults);
    assert!(run.world.history.faults >= 1, "{}: no fault was struck", scenario.name);
    let (end, wanted) = (end_of(&run.world), end_of(&reference.world));
    assert_eq!(end, wanted, "{}, {faults:?}: another end\n{}", scenario.name, run.story());
    let lost = run.world.unaccounted();
    assert!(lost.is_empty(), "{}, {faults:?}: I2: {lost:?} are lost\n{}", scenario.name, run.story());
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
        let run = tell(scenario, &[]);
        println!(
            "== {} ({} effects)\n{}\n{:#?}",
            scenario.name,
            run.effects,
            run.story(),
            end_of(&run.world)
        );
        assert!(run.world.unaccounted().is_empty(), "{}\n{}", scenario.name, run.story());
        is_silent(scenario, &run);
    }
}

#[test]
fn every_single_fault_converges() {
    let mut runs = 0;
    for scenario in SCENARIOS {
        let reference = tell(scenario, &[]);
        for k in 1..=reference.effects {
            for fault in Fault::ALL {
                if fault == Fault::Twice && reference.names[k - 1] != "mint" {
                    continue;
                }
                converges(scenario, &reference, &[(k, fault)]);
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}
