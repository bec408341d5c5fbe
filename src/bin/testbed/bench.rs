//! The benchmark: the operator beside a bare controller that makes the same calls, on one control plane.

pub mod floor;
pub mod herd;
mod load;
mod measure;
mod operator;
mod report;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::{Sandbox, SandboxOptions};
use llmkey_operator::testbed::install::{Installation, install_chart};
use llmkey_operator::testbed::process::{Process, random_suffix};
use llmkey_operator::testbed::{ControlPlane, Options, apply};
use serde_json::{Value, json};

use load::{Load, PROVIDER, Times, VALUE_PREFIX};
use measure::{Snapshot, memory, percentile, quiet};
use operator::Operator;
use report::{Burst, Latency, Report, Run, Trickle};

/// Whatever ends a benchmark early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keys at the same time, in the operator and in the floor; the operator's default.
const CONCURRENCY: usize = 16;
const OPERATOR_NAMESPACE: &str = "llmkey-system";
/// Between two creates of the trickle.
const TRICKLE_PERIOD: Duration = Duration::from_millis(200);
/// Memory counts as steady this long after the last key is ready.
const SETTLE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of LLMKeys.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1000, 5000])]
    keys: Vec<usize>,
    /// How often each number is measured.
    #[arg(long, default_value_t = 2)]
    repeat: usize,
    /// LLMKeys of the trickle; 0 leaves it out.
    #[arg(long, default_value_t = 200)]
    trickle: usize,
    /// Seconds of rest that are watched.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Directory that gets RESULTS.md and results.json; without it the table is only printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The operator's program [default: beside this one].
    #[arg(long)]
    operator: Option<PathBuf>,
}

/// Everything that all phases share.
struct Bed {
    cluster: ControlPlane,
    installation: Installation,
    sandbox: Sandbox,
    admin: Client,
    clock: Clock,
    operator: PathBuf,
    username: String,
}

/// Who works in a phase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Floor,
    Operator,
}

/// Runs all phases. Returns the table, which is also written where the arguments say.
pub async fn run(arguments: Arguments) -> Result<String, Failure> {
    let bed = Bed::make(arguments.operator.clone(), &json!({})).await?;
    let mut report = Report::new(&bed.cluster, bed.clock.now());
    if arguments.trickle > 0 {
        report.trickle = Some(bed.trickles(arguments.trickle).await?);
    }
    for count in &arguments.keys {
        for _ in 0..arguments.repeat.max(1) {
            let run = bed.measure(*count, Duration::from_secs(arguments.rest)).await?;
            report.add(*count, run);
        }
    }
    let text = report.markdown();
    if let Some(directory) = arguments.out {
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("RESULTS.md"), &text)?;
        std::fs::write(directory.join("results.json"), serde_json::to_string_pretty(&report.json())? + "\n")?;
    }
    Ok(text)
}

