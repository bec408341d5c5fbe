//! The search: breadth first over all states, then from each of them along the run without further faults.

use super::actions::{Action, Calm, Machine, Next, all};
use super::goal::Property;
use super::space::{Budget, NONE, State, States};

/// Where a state's run without faults goes on: the position of the next state, or one of these.
const RESTS: u32 = NONE;
/// Not followed yet: the state was not expanded.
const OPEN: u32 = NONE - 1;
/// It leads to a state that is not the goal, which was told.
const LOST: u32 = NONE - 2;

/// Added to an action's code: the LLMKey as it was before it will be seen again.
pub const LINGERS: u8 = 64;

/// How long a path to the goal is, while it is not known.
const UNKNOWN: u32 = u32::MAX;

/// A broken property: where, and by which action after that.
#[derive(Clone, Debug)]
pub struct Breach {
    /// What.
    pub what: String,
    /// Position of the last state.
    pub at: u32,
    /// The action that broke it; none if the state itself is wrong.
    pub by: Option<Action>,
}

/// What a search has found.
pub struct Found {
    /// All states.
    pub states: States,
    /// Steps from one to another.
    pub transitions: u64,
    /// Actions from the beginning to the farthest state.
    pub depth: u32,
    /// States with too many attempts, of which only the run without faults was followed.
    pub tails: usize,
    /// Nothing was left out.
    pub exhausted: bool,
    /// Most actions from any state to the goal.
    pub farthest_goal: u32,
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
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Actions at most; none: until nothing is left.
    pub depth: Option<u32>,
    /// Where so many mint attempts are on record, only the run without further faults is followed: two replicas that fence
    /// each other off again and again would go on for ever.
    pub attempts: u32,
    /// States at most.
    pub states: usize,
}

/// Searches everything that can be reached from the beginning within the bounds.
pub fn search(
    machine: &mut Machine,
    begin: &State,
    whole: Budget,
    bounds: Bounds,
    progress: &mut dyn FnMut(&Found),
) -> Found {
    let actions = all();
    let mut found = Found {
        states: States::new(),
        transitions: 0,
        depth: 0,
        tails: 0,
        exhausted: true,
        farthest_goal: 0,
        breaches: Vec::new(),
        strays: 0,
    };
    let mut calm = Vec::new();
    found.states.reach(begin, NONE, 0);
    let (mut at, mut layer_ends) = (0, 1);
    while (at as usize) < found.states.len() {
        if at as usize == layer_ends {
            layer_ends = found.states.len();
            found.depth += 1;
            progress(&found);
        }
        if bounds.depth.is_some_and(|depth| found.depth >= depth) || found.states.len() >= bounds.states {
            found.exhausted = false;
            break;
        }
        let place = found.states.get(at).place;
        if machine.space.outlines[place as usize].attempts > bounds.attempts {
            found.tails += 1;
            expand_calm(machine, &actions, at, whole, &mut found);
        } else {
            expand(machine, &actions, at, whole, &mut found);
        }
        let goes_on = follow(machine, at, &mut found);
        calm.push(goes_on);
        at += 1;
    }
    calm.resize(found.states.len(), OPEN);
    reach_goal(machine, &mut calm, &mut found);
    found
}

fn expand(machine: &mut Machine, actions: &[Action], at: u32, whole: Budget, found: &mut Found) {
    let state = found.states.get(at);
    for (code, action) in (0..).zip(actions) {
        let next = take(machine, &state, *action, code, at, whole, found);
        if let Some(next) = next.and_then(|next| machine.linger(&state, next)) {
            found.transitions += 1;
            found.states.reach(&next.state, at, code | LINGERS);
        }
    }
}

/// Takes only the action of the run without faults.
fn expand_calm(machine: &mut Machine, actions: &[Action], at: u32, whole: Budget, found: &mut Found) {
    let state = found.states.get(at);
    if let Calm::Does(calm) = machine.calm(&state) {
        for (code, action) in (0..).zip(actions).filter(|(_, action)| **action == calm) {
            take(machine, &state, *action, code, at, whole, found);
        }
    }
}

