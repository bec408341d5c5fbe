//! Tests against a real control plane; one is started for all of them.

// Clippy's leave for tests covers functions marked as tests, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accounts;
mod alerts;
mod anthropic;
mod architecture;
mod audit;
mod azure;
mod bad_account;
mod bad_input;
mod bad_ledger;
mod bad_source;
mod bad_target;
mod bedrock;
mod break_glass;
mod canary;
mod cel;
mod chart;
mod common;
mod consumers;
mod control_plane;
mod crds;
mod dashboard;
mod deletion;
mod docs;
mod drain;
mod events;
mod examples;
mod fleet;
mod gitops;
mod google;
mod guides;
mod health;
mod helm;
mod history;
mod hostile;
mod keyring;
mod kubectl;
mod lease;
mod leash;
mod lifecycle;
mod litellm;
mod load;
mod log;
mod malformed;
mod matrix;
mod mistral;
mod monitoring;
mod mutants;
mod openrouter;
mod operations;
mod pin;
mod pool;
mod provider;
mod provider_faults;
mod released;
mod replicas;
mod restart;
mod restore;
mod rotation;
mod sandbox;
mod sandbox_faults;
mod scopes;
mod spare;
mod stage;
mod support_bundle;
mod sweeper;
mod usage;
mod workload;
mod xai;

/// A file without its `mod` line, lost in a merge, would be silently untested.
#[test]
fn every_file_here_is_part_of_this_binary() {
    let declared = include_str!("main.rs");
    for entry in std::fs::read_dir(llmkey_operator::testbed::source_dir().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let source = path.extension().is_some_and(|extension| extension == "rs");
        assert!(!source || name == "main" || declared.contains(&format!("\nmod {name};")), "{name}");
    }
}
