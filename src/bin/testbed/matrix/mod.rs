//! `testbed crash-matrix`: every effect of the operator, struck by every fault.
//!
//! The operator's own program runs against a real API server and the sandbox provider, through a proxy that sees every
//! request on both ways. First the undisturbed run of each scenario is learned; then each of its effects is struck by each
//! fault, in a namespace and a project of its own; then the end must be the same, and the logs must show that nothing was
//! lost, refused or revoked too early on the way. `docs/evidence/README.md` is the manual.

mod batch;
mod bed;
mod blow;
mod cell;
mod effect;
mod exchange;
mod fault;
mod history;
mod listen;
mod notes;
mod pages;
mod pairs;
mod plan;
mod probe;
mod report;
mod rule;
mod scenario;
mod secrecy;
mod story;
mod stream;
mod upstream;
mod world;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batch::{Goals, Ran, Stage};
use bed::Bed;
use cell::Name;
use effect::{Effect, Kind};
use history::Audit;
use notes::Traces;
use plan::{Learned, Only, Times};
use report::{Outcome, Report, counts, summary};
use scenario::Scenario;

/// Whatever ends a campaign early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many undisturbed runs of a scenario must be the same: with others nothing could be compared.
const LESSONS: usize = 3;
/// How often that many are run. A whole second that ends in the wrong moment makes a difference at this pace: then the provider
/// is asked once more.
const ROUNDS: usize = 3;
/// How often a cell is run whose fault did not strike where it should.
const TRIES: usize = 4;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these: `S2`, `S2:7`, `S2:7:CA` or `S2::CA`, with `--pairs` also `S2:7:CA+3:LA`; may be repeated.
    #[arg(long)]
    only: Vec<Only>,
    /// Two faults in each run: the second strikes the way back from the first.
    #[arg(long)]
    pairs: bool,
    /// Of so many pairs one, evenly.
    #[arg(long, default_value_t = 1, requires = "pairs")]
    sample: usize,
    /// The operator's program [default: beside this one].
    #[arg(long)]
    operator: Option<PathBuf>,
    /// File for the tables; without it they are printed.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Directory for a page of each story that is run as a whole, and beside it the index of all pages there are.
    #[arg(long, conflicts_with_all = ["write", "pairs"])]
    pages: Option<PathBuf>,
    /// File for the trace of each run that is valid and passes, one line each; undisturbed runs come first.
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Learns the effects, prints them, and ends.
    #[arg(long)]
    learn: bool,
    /// Leaves the directory with the operators' logs when it ends.
    #[arg(long)]
    keep: bool,
}

