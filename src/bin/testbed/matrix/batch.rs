//! Cells that run at the same time under one operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use llmkey_operator::api::{ClusterRotationPolicy, LLMKey, LLMProvider};
use llmkey_operator::sandbox::LogEntry;
use llmkey_operator::testbed::apply;
use llmkey_operator::trace::Trace;
use serde_json::Value;

use super::Failure;
use super::bed::{Bed, Operator, Placed};
use super::blow;
use super::cell::{Cell, Name};
use super::effect::{Effect, Kind};
use super::fault::Fault;
use super::history::{Audit, History, Write};
use super::notes::Traces;
use super::scenario::Scenario;
use super::story;
use super::world::{World, difference};

/// Requests of ours at the same time.
const PARALLEL: usize = 16;
/// Cells at the same time that only wait for most of it.
const TOGETHER: usize = 128;
/// What has not come by then will not come.
const NOTHING_COMES: Duration = Duration::from_secs(6);
/// How many times as long as usual it is waited for on a machine that has other work to do.
const MOST_PATIENCE: f64 = 6.0;
/// Longest wait for the ground.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// The operator's watches have shown what was created by then.
const SHOWN: Duration = Duration::from_millis(300);
/// Longest wait for the end after the last fault …
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// … and how much longer where a request is slow: the API server's deadline, and what comes after it.
const SLOW: Duration = Duration::from_secs(40);
/// An end is the end if it lasts: nothing may be written for so long.
const QUIET: Duration = Duration::from_millis(2500);
/// What was under way when the end was seen.
const SETTLES: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(200);
/// Between two uses of a key by the workloads of one batch.
const PACE: Duration = Duration::from_millis(4);

/// How a cell went.
pub struct Ran {
    /// The cell.
    pub name: Name,
    /// Its effects, in order.
    pub effects: Vec<Effect>,
    /// When each came, after the story's beginning.
    pub times: Vec<Duration>,
    /// All that was seen of it.
    pub trace: Trace,
    /// How many there were when the first fault struck.
    pub struck_at: Option<usize>,
    /// Its state at the end.
    pub state: Value,
    /// Its fault struck, where and when it should.
    pub valid: bool,
    /// What it breaks.
    pub problems: Vec<String>,
}

impl Ran {
    /// Whether the first fault struck, and then there were fewer effects than the second one waited for.
    pub fn way_back_is_shorter(&self) -> bool {
        let (Some(struck_at), Some(then)) = (self.struck_at, &self.name.then) else { return false };
        let after = self.effects.iter().skip(struck_at).filter(|effect| effect.kind != Kind::List);
        after.count() < then.later
    }
}

/// What an undisturbed run ends in, by scenario.
pub type Goals = BTreeMap<Scenario, Value>;

/// The operator at work, and the audit log as far as it was read.
pub struct Stage {
    /// What runs.
    pub bed: Arc<Bed>,
    /// The operator; none only while another takes its place.
    pub operator: Option<Operator>,
    /// The audit log.
    pub audit: Audit,
    /// Where traces are kept, if they are.
    pub traces: Option<Traces>,
}

