//! What is counted, and what the probers wrote down: the witnesses of every check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use llmkey_operator::kube_ext::clock::Clock;
use serde::Deserialize;

use super::workloads::Way;
use super::{Failure, line};

/// Checks as they come, and their sum.
pub struct Report {
    clock: Clock,
    passed: usize,
    failed: usize,
}

impl Report {
    /// Time counts from here.
    pub fn start() -> Self {
        Self { clock: Clock::start(), passed: 0, failed: 0 }
    }

    /// Tells what is going on, with the seconds since the start.
    pub fn say(&self, text: &str) -> io::Result<()> {
        line(&format!("{:>6.1} s  {text}", self.clock.monotonic().as_secs_f64()))
    }

    /// Counts a check: what was measured, or what is wrong.
    pub fn check(&mut self, name: &str, result: Result<String, String>) -> io::Result<()> {
        let colon = |more: &str| if more.is_empty() { String::new() } else { format!(": {more}") };
        match result {
            Ok(measured) => {
                self.passed += 1;
                self.say(&format!("  ok      {name}{}", colon(&measured)))
            }
            Err(problem) => {
                self.failed += 1;
                self.say(&format!("  FAILED  {name}{}", colon(&problem)))
            }
        }
    }

    /// Checks that did not hold.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// The last line.
    pub fn close(&self) -> io::Result<()> {
        let took = self.clock.monotonic().as_secs();
        line(&format!("{} passed, {} failed ({took} s)", self.passed, self.failed))
    }
}

/// A check of two values that must be the same.
pub fn same<T: PartialEq + std::fmt::Debug>(found: &T, wanted: &T) -> Result<String, String> {
    if found == wanted { Ok(String::new()) } else { Err(format!("{found:?} in place of {wanted:?}")) }
}

/// A line that a prober wrote.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Who.
    pub pod: String,
    /// When, by the node's clock.
    pub time: DateTime<Utc>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What a prober saw.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// It uses this key from now on.
    Key { last_four: String },
    /// So many calls were accepted until now.
    Calls { accepted: u64 },
    /// The provider refused the key.
    Refused { last_four: String, status: u16 },
    /// No answer came.
    Lost { why: String },
}

/// All lines of all probers that ever ran, each pod's in order. A line that is being written is left out.
pub fn lines(dir: &Path) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for file in fs::read_dir(dir)? {
        let text = fs::read_to_string(file?.path())?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            lines.push(serde_json::from_str(line)?);
        }
    }
    Ok(lines)
}

/// Which workload wrote it.
pub fn way(line: &Line) -> Option<Way> {
    Way::ALL.into_iter().find(|way| line.pod.starts_with(way.name()))
}

/// No call was refused, but for those with a key whose end was declared; how many were accepted, and how many lost on the way:
/// these say nothing of the key.
pub fn refusals(lines: &[Line], declared: &BTreeSet<String>) -> Result<String, String> {
    let wrong: Vec<&Line> = lines
        .iter()
        .filter(
            |line| matches!(&line.event, Event::Refused { last_four, .. } if !declared.contains(last_four)),
        )
        .collect();
    let lost = lines.iter().filter(|line| matches!(line.event, Event::Lost { .. })).count();
    let mut accepted = BTreeMap::new();
    for line in lines {
        if let Event::Calls { accepted: calls } = line.event {
            accepted.insert(&line.pod, calls);
        }
    }
    match wrong.first() {
        None => {
            Ok(format!("{} calls of {} pods, {lost} lost", accepted.values().sum::<u64>(), accepted.len()))
        }
        Some(first) => Err(format!("{} calls, the first of them {first:?}", wrong.len())),
    }
}

/// How long a workload's pods were refused with a key: from the first refusal to the last.
pub fn outage(lines: &[Line], workload: Way, key: &str) -> Option<Duration> {
    let times = lines.iter().filter(|line| {
        way(line) == Some(workload)
            && matches!(&line.event, Event::Refused { last_four, .. } if last_four == key)
    });
    let times: BTreeSet<DateTime<Utc>> = times.map(|line| line.time).collect();
    (*times.last()? - *times.first()?).to_std().ok()
}

/// When the pods of a workload began to use a key, by pod.
pub fn begun(lines: &[Line], workload: Way, key: &str) -> BTreeMap<String, DateTime<Utc>> {
    let uses = |line: &&Line| {
        way(line) == Some(workload) && matches!(&line.event, Event::Key { last_four } if last_four == key)
    };
    lines.iter().filter(uses).map(|line| (line.pod.clone(), line.time)).collect()
}
