//! What may happen next in a state, and what a run without further faults does.

use chrono::Duration;

use super::attempts::{Vocabulary, in_order};
use super::configurations::Configuration;
use super::fate::Fate;
use super::parts::{Fresh, Place, Replica};
use super::place::{Edit, Written};
use super::rules::Rules;
use super::space::{Budget, DECIDES_LATE, Led, NONE, Posture, Space, State};

/// What happens at a place beside the seconds that go by, as it is remembered: edits, by their number, and these.
const EDITED: u16 = 256;
const ARRIVED: u16 = 512;
const COLLECTED: u16 = 513;

/// One action. Replicas are meant by their place in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A replica that is due observes, and plans.
    Begin(usize),
    /// A replica observes an older state of the cluster, and plans.
    BeginStale(usize),
    /// What comes next in a replica's plan meets its fate.
    Step(usize, Fate),
    /// A replica was held up before its decision: it decides now, on what it saw then.
    DecideLate(usize),
    /// A process dies and another one starts.
    Crash(usize),
    /// A person acts.
    Edit(Edit),
    /// The second copy of a request arrives.
    Arrive,
    /// The garbage collector works.
    Garbage,
    /// Time goes on to the next moment that anything waits for.
    Time,
}

/// What an action leads to.
pub struct Next {
    /// The state.
    pub state: State,
    /// The replicas have changed places in it.
    pub swapped: bool,
    /// Position of what is broken; [`NONE`] if nothing is.
    pub broken: u32,
    /// Which objects were written, as bits of [`Fresh`].
    pub written: u8,
    /// The `LLMKey` was written: the next reconcile may begin with it as it was before.
    pub may_linger: bool,
}

/// What a run without further faults does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    /// This, and it leads to another state.
    Does(Action),
    /// Nothing is left to do.
    Rests,
    /// A replica wakes at once, again and again, for nothing.
    Spins,
}

/// All actions; the position of one is its code.
pub fn all() -> Vec<Action> {
    let mut all = Vec::new();
    for who in 0..2 {
        all.extend([
            Action::Begin(who),
            Action::BeginStale(who),
            Action::DecideLate(who),
            Action::Crash(who),
        ]);
        all.extend(Fate::ALL.map(|fate| Action::Step(who, fate)));
    }
    all.extend([Action::Arrive, Action::Garbage, Action::Time]);
    all.extend(Edit::ALL.map(Action::Edit));
    all
}

/// A model: its rules, and what is known of its components.
pub struct Machine {
    /// The constants.
    pub rules: Rules,
    /// The components.
    pub space: Space,
    /// What people may do.
    pub edits: Vec<Edit>,
    started: u32,
}

impl Machine {
    /// A model of this configuration.
    pub fn new(configuration: &Configuration) -> Self {
        let Configuration { edits, spares, mint, .. } = configuration;
        let rules = Rules::new(*spares, *mint);
        let mut space = Space::new(configuration.held_up, Vocabulary::new(&rules));
        let started = space.replica(Replica::started());
        Self { rules, space, edits: edits.to_vec(), started }
    }

    /// A process that has just started.
    pub const fn started(&self) -> u32 {
        self.started
    }

    /// A state of this place with processes that have just started.
    pub fn start(&mut self, place: Place, replicas: usize, left: Budget) -> State {
        let second = if replicas > 1 { self.started } else { NONE };
        State {
            place: self.space.place(place),
            replicas: [self.started, second],
            snapshot: NONE,
            fresh: [Fresh::NONE; 2],
            left,
        }
    }

