//! `sandbox-provider`: the sandbox provider as a process of its own.
use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use chrono::Utc;
use clap::Parser;
use llmkey_operator::sandbox::{Clock, Sandbox, SandboxError, SandboxOptions};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for the key APIs of the providers that this operator makes, ends or counts keys at, for demo and tests. Serves loopback addresses only.
#[derive(Parser)]
#[command(name = "sandbox-provider")]
struct Arguments {
    /// Address of the API and of the control API, over TLS.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the status page over plain HTTP, for browsers.
    #[arg(long)]
    status_listen: Option<SocketAddr>,
    /// Where to write the certificate (PEM) that clients must trust.
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Where to write the admin key.
    #[arg(long)]
    admin_key_file: Option<PathBuf>,
    /// Where to write the control API's bearer token.
    #[arg(long)]
    control_token_file: Option<PathBuf>,
    /// Where to write the id of the first project.
    #[arg(long)]
    project_file: Option<PathBuf>,
    /// Where to write OpenRouter's management key.
    #[arg(long)]
    management_key_file: Option<PathBuf>,
    /// Where to write the id of OpenRouter's default workspace, which is made for it.
    #[arg(long)]
    workspace_file: Option<PathBuf>,
    /// Where to write the LiteLLM proxy's master key.
    #[arg(long)]
    master_key_file: Option<PathBuf>,
    /// Where to write the id of a team at the LiteLLM proxy, which is made for it.
    #[arg(long)]
    team_file: Option<PathBuf>,
    /// Where to write the port, last of all files and in one step: once it exists, the sandbox answers.
    #[arg(long)]
    port_file: Option<PathBuf>,
    /// Where to append the log, one line of JSON per call.
    #[arg(long)]
    log_file: Option<PathBuf>,
    /// Name of the first project.
    #[arg(long, default_value = "sandbox")]
    project_name: String,
    /// Offer HTTP/1.1 only.
    #[arg(long)]
    http1_only: bool,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this process stands outside the operator: its clock is the machine's"
)]
fn machine_clock() -> Clock {
    Arc::new(Utc::now)
}

fn write_private(path: Option<&Path>, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let Some(path) = path else {
        return Ok(());
    };
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

async fn run(arguments: Arguments) -> Result<(), SandboxError> {
    let mut options = SandboxOptions::new(machine_clock());
    options.listen = arguments.listen;
    options.status_listen = arguments.status_listen;
    options.http2 = !arguments.http1_only;
    options.project_name = arguments.project_name;
    options.log_file = arguments.log_file;
    if let Some(stale) = arguments.port_file.as_deref().filter(|path| path.exists()) {
        fs::remove_file(stale)?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let sandbox = Sandbox::start(options).await?;
    write_private(arguments.ca_file.as_deref(), sandbox.ca_pem())?;
    write_private(arguments.admin_key_file.as_deref(), sandbox.admin_key())?;
    write_private(arguments.control_token_file.as_deref(), sandbox.control_token())?;
    write_private(arguments.project_file.as_deref(), sandbox.project_id())?;
    write_private(arguments.management_key_file.as_deref(), sandbox.management_key())?;
    if let Some(path) = &arguments.workspace_file {
        write_private(Some(path), &sandbox.create_workspace("default"))?;
    }
    write_private(arguments.master_key_file.as_deref(), sandbox.master_key())?;
    if let Some(path) = &arguments.team_file {
        write_private(Some(path), &sandbox.create_team("default"))?;
    }
    if let Some(path) = &arguments.port_file {
        let unfinished = path.with_extension("unfinished");
        write_private(Some(&unfinished), &sandbox.addr().port().to_string())?;
        fs::rename(&unfinished, path)?;
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "api      {}", sandbox.base_url())?;
    writeln!(stdout, "project  {}", sandbox.project_id())?;
    if let Some(url) = sandbox.status_url() {
        writeln!(stdout, "status   {url}")?;
    }
    stdout.flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    sandbox.stop().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sandbox-provider: {error}");
            ExitCode::FAILURE
        }
    }
}
