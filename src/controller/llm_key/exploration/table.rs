//! Where things are kept once each, and numbered: lists that grow without being copied, tables, and the memory of what follows
//! from what.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// No number.
pub const NONE: u32 = u32::MAX;

/// Mixes whole words; nobody chooses what is kept here.
#[derive(Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let x = self.0 ^ (self.0 >> 29);
        x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(word.try_into().map(u64::from_le_bytes).unwrap_or_default());
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
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

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// A map with small keys.
pub type Small<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Elements of one piece of a list, as a power of two.
const PIECE: u32 = 14;

/// A list that grows piece by piece.
pub struct List<T> {
    pieces: Vec<Vec<T>>,
    len: u32,
}

impl<T> List<T> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }

    /// Adds one, and gives its number.
    pub fn push(&mut self, item: T) -> u32 {
        let number = self.len;
        if number.trailing_zeros() >= PIECE {
            self.pieces.push(Vec::with_capacity(1 << PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(item);
        }
        self.len += 1;
        number
    }

    /// The one with this number.
    pub fn get(&self, number: u32) -> &T {
        &self.pieces[(number >> PIECE) as usize][(number & ((1 << PIECE) - 1)) as usize]
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.pieces[(number >> PIECE) as usize][(number & ((1 << PIECE) - 1)) as usize]
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.len
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

/// Things of one kind, each once. Compared exactly.
pub struct Table<T> {
    items: List<T>,
    /// Open addressing: numbers.
    slots: Vec<u32>,
}

impl<T: Eq + Hash> Table<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { items: List::new(), slots: vec![NONE; 64] }
    }

    fn slot(slots: &[u32], items: &List<T>, item: &T) -> usize {
        let mut hasher = Mix::default();
        item.hash(&mut hasher);
        let mask = slots.len() - 1;
        let mut slot = usize::try_from(hasher.finish()).unwrap_or_default() & mask;
        while slots[slot] != NONE && items.get(slots[slot]) != item {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The thing's number. A new one is kept.
    pub fn number(&mut self, item: T) -> u32 {
        let slot = Self::slot(&self.slots, &self.items, &item);
        if self.slots[slot] != NONE {
            return self.slots[slot];
        }
        let number = self.items.push(item);
        self.slots[slot] = number;
        if self.items.len() as usize * 4 > self.slots.len() * 3 {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mut slots = vec![NONE; self.slots.len() * 2];
        for (number, item) in (0..).zip(self.items.iter()) {
            let slot = Self::slot(&slots, &self.items, item);
            slots[slot] = number;
        }
        self.slots = slots;
    }

    /// The thing with this number.
    pub fn get(&self, number: u32) -> &T {
        self.items.get(number)
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.items.len()
    }

    /// Bytes that are taken at once when the next one does not fit in.
    pub const fn grows_by(&self) -> usize {
        self.slots.len() * 2 * size_of::<u32>()
    }
}

/// What is known to follow: for something with a number, by what happens to it.
pub struct Memo {
    /// By number: where the newest of what is known begins.
    heads: List<u32>,
    /// Each: where the one before begins, what happens and how many words follow, and these.
    words: List<u32>,
}

/// Up to three words of what follows.
pub type Known = Option<[u32; 3]>;

impl Memo {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { heads: List::new(), words: List::new() }
    }

    /// What follows, if that is known; inside, none if it cannot happen.
    pub fn get(&self, number: u32, what: u16) -> Option<Known> {
        let mut at = if number < self.heads.len() { *self.heads.get(number) } else { NONE };
        while at != NONE {
            let tag = *self.words.get(at + 1);
            if tag & 0xffff == u32::from(what) {
                let word = |n: u32| if n < tag >> 16 { *self.words.get(at + 2 + n) } else { NONE };
                return Some((tag >> 16 != 0).then(|| [word(0), word(1), word(2)]));
            }
            at = *self.words.get(at);
        }
        None
    }

    /// Keeps what follows. Words at the end that are [`NONE`] take no room.
    pub fn put(&mut self, number: u32, what: u16, follows: Known) {
        while self.heads.len() <= number {
            self.heads.push(NONE);
        }
        let words = follows.as_ref().map_or(&[][..], |words| {
            let len = words.iter().rposition(|word| *word != NONE).map_or(1, |last| last + 1);
            &words[..len]
        });
        let tag = u32::try_from(words.len()).unwrap_or_default() << 16 | u32::from(what);
        let at = self.words.push(*self.heads.get(number));
        for word in [tag].iter().chain(words) {
            self.words.push(*word);
        }
        *self.heads.get_mut(number) = at;
    }

    /// Words that are kept.
    pub const fn len(&self) -> u32 {
        self.words.len()
    }
}
