//! Where the audit trail goes, and `llmkey-operator audit verify`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::cli::VerifyArgs;
use crate::kube_ext::clock::Clock;
use crate::ledger::all_unverified;
use crate::ledger::audit::Trail;
use crate::ledger::verify::{Head, verify};

/// Why a trail could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Standard input or output failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The ledgers cannot be read.
    #[error("the ledgers in namespace {namespace} cannot be read: {error}")]
    Ledgers {
        /// Where.
        namespace: String,
        /// Why.
        error: Box<kube::Error>,
    },
}

/// The trail of a process: standard output for `-`, else a file, to which is appended.
pub fn trail(path: &Path, clock: Clock) -> io::Result<Trail> {
    let now = move || clock.now_precise();
    if path == Path::new("-") {
        return Ok(Trail::new(now, |line| writeln!(io::stdout().lock(), "{line}")));
    }
    let file = Arc::new(Mutex::new(File::options().create(true).append(true).open(path)?));
    Ok(Trail::new(now, move |line| {
        // In one call, so that a process that ends leaves no half line.
        file.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{line}\n").as_bytes())
    }))
}

/// Checks a trail and prints what was found; whether it is whole.
pub async fn check(args: &VerifyArgs) -> Result<bool, AuditError> {
    let mut text = String::new();
    if args.files.is_empty() {
        text = io::read_to_string(io::stdin())?;
    }
    for path in &args.files {
        let read = fs::read_to_string(path);
        text += &read.map_err(|error| AuditError::File { path: path.display().to_string(), error })?;
    }
    let heads = if args.ledgers { Some(heads(args).await?) } else { None };
    let report = verify(text.lines(), heads.as_deref());
    let mut out = io::stdout().lock();
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    writeln!(
        out,
        "{} keys, {} lines, {} of them writes that did not come about, {} problems",
        report.keys,
        report.lines,
        report.not_done,
        report.problems.len()
    )?;
    if heads.is_none() {
        writeln!(out, "the ends were not compared with the ledgers: use --ledgers")?;
    }
    Ok(report.problems.is_empty())
}

async fn heads(args: &VerifyArgs) -> Result<Vec<Head>, AuditError> {
    let namespace = args.operator_namespace.clone();
    let failed =
        |error: kube::Error| AuditError::Ledgers { namespace: namespace.clone(), error: Box::new(error) };
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let secrets: Api<Secret> =
        Api::namespaced(kube::Client::try_from(config).map_err(failed)?, &args.operator_namespace);
    let records = all_unverified(&secrets).await.map_err(failed)?;
    Ok(records.iter().map(Head::of).collect())
}
