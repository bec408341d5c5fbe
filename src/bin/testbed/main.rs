//! A control plane to try things on, without a container engine.

mod bench;
mod demo;
mod e2e;
mod matrix;

use std::error::Error as StdError;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llmkey_operator::testbed::{ControlPlane, Error, Options, tools};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a control plane and keep it until Ctrl-C.
    Up {
        /// Leave the directory with logs and data when it ends.
        #[arg(long)]
        keep: bool,
        /// A further kube-apiserver flag, for example `--apiserver-arg=--v=4`; may be repeated.
        #[arg(long = "apiserver-arg", allow_hyphen_values = true)]
        apiserver_args: Vec<String>,
    },
    /// Find or build the programs and say where they are.
    Tools,
    /// Measure the operator beside a bare controller that makes the same calls.
    Bench(bench::Arguments),
    /// That bare controller; started by `bench`.
    #[command(hide = true)]
    Floor(bench::floor::Arguments),
    /// Strike every effect of the operator by every fault, and check that nothing is lost.
    CrashMatrix(matrix::Arguments),
    /// Halve the interval of thousands of keys at once, and watch what that does to the account, the API server and workloads.
    Herd(bench::herd::Arguments),
    /// The operator in its image on a real node, with real pods that use the keys.
    E2e(e2e::Arguments),
    /// Show the life of a key on a control plane of its own, or on your cluster with `USE_CURRENT_CONTEXT=1`.
    Demo,
}

#[tokio::main]
async fn main() -> ExitCode {
    // While the API server starts, kube logs each refused attempt as an error.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    let result: Result<(), Box<dyn StdError>> = match Arguments::parse().command {
        Command::Up { keep, apiserver_args } => {
            let options = Options { keep, extra_apiserver_args: apiserver_args, ..Options::default() };
            up(options).await.map_err(Into::into)
        }
        Command::Tools => show_tools().map_err(Into::into),
        Command::Demo => demo::run().await.map_err(Into::into),
        Command::Bench(arguments) => benchmark(arguments).await.map_err(|error| error as Box<dyn StdError>),
        // The closing line has been written last.
        Command::CrashMatrix(arguments) => match matrix::run(arguments).await {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error as Box<dyn StdError>),
        },
        Command::Herd(arguments) => match bench::herd::run(arguments).await {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error as Box<dyn StdError>),
        },
        Command::E2e(arguments) => match e2e::run(arguments).await {
            Ok(code) => return code,
            Err(error) => Err(error as Box<dyn StdError>),
        },
        Command::Floor(arguments) => {
            bench::floor::run(arguments).await.map_err(|error| error as Box<dyn StdError>)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn up(options: Options) -> Result<(), Error> {
    let cluster = ControlPlane::start(options).await?;
    let kubectl = cluster.binaries().kubectl.as_deref().map(|path| path.display().to_string());
    say(&format!(
        "Kubernetes {} at {}\n\n  export KUBECONFIG={}\n  alias kubectl={}\n\nCtrl-C ends it.",
        cluster.version(),
        cluster.url(),
        cluster.admin_kubeconfig().display(),
        kubectl.as_deref().unwrap_or("kubectl"),
    ))?;
    let what = |source| Error::Io { what: "wait for a signal".to_owned(), source };
    let mut terminated = signal(SignalKind::terminate()).map_err(what)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(what),
        _ = terminated.recv() => Ok(()),
    }
}

async fn benchmark(arguments: bench::Arguments) -> Result<(), bench::Failure> {
    Ok(say(&bench::run(arguments).await?)?)
}

fn show_tools() -> Result<(), Error> {
    let binaries = tools::binaries()?;
    let helm = tools::helm()?;
    let paths = [binaries.etcd, binaries.kube_apiserver, binaries.kube_controller_manager, helm];
    for path in paths.iter().chain(&binaries.kubectl) {
        say(&path.display().to_string())?;
    }
    Ok(())
}

fn say(text: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{text}")
        .map_err(|source| Error::Io { what: "write to standard output".to_owned(), source })
}
