//! The explorer itself, on small budgets.

use std::collections::BTreeMap;

use super::actions::Machine;
use super::attempts::{Vocabulary, in_order};
use super::budget::Budget;
use super::configurations::{CONFIGURATIONS, Configuration};
use super::limits::Limits;
use super::rules::HELD_UP;
use super::search::{Bounds, Ended, Search};
use super::space::{Scene, State};
use super::{Explored, explored};

fn single(which: usize) -> Budget {
    let mut budget = Budget::default();
    *[&mut budget.crash, &mut budget.lost, &mut budget.twice, &mut budget.stale, &mut budget.edit][which] = 1;
    budget
}

fn named(name: &str) -> &'static Configuration {
    CONFIGURATIONS.iter().find(|configuration| configuration.name == name).unwrap()
}

fn begin(configuration: &Configuration, left: Budget) -> (Machine, State) {
    let mut machine = Machine::new(configuration);
    let begin = configuration.begin(&mut machine);
    (machine, State { left, ..begin })
}

#[test]
fn one_replica_keeps_every_property_under_any_single_fault() {
    let chosen = |c: &Configuration| {
        ["chosen-", "named-", "unnamed-"].iter().any(|kind| c.name.starts_with(kind))
            && c.name.ends_with("one-of-each")
    };
    for configuration in CONFIGURATIONS.iter().filter(|c| c.name.ends_with("-all") || chosen(c)) {
        let configuration = &Configuration { held_up: HELD_UP, ..*configuration };
        for budget in (0..5).map(single) {
            let (mut machine, begin) = begin(configuration, budget);
            let bounds = Bounds { attempts: 12, ..Bounds::default() };
            let Explored { found, stories } = explored(&mut machine, &begin, bounds, &mut Limits::none());
            assert!(stories.is_empty(), "{}, {budget:?}\n{}", configuration.name, stories.join("\n"));
            let (ended, states) = (found.ended, found.states);
            assert!(ended == Ended::Exhausted && states > 30, "{budget:?}: {states} states, {ended:?}");
        }
    }
}

#[test]
fn what_may_be_left_of_a_budget_fits_into_a_set() {
    for Configuration { name, budget, .. } in CONFIGURATIONS {
        let Budget { crash, lost, twice, stale, edit } = *budget;
        let count: usize = [crash, lost, twice, stale, edit].map(|n| usize::from(n) + 1).iter().product();
        assert!(count <= 128, "{name}: {count} budgets");
    }
}

/// What is reached, with the mint attempts of each state numbered anew in the end.
fn reached(machine: &mut Machine, begin: &State, as_they_are: bool) -> BTreeMap<Scene, u128> {
    let bounds = Bounds { attempts: 12, as_they_are, ..Bounds::default() };
    let mut all = BTreeMap::new();
    for (scene, left) in Search::new(machine, begin, bounds).everything() {
        let state = machine.space.state(scene, Budget::default());
        let (anew, _) = machine.numbered_anew(&state);
        *all.entry(machine.space.scene(&anew)).or_default() |= left;
    }
    all
}

#[test]
fn states_with_attempts_numbered_anew_are_those_with_the_attempts_as_they_are() {
    let budgets =
        [Budget { lost: 2, ..Budget::default() }, Budget { crash: 1, twice: 1, ..Budget::default() }];
    for name in ["one-created-all", "one-rotating-all", "chosen-created-one-of-each"] {
        for budget in budgets {
            let configuration = &Configuration { held_up: 0, ..*named(name) };
            let (mut machine, begin) = begin(configuration, budget);
            let as_they_are = reached(&mut machine, &begin, true);
            let anew = reached(&mut machine, &begin, false);
            assert_eq!(as_they_are.len(), anew.len(), "{name}, {budget:?}");
            assert!(as_they_are == anew, "{name}, {budget:?}");
        }
    }
}

#[test]
fn no_text_of_an_attempt_is_left_where_attempts_are_numbered_anew() {
    for name in ["one-rotating-all", "chosen-rotating-one-of-each"] {
        let configuration = &Configuration { held_up: 0, ..*named(name) };
        let (mut machine, begin) = begin(configuration, Budget { lost: 2, ..Budget::default() });
        let vocabulary = Vocabulary::new(&machine.rules);
        let bounds = Bounds { attempts: 12, as_they_are: true, ..Bounds::default() };
        let mut renumbered = 0;
        for (scene, _) in Search::new(&mut machine, &begin, bounds).everything() {
            let state = machine.space.state(scene, Budget::default());
            let all = machine.space.attempts(&state);
            if in_order(all) || renumbered == 40 {
                continue;
            }
            renumbered += 1;
            let (anew, _) = machine.numbered_anew(&state);
            assert_eq!(machine.space.attempts(&anew), (1 << all.count_ones()) - 1);
            let (place, replica) =
                (machine.space.places.get(anew.place), machine.space.replicas.get(anew.replicas[0]));
            let told = format!("{place:?} {replica:?}");
            let left = vocabulary.texts_from(all.count_ones() + 1).find(|text| told.contains(*text));
            assert_eq!(left, None, "{told}");
        }
        assert_eq!(renumbered, 40, "{name}");
    }
}

#[test]
fn components_are_kept_as_they_were() {
    let (mut machine, begin) = begin(named("one-rotating-all"), single(4));
    let bounds = Bounds { attempts: 12, ..Bounds::default() };
    Search::new(&mut machine, &begin, bounds).everything();
    for number in 0..machine.space.places.len() {
        let place = machine.space.places.get(number);
        assert_eq!(machine.space.place(place), number);
    }
    for number in 0..machine.space.replicas.len() {
        let replica = machine.space.replicas.get(number);
        assert_eq!(machine.space.replica(replica), number);
    }
}
