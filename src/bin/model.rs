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
    /// Memory that the program may have, in GiB: what needs more is not exhausted, and fails.
    #[arg(long, value_name = "GiB")]
    memory: Option<u64>,
    /// List the configurations.
    #[arg(long)]
    list: bool,
    /// Replay the traces in this file instead, as `testbed crash-matrix --traces` writes them.
    #[arg(long, conflicts_with_all = ["full", "only", "list", "memory"])]
    replay: Option<PathBuf>,
}

fn main() -> io::Result<ExitCode> {
    let Arguments { full, only, threads, memory, list, replay: traces } = Arguments::parse();
    let mut out = io::stdout();
    let held = match traces {
        Some(path) => replay(&mut BufReader::new(File::open(path)?), &mut out)?,
        None => {
            let memory = memory.map(|gigabytes| gigabytes << 30);
            explore(&Selection { full, only, threads, memory, list }, &mut out)?
        }
    };
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
