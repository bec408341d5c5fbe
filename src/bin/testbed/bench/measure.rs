//! What the kernel, the API server's metrics and its audit log say of a phase.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use axum::http::Request;
use kube::Client;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::testbed::ControlPlane;
use serde::Serialize;
use serde_json::Value;

use super::Failure;

/// The kernel's clock ticks in a second: `USER_HZ`, which Linux fixes for user space on all usual machines.
const TICKS_PER_SECOND: f64 = 100.0;
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// The control plane counts as quiet below this many CPU seconds in a second.
const QUIET: f64 = 0.08;
/// Longest wait for that; clearing away 5,000 keys takes about half a minute.
const QUIET_WITHIN: u32 = 240;

/// A process's memory in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident: f64,
    /// Resident at most since its start.
    pub peak: f64,
}

/// CPU seconds of one phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// The operator, or the bare controller.
    pub controller: f64,
    /// kube-apiserver.
    pub apiserver: f64,
    /// etcd.
    pub etcd: f64,
    /// kube-controller-manager.
    pub controller_manager: f64,
    /// The load generator with the sandbox provider.
    pub load: f64,
    /// Part of the machine that everything else took, 0 to 1.
    pub foreign_share: f64,
}

/// Requests by `verb resource` or `verb resource/subresource`.
pub type Requests = BTreeMap<String, u64>;

/// CPU seconds of a process since its start, 0 once it has ended.
pub fn cpu_seconds(pid: u32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The program's name may hold spaces; it ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// CPU seconds of the whole machine since its start, without idle time.
fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum::<f64>();
    busy / TICKS_PER_SECOND
}

/// Memory of a process.
pub fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mebibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() * 1024.0 / MEBIBYTE
    };
    Memory { resident: mebibytes("VmRSS"), peak: mebibytes("VmHWM") }
}

/// The processes that a phase uses.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    controller: u32,
    apiserver: u32,
    etcd: u32,
    controller_manager: u32,
}

impl Processes {
    /// Those of the control plane, and the measured one.
    pub fn of(cluster: &ControlPlane, controller: u32) -> Self {
        Self {
            controller,
            apiserver: cluster.apiserver_pid(),
            etcd: cluster.etcd_pid(),
            controller_manager: cluster.controllers_pid(),
        }
    }

    fn seconds(&self) -> Cpu {
        Cpu {
            controller: cpu_seconds(self.controller),
            apiserver: cpu_seconds(self.apiserver),
            etcd: cpu_seconds(self.etcd),
            controller_manager: cpu_seconds(self.controller_manager),
            load: cpu_seconds(std::process::id()),
            foreign_share: 0.0,
        }
    }
}

/// The state at a phase's begin.
pub struct Snapshot<'a> {
    cluster: &'a ControlPlane,
    clock: Clock,
    processes: Processes,
    cpu: Cpu,
    machine: f64,
    at: Duration,
    audit: u64,
    served: Requests,
}

impl<'a> Snapshot<'a> {
    /// Takes one.
    pub async fn take(
        cluster: &'a ControlPlane,
        admin: &Client,
        clock: Clock,
        controller: u32,
    ) -> Result<Self, Failure> {
        let processes = Processes::of(cluster, controller);
        let served = served(admin).await?;
        let audit = fs::metadata(cluster.audit_log())?.len();
        let (cpu, machine, at) = (processes.seconds(), machine_seconds(), clock.monotonic());
        Ok(Self { cluster, clock, processes, cpu, machine, at, audit, served })
    }

