//! One cell of the matrix while it runs: a namespace, a project at the provider, and the fault that waits for its effect.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use llmkey_operator::kube_ext::clock::Clock;
use tokio::sync::watch;

use super::effect::{Effect, Kind};
use super::fault::Fault;
use super::notes::Notes;
use super::scenario::Scenario;

/// How long the watches of a cell show nothing after [`Fault::Stale`] and [`Fault::Missed`].
const FROZEN: Duration = Duration::from_millis(1500);
/// How long a partition of one key lasts.
const PARTED: Duration = Duration::from_secs(3);

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

/// The second fault of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Then {
    /// Which effect after the one that was struck first, from 1; lists come by the operator's own clock and are not counted.
    pub later: usize,
    /// The fault.
    pub fault: Fault,
    /// What the effect was in a run with the first fault alone.
    pub effect: Effect,
}

/// What a cell is called: `S2:7:CA`, or `S2:7:CA+3:LA` for a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The scenario.
    pub scenario: Scenario,
    /// Where and what; none while the undisturbed run is learned.
    pub aim: Option<Aim>,
    /// What comes after it.
    pub then: Option<Then>,
}

impl Name {
    /// Its faults, in order.
    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        let first = self.aim.as_ref().map(|aim| aim.fault);
        first.into_iter().chain(self.then.as_ref().map(|then| then.fault))
    }

    /// Those of them that strike the whole process.
    pub fn blows(&self) -> Vec<Fault> {
        self.faults().filter(|fault| fault.strikes_the_process()).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scenario.code())?;
        if let Some(aim) = &self.aim {
            write!(f, ":{}:{}", aim.index, aim.fault.code())?;
        }
        self.then.as_ref().map_or(Ok(()), |then| write!(f, "+{}:{}", then.later, then.fault.code()))
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
    /// Its projects at the provider: where its story begins, and another one.
    pub projects: [String; 2],
    /// The `ClusterRotationPolicy` that it follows; none if it has a policy of its own.
    pub policy: Option<String>,
    /// Others whose keys follow the same policy. They are never armed.
    pub others: Vec<Arc<Self>>,
    /// What its trace will say.
    pub notes: Arc<Notes>,
    clock: Clock,
    state: Mutex<State>,
    blows: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    armed: Option<Duration>,
    times: Vec<Duration>,
    watched: bool,
    effects: Vec<Effect>,
    last_effect: Duration,
    /// How many effects there were when each fault struck.
    struck: Vec<usize>,
    last_fault: Option<Fault>,
    over: usize,
    held_since: Option<Duration>,
    frozen_until: Option<Duration>,
    parted: Option<(Fault, Duration)>,
    last_write: Option<Duration>,
    published: Vec<(String, DateTime<Utc>)>,
    kept: Option<Secret>,
    violations: Vec<String>,
}

impl Cell {
    /// A cell that is not armed yet: nothing is counted and nothing strikes.
    pub fn new(name: Name, namespace: String, ledger: String, projects: [String; 2], clock: Clock) -> Self {
        let blows = watch::Sender::new(0);
        let (policy, others, state, notes) = (None, Vec::new(), Mutex::default(), Arc::default());
        Self { name, namespace, ledger, projects, policy, others, notes, clock, state, blows }
    }

    /// Itself and those that follow the same policy.
    pub fn all(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::once(self).chain(&self.others)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The project in which the story begins.
    pub fn project(&self) -> &str {
        &self.projects[0]
    }

    /// A person changes the target Secret, so what stands there may be wrong for a while.
    pub fn by_hand(&self) -> bool {
        self.name.faults().any(Fault::is_by_hand)
    }

    /// From here on effects count.
    pub fn arm(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.armed = Some(now);
        state.last_effect = now;
        self.notes.begin();
    }

    /// Notes an effect on its way; the fault that strikes it, if it is the one that was waited for.
    pub fn arrives(&self, effect: &Effect) -> Option<Fault> {
        let now = self.clock.monotonic();
        let mut state = self.state();
        // Of two replicas, each remembers what it was told of a key's health, and tells it again when the other is gone.
        let told_again = effect.kind == Kind::Status && self.name.faults().any(|fault| fault == Fault::Two);
        if !effect.kind.only_reads() && !told_again {
            state.last_write = Some(now);
        }
        let begin = state.armed.filter(|_| self.name.scenario.counts(effect.kind))?;
        let placed = placed(effect, state.effects.last())?;
        if self.name.scenario.repeats() && (placed.searches() || state.effects.last() == Some(&placed)) {
            return None;
        }
        state.effects.push(placed);
        state.last_effect = now;
        state.times.push(now.saturating_sub(begin));
        let fault = self.strikes(&state)?;
        let count = state.effects.len();
        state.struck.push(count);
        state.last_fault = Some(fault);
        match fault {
            Fault::Stale | Fault::Missed => state.frozen_until = Some(now + FROZEN),
            Fault::NoCluster => {
                state.frozen_until = Some(now + PARTED);
                state.parted = Some((fault, now + PARTED));
            }
            Fault::NoProvider => state.parted = Some((fault, now + PARTED)),
            _ => {}
        }
        Some(fault)
    }

    /// The fault that the newest effect was waited for by, if any.
    fn strikes(&self, state: &State) -> Option<Fault> {
        match state.struck.as_slice() {
            [] => {
                let aim = self.name.aim.as_ref()?;
                let newest = state.effects.last().filter(|newest| **newest == aim.effect)?;
                let occurrence = state.effects.iter().filter(|seen| *seen == newest).count();
                (occurrence == aim.occurrence).then_some(aim.fault)
            }
            [first] => {
                let then = self.name.then.as_ref()?;
                state.effects.last().filter(|newest| newest.kind != Kind::List)?;
                let later = state.effects[*first..].iter().filter(|effect| effect.kind != Kind::List);
                (later.count() == then.later).then_some(then.fault)
            }
            _ => None,
        }
    }

    /// The effects so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.state().effects.clone()
    }

