//! The state space: components are kept once each, a state is five numbers, and what a replica does at a place is worked out
//! once for each pair that occurs, however many states hold it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use super::local::After;
use super::parts::{Fresh, Place, Replica};

/// No component.
pub const NONE: u32 = u32::MAX;

/// Mixes whole words; the keys are small numbers that nobody chooses.
#[derive(Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let x = self.0 ^ (self.0 >> 29);
        x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }
}

/// A map with small keys.
pub type Small<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Components of one kind, each once.
pub struct Table<T> {
    items: Vec<Arc<T>>,
    index: HashMap<Arc<T>, u32>,
}

impl<T: Eq + Hash> Table<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { items: Vec::new(), index: HashMap::new() }
    }

    /// The component's number.
    pub fn number(&mut self, item: T) -> u32 {
        if let Some(known) = self.index.get(&item) {
            return *known;
        }
        let number = u32::try_from(self.items.len()).unwrap_or(NONE);
        let item = Arc::new(item);
        self.items.push(Arc::clone(&item));
        self.index.insert(item, number);
        number
    }

    /// The component of a number that this table gave.
    pub fn get(&self, number: u32) -> Arc<T> {
        Arc::clone(&self.items[number as usize])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }
}

/// How much may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Processes that die.
    pub crash: u8,
    /// Calls without an answer: done or not done.
    pub lost: u8,
    /// Requests that are delivered twice.
    pub twice: u8,
    /// Reconciles that begin with an older state of the cluster.
    pub stale: u8,
    /// What people do.
    pub edit: u8,
}

impl Budget {
    /// Faults that may leave a key behind.
    pub const fn faults(self) -> u8 {
        self.crash + self.lost + self.twice
    }
}

/// One state: numbers of components, and what is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The place.
    pub place: u32,
    /// The replicas, in a fixed order: two that change names are the same state.
    pub replicas: [u32; 2],
    /// An older state of the cluster that a reconcile may still begin with.
    pub snapshot: u32,
    /// What of it each replica saw stands.
    pub fresh: [Fresh; 2],
    /// What may still go wrong.
    pub left: Budget,
}

impl State {
    /// The same state with its replicas in order, and whether they changed places.
    pub fn ordered(mut self) -> (Self, bool) {
        let swap = self.replicas[1] != NONE
            && (self.replicas[1], self.fresh[1].0) < (self.replicas[0], self.fresh[0].0);
        if swap {
            self.replicas.swap(0, 1);
            self.fresh.swap(0, 1);
        }
        (self, swap)
    }

    /// Objects were written: everybody but `but` saw older ones.
    pub fn outdate(&mut self, written: u8, but: Option<usize>) {
        for (which, fresh) in self.fresh.iter_mut().enumerate() {
            if Some(which) != but {
                *fresh = fresh.without(written);
            }
        }
    }
}

/// A state in 20 bytes, as it is kept.
type Packed = [u32; 5];

fn pack(state: &State) -> Packed {
    let Budget { crash, lost, twice, stale, edit } = state.left;
    let mut rest = 0;
    for bits in [crash, lost, twice, stale, edit, state.fresh[0].0, state.fresh[1].0] {
        rest = rest << 3 | u32::from(bits & 7);
    }
    [state.place, state.replicas[0], state.replicas[1], state.snapshot, rest]
}

fn unpack(packed: Packed) -> State {
    let bits = |at: u32| u8::try_from(packed[4] >> (3 * at) & 7).unwrap_or_default();
    State {
        place: packed[0],
        replicas: [packed[1], packed[2]],
        snapshot: packed[3],
        fresh: [Fresh(bits(1)), Fresh(bits(0))],
        left: Budget { crash: bits(6), lost: bits(5), twice: bits(4), stale: bits(3), edit: bits(2) },
    }
}

