//! Which cells there are, and in which company each runs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cell::{Aim, Name};
use super::effect::Effect;
use super::fault::Fault;
use super::rule::{Place, not_applicable};
use super::scenario::Scenario;

/// Cells whose faults strike one request each, at the same time.
const TOGETHER: usize = 100;
/// Cells that wait for one blow, the first time and each time that they have to be run again: those that come too late for the
/// others are in the end alone.
const UNDER_ONE_BLOW: [usize; 4] = [48, 12, 4, 1];
/// The same where three keys of each cell take turns, or ledgers are written ten at a time.
const FEW_UNDER_ONE_BLOW: [usize; 4] = [8, 4, 2, 1];

/// The effects of each scenario in its undisturbed run.
pub type Learned = BTreeMap<Scenario, Vec<Effect>>;
/// When each of them came, after the story's beginning.
pub type Times = BTreeMap<Scenario, Vec<Duration>>;

/// What `--only` asks for: `S2`, `S2:7`, `S2:7:CA` or `S2::CA`, and of pairs `S2:7:CA+3:LA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// This scenario.
    pub scenario: Scenario,
    index: Option<usize>,
    fault: Option<Fault>,
    then: Option<(usize, Fault)>,
}

impl std::str::FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A fault's name may end with a plus.
        let pair = text.char_indices().find(|(at, sign)| {
            *sign == '+' && text[at + 1..].starts_with(|next: char| next.is_ascii_digit())
        });
        let (first, second) = pair.map_or((text, None), |(at, _)| (&text[..at], Some(&text[at + 1..])));
        let number = |part: &str| part.parse().map_err(|_| format!("{part} is no number"));
        let fault = |part: &str| Fault::of(part).ok_or(format!("no fault is called {part}"));
        let filled = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(str::to_owned);
        let mut parts = first.split(':');
        let code = parts.next().unwrap_or_default();
        let scenario = Scenario::of(code).ok_or_else(|| format!("no scenario is called {code}"))?;
        let index = filled(parts.next()).map(|part| number(&part)).transpose()?;
        let struck = filled(parts.next()).map(|part| fault(&part)).transpose()?;
        if let Some(more) = parts.next() {
            return Err(format!("too much: {more}"));
        }
        let then = second.map(|second| {
            let (later, struck) = second.split_once(':').ok_or(format!("{second} is no second fault"))?;
            Ok::<_, String>((number(later)?, fault(struck)?))
        });
        Ok(Self { scenario, index, fault: struck, then: then.transpose()? })
    }
}

impl Only {
    /// Whether it asks for everything of its story.
    pub fn is_a_whole_story(&self) -> bool {
        self.index.is_none() && self.fault.is_none() && self.then.is_none()
    }

    /// Whether a cell was asked for, its second fault aside.
    pub fn takes_first(&self, name: &Name) -> bool {
        self.scenario == name.scenario
            && name.aim.as_ref().is_some_and(|aim| {
                self.index.is_none_or(|index| index == aim.index)
                    && self.fault.is_none_or(|fault| fault == aim.fault)
            })
    }

    /// Whether a cell was asked for.
    pub fn takes(&self, name: &Name) -> bool {
        let second = name.then.as_ref().map(|then| (then.later, then.fault));
        self.takes_first(name) && (self.then.is_none() || self.then == second)
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
                let name = Name { scenario: *scenario, aim: Some(aim), then: None };
                if !only.is_empty() && !only.iter().any(|only| only.takes_first(&name)) {
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

/// Cells that can run beside each other: those of one company are struck by the same blows, and none has to wait for what
/// only others need.
pub fn batches(cells: &[Name], again: usize) -> Vec<Vec<Name>> {
    let mut groups: BTreeMap<_, Vec<Name>> = BTreeMap::new();
    for name in cells {
        let everybodys = name.scenario.is_everybodys().then_some(name.scenario);
        let company = (company(name), name.scenario.begins_late(), name.scenario.others(), everybodys);
        groups.entry(company).or_default().push(name.clone());
    }
    let mut batches = Vec::new();
    for mut cells in groups.into_values() {
        if cells.first().is_some_and(|name| name.blows().is_empty()) {
            // Dealt like cards: what is slow by nature (the end of a namespace) is not all in one batch.
            let others = cells.iter().map(|name| name.scenario.others()).max().unwrap_or_default();
            let count = cells.len().div_ceil(TOGETHER / (1 + others));
            batches
                .extend((0..count).map(|first| cells.iter().skip(first).step_by(count).cloned().collect()));
        } else {
            // Those that come to their effects at about the same time wait for each other.
            let later = |name: &Name| name.then.as_ref().map(|then| then.later);
            cells.sort_by_key(|name| (name.aim.as_ref().map(|aim| aim.after), later(name)));
            let few = cells.iter().any(|name| name.scenario.others() > 0 || name.scenario.is_everybodys());
            let together = if few { FEW_UNDER_ONE_BLOW } else { UNDER_ONE_BLOW };
            let together = together.get(again).copied().unwrap_or(1);
            batches.extend(cells.chunks(together).map(<[Name]>::to_vec));
        }
    }
    batches
}

/// For each fault, what it does to others that run at the same time.
fn company(name: &Name) -> Vec<u8> {
    let kind = |fault: Fault| match fault {
        fault if fault.is_slow() => 0,
        Fault::CrashBefore | Fault::CrashAfter => 2,
        Fault::Two => 3,
        Fault::Pause => 4,
        Fault::CutOff => 5,
        Fault::Ahead => 6,
        Fault::Behind => 7,
        _ => 1,
    };
    name.faults().map(kind).collect()
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
        assert_eq!(plan.left_out.len(), 6 + 1, "the read's, and the provider's after its last call");
        let last = plan.cells.last().unwrap();
        assert_eq!(last.to_string(), "S2:3:SKEW-");
        assert_eq!(last.aim.as_ref().unwrap().occurrence, 2);
    }

    #[test]
    fn one_cell_a_row_or_a_column_can_be_asked_for() {
        let count = |only: &str| plan(&learned(), &Times::new(), &[only.parse().unwrap()]).cells.len();
        assert_eq!(count("S2:3:CA"), 1);
        assert_eq!(count("S2:1"), Fault::ALL.len());
        assert_eq!(count("S2::CA"), 2);
        assert_eq!(count("S5"), 0);
        assert_eq!(count("S2:1:SKEW+"), 1);
        assert_eq!(count("S2:1:SKEW++2:LA"), 1, "a pair begins with its first fault");
        for wrong in ["S99", "S2:x", "S2:1:XX", "S2:1:CA:2", "S2:1:CA+2", "S2:1:CA+2:XX"] {
            assert!(wrong.parse::<Only>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_batch_mixes_blows() {
        let cells = plan(&learned(), &Times::new(), &[]).cells;
        let batches = batches(&cells, 0);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), cells.len());
        for batch in batches {
            assert!(batch.iter().all(|name| company(name) == company(&batch[0])));
            let kills = |fault: Fault| matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
            let blows = |name: &Name| name.blows().into_iter().map(|b| (!kills(b)).then_some(b)).collect();
            let first: Vec<Option<Fault>> = blows(&batch[0]);
            assert!(batch.iter().all(|name| blows(name) == first));
        }
    }
}
