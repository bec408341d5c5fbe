//! The search: every state that can be reached, and from each the run without further faults.

use std::collections::BTreeMap;

use super::actions::{Action, Calm, Machine, Next, all};
use super::budget::{Budgets, Sets};
use super::goal::Property;
use super::limits::Limits;
use super::space::{Budget, NONE, Scene, State};
use super::table::{List, Small, Table};

/// Added to an action's code: the LLMKey as it was before it will be seen again.
pub const LINGERS: u8 = 64;

/// How far the goal is from a scene that was not followed yet.
const UNKNOWN: u16 = u16::MAX;
/// And from one that is just being followed.
const ON_PATH: u16 = u16::MAX - 1;
/// A run without faults that is longer does not end.
const LONGEST: u16 = 60_000;

/// A broken property: where, and by which actions after that.
#[derive(Clone, Debug)]
pub struct Breach {
    /// What.
    pub what: String,
    /// A state that was reached; of what is left of the budget there, something may be spent.
    pub at: State,
    /// The actions that lead from there to what is broken. None if the state itself is wrong.
    pub then: Vec<Action>,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left.
    Exhausted,
    /// All of so many actions was explored, as it was asked for.
    AtDepth(u32),
    /// All with so many faults was explored, as it was asked for.
    AtFaults(u8),
    /// There was no room for more. With so many faults all was explored, if with any.
    Full(&'static str, Option<u8>),
}

/// What a search has found.
pub struct Found {
    /// States.
    pub states: u64,
    /// Those that differ in more than what may still go wrong.
    pub scenes: u32,
    /// Steps from one to another.
    pub transitions: u64,
    /// Actions from the beginning to the farthest state.
    pub depth: u32,
    /// Faults that were spent in the states that are being explored.
    pub faults: u8,
    /// States with too many attempts, of which only the run without faults was followed.
    pub tails: usize,
    /// Why the search ended.
    pub ended: Ended,
    /// Most actions from any state to the goal.
    pub farthest_goal: u16,
    /// The first breach of each property.
    pub breaches: Vec<(Property, Breach)>,
    /// Most keys that are left to a later search when all is done.
    pub strays: usize,
}

impl Found {
    fn tell(&mut self, breach: Breach) {
        let property = Property::of(&breach.what);
        if self.breaches.iter().all(|(known, _)| *known != property) {
            self.breaches.push((property, breach));
        }
    }
}

/// Bounds of a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Actions at most. None: until nothing is left.
    pub depth: Option<u32>,
    /// Faults at most, together. None: the whole budget.
    pub faults: Option<u8>,
    /// Where so many mint attempts are on record, only the run without further faults is followed: two replicas that fence
    /// each other off again and again would go on for ever.
    pub attempts: u32,
    /// Mint attempts are not numbered anew.
    pub as_they_are: bool,
}

/// How a state was first reached: from which scene, with what left, by which action.
pub type Came = (u32, u8, u8);

/// A search of everything that can be reached from the beginning within the bounds.
///
/// A state is a scene and what may still go wrong in it. Kept is each scene once, with the set of what may be left there: with
/// every budget also each that is smaller. For whatever happens with less left can happen with more, the runs without faults
/// are the same, and no property asks for less where less went wrong. States are explored in the order of the faults that were
/// spent, and among equals of the actions. So none is explored of which a greater budget is found later. Where the depth is
/// bounded they are explored in the order of the actions alone.
pub struct Search<'m> {
    machine: &'m mut Machine,
    actions: Vec<(u8, Action)>,
    whole: Budget,
    budgets: Budgets,
    bounds: Bounds,
    scenes: Table<Scene>,
    /// By scene: the set of what may be left.
    left: List<u32>,
    /// By scene: actions to the goal.
    goals: List<u16>,
    sets: Sets,
    /// What is to be explored, by the faults that were spent, by the actions to it.
    open: Vec<BTreeMap<u32, Vec<(u32, u8)>>>,
    /// How each state was reached, where that is asked for.
    came: Option<Small<(u32, u8), Came>>,
    found: Found,
}

impl<'m> Search<'m> {
    /// A search from this state.
    pub fn new(machine: &'m mut Machine, begin: &State, bounds: Bounds) -> Self {
        let whole = begin.left;
        let budgets = Budgets::new(whole);
        let actions = (0..).zip(all()).filter(|(_, action)| possible(begin, *action)).collect();
        let mut search = Self {
            machine,
            actions,
            whole,
            open: vec![BTreeMap::new(); usize::from(whole.total()) + 1],
            budgets,
            bounds,
            scenes: Table::new(),
            left: List::new(),
            goals: List::new(),
            sets: Sets::default(),
            came: None,
            found: Found {
                states: 0,
                scenes: 0,
                transitions: 0,
                depth: 0,
                faults: 0,
                tails: 0,
                ended: Ended::Exhausted,
                farthest_goal: 0,
                breaches: Vec::new(),
                strays: 0,
            },
        };
        search.reach(begin, 0, (NONE, 0, 0));
        search
    }

