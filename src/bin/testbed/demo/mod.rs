//! `testbed demo`: the life of a key, from nothing to its revocation, on a real API server.
//!
//! Each stage is told only after it was seen at the API server or at the provider; one that does not come ends the
//! demo with its name, the end of the operator's log and the description of the key.

mod place;
mod quickstart;
mod show;
mod stages;

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::{Sandbox, SandboxError, SandboxOptions};
use llmkey_operator::testbed;
use llmkey_operator::testbed::process::Process;
use tokio::signal::unix::{SignalKind, signal};

use place::{Place, TENANT};
use show::{line, say};

/// Lines of the operator's log that a failure shows.
const LOG_LINES: usize = 25;
/// How long the operator may take to end in order.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
/// How long a deleted key may take to go: the operator notes it in the ledger first.
const RELEASED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The ground could not be laid.
    #[error("{0}")]
    NotStarted(String),
    /// A stage was not seen.
    #[error("{stage}: {problem}")]
    Stage {
        /// What should have been seen.
        stage: &'static str,
        /// What was seen instead.
        problem: String,
    },
    /// The control plane or the chart.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// The provider.
    #[error("the sandbox provider: {0}")]
    Sandbox(#[from] SandboxError),
    /// The API server refused.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// The provider could not be called.
    #[error("a call to the provider: {0}")]
    Call(#[from] reqwest::Error),
    /// Nobody reads, or nobody can be asked.
    #[error("the terminal: {0}")]
    Output(io::Error),
}

/// Everything that runs.
pub struct Demo {
    place: Place,
    sandbox: Sandbox,
    operator: Mutex<Process>,
    metrics: SocketAddr,
}

/// Shows the demo. With a terminal it stays until Ctrl-C; without one, or with `CI=true`, it cleans up and ends.
pub async fn run() -> Result<(), DemoError> {
    let set = |name: &str| env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()));
    let stays = !set("CI") && io::stdin().is_terminal() && io::stdout().is_terminal();
    let program = operator_binary()?;
    show::heading(1, "A cluster, a provider, the operator")?;
    let place = if set("USE_CURRENT_CONTEXT") { Place::current(stays).await? } else { Place::own().await? };
    say(place.describe().await?)?;
    let demo = match Demo::start(place, program).await {
        Ok(demo) => demo,
        Err((place, error)) => {
            place.clean_up().await?;
            return Err(error);
        }
    };
    let ended = match demo.play(stays).await {
        Ok(()) => demo.release().await,
        early => early,
    };
    if let Err(error) = &ended {
        demo.explain(error).await?;
    }
    demo.stop_operator().await?;
    ended.and(demo.place.clean_up().await)
}

impl Demo {
    async fn start(place: Place, program: PathBuf) -> Result<Self, (Box<Place>, DemoError)> {
        let started = async {
            let clock = Clock::start();
            let mut options = SandboxOptions::new(Arc::new(move || clock.now_precise()));
            options.status_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let sandbox = Sandbox::start(options).await?;
            let metrics = free_address()?;
            let log = place.dir().join("llmkey-operator.log");
            let arguments = [
                "run".to_owned(),
                format!("--kubeconfig={}", place.kubeconfig.display()),
                format!("--operator-namespace={}", place.operator_namespace),
                format!("--lease-name={}", place.lease),
                format!("--metrics-listen={metrics}"),
                "--log-format=text".to_owned(),
            ];
            let operator = Process::spawn("llmkey-operator", &program, arguments, &[], &log)?;
            Ok::<_, DemoError>((sandbox, metrics, operator))
        };
        match started.await {
            Ok((sandbox, metrics, operator)) => {
                Ok(Self { place, sandbox, operator: Mutex::new(operator), metrics })
            }
            Err(error) => Err((Box::new(place), error)),
        }
    }

