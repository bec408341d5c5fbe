//! The explorer itself, on small budgets.

use super::actions::{Machine, all};
use super::configurations::{CONFIGURATIONS, Configuration};
use super::rules::HELD_UP;
use super::search::{Bounds, search};
use super::story::story;

#[test]
fn one_replica_keeps_every_property_under_any_single_fault() {
    let chosen = |c: &Configuration| {
        ["chosen-", "named-"].iter().any(|kind| c.name.starts_with(kind)) && c.name.ends_with("one-of-each")
    };
    for configuration in CONFIGURATIONS.iter().filter(|c| c.name.ends_with("-all") || chosen(c)) {
        let configuration = &Configuration { held_up: HELD_UP, ..*configuration };
        for which in 0..5 {
            let mut budget = super::space::Budget::default();
            *[&mut budget.crash, &mut budget.lost, &mut budget.twice, &mut budget.stale, &mut budget.edit]
                [which] = 1;
            let mut machine = Machine::new(configuration);
            let mut begin = configuration.begin(&mut machine);
            begin.left = budget;
            let found = search(
                &mut machine,
                &begin,
                budget,
                Bounds { depth: None, attempts: 12, states: 1_000_000 },
                &mut |_| (),
            );
            let stories: Vec<String> = found
                .breaches
                .iter()
                .map(|(_, breach)| story(&mut machine, &found, breach, &all()))
                .collect();
            assert!(stories.is_empty(), "{}, {budget:?}\n{}", configuration.name, stories.join("\n"));
            assert!(found.exhausted && found.states.len() > 30, "{budget:?}: {} states", found.states.len());
        }
    }
}