    /// What the action leads to; none if it cannot happen, or changes nothing.
    pub fn apply(&mut self, state: &State, action: Action) -> Option<Next> {
        let mut next = *state;
        let mut broken = NONE;
        let mut written = 0;
        match action {
            Action::Begin(who) => {
                let posture = self.idle(state, who)?;
                if !posture.due && state.fresh[who] == Fresh::ALL {
                    return None;
                }
                next.replicas[who] = self.begin(state.place, state.replicas[who]);
                next.fresh[who] = Fresh::ALL;
            }
            Action::BeginStale(who) => {
                self.idle(state, who)?;
                if state.snapshot == NONE {
                    return None;
                }
                // Only the LLMKey comes from a watch: ledger and target are read.
                let seen = self.seen_late(state.place, state.snapshot);
                next.replicas[who] = self.begin(seen, state.replicas[who]);
                next.fresh[who] = Fresh(Fresh::LEDGER | Fresh::TARGET);
                next.snapshot = NONE;
            }
            Action::Step(who, fate) => {
                match fate {
                    Fate::Told | Fate::Refused => {}
                    Fate::ReplyLost | Fate::NotDone => next.left.lost = next.left.lost.checked_sub(1)?,
                    Fate::Twice | Fate::TwiceLater => next.left.twice = next.left.twice.checked_sub(1)?,
                }
                let led = self.step(state, who, fate)?;
                (written, broken) = (led.written, led.broken);
                self.take_in(&mut next, who, led);
            }
            Action::DecideLate(who) => next.replicas[who] = self.decide_late(state.replicas[who])?,
            Action::Crash(who) => {
                if state.replicas[who] == NONE || state.replicas[who] == self.started {
                    return None;
                }
                next.left.crash = next.left.crash.checked_sub(1)?;
                next.replicas[who] = self.started;
                next.fresh[who] = Fresh::NONE;
            }
            Action::Edit(edit) => {
                next.left.edit = next.left.edit.checked_sub(1)?;
                if !self.edits.contains(&edit) {
                    return None;
                }
                (written, broken) = self.event(&mut next, EDITED + edit as u16, |rules, place| {
                    rules.edit(place, edit).map(|(place, written)| (place, written, None))
                })?;
            }
            Action::Arrive => {
                (written, broken) = self.event(&mut next, ARRIVED, |rules, place| {
                    rules.arrive(place).map(|(place, broken)| (place, Written(0), broken))
                })?;
            }
            Action::Garbage => {
                (written, broken) = self.event(&mut next, COLLECTED, |rules, place| {
                    rules.collect_garbage(place).map(|(place, written)| (place, written, None))
                })?;
            }
            Action::Time => next = self.later(state, self.wait(state)?),
        }
        Self::next(state, next, written, broken)
    }

    /// What a step with any fate leads to, whatever budgets say.
    pub fn carry_out(&mut self, state: &State, who: usize, fate: Fate) -> Option<Next> {
        let replica = Some(state.replicas[who]).filter(|replica| *replica != NONE)?;
        let place = self.space.places.get(state.place);
        let Replica::Working(work) = self.space.replicas.get(replica) else { return None };
        let led = self.space.led(self.rules.carry_out(&place, *work, state.fresh[who], fate)?);
        let mut next = *state;
        self.take_in(&mut next, who, led);
        Self::next(state, next, led.written, led.broken)
    }

    /// A replica's step is done.
    fn take_in(&self, next: &mut State, who: usize, led: Led) {
        let (before, other) = (*next, 1 - who);
        next.place = led.place;
        next.replicas[who] = led.replica;
        next.outdate(led.written, Some(who));
        if self.idle(&before, other).is_some() && self.space.posture(before.replicas[who]).telling {
            // The operator's watch wakes nobody for a status; whoever begins next reads the LLMKey as it is then.
            next.fresh[other] = before.fresh[other];
        }
        next.fresh[who] = led.fresh;
    }

    /// None if nothing has changed.
    fn next(state: &State, next: State, written: u8, broken: u32) -> Option<Next> {
        if next == *state && broken == NONE {
            return None;
        }
        let may_linger = written & Fresh::KEY != 0 && state.snapshot == NONE && state.left.stale > 0;
        let (state, swapped) = next.ordered();
        Some(Next { state, swapped, broken, written, may_linger })
    }