    /// All stages, and the stay after them; a signal ends either.
    async fn play(&self, stays: bool) -> Result<(), DemoError> {
        let mut terminated = signal(SignalKind::terminate()).map_err(DemoError::Output)?;
        let shown = async {
            stages::all(self).await?;
            if stays {
                self.look_around()?;
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        let early = || DemoError::NotStarted("ended before the last stage".to_owned());
        let (mut shown, mut whole) = (std::pin::pin!(shown), false);
        tokio::select! {
            result = &mut shown => { whole = true; result }
            _ = terminated.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(DemoError::Output),
        }?;
        if whole || stays { Ok(()) } else { Err(early()) }
    }

    fn look_around(&self) -> Result<(), DemoError> {
        line("\nLook around:\n")?;
        for way in self.place.way_in() {
            line(format!("  {way}"))?;
        }
        for command in [
            format!("kubectl -n {TENANT} describe llmkey {}", quickstart::KEY),
            format!("kubectl -n {TENANT} get events --sort-by=.metadata.creationTimestamp"),
            format!(
                "kubectl -n {TENANT} annotate llmkey {} --overwrite llmkeys.dev/rotate=again-$(date +%s)",
                quickstart::KEY
            ),
            "kubectl explain llmkey.spec".to_owned(),
        ] {
            line(format!("  {command}"))?;
        }
        if let Some(page) = self.sandbox.status_url() {
            line(format!("\n  the provider's view    {page}"))?;
        }
        line(format!("  the operator's metrics http://{}/metrics", self.metrics))?;
        line(format!("  the operator's log     {}", self.log().display()))?;
        line("\nCtrl-C ends it and removes everything.")
    }

    fn log(&self) -> PathBuf {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner).log().to_owned()
    }

    /// What helps to find out why a stage did not come.
    async fn explain(&self, error: &DemoError) -> Result<(), DemoError> {
        line(format!("\nNot seen: {error}\n\nThe end of the operator's log:"))?;
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for entry in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            line(format!("  {entry}"))?;
        }
        let describe = ["describe", "llmkeys,llmproviders", "--namespace", TENANT];
        line("\nThe resources:")?;
        let text = match show::kubectl(&self.place, &describe).await {
            Some(text) => text,
            None => self.status().await.unwrap_or_else(|error| error.to_string()),
        };
        line(text)
    }

    async fn status(&self) -> Result<String, DemoError> {
        let keys: Api<LLMKey> = Api::namespaced(self.place.admin()?, TENANT);
        let found = keys.list(&ListParams::default()).await?;
        let problem = |error: serde_saphyr::ser::Error| DemoError::NotStarted(error.to_string());
        serde_saphyr::to_string(&found.items).map_err(problem)
    }

    /// Deletes the key while the operator still runs.
    async fn release(&self) -> Result<(), DemoError> {
        let keys: Api<LLMKey> = Api::namespaced(self.place.admin()?, TENANT);
        let released = async {
            match keys.delete(quickstart::KEY, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
                other => drop(other?),
            }
            while keys.get_opt(quickstart::KEY).await?.is_some() {
                tokio::time::sleep(POLL).await;
            }
            Ok::<(), DemoError>(())
        };
        tokio::time::timeout(RELEASED_WITHIN, released).await.unwrap_or_else(|_| {
            Err(DemoError::Stage { stage: "the key's deletion", problem: "the finalizer stays".to_owned() })
        })
    }

    async fn stop_operator(&self) -> Result<(), DemoError> {
        let lock = || self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().exited()?.is_some() {
            return Ok(());
        }
        lock().signal("TERM")?;
        let stopped = async {
            while lock().exited()?.is_none() {
                tokio::time::sleep(POLL).await;
            }
            Ok::<(), DemoError>(())
        };
        // One that does not end in order is killed with this process.
        tokio::time::timeout(STOPPED_WITHIN, stopped).await.unwrap_or(Ok(()))
    }

    /// Fails if the operator has ended.
    fn operator_lives(&self) -> Result<(), testbed::Error> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner).alive()
    }
}

/// The operator as it was built beside this program.
fn operator_binary() -> Result<PathBuf, DemoError> {
    let program = env::current_exe().map_err(DemoError::Output)?.with_file_name("llmkey-operator");
    if program.is_file() {
        return Ok(program);
    }
    Err(DemoError::NotStarted(format!("{} is not there: `make demo` builds it", program.display())))
}

/// Somebody else may take the port first; then the operator says so and the demo ends.
fn free_address() -> Result<SocketAddr, DemoError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(DemoError::Output)
}
