//! Which models are explored: the beginning, the replicas, and how much may go wrong.

use super::actions::{Calm, Machine};
use super::place::Edit;
use super::rules::HELD_UP;
use super::space::{Budget, State};
use crate::provider::MintKind;

/// Where a model begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// An LLMKey was just created.
    Created,
    /// Its first key is delivered, and a rotation was just asked for.
    Rotating,
}

/// One model.
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// Where it begins.
    pub beginning: Beginning,
    /// Replicas, one or two.
    pub replicas: usize,
    /// What may go wrong.
    pub budget: Budget,
    /// What people may do, each time they do something.
    pub edits: &'static [Edit],
    /// Actions at most; none: everything.
    pub depth: Option<u32>,
    /// Faults at most, together; none: the whole budget.
    pub faults: Option<u8>,
    /// Spares that the policy asks for.
    pub spares: i32,
    /// Who chooses the keys.
    pub mint: MintKind,
    /// Seconds that a process may be held up in the middle of a reconcile.
    pub held_up: i64,
    /// Mint attempts at most, before only the run without faults is followed.
    pub attempts: u32,
    /// Continuous integration has time for it.
    pub quick: bool,
}

const fn budget(crash: u8, lost: u8, twice: u8, stale: u8, edit: u8) -> Budget {
    Budget { crash, lost, twice, stale, edit }
}

/// What a person may do once.
const EDITS: &[Edit] = &[Edit::Rotate, Edit::DeleteTarget, Edit::DeleteKey, Edit::Revoke];