    /// Explores everything.
    pub fn run(mut self, limits: &mut Limits<'_>) -> Found {
        self.explore(limits, &mut |_, _, _| false);
        self.found
    }

    /// Explores everything, and gives the scenes with what may be left in each.
    #[cfg(test)]
    pub fn everything(mut self) -> Vec<(Scene, u128)> {
        self.explore(&mut Limits::none(), &mut |_, _, _| false);
        let left = |number: u32| self.sets.get(*self.left.get(number));
        let reached = (0..self.scenes.len()).filter(|number| left(*number) != 0);
        reached.map(|number| (*self.scenes.get(number), left(number))).collect()
    }

    /// The codes of the actions that lead to these states, or to such of which more is left.
    pub fn trails(mut self, targets: &[State]) -> Vec<Vec<u8>> {
        let scenes: Vec<Scene> = targets.iter().map(|target| self.machine.space.scene(target)).collect();
        let lefts: Vec<u8> = targets.iter().map(|target| self.budgets.number(target.left)).collect();
        let budgets = Budgets::new(self.whole);
        let mut ends = vec![None; targets.len()];
        self.came = Some(Small::default());
        self.explore(&mut Limits::none(), &mut |scene, number, left| {
            let below = budgets.below(left);
            for (at, end) in ends.iter_mut().enumerate().filter(|(_, end)| end.is_none()) {
                *end = (scenes[at] == scene && below >> lefts[at] & 1 == 1).then_some((number, left));
            }
            ends.iter().all(Option::is_some)
        });
        let came = self.came.unwrap_or_default();
        let trail = |end: Option<(u32, u8)>| {
            let mut codes = Vec::new();
            let mut at = end;
            while let Some((from, left, code)) = at.and_then(|at| came.get(&at)).copied() {
                codes.push(code);
                at = Some((from, left));
            }
            codes.reverse();
            codes
        };
        ends.into_iter().map(trail).collect()
    }

    /// Explores until `enough` says so of a state that is next.
    fn explore(&mut self, limits: &mut Limits<'_>, enough: &mut dyn FnMut(Scene, u32, u8) -> bool) {
        for faults in 0..self.open.len() {
            let spent = u8::try_from(faults).unwrap_or(u8::MAX);
            self.found.faults = self.found.faults.max(spent);
            if self.bounds.faults.is_some_and(|most| spent > most) {
                if self.open[faults..].iter().any(|open| !open.is_empty()) {
                    self.found.ended = Ended::AtFaults(spent - 1);
                }
                return;
            }
            while let Some((depth, states)) = self.open[faults].pop_first() {
                self.found.depth = self.found.depth.max(depth);
                if self.bounds.depth.is_some_and(|most| depth >= most) {
                    self.found.ended = Ended::AtDepth(depth);
                    return;
                }
                for (scene, left) in states {
                    if enough(*self.scenes.get(scene), scene, left) {
                        return;
                    }
                    self.expand(scene, left, depth);
                    let full = limits.look(self.machine, &self.scenes, &self.found);
                    if let Some(full) = full {
                        let done = spent.checked_sub(1).filter(|_| self.bounds.depth.is_none());
                        self.found.ended = Ended::Full(full, done);
                        return;
                    }
                }
            }
        }
    }

    fn expand(&mut self, scene: u32, left: u8, depth: u32) {
        if self.budgets.is_exceeded(left, self.sets.get(*self.left.get(scene))) {
            return;
        }
        self.found.states += 1;
        let state = self.machine.space.state(*self.scenes.get(scene), self.budgets.get(left));
        if self.machine.space.outline(state.place).attempts > self.bounds.attempts {
            self.found.tails += 1;
            if let Calm::Does(calm) = self.machine.calm(&state) {
                for (code, action) in self.actions.clone().into_iter().filter(|(_, action)| *action == calm) {
                    self.take(&state, action, depth, (scene, left, code));
                }
            }
            return;
        }
        for at in 0..self.actions.len() {
            let (code, action) = self.actions[at];
            let next = self.take(&state, action, depth, (scene, left, code));
            if let Some(next) = next.and_then(|next| self.machine.linger(&state, next)) {
                self.found.transitions += 1;
                self.reach(&next.state, depth + 1, (scene, left, code | LINGERS));
            }
        }
    }

