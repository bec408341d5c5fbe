//! The operator as a child process, as the chart's service account, with the chart's defaults.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use llmkey_operator::api::LLMKey;
use llmkey_operator::domain::health::last_slot;
use llmkey_operator::domain::names::slot_offset;
use llmkey_operator::domain::timings::Timings;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::LogEntry;
use llmkey_operator::testbed::install::Installation;
use llmkey_operator::testbed::process::Process;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::load::{Load, key_name, value};
use super::measure::{Cpu, Memory, Requests, Snapshot, memory, whole};
use super::{Bed, CONCURRENCY, Failure};

const READY_WITHIN: Duration = Duration::from_secs(120);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// A start counts as ended when this long …
const CALM: Duration = Duration::from_secs(2);
/// … no such stretch …
const WINDOW: Duration = Duration::from_millis(100);
/// … used this part of a core. Probes at their slots stay far below.
const BUSY_SHARE: f64 = 0.15;
/// A probe is in its slot if the provider sees it this long after the slot's time at most.
const SLOT_TOLERANCE: chrono::TimeDelta = chrono::TimeDelta::seconds(5);

/// A running operator.
pub struct Operator {
    process: Process,
    url: String,
    http: reqwest::Client,
    clock: Clock,
    spawned: Duration,
    leads: bool,
}

/// What a restart with existing keys cost.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// From the spawn to `/readyz`.
    pub ready_seconds: f64,
    /// From the spawn to the end of the last busy stretch; every key was reconciled by then.
    pub idle_seconds: f64,
    /// Passes of the LLMKey controller until then.
    pub reconciles: u64,
    /// CPU until then, and 2 s longer.
    pub cpu: Cpu,
    /// Memory after it.
    pub memory: Memory,
    /// Requests until then.
    pub requests: Requests,
    /// Calls that the provider saw.
    pub provider_calls: usize,
    /// Those of them that no slot explains.
    pub provider_calls_outside_slots: usize,
}

/// What the operator did while nothing changed.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rest {
    /// How long it was watched.
    pub seconds: f64,
    /// CPU.
    pub cpu: Cpu,
    /// Memory at the end.
    pub memory: Memory,
    /// Requests.
    pub requests: Requests,
    /// Calls that the provider saw.
    pub provider_calls: usize,
    /// Those of them that no slot explains.
    pub provider_calls_outside_slots: usize,
}

impl Operator {
    /// Starts it; it may not be ready yet.
    pub fn spawn(bed: &Bed) -> Result<Self, Failure> {
        Self::spawn_with(bed, &[])
    }