impl Stage {
    /// Runs cells at the same time, to their ends. `goals` is empty while these are learned.
    pub async fn run(&mut self, names: Vec<Name>, goals: &Goals) -> Result<Vec<Ran>, Failure> {
        let bed = &Arc::clone(&self.bed);
        let mut placed = Vec::new();
        for name in names {
            placed.push(bed.place(name).await?);
        }
        let cells: Vec<Arc<Cell>> = placed.iter().map(|placed| Arc::clone(&placed.cell)).collect();
        drop(self.audit.news()?);
        bed.proxy.set_clock_right();
        lay_ground(bed, &placed).await?;
        let everybody = cells.iter().flat_map(Cell::all).cloned().collect();
        let workloads = tokio::spawn(workloads(Arc::clone(&bed.proxy), everybody));
        let blows = cells.first().map(|cell| cell.name.blows()).unwrap_or_default();
        let mut standby = match blows.first() {
            Some(Fault::Pause | Fault::CutOff) => Some(bed.spawn(true).await?),
            _ => None,
        };
        for cell in &cells {
            cell.arm();
        }
        if cells.iter().any(|cell| cell.name.scenario.is_everybodys()) {
            story::renew_keyring(bed).await?;
        }
        stream::iter(cells.iter().map(Ok::<_, Failure>))
            .try_for_each_concurrent(PARALLEL, |cell| story::begin(bed, cell))
            .await?;
        let mut second = None;
        let mut struck = vec![true; cells.len()];
        for fault in blows {
            let operator = self.operator.take().ok_or("no operator runs")?;
            let after = blow::strike(bed, fault, operator, standby.take(), &cells, &struck).await?;
            self.operator = Some(after.operator);
            second = after.second;
            struck = after.struck;
        }
        let ends = self.ends(&cells, goals).await?;
        if let Some(mut second) = second {
            // Each remembers what it was told of a key's health, and would go on correcting the other's status.
            second.alive()?;
        }
        tokio::time::sleep(SETTLES).await;
        let settled = bed.clock.monotonic();
        tokio::time::sleep(QUIET).await;
        workloads.abort();
        let world = World::read(&bed.admin, &bed.installation.namespace).await?;
        // First the provider's logs: whatever they tell, the audit log has what had to come before it.
        let provider: Vec<Vec<Vec<LogEntry>>> =
            cells.iter().map(|cell| cell.all().map(|each| log_of(bed, each)).collect()).collect();
        let writes = self.audit.news()?;
        let mut ran = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            let state = world.of(cell, &bed.sandbox);
            let mut problems = Vec::new();
            for (each, log) in cell.all().zip(&provider[index]) {
                problems.extend(each.violations());
                problems.extend(history(bed, each, log, &writes, &cell.name));
            }
            match goals.get(&cell.name.scenario) {
                Some(goal) if state != *goal => {
                    problems.push(format!("I6: {}{}", difference(goal, &state), ends.late()));
                }
                None if !cell.name.scenario.ended(&state) => problems.push(format!("no end: {state}")),
                _ => {}
            }
            problems
                .extend(world.lost(cell, &bed.sandbox).into_iter().map(|key| format!("I2: {key} is lost")));
            let wrote = cell.all().filter_map(|each| each.last_write()).max();
            if ends.reached[index] && wrote.is_some_and(|at| at > settled) {
                problems.push("I6: it goes on writing".to_owned());
            }
            ran.push(Ran {
                name: cell.name.clone(),
                effects: cell.effects(),
                times: cell.times(),
                trace: trace(cell),
                struck_at: cell.struck_at(),
                valid: cell.fired()
                    && struck[index]
                    && !problems.iter().any(|told| told.starts_with("INVALID")),
                state,
                problems,
            });
        }
        self.operator.as_mut().ok_or("no operator runs")?.alive()?;
        let bed = Arc::clone(bed);
        // Beside what comes next.
        tokio::spawn(async move {
            if let Err(error) = clear(&bed, placed).await {
                tracing::warn!(%error, "cells were not taken away");
            }
        });
        Ok(ran)
    }

    /// Keeps a run's trace, if its fault struck.
    pub fn keep_trace(&mut self, ran: &Ran) -> Result<(), Failure> {
        match &mut self.traces {
            Some(traces) if ran.valid => traces.keep(&ran.trace),
            _ => Ok(()),
        }
    }

    /// Waits until every cell is at its end; tells which are.
    async fn ends(&mut self, cells: &[Arc<Cell>], goals: &Goals) -> Result<Ends, Failure> {
        let bed = &Arc::clone(&self.bed);
        let slow = cells.iter().any(|cell| cell.name.faults().any(Fault::is_slow));
        let within = if slow { ENDS_WITHIN + SLOW } else { ENDS_WITHIN };
        let begin = bed.clock.monotonic();
        loop {
            self.operator.as_mut().ok_or("no operator runs")?.alive()?;
            let world = World::read(&bed.admin, &bed.installation.namespace).await?;
            let at_end = |cell: &Arc<Cell>| {
                let state = world.of(cell, &bed.sandbox);
                let there = match goals.get(&cell.name.scenario) {
                    Some(goal) => state == *goal && world.lost(cell, &bed.sandbox).is_empty(),
                    None => cell.name.scenario.ended(&state),
                };
                there && (cell.is_over() || !cell.fired() && cell.is_still_for(NOTHING_COMES))
            };
            let reached: Vec<bool> = cells.iter().map(at_end).collect();
            let waited = bed.clock.monotonic().saturating_sub(begin);
            let all = reached.iter().all(|end| *end);
            // A machine that has other work to do takes longer: that is no failure of the operator.
            let load = load();
            if all || waited > within.mul_f64(load.clamp(1.0, MOST_PATIENCE)) {
                return Ok(Ends { reached, waited, load });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Which cells came to their ends.
struct Ends {
    reached: Vec<bool>,
    waited: Duration,
    load: f64,
}

impl Ends {
    /// How long it was waited for, for a person who has to tell a failure from a slow machine.
    fn late(&self) -> String {
        format!(" (after {} s, {:.1} programs for each core)", self.waited.as_secs(), self.load)
    }
}

/// How many programs want each core, as the last minute had it.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(1.0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    load / f64::from(u32::try_from(cores).unwrap_or(1))
}

/// The provider's log of a cell's projects.
fn log_of(bed: &Bed, cell: &Cell) -> Vec<LogEntry> {
    let mut log: Vec<LogEntry> =
        cell.projects.iter().flat_map(|project| bed.sandbox.log_of(project)).collect();
    log.sort_by_key(|entry| entry.sequence);
    log
}

fn trace(cell: &Cell) -> Trace {
    let Name { scenario, .. } = &cell.name;
    Trace {
        cell: cell.name.to_string(),
        scenario: scenario.code().to_owned(),
        faults: cell.name.faults().map(|fault| fault.code().to_owned()).collect(),
        entries: cell.notes.entries(),
    }
}

fn history(bed: &Bed, cell: &Cell, provider: &[LogEntry], writes: &[Write], struck: &Name) -> Vec<String> {
    let ledger = (bed.installation.namespace.clone(), cell.ledger.clone());
    let faults: Vec<Fault> = struck.faults().collect();
    let sent = cell.published();
    let keys = cell.projects.iter().flat_map(|project| bed.sandbox.keys(project));
    let published = keys.filter_map(|key| {
        let first = sent.iter().find(|(fingerprint, _)| *fingerprint == key.fingerprint);
        first.map(|(_, sent)| (key.id, *sent))
    });
    let published = published.collect();
    History::new(provider, writes, &ledger, &cell.namespace, &faults, published).violations()
}

/// Creates what the stories begin with, and waits until the operator has seen it and done with it.
async fn lay_ground(bed: &Bed, placed: &[Placed]) -> Result<(), Failure> {
    let manifests: Vec<Value> = placed.iter().flat_map(|placed| bed.ground(placed)).collect();
    apply(&bed.admin, &manifests).await?;
    let cells = || placed.iter().flat_map(|placed| placed.cell.all());
    let begin = bed.clock.monotonic();
    loop {
        let all = ListParams::default();
        let providers = Api::<LLMProvider>::all(bed.admin.clone()).list(&all).await?.items;
        let keys = Api::<LLMKey>::all(bed.admin.clone()).list(&all).await?.items;
        let provider_ready = |cell: &Arc<Cell>| {
            let found = providers.iter().find(|provider| provider.name_any() == cell.namespace);
            found.and_then(|p| p.status.as_ref()).is_some_and(|s| is_ready(&s.conditions))
        };
        let key_ready = |cell: &Arc<Cell>| {
            let found = keys.iter().find(|key| key.namespace().as_ref() == Some(&cell.namespace));
            found.and_then(|key| key.status.as_ref()).is_some_and(|s| is_ready(&s.conditions))
        };
        let ready = |cell: &Arc<Cell>| {
            provider_ready(cell) && (!cell.name.scenario.begins_ready() || key_ready(cell))
        };
        let waits: Vec<String> = cells().filter(|c| !ready(c)).map(|cell| cell.name.to_string()).collect();
        if waits.is_empty() {
            break;
        }
        if bed.clock.monotonic().saturating_sub(begin) > READY_WITHIN {
            return Err(format!("not ready to begin: {}", waits.join(", ")).into());
        }
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep(SHOWN).await;
    stream::iter(placed.iter().map(Ok::<_, Failure>))
        .try_for_each_concurrent(TOGETHER, |placed| story::prepare(bed, &placed.cell))
        .await
}

fn is_ready(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The workloads of all cells, one use after the other, without end.
async fn workloads(proxy: Arc<super::exchange::Proxy>, cells: Vec<Arc<Cell>>) {
    loop {
        for cell in &cells {
            proxy.prober.probe(cell).await;
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Takes the cells away: what lives at the provider goes, and nothing of them is looked at any more.
async fn clear(bed: &Bed, placed: Vec<Placed>) -> Result<(), Failure> {
    let cells: Vec<Arc<Cell>> = placed.iter().flat_map(|placed| placed.cell.all()).cloned().collect();
    stream::iter(&cells)
        .for_each_concurrent(PARALLEL, async |cell| {
            cell.watch(false);
            let keys: Api<LLMKey> = Api::namespaced(bed.admin.clone(), &cell.namespace);
            // Some of them are gone already.
            drop(keys.delete(super::probe::TARGET, &DeleteParams::default()).await);
        })
        .await;
    let begin = bed.clock.monotonic();
    loop {
        let world = World::read(&bed.admin, &bed.installation.namespace).await?;
        let gone = |cell: &Arc<Cell>| {
            let state = world.of(cell, &bed.sandbox);
            state["key"].is_null() && state["ledger"].is_null()
        };
        if cells.iter().all(gone) || bed.clock.monotonic().saturating_sub(begin) > ENDS_WITHIN {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let providers: Api<LLMProvider> = Api::all(bed.admin.clone());
    for cell in &cells {
        providers.delete(&cell.namespace, &DeleteParams::default()).await?;
        if cell.policy.as_ref() == Some(&cell.namespace) {
            let policies: Api<ClusterRotationPolicy> = Api::all(bed.admin.clone());
            policies.delete(&cell.namespace, &DeleteParams::default()).await?;
        }
        bed.proxy.remove(cell);
    }
    drop(placed);
    Ok(())
}
