//! The report for people.

use std::fmt::Write as _;

use super::measure::Requests;
use super::report::{Burst, Report, Run, Size, Trickle};

/// What the project set itself to reach.
const RATIO: f64 = 1.3;
const TRICKLE: f64 = 3.0;
const IDLE_SECONDS: f64 = 2.0;
const STEADY_MIB: f64 = 64.0;

/// One of a run's bursts.
type Which = fn(&Run) -> &Burst;
/// A figure of a run.
type Figure = fn(&Run) -> f64;

/// The whole page.
pub fn markdown(report: &Report) -> String {
    let mut page = String::from("# The operator beside a bare controller\n\n");
    if let Err(error) = preface(&mut page, report).and_then(|()| tables(&mut page, report)) {
        tracing::error!(%error, "a table is incomplete");
    }
    page
}

fn preface(page: &mut String, report: &Report) -> std::fmt::Result {
    let versions: Vec<String> =
        report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let runs = report.sizes.iter().map(|size| size.runs.len()).max().unwrap_or_default();
    let runs = if runs == 1 { "one run".to_owned() } else { format!("{runs} runs") };
    writeln!(
        page,
        "Measured {} with `make bench` (`make bench N=1000` for one size), {runs} of each number of keys on one control \
         plane, in one go. Figures are **min / median**. How it is measured, and what differs between the two sides: \
         [docs/performance.md](../docs/performance.md). All figures, and those of each run: [results.json](results.json).\n\n\
         Machine: {}. Versions: {}. API server, etcd (no fsync), load generator, provider and controller share the \
         machine; audit log on.\n",
        report.date.format("%-d %B %Y, %H:%M UTC"),
        report.machine,
        versions.join(", "),
    )
}

fn tables(page: &mut String, report: &Report) -> std::fmt::Result {
    reaches(page, report)?;
    bursts(page, report)?;
    if let Some(trickle) = &report.trickle {
        latencies(page, trickle)?;
    }
    requests(page, report)?;
    cost(page, report)?;
    restarts(page, report)
}

fn mark(met: bool) -> &'static str {
    if met { "met" } else { "**not met**" }
}

fn reaches(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "## What was to be reached\n\n| Reach | Found | |\n|---|---|---|")?;
    for size in report.sizes.iter().filter(|size| size.n >= 1000) {
        let ratios: [(&str, Which, Which); 3] = [
            ("off: ≤ 1.3 × the floor", |r| &r.unvalidated, |r| &r.floor),
            ("on: ≤ 1.3 × the floor that asks the provider too", |r| &r.validated, |r| &r.floor_asking),
            ("on: ≤ 1.3 × the floor without provider", |r| &r.validated, |r| &r.floor),
        ];
        for (name, measured, floor) in ratios {
            let ratio = size.ratio(|r| measured(r).seconds, |r| floor(r).seconds);
            let others =
                |burst: fn(&Run) -> &Burst| size.spread(|r| burst(r).cpu.foreign_share * 100.0).median;
            writeln!(
                page,
                "| {} keys, validation {name} | {ratio:.2}; other programs took {:.0} % of the machine here, {:.0} % under the \
                 floor | {} |",
                size.n,
                others(measured),
                others(floor),
                mark(ratio <= RATIO)
            )?;
        }
    }
    if let Some(trickle) = &report.trickle {
        let ratio = trickle.unvalidated.secret_p99_ms / trickle.floor.secret_p99_ms;
        writeln!(
            page,
            "| Trickle, to the Secret: p99 ≤ {TRICKLE} × the floor's | {ratio:.2} | {} |",
            mark(ratio <= TRICKLE)
        )?;
        let ratio = trickle.validated.secret_p99_ms / trickle.floor.secret_p99_ms;
        writeln!(page, "| The same with validation | {ratio:.2} | {} |", mark(ratio <= TRICKLE))?;
    }
    if let Some(size) = report.sizes.last() {
        let n = size.n;
        let idle = size.spread(|r| r.restart.idle_seconds).median;
        writeln!(
            page,
            "| Restart with {n} keys: idle within {IDLE_SECONDS} s | {idle:.2} s | {} |",
            mark(idle <= IDLE_SECONDS)
        )?;
        let most = |value: fn(&Run) -> u64| size.runs.iter().map(value).max().unwrap_or_default();
        let written = most(|r| writes(&r.restart.requests));
        writeln!(page, "| … 0 writes (the Lease apart) | {written} | {} |", mark(written == 0))?;
        // The keyring and the install's Secret, and what a probe at its slot reads of its key.
        let read = most(|r| {
            let probes = u64::try_from(r.restart.provider_calls).unwrap_or(u64::MAX);
            reads(&r.restart.requests).saturating_sub(2 + probes)
        });
        writeln!(
            page,
            "| … no reads of single objects (but for keys whose slot has come: the ledger) | {read} | {} |",
            mark(read == 0)
        )?;
        let astray = most(|r| u64::try_from(r.restart.provider_calls_outside_slots).unwrap_or(u64::MAX));
        writeln!(page, "| … no provider call outside its slot | {astray} | {} |", mark(astray == 0))?;
        let written = most(|r| writes(&r.rest.requests));
        writeln!(page, "| Rest: 0 writes (the Lease apart) | {written} | {} |", mark(written == 0))?;
        let steady = size.spread(|r| r.steady.resident).median;
        writeln!(
            page,
            "| Memory with {n} keys: ≤ {STEADY_MIB} MiB | {steady:.0} MiB | {} |",
            mark(steady <= STEADY_MIB)
        )?;
    }
    writeln!(page)
}

