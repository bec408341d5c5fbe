//! The model: every interleaving of one or two replicas, faults and people, within a budget, against an API server and a
//! provider in memory. What decides is the production code: the planner, the fold, the status.
//!
//! docs/evidence/model.md says what is modelled, what was reached, and what it does not show.

mod actions;
mod clock;
mod configurations;
mod fate;
mod goal;
mod local;
mod parts;
mod place;
mod replay;
mod rules;
mod search;
mod space;
mod story;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kube_ext::clock::Clock;
use actions::{Machine, all};
use configurations::{CONFIGURATIONS, Configuration};
use goal::Property;
pub use replay::replay;
use search::{Bounds, Found, search};

/// States that one configuration may have: what 4 bytes of position and this class of machine allow.
const MOST_STATES: usize = 250_000_000;

/// Seconds between two words on a long search.
const PROGRESS: u64 = 10;

/// What is to be explored.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Every configuration; otherwise those that continuous integration has time for.
    pub full: bool,
    /// Only configurations whose name has this in it.
    pub only: Option<String>,
    /// Configurations at the same time.
    pub threads: usize,
    /// Only list them.
    pub list: bool,
}

/// Explores, and tells of each configuration as it ends. True if every property holds in each.
pub fn explore(selection: &Selection, out: &mut (dyn Write + Send)) -> io::Result<bool> {
    let wanted = |c: &&Configuration| match &selection.only {
        Some(only) => c.name.contains(only.as_str()),
        None => c.quick || selection.full,
    };
    let chosen: Vec<&Configuration> = CONFIGURATIONS.iter().filter(wanted).collect();
    if selection.list {
        for configuration in chosen {
            writeln!(out, "{}: {}", configuration.name, configuration.sentence())?;
        }
        return Ok(true);
    }
    let (next, passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let out = Mutex::new(out);
    let work = || -> io::Result<()> {
        while let Some(configuration) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = run(configuration);
            passed.fetch_add(Property::ALL.len() - report.failed, Ordering::Relaxed);
            failed.fetch_add(report.failed, Ordering::Relaxed);
            let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            writeln!(out, "{}", report.text)?;
            out.flush()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..selection.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(io::ErrorKind::Other.into())))
    })?;
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(failed == 0 && passed > 0)
}

/// How a configuration came out.
struct Report {
    text: String,
    failed: usize,
}

fn run(configuration: &Configuration) -> Report {
    let clock = Clock::start();
    let mut machine = Machine::new(configuration);
    let begin = configuration.begin(&mut machine);
    let bounds = Bounds { depth: configuration.depth, attempts: configuration.attempts, states: MOST_STATES };
    let mut told = 0;
    let found = search(&mut machine, &begin, configuration.budget, bounds, &mut |found: &Found| {
        let seconds = clock.monotonic().as_secs();
        if seconds >= told + PROGRESS {
            told = seconds;
            let (name, depth, states) = (configuration.name, found.depth, found.states.len());
            // Nobody needs to see it.
            drop(writeln!(io::stderr(), "{name}: {seconds} s, depth {depth}, {states} states"));
        }
    });
    let mut text = summary(configuration, &machine, &found, clock.monotonic().as_secs_f64());
    let actions = all();
    for property in Property::ALL {
        let breach = found.breaches.iter().find(|(broken, _)| *broken == property).map(|(_, breach)| breach);
        // A bound that was to be exhausted and was not is no proof.
        let cut = !reached(configuration, &found);
        let verdict = if breach.is_some() || cut { "FAILED" } else { "passed" };
        text.extend(["  ", verdict, "  ", property.meaning(), "\n"]);
        if let Some(breach) = breach {
            text.push_str(&story::story(&mut machine, &found, breach, &actions));
            text.push('\n');
        }
    }
    let failed = if reached(configuration, &found) { found.breaches.len() } else { Property::ALL.len() };
    Report { text, failed }
}

/// Whether the search came as far as it was to come.
fn reached(configuration: &Configuration, found: &Found) -> bool {
    found.exhausted || configuration.depth.is_some_and(|depth| found.depth >= depth)
}

fn summary(configuration: &Configuration, machine: &Machine, found: &Found, seconds: f64) -> String {
    let bound = match configuration.depth {
        _ if found.exhausted => "exhausted".to_owned(),
        Some(depth) if reached(configuration, found) => format!("all of the first {depth} actions"),
        _ => "NOT exhausted: too many states".to_owned(),
    };
    format!(
        "{}: {}\n  {} states, {} transitions, depth {}, {bound}; {} places, {} replicas; {seconds:.1} s\n  \
         from any state at most {} actions to the goal; at most {} keys left to a later search; of {} states with more than {} \
         attempts only that way was followed\n",
        configuration.name,
        configuration.sentence(),
        found.states.len(),
        found.transitions,
        found.depth,
        machine.space.places.len(),
        machine.space.replicas.len(),
        found.farthest_goal,
        found.strays,
        found.tails,
        configuration.attempts,
    )
}
