//! One cell of the matrix while it runs: a namespace, a project at the provider, and the fault that waits for its effect.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llmkey_operator::kube_ext::clock::Clock;
use tokio::sync::watch;

use super::effect::{Effect, Kind};
use super::fault::Fault;
use super::scenario::Scenario;

/// How long the watches of a cell show nothing after [`Fault::Stale`] and [`Fault::Missed`].
const FROZEN: Duration = Duration::from_millis(1500);

/// Which effect a fault waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Its place in the undisturbed run, from 1.
    pub index: usize,
    /// Its signature.
    pub effect: Effect,
    /// Which of those with this signature, from 1.
    pub occurrence: usize,
    /// The fault.
    pub fault: Fault,
    /// When the effect came in the undisturbed run, after its beginning.
    pub after: Duration,
}

/// What a cell is called: `S2:7:CA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The scenario.
    pub scenario: Scenario,
    /// Where and what; none while the undisturbed run is learned.
    pub aim: Option<Aim>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.aim {
            Some(aim) => write!(f, "{}:{}:{}", self.scenario.code(), aim.index, aim.fault.code()),
            None => write!(f, "{}", self.scenario.code()),
        }
    }
}

/// A cell.
pub struct Cell {
    /// What it is called.
    pub name: Name,
    /// Its namespace, also the name of its LLMProvider.
    pub namespace: String,
    /// Name of its ledger.
    pub ledger: String,
    /// Its project at the provider.
    pub project: String,
    clock: Clock,
    state: Mutex<State>,
    release: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    armed: Option<Duration>,
    times: Vec<Duration>,
    watched: bool,
    effects: Vec<Effect>,
    fired: bool,
    over: bool,
    held_since: Option<Duration>,
    frozen_until: Option<Duration>,
    last_write: Option<Duration>,
    published: Vec<String>,
    violations: Vec<String>,
}

impl Cell {
    /// A cell that is not armed yet: nothing is counted and nothing strikes.
    pub fn new(name: Name, namespace: String, ledger: String, project: String, clock: Clock) -> Self {
        let release = watch::Sender::new(false);
        Self { name, namespace, ledger, project, clock, state: Mutex::default(), release }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that waits here, if any.
    pub fn fault(&self) -> Option<Fault> {
        self.name.aim.as_ref().map(|aim| aim.fault)
    }

    /// From here on effects count.
    pub fn arm(&self) {
        self.state().armed = Some(self.clock.monotonic());
    }

    /// Notes an effect on its way; the fault that strikes it, if it is the one that was waited for.
    pub fn arrives(&self, effect: &Effect) -> Option<Fault> {
        let now = self.clock.monotonic();
        let mut state = self.state();
        if !effect.kind.only_reads() {
            state.last_write = Some(now);
        }
        let begin = state.armed.filter(|_| self.name.scenario.counts(effect.kind))?;
        let placed = placed(effect, state.effects.last())?;
        let effect = &placed;
        state.effects.push(effect.clone());
        state.times.push(now.saturating_sub(begin));
        let aim = self.name.aim.as_ref().filter(|aim| !state.fired && aim.effect == *effect)?;
        let occurrence = state.effects.iter().filter(|seen| *seen == effect).count();
        if occurrence != aim.occurrence {
            return None;
        }
        state.fired = true;
        if matches!(aim.fault, Fault::Stale | Fault::Missed) {
            state.frozen_until = Some(now + FROZEN);
        }
        Some(aim.fault)
    }

    /// The effects so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.state().effects.clone()
    }

    /// When each of them came, after the cell was armed.
    pub fn times(&self) -> Vec<Duration> {
        self.state().times.clone()
    }

    /// Whether the fault has struck.
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    /// The struck exchange is over, its effect included.
    pub fn ends_strike(&self) {
        self.state().over = true;
    }

    /// Whether there is nothing of the fault still to come.
    pub fn is_over(&self) -> bool {
        self.name.aim.is_none() || self.state().over
    }

    /// Holds a request until the cells that share one blow are let go.
    pub async fn hold(&self) {
        self.state().held_since = Some(self.clock.monotonic());
        let mut released = self.release.subscribe();
        // The sender is a part of this cell.
        drop(released.wait_for(|go| *go).await);
    }