fn bursts(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "## Burst: first create to the last `Ready=True`, seconds\n")?;
    head(page, report)?;
    let rows: [(&str, Which); 4] = [
        ("Floor", |r| &r.floor),
        ("Operator, validation off", |r| &r.unvalidated),
        ("Floor that asks the provider", |r| &r.floor_asking),
        ("Operator, validation on", |r| &r.validated),
    ];
    for (name, burst) in rows {
        row(page, report, name, 2, |run| burst(run).seconds)?;
    }
    row(page, report, "of which creating the LLMKeys (validation on)", 2, |run| {
        run.validated.creating_seconds
    })?;
    let ratios: [(&str, Figure, Figure); 3] = [
        ("Ratio, validation off", |r| r.unvalidated.seconds, |r| r.floor.seconds),
        ("Ratio, validation on, both ask", |r| r.validated.seconds, |r| r.floor_asking.seconds),
        ("Ratio, validation on, only the operator asks", |r| r.validated.seconds, |r| r.floor.seconds),
    ];
    for (name, measured, floor) in ratios {
        cells(page, report, name, |size| format!("{:.2}", size.ratio(measured, floor)))?;
    }
    row(page, report, "Taken by other programs, part of the machine", 2, |run| {
        [&run.floor, &run.floor_asking, &run.unvalidated, &run.validated]
            .iter()
            .map(|burst| burst.cpu.foreign_share)
            .fold(0.0, f64::max)
    })?;
    writeln!(page)
}

fn latencies(page: &mut String, trickle: &Trickle) -> std::fmt::Result {
    writeln!(page, "## Trickle: {} keys, 5 a second, milliseconds from sending the create\n", trickle.keys)?;
    writeln!(page, "| | to the Secret p50 | p99 | to Ready p50 | p99 |\n|---|---|---|---|---|")?;
    for (name, latency) in [
        ("Floor", trickle.floor),
        ("Operator, validation off", trickle.unvalidated),
        ("Floor that asks the provider", trickle.floor_asking),
        ("Operator, validation on", trickle.validated),
    ] {
        writeln!(
            page,
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
            latency.secret_p50_ms, latency.secret_p99_ms, latency.ready_p50_ms, latency.ready_p99_ms
        )?;
    }
    writeln!(page)
}

fn requests(page: &mut String, report: &Report) -> std::fmt::Result {
    let Some(size) = report.sizes.last() else { return Ok(()) };
    let Some(run) = size.runs.first() else { return Ok(()) };
    writeln!(page, "## Requests of the controller's account for {} keys (audit log, first run)\n", size.n)?;
    writeln!(page, "| Phase | Requests |\n|---|---|")?;
    for (name, requests) in [
        ("Floor", &run.floor.requests),
        ("Operator, validation off", &run.unvalidated.requests),
        ("Operator, validation on", &run.validated.requests),
        ("Operator, restart", &run.restart.requests),
        ("Operator, at rest", &run.rest.requests),
    ] {
        let shown: Vec<String> = requests.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(page, "| {name} | {} |", shown.join(", "))?;
    }
    let [key, target, ledger] = run.validated.object_bytes;
    let [floor_key, floor_target, floor_ledger] = run.floor.object_bytes;
    writeln!(
        page,
        "\nBytes of one stored LLMKey / target / ledger as JSON: operator {key} / {target} / {ledger}, floor {floor_key} / \
         {floor_target} / {floor_ledger}.\n"
    )
}

