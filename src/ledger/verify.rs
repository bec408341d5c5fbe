//! Whether an audit trail is whole: nothing taken out, nothing put in, nothing edited, and its end is the ledgers'.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::audit::{Entry, TARGET};
use super::record::Record;

/// One key's chain: namespace, name and lineage.
type Key = (String, String, String);

/// The newest link of a key's chain, as its ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Namespace, name and lineage.
    pub key: (String, String, String),
    /// The ledger's epoch.
    pub sequence: i64,
    /// Hash of the line of its last write; none for a ledger that was last written before there was a trail.
    pub hash: Option<String>,
}

impl Head {
    /// The head that a ledger has.
    pub fn of(record: &Record) -> Self {
        Self {
            key: (record.namespace.clone(), record.name.clone(), record.lineage.clone()),
            sequence: record.epoch,
            hash: record.audit_head.clone(),
        }
    }
}

/// What is wrong with a trail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// A line of the trail that cannot be read.
    Garbled {
        /// Its number in the input, from 1.
        line: usize,
    },
    /// A line does not have the hash that its text has: it was edited.
    Edited {
        /// Its number in the input, from 1.
        line: usize,
    },
    /// A line follows one that is not there.
    Gap {
        /// The key, as namespace/name.
        key: String,
        /// The line before this one is missing.
        before: i64,
    },
    /// There is no ledger, and no line says that it was deleted.
    LedgerGone {
        /// The key, as namespace/name.
        key: String,
    },
    /// The ledger's last write has no line.
    Behind {
        /// The key, as namespace/name.
        key: String,
        /// The ledger's sequence.
        ledger: i64,
        /// That of the newest line; 0 if there is none.
        trail: i64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbled { line } => write!(f, "line {line}: cannot be read"),
            Self::Edited { line } => {
                write!(f, "line {line}: its text does not have its hash, so it was edited")
            }
            Self::Gap { key, before } => {
                write!(f, "{key}: line {before} follows a line that is missing; look for it in older logs")
            }
            Self::LedgerGone { key } => {
                write!(f, "{key}: its ledger is gone, and no line says that the operator deleted it")
            }
            Self::Behind { key, ledger, trail } => write!(
                f,
                "{key}: the ledger was written {ledger} times, and the newest line that leads there is {trail}"
            ),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys with at least one line.
    pub keys: usize,
    /// Lines of the trail.
    pub lines: usize,
    /// Lines whose write did not come about: another hand was first, or the process ended.
    pub not_done: usize,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
}

/// Reads a trail out of log lines, other lines included. `heads` are those of the ledgers, if they are at hand; a trail
/// alone does not show that its end was cut off.
pub fn verify<'a>(lines: impl Iterator<Item = &'a str>, heads: Option<&[Head]>) -> Report {
    let mut report = Report::default();
    let mut chains: BTreeMap<Key, Vec<Entry>> = BTreeMap::new();
    for (number, line) in (1..).zip(lines) {
        // Log collectors put their own prefix before a line.
        let Some(start) = line.find('{').filter(|_| line.contains(TARGET)) else { continue };
        report.lines += 1;
        match serde_json::from_str::<Entry>(line[start..].trim_end()) {
            Ok(entry) if entry.digest().as_ref() == Some(&entry.hash) => {
                let key = (entry.namespace.clone(), entry.name.clone(), entry.lineage.clone());
                chains.entry(key).or_default().push(entry);
            }
            Ok(_) => report.problems.push(Problem::Edited { line: number }),
            Err(_) => report.problems.push(Problem::Garbled { line: number }),
        }
    }
    report.keys = chains.len();
    for (key, entries) in &mut chains {
        entries.sort_by_key(|e| e.sequence);
        entries.dedup();
        let head = heads.and_then(|heads| heads.iter().find(|h| h.key == *key));
        let end = chain(key, entries, head, &mut report);
        let deleted = end.is_none_or(|end| end.also.iter().any(|what| what == "Deleted"));
        if heads.is_some() && head.is_none() && !deleted {
            report.problems.push(Problem::LedgerGone { key: format!("{}/{}", key.0, key.1) });
        }
    }
    for head in heads.unwrap_or_default().iter().filter(|h| !chains.contains_key(&h.key) && h.hash.is_some())
    {
        let key = format!("{}/{}", head.key.0, head.key.1);
        report.problems.push(Problem::Behind { key, ledger: head.sequence, trail: 0 });
    }
    report.problems.sort();
    report
}

