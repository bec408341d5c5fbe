//! The tables.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use chrono::{DateTime, Utc};

use super::cell::Name;
use super::fault::Fault;
use super::plan::Learned;
use super::rule::{RULES, Rule, SHORTER};
use super::scenario::Scenario;
use super::secrecy::Searched;

/// How a cell ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is broken.
    Passed,
    /// What is broken.
    Failed(Vec<String>),
    /// A rule leaves it out.
    NotApplicable(&'static str),
}

/// Everything that was found out.
pub struct Report<'a> {
    /// The rows.
    pub learned: Learned,
    /// The cells.
    pub cells: Vec<(Name, Outcome)>,
    /// What was tested, in which version.
    pub versions: Vec<(String, String)>,
    /// When it ended.
    pub date: DateTime<Utc>,
    /// The search for keys where none may be.
    pub searched: &'a Searched,
}

/// Cells that passed, failed, and were left out.
pub fn counts(cells: &[(Name, Outcome)]) -> (usize, usize, usize) {
    let count = |wanted: fn(&Outcome) -> bool| cells.iter().filter(|(_, o)| wanted(o)).count();
    (
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::NotApplicable(_))),
    )
}

/// The closing line. The search for keys where none may be counts as one more cell.
pub fn summary(cells: &[(Name, Outcome)], searched: &Searched) -> String {
    let (mut passed, mut failed, left_out) = counts(cells);
    if searched.leaks.is_empty() {
        passed += 1;
    } else {
        failed += 1;
    }
    format!("{passed} passed, {failed} failed, {left_out} n.a.")
}

/// What was tested, and when.
pub fn tested(versions: &[(String, String)], date: DateTime<Utc>) -> String {
    let versions: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!("Run of {}: {}.", date.format("%-d %B %Y, %H:%M UTC"), versions.join(", "))
}

/// The table of what is left out, by the rules that took a cell or could have taken one.
pub fn rules(page: &mut String, cells: &[(Name, Outcome)], faults: &[Fault]) -> fmt::Result {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, outcome) in cells {
        if let Outcome::NotApplicable(reason) = outcome {
            *counts.entry(reason).or_default() += 1;
        }
    }
    rule_table(page, faults, |rule| {
        let count = counts.get(rule.reason).copied().unwrap_or_default();
        (count > 0 || rule.reason != SHORTER).then(|| count.to_string())
    })
}

/// The rules for these faults, each with a word in the last column, if it is shown.
pub fn rule_table(
    page: &mut String,
    faults: &[Fault],
    word: impl Fn(&Rule) -> Option<String>,
) -> fmt::Result {
    writeln!(page, "\n## What is left out\n\n| Faults | At | Why | Cells |\n|---|---|---|---|")?;
    for rule in RULES {
        let faults: Vec<&str> =
            rule.faults.iter().filter(|fault| faults.contains(fault)).map(|fault| fault.code()).collect();
        if let Some(word) = word(rule).filter(|_| !faults.is_empty()) {
            writeln!(page, "| {} | {} | {} | {word} |", faults.join(", "), rule.at, rule.reason)?;
        }
    }
    Ok(())
}

/// A story's rows.
pub fn story_table(page: &mut String, report: &Report<'_>, scenario: Scenario) -> fmt::Result {
    let heads: Vec<&str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
    writeln!(page, "| | Effect | {} |", heads.join(" | "))?;
    writeln!(page, "|---|---|{}", "---|".repeat(heads.len()))?;
    for (index, effect) in report.learned.get(&scenario).iter().flat_map(|effects| effects.iter().enumerate())
    {
        let cells: Vec<&str> =
            Fault::ALL.iter().map(|fault| report.cell(scenario, index + 1, *fault)).collect();
        writeln!(page, "| {} | `{effect}` | {} |", index + 1, cells.join(" | "))?;
    }
    Ok(())
}