    /// CPU since then.
    pub fn cpu(&self) -> Cpu {
        let (now, machine) = (self.processes.seconds(), machine_seconds());
        let elapsed = self.clock.monotonic().saturating_sub(self.at).as_secs_f64();
        let cores = std::thread::available_parallelism()
            .map_or(1.0, |n| f64::from(u32::try_from(n.get()).unwrap_or(1)));
        let mut cpu = Cpu {
            controller: now.controller - self.cpu.controller,
            apiserver: now.apiserver - self.cpu.apiserver,
            etcd: now.etcd - self.cpu.etcd,
            controller_manager: now.controller_manager - self.cpu.controller_manager,
            load: now.load - self.cpu.load,
            foreign_share: 0.0,
        };
        let ours = cpu.controller + cpu.apiserver + cpu.etcd + cpu.controller_manager + cpu.load;
        cpu.foreign_share = ((machine - self.machine - ours) / (elapsed * cores).max(0.01)).clamp(0.0, 1.0);
        cpu
    }

    /// Requests of one account since then, by the audit log.
    pub fn requests_of(&self, username: &str) -> Result<Requests, Failure> {
        let mut requests = Requests::new();
        for event in events_after(&self.cluster.audit_log(), self.audit)? {
            if event["user"]["username"] == username && counts(&event) {
                *requests.entry(describe(&event)).or_default() += 1;
            }
        }
        Ok(requests)
    }

    /// Requests of everybody since then, by `apiserver_request_total`.
    pub async fn served(&self, admin: &Client) -> Result<Requests, Failure> {
        let mut now = served(admin).await?;
        for (name, count) in &mut now {
            *count -= self.served.get(name).copied().unwrap_or_default();
        }
        now.retain(|_, count| *count > 0);
        Ok(now)
    }
}

/// A watch is counted when it begins, everything else when it is answered.
fn counts(event: &Value) -> bool {
    let stage = event["stage"].as_str().unwrap_or_default();
    stage == if event["verb"] == "watch" { "ResponseStarted" } else { "ResponseComplete" }
}

fn describe(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reference = &event["objectRef"];
    let mut name = format!("{} {}", text(&event["verb"]), text(&reference["resource"]));
    if let Some(sub) = reference["subresource"].as_str() {
        name = format!("{name}/{sub}");
    }
    let failed = event["responseStatus"]["code"].as_u64().filter(|code| *code >= 400);
    failed.map_or(name.clone(), |code| format!("{name} → {code}"))
}

fn events_after(path: &Path, offset: u64) -> Result<Vec<Value>, Failure> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(|line| serde_json::from_str(line).map_err(Failure::from)).collect()
}

/// `apiserver_request_total` by verb and resource.
async fn served(admin: &Client) -> Result<Requests, Failure> {
    let text = admin.request_text(Request::get("/metrics").body(Vec::new())?).await?;
    let mut requests = Requests::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let start = line.find(&format!("{name}=\""))? + name.len() + 2;
            line[start..].split('"').next()
        };
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
        if !matches!(resource, "secrets" | "llmkeys" | "leases" | "events") {
            continue;
        }
        let sub = label("subresource").filter(|s| !s.is_empty()).map(|s| format!("/{s}")).unwrap_or_default();
        *requests.entry(format!("{verb} {resource}{sub}")).or_default() += whole(count);
    }
    Ok(requests)
}

/// A counter's value; counters are whole and far below 2^53.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
pub fn whole(count: f64) -> u64 {
    count.max(0.0).round() as u64
}

/// Waits until the control plane has nothing to do: garbage collection, watch caches, etcd.
pub async fn quiet(cluster: &ControlPlane) {
    let pids = [cluster.apiserver_pid(), cluster.etcd_pid(), cluster.controllers_pid()];
    let used = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let mut calm = 0;
    for _ in 0..QUIET_WITHIN {
        let before = used();
        tokio::time::sleep(Duration::from_secs(1)).await;
        calm = if used() - before < QUIET { calm + 1 } else { 0 };
        if calm == 2 {
            return;
        }
    }
    tracing::warn!("the control plane does not become quiet");
}

/// The value below which the given part of the values lies, in milliseconds.
pub fn percentile(values: &[Duration], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort();
    let count = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    let index = usize::try_from(whole((count * part).ceil())).unwrap_or_default().saturating_sub(1);
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(0.0, |value| value.as_secs_f64() * 1000.0)
}
