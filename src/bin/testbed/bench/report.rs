//! What was measured, for tools (JSON) and for people (`table`).

use std::process::Command;

use chrono::{DateTime, Utc};
use llmkey_operator::testbed::ControlPlane;
use serde::Serialize;
use serde_json::{Value, json};

use super::measure::{Cpu, Memory, Requests};
use super::operator::{Rest, Restart};
use super::table;

/// One burst of creates.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Burst {
    /// From the first create to the last `Ready=True`.
    pub seconds: f64,
    /// From the first create to the last one.
    pub creating_seconds: f64,
    /// From a key's create to its `Ready=True`.
    pub ready_p50_ms: f64,
    /// The same.
    pub ready_p99_ms: f64,
    /// CPU.
    pub cpu: Cpu,
    /// The controller's memory at the end.
    pub memory: Memory,
    /// The controller's requests, by the audit log.
    pub requests: Requests,
    /// Everybody's requests, by the API server's metrics.
    pub served: Requests,
    /// Bytes as JSON of one LLMKey, one target and one ledger.
    pub object_bytes: [usize; 3],
}

/// Latencies of a trickle, from sending the create, in milliseconds.
#[expect(clippy::struct_field_names, reason = "units stand in the names that tools read")]
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// To the target Secret.
    pub secret_p50_ms: f64,
    /// To the target Secret.
    pub secret_p99_ms: f64,
    /// To `Ready=True`.
    pub ready_p50_ms: f64,
    /// To `Ready=True`.
    pub ready_p99_ms: f64,
}

/// The trickle.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trickle {
    /// How many keys.
    pub keys: usize,
    /// The floor.
    pub floor: Latency,
    /// The floor, asking the provider about each key.
    pub floor_asking: Latency,
    /// The operator with validation disabled.
    pub unvalidated: Latency,
    /// The operator with validation required.
    pub validated: Latency,
}

/// All phases of one number of keys, once.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The floor.
    pub floor: Burst,
    /// The floor, asking the provider about each key.
    pub floor_asking: Burst,
    /// The operator with validation disabled.
    pub unvalidated: Burst,
    /// The operator with validation required.
    pub validated: Burst,
    /// The operator's memory some seconds after that.
    pub steady: Memory,
    /// Its next start.
    pub restart: Restart,
    /// And what follows.
    pub rest: Rest,
}

/// The runs of one number of keys.
pub struct Size {
    /// Number of keys.
    pub n: usize,
    /// In the order of measuring.
    pub runs: Vec<Run>,
}

/// Least and median of a value over the runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// Least.
    pub min: f64,
    /// Median; of two values their mean.
    pub median: f64,
}

/// Everything.
pub struct Report {
    /// Versions of what was run.
    pub versions: Vec<(&'static str, String)>,
    /// What it ran on.
    pub machine: String,
    /// When.
    pub date: DateTime<Utc>,
    /// If it was measured.
    pub trickle: Option<Trickle>,
    /// By number of keys.
    pub sizes: Vec<Size>,
}

impl Spread {
    /// Of some values.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        };
        Self { min: at(0), median }
    }
}