    /// Since when a request is held.
    pub fn held_since(&self) -> Option<Duration> {
        self.state().held_since
    }

    /// Lets the held request go.
    pub fn let_go(&self) {
        self.release.send_replace(true);
    }

    /// Whether the watches show nothing of this cell now.
    pub fn frozen(&self) -> bool {
        self.state().frozen_until.is_some_and(|until| self.clock.monotonic() < until)
    }

    /// Whether of each object only the last state is shown after it was frozen.
    pub fn forgets(&self) -> bool {
        self.fault() == Some(Fault::Missed)
    }

    /// When the operator last sent a write for this cell.
    pub fn last_write(&self) -> Option<Duration> {
        self.state().last_write
    }

    /// Whether a workload uses the target Secret: from its first publication to the deletion of the LLMKey.
    pub fn watched(&self) -> bool {
        self.state().watched
    }

    /// The workload starts or stops.
    pub fn watch(&self, on: bool) {
        self.state().watched = on;
    }

    /// Notes that the target carries the key with this fingerprint. A key that another one has replaced must not come back.
    pub fn publishes(&self, fingerprint: String) {
        let mut state = self.state();
        if state.published.last() == Some(&fingerprint) {
            return;
        }
        let again = state.published.contains(&fingerprint);
        state.published.push(fingerprint);
        drop(state);
        if again {
            self.violates("I7: a key that was replaced is published again".to_owned());
        }
    }

    /// Notes that an invariant is broken.
    pub fn violates(&self, what: String) {
        let mut state = self.state();
        if !state.violations.contains(&what) {
            state.violations.push(what);
        }
    }

    /// Which invariants are broken.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

/// An effect as it counts after another one. The operator also lists an account's keys by its own clock: of lists, only
/// the first after another effect counts, and is called after it.
fn placed(effect: &Effect, before: Option<&Effect>) -> Option<Effect> {
    match (effect.kind, before) {
        (Kind::List, Some(before)) if before.kind == Kind::List => None,
        (Kind::List, Some(before)) => Some(Effect { kind: Kind::List, detail: format!("after {before}") }),
        (Kind::List, None) => None,
        _ => Some(effect.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(detail: &str) -> Effect {
        Effect { kind: Kind::LedgerSwap, detail: detail.to_owned() }
    }

    fn cell(occurrence: usize) -> Cell {
        let aim = Aim {
            index: 3,
            effect: effect("1:Current"),
            occurrence,
            fault: Fault::LostAfter,
            after: Duration::ZERO,
        };
        let name = Name { scenario: Scenario::Rotate, aim: Some(aim) };
        Cell::new(name, "n".to_owned(), "l".to_owned(), "p".to_owned(), Clock::start())
    }

    #[test]
    fn a_fault_strikes_once_at_its_occurrence() {
        let cell = cell(2);
        assert_eq!(cell.name.to_string(), "S2:3:LA");
        assert_eq!(cell.arrives(&effect("1:Current")), None, "not armed");
        cell.arm();
        let struck: Vec<_> = (0..4).map(|_| cell.arrives(&effect("1:Current"))).collect();
        assert_eq!(struck, [None, Some(Fault::LostAfter), None, None]);
        assert_eq!(cell.arrives(&effect("2:Current")), None);
        assert!(cell.fired() && cell.effects().len() == 5);
    }

    #[test]
    fn of_lists_the_first_after_another_effect_counts() {
        let cell = cell(1);
        cell.arm();
        let list = Effect { kind: Kind::List, detail: String::new() };
        for effect in [&list, &effect("1:Retiring"), &list, &list, &effect("1:Revoked"), &list] {
            cell.arrives(effect);
        }
        let told: Vec<String> = cell.effects().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "ledger:swap 1:Retiring",
                "provider:list after ledger:swap 1:Retiring",
                "ledger:swap 1:Revoked",
                "provider:list after ledger:swap 1:Revoked",
            ]
        );
    }

    #[test]
    fn a_replaced_key_that_comes_back_is_a_violation() {
        let cell = cell(1);
        for key in ["a", "a", "b", "b"] {
            cell.publishes(key.to_owned());
        }
        assert_eq!(cell.violations(), Vec::<String>::new(), "a repair writes the same key again");
        cell.publishes("a".to_owned());
        assert_eq!(cell.violations().len(), 1);
    }
}
