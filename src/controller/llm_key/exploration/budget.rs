//! How much may still go wrong: budgets, in order, and sets of them.

use super::table::Small;

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

    /// All that may go wrong.
    pub const fn total(self) -> u8 {
        self.faults() + self.stale + self.edit
    }

    const fn each(self) -> [u8; 5] {
        [self.crash, self.lost, self.twice, self.stale, self.edit]
    }

    fn at_most(self, other: Self) -> bool {
        self.each().iter().zip(other.each()).all(|(one, other)| *one <= other)
    }
}

/// All budgets that can be left of a whole one, numbered; sets of them are bits.
pub struct Budgets {
    whole: Budget,
    all: Vec<Budget>,
    /// By number: those with at most as much of each kind, itself among them.
    below: Vec<u128>,
    /// By number: those with at least as much of each kind, without itself.
    above: Vec<u128>,
}

impl Budgets {
    /// Those that can be left of this one: at most 128 (`exploration/tests.rs` looks at it).
    pub fn new(whole: Budget) -> Self {
        let mut all = Vec::new();
        for crash in 0..=whole.crash {
            for lost in 0..=whole.lost {
                for twice in 0..=whole.twice {
                    for stale in 0..=whole.stale {
                        all.extend((0..=whole.edit).map(|edit| Budget { crash, lost, twice, stale, edit }));
                    }
                }
            }
        }
        let set = |holds: &dyn Fn(&Budget) -> bool| {
            all.iter().enumerate().filter(|(_, b)| holds(b)).fold(0, |set, (at, _)| set | 1 << at)
        };
        let below = all.iter().map(|b| set(&|other| other.at_most(*b))).collect();
        let above = all.iter().map(|b| set(&|other| b.at_most(*other) && other != b)).collect();
        Self { whole, all, below, above }
    }

    /// The budget's number.
    pub fn number(&self, left: Budget) -> u8 {
        left.each().iter().zip(self.whole.each()).fold(0, |n, (left, whole)| n * (whole + 1) + left)
    }

    /// The budget with this number.
    pub fn get(&self, number: u8) -> Budget {
        self.all[usize::from(number)]
    }

    /// What of the whole budget is spent.
    pub fn spent(&self, number: u8) -> u8 {
        self.whole.total() - self.get(number).total()
    }

    /// The set with everything that is left where at most this is left.
    pub fn below(&self, number: u8) -> u128 {
        self.below[usize::from(number)]
    }

    /// Whether more is left in one of the set.
    pub fn is_exceeded(&self, number: u8, set: u128) -> bool {
        self.above[usize::from(number)] & set != 0
    }
}

/// Sets of budgets, each once: few of those that are possible occur.
#[derive(Default)]
pub struct Sets {
    all: Vec<u128>,
    index: Small<u128, u32>,
}

impl Sets {
    /// The set's number.
    pub fn number(&mut self, set: u128) -> u32 {
        let next = u32::try_from(self.all.len()).unwrap_or_default();
        let number = *self.index.entry(set).or_insert(next);
        if number == next {
            self.all.push(set);
        }
        number
    }

    /// The set with this number.
    pub fn get(&self, number: u32) -> u128 {
        self.all[number as usize]
    }
}