fn cost(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "## What it costs\n")?;
    head(page, report)?;
    row(page, report, "CPU s of the floor", 2, |r| r.floor.cpu.controller)?;
    row(page, report, "CPU s of the operator, validation off", 2, |r| r.unvalidated.cpu.controller)?;
    row(page, report, "CPU s of the operator, validation on", 2, |r| r.validated.cpu.controller)?;
    row(page, report, "CPU s of the API server under the floor", 2, |r| r.floor.cpu.apiserver)?;
    row(page, report, "CPU s of the API server, validation off", 2, |r| r.unvalidated.cpu.apiserver)?;
    row(page, report, "CPU s of the API server, validation on", 2, |r| r.validated.cpu.apiserver)?;
    row(page, report, "Floor, peak RSS MiB", 0, |r| r.floor.memory.peak)?;
    row(page, report, "Operator, peak RSS MiB", 0, |r| r.validated.memory.peak)?;
    row(page, report, "Operator, RSS MiB 15 s after", 0, |r| r.steady.resident)?;
    row(page, report, "Operator, RSS MiB after a restart and the rest", 0, |r| r.rest.memory.resident)?;
    writeln!(page)
}

fn restarts(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "## Restart with N keys, and rest\n")?;
    head(page, report)?;
    row(page, report, "`/readyz` after s", 2, |r| r.restart.ready_seconds)?;
    row(page, report, "Idle after s", 2, |r| r.restart.idle_seconds)?;
    row(page, report, "CPU s of the operator", 2, |r| r.restart.cpu.controller)?;
    row(page, report, "Peak RSS MiB", 0, |r| r.restart.memory.peak)?;
    let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let calls = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    row(page, report, "Writes (the Lease apart)", 0, move |r| number(writes(&r.restart.requests)))?;
    row(page, report, "Reads of single objects", 0, move |r| number(reads(&r.restart.requests)))?;
    row(page, report, "Provider calls", 0, move |r| calls(r.restart.provider_calls))?;
    row(page, report, "… outside their slots", 0, move |r| calls(r.restart.provider_calls_outside_slots))?;
    row(page, report, "Rest: seconds watched", 0, |r| r.rest.seconds)?;
    row(page, report, "Rest: writes (the Lease apart)", 0, move |r| number(writes(&r.rest.requests)))?;
    row(page, report, "Rest: writes of the Lease", 0, move |r| number(lease_writes(&r.rest.requests)))?;
    row(page, report, "Rest: reads of single objects", 0, move |r| number(reads(&r.rest.requests)))?;
    row(page, report, "Rest: provider calls", 0, move |r| calls(r.rest.provider_calls))?;
    row(page, report, "… outside their slots", 0, move |r| calls(r.rest.provider_calls_outside_slots))?;
    row(page, report, "Rest: CPU s of the operator", 2, |r| r.rest.cpu.controller)?;
    row(page, report, "Rest: CPU s of the API server", 2, |r| r.rest.cpu.apiserver)
}

fn head(page: &mut String, report: &Report) -> std::fmt::Result {
    write!(page, "| |")?;
    for size in &report.sizes {
        write!(page, " N = {} |", size.n)?;
    }
    writeln!(page, "\n|---|{}", "---|".repeat(report.sizes.len()))
}

fn cells(page: &mut String, report: &Report, name: &str, cell: impl Fn(&Size) -> String) -> std::fmt::Result {
    write!(page, "| {name} |")?;
    for size in &report.sizes {
        write!(page, " {} |", cell(size))?;
    }
    writeln!(page)
}

fn row(
    page: &mut String,
    report: &Report,
    name: &str,
    digits: usize,
    value: impl Fn(&Run) -> f64,
) -> std::fmt::Result {
    cells(page, report, name, |size| {
        let spread = size.spread(&value);
        let (min, median) = (format!("{:.digits$}", spread.min), format!("{:.digits$}", spread.median));
        if min == median { min } else { format!("{min} / {median}") }
    })
}

fn count(requests: &Requests, verbs: &[&str], wanted: impl Fn(&str) -> bool) -> u64 {
    let matches = |name: &str| {
        let (verb, resource) = name.split_once(' ').unwrap_or_default();
        verbs.contains(&verb) && wanted(resource)
    };
    requests.iter().filter(|(name, _)| matches(name)).map(|(_, count)| count).sum()
}

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

fn writes(requests: &Requests) -> u64 {
    count(requests, &WRITES, |resource| !resource.starts_with("leases"))
}

fn lease_writes(requests: &Requests) -> u64 {
    count(requests, &WRITES, |resource| resource.starts_with("leases"))
}

fn reads(requests: &Requests) -> u64 {
    count(requests, &["get"], |resource| !resource.starts_with("leases"))
}