    /// The state with its mint attempts numbered anew, and whether the replicas have changed places.
    pub fn numbered_anew(&mut self, state: &State) -> (State, bool) {
        let all = self.space.attempts(state);
        if in_order(all) {
            return (*state, false);
        }
        let mut anew = *state;
        for place in [&mut anew.place, &mut anew.snapshot].into_iter().filter(|place| **place != NONE) {
            *place = self.space.place_anew(*place, all);
        }
        for replica in anew.replicas.iter_mut().filter(|replica| **replica != NONE) {
            *replica = self.space.replica_anew(*replica, all);
        }
        anew.ordered()
    }

    /// What the action leads to if a reconcile will begin with the `LLMKey` as it was before it. While it stands there is no
    /// need to keep it, so this is the only moment that matters.
    pub fn linger(&mut self, state: &State, mut next: Next) -> Option<Next> {
        if !next.may_linger {
            return None;
        }
        next.state.left.stale = next.state.left.stale.checked_sub(1)?;
        next.state.snapshot = self.snapshot(state.place);
        next.may_linger = false;
        Some(next)
    }

    /// What a run without further faults does next: replicas that work go on, then whoever is due begins, then time goes on.
    pub fn calm(&mut self, state: &State) -> Calm {
        for who in 0..2 {
            if state.replicas[who] != NONE && self.space.posture(state.replicas[who]).working {
                return Calm::Does(Action::Step(who, Fate::Told));
            }
        }
        for action in [Action::Arrive, Action::Garbage] {
            if self.apply(state, action).is_some() {
                return Calm::Does(action);
            }
        }
        for who in 0..2 {
            let Some(posture) = self.idle(state, who) else { continue };
            if posture.due || state.fresh[who] != Fresh::ALL {
                return match self.apply(state, Action::Begin(who)) {
                    Some(_) => Calm::Does(Action::Begin(who)),
                    None => Calm::Spins,
                };
            }
        }
        if self.apply(state, Action::Time).is_some() { Calm::Does(Action::Time) } else { Calm::Rests }
    }

    fn idle(&self, state: &State, who: usize) -> Option<Posture> {
        let replica = state.replicas[who];
        let posture = (replica != NONE).then(|| self.space.posture(replica))?;
        (!posture.working).then_some(posture)
    }

    fn begin(&mut self, place: u32, replica: u32) -> u32 {
        if let Some(known) = self.space.begun(place, replica) {
            return known;
        }
        let begun = self.rules.begin(&self.space.places.get(place), &self.space.replicas.get(replica));
        let number = self.space.replica(begun);
        self.space.begins(place, replica, number);
        number
    }

    fn step(&mut self, state: &State, who: usize, fate: Fate) -> Option<Led> {
        let replica = state.replicas[who];
        if replica == NONE || self.space.posture(replica).befalls >> fate as u8 & 1 == 0 {
            return None;
        }
        let (place, fresh) = (state.place, state.fresh[who]);
        if let Some(known) = self.space.step(place, replica, fresh, fate as u8) {
            return known;
        }
        let after = match self.space.replicas.get(replica) {
            Replica::Working(work) => self.rules.carry_out(&self.space.places.get(place), *work, fresh, fate),
            Replica::Idle { .. } => None,
        };
        let led = after.map(|after| self.space.led(after));
        self.space.stepped(place, replica, fresh, fate as u8, led);
        led
    }

    fn decide_late(&mut self, replica: u32) -> Option<u32> {
        if replica == NONE || !self.space.posture(replica).decides_late {
            return None;
        }
        if let Some(known) = self.space.waits.get(replica, DECIDES_LATE) {
            return known.map(|[late, ..]| late);
        }
        let Replica::Working(work) = self.space.replicas.get(replica) else { return None };
        let late = self.space.replica(self.rules.decide_late(*work));
        self.space.waits.put(replica, DECIDES_LATE, Some([late, NONE, NONE]));
        Some(late)
    }

