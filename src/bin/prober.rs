//! `prober`: the workload of the end-to-end test, and what holds the namespaces of its pods.
//!
//! `use` calls the provider with a delivered key without pause. It appends lines of JSON to a file: the key it begins to use, each call that was refused or lost, and every second how
//! many were accepted. No line holds more of a key than its last four characters.

use std::env;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::SecondsFormat;
use clap::{Args, Parser, Subcommand};
use llmkey_operator::kube_ext::clock::Clock;
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

/// Between two calls.
const PACE: Duration = Duration::from_millis(100);
/// A crowded machine is slow, and that is no refusal.
const CALL_WITHIN: Duration = Duration::from_secs(30);
const TOLD_EVERY: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(name = "prober")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Uses a key until it is told to end.
    Use(Use),
    /// Does nothing until it is told to end.
    Pause,
}

#[derive(Args)]
struct Use {
    /// Directory of a mounted Secret, read once; without it the environment's variables are used.
    #[arg(long)]
    key_dir: Option<PathBuf>,
    /// Reads the directory anew before each call.
    #[arg(long, requires = "key_dir")]
    reload: bool,
    /// The authority (PEM) that signed the provider's certificate.
    #[arg(long)]
    ca_file: PathBuf,
    /// Directory of the file, which is named after the pod.
    #[arg(long)]
    log_dir: PathBuf,
}

/// What `OpenAI`'s SDK reads.
struct Delivered {
    key: Zeroizing<String>,
    url: String,
}

impl Delivered {
    fn read(dir: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let value = |name: &str| match dir {
            Some(dir) => fs::read_to_string(dir.join(name)).map_err(Box::<dyn Error>::from),
            None => Ok(env::var(name)?),
        };
        Ok(Self { key: Zeroizing::new(value("OPENAI_API_KEY")?), url: value("OPENAI_BASE_URL")? })
    }

    fn last_four(&self) -> &str {
        self.key.get(self.key.len().saturating_sub(4)..).unwrap_or_default()
    }
}

struct Log {
    file: File,
    pod: String,
    clock: Clock,
}

impl Log {
    fn line(&mut self, event: &str, mut more: Value) -> std::io::Result<()> {
        more["event"] = json!(event);
        more["pod"] = json!(self.pod);
        more["time"] = json!(self.clock.now_precise().to_rfc3339_opts(SecondsFormat::Millis, true));
        self.file.write_all(format!("{more}\n").as_bytes())
    }
}

async fn run(arguments: Use, mut terminated: Signal) -> Result<(), Box<dyn Error>> {
    let authority = Certificate::from_pem(&fs::read(&arguments.ca_file)?)?;
    let client = Client::builder().tls_certs_only([authority]).no_proxy().timeout(CALL_WITHIN).build()?;
    let pod = env::var("HOSTNAME")?;
    let path = arguments.log_dir.join(format!("{pod}.jsonl"));
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut log = Log { file, pod, clock: Clock::start() };
    let (mut pace, mut tell) = (interval(PACE), interval(TOLD_EVERY));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut delivered = Delivered::read(arguments.key_dir.as_deref())?;
    log.line("key", json!({"lastFour": delivered.last_four()}))?;
    let mut accepted = 0_u64;
    loop {
        tokio::select! {
            _ = terminated.recv() => return Ok(log.line("calls", json!({"accepted": accepted}))?),
            _ = tell.tick() => {
                log.line("calls", json!({"accepted": accepted}))?;
                continue;
            }
            _ = pace.tick() => {}
        }
        if arguments.reload {
            let read = Delivered::read(arguments.key_dir.as_deref())?;
            if read.key != delivered.key {
                log.line("key", json!({"lastFour": read.last_four()}))?;
            }
            delivered = read;
        }
        match client.get(format!("{}/models", delivered.url)).bearer_auth(&*delivered.key).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => accepted += 1,
            Ok(answer) => {
                let status = answer.status().as_u16();
                log.line("refused", json!({"lastFour": delivered.last_four(), "status": status}))?;
            }
            Err(error) => log.line("lost", json!({"why": error.without_url().to_string()}))?,
        }
    }
}

async fn obey(command: Command) -> Result<(), Box<dyn Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    match command {
        Command::Use(arguments) => run(arguments, terminated).await,
        Command::Pause => {
            terminated.recv().await;
            Ok(())
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match obey(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "prober: {error}");
            ExitCode::FAILURE
        }
    }
}
