//! `kubectl llmkey`: what the operator knows and does, asked from a desk, with the user's own rights.
//!
//! It answers by the operator's own pure functions. What it writes is what a person may write by hand: an annotation or a field of an
//! `LLMKey`, or a new one.

pub mod args;
mod bundle;
mod change;
mod cluster;
mod complete;
mod describe;
mod doctor;
mod import;
mod objects;
mod plan;
mod status;
mod story;
mod table;
pub mod usage;
mod wait;
mod who;

use std::io::{self, BufRead, IsTerminal, Write};

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};

use args::{AuditCommands, ClusterArgs, Command, WaitArgs};
use change::Change;

use crate::api::LLMKey;
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

/// How a table looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WideOutput {
    /// For people.
    #[default]
    Table,
    /// With more columns.
    Wide,
    /// For programs: one JSON object.
    Json,
}

/// Who writes, as managed fields and the history of rotations show it.
const MANAGER: &str = "kubectl-llmkey";

/// How often a change is written whose object was changed meanwhile: the operator writes status often.
const TRIES: usize = 5;

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
    /// It is not asked for, because it could not be done.
    #[error("{0}")]
    Refused(String),
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
        Command::Status(args) => {
            let objects = cluster::keys(&args.cluster, args.all_namespaces).await?;
            let report = status::report(&objects, clock.now());
            let output = if args.output == WideOutput::Json { Output::Json } else { Output::Table };
            print(output, &report, || status::text(&report, args.output == WideOutput::Wide))?;
            Ok(true)
        }
        Command::Usage(args) => {
            let objects = match &args.name {
                None => cluster::keys(&args.cluster, args.all_namespaces).await?,
                Some(name) => {
                    let (client, namespace) = cluster::connect(&args.cluster).await?;
                    let key = cluster::key(&Api::namespaced(client, &namespace), &namespace, name).await?;
                    objects::Objects { keys: vec![key], live: true, ..objects::Objects::default() }
                }
            };
            let now = clock.now();
            let report = usage::report(&objects, args.by, now);
            let output = if args.output == WideOutput::Json { Output::Json } else { Output::Table };
            let wide = args.output == WideOutput::Wide;
            print(output, &report, || usage::text(&report, args.by, wide, now))?;
            Ok(true)
        }
        Command::Describe(args) => {
            let timings = Timings::divided_by(args.test_time_divisor);
            let (client, namespace) = cluster::connect(&args.cluster).await?;
            let key =
                cluster::key(&Api::namespaced(client.clone(), &namespace), &namespace, &args.name).await?;
            let holders = who::holders(&client, &key, clock, &timings).await;
            let mut report = describe::report(&key, holders.as_ref().ok(), clock.now());
            report.notes.extend(match &holders {
                Ok(holders) => holders.notes.clone(),
                Err(error) => vec![format!("who has which version is not known: {error}")],
            });
            print(args.output, &report, || describe::text(&report))?;
            Ok(true)
        }
        Command::Doctor(args) => {
            let report = doctor::doctor(&args, clock).await?;
            print(args.output, &report, || doctor::text(&report))?;
            Ok(report.is_well())
        }
        Command::SupportBundle(args) => {
            let report = bundle::bundle(&args, clock).await?;
            write(&table::printable(&bundle::text(&report)))?;
            Ok(true)
        }
        Command::Rotate(args) => {
            let token = change::token(clock.now_precise());
            change(&args.cluster, &args.name, args.waiting, None, |key| Ok(change::rotate(key, &token))).await
        }
        Command::Approve(args) => {
            change(&args.cluster, &args.name, args.waiting, None, change::approve).await
        }
        Command::Burn(args) => {
            let ask = (!args.yes).then_some("burn");
            change(&args.cluster, &args.name, args.waiting, ask, |key| change::burn(key, &args.versions))
                .await
        }
        Command::Pin(args) => {
            change(&args.cluster, &args.name, args.waiting, None, |key| change::pin(key, args.version)).await
        }
        Command::Import(args) => {
            write(&table::printable(&import::import(&args).await?))?;
            Ok(true)
        }
        Command::Completion => {
            write(complete::PROGRAM)?;
            Ok(true)
        }
        Command::Complete(args) => {
            write(&complete::complete(&args.words).await)?;
            Ok(true)
        }
    }
}

/// Asks for a change of an `LLMKey`, and waits for it if it should. `ask`: what a person at a terminal must confirm first.
async fn change(
    args: &ClusterArgs,
    name: &str,
    waiting: WaitArgs,
    ask: Option<&str>,
    change: impl Fn(&LLMKey) -> Result<Change, PluginError>,
) -> Result<bool, PluginError> {
    let (client, namespace) = cluster::connect(args).await?;
    let api: Api<LLMKey> = Api::namespaced(client, &namespace);
    let key = cluster::key(&api, &namespace, name).await?;
    let Change { patch, asks, goal, notes } = change(&key)?;
    let mut out = io::stdout();
    writeln!(out, "LLMKey {name} of namespace {namespace}: {asks}.")?;
    if let Some(notes) = table::notes(&notes) {
        write!(out, "{notes}")?;
    }
    if let Some(what) = ask {
        confirm(what, &key, &mut out)?;
    }
    write_change(&api, &namespace, name, patch, &goal, change).await?;
    if waiting.wait {
        return wait::wait(api, name, &goal, waiting.timeout, &mut out).await;
    }
    writeln!(out, "Asked for. How it goes: kubectl llmkey describe {name} -n {namespace}")?;
    Ok(true)
}

/// Writes it; what was changed meanwhile is read and asked for again, as long as the same comes of it.
async fn write_change(
    api: &Api<LLMKey>,
    namespace: &str,
    name: &str,
    mut patch: serde_json::Value,
    goal: &wait::Goal,
    change: impl Fn(&LLMKey) -> Result<Change, PluginError>,
) -> Result<(), PluginError> {
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    for _ in 0..TRIES {
        match api.patch(name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(cluster::refused(&format!("LLMKey {name} of namespace {namespace}"), &error));
            }
        }
        let again = change(&cluster::key(api, namespace, name).await?)?;
        if again.goal != *goal {
            break;
        }
        patch = again.patch;
    }
    Err(PluginError::Refused(format!(
        "LLMKey {name} was changed by somebody else meanwhile; look at it, and ask again"
    )))
}

/// A person types the name, or nothing is done.
fn confirm(what: &str, key: &LLMKey, out: &mut impl Write) -> Result<(), PluginError> {
    let name = key.name_any();
    if !io::stdin().is_terminal() {
        let why = format!("nobody is there to be asked: use --yes to {what} without a question");
        return Err(PluginError::Refused(why));
    }
    write!(out, "This cannot be undone. Type {name} to {what} it: ")?;
    out.flush()?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed)?;
    if typed.trim() == name { Ok(()) } else { Err(PluginError::Refused("nothing was done".to_owned())) }
}

fn print<T: serde::Serialize>(
    output: Output,
    report: &T,
    text: impl Fn() -> String,
) -> Result<(), PluginError> {
    let text = match output {
        Output::Table => table::printable(&text()),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    write(&text)
}

fn write(text: &str) -> Result<(), PluginError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
