//! Places and replicas as they are kept: each of their parts once, so that one of them is a few numbers.

use super::parts::{Place, Replica, Stored, Work};
use super::table::{NONE, Table};
use crate::api::{LLMKey, LLMKeyStatus};
use crate::controller::llm_key::model::{
    Effect, Former, KeyView, LedgerView, Memory, Observed, Pass, PolicyView, ProviderView, SourceView,
    TargetView,
};
use crate::controller::llm_key::world::{Holder, ProviderKey, Request, Target};
use crate::domain::turns::Turn;
use crate::ledger::{Ledger, Requester};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A place, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PackedPlace {
    key: u32,
    ledger: u32,
    provider: u32,
    target: u32,
    past: u32,
}

/// Of a place, the provider.
#[derive(Clone, PartialEq, Eq, Hash)]
struct AtProvider {
    keys: Vec<ProviderKey>,
    late: Option<(Request, DateTime<Utc>)>,
    slots: BTreeMap<String, String>,
    holder: Option<Holder>,
}

/// Of a place, what was.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Past {
    names: BTreeSet<String>,
    retired: BTreeMap<i32, (usize, String)>,
    published: i32,
}

/// All places.
pub struct Places {
    all: Table<PackedPlace>,
    keys: Table<Arc<Stored<LLMKey>>>,
    ledgers: Table<Arc<Ledger>>,
    providers: Table<AtProvider>,
    targets: Table<Target>,
    pasts: Table<Past>,
}

fn number<T: Eq + std::hash::Hash>(table: &mut Table<T>, item: Option<T>) -> u32 {
    item.map_or(NONE, |item| table.number(item))
}

fn part<T: Clone + Eq + std::hash::Hash>(table: &Table<T>, number: u32) -> Option<T> {
    (number != NONE).then(|| table.get(number).clone())
}

impl Places {
    /// None.
    pub fn new() -> Self {
        Self {
            all: Table::new(),
            keys: Table::new(),
            ledgers: Table::new(),
            providers: Table::new(),
            targets: Table::new(),
            pasts: Table::new(),
        }
    }

    /// The place's number.
    pub fn number(&mut self, place: Place) -> u32 {
        let Place { key, ledger, target, keys, late, names, retired, published, slots, holder } = place;
        let packed = PackedPlace {
            key: number(&mut self.keys, key),
            ledger: number(&mut self.ledgers, ledger),
            provider: self.providers.number(AtProvider { keys, late, slots, holder }),
            target: number(&mut self.targets, target),
            past: self.pasts.number(Past { names, retired, published }),
        };
        self.all.number(packed)
    }

    /// The place with this number.
    pub fn get(&self, number: u32) -> Place {
        let packed = self.all.get(number);
        let AtProvider { keys, late, slots, holder } = self.providers.get(packed.provider).clone();
        let Past { names, retired, published } = self.pasts.get(packed.past).clone();
        Place {
            key: part(&self.keys, packed.key),
            ledger: part(&self.ledgers, packed.ledger),
            target: part(&self.targets, packed.target),
            keys,
            late,
            names,
            retired,
            published,
            slots,
            holder,
        }
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.all.len()
    }
}

/// A replica, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PackedReplica {
    Idle {
        memory: u32,
        rest: u32,
    },
    Working {
        setting: u32,
        ledger: u32,
        target: u32,
        memory: u32,
        pass: u32,
        queue: u32,
        key: u32,
        rest: u32,
    },
}

/// Of an idle replica, all but its memory.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Waiting {
    uid: String,
    wake: Option<DateTime<Utc>>,
}

/// Of what a replica has observed, what stays the same while it works.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Setting {
    key: KeyView,
    policy: PolicyView,
    provider: ProviderView,
    former: Option<Former>,
    source: SourceView,
    edits: String,
    supplied_by: Option<Requester>,
    turn: Option<Turn>,
    usage: Option<crate::domain::usage::Reading>,
}

/// Of a replica that works, what stands beside what it has observed and what it is to do.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Underway {
    source: Option<String>,
    minted: Option<String>,
    chosen: Option<String>,
    target_seen: bool,
    planned: DateTime<Utc>,
    untouched: bool,
    looked_again: u8,
    again: bool,
    tell: Option<Arc<Stored<LLMKeyStatus>>>,
    wake: Option<DateTime<Utc>>,
    own_attempt: Option<u32>,
}

