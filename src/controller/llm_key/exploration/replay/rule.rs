//! The only reasons for which a trace is not replayed.

use crate::trace::Trace;

/// A row of the table of what the model does not have.
pub struct Rule {
    /// Which scenarios; empty: all.
    pub scenarios: &'static [&'static str],
    /// Which faults; empty: with or without any.
    pub faults: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// Everything that is not replayed.
pub const RULES: &[Rule] = &[
    Rule { scenarios: &["S1s"], faults: &[], reason: "keys that people supply are no part of the model" },
    Rule {
        scenarios: &["S1c", "S2c"],
        faults: &[],
        reason: "keys that the operator chooses are explored, and their traces are not followed",
    },
    Rule { scenarios: &["S2s", "S11"], faults: &[], reason: "schedules are no part of the model" },
    Rule { scenarios: &["S4v"], faults: &[], reason: "spec.revokedVersions is no part of the model" },
    Rule {
        scenarios: &["S7", "S7p"],
        faults: &[],
        reason: "edits of target.data and of the LLMProvider are no part of the model",
    },
    Rule {
        scenarios: &["S9"],
        faults: &[],
        reason: "the model's provider loses no key, and its policy has no trigger Invalid",
    },
    Rule {
        scenarios: &["S10", "S12"],
        faults: &[],
        reason: "the form of a ledger, its sealing included, is no part of the model",
    },
    Rule {
        scenarios: &["S13", "S13a"],
        faults: &[],
        reason: "the model's people put no older ledger back, and its accounts are not frozen",
    },
    Rule { scenarios: &["S15"], faults: &[], reason: "pods are no part of the model" },
];

/// Why a trace is not replayed, if it is not.
pub fn not_applicable(trace: &Trace) -> Option<&'static str> {
    let within = |codes: &[&str], code: &String| codes.contains(&code.as_str());
    let rule = RULES.iter().find(|rule| {
        (rule.scenarios.is_empty() || within(rule.scenarios, &trace.scenario))
            && (rule.faults.is_empty() || trace.faults.iter().any(|fault| within(rule.faults, fault)))
    });
    rule.map(|rule| rule.reason)
}