impl Bed {
    async fn make(operator: Option<PathBuf>, values: &Value) -> Result<Self, Failure> {
        let operator = match operator {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("llmkey-operator"),
        };
        if !operator.is_file() {
            return Err(format!("{} does not exist; use `make bench`", operator.display()).into());
        }
        let clock = Clock::start();
        let cluster = ControlPlane::start(Options::default()).await?;
        let installation = install_chart(&cluster, OPERATOR_NAMESPACE, values).await?;
        let sandbox = Sandbox::start(SandboxOptions::new(Arc::new(move || clock.now_precise()))).await?;
        if !sandbox.accept_pattern(VALUE_PREFIX, sandbox.project_id()) {
            return Err("the sandbox lost its project".into());
        }
        let admin = cluster.admin()?;
        let provider = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": PROVIDER},
            "spec": {"type": "OpenAI", "baseURL": sandbox.base_url(), "caBundle": sandbox.ca_pem(),
                     "addresses": "AllowPrivate", "allowedNamespaces": ["*"]},
        });
        apply(&admin, &[provider]).await?;
        std::fs::write(cluster.dir().join("sandbox.crt"), sandbox.ca_pem())?;
        let username =
            format!("system:serviceaccount:{}:{}", installation.namespace, installation.service_account);
        Ok(Self { cluster, installation, sandbox, admin, clock, operator, username })
    }

    async fn snapshot(&self, controller: u32) -> Result<Snapshot<'_>, Failure> {
        Snapshot::take(&self.cluster, &self.admin, self.clock, controller).await
    }

    async fn load(&self, count: usize, validated: bool) -> Result<Load, Failure> {
        let namespace = self.cluster.namespace("bench").await?;
        let load = Load { admin: self.admin.clone(), namespace, count, validated, clock: self.clock };
        load.sources().await?;
        quiet(&self.cluster).await;
        Ok(load)
    }

    async fn clear(&self, load: &Load) -> Result<(), Failure> {
        load.clear(&self.installation.namespace).await?;
        quiet(&self.cluster).await;
        Ok(())
    }

    /// Starts the floor and waits until its watch is current.
    async fn floor(&self, asks: bool) -> Result<Process, Failure> {
        let ready = self.cluster.dir().join(format!("floor-{}", random_suffix()?));
        let mut args = vec![
            "floor".to_owned(),
            format!("--kubeconfig={}", self.installation.kubeconfig.display()),
            format!("--operator-namespace={}", self.installation.namespace),
            format!("--concurrency={CONCURRENCY}"),
            format!("--ready-file={}", ready.display()),
        ];
        if asks {
            args.push(format!("--ask={}", self.sandbox.base_url()));
            args.push(format!("--ca-file={}", self.cluster.dir().join("sandbox.crt").display()));
        }
        let log = self.cluster.dir().join("floor.log");
        let mut floor = Process::spawn("floor", &std::env::current_exe()?, args, &[], &log)?;
        while !ready.exists() {
            floor.alive()?;
            tokio::time::sleep(POLL).await;
        }
        Ok(floor)
    }

    /// One burst of creates against a running controller.
    async fn burst(&self, load: &Load, controller: u32) -> Result<Burst, Failure> {
        let snapshot = self.snapshot(controller).await?;
        let mut observer = load.observe(false).await?;
        let times = load.burst(&mut observer).await?;
        let cpu = snapshot.cpu();
        let served = snapshot.served(&self.admin).await?;
        let latencies = times.latencies(&times.ready);
        Ok(Burst {
            seconds: times.burst().as_secs_f64(),
            creating_seconds: times.creating().as_secs_f64(),
            ready_p50_ms: percentile(&latencies, 0.50),
            ready_p99_ms: percentile(&latencies, 0.99),
            cpu,
            memory: memory(controller),
            requests: snapshot.requests_of(&self.username)?,
            served,
            object_bytes: load.object_bytes(&self.installation.namespace).await?,
        })
    }

    async fn floor_burst(&self, count: usize, asks: bool) -> Result<Burst, Failure> {
        let load = self.load(count, asks).await?;
        let floor = self.floor(asks).await?;
        let burst = self.burst(&load, floor.pid()).await?;
        drop(floor);
        self.clear(&load).await?;
        Ok(burst)
    }

    /// Everything about one number of keys, once.
    async fn measure(&self, count: usize, rest: Duration) -> Result<Run, Failure> {
        tracing::info!(count, "the floor");
        let floor = self.floor_burst(count, false).await?;
        tracing::info!(count, seconds = floor.seconds, "the floor, asking the provider");
        let floor_asking = self.floor_burst(count, true).await?;

        tracing::info!(count, seconds = floor_asking.seconds, "the operator, validation disabled");
        let load = self.load(count, false).await?;
        let mut operator = Operator::spawn(self)?;
        operator.ready().await?;
        let unvalidated = self.burst(&load, operator.pid()).await?;
        quiet(&self.cluster).await;
        load.verify().await?;
        operator.stop().await?;
        self.clear(&load).await?;

        tracing::info!(count, seconds = unvalidated.seconds, "the operator, validation required");
        let load = self.load(count, true).await?;
        let mut operator = Operator::spawn(self)?;
        operator.ready().await?;
        let validated = self.burst(&load, operator.pid()).await?;
        tokio::time::sleep(SETTLE).await;
        let steady = memory(operator.pid());
        load.verify().await?;
        operator.stop().await?;
        quiet(&self.cluster).await;

        tracing::info!(count, seconds = validated.seconds, "the operator again");
        let (operator, restart) = Operator::restart(self, &load).await?;
        tracing::info!(count, seconds = restart.idle_seconds, "at rest");
        let rest = operator.rest(self, &load, rest).await?;
        operator.stop().await?;
        self.clear(&load).await?;
        Ok(Run { floor, floor_asking, unvalidated, validated, steady, restart, rest })
    }

    async fn trickle(&self, count: usize, who: Who, validated: bool) -> Result<Latency, Failure> {
        let load = self.load(count, validated).await?;
        let mut observer = load.observe(true).await?;
        let (floor, mut operator) = match who {
            Who::Floor => (Some(self.floor(validated).await?), None),
            Who::Operator => (None, Some(Operator::spawn(self)?)),
        };
        if let Some(operator) = &mut operator {
            operator.ready().await?;
        }
        let times: Times = load.trickle(&mut observer, TRICKLE_PERIOD).await?;
        drop(floor);
        if let Some(operator) = operator {
            operator.stop().await?;
        }
        self.clear(&load).await?;
        let (secret, ready) = (times.latencies(&times.secret), times.latencies(&times.ready));
        Ok(Latency {
            secret_p50_ms: percentile(&secret, 0.50),
            secret_p99_ms: percentile(&secret, 0.99),
            ready_p50_ms: percentile(&ready, 0.50),
            ready_p99_ms: percentile(&ready, 0.99),
        })
    }

    async fn trickles(&self, count: usize) -> Result<Trickle, Failure> {
        tracing::info!(count, "trickle");
        Ok(Trickle {
            keys: count,
            floor: self.trickle(count, Who::Floor, false).await?,
            floor_asking: self.trickle(count, Who::Floor, true).await?,
            unvalidated: self.trickle(count, Who::Operator, false).await?,
            validated: self.trickle(count, Who::Operator, true).await?,
        })
    }
}