    /// Something that happens at the place without the operator.
    fn event(
        &mut self,
        next: &mut State,
        code: u16,
        happens: impl FnOnce(&Rules, &Place) -> Option<(Place, Written, Option<String>)>,
    ) -> Option<(u8, u32)> {
        let known = self.space.events.get(next.place, code).unwrap_or_else(|| {
            let after = happens(&self.rules, &self.space.places.get(next.place));
            let led = after.map(|(place, written, broken)| {
                let broken = self.space.note(broken);
                [self.space.place(place), u32::from(written.0), broken]
            });
            self.space.events.put(next.place, code, led);
            led
        });
        let [place, written, broken] = known?;
        next.place = place;
        let written = u8::try_from(written).unwrap_or_default();
        next.outdate(written, None);
        Some((written, broken))
    }

    /// The place as a late watch shows it.
    fn seen_late(&mut self, place: u32, snapshot: u32) -> u32 {
        let (place, older) = (self.space.places.get(place), self.space.places.get(snapshot));
        self.space.place(Place { key: older.key, ..place })
    }

    /// What of a place a reconcile can begin with: the LLMKey.
    fn snapshot(&mut self, place: u32) -> u32 {
        let place = self.space.places.get(place);
        self.space.place(Place {
            ledger: None,
            target: None,
            keys: Vec::new(),
            late: None,
            names: std::collections::BTreeSet::new(),
            retired: std::collections::BTreeMap::new(),
            published: 0,
            slots: std::collections::BTreeMap::new(),
            holder: None,
            ..place
        })
    }

    /// A second goes by, whether or not anything waits for it. None if somebody cannot be held up for so long.
    pub fn tick(&mut self, state: &State) -> Option<State> {
        let patience = self.patience(state);
        let next = self.later(state, 1);
        (patience > 0 && next != *state).then_some(next)
    }

    fn later(&mut self, state: &State, by: u8) -> State {
        let mut next = *state;
        next.place = self.place_later(state.place, by);
        if state.snapshot != NONE {
            next.snapshot = self.place_later(state.snapshot, by);
        }
        for replica in next.replicas.iter_mut().filter(|r| **r != NONE) {
            *replica = self.replica_later(*replica, by);
        }
        next
    }

    /// Seconds for which everybody who is held up can be held up still.
    fn patience(&self, state: &State) -> u8 {
        let replicas = state.replicas.iter().filter(|r| **r != NONE);
        let postures = replicas.map(|r| self.space.posture(*r).patience);
        let outline = self.space.outline(state.place);
        postures.chain([outline.patience]).min().unwrap_or_default()
    }

    /// Seconds to the next moment, if everybody who is held up can be held up so long.
    fn wait(&self, state: &State) -> Option<u8> {
        let outline = self.space.outline(state.place);
        let postures = state.replicas.iter().filter(|r| **r != NONE).map(|r| self.space.posture(*r));
        let by = postures.map(|p| p.next).chain([outline.next]).filter(|n| *n > 0).min()?;
        (by <= self.patience(state)).then_some(by)
    }

    /// A place some seconds later.
    pub fn place_later(&mut self, place: u32, by: u8) -> u32 {
        if let Some(Some([known, ..])) = self.space.events.get(place, by.into()) {
            return known;
        }
        let later = Rules::later(&self.space.places.get(place), Duration::seconds(by.into()));
        let number = self.space.place(later);
        self.space.events.put(place, by.into(), Some([number, NONE, NONE]));
        number
    }

    fn replica_later(&mut self, replica: u32, by: u8) -> u32 {
        if let Some(Some([known, ..])) = self.space.waits.get(replica, by.into()) {
            return known;
        }
        let mut later = self.space.replicas.get(replica);
        super::parts::Shift(Duration::seconds(by.into())).replica(&mut later);
        let number = self.space.replica(later);
        self.space.waits.put(replica, by.into(), Some([number, NONE, NONE]));
        number
    }
}
