//! The state space: components are kept once each, a state is five numbers, and what a replica does at a place is worked out
//! once for each pair that occurs, however many states hold it.

use super::attempts::{Attempts, Vocabulary};
pub use super::budget::Budget;
use super::local::After;
use super::packed::{Places, Replicas};
use super::parts::{Fresh, Place, Replica};
pub use super::table::NONE;
use super::table::{List, Memo, Small, Table};

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

/// A state but for what may still go wrong: each replica with the place, and the older `LLMKey`.
pub type Scene = [u32; 3];

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

impl Led {
    /// As it is remembered: of what was written and what stands, three bits each.
    fn words(self) -> [u32; 3] {
        let bits = u32::from(self.written) << 3 | u32::from(self.fresh.0);
        [self.place << 6 | bits, self.replica, self.broken]
    }

    fn of([first, replica, broken]: [u32; 3]) -> Self {
        let bits = |at: u32| u8::try_from(first >> at & 7).unwrap_or_default();
        Self { place: first >> 6, written: bits(3), replica, fresh: Fresh(bits(0)), broken }
    }
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
    /// It was held up before its decision.
    pub decides_late: bool,
    /// The fates that make a difference to what it does next, as bits.
    pub befalls: u8,
}

/// Components of a kind at most: their numbers have to fit into a word beside six bits.
pub const MOST_COMPONENTS: u32 = (1 << 26) - (1 << 20);

/// What happens to a replica at a place beside its steps, whose numbers are those of their fates.
const BEGINS: u16 = 256;
/// What happens to a replica beside the seconds that go by.
pub const DECIDES_LATE: u16 = 256;

/// Components and the memory of what they do.
pub struct Space {
    /// Seconds that a process may be held up in the middle of a reconcile.
    pub held_up: i64,
    /// All places.
    pub places: Places,
    /// All replicas.
    pub replicas: Replicas,
    /// By place.
    outlines: List<Outline>,
    /// By replica.
    postures: List<Posture>,
    /// Texts that mint attempts are in.
    vocabulary: Vocabulary,
    /// By place: the attempts that it speaks of.
    of_places: List<Attempts>,
    /// By replica.
    of_replicas: List<Attempts>,
    /// By place and the attempts that count: the place with these numbered anew.
    places_anew: Small<(u32, Attempts), u32>,
    /// The same of replicas.
    replicas_anew: Small<(u32, Attempts), u32>,
    /// A replica, what of the place it saw stands, and the place.
    pairs: Table<[u32; 2]>,
    /// What was found to be broken.
    pub broken: Vec<String>,
    /// By pair.
    acts: Memo,
    /// By place.
    pub events: Memo,
    /// By replica.
    pub waits: Memo,
}

impl Space {
    /// Nothing is known. In the middle of a reconcile a process may be held up so many seconds.
    pub fn new(held_up: i64, vocabulary: Vocabulary) -> Self {
        Self {
            held_up,
            places: Places::new(),
            replicas: Replicas::new(),
            outlines: List::new(),
            postures: List::new(),
            vocabulary,
            of_places: List::new(),
            of_replicas: List::new(),
            places_anew: Small::default(),
            replicas_anew: Small::default(),
            pairs: Table::new(),
            broken: Vec::new(),
            acts: Memo::new(),
            events: Memo::new(),
            waits: Memo::new(),
        }
    }

    /// The place's number.
    pub fn place(&mut self, place: Place) -> u32 {
        let number = self.places.number(place);
        if number == self.outlines.len() {
            let place = self.places.get(number);
            self.outlines.push(place.outline());
            self.of_places.push(self.vocabulary.of_place(place));
        }
        number
    }

    /// The replica's number.
    pub fn replica(&mut self, replica: Replica) -> u32 {
        let posture = replica.posture(self.held_up);
        let number = self.replicas.number(replica);
        if number == self.postures.len() {
            let replica = self.replicas.get(number);
            self.postures.push(posture);
            self.of_replicas.push(self.vocabulary.of_replica(replica));
        }
        number
    }

    /// What of the place matters for states.
    pub fn outline(&self, place: u32) -> Outline {
        *self.outlines.get(place)
    }

    /// What of the replica matters for states.
    pub fn posture(&self, replica: u32) -> Posture {
        *self.postures.get(replica)
    }

