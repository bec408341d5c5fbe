//! Explores the model of the planner: see docs/evidence/model.md.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use llmkey_operator::controller::llm_key::exploration::{Selection, explore};

/// Explores every interleaving of replicas, faults and people within stated bounds, on the production planner.
#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Explore everything, not only what continuous integration has time for.
    #[arg(long)]
    full: bool,
    /// Only configurations whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// Configurations explored at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// List the configurations.
    #[arg(long)]
    list: bool,
}

fn main() -> io::Result<ExitCode> {
    let Arguments { full, only, threads, list } = Arguments::parse();
    let held = explore(&Selection { full, only, threads, list }, &mut io::stdout())?;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
