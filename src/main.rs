//! The operator's process.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use llmkey_operator::cli::{self, Command, Config};
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::{audit, drain, runtime, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

fn main() -> ExitCode {
    let provider = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = provider.map_err(|_| "a TLS provider was installed twice".into()).and_then(|()| start());
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Nobody is left to tell if standard error is closed too.
    drop(writeln!(std::io::stderr(), "llmkey-operator: {error}"));
    ExitCode::FAILURE
}

fn start() -> Result<(), Box<dyn Error>> {
    match cli::parse()? {
        None => Ok(()),
        Some(Command::Crds) => Ok(cli::print_crds()?),
        Some(Command::Drain(args)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let clear = runtime.block_on(drain::drain(&args, Clock::start()))?;
            if clear { Ok(()) } else { Err("LLMKeys exist: nothing was taken away".into()) }
        }
        Some(Command::Verify(args)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let whole = runtime.block_on(audit::check(&args))?;
            if whole { Ok(()) } else { Err("the audit trail is not whole".into()) }
        }
        Some(Command::Run(config)) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run(*config))
        }
    }
}

/// The first signal asks for an orderly end, the second ends at once.
async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let log = telemetry::log::init(&config.log_level, config.log_format)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopping) = watch::channel(false);
    let mut running = std::pin::pin!(runtime::run(config, log, stopping));
    for _ in 0..2 {
        tokio::select! {
            result = &mut running => return Ok(result?),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        stop.send_replace(true);
    }
    Err("asked to stop twice".into())
}
