//! What a state is made of: one place (API server and provider) and the replicas, each in a canonical form, so that states
//! which no rule can tell apart are one state.
//!
//! All times are relative to a fixed now. What is older than [`OLD`] is as old as that: no rule of the planner looks further
//! back with the model's constants. Versions of objects are not kept at all: whether what a replica saw still stands is a
//! [`Fresh`] bit beside it, which every write by another hand clears.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};

use super::fate::{Fate, befalls};
use super::place::ahead;
use super::space::Posture;
use crate::api::{LLMKey, LLMKeyStatus};
use crate::controller::llm_key::model::{Effect, Memory, Observed};
use crate::controller::llm_key::world::{Holder, ProviderKey, Request, Target, at};
use crate::ledger::Ledger;

/// Seconds after which a time is as good as for ever ago.
pub const OLD: i64 = 7;

/// Version of every object that stands.
pub const STANDS: u64 = 1000;

/// Version of what was seen and has changed since.
pub const GONE: u64 = 1;

/// Now, in every state.
pub fn now() -> DateTime<Utc> {
    at(0)
}

/// A stored object with its text, by which it is compared.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// As JSON.
    pub text: String,
    /// The object.
    pub value: T,
}

impl<T: serde::Serialize> Stored<T> {
    /// An object and its text.
    pub fn new(value: T) -> Self {
        Self { text: serde_json::to_string(&value).unwrap_or_default(), value }
    }
}

impl<T> PartialEq for Stored<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Stored<T> {}

impl<T> Hash for Stored<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Everything outside the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The LLMKey.
    pub key: Option<Arc<Stored<LLMKey>>>,
    /// The ledger.
    pub ledger: Option<Arc<Ledger>>,
    /// The target Secret.
    pub target: Option<Target>,
    /// Keys at the provider; revoked ones only as long as they still work.
    pub keys: Vec<ProviderKey>,
    /// A second copy of a request to mint, which the network has not delivered yet, and when it was sent.
    pub late: Option<(Request, DateTime<Utc>)>,
    /// Names of mint attempts that ever stood in the ledger.
    pub names: BTreeSet<String>,
    /// Versions on which L4 was recorded, with their fingerprints.
    pub retired: BTreeMap<i32, (usize, String)>,
    /// The newest version that was ever written to the target.
    pub published: i32,
    /// What each slot of the account has, where there are slots.
    pub slots: BTreeMap<String, String>,
    /// Who has the account for itself, where one LLMKey does.
    pub holder: Option<Holder>,
}

/// One replica of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "kept once each, behind a pointer")]
pub enum Replica {
    /// Between two reconciles.
    Idle {
        /// Of whom its memory is.
        uid: String,
        /// What it remembers.
        memory: Memory,
        /// When it looks again by itself; now if it is due.
        wake: Option<DateTime<Utc>>,
    },
    /// In a reconcile.
    Working(Box<Work>),
}

impl Replica {
    /// A process that has just started.
    pub fn started() -> Self {
        Self::Idle { uid: String::new(), memory: Memory::default(), wake: Some(now()) }
    }

    /// What of it matters for states that hold it, if a process may be held up so many seconds.
    pub fn posture(&self, held_up: i64) -> Posture {
        match self {
            Self::Idle { wake, .. } => Posture {
                working: false,
                holds_key: false,
                due: *wake == Some(now()),
                next: wake.map_or(0, ahead),
                patience: u8::MAX,
                telling: false,
                decides_late: false,
                befalls: 0,
            },
            Self::Working(work) => Posture {
                working: true,
                holds_key: work.minted.is_some() || work.o.pass.minted.is_some(),
                due: false,
                next: 0,
                patience: ahead(work.planned + Duration::seconds(held_up)),
                telling: work.tell.is_some(),
                decides_late: work.untouched && work.tell.is_none() && work.planned < now(),
                befalls: work.befalls(),
            },
        }
    }
}

/// A reconcile under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Work {
    /// What it knows.
    pub o: Observed,
    /// The LLMKey as it saw it; none in a pass over a ledger whose LLMKey is gone.
    pub key: Option<Arc<Stored<LLMKey>>>,
    /// The source's value.
    pub source: Option<String>,
    /// The key that it made.
    pub minted: Option<String>,
    /// The key that it chose.
    pub chosen: Option<String>,
    /// It saw a target.
    pub target_seen: bool,
    /// When the plan was made.
    pub planned: DateTime<Utc>,
    /// What is left of the plan.
    pub queue: Vec<Effect>,
    /// Nothing of the plan is done yet.
    pub untouched: bool,
    /// How often another hand wrote first.
    pub looked_again: u8,
    /// The reconcile did not end well: the next one follows at once.
    pub again: bool,
    /// The status to be written; the steps are over.
    pub tell: Option<Arc<Stored<LLMKeyStatus>>>,
    /// When it looks again after the status is written.
    pub wake: Option<DateTime<Utc>>,
    /// The mint attempt that this replica has put on record and not yet made (for I9; the planner does not see it).
    pub own_attempt: Option<u32>,
}

impl Work {
    /// The fates that make a difference to what comes next, as bits.
    fn befalls(&self) -> u8 {
        let next = self.queue.first();
        let differs = |fate: &Fate| match &self.tell {
            Some(_) => *fate != Fate::TwiceLater,
            None => next.is_some_and(|effect| befalls(effect, *fate)),
        };
        Fate::ALL.into_iter().filter(differs).fold(0, |all, fate| all | 1 << fate as u8)
    }
}

/// Which of the objects that a replica saw stand unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fresh(pub u8);

impl Fresh {
    /// The ledger.
    pub const LEDGER: u8 = 1;
    /// The LLMKey.
    pub const KEY: u8 = 2;
    /// The target.
    pub const TARGET: u8 = 4;
    /// All of them.
    pub const ALL: Self = Self(7);
    /// None: what was seen is out of date.
    pub const NONE: Self = Self(0);

    /// Whether the object stands as it was seen.
    pub const fn has(self, object: u8) -> bool {
        self.0 & object != 0
    }

    /// After others wrote these objects.
    pub const fn without(self, written: u8) -> Self {
        Self(self.0 & !written)
    }

    /// After it wrote or read these itself.
    pub const fn with(self, seen: u8) -> Self {
        Self(self.0 | seen)
    }
}

/// Moves times back by as much as the clock goes on, and cuts what is old.
#[derive(Clone, Copy)]
pub struct Shift(pub Duration);

impl Shift {
    /// Cuts only.
    pub const CUT: Self = Self(Duration::zero());

    /// One time.
    pub fn time(self, time: &mut DateTime<Utc>) {
        *time = (*time - self.0).max(now() - Duration::seconds(OLD));
    }

    /// A time that counts for so many seconds and no longer.
    pub fn within(self, time: &mut DateTime<Utc>, seconds: i64) {
        self.time(time);
        if *time <= now() - Duration::seconds(seconds) {
            *time = now() - Duration::seconds(OLD);
        }
    }

    /// A time that may be there.
    pub fn maybe(self, time: &mut Option<DateTime<Utc>>) {
        if let Some(time) = time {
            self.time(time);
        }
    }

    /// A time to wait for: once it is reached, how long ago does not matter. Decisions count in whole seconds.
    pub fn deadline(self, time: &mut DateTime<Utc>) {
        let moved = *time - self.0;
        let whole = moved
            + Duration::nanoseconds(
                (1_000_000_000 - i64::from(moved.timestamp_subsec_nanos())) % 1_000_000_000,
            );
        *time = whole.max(now());
    }
}
