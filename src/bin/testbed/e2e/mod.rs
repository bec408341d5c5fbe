//! `testbed e2e`: the operator in its own image, installed by its chart, on a real node with real pods that use the keys.
//!
//! Everything between the registry and the kubelet's volumes is what a cluster has; only the provider is the sandbox, which
//! listens at the node's address over TLS. No duration is divided: minutes are minutes. `docs/evidence/e2e.md` is the manual.

mod acts;
mod checks;
mod faults;
mod ground;
mod image;
mod node;
mod restore;
mod sdk;
mod stage;
mod workloads;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use llmkey_operator::testbed::tools;

use checks::Report;
use ground::Ground;
use stage::Stage;

/// Whatever ends the test early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Exit code of a machine that cannot do it.
const UNABLE: u8 = 77;

/// How to run it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only say whether this machine can do it.
    #[arg(long)]
    check: bool,
    /// Leave the directory with all logs.
    #[arg(long)]
    keep: bool,
    /// End after the first act: one rotation.
    #[arg(long)]
    short: bool,
    /// Directory of the run; given to the half inside of the namespaces.
    #[arg(long, hide = true, requires = "cgroup")]
    dir: Option<PathBuf>,
    /// The node's cgroup, likewise.
    #[arg(long, hide = true, requires = "dir")]
    cgroup: Option<String>,
}

/// Runs the test. Exit codes: 0 all checks passed, 1 not so, 77 this machine cannot do it.
pub async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if let (Some(dir), Some(cgroup)) = (&arguments.dir, &arguments.cgroup) {
        return inside(dir, cgroup, arguments.short).await;
    }
    let missing = ground::missing().await;
    for reason in &missing {
        line(&format!("cannot run here: {reason}"))?;
    }
    if !missing.is_empty() || arguments.check {
        return Ok(ExitCode::from(if missing.is_empty() { 0 } else { UNABLE }));
    }
    // The network ends at the border of the namespaces: what is built is built before.
    tokio::task::spawn_blocking(|| {
        tools::binaries().and_then(|_| tools::kubelet()).and_then(|_| tools::helm())
    })
    .await??;
    let ground = Ground::lay(arguments.keep)?;
    if arguments.keep {
        line(&format!("everything is kept in {}", ground.dir().display()))?;
    }
    let place = ground.dir().to_owned();
    if let Err(left_out) = tokio::task::spawn_blocking(move || sdk::fetch(&place)).await? {
        line(&left_out)?;
    }
    let mut inner = vec!["e2e".to_owned()];
    inner.extend(arguments.short.then(|| "--short".to_owned()));
    let ended = ground.run(&inner).await;
    ground.clear().await?;
    match ended? {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => Err("ended early; everything was removed".into()),
    }
}

async fn inside(dir: &Path, cgroup: &str, short: bool) -> Result<ExitCode, Failure> {
    // The outer half keeps the other end open as long as it lives.
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let mut report = Report::start();
    let stage = Stage::set(dir, cgroup, &report).await;
    let played = match stage {
        Ok(mut stage) => {
            let played = acts::all(&mut stage, &mut report, short).await;
            if played.is_err() || report.failed() > 0 {
                stage.explain().await?;
            }
            played
        }
        Err(error) => Err(error),
    };
    if let Err(error) = played {
        report.check("every act came to its end", Err(error.to_string()))?;
    }
    report.close()?;
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