/// Of the last word of a packed state, what tells states apart: what was seen and stands. The rest is the budget.
const SEEN: u32 = (1 << 6) - 1;
/// The highest bit of each part of a packed budget; no budget is so great that it is set.
const GUARDS: u32 = 0b100_100_100_100_100 << 6;

const fn same_but_for_budget(one: &Packed, other: &Packed) -> bool {
    one[0] == other[0]
        && one[1] == other[1]
        && one[2] == other[2]
        && one[3] == other[3]
        && one[4] & SEEN == other[4] & SEEN
}

/// Whether in `one` at least as much may still go wrong, of each kind.
const fn at_least_as_much_left(one: &Packed, other: &Packed) -> bool {
    let (one, other) = (one[4] & !SEEN, other[4] & !SEEN);
    ((one | GUARDS) - other) & GUARDS == GUARDS
}

/// All states that were reached, each with how it was first reached. A state is another one as well if they differ only in
/// what may still go wrong, and in the other at least as much may: whatever happens from the first can happen from the
/// other, the runs without faults are the same, and no property asks for less where less went wrong.
pub struct States {
    packed: Vec<Packed>,
    from: Vec<u32>,
    by: Vec<u8>,
    /// The state before it that differs only in what may still go wrong.
    others: Vec<u32>,
    /// Open addressing: positions of states, of those that differ only in what may still go wrong the newest.
    slots: Vec<u32>,
}

impl States {
    /// None yet.
    pub fn new() -> Self {
        Self {
            packed: Vec::new(),
            from: Vec::new(),
            by: Vec::new(),
            others: Vec::new(),
            slots: vec![NONE; 1 << 16],
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.packed.len()
    }

    /// A state by its position.
    pub fn get(&self, at: u32) -> State {
        unpack(self.packed[at as usize])
    }

    /// From where, and by which action, it was first reached.
    pub fn came(&self, at: u32) -> (u32, u8) {
        (self.from[at as usize], self.by[at as usize])
    }

    fn slot(&self, packed: &Packed) -> usize {
        let mut hasher = Mix::default();
        for word in [packed[0], packed[1], packed[2], packed[3], packed[4] & SEEN] {
            hasher.write_u32(word);
        }
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hasher.finish()).unwrap_or_default() & mask;
        while self.slots[slot] != NONE
            && !same_but_for_budget(&self.packed[self.slots[slot] as usize], packed)
        {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn known(&self, slot: usize, packed: &Packed) -> Option<u32> {
        let mut at = self.slots[slot];
        while at != NONE && !at_least_as_much_left(&self.packed[at as usize], packed) {
            at = self.others[at as usize];
        }
        Some(at).filter(|at| *at != NONE)
    }

    /// The position of the state, or of one in which more may still go wrong, if it was reached.
    pub fn find(&self, state: &State) -> Option<u32> {
        let packed = pack(state);
        self.known(self.slot(&packed), &packed)
    }

    /// The same; a new state is kept.
    pub fn reach(&mut self, state: &State, from: u32, by: u8) -> u32 {
        let packed = pack(state);
        let slot = self.slot(&packed);
        if let Some(known) = self.known(slot, &packed) {
            return known;
        }
        let at = u32::try_from(self.packed.len()).unwrap_or(NONE);
        self.packed.push(packed);
        self.from.push(from);
        self.by.push(by);
        self.others.push(self.slots[slot]);
        self.slots[slot] = at;
        if self.packed.len() * 2 > self.slots.len() {
            self.grow();
        }
        at
    }

    fn grow(&mut self) {
        self.slots = vec![NONE; self.slots.len() * 2];
        for (at, packed) in (0..).zip(&self.packed) {
            let slot = self.slot(packed);
            self.slots[slot] = at;
        }
    }
}

/// What a step leads to, in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Led {
    /// The place.
    pub place: u32,
    /// What of it was written.
    pub written: u8,
    /// The replica.
    pub replica: u32,
    /// What the replica saw stands.
    pub fresh: Fresh,
    /// Position of what is broken.
    pub broken: u32,
}

/// What of a place matters for states that hold it.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// Mint attempts on record.
    pub attempts: u32,
    /// Keys that work.
    pub live: u8,
    /// Keys work, and there is no ledger.
    pub orphaned: bool,
    /// Seconds until something changes by itself; 0: nothing will.
    pub next: u8,
    /// Seconds that time may go on with a copy in the network.
    pub patience: u8,
}

