//! `kubectl llmkey`: what the operator knows and does, asked from a desk, with the user's own rights.
//!
//! It answers by the operator's own pure functions, and never writes.

pub mod args;
mod cluster;
mod objects;
mod plan;
mod table;
mod who;

use std::io::{self, Write};

use args::{AuditCommands, Command};

use crate::audit::{self, AuditError};
use crate::domain::timings::Timings;
use crate::kube_ext::clock::Clock;

/// How an answer looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON object.
    Json,
}

/// Why there is no answer; one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A file cannot be read, or is not what it should be.
    #[error("{file}: {why}")]
    File {
        /// Its name; - is standard input.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}; name another with --kubeconfig or --context")]
    Kubeconfig(String),
    /// The API server did not do it.
    #[error("{what}: {why}")]
    Cluster {
        /// What was asked for.
        what: String,
        /// Why it was not had.
        why: String,
    },
    /// There is no such LLMKey.
    #[error("there is no LLMKey {name} in namespace {namespace}: see kubectl get llmkeys -n {namespace}")]
    NotFound {
        /// Where.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The trail cannot be checked.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Standard output or input failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// An answer cannot be written as JSON.
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Answers. False: what was checked is not as it should be.
pub async fn run(command: Command) -> Result<bool, PluginError> {
    let clock = Clock::start();
    match command {
        Command::Plan(args) => {
            let objects = if args.files.is_empty() {
                cluster::objects(&args.cluster, args.all_namespaces).await?
            } else {
                objects::from_files(&args.files, args.scope())?
            };
            let timings = Timings::divided_by(args.test_time_divisor);
            let horizon = chrono::Duration::days(args.days.into());
            let report = plan::plan(&objects, clock.now(), horizon, &timings);
            print(args.output, &report, || plan::text(&report))?;
            Ok(true)
        }
        Command::Who(args) => {
            let timings = Timings::divided_by(args.test_time_divisor);
            let report = who::who(&args, clock, &timings).await?;
            print(args.output, &report, || who::text(&report))?;
            Ok(true)
        }
        Command::Audit(AuditCommands::Verify(args)) => Ok(audit::check(&args).await?),
    }
}

fn print<T: serde::Serialize>(
    output: Output,
    report: &T,
    text: impl Fn() -> String,
) -> Result<(), PluginError> {
    let text = match output {
        Output::Table => text(),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
