//! The table in the repository: a page for each story, so that the whole can be run in parts, and an index of all pages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::fault::Fault;
use super::report::{Outcome, Report, counts, failures, rule_table, story_table, tested};
use super::rule::SHORTER;
use super::scenario::Scenario;

/// Passed, failed and left out.
type Sum = (usize, usize, usize);

/// Writes the pages of the stories that were run into the directory, and the index beside it.
pub fn write(directory: &Path, report: &Report<'_>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for scenario in report.learned.keys() {
        let page = page(report, *scenario).map_err(io::Error::other)?;
        fs::write(directory.join(scenario.code()).with_extension("md"), page)?;
    }
    let mut found = BTreeMap::new();
    for scenario in Scenario::ALL {
        match fs::read_to_string(directory.join(scenario.code()).with_extension("md")) {
            Ok(page) => drop(found.insert(scenario, page)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    fs::write(directory.with_extension("md"), index(&found, &name).map_err(io::Error::other)?)
}

/// One story.
fn page(report: &Report<'_>, scenario: Scenario) -> Result<String, std::fmt::Error> {
    let cells: Vec<_> = report.cells.iter().filter(|(name, _)| name.scenario == scenario).cloned().collect();
    let mut page = format!("# {}: {}\n\n", scenario.code(), scenario.story());
    writeln!(page, "{}", tested(&report.versions, report.date))?;
    writeln!(page, "What the columns and the signs mean: [the index](../crash-matrix.md).\n")?;
    story_table(&mut page, report, scenario)?;
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, outcome) in &cells {
        if let Outcome::NotApplicable(reason) = outcome {
            *left_out.entry(reason).or_default() += 1;
        }
    }
    if !left_out.is_empty() {
        writeln!(page, "\n| Left out | Why |\n|---|---|")?;
    }
    for (reason, count) in left_out {
        writeln!(page, "| {count} | {reason} |")?;
    }
    failures(&mut page, &cells, "testbed crash-matrix")?;
    writeln!(page, "\n{}", report.searched.sentence())?;
    let (passed, mut failed, left_out) = counts(&cells);
    failed += usize::from(!report.searched.leaks.is_empty());
    writeln!(page, "\n{}", sentence((passed, failed, left_out)))?;
    Ok(page)
}

fn sentence((passed, failed, left_out): Sum) -> String {
    format!("{passed} passed, {failed} failed, {left_out} n.a.")
}

/// What a page's last line says.
fn sum(page: &str) -> Option<Sum> {
    let mut parts = page.trim_end().lines().last()?.split(", ");
    let mut number = |unit: &str| parts.next()?.strip_suffix(unit)?.trim_end().parse().ok();
    Some((number("passed")?, number("failed")?, number("n.a.")?))
}

/// All stories, with what their pages say of themselves.
fn index(pages: &BTreeMap<Scenario, String>, directory: &str) -> Result<String, std::fmt::Error> {
    let mut index = String::from("# The crash matrix\n\n");
    writeln!(
        index,
        "Written by `make crash-matrix`. What it proves and what it does not: [README.md](README.md). Each story has a page; each \
         row of its table is an effect of the undisturbed run, in order, each column a fault that strikes it. `ok`: passed. `·`: \
         left out by a rule below. `FAIL`: see the page's end. Stories can be run one by one (`make crash-matrix ONLY=S2`): each \
         page says when it was, and with what.\n"
    )?;
    writeln!(index, "| | What happens | Cells | Run |\n|---|---|---|---|")?;
    let mut all: Sum = (0, 0, 0);
    for scenario in Scenario::ALL {
        let (code, story) = (scenario.code(), scenario.story());
        let Some((page, sum)) = pages.get(&scenario).and_then(|page| Some((page, sum(page)?))) else {
            writeln!(index, "| {code} | {story} | not run | |")?;
            continue;
        };
        all = (all.0 + sum.0, all.1 + sum.1, all.2 + sum.2);
        let run = page.lines().find_map(|line| line.strip_prefix("Run of ")).unwrap_or_default();
        writeln!(
            index,
            "| [{code}]({directory}/{code}.md) | {story} | {} | {} |",
            sentence(sum),
            run.trim_end_matches('.')
        )?;
    }
    writeln!(index, "\n## Faults\n\n| | What happens |\n|---|---|")?;
    for fault in Fault::ALL {
        writeln!(index, "| {} | {} |", fault.code(), fault.meaning())?;
    }
    rule_table(&mut index, &Fault::ALL, |rule| (rule.reason != SHORTER).then(String::new))?;
    let missing = Scenario::ALL.len() - pages.len();
    if missing > 0 {
        writeln!(index, "\nNot run: {missing} of {} stories.", Scenario::ALL.len())?;
    }
    writeln!(index, "\n{}", sentence(all))?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_adds_up_what_the_pages_say() {
        let page = |sum: &str| format!("# S\n\nRun of 1 May 2027, 10:00 UTC: x 1.\n\nI5: none\n\n{sum}\n");
        let pages = BTreeMap::from([
            (Scenario::CreateMinted, page("10 passed, 0 failed, 2 n.a.")),
            (Scenario::Rotate, page("5 passed, 1 failed, 0 n.a.")),
        ]);
        let index = index(&pages, "matrix").unwrap();
        assert!(index.contains("| [S1](matrix/S1.md) | "), "{index}");
        assert!(index.contains(" | 5 passed, 1 failed, 0 n.a. | 1 May 2027, 10:00 UTC: x 1 |"), "{index}");
        assert!(index.contains("| S5 | an LLMKey with a made key is deleted, without grace | not run | |"));
        assert!(index.ends_with("15 passed, 1 failed, 2 n.a.\n"), "{index}");
    }

    #[test]
    fn a_page_without_a_sum_counts_as_not_run() {
        assert_eq!(sum("1 passed, 2 failed, 3 n.a.\n"), Some((1, 2, 3)));
        assert_eq!([sum("1 passed"), sum(""), sum("a passed, 2 failed, 3 n.a.")], [None; 3]);
    }
}
