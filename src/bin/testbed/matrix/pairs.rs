//! Two faults in one run: the second strikes the way back from the first.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use chrono::{DateTime, Utc};

use super::batch::Ran;
use super::cell::{Name, Then};
use super::effect::Kind;
use super::fault::Fault;
use super::plan::{Only, Plan};
use super::report::{Outcome, counts, failures, rules, summary, tested};
use super::rule::{Place, not_applicable};
use super::scenario::Scenario;
use super::secrecy::Searched;

/// The scenarios of which every pair is a cell.
pub const SCENARIOS: [Scenario; 4] =
    [Scenario::CreateMinted, Scenario::Rotate, Scenario::DeleteKey, Scenario::DeleteNamespace];
/// What strikes first.
pub const FIRST: [Fault; 3] = [Fault::CrashBefore, Fault::CrashAfter, Fault::LostAfter];
/// What strikes then.
pub const SECOND: [Fault; 5] =
    [Fault::CrashBefore, Fault::CrashAfter, Fault::LostAfter, Fault::Stale, Fault::Edited];

/// Every effect that came after the first fault, when that was the only one, with every second fault.
pub fn plan(singles: &[Ran], only: &[Only]) -> Plan {
    let mut plan = Plan { cells: Vec::new(), left_out: Vec::new() };
    for ran in singles {
        let Some(struck_at) = ran.struck_at.filter(|_| ran.valid) else { continue };
        let after = ran.effects.iter().enumerate().skip(struck_at);
        let counted = after.filter(|(_, effect)| effect.kind != Kind::List);
        for (later, (index, effect)) in counted.enumerate() {
            for fault in SECOND {
                let then = Then { later: later + 1, fault, effect: effect.clone() };
                let name = Name { then: Some(then), ..ran.name.clone() };
                if !only.is_empty() && !only.iter().any(|only| only.takes(&name)) {
                    continue;
                }
                let place = Place { scenario: name.scenario, effects: &ran.effects, index };
                match not_applicable(&place, fault) {
                    Some(rule) => plan.left_out.push((name, rule.reason)),
                    None => plan.cells.push(name),
                }
            }
        }
    }
    plan
}

/// One of every so many, evenly.
pub fn sample(cells: Vec<Name>, every: usize) -> Vec<Name> {
    cells.into_iter().step_by(every.max(1)).collect()
}

/// Everything that was found out.
pub struct Report<'a> {
    /// How many pairs there are to which no rule applies.
    pub planned: usize,
    /// The cells that were run or left out.
    pub cells: Vec<(Name, Outcome)>,
    /// What was tested, in which version.
    pub versions: Vec<(String, String)>,
    /// When it ended.
    pub date: DateTime<Utc>,
    /// The search for keys where none may be.
    pub searched: &'a Searched,
}

impl Report<'_> {
    /// The page.
    pub fn markdown(&self) -> String {
        let mut page = String::from("# The crash matrix: two faults in one run\n\n");
        if let Err(error) = self.write(&mut page) {
            tracing::error!(%error, "a table is incomplete");
        }
        page
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        writeln!(
            page,
            "Written by `make crash-matrix PAIRS=1`. What it proves and what it does not: [README.md](README.md). Each row is an \
             effect of the undisturbed run and the fault that strikes it first; each column a second fault, which strikes one \
             of the effects that come after it: `5` says that it passed at five of them, `4/5` that it failed at one.\n"
        )?;
        writeln!(page, "{}\n", tested(&self.versions, self.date))?;
        let (passed, failed, _) = counts(&self.cells);
        writeln!(page, "Of {} pairs, {} were run.", self.planned, passed + failed)?;
        let mut rows: BTreeMap<(Scenario, usize, Fault), Row<'_>> = BTreeMap::new();
        for cell in &self.cells {
            if let Some(aim) = cell.0.aim.as_ref().filter(|_| cell.0.then.is_some()) {
                rows.entry((cell.0.scenario, aim.index, aim.fault)).or_default().push(cell);
            }
        }
        let mut above = None;
        for ((scenario, index, fault), cells) in rows {
            if above.replace(scenario) != Some(scenario) {
                writeln!(page, "\n## {}: {}\n", scenario.code(), scenario.story())?;
                let heads = SECOND.map(Fault::code).join(" | ");
                writeln!(
                    page,
                    "| | Effect | First | {heads} |\n|---|---|---|{}",
                    "---|".repeat(SECOND.len())
                )?;
            }
            let effect = cells.first().and_then(|(name, _)| name.aim.as_ref());
            let effect = effect.map(|aim| aim.effect.to_string()).unwrap_or_default();
            let told = SECOND.map(|second| told(&cells, second)).join(" | ");
            writeln!(page, "| {index} | `{effect}` | {} | {told} |", fault.code())?;
        }
        writeln!(page)?;
        writeln!(page, "The faults are those of [the table of single ones](crash-matrix.md#faults).")?;
        rules(page, &self.cells, &SECOND)?;
        failures(page, &self.cells, "testbed crash-matrix --pairs")?;
        writeln!(page, "\n{}", self.searched.sentence())?;
        writeln!(page, "\n{}", summary(&self.cells, self.searched))
    }
}

