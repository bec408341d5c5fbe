//! `kubectl llmkey`: kubectl finds it on the PATH by its name.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use llmkey_operator::plugin::{self, args::Cli};

/// The exit code where there is no answer, clap's own for wrong arguments.
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let answered = rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider was installed twice".to_owned())
        .and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())
        })
        .and_then(|runtime| runtime.block_on(plugin::run(command)).map_err(|error| error.to_string()));
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if standard error is closed too.
            drop(writeln!(std::io::stderr(), "kubectl llmkey: {error}"));
            ExitCode::from(NO_ANSWER)
        }
    }
}