    /// Where the action leads, if it can happen and breaks nothing: nothing is learned from what comes after a breach.
    fn take(&mut self, state: &State, action: Action, depth: u32, came: Came) -> Option<Next> {
        let next = self.machine.apply(state, action)?;
        self.found.transitions += 1;
        if let Some(what) = self.broken(&next) {
            self.found.tell(Breach { what, at: *state, then: vec![action] });
            return None;
        }
        self.reach(&next.state, depth + 1, came);
        Some(next)
    }

    fn broken(&self, next: &Next) -> Option<String> {
        if next.broken == NONE {
            self.machine.judge(&next.state, self.whole)
        } else {
            self.machine.space.broken.get(next.broken as usize).cloned()
        }
    }

    fn anew(&mut self, state: &State) -> State {
        if self.bounds.as_they_are { *state } else { self.machine.numbered_anew(state).0 }
    }

    fn scene(&mut self, state: &State) -> u32 {
        let number = self.scenes.number(self.machine.space.scene(state));
        if number == self.left.len() {
            self.left.push(self.sets.number(0));
            self.goals.push(UNKNOWN);
        }
        number
    }

    fn reach(&mut self, state: &State, depth: u32, came: Came) {
        let state = &self.anew(state);
        let scene = self.scene(state);
        let left = self.budgets.number(state.left);
        let known = self.sets.get(*self.left.get(scene));
        if known >> left & 1 == 1 {
            return;
        }
        self.found.scenes += u32::from(known == 0);
        *self.left.get_mut(scene) = self.sets.number(known | self.budgets.below(left));
        let faults = if self.bounds.depth.is_some() { 0 } else { self.budgets.spent(left) };
        self.open[usize::from(faults)].entry(depth).or_default().push((scene, left));
        if let Some(all) = &mut self.came {
            all.insert((scene, left), came);
        }
        // An older LLMKey that nobody will begin with changes nothing of a run without faults.
        self.follow(&State { snapshot: NONE, ..*state });
    }

    /// Follows a state to where it rests. What goes round in a circle never does.
    fn follow(&mut self, from: &State) {
        let from = &self.anew(from);
        let mut at = self.scene(from);
        if *self.goals.get(at) != UNKNOWN {
            return;
        }
        let (mut state, mut path, mut then) = (*from, Vec::new(), Vec::new());
        let mut wrong = None;
        let end = loop {
            match *self.goals.get(at) {
                UNKNOWN if path.len() >= usize::from(LONGEST) => {
                    wrong = Some("Goal: a run without faults does not end".to_owned());
                    break 0;
                }
                UNKNOWN => {}
                ON_PATH => {
                    wrong = Some("Goal: a run without faults goes round in a circle".to_owned());
                    break 0;
                }
                known => break known + 1,
            }
            path.push(at);
            *self.goals.get_mut(at) = ON_PATH;
            match self.machine.calm(&state) {
                Calm::Does(action) => {
                    then.push(action);
                    let Some(next) = self.machine.apply(&state, action) else {
                        wrong = Some("Goal: a replica cannot go on".to_owned());
                        break 0;
                    };
                    wrong = self.broken(&next);
                    if wrong.is_some() {
                        break 0;
                    }
                    state = self.anew(&next.state);
                    at = self.scene(&state);
                }
                Calm::Spins => {
                    wrong = Some("Goal: a replica wakes at once, again and again, for nothing".to_owned());
                    break 0;
                }
                Calm::Rests => {
                    wrong = self.machine.rests_well(&state).err();
                    let strays = self.machine.space.places.get(state.place).strays();
                    self.found.strays = self.found.strays.max(strays);
                    break 0;
                }
            }
        };
        for (further, at) in path.iter().rev().enumerate() {
            let actions = u16::try_from(usize::from(end) + further).unwrap_or(LONGEST).min(LONGEST);
            *self.goals.get_mut(*at) = actions;
            self.found.farthest_goal = self.found.farthest_goal.max(actions);
        }
        if let Some(what) = wrong {
            self.found.tell(Breach { what, at: *from, then });
        }
    }
}

/// Whether the action can happen at all to so many replicas, with so much that may go wrong.
fn possible(begin: &State, action: Action) -> bool {
    use super::fate::Fate;
    let there = |who: usize| begin.replicas[who] != NONE;
    match action {
        Action::Begin(who) | Action::DecideLate(who) => there(who),
        Action::BeginStale(who) => there(who) && begin.left.stale > 0,
        Action::Crash(who) => there(who) && begin.left.crash > 0,
        Action::Step(who, fate) => {
            there(who)
                && match fate {
                    Fate::Told | Fate::Refused => true,
                    Fate::ReplyLost | Fate::NotDone => begin.left.lost > 0,
                    Fate::Twice | Fate::TwiceLater => begin.left.twice > 0,
                }
        }
        Action::Arrive => begin.left.twice > 0,
        Action::Edit(_) => begin.left.edit > 0,
        Action::Garbage | Action::Time => true,
    }
}