type Row<'a> = Vec<&'a (Name, Outcome)>;

/// How many of a row's cells with this second fault passed.
fn told(cells: &[&(Name, Outcome)], second: Fault) -> String {
    let of = cells.iter().filter(|(name, _)| name.then.as_ref().is_some_and(|then| then.fault == second));
    let of: Vec<&Outcome> = of.map(|(_, outcome)| outcome).collect();
    let passed = of.iter().filter(|outcome| ***outcome == Outcome::Passed).count();
    let failed = of.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
    match (passed, failed) {
        (0, 0) if of.is_empty() => String::new(),
        (0, 0) => "·".to_owned(),
        (passed, 0) => passed.to_string(),
        (passed, failed) => format!("**{passed}/{}**", passed + failed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use llmkey_operator::trace::Trace;

    use super::super::cell::Aim;
    use super::super::effect::Effect;
    use super::*;

    fn single() -> Ran {
        let effect = |kind| Effect { kind, detail: String::new() };
        let kinds = [Kind::LedgerSwap, Kind::Mint, Kind::List, Kind::Validate, Kind::LedgerSwap];
        let aim = Aim {
            index: 1,
            effect: effect(Kind::LedgerSwap),
            occurrence: 1,
            fault: Fault::CrashAfter,
            after: Duration::ZERO,
        };
        Ran {
            name: Name { scenario: Scenario::Rotate, aim: Some(aim), then: None },
            effects: kinds.map(effect).to_vec(),
            times: Vec::new(),
            trace: Trace::default(),
            struck_at: Some(1),
            state: serde_json::Value::Null,
            valid: true,
            problems: Vec::new(),
        }
    }

    #[test]
    fn every_effect_after_the_first_fault_has_every_second_one() {
        let plan = plan(&[single()], &[]);
        assert_eq!(plan.cells.len() + plan.left_out.len(), 3 * SECOND.len(), "lists come by a clock");
        assert_eq!(plan.left_out.len(), 2, "the read's CA and LA");
        assert_eq!(plan.cells[0].to_string(), "S2:1:CA+1:CB");
        let last = plan.cells.last().unwrap();
        assert_eq!(last.to_string(), "S2:1:CA+3:EDIT");
        assert_eq!(super::plan(&[single()], &["S2:1:CA+2:CB".parse().unwrap()]).cells.len(), 1);
        assert_eq!(super::plan(&[single()], &["S2:1:CB".parse().unwrap()]).cells.len(), 0);
        assert_eq!(sample(plan.cells.clone(), 5).len(), 3);
        let shorter = |effects: usize| {
            let single = single();
            let effects = single.effects[..effects].to_vec();
            Ran { name: plan.cells[0].clone(), effects, ..single }.way_back_is_shorter()
        };
        assert!(shorter(1) && !shorter(2));
        assert!(super::plan(&[Ran { valid: false, ..single() }], &[]).cells.is_empty());
    }

    #[test]
    fn a_page_counts_by_row_and_column() {
        let plan = plan(&[single()], &[]);
        let planned = plan.cells.len();
        let cells = plan.cells.into_iter().map(|name| {
            let fails = name.to_string() == "S2:1:CA+3:EDIT";
            (name, if fails { Outcome::Failed(vec!["I1".to_owned()]) } else { Outcome::Passed })
        });
        let searched = Searched { keys: 1, logs: 0, revisions: 1, leaks: Vec::new() };
        let report = Report {
            planned,
            cells: cells.collect(),
            versions: Vec::new(),
            date: DateTime::UNIX_EPOCH,
            searched: &searched,
        };
        let page = report.markdown();
        assert!(page.contains("| 1 | `ledger:swap` | CA | 3 | 2 | 2 | 3 | **2/3** |"), "{page}");
        assert!(
            page.contains(
                "crash-matrix --pairs --only S2:1:CA+3:EDIT` (`ledger:swap`, then `ledger:swap`): I1"
            )
        );
        assert!(page.ends_with("13 passed, 1 failed, 0 n.a.\n"), "{page}");
    }
}