/// Runs it. False if a cell failed.
pub async fn run(arguments: Arguments) -> Result<bool, Failure> {
    let program = match arguments.operator {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("llmkey-operator"),
    };
    if !program.is_file() {
        return Err(format!("{} does not exist; use `make crash-matrix`", program.display()).into());
    }
    if arguments.pages.is_some() && !arguments.only.iter().all(Only::is_a_whole_story) {
        return Err("--pages: a page is of a whole story; name stories alone with --only".into());
    }
    // Cargo's directory for a profile.
    let profile = program.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let build = profile.filter(|name| ["debug", "release"].contains(&name.as_str()));
    let build = build.unwrap_or_else(|| "unknown".to_owned());
    let bed = Arc::new(Bed::make(program, arguments.keep).await?);
    let begin = bed.clock.monotonic();
    let operator = bed.start().await?;
    let audit = Audit::new(bed.cluster.audit_log(), bed.username());
    let traces = arguments.traces.as_deref().map(Traces::begin).transpose()?;
    let mut stage = Stage { bed: Arc::clone(&bed), operator: Some(operator), audit, traces };
    let wanted = |scenario: &Scenario| {
        (!arguments.pairs || pairs::SCENARIOS.contains(scenario))
            && (arguments.only.is_empty() || arguments.only.iter().any(|only| only.scenario == *scenario))
    };
    let scenarios: Vec<Scenario> = Scenario::ALL.into_iter().filter(wanted).collect();
    let (learned, times, goals) = learn(&mut stage, &scenarios).await?;
    if arguments.learn {
        for (scenario, effects) in &learned {
            for (index, effect) in effects.iter().enumerate() {
                say(&format!("{}:{} {effect}", scenario.code(), index + 1))?;
            }
        }
        return Ok(true);
    }
    let versions = vec![
        (format!("llmkey-operator ({build} build)"), env!("CARGO_PKG_VERSION").to_owned()),
        ("Kubernetes".to_owned(), bed.cluster.version().to_owned()),
        ("sandbox provider".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let plan = plan::plan(&learned, &times, &arguments.only);
    let searched;
    let (cells, page) = if arguments.pairs {
        let firsts = plan.cells.into_iter();
        let firsts = firsts.filter(|name| name.faults().all(|fault| pairs::FIRST.contains(&fault)));
        let singles = campaign(&mut stage, firsts.collect(), &goals).await?;
        let plan = pairs::plan(&singles, &arguments.only);
        let planned = plan.cells.len();
        let cells = pairs::sample(plan.cells, arguments.sample);
        say(&format!("{planned} pairs, of which {} are run", cells.len()))?;
        // Without its first half no pair means anything.
        let mut ended = ended(singles);
        ended.retain(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        ended.extend(self::ended(campaign(&mut stage, cells, &goals).await?));
        ended.extend(not_applicable(plan.left_out));
        searched = secrecy::search(&bed).await?;
        let date = bed.clock.now();
        let report = pairs::Report { planned, cells: ended, versions, date, searched: &searched };
        let page = report.markdown();
        (report.cells, page)
    } else {
        say(&format!("{} cells, {} are left out by rules", plan.cells.len(), plan.left_out.len()))?;
        let mut cells = ended(campaign(&mut stage, plan.cells, &goals).await?);
        cells.extend(not_applicable(plan.left_out));
        searched = secrecy::search(&bed).await?;
        let report = Report { learned, cells, versions, date: bed.clock.now(), searched: &searched };
        if let Some(directory) = &arguments.pages {
            pages::write(directory, &report)?;
        }
        let page = report.markdown();
        (report.cells, page)
    };
    match &arguments.write {
        Some(path) => std::fs::write(path, page)?,
        None if arguments.pages.is_some() => {}
        None => say(&page)?,
    }
    say(&format!("in {} s", bed.clock.monotonic().saturating_sub(begin).as_secs()))?;
    say(&searched.sentence())?;
    say(&summary(&cells, &searched))?;
    Ok(counts(&cells).1 == 0 && searched.leaks.is_empty())
}

fn not_applicable(left_out: Vec<(Name, &'static str)>) -> impl Iterator<Item = (Name, Outcome)> {
    left_out.into_iter().map(|(name, reason)| (name, Outcome::NotApplicable(reason)))
}

fn ended(runs: Vec<Ran>) -> Vec<(Name, Outcome)> {
    runs.into_iter().map(|ran| (ran.name.clone(), outcome(&ran))).collect()
}

/// The undisturbed run of each scenario, several times at once: its effects, when they came, and its end.
async fn learn(stage: &mut Stage, scenarios: &[Scenario]) -> Result<(Learned, Times, Goals), Failure> {
    let mut lessons: Vec<Ran> = Vec::new();
    let mut missing = scenarios.to_vec();
    for _ in 0..ROUNDS {
        let names = missing.iter().flat_map(|scenario| {
            std::iter::repeat_n(Name { scenario: *scenario, aim: None, then: None }, LESSONS)
        });
        let (alone, together): (Vec<Name>, Vec<Name>) = names.partition(|name| name.scenario.is_everybodys());
        for names in [together, alone].into_iter().filter(|names| !names.is_empty()) {
            for ran in stage.run(names, &Goals::new()).await? {
                if ran.problems.is_empty() {
                    stage.keep_trace(&ran)?;
                    lessons.push(ran);
                } else {
                    // A machine that has other work to do: it is run again like one that took other steps.
                    say(&format!("undisturbed, {} fails: {}", ran.name, ran.problems.join("; ")))?;
                }
            }
        }
        missing.retain(|scenario| agreeing(&of(&lessons, *scenario)).is_none());
        if missing.is_empty() {
            break;
        }
    }
    let (mut learned, mut times, mut goals) = (Learned::new(), Times::new(), Goals::new());
    for scenario in scenarios {
        let (runs, code) = (of(&lessons, *scenario), scenario.code());
        let Some(same) = agreeing(&runs) else {
            let told: Vec<String> = runs.iter().map(|ran| steps(&ran.effects).join(", ")).collect();
            return Err(format!("undisturbed runs of {code} differ: {}", told.join(" | ")).into());
        };
        let Some((first, others)) = same.split_first() else { continue };
        if let Some(other) = others.iter().find(|ran| ran.state != first.state) {
            let difference = world::difference(&first.state, &other.state);
            return Err(format!("undisturbed runs of {code} end differently: {difference}").into());
        }
        let everywhere =
            |effect: &Effect| !effect.searches() && others.iter().all(|ran| ran.effects.contains(effect));
        let kept = first.effects.iter().zip(&first.times).filter(|(effect, _)| everywhere(effect));
        let (effects, after) = kept.map(|(effect, time)| (effect.clone(), *time)).unzip();
        times.insert(*scenario, after);
        learned.insert(*scenario, effects);
        goals.insert(*scenario, first.state.clone());
    }
    Ok((learned, times, goals))
}

fn of(lessons: &[Ran], scenario: Scenario) -> Vec<&Ran> {
    lessons.iter().filter(|ran| ran.name.scenario == scenario).collect()
}

/// What must be the same in every run. Lists may come by the operator's own clock.
fn steps(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter(|effect| effect.kind != Kind::List).map(ToString::to_string).collect()
}

/// As many runs as there must be that took the same steps.
fn agreeing<'a>(runs: &[&'a Ran]) -> Option<Vec<&'a Ran>> {
    runs.iter().find_map(|run| {
        let same = |other: &&&Ran| steps(&other.effects) == steps(&run.effects);
        let same: Vec<&Ran> = runs.iter().filter(same).copied().collect();
        (same.len() >= LESSONS).then_some(same)
    })
}

/// All cells; those whose fault did not strike as it should are run again, in the end alone.
async fn campaign(stage: &mut Stage, cells: Vec<Name>, goals: &Goals) -> Result<Vec<Ran>, Failure> {
    let (total, mut ended) = (cells.len(), Vec::new());
    let mut waiting = cells;
    for again in 0..TRIES {
        let mut missed = Vec::new();
        for batch in plan::batches(&waiting, again) {
            for ran in stage.run(batch, goals).await? {
                if !ran.valid && again + 1 < TRIES {
                    missed.push(ran.name);
                    continue;
                }
                if let Outcome::Failed(problems) = outcome(&ran) {
                    let name = &ran.name;
                    let pairs = if name.then.is_some() { " --pairs" } else { "" };
                    say(&format!(
                        "FAIL {name}: {}\n     testbed crash-matrix{pairs} --only {name}",
                        problems.join("; ")
                    ))?;
                }
                stage.keep_trace(&ran)?;
                ended.push(ran);
            }
            say(&format!("{} of {total}", ended.len()))?;
        }
        waiting = missed;
    }
    Ok(ended)
}

fn outcome(ran: &Ran) -> Outcome {
    let mut problems = ran.problems.clone();
    if problems.is_empty() && ran.way_back_is_shorter() {
        return Outcome::NotApplicable(rule::SHORTER);
    }
    if !ran.valid {
        problems.insert(0, "INVALID: the fault did not strike".to_owned());
    }
    if problems.is_empty() { Outcome::Passed } else { Outcome::Failed(problems) }
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use llmkey_operator::trace::Trace;

    use super::*;

    #[test]
    fn only_runs_that_took_the_same_steps_are_learned() {
        let effect = |kind, detail: &str| Effect { kind, detail: detail.to_owned() };
        let run = |effects: Vec<Effect>| Ran {
            name: Name { scenario: Scenario::Rotate, aim: None, then: None },
            effects,
            times: Vec::new(),
            trace: Trace::default(),
            struck_at: None,
            state: serde_json::Value::Null,
            valid: true,
            problems: Vec::new(),
        };
        let (mint, status) = (effect(Kind::Mint, ""), effect(Kind::Status, ""));
        let usual = || run(vec![mint.clone(), effect(Kind::List, "after mint"), status.clone()]);
        let (listed, odd) = (run(vec![mint.clone(), status.clone()]), run(vec![mint.clone()]));
        let (one, two) = (usual(), usual());
        assert!(agreeing(&[&odd, &one, &two]).is_none());
        let same = agreeing(&[&odd, &one, &two, &listed]).unwrap();
        assert_eq!(same.len(), 3, "a list more or less is no difference");
    }
}