    /// The attempts that a state speaks of.
    pub fn attempts(&self, state: &State) -> Attempts {
        let places = [state.place, state.snapshot].into_iter().filter(|place| *place != NONE);
        let replicas = state.replicas.into_iter().filter(|replica| *replica != NONE);
        let of_places = places.fold(0, |all, place| all | self.of_places.get(place));
        replicas.fold(of_places, |all, replica| all | self.of_replicas.get(replica))
    }

    /// The place, if these are all attempts that count.
    pub fn place_anew(&mut self, place: u32, all: Attempts) -> u32 {
        if let Some(known) = self.places_anew.get(&(place, all)) {
            return *known;
        }
        let mut anew = self.places.get(place);
        self.vocabulary.place(&mut anew, all);
        let number = self.place(anew);
        self.places_anew.insert((place, all), number);
        number
    }

    /// The replica, if these are all attempts that count.
    pub fn replica_anew(&mut self, replica: u32, all: Attempts) -> u32 {
        if let Some(known) = self.replicas_anew.get(&(replica, all)) {
            return *known;
        }
        let mut anew = self.replicas.get(replica);
        self.vocabulary.replica(&mut anew, all);
        let number = self.replica(anew);
        self.replicas_anew.insert((replica, all), number);
        number
    }

    fn pair(&mut self, place: u32, replica: u32, fresh: Fresh) -> u32 {
        if replica == NONE { NONE } else { self.pairs.number([replica << 3 | u32::from(fresh.0), place]) }
    }

    /// The state, but for what may still go wrong.
    pub fn scene(&mut self, state: &State) -> Scene {
        let State { place, replicas, snapshot, fresh, left: _ } = *state;
        [self.pair(place, replicas[0], fresh[0]), self.pair(place, replicas[1], fresh[1]), snapshot]
    }

    /// The state with this scene, of which so much is left.
    pub fn state(&self, scene: Scene, left: Budget) -> State {
        let [one, other, snapshot] = scene;
        let (mut replicas, mut seen, mut at) = ([NONE; 2], [Fresh::NONE; 2], NONE);
        for (who, pair) in [one, other].into_iter().enumerate().filter(|(_, pair)| *pair != NONE) {
            let [replica, place] = *self.pairs.get(pair);
            (replicas[who], at) = (replica >> 3, place);
            seen[who] = Fresh(u8::try_from(replica & 7).unwrap_or_default());
        }
        State { place: at, replicas, snapshot, fresh: seen, left }
    }

    /// What a replica's step at a place is known to lead to; nothing, if that is known to be impossible.
    #[expect(clippy::option_option, reason = "unknown, impossible, or known")]
    pub fn step(&mut self, place: u32, replica: u32, fresh: Fresh, fate: u8) -> Option<Option<Led>> {
        let pair = self.pair(place, replica, fresh);
        self.acts.get(pair, fate.into()).map(|known| known.map(Led::of))
    }

    /// Keeps it.
    pub fn stepped(&mut self, place: u32, replica: u32, fresh: Fresh, fate: u8, led: Option<Led>) {
        let pair = self.pair(place, replica, fresh);
        self.acts.put(pair, fate.into(), led.map(Led::words));
    }

    /// What a replica is known to become that begins at a place.
    pub fn begun(&mut self, place: u32, replica: u32) -> Option<u32> {
        let pair = self.pair(place, replica, Fresh::ALL);
        self.acts.get(pair, BEGINS).flatten().map(|[begun, ..]| begun)
    }

    /// Keeps it.
    pub fn begins(&mut self, place: u32, replica: u32, begun: u32) {
        let pair = self.pair(place, replica, Fresh::ALL);
        self.acts.put(pair, BEGINS, Some([begun, NONE, NONE]));
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

    /// Whether no more component has a number that fits.
    pub const fn is_full(&self) -> bool {
        self.places.len() >= MOST_COMPONENTS
            || self.replicas.len() >= MOST_COMPONENTS
            || self.pairs.len() >= NONE - 1024
            || self.acts.len() >= NONE - 4096
    }

    /// Bytes that are taken at once when the next pair does not fit in.
    pub const fn grows_by(&self) -> usize {
        self.pairs.grows_by()
    }
}