/// What of a replica matters for states that hold it.
#[expect(clippy::struct_excessive_bools, reason = "each is looked at by itself")]
#[derive(Clone, Copy, Debug)]
pub struct Posture {
    /// In a reconcile.
    pub working: bool,
    /// It holds a key that it made.
    pub holds_key: bool,
    /// Its time has come.
    pub due: bool,
    /// Seconds until it wakes; 0: it will not.
    pub next: u8,
    /// Seconds that it may still be held up.
    pub patience: u8,
    /// All that it has left to do is to write the status.
    pub telling: bool,
}

/// Place, what of it was written, and the position of what is broken.
pub type Happened = (u32, u8, u32);

/// Components and the memory of what they do.
pub struct Space {
    /// Seconds that a process may be held up in the middle of a reconcile.
    pub held_up: i64,
    /// All places.
    pub places: Table<Place>,
    /// All replicas.
    pub replicas: Table<Replica>,
    /// By place.
    pub outlines: Vec<Outline>,
    /// By replica.
    pub postures: Vec<Posture>,
    /// What was found to be broken.
    pub broken: Vec<String>,
    /// By place, replica, what it saw stands, and fate.
    pub steps: Small<(u32, u32, u8, u8), Option<Led>>,
    /// By place and replica.
    pub begun: Small<(u32, u32), u32>,
    /// By replica.
    pub late: Small<u32, Option<u32>>,
    /// By place and seconds.
    pub places_later: Small<(u32, u8), u32>,
    /// By replica and seconds.
    pub replicas_later: Small<(u32, u8), u32>,
    /// By place and what happens there without the operator.
    pub events: Small<(u32, u8), Option<Happened>>,
}

impl Space {
    /// Nothing is known. In the middle of a reconcile a process may be held up so many seconds.
    pub fn new(held_up: i64) -> Self {
        Self {
            held_up,
            places: Table::new(),
            replicas: Table::new(),
            outlines: Vec::new(),
            postures: Vec::new(),
            broken: Vec::new(),
            steps: Small::default(),
            begun: Small::default(),
            late: Small::default(),
            places_later: Small::default(),
            replicas_later: Small::default(),
            events: Small::default(),
        }
    }

    /// The place's number.
    pub fn place(&mut self, place: Place) -> u32 {
        let outline = place.outline();
        let number = self.places.number(place);
        if self.outlines.len() < self.places.len() {
            self.outlines.push(outline);
        }
        number
    }

    /// The replica's number.
    pub fn replica(&mut self, replica: Replica) -> u32 {
        let posture = replica.posture(self.held_up);
        let number = self.replicas.number(replica);
        if self.postures.len() < self.replicas.len() {
            self.postures.push(posture);
        }
        number
    }

    /// What is broken, by its position; [`NONE`] if nothing is.
    pub fn note(&mut self, broken: Option<String>) -> u32 {
        let Some(broken) = broken else { return NONE };
        let known = self.broken.iter().position(|b| *b == broken);
        let at = known.unwrap_or_else(|| {
            self.broken.push(broken);
            self.broken.len() - 1
        });
        u32::try_from(at).unwrap_or(NONE)
    }

    /// In numbers.
    pub fn led(&mut self, after: After) -> Led {
        Led {
            place: self.place(after.place),
            written: after.written.0,
            replica: self.replica(after.replica),
            fresh: after.fresh,
            broken: self.note(after.broken),
        }
    }
}
