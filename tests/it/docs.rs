//! The documentation's tables, compared with the program, and its links, with the files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmkey_operator::api::{self, ConditionType, Reason};
use llmkey_operator::domain::evidence::{Obstacle, Waits};
use llmkey_operator::domain::timings::Timings;
use llmkey_operator::testbed::source_dir;

fn concepts() -> String {
    fs::read_to_string(source_dir().join("docs/concepts.md")).unwrap()
}

/// The rows of the first table below a heading, as cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let lines =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

fn first_cells(text: &str, heading: &str) -> Vec<String> {
    let name = |cell: &str| cell.trim_matches(['(', ')']).trim_matches('`').to_owned();
    table(text, heading).iter().map(|row| name(&row[0])).collect()
}

fn sorted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort();
    names
}

#[test]
fn every_condition_is_explained() {
    let known: Vec<String> = ConditionType::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(first_cells(&concepts(), "## Conditions"), known);
}

#[test]
fn every_reason_is_explained_once() {
    let known = Reason::ALL.iter().map(|reason| reason.as_str().to_owned());
    assert_eq!(sorted(first_cells(&concepts(), "### Reasons")), sorted(known));
}

#[test]
fn every_reason_of_a_consumer_is_explained() {
    let rows: Vec<String> = concepts()
        .lines()
        .filter(|l| l.starts_with("| `Stale`") || l.starts_with("| `Straggler`"))
        .map(str::to_owned)
        .collect();
    let stale = Waits::ALL.map(|waits| format!("| `Stale` | `{}` |", waits.as_str()));
    let stragglers = Obstacle::ALL.map(|obstacle| format!("| `Straggler` | `{}` |", obstacle.as_str()));
    let known: Vec<String> = stale.into_iter().chain(stragglers).collect();
    assert_eq!(rows.len(), known.len(), "{rows:?}");
    for row in known {
        assert!(rows.iter().any(|told| told.starts_with(&row)), "{row}");
    }
}

#[test]
fn every_constant_of_time_is_listed_with_its_default() {
    let told = |duration: Duration| match duration.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    };
    let rows: Vec<Vec<String>> = Timings::table()
        .into_iter()
        .map(|row| vec![format!("`{}`", row.name), told(row.default), row.what])
        .collect();
    let wanted: Vec<String> = rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(table(&concepts(), "## Constants of time"), rows, "the table:\n{}", wanted.join("\n"));
}

#[test]
fn every_column_is_explained() {
    let crd = api::crd::<api::LLMKey>();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names = columns.iter().map(|column| column["name"].as_str().unwrap().to_owned());
    assert_eq!(sorted(first_cells(&concepts(), "## Columns")), sorted(names));
}

#[test]
fn every_example_is_in_the_readme() {
    let readme = fs::read_to_string(source_dir().join("README.md")).unwrap();
    for entry in fs::read_dir(source_dir().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("(examples/{name})")), "{name}");
    }
}

/// The pages below a directory, by their paths.
fn pages_in(dir: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages.extend(pages_in(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn pages() -> Vec<PathBuf> {
    let root = source_dir();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].iter().map(|name| root.join(name)).collect();
    pages.extend(pages_in(&root.join("docs")));
    pages
}

/// `mdBook` leaves out of the site what its table of contents does not name, and breaks links to it.
#[test]
fn the_sites_table_of_contents_has_every_page_once() {
    let docs = source_dir().join("docs");
    let contents = docs.join("SUMMARY.md");
    let text = fs::read_to_string(&contents).unwrap();
    let listed =
        text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(|link| docs.join(link));
    let mut listed: Vec<PathBuf> = listed.collect();
    listed.sort();
    let mut pages = pages_in(&docs);
    pages.retain(|page| *page != contents);
    assert_eq!(listed, pages);
}

/// What the page about providers shows as added still stands in the files that it names.
#[test]
fn the_diffs_of_the_page_about_providers_are_what_the_program_has() {
    let page = fs::read_to_string(source_dir().join("docs/adding-a-provider.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("\n```diff\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(blocks.len() > 3, "{} diffs", blocks.len());
    for block in blocks {
        let mut file: Option<(&str, String)> = None;
        for line in block.lines() {
            if let Some(name) = line.strip_prefix("+++ b/") {
                file = Some((name, fs::read_to_string(source_dir().join(name)).unwrap()));
            } else if let (Some(added), Some((name, text))) = (line.strip_prefix('+'), &file) {
                assert!(
                    text.lines().any(|line| line.trim() == added.trim()),
                    "{name} does not have: {added}"
                );
            } else {
                assert!(file.is_some(), "{line}: a diff begins with +++ b/FILE");
            }
        }
    }
}

/// The text without code, in which a pattern may look like a link.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let mut code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// Anchors as GitHub makes them of headings: lower case, no punctuation, dashes for spaces.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        for link in prose(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            assert!(
                anchor.is_empty() || anchors(&target).contains(anchor),
                "{}: {link} has no such heading",
                page.display()
            );
        }
    }
}