/// All models, the small ones first. What continuous integration explores comes first among equals.
pub const CONFIGURATIONS: &[Configuration] = &[
    one("one-created-2-crashes-2-lost-1-twice", Beginning::Created, budget(2, 2, 1, 0, 0), true),
    one("one-created-1-crash-1-lost-1-edit", Beginning::Created, budget(1, 1, 0, 0, 1), true),
    one("one-created-2-stale-1-edit", Beginning::Created, budget(0, 0, 0, 2, 1), true),
    prompt("one-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), None),
    prompt("one-created-all", Beginning::Created, budget(2, 2, 1, 2, 1), None),
    one("one-rotating-2-crashes-2-lost", Beginning::Rotating, budget(2, 2, 0, 0, 0), true),
    one("one-rotating-1-crash-1-lost-1-edit", Beginning::Rotating, budget(1, 1, 0, 0, 1), true),
    prompt("one-rotating-one-of-each", Beginning::Rotating, budget(1, 1, 1, 1, 1), None),
    prompt("one-rotating-all", Beginning::Rotating, budget(2, 2, 1, 2, 1), None),
    spare("spare-created-1-crash-1-lost", Beginning::Created, budget(1, 1, 0, 0, 0), true),
    spare("spare-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), false),
    spare("spare-rotating-1-crash-1-lost", Beginning::Rotating, budget(1, 1, 0, 0, 0), true),
    spare("spare-rotating-1-crash-1-edit", Beginning::Rotating, budget(1, 0, 0, 0, 1), true),
    spare("spare-rotating-all", Beginning::Rotating, budget(2, 2, 1, 2, 1), false),
    chosen("chosen-created-1-crash-1-lost-1-twice", Beginning::Created, budget(1, 1, 1, 0, 0), true),
    chosen("chosen-rotating-1-crash-1-lost-1-edit", Beginning::Rotating, budget(1, 1, 0, 0, 1), true),
    chosen("chosen-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), false),
    chosen("chosen-rotating-one-of-each", Beginning::Rotating, budget(1, 1, 1, 1, 1), false),
    named("named-created-1-crash-1-lost-1-twice", Beginning::Created, budget(1, 1, 1, 0, 0), true),
    named("named-rotating-1-crash-1-lost-1-edit", Beginning::Rotating, budget(1, 1, 0, 0, 1), true),
    named("named-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), false),
    named("named-rotating-one-of-each", Beginning::Rotating, budget(1, 1, 1, 1, 1), false),
    slots("slots-created-1-crash-1-lost-1-twice", Beginning::Created, budget(1, 1, 1, 0, 0), true),
    slots("slots-rotating-1-crash-1-lost-1-edit", Beginning::Rotating, budget(1, 1, 0, 0, 1), true),
    unnamed("unnamed-created-1-crash-1-lost-1-twice", Beginning::Created, budget(1, 1, 1, 0, 0), true),
    unnamed("unnamed-rotating-1-crash-1-lost-1-edit", Beginning::Rotating, budget(1, 1, 0, 0, 1), true),
    unnamed("unnamed-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), false),
    unnamed("unnamed-rotating-one-of-each", Beginning::Rotating, budget(1, 1, 1, 1, 1), false),
    two("two-created-undisturbed", Beginning::Created, budget(0, 0, 0, 0, 0), None, true),
    two("two-created-crash", Beginning::Created, budget(1, 0, 0, 0, 0), None, true),
    two("two-created-lost", Beginning::Created, budget(0, 1, 0, 0, 0), None, false),
    two("two-created-twice", Beginning::Created, budget(0, 0, 1, 0, 0), None, false),
    two("two-created-stale", Beginning::Created, budget(0, 0, 0, 1, 0), None, false),
    two("two-created-edit", Beginning::Created, budget(0, 0, 0, 0, 1), None, false),
    two("two-rotating-undisturbed", Beginning::Rotating, budget(0, 0, 0, 0, 0), None, false),
    two("two-rotating-crash", Beginning::Rotating, budget(1, 0, 0, 0, 0), None, false),
    two("two-rotating-lost", Beginning::Rotating, budget(0, 1, 0, 0, 0), None, false),
    two("two-rotating-twice", Beginning::Rotating, budget(0, 0, 1, 0, 0), None, false),
    two("two-rotating-stale", Beginning::Rotating, budget(0, 0, 0, 1, 0), None, false),
    two("two-rotating-edit", Beginning::Rotating, budget(0, 0, 0, 0, 1), None, false),
    both_choose("two-chosen-created-crash", Beginning::Created, budget(1, 0, 0, 0, 0)),
    both_choose("two-chosen-created-edit", Beginning::Created, budget(0, 0, 0, 0, 1)),
    two("two-created-2-crashes-2-lost", Beginning::Created, budget(2, 2, 0, 0, 0), None, false),
    two("two-rotating-2-crashes-2-lost", Beginning::Rotating, budget(2, 2, 0, 0, 0), None, false),
    two("two-created-one-of-each", Beginning::Created, budget(1, 1, 1, 1, 1), Some(40), false),
    two("two-rotating-one-of-each", Beginning::Rotating, budget(1, 1, 1, 1, 1), Some(40), false),
];

const fn one(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration {
        name,
        beginning,
        replicas: 1,
        budget,
        edits: EDITS,
        depth: None,
        faults: None,
        spares: 0,
        mint: MintKind::ShownOnce,
        held_up: HELD_UP,
        attempts: 12,
        quick,
    }
}

/// One replica, and the clock stands still while a reconcile works.
const fn prompt(
    name: &'static str,
    beginning: Beginning,
    budget: Budget,
    depth: Option<u32>,
) -> Configuration {
    Configuration { held_up: 0, depth, ..one(name, beginning, budget, false) }
}

/// One replica, under a policy that asks for a spare.
const fn spare(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration { spares: 1, ..one(name, beginning, budget, quick) }
}

/// One replica, at a provider that lets us choose the keys.
const fn chosen(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration { mint: MintKind::CallerChosen, ..one(name, beginning, budget, quick) }
}

/// One replica, at a provider that lets us choose the keys' ids.
const fn named(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration { mint: MintKind::CallerNamed, ..one(name, beginning, budget, quick) }
}

/// One replica, at an account that the LLMKey has for itself and whose keys have no names.
const fn unnamed(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration { mint: MintKind::Unnamed, ..one(name, beginning, budget, quick) }
}

/// One replica, at an account with two slots, which the LLMKey has for itself.
const fn slots(name: &'static str, beginning: Beginning, budget: Budget, quick: bool) -> Configuration {
    Configuration { mint: MintKind::Slots, ..one(name, beginning, budget, quick) }
}

const fn two(
    name: &'static str,
    beginning: Beginning,
    budget: Budget,
    depth: Option<u32>,
    quick: bool,
) -> Configuration {
    Configuration {
        name,
        beginning,
        replicas: 2,
        budget,
        edits: EDITS,
        depth,
        faults: None,
        spares: 0,
        mint: MintKind::ShownOnce,
        held_up: HELD_UP,
        attempts: 12,
        quick,
    }
}

/// Two replicas, at a provider that lets us choose the keys.
const fn both_choose(name: &'static str, beginning: Beginning, budget: Budget) -> Configuration {
    Configuration { mint: MintKind::CallerChosen, ..two(name, beginning, budget, None, false) }
}

impl Configuration {
    /// The model in which traces are replayed. How much goes wrong is as the trace says.
    pub const fn of_the_stories() -> Self {
        let story = one("replay", Beginning::Created, budget(0, 0, 0, 0, 0), false);
        Configuration { edits: &Edit::ALL, ..story }
    }

    /// In words.
    pub fn sentence(&self) -> String {
        let Budget { crash, lost, twice, stale, edit } = self.budget;
        let beginning = match self.beginning {
            Beginning::Created => "from a new LLMKey",
            Beginning::Rotating => "from a rotation that was just asked for",
        };
        let replicas = if self.replicas == 1 { "1 replica" } else { "2 replicas" };
        let spare = if self.spares == 0 { "" } else { ", with a spare" };
        let chosen = match self.mint {
            MintKind::ShownOnce => "",
            MintKind::CallerChosen => ", keys chosen here",
            MintKind::CallerNamed => ", ids chosen here",
            MintKind::Slots => ", keys in two slots",
            MintKind::Unnamed => ", keys without names",
        };
        let prompt = if self.held_up == 0 { "; the clock stands still in a reconcile" } else { "" };
        format!(
            "{replicas}{spare}{chosen}, {beginning}; {crash} crashes, {lost} lost replies, {twice} duplicates, {stale} stale reads, {edit} edits{prompt}"
        )
    }

    /// The first state.
    pub fn begin(&self, machine: &mut Machine) -> State {
        let empty = machine.rules.empty_place();
        if self.beginning == Beginning::Created {
            return machine.start(empty, self.replicas, self.budget);
        }
        let mut state = machine.start(empty, 1, Budget::default());
        while let Calm::Does(action) = machine.calm(&state) {
            let Some(next) = machine.apply(&state, action) else { break };
            state = next.state;
        }
        let delivered = machine.space.places.get(state.place);
        let asked = machine
            .rules
            .edit(&delivered, Edit::Rotate)
            .map_or_else(|| delivered.clone(), |(place, _)| place);
        machine.start(asked, self.replicas, self.budget)
    }
}