/// From the end back to the beginning: what is not on the way was not done. Returns the end.
fn chain<'a>(key: &Key, entries: &'a [Entry], head: Option<&Head>, report: &mut Report) -> Option<&'a Entry> {
    let name = format!("{}/{}", key.0, key.1);
    let by_hash: BTreeMap<&str, &Entry> = entries.iter().map(|e| (e.hash.as_str(), e)).collect();
    let followed: BTreeSet<&str> = entries.iter().map(|e| e.previous.as_str()).collect();
    // Without the ledger any line that none follows may be the end.
    let newest = entries.iter().rev().find(|e| !followed.contains(e.hash.as_str()));
    let told = head.and_then(|head| by_hash.get(head.hash.as_deref()?).copied());
    if let (Some(head), None) = (head, told) {
        let trail = newest.map_or(0, |e| e.sequence);
        report.problems.push(Problem::Behind { key: name.clone(), ledger: head.sequence, trail });
    }
    let end = told.or(newest);
    let mut at = end;
    let mut on_the_way = BTreeSet::new();
    while let Some(entry) = at {
        on_the_way.insert(entry.hash.as_str());
        let before = by_hash.get(entry.previous.as_str()).copied();
        if before.is_none() && !(entry.previous.is_empty() && begins(entry)) {
            report.problems.push(Problem::Gap { key: name.clone(), before: entry.sequence });
        }
        at = before;
    }
    report.not_done += entries.iter().filter(|e| !on_the_way.contains(e.hash.as_str())).count();
    end
}

/// A chain begins with the ledger, or with the first write after an update from a version without a trail.
fn begins(entry: &Entry) -> bool {
    entry.sequence == 1 || !entry.also.iter().any(|what| what == "Created")
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{at, record, version};
    use super::*;
    use crate::domain::lifecycle::{Origin, VersionState};

    /// A life of five writes, and its ledger at the end.
    fn life() -> (Vec<String>, Record) {
        let mut lines = Vec::new();
        let mut before: Option<Record> = None;
        for (epoch, state) in (1..).zip([
            VersionState::Intent,
            VersionState::Pending,
            VersionState::Current,
            VersionState::Overlap,
            VersionState::Retiring,
        ]) {
            let after = Record { epoch, ..record(vec![version(1, state, Origin::Minted)]) };
            let entry = Entry::new(before.as_ref(), Some(&after), at(epoch)).unwrap();
            lines.push(serde_json::to_string(&entry).unwrap());
            before = Some(Record { audit_head: Some(entry.hash), ..after });
        }
        (lines, before.unwrap())
    }

    fn check(lines: &[String], heads: Option<&[Head]>) -> (usize, Vec<String>) {
        let report = verify(lines.iter().map(String::as_str), heads);
        (report.not_done, report.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_trail_is_whole_in_any_order_and_among_other_lines() {
        let (mut lines, ledger) = life();
        lines.reverse();
        lines.push("a line of something else {\"level\":\"INFO\"}".into());
        lines.push(format!("2027-01-01 stdout F {}", lines[0]));
        let heads = [Head::of(&ledger)];
        assert_eq!(check(&lines, Some(&heads)), (0, vec![]));
        let report = verify(lines.iter().map(String::as_str), None);
        assert_eq!((report.keys, report.lines, report.problems), (1, 6, vec![]));
    }

    #[test]
    fn what_is_taken_out_edited_or_cut_off_shows() {
        let (lines, ledger) = life();
        let heads = [Head::of(&ledger)];
        let without = |n: usize| {
            let mut lines = lines.clone();
            lines.remove(n);
            lines
        };
        assert_eq!(check(&without(0), Some(&heads)).1.len(), 1);
        let gap = "team-a/chat: line 4 follows a line that is missing; look for it in older logs";
        assert_eq!(check(&without(2), None).1, [gap]);
        assert_eq!(check(&without(4), None), (0, vec![]), "an end that was cut off shows only at the ledger");
        let cut = "team-a/chat: the ledger was written 5 times, and the newest line that leads there is 4";
        assert_eq!(check(&without(4), Some(&heads)).1, [cut]);
        let mut edited = lines.clone();
        edited[1] = edited[1].replace("Pending", "Current");
        let found = check(&edited, Some(&heads)).1;
        assert!(found[0].contains("line 2: its text does not have its hash"), "{found:?}");
        assert_eq!(check(&[], Some(&heads)).1.len(), 1);
        let gone = "team-a/chat: its ledger is gone, and no line says that the operator deleted it";
        assert_eq!(check(&lines, Some(&[])).1, [gone]);
        let last = Entry::new(Some(&ledger), None, at(6)).unwrap();
        let all = [lines, vec![serde_json::to_string(&last).unwrap()]].concat();
        assert_eq!(check(&all, Some(&[])), (0, vec![]));
    }

    #[test]
    fn a_write_that_did_not_come_about_is_no_gap() {
        let (mut lines, ledger) = life();
        let third: Entry = serde_json::from_str(&lines[2]).unwrap();
        let mut lost = Entry { writer: "another".into(), hash: String::new(), ..third };
        lost.hash = lost.digest().unwrap();
        lines.insert(2, serde_json::to_string(&lost).unwrap());
        assert_eq!(check(&lines, Some(&[Head::of(&ledger)])), (1, vec![]));
    }
}