impl Size {
    /// A value over the runs.
    pub fn spread(&self, value: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(value))
    }

    /// How much longer one takes than the other: median to median.
    pub fn ratio(&self, measured: impl Fn(&Run) -> f64, floor: impl Fn(&Run) -> f64) -> f64 {
        self.spread(measured).median / self.spread(floor).median.max(f64::EPSILON)
    }

    fn json(&self) -> Value {
        let seconds = |value: fn(&Run) -> &Burst| self.spread(|run| value(run).seconds);
        let (floor, asking) = (seconds(|r| &r.floor), seconds(|r| &r.floor_asking));
        let (validated, unvalidated) = (seconds(|r| &r.validated), seconds(|r| &r.unvalidated));
        let first = self.runs.first();
        json!({
            "n": self.n,
            "floorSeconds": rounded(floor.median),
            "floorAskingProviderSeconds": rounded(asking.median),
            "operatorSeconds": rounded(validated.median),
            "operatorNoValidationSeconds": rounded(unvalidated.median),
            "wallRatio": rounded(validated.median / floor.median),
            "wallRatioSameCalls": rounded(validated.median / asking.median),
            "wallRatioNoValidation": rounded(unvalidated.median / floor.median),
            "requestsPerKey": first.map(|run| per_key(&run.validated.requests, self.n)),
            "floorRequestsPerKey": first.map(|run| per_key(&run.floor.requests, self.n)),
            "operatorCpuSeconds": rounded(self.spread(|r| r.validated.cpu.controller).median),
            "floorCpuSeconds": rounded(self.spread(|r| r.floor.cpu.controller).median),
            "apiserverCpuSeconds": rounded(self.spread(|r| r.validated.cpu.apiserver).median),
            "floorApiserverCpuSeconds": rounded(self.spread(|r| r.floor.cpu.apiserver).median),
            "peakRssMiB": rounded(self.spread(|r| r.validated.memory.peak).median),
            "steadyRssMiB": rounded(self.spread(|r| r.steady.resident).median),
            "restartedRssMiB": rounded(self.spread(|r| r.rest.memory.resident).median),
            "restartIdleSeconds": rounded(self.spread(|r| r.restart.idle_seconds).median),
            "restartReadySeconds": rounded(self.spread(|r| r.restart.ready_seconds).median),
            "runs": self.runs,
        })
    }
}

impl Report {
    /// An empty one.
    pub fn new(cluster: &ControlPlane, date: DateTime<Utc>) -> Self {
        let versions = vec![
            (
                "llmkey-operator",
                format!(
                    "{} ({})",
                    env!("CARGO_PKG_VERSION"),
                    output("git", &["rev-parse", "--short", "HEAD"])
                ),
            ),
            ("kube-apiserver", cluster.version().to_owned()),
            (
                "etcd",
                output(&cluster.binaries().etcd.display().to_string(), &["--version"])
                    .replace("etcd Version: ", ""),
            ),
            ("kube (Rust)", locked("kube")),
            ("rustc", output("rustc", &["--version"]).replace("rustc ", "")),
        ];
        Self { versions, machine: machine(), date, trickle: None, sizes: Vec::new() }
    }

    /// Takes in one run.
    pub fn add(&mut self, n: usize, run: Run) {
        match self.sizes.iter_mut().find(|size| size.n == n) {
            Some(size) => size.runs.push(run),
            None => self.sizes.push(Size { n, runs: vec![run] }),
        }
    }

    /// For tools.
    pub fn json(&self) -> Value {
        let versions: serde_json::Map<String, Value> =
            self.versions.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
        json!({
            "date": llmkey_operator::api::rfc3339(self.date),
            "machine": self.machine,
            "versions": versions,
            "trickle": self.trickle,
            "sizes": self.sizes.iter().map(Size::json).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn markdown(&self) -> String {
        table::markdown(self)
    }
}

/// The requests that belong to single keys, for each key.
pub fn per_key(requests: &Requests, n: usize) -> Value {
    let keys = f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let single = requests.iter().filter(|(name, _)| {
        (name.contains("secrets") || name.contains("llmkeys") || name.contains("events"))
            && !name.starts_with("watch")
            && !name.starts_with("list")
    });
    Value::Object(single.map(|(name, n)| (name.clone(), json!(rounded(count(*n) / keys)))).collect())
}

/// Three digits behind the point are more than the measurement has.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The version of a dependency in Cargo.lock.
fn locked(package: &str) -> String {
    let lock = include_str!("../../../../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{package}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    version.unwrap_or("unknown").to_owned()
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, name: &str| {
        let value = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(':').nth(1));
        value.unwrap_or("unknown").trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kib = line(&read("/proc/meminfo"), "MemTotal");
    let gib = kib.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default() / 1024.0 / 1024.0;
    format!(
        "{cores} × {}, {gib:.0} GiB, Linux {}",
        line(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
