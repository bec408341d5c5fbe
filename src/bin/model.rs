//! Explores the model of the planner: see docs/evidence/model.md.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use llmkey_operator::controller::llm_key::exploration::{Selection, explore, replay};

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
    /// Replay the traces in this file instead, as `testbed crash-matrix --traces` writes them.
    #[arg(long, conflicts_with_all = ["full", "only", "list"])]
    replay: Option<PathBuf>,
}

fn main() -> io::Result<ExitCode> {
    let Arguments { full, only, threads, list, replay: traces } = Arguments::parse();
    let mut out = io::stdout();
    let held = match traces {
        Some(path) => replay(&mut BufReader::new(File::open(path)?), &mut out)?,
        None => explore(&Selection { full, only, threads, list }, &mut out)?,
    };
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
