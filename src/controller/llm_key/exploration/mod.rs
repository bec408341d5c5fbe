//! The model: every interleaving of one or two replicas, faults and people, within a budget, against an API server and a
//! provider in memory. What decides is the production code: the planner, the fold, the status.
//!
//! docs/evidence/model.md says what is modelled, what was reached, and what it does not show.

mod actions;
mod attempts;
mod budget;
mod clock;
mod configurations;
mod fate;
mod goal;
mod limits;
mod local;
mod packed;
mod parts;
mod place;
mod replay;
mod rules;
mod search;
mod space;
mod story;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kube_ext::clock::Clock;
use actions::Machine;
use configurations::{CONFIGURATIONS, Configuration};
use goal::Property;
use limits::Limits;
pub use replay::replay;
use search::{Bounds, Ended, Found, Search};
use space::State;

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
    /// Bytes of memory that the process may have; none: as many as there are.
    pub memory: Option<u64>,
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
            let report = run(configuration, selection.memory);
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

fn run(configuration: &Configuration, memory: Option<u64>) -> Report {
    let clock = Clock::start();
    let mut machine = Machine::new(configuration);
    let begin = configuration.begin(&mut machine);
    let Configuration { name, depth, faults, attempts, .. } = *configuration;
    let (mut told, mut before) = (0, 0);
    let mut progress = |found: &Found, bytes: Option<u64>| {
        let seconds = clock.monotonic().as_secs();
        if seconds >= told + PROGRESS {
            let pace = (found.states - before) / (seconds - told);
            (told, before) = (seconds, found.states);
            let Found { states, scenes, depth, faults, .. } = found;
            let memory = bytes.map_or_else(String::new, |bytes| format!(", {} MiB", bytes >> 20));
            let word = format!(
                "{name}: {seconds} s, {faults} faults, depth {depth}, {states} states ({scenes} scenes), {pace}/s{memory}"
            );
            // Nobody needs to see it.
            drop(writeln!(io::stderr(), "{word}"));
        }
    };
    let bounds = Bounds { depth, faults, attempts, as_they_are: false };
    let Explored { found, stories } =
        explored(&mut machine, &begin, bounds, &mut Limits::new(memory, &mut progress));
    let mut text = summary(configuration, &machine, &found, clock.monotonic().as_secs_f64());
    // A bound that was to be exhausted and was not is no proof.
    let cut = matches!(found.ended, Ended::Full(..));
    for property in Property::ALL {
        let story = found.breaches.iter().zip(&stories).find(|((broken, _), _)| *broken == property);
        let verdict = if story.is_some() || cut { "FAILED" } else { "passed" };
        text.extend(["  ", verdict, "  ", property.meaning(), "\n"]);
        if let Some((_, story)) = story {
            text.push_str(story);
            text.push('\n');
        }
    }
    let failed = if cut { Property::ALL.len() } else { found.breaches.len() };
    Report { text, failed }
}

/// What was found, and the breaches as stories.
struct Explored {
    found: Found,
    stories: Vec<String>,
}

/// Explores. How a breach was reached is found by a second search, so that the first one need not keep it.
fn explored(machine: &mut Machine, begin: &State, bounds: Bounds, limits: &mut Limits<'_>) -> Explored {
    let found = Search::new(machine, begin, bounds).run(limits);
    let places: Vec<State> = found.breaches.iter().map(|(_, breach)| breach.at).collect();
    if places.is_empty() {
        return Explored { found, stories: Vec::new() };
    }
    let trails = Search::new(machine, begin, bounds).trails(&places);
    let told = found.breaches.iter().zip(&trails);
    let stories = told.map(|((_, breach), trail)| story::story(machine, begin, trail, breach)).collect();
    Explored { found, stories }
}

fn summary(configuration: &Configuration, machine: &Machine, found: &Found, seconds: f64) -> String {
    let bound = match found.ended {
        Ended::Exhausted => "exhausted".to_owned(),
        Ended::AtDepth(depth) => format!("all of the first {depth} actions"),
        Ended::AtFaults(faults) => format!("all with at most {faults} faults together"),
        Ended::Full(why, None) => format!("NOT exhausted: {why}"),
        Ended::Full(why, Some(faults)) => {
            format!("NOT exhausted: {why}; all with at most {faults} faults together was explored")
        }
    };
    format!(
        "{}: {}\n  {} states, {} transitions, depth {}, {bound}; {} scenes, {} places, {} replicas; {seconds:.1} s\n  \
         from any state at most {} actions to the goal; at most {} keys left to a later search; of {} states with more than {} \
         attempts only that way was followed\n",
        configuration.name,
        configuration.sentence(),
        found.states,
        found.transitions,
        found.depth,
        found.scenes,
        machine.space.places.len(),
        machine.space.replicas.len(),
        found.farthest_goal,
        found.strays,
        found.tails,
        configuration.attempts,
    )
}
