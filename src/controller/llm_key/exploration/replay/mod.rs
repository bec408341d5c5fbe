//! Traces of the program, replayed: for each there must be a run of the model that shows the same.
//!
//! docs/evidence/model.md says what that proves and what it leaves out.

mod beside;
mod rule;
mod search;
#[cfg(test)]
mod tests;
mod visible;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use super::actions::{Action, Calm, Machine};
use super::configurations::Configuration;
use super::place::Edit;
use crate::trace::{Entry, Trace};
use rule::not_applicable;
use search::{FREE, Followed, Free, Guess};

/// What came of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The model has a run that shows the same.
    Passed,
    /// It has none; how far it could be followed.
    Failed(String),
    /// The model lacks what the trace is about.
    NotApplicable(&'static str),
}

/// Replays traces, one line of JSON each, and tells of each that fails. True if every one passes that the model can have.
pub fn replay(traces: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<bool> {
    let mut stage = Stage::default();
    let (mut passed, mut failed) = (0_usize, 0_usize);
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    for line in traces.lines() {
        let trace: Trace = serde_json::from_str(&line?)?;
        match stage.judge(&trace) {
            Verdict::Passed => passed += 1,
            Verdict::NotApplicable(reason) => *left_out.entry(reason).or_default() += 1,
            Verdict::Failed(story) => {
                failed += 1;
                writeln!(out, "FAIL {}: {story}", trace.cell)?;
            }
        }
    }
    for (reason, count) in &left_out {
        writeln!(out, "n.a. {count}: {reason}")?;
    }
    writeln!(out, "{passed} passed, {failed} failed, {} n.a.", left_out.values().sum::<usize>())?;
    Ok(failed == 0 && passed > 0)
}

/// The models of the stories, each with what it has learned so far.
#[derive(Default)]
pub struct Stage {
    models: BTreeMap<String, (Machine, Guess)>,
}

impl Stage {
    /// Replays one trace.
    pub fn judge(&mut self, trace: &Trace) -> Verdict {
        if let Some(reason) = not_applicable(trace) {
            return Verdict::NotApplicable(reason);
        }
        let Some((machine, begin)) = self.model(&trace.scenario) else {
            return Verdict::Failed(format!("the model has no beginning for {}", trace.scenario));
        };
        let entry = |at: usize| trace.entries.get(at).map(in_words).unwrap_or_default();
        match machine.follow(begin, &trace.entries, free(trace)) {
            Followed::ToItsEnd => Verdict::Passed,
            Followed::Until(at, instead) => {
                let before: Vec<String> = (at.saturating_sub(4)..at).map(entry).collect();
                Verdict::Failed(format!(
                    "no run of the model goes on after {at} of {} entries (… {}) with: {}; it has: {}",
                    trace.entries.len(),
                    before.join("; "),
                    entry(at),
                    Vec::from_iter(instead).join(", ")
                ))
            }
            Followed::Beyond => Verdict::Failed(format!(
                "after all {} entries every run of the model has more to do",
                trace.entries.len()
            )),
            Followed::Lost(at) => Verdict::Failed(format!("too many states after {at} entries")),
        }
    }

    fn model(&mut self, scenario: &str) -> Option<(&mut Machine, Guess)> {
        if !self.models.contains_key(scenario) {
            let model = beginning(scenario)?;
            self.models.insert(scenario.to_owned(), model);
        }
        self.models.get_mut(scenario).map(|(machine, begin)| (machine, *begin))
    }
}

/// A model of the story, where a person has just begun it. The process that delivered its first key works on.
fn beginning(scenario: &str) -> Option<(Machine, Guess)> {
    let edit = match scenario {
        "S1" | "S6" => None,
        "S2" | "S14" => Some(Edit::Rotate),
        "S4" => Some(Edit::Revoke),
        "S5" => Some(Edit::DeleteKey),
        "S8" => Some(Edit::DeleteTarget),
        "S8e" => Some(Edit::OverwriteTarget),
        _ => return None,
    };
    let mut machine = Machine::new(&Configuration::of_the_stories());
    machine.rules = machine.rules.of_the_stories();
    let place = machine.rules.empty_place();
    let mut state = machine.start(place, 1, FREE);
    if scenario != "S1" {
        while let Calm::Does(action) = machine.calm(&state) {
            state = machine.apply(&state, action)?.state;
        }
        state.left = FREE;
    }
    if let Some(edit) = edit {
        state = machine.apply(&state, Action::Edit(edit))?.state;
    }
    Some((machine, Guess::begin(state)))
}

/// What happens at any moment of a trace.
fn free(trace: &Trace) -> Free {
    // Of a namespace that ends, Kubernetes deletes everything in an order of its own.
    let ends: &[Edit] = if trace.scenario == "S6" { &[Edit::DeleteKey, Edit::DeleteTarget] } else { &[] };
    // An hour is 12 s in a run of the matrix, and what is slow takes longer.
    let slow = trace.faults.iter().any(|fault| ["SLOW", "LATE"].contains(&fault.as_str()));
    Free { edits: ends, hour: slow }
}

/// An entry as a trace has it, for a person.
fn in_words(entry: &Entry) -> String {
    match entry {
        Entry::Event { event } => format!("{event:?}"),
        Entry::Request(request) => {
            let says = Some(request.says.clone()).filter(|says| !says.is_empty());
            let about: Vec<&str> = [request.effect.as_str()]
                .into_iter()
                .chain(says.iter().chain(&request.key).map(String::as_str))
                .collect();
            let heard = request.heard.map_or_else(|| "nothing".to_owned(), |status| status.to_string());
            let late = if request.late { "late " } else { "" };
            format!("{late}{} [{:?}, heard {heard}]", about.join(" "), request.server)
        }
    }
}