/// Where the action leads, if it can happen and breaks nothing: nothing is learned from what comes after a breach.
fn take(
    machine: &mut Machine,
    state: &State,
    action: Action,
    code: u8,
    at: u32,
    whole: Budget,
    found: &mut Found,
) -> Option<Next> {
    let next = machine.apply(state, action)?;
    found.transitions += 1;
    let broken = if next.broken == NONE {
        machine.judge(&next.state, whole)
    } else {
        machine.space.broken.get(next.broken as usize).cloned()
    };
    if let Some(what) = broken {
        found.tell(Breach { what, at, by: Some(action) });
        return None;
    }
    found.states.reach(&next.state, at, code);
    Some(next)
}

/// Where the run without faults goes on from an expanded state.
fn follow(machine: &mut Machine, at: u32, found: &mut Found) -> u32 {
    let state = found.states.get(at);
    match machine.calm(&state) {
        Calm::Does(action) => {
            if let Some(next) = machine.apply(&state, action) {
                return found.states.find(&next.state).unwrap_or(LOST);
            }
            found.tell(Breach { what: "Goal: a replica cannot go on".into(), at, by: None });
            LOST
        }
        Calm::Spins => {
            let what = "Goal: a replica wakes at once, again and again, for nothing";
            found.tell(Breach { what: what.into(), at, by: None });
            LOST
        }
        Calm::Rests => match machine.rests_well(&state) {
            Ok(()) => {
                found.strays = found.strays.max(machine.space.places.get(state.place).strays());
                RESTS
            }
            Err(what) => {
                found.tell(Breach { what, at, by: None });
                LOST
            }
        },
    }
}

/// Follows every state to where it rests. What goes round in a circle never does.
fn reach_goal(machine: &mut Machine, calm: &mut Vec<u32>, found: &mut Found) {
    let mut length = vec![UNKNOWN; calm.len()];
    let mut on_path = vec![false; calm.len()];
    let mut path = Vec::new();
    for start in 0..calm.len() {
        let mut at = start;
        path.clear();
        let end = loop {
            if length[at] != UNKNOWN {
                break length[at] + 1;
            }
            if on_path[at] {
                let position = u32::try_from(at).unwrap_or(NONE);
                found.tell(Breach {
                    what: "Goal: a run without faults goes round in a circle".into(),
                    at: position,
                    by: None,
                });
                break 0;
            }
            path.push(at);
            on_path[at] = true;
            if calm[at] == OPEN {
                let position = u32::try_from(at).unwrap_or(NONE);
                open(machine, position, calm, &mut length, &mut on_path, found);
            }
            match calm[at] {
                RESTS | LOST => break 0,
                next => at = next as usize,
            }
        };
        for (steps, at) in (end..).zip(path.iter().rev()) {
            length[*at] = steps;
            on_path[*at] = false;
        }
    }
    found.farthest_goal = length.iter().filter(|n| **n != UNKNOWN).max().copied().unwrap_or(0);
}

/// The bound ended the search before this state: its run without faults is followed all the same.
fn open(
    machine: &mut Machine,
    at: u32,
    calm: &mut Vec<u32>,
    length: &mut Vec<u32>,
    on_path: &mut Vec<bool>,
    found: &mut Found,
) {
    let state = found.states.get(at);
    let code = match machine.calm(&state) {
        Calm::Does(action) => {
            all().iter().position(|a| *a == action).and_then(|code| u8::try_from(code).ok())
        }
        Calm::Rests | Calm::Spins => None,
    };
    if let Some(code) = code
        && let Some(next) = all().get(usize::from(code)).and_then(|action| machine.apply(&state, *action))
    {
        if next.broken != NONE {
            let what = machine.space.broken.get(next.broken as usize).cloned().unwrap_or_default();
            found.tell(Breach { what, at, by: all().get(usize::from(code)).copied() });
        }
        found.states.reach(&next.state, at, code);
        calm.resize(found.states.len(), OPEN);
        length.resize(found.states.len(), UNKNOWN);
        on_path.resize(found.states.len(), false);
    }
    calm[at as usize] = follow(machine, at, found);
}
