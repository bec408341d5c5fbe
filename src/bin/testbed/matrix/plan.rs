//! Which cells there are, and in which company each runs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cell::{Aim, Name};
use super::effect::Effect;
use super::fault::{Fault, Place, not_applicable};
use super::scenario::Scenario;

/// Cells whose faults strike one request each, at the same time.
const TOGETHER: usize = 100;
/// Cells that wait for one blow.
const UNDER_ONE_BLOW: usize = 48;

/// The effects of each scenario in its undisturbed run.
pub type Learned = BTreeMap<Scenario, Vec<Effect>>;
/// When each of them came, after the story's beginning.
pub type Times = BTreeMap<Scenario, Vec<Duration>>;

/// What `--only` asks for: `S2`, `S2:7`, `S2:7:CA` or `S2::CA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// This scenario.
    pub scenario: Scenario,
    index: Option<usize>,
    fault: Option<Fault>,
}

impl std::str::FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let code = parts.next().unwrap_or_default();
        let scenario = Scenario::of(code).ok_or_else(|| format!("no scenario is called {code}"))?;
        let filled = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(str::to_owned);
        let index = filled(parts.next()).map(|part| part.parse().map_err(|_| format!("{part} is no number")));
        let fault =
            filled(parts.next()).map(|part| Fault::of(&part).ok_or(format!("no fault is called {part}")));
        match parts.next() {
            Some(more) => Err(format!("too much: {more}")),
            None => Ok(Self { scenario, index: index.transpose()?, fault: fault.transpose()? }),
        }
    }
}

impl Only {
    fn takes(&self, name: &Name) -> bool {
        self.scenario == name.scenario
            && name.aim.as_ref().is_some_and(|aim| {
                self.index.is_none_or(|index| index == aim.index)
                    && self.fault.is_none_or(|fault| fault == aim.fault)
            })
    }
}

/// What is to be done.
pub struct Plan {
    /// Every cell that applies and was asked for.
    pub cells: Vec<Name>,
    /// Those that a rule leaves out, with the rule's reason.
    pub left_out: Vec<(Name, &'static str)>,
}

/// Every effect with every fault.
pub fn plan(learned: &Learned, times: &Times, only: &[Only]) -> Plan {
    let mut plan = Plan { cells: Vec::new(), left_out: Vec::new() };
    for (scenario, effects) in learned {
        for (index, effect) in effects.iter().enumerate() {
            let occurrence = effects[..=index].iter().filter(|seen| *seen == effect).count();
            let after = times.get(scenario).and_then(|times| times.get(index)).copied().unwrap_or_default();
            for fault in Fault::ALL {
                let aim = Aim { index: index + 1, effect: effect.clone(), occurrence, fault, after };
                let name = Name { scenario: *scenario, aim: Some(aim) };
                if !only.is_empty() && !only.iter().any(|only| only.takes(&name)) {
                    continue;
                }
                let place = Place { scenario: *scenario, effects, index };
                match not_applicable(&place, fault) {
                    Some(rule) => plan.left_out.push((name, rule.reason)),
                    None => plan.cells.push(name),
                }
            }
        }
    }
    plan
}

/// Cells that can run beside each other.
pub fn batches(cells: &[Name]) -> Vec<Vec<Name>> {
    let mut groups: BTreeMap<u8, Vec<Name>> = BTreeMap::new();
    for name in cells {
        let group = match name.aim.as_ref().map(|aim| aim.fault) {
            Some(fault) if fault.is_slow() => 0,
            Some(Fault::CrashBefore | Fault::CrashAfter) => 2,
            Some(Fault::Two) => 3,
            Some(Fault::Pause) => 4,
            _ => 1,
        };
        groups.entry(group).or_default().push(name.clone());
    }
    let mut batches = Vec::new();
    for (group, mut cells) in groups {
        if group < 2 {
            // Dealt like cards: what is slow by nature (the end of a namespace) is not all in one batch.
            let count = cells.len().div_ceil(TOGETHER);
            batches
                .extend((0..count).map(|first| cells.iter().skip(first).step_by(count).cloned().collect()));
        } else {
            // Those that come to their effects at about the same time wait for each other.
            cells.sort_by_key(|name| name.aim.as_ref().map(|aim| aim.after));
            batches.extend(cells.chunks(UNDER_ONE_BLOW).map(<[Name]>::to_vec));
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::super::effect::Kind;
    use super::*;

    fn learned() -> Learned {
        let effect = |kind| Effect { kind, detail: String::new() };
        let effects = vec![effect(Kind::LedgerSwap), effect(Kind::Validate), effect(Kind::LedgerSwap)];
        BTreeMap::from([(Scenario::Rotate, effects)])
    }

    #[test]
    fn every_pair_is_either_run_or_left_out_by_a_rule() {
        let plan = plan(&learned(), &Times::new(), &[]);
        assert_eq!(plan.cells.len() + plan.left_out.len(), 3 * Fault::ALL.len());
        assert_eq!(plan.left_out.len(), 6, "the read's");
        let last = plan.cells.last().unwrap();
        assert_eq!(last.to_string(), "S2:3:DEL");
        assert_eq!(last.aim.as_ref().unwrap().occurrence, 2);
    }

    #[test]
    fn one_cell_a_row_or_a_column_can_be_asked_for() {
        let count = |only: &str| plan(&learned(), &Times::new(), &[only.parse().unwrap()]).cells.len();
        assert_eq!(count("S2:3:CA"), 1);
        assert_eq!(count("S2:1"), Fault::ALL.len());
        assert_eq!(count("S2::CA"), 2);
        assert_eq!(count("S5"), 0);
        for wrong in ["S9", "S2:x", "S2:1:XX", "S2:1:CA:2"] {
            assert!(wrong.parse::<Only>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_batch_mixes_blows() {
        let cells = plan(&learned(), &Times::new(), &[]).cells;
        let batches = batches(&cells);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), cells.len());
        for batch in batches {
            let blow = |name: &Name| match name.aim.as_ref().unwrap().fault {
                Fault::CrashBefore | Fault::CrashAfter => "kill",
                Fault::Two => "two",
                Fault::Pause => "pause",
                _ => "none",
            };
            assert!(batch.iter().all(|name| blow(name) == blow(&batch[0])));
        }
    }
}