    /// When each of them came, after the cell was armed.
    pub fn times(&self) -> Vec<Duration> {
        self.state().times.clone()
    }

    /// How many effects there were when the first fault struck, itself included.
    pub fn struck_at(&self) -> Option<usize> {
        self.state().struck.first().copied()
    }

    /// Whether every fault has struck.
    pub fn fired(&self) -> bool {
        self.state().struck.len() == self.name.faults().count()
    }

    /// A struck exchange is over, its effect included.
    pub fn ends_strike(&self) {
        self.state().over += 1;
    }

    /// Whether there is nothing of the faults still to come.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        let parted = state.parted.is_some_and(|(_, until)| self.clock.monotonic() < until);
        state.over == self.name.faults().count() && !parted
    }

    /// Whether there was no effect for so long: what has not struck by then never will.
    pub fn is_still_for(&self, time: Duration) -> bool {
        let state = self.state();
        state.held_since.is_none() && self.clock.monotonic().saturating_sub(state.last_effect) > time
    }

    /// Holds a request until the cells that share one blow are let go.
    pub async fn hold(&self) {
        let mut blows = self.blows.subscribe();
        let which = {
            let mut state = self.state();
            let which = self.name.faults().take(state.struck.len());
            let which = which.filter(|fault| fault.strikes_the_process()).count();
            if *blows.borrow() >= which {
                return;
            }
            state.held_since = Some(self.clock.monotonic());
            which
        };
        // The sender is a part of this cell.
        drop(blows.wait_for(|done| *done >= which).await);
    }

    /// Since when a request is held.
    pub fn held_since(&self) -> Option<Duration> {
        self.state().held_since
    }

    /// Lets the held request go, and whatever would have to wait for the same blow.
    pub fn let_go(&self) {
        self.state().held_since = None;
        self.blows.send_modify(|done| *done += 1);
    }

    /// Whether the watches show nothing of this cell now.
    pub fn frozen(&self) -> bool {
        self.state().frozen_until.is_some_and(|until| self.clock.monotonic() < until)
    }

    /// Whether of each object only the last state is shown after it was frozen.
    pub fn forgets(&self) -> bool {
        self.state().last_fault == Some(Fault::Missed)
    }

    /// Whether nothing of this cell gets through now: to the provider, or to the API server.
    pub fn is_parted(&self, provider: bool) -> bool {
        let now = self.clock.monotonic();
        let fault = if provider { Fault::NoProvider } else { Fault::NoCluster };
        self.state().parted.is_some_and(|(parted, until)| parted == fault && now < until)
    }

    /// Which way the servers' clocks are wrong by now.
    pub fn skew(&self) -> i64 {
        self.state().last_fault.map_or(0, Fault::skew)
    }

    /// Whether the provider answers nothing but 503 now, as the story has it.
    pub fn is_out(&self) -> bool {
        let outage = self.name.scenario.outage();
        self.state().armed.is_some_and(|armed| self.clock.monotonic() < armed + outage)
    }

    /// When the operator last sent a write for this cell.
    pub fn last_write(&self) -> Option<Duration> {
        self.state().last_write
    }

    /// Keeps a copy of the ledger.
    pub fn keep(&self, ledger: Secret) {
        self.state().kept = Some(ledger);
    }

    /// The copy that was kept.
    pub fn kept(&self) -> Option<Secret> {
        self.state().kept.clone()
    }

    /// Whether a workload uses the target Secret: from its first publication to the deletion of the LLMKey.
    pub fn watched(&self) -> bool {
        self.state().watched
    }

    /// The workload starts or stops.
    pub fn watch(&self, on: bool) {
        self.state().watched = on;
    }

    /// Notes that the target carries the key with this fingerprint, by a write that was sent at a time. A key that another one has
    /// replaced must not come back. Whether a workload can use it: one that was lost at the provider is no better for being
    /// delivered again.
    pub fn publishes(&self, fingerprint: String, sent: DateTime<Utc>) -> bool {
        let mut state = self.state();
        if state.published.last().is_some_and(|(last, _)| *last == fingerprint) {
            return self.name.scenario != Scenario::LoseKey;
        }
        let again = state.published.iter().any(|(earlier, _)| *earlier == fingerprint);
        state.published.push((fingerprint, sent));
        drop(state);
        if again {
            self.violates("I7: a key that was replaced is published again".to_owned());
        }
        true
    }

    /// The wall clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now_precise()
    }

    /// The fingerprints of all keys that the target has carried, and when the first write with each was sent.
    pub fn published(&self) -> Vec<(String, DateTime<Utc>)> {
        self.state().published.clone()
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

/// An effect as it counts after another one. A sweep lists an account's keys by the operator's own clock, at any place: of
/// lists, only the first after an effect that asks for one counts, and is called after it.
fn placed(effect: &Effect, before: Option<&Effect>) -> Option<Effect> {
    if effect.kind != Kind::List {
        return Some(effect.clone());
    }
    let before = before.filter(|before| before.asks_for_a_list())?;
    Some(Effect { kind: Kind::List, detail: format!("after {before}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(detail: &str) -> Effect {
        Effect { kind: Kind::LedgerSwap, detail: detail.to_owned() }
    }

    fn cell(occurrence: usize, then: Option<Then>) -> Cell {
        let aim = Aim {
            index: 3,
            effect: effect("1:Current"),
            occurrence,
            fault: Fault::LostAfter,
            after: Duration::ZERO,
        };
        let name = Name { scenario: Scenario::Rotate, aim: Some(aim), then };
        let projects = ["p".to_owned(), "q".to_owned()];
        Cell::new(name, "n".to_owned(), "l".to_owned(), projects, Clock::start())
    }

    #[test]
    fn a_fault_strikes_once_at_its_occurrence() {
        let cell = cell(2, None);
        assert_eq!(cell.name.to_string(), "S2:3:LA");
        assert_eq!(cell.arrives(&effect("1:Current")), None, "not armed");
        cell.arm();
        let struck: Vec<_> = (0..4).map(|_| cell.arrives(&effect("1:Current"))).collect();
        assert_eq!(struck, [None, Some(Fault::LostAfter), None, None]);
        assert_eq!(cell.arrives(&effect("2:Current")), None);
        assert!(cell.fired() && cell.effects().len() == 5);
    }

    #[test]
    fn a_second_fault_counts_from_the_first() {
        let then = Then { later: 2, fault: Fault::CrashBefore, effect: effect("3:Current") };
        let cell = cell(1, Some(then));
        assert_eq!(cell.name.to_string(), "S2:3:LA+2:CB");
        assert_eq!(cell.name.blows(), [Fault::CrashBefore]);
        cell.arm();
        let told = ["1:Current", "2:Current", "3:Current", "4:Current"];
        let struck: Vec<_> = told.iter().map(|detail| cell.arrives(&effect(detail))).collect();
        assert_eq!(struck, [Some(Fault::LostAfter), None, Some(Fault::CrashBefore), None]);
        assert_eq!((cell.struck_at(), cell.fired(), cell.is_over()), (Some(1), true, false));
    }

    #[tokio::test]
    async fn who_comes_after_its_blow_is_not_held() {
        let then = Then { later: 1, fault: Fault::CrashAfter, effect: effect("2:Current") };
        let cell = cell(1, Some(then));
        cell.arm();
        cell.arrives(&effect("1:Current"));
        cell.arrives(&effect("2:Current"));
        cell.let_go();
        cell.hold().await;
        assert_eq!(cell.held_since(), None);
    }

    #[test]
    fn a_partition_holds_on_one_side_only() {
        let cell = cell(1, Some(Then { later: 1, fault: Fault::NoCluster, effect: effect("2:Current") }));
        cell.arm();
        cell.arrives(&effect("1:Current"));
        assert!(!cell.is_parted(false));
        cell.arrives(&effect("2:Current"));
        assert!(cell.is_parted(false) && !cell.is_parted(true) && cell.frozen());
    }

    #[test]
    fn of_lists_the_first_after_an_effect_that_asks_for_one_counts() {
        let cell = cell(1, None);
        cell.arm();
        let list = Effect { kind: Kind::List, detail: String::new() };
        let revoked = [&effect("1:Revoked"), &list, &effect("1:Revoked released"), &list];
        for effect in [&list, &effect("1:Retiring"), &list, &list].into_iter().chain(revoked) {
            cell.arrives(effect);
        }
        let told: Vec<String> = cell.effects().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "ledger:swap 1:Retiring",
                "provider:list after ledger:swap 1:Retiring",
                "ledger:swap 1:Revoked",
                "ledger:swap 1:Revoked released",
                "provider:list after ledger:swap 1:Revoked released",
            ]
        );
    }

    #[test]
    fn a_replaced_key_that_comes_back_is_a_violation() {
        let cell = cell(1, None);
        for key in ["a", "a", "b", "b"] {
            cell.publishes(key.to_owned(), cell.now());
        }
        assert_eq!(cell.violations(), Vec::<String>::new(), "a repair writes the same key again");
        cell.publishes("a".to_owned(), cell.now());
        assert_eq!(cell.violations().len(), 1);
    }
}