/// All replicas.
pub struct Replicas {
    all: Table<PackedReplica>,
    memories: Table<Memory>,
    waiting: Table<Waiting>,
    settings: Table<Setting>,
    ledgers: Table<LedgerView>,
    targets: Table<TargetView>,
    passes: Table<Pass>,
    effects: Table<Effect>,
    /// An effect and the queue after it.
    queues: Table<[u32; 2]>,
    keys: Table<Arc<Stored<LLMKey>>>,
    underway: Table<Underway>,
}

impl Replicas {
    /// None.
    pub fn new() -> Self {
        Self {
            all: Table::new(),
            memories: Table::new(),
            waiting: Table::new(),
            settings: Table::new(),
            ledgers: Table::new(),
            targets: Table::new(),
            passes: Table::new(),
            effects: Table::new(),
            queues: Table::new(),
            keys: Table::new(),
            underway: Table::new(),
        }
    }

    /// The replica's number.
    pub fn number(&mut self, replica: Replica) -> u32 {
        let packed = match replica {
            Replica::Idle { uid, memory, wake } => PackedReplica::Idle {
                memory: self.memories.number(memory),
                rest: self.waiting.number(Waiting { uid, wake }),
            },
            Replica::Working(work) => self.pack(*work),
        };
        self.all.number(packed)
    }

    fn pack(&mut self, work: Work) -> PackedReplica {
        let Work {
            o,
            key: seen,
            source: value,
            minted,
            chosen,
            target_seen,
            planned,
            queue,
            untouched,
            looked_again,
            again,
            tell,
            wake,
            own_attempt,
        } = work;
        let Observed {
            key,
            policy,
            provider,
            former,
            source,
            ledger,
            target,
            memory,
            pass,
            edits,
            supplied_by,
            turn,
            usage,
        } = o;
        let mut rest = NONE;
        for effect in queue.into_iter().rev() {
            let effect = self.effects.number(effect);
            rest = self.queues.number([effect, rest]);
        }
        PackedReplica::Working {
            setting: self.settings.number(Setting {
                key,
                policy,
                provider,
                former,
                source,
                edits,
                supplied_by,
                turn,
                usage,
            }),
            ledger: self.ledgers.number(ledger),
            target: self.targets.number(target),
            memory: self.memories.number(memory),
            pass: self.passes.number(pass),
            queue: rest,
            key: number(&mut self.keys, seen),
            rest: self.underway.number(Underway {
                source: value,
                minted,
                chosen,
                target_seen,
                planned,
                untouched,
                looked_again,
                again,
                tell,
                wake,
                own_attempt,
            }),
        }
    }

    /// The replica with this number.
    pub fn get(&self, number: u32) -> Replica {
        match *self.all.get(number) {
            PackedReplica::Idle { memory, rest } => {
                let Waiting { uid, wake } = self.waiting.get(rest).clone();
                Replica::Idle { uid, memory: self.memories.get(memory).clone(), wake }
            }
            PackedReplica::Working { setting, ledger, target, memory, pass, queue, key: seen, rest } => {
                let Setting { key, policy, provider, former, source, edits, supplied_by, turn, usage } =
                    self.settings.get(setting).clone();
                let o = Observed {
                    key,
                    policy,
                    provider,
                    former,
                    source,
                    ledger: self.ledgers.get(ledger).clone(),
                    target: self.targets.get(target).clone(),
                    memory: self.memories.get(memory).clone(),
                    pass: self.passes.get(pass).clone(),
                    edits,
                    supplied_by,
                    turn,
                    usage,
                };
                let Underway {
                    source,
                    minted,
                    chosen,
                    target_seen,
                    planned,
                    untouched,
                    looked_again,
                    again,
                    tell,
                    wake,
                    own_attempt,
                } = self.underway.get(rest).clone();
                Replica::Working(Box::new(Work {
                    o,
                    key: part(&self.keys, seen),
                    source,
                    minted,
                    chosen,
                    target_seen,
                    planned,
                    queue: self.queue(queue),
                    untouched,
                    looked_again,
                    again,
                    tell,
                    wake,
                    own_attempt,
                }))
            }
        }
    }

    fn queue(&self, mut at: u32) -> Vec<Effect> {
        let mut queue = Vec::new();
        while at != NONE {
            let [effect, rest] = *self.queues.get(at);
            queue.push(self.effects.get(effect).clone());
            at = rest;
        }
        queue
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.all.len()
    }
}