    /// The same with further arguments.
    pub fn spawn_with(bed: &Bed, further: &[String]) -> Result<Self, Failure> {
        let Installation { namespace, name, kubeconfig, .. } = &bed.installation;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let args = [
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--operator-namespace={namespace}"),
            format!("--lease-name={name}"),
            format!("--concurrency={CONCURRENCY}"),
            format!("--metrics-listen={address}"),
        ];
        let args: Vec<String> = args.into_iter().chain(further.iter().cloned()).collect();
        let log = bed.cluster.dir().join("operator.log");
        let spawned = bed.clock.monotonic();
        let process = Process::spawn("llmkey-operator", &bed.operator, args, &[], &log)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { process, url: format!("http://{address}"), http, clock: bed.clock, spawned, leads: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it leads and its caches are full. A replica that waits for its turn says that it is ready, too.
    async fn is_ready(&mut self) -> Result<bool, Failure> {
        self.process.alive()?;
        if !self.leads {
            self.leads = self.metric("llmkey_leader").await.is_ok_and(|leader| leader == 1);
            return Ok(false);
        }
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
        Ok(answer.is_ok_and(|reply| reply.status().is_success()))
    }

    /// Waits for `/readyz`; returns how long after the spawn it answered.
    pub async fn ready(&mut self) -> Result<Duration, Failure> {
        while !self.is_ready().await? {
            if self.clock.monotonic().saturating_sub(self.spawned) > READY_WITHIN {
                return Err(self.process.failure("is not ready").into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(self.clock.monotonic().saturating_sub(self.spawned))
    }

    /// The sum of the series that begin so.
    async fn metric(&self, series: &str) -> Result<u64, Failure> {
        let text = self.http.get(format!("{}/metrics", self.url)).send().await?.text().await?;
        let lines = text.lines().filter(|line| line.starts_with(series));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(whole).sum())
    }

    /// Passes of the LLMKey controller since its start.
    async fn reconciles(&self) -> Result<u64, Failure> {
        self.metric("llmkey_reconcile_total{controller=\"llm_key\"").await
    }

    /// Fails if it has ended.
    pub fn alive(&mut self) -> Result<(), Failure> {
        Ok(self.process.alive()?)
    }

    /// Ends it as a power failure does (SIGKILL). Its Lease stays.
    pub fn kill(self) -> Result<(), Failure> {
        Ok(self.process.signal("KILL")?)
    }

    /// Asks it to end, and waits for that: it gives its Lease back.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.process.signal("TERM")?;
        let asked = self.clock.monotonic();
        while self.process.exited()?.is_none() {
            if self.clock.monotonic().saturating_sub(asked) > ENDED_WITHIN {
                return Err(self.process.failure("does not end").into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Starts it beside `load`'s keys, which are all ready, and watches until it has nothing to do.
    pub async fn restart(bed: &Bed, load: &Load) -> Result<(Self, Restart), Failure> {
        let calls = bed.sandbox.log().len();
        let snapshot = bed.snapshot(0).await?;
        let mut operator = Self::spawn(bed)?;
        let pid = operator.pid();
        let mut samples: Vec<(Duration, f64)> = Vec::new();
        let (mut ready, mut busy) = (None, operator.spawned);
        let reconciles = loop {
            let now = bed.clock.monotonic();
            if now.saturating_sub(operator.spawned) > READY_WITHIN {
                return Err(operator.process.failure("does not come to rest").into());
            }
            if ready.is_none() && operator.is_ready().await? {
                ready = Some(bed.clock.monotonic());
            }
            let used = run_seconds(pid);
            samples.push((now, used));
            let before = samples
                .iter()
                .rev()
                .find(|(at, _)| now.saturating_sub(*at) >= WINDOW)
                .map_or(0.0, |(_, used)| *used);
            if used - before >= BUSY_SHARE * WINDOW.as_secs_f64() {
                busy = now;
            }
            if ready.is_some() && now.saturating_sub(busy) > CALM {
                let reconciles = operator.reconciles().await?;
                if usize::try_from(reconciles)? >= load.count {
                    break reconciles;
                }
                busy = now;
            }
            tokio::time::sleep(POLL).await;
        };
        let mut cpu = snapshot.cpu();
        cpu.controller = super::measure::cpu_seconds(pid);
        let (provider_calls, provider_calls_outside_slots) = outside_slots(bed, load, calls).await?;
        let since = |at: Duration| at.saturating_sub(operator.spawned).as_secs_f64();
        let restart = Restart {
            ready_seconds: ready.map_or(0.0, since),
            idle_seconds: since(busy),
            reconciles,
            cpu,
            memory: memory(pid),
            requests: snapshot.requests_of(&bed.username)?,
            provider_calls,
            provider_calls_outside_slots,
        };
        Ok((operator, restart))
    }

    /// Watches it for a while in which nobody changes anything.
    pub async fn rest(&self, bed: &Bed, load: &Load, time: Duration) -> Result<Rest, Failure> {
        let calls = bed.sandbox.log().len();
        let snapshot: Snapshot<'_> = bed.snapshot(self.pid()).await?;
        tokio::time::sleep(time).await;
        let cpu = snapshot.cpu();
        let (provider_calls, provider_calls_outside_slots) = outside_slots(bed, load, calls).await?;
        Ok(Rest {
            seconds: time.as_secs_f64(),
            cpu,
            memory: memory(self.pid()),
            requests: snapshot.requests_of(&bed.username)?,
            provider_calls,
            provider_calls_outside_slots,
        })
    }
}

/// CPU seconds of a process, by the scheduler's nanoseconds: finer than clock ticks.
fn run_seconds(pid: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")) else {
        return 0.0;
    };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Calls that the sandbox logged after the first `known`, and how many of them fall outside of their key's slots.
async fn outside_slots(bed: &Bed, load: &Load, known: usize) -> Result<(usize, usize), Failure> {
    let interval = Timings::default().validation_interval;
    let keys: Api<PartialObjectMeta<LLMKey>> = Api::namespaced(load.admin.clone(), &load.namespace);
    let uids: HashMap<String, String> = keys
        .list_metadata(&ListParams::default())
        .await?
        .items
        .into_iter()
        .map(|key| (key.name_any(), key.uid().unwrap_or_default()))
        .collect();
    // The sandbox names a caller by the digest of the key that it presented.
    let lineages: HashMap<String, &String> = (0..load.count)
        .filter_map(|index| {
            let digest = Sha256::digest(value(&load.namespace, index).as_bytes());
            let mark = data_encoding::HEXLOWER.encode(&digest).chars().take(12).collect();
            Some((mark, uids.get(&key_name(index))?))
        })
        .collect();
    let in_slot = |entry: &LogEntry| {
        let lineage = entry.caller.as_ref().and_then(|caller| lineages.get(&caller.fingerprint));
        lineage.is_some_and(|lineage| {
            entry.time - last_slot(entry.time, interval, slot_offset(lineage, interval)) <= SLOT_TOLERANCE
        })
    };
    let log = bed.sandbox.log();
    let fresh = log.iter().skip(known);
    Ok((fresh.clone().count(), fresh.filter(|entry| !in_slot(entry)).count()))
}