/// Each failure, with the command that runs it alone.
pub fn failures(page: &mut String, cells: &[(Name, Outcome)], command: &str) -> fmt::Result {
    let failed = cells.iter().filter_map(|(name, outcome)| match outcome {
        Outcome::Failed(problems) => Some((name, problems)),
        _ => None,
    });
    let mut begun = false;
    for (name, problems) in failed {
        if !begun {
            writeln!(page, "\n## Failures\n")?;
            begun = true;
        }
        let first = name.aim.as_ref().map(|aim| aim.effect.to_string());
        let second = name.then.as_ref().map(|then| then.effect.to_string());
        let effects: Vec<String> =
            first.into_iter().chain(second).map(|effect| format!("`{effect}`")).collect();
        writeln!(page, "- `{command} --only {name}` ({}): {}", effects.join(", then "), problems.join("; "))?;
    }
    Ok(())
}

impl Report<'_> {
    /// The page: tables, legend, rules, failures, closing line.
    pub fn markdown(&self) -> String {
        let mut page = String::from("# The crash matrix\n\n");
        if let Err(error) = self.write(&mut page) {
            tracing::error!(%error, "a table is incomplete");
        }
        page
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        writeln!(
            page,
            "Written by `make crash-matrix`. What it proves and what it does not: [README.md](README.md). Each row is an \
             effect of the undisturbed run, in order; each column a fault that strikes it. `ok`: passed. `·`: left out by a \
             rule below. `FAIL`: see the end.\n"
        )?;
        writeln!(page, "{}\n", tested(&self.versions, self.date))?;
        for scenario in self.learned.keys() {
            writeln!(page, "## {}: {}\n", scenario.code(), scenario.story())?;
            story_table(page, self, *scenario)?;
            writeln!(page)?;
        }
        writeln!(page, "## Faults\n\n| | What happens |\n|---|---|")?;
        for fault in Fault::ALL {
            writeln!(page, "| {} | {} |", fault.code(), fault.meaning())?;
        }
        rules(page, &self.cells, &Fault::ALL)?;
        failures(page, &self.cells, "testbed crash-matrix")?;
        writeln!(page, "\n{}", self.searched.sentence())?;
        writeln!(page, "\n{}", summary(&self.cells, self.searched))
    }

    fn cell(&self, scenario: Scenario, index: usize, fault: Fault) -> &'static str {
        let found = self.cells.iter().find(|(name, _)| {
            name.scenario == scenario
                && name.aim.as_ref().is_some_and(|aim| aim.index == index && aim.fault == fault)
        });
        match found {
            Some((_, Outcome::Passed)) => "ok",
            Some((_, Outcome::Failed(_))) => "**FAIL**",
            Some((_, Outcome::NotApplicable(_))) => "·",
            None => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::Aim;
    use super::super::effect::{Effect, Kind};
    use super::*;

    #[test]
    fn a_page_has_its_cells_its_failures_and_its_sum() {
        let effect = Effect { kind: Kind::Mint, detail: String::new() };
        let name = |fault| {
            let after = std::time::Duration::ZERO;
            let aim = Aim { index: 1, effect: effect.clone(), occurrence: 1, fault, after };
            Name { scenario: Scenario::Rotate, aim: Some(aim), then: None }
        };
        let searched = Searched { keys: 2, logs: 3 << 20, revisions: 4, leaks: Vec::new() };
        let report = Report {
            learned: BTreeMap::from([(Scenario::Rotate, vec![effect.clone()])]),
            cells: vec![
                (name(Fault::CrashBefore), Outcome::Passed),
                (name(Fault::CrashAfter), Outcome::Failed(vec!["I2: lk1-x is lost".to_owned()])),
                (name(Fault::Edited), Outcome::NotApplicable(RULES[0].reason)),
            ],
            versions: vec![("Kubernetes".to_owned(), "v1".to_owned())],
            date: DateTime::UNIX_EPOCH,
            searched: &searched,
        };
        let page = report.markdown();
        assert!(page.contains("| 1 | `provider:mint` | ok | **FAIL** |"), "{page}");
        assert!(page.contains("`testbed crash-matrix --only S2:1:CA` (`provider:mint`): I2: lk1-x is lost"));
        assert!(page.contains("I5: 2 keys, searched for in 3 MiB of logs"));
        assert!(page.ends_with("2 passed, 1 failed, 1 n.a.\n"));
        let leaks = vec!["operator-0.log: 1 known, 0 as they are".to_owned()];
        let broken = Searched { leaks, ..searched };
        let broken = Report { searched: &broken, ..report };
        assert!(broken.markdown().ends_with("1 passed, 2 failed, 1 n.a.\n"));
    }
}
