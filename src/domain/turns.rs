//! Whose turn it is: so many rotations of one policy at a time. What a person asked for comes first, then whatever has been due
//! for longest. Counts of one process, and a hint only: safety is the ledger's.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

/// Beyond this nobody counts how many are before one; not less than any limit.
const COUNTED: usize = 1000;

/// Where in the line somebody stands: what a person asked for first, then by due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The schedule asks, not a person.
    pub scheduled: bool,
    /// Since when it is due.
    pub due: DateTime<Utc>,
}

/// The answer to who asks for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Begin.
    Now,
    /// Wait to be woken.
    Waits(Ahead),
}

/// How many are before one. Coarse, so that what is told of it seldom changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ahead {
    /// Nobody: it is next.
    Nobody,
    /// At most ten.
    Few,
    /// More than ten.
    Tens,
    /// More than a hundred.
    Hundreds,
    /// A thousand or more.
    Thousands,
}

impl Ahead {
    const fn of(count: usize) -> Self {
        match count {
            0 => Self::Nobody,
            1..=10 => Self::Few,
            11..=100 => Self::Tens,
            101..COUNTED => Self::Hundreds,
            _ => Self::Thousands,
        }
    }

    /// In words, as the end of a sentence.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "this one is next",
            Self::Few => "up to 10 are before this one",
            Self::Tens => "more than 10 are before this one",
            Self::Hundreds => "more than 100 are before this one",
            Self::Thousands => "1000 or more are before this one",
        }
    }
}

/// What a look at a key showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Neither of the others.
    Aside,
    /// It waits for its turn.
    Waiting(Place),
    /// Its rotation is under way and has a turn.
    Rotating,
}

/// The turns of one policy.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    limit: usize,
    rotating: BTreeSet<K>,
    waiting: BTreeSet<(Place, K)>,
    places: BTreeMap<K, Place>,
}

impl<K: Clone + Ord> Turns<K> {
    /// Nobody rotates and nobody waits.
    pub const fn new(limit: usize) -> Self {
        Self { limit, rotating: BTreeSet::new(), waiting: BTreeSet::new(), places: BTreeMap::new() }
    }

    /// The policy's limit, as it is now.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Asks for a turn. Who has one keeps it; who waits and is among the first for whom there is room gets one.
    pub fn ask(&mut self, key: &K, place: Place) -> Turn {
        if self.rotating.contains(key) {
            return Turn::Now;
        }
        let place = self.wait(key, place);
        let before = self.waiting.range(..(place, key.clone())).take(COUNTED).count();
        let free = self.free();
        if before < free {
            self.leave(key);
            self.rotating.insert(key.clone());
            return Turn::Now;
        }
        Turn::Waits(Ahead::of(before))
    }

    /// Takes in what a look at a key showed. Whether there may be room now that there was not before.
    pub fn tell(&mut self, key: &K, standing: Standing) -> bool {
        match standing {
            Standing::Rotating => {
                let waited = self.leave(key);
                self.rotating.insert(key.clone());
                waited
            }
            Standing::Waiting(place) => {
                let rotated = self.rotating.remove(key);
                self.wait(key, place);
                rotated
            }
            Standing::Aside => self.forget(key),
        }
    }

    /// Nothing is known of the key any more. Whether it rotated or waited.
    pub fn forget(&mut self, key: &K) -> bool {
        self.rotating.remove(key) | self.leave(key)
    }

    /// Whoever waits and would get a turn now.
    pub fn next(&self) -> impl Iterator<Item = &K> {
        self.waiting.iter().take(self.free()).map(|(_, key)| key)
    }

    /// Nobody rotates and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.rotating.is_empty() && self.waiting.is_empty()
    }

    fn free(&self) -> usize {
        self.limit.min(COUNTED).saturating_sub(self.rotating.len())
    }

    /// Stands in line. What a person asked for keeps its first place there: it has no due time of its own.
    fn wait(&mut self, key: &K, mut place: Place) -> Place {
        if let Some(known) = self.places.get(key).copied() {
            if known.scheduled == place.scheduled && !known.scheduled {
                place.due = known.due.min(place.due);
            }
            if known == place {
                return place;
            }
            self.waiting.remove(&(known, key.clone()));
        }
        self.waiting.insert((place, key.clone()));
        self.places.insert(key.clone(), place);
        place
    }

    fn leave(&mut self, key: &K) -> bool {
        self.places.remove(key).is_some_and(|place| self.waiting.remove(&(place, key.clone())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due(seconds: i64) -> Place {
        Place { scheduled: true, due: DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap() }
    }

    fn asked(seconds: i64) -> Place {
        Place { scheduled: false, ..due(seconds) }
    }

    fn next(turns: &Turns<u32>) -> Vec<u32> {
        turns.next().copied().collect()
    }

    #[test]
    fn so_many_at_a_time_and_then_the_oldest_due() {
        let mut turns = Turns::new(2);
        assert_eq!([turns.ask(&1, due(1)), turns.ask(&2, due(2))], [Turn::Now; 2]);
        assert_eq!(turns.ask(&4, due(4)), Turn::Waits(Ahead::Nobody));
        assert_eq!(turns.ask(&3, due(3)), Turn::Waits(Ahead::Nobody), "due before the other one");
        assert_eq!(turns.ask(&4, due(4)), Turn::Waits(Ahead::Few));
        assert_eq!(turns.ask(&1, due(1)), Turn::Now, "it has its turn already");
        assert!(next(&turns).is_empty());
        assert!(turns.tell(&1, Standing::Aside));
        assert_eq!(next(&turns), [3]);
        assert_eq!(turns.ask(&4, due(4)), Turn::Waits(Ahead::Few), "the turn is another's");
        assert_eq!(turns.ask(&3, due(3)), Turn::Now);
        assert!(!turns.tell(&3, Standing::Rotating), "it keeps its turn");
        assert!(turns.forget(&2) && turns.forget(&3));
        assert_eq!(turns.ask(&4, due(4)), Turn::Now);
        assert!(turns.forget(&4) && turns.is_empty());
    }

    #[test]
    fn a_person_comes_before_every_schedule_and_in_the_order_of_asking() {
        let mut turns = Turns::new(1);
        assert_eq!(turns.ask(&0, due(0)), Turn::Now);
        for (key, place) in [(1, due(1)), (2, asked(50)), (3, asked(60))] {
            assert_ne!(turns.ask(&key, place), Turn::Now);
        }
        // Looked at again later, the first one has not lost its place.
        assert_eq!(turns.ask(&2, asked(90)), Turn::Waits(Ahead::Nobody));
        assert_eq!(turns.ask(&3, asked(90)), Turn::Waits(Ahead::Few));
        turns.forget(&0);
        assert_eq!(next(&turns), [2]);
    }

    #[test]
    fn what_began_without_asking_counts_and_who_steps_aside_makes_room() {
        let mut turns = Turns::new(1);
        turns.tell(&7, Standing::Rotating);
        assert_eq!(turns.ask(&1, due(1)), Turn::Waits(Ahead::Nobody));
        assert!(turns.tell(&7, Standing::Aside), "for example since it fails for long");
        assert_eq!(next(&turns), [1]);
        turns.set_limit(0);
        assert!(next(&turns).is_empty());
    }

    #[test]
    fn five_thousand_at_once_are_through_in_the_order_of_their_due_times() {
        let mut turns = Turns::new(10);
        // The first ten that ask have a turn; the others come back in any order.
        let keys: Vec<u32> = (0..5000).collect();
        for key in keys.iter().rev() {
            turns.ask(key, due(i64::from(*key)));
        }
        let mut done = Vec::new();
        let mut going: Vec<u32> = keys[4990..].to_vec();
        while let Some(key) = going.pop() {
            assert!(turns.rotating.len() <= 10);
            done.push(key);
            assert!(turns.tell(&key, Standing::Aside));
            for next in next(&turns) {
                assert_eq!(turns.ask(&next, due(i64::from(next))), Turn::Now);
                going.push(next);
            }
        }
        assert_eq!(done.len(), 5000);
        let waited: Vec<u32> = done.iter().copied().filter(|key| *key < 4990).collect();
        assert!(waited.is_sorted(), "nobody is overtaken");
    }

    /// 5,000 keys of one policy and one account, due at once: 10 at a time, and 100 keys an hour.
    #[test]
    fn a_herd_goes_at_the_accounts_pace_and_only_those_with_a_turn_try() {
        const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let mut turns = Turns::new(10);
        let (mut made, mut slots, mut all) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut tries = 0;
        let mut events: BTreeSet<(DateTime<Utc>, u32)> = (0..5000).map(|key| (at(0), key)).collect();
        while let Some((now, key)) = events.pop_first() {
            if turns.ask(&key, due(i64::from(key))) != Turn::Now {
                continue;
            }
            tries += 1;
            let slot = crate::domain::budget::slot(&made, &mut slots, &key.to_string(), 100, HOUR, now);
            assert!(slots.len() <= 10, "{} wait at the account", slots.len());
            if slot > now {
                events.insert((slot, key));
                continue;
            }
            slots.remove(&key.to_string());
            crate::domain::budget::spend(&mut made, HOUR, now);
            all.push(now);
            assert!(made.len() <= 100);
            if turns.tell(&key, Standing::Aside) {
                events.extend(turns.next().map(|next| (now, *next)));
            }
        }
        assert_eq!(all.len(), 5000, "everybody had a turn");
        assert_eq!(all[4999], at(49 * 3600), "in the time that the account's limit says");
        assert!(tries <= 2 * 5000, "{tries} tries at the account");
    }

    proptest! {
        #[test]
        fn nobody_gets_a_turn_beyond_the_limit_and_whoever_waits_gets_one(
            steps in prop::collection::vec((0_u32..12, 0_i64..20, any::<bool>(), 0_u8..4), 1..200), limit in 1_usize..5,
        ) {
            let mut turns = Turns::new(limit);
            for (key, seconds, scheduled, step) in steps {
                let place = Place { scheduled, ..due(seconds) };
                match step {
                    0 | 1 => drop(turns.ask(&key, place)),
                    2 => drop(turns.tell(&key, Standing::Aside)),
                    _ => drop(turns.tell(&key, Standing::Waiting(place))),
                }
                prop_assert!(turns.rotating.len() <= limit);
                prop_assert_eq!(turns.waiting.len(), turns.places.len());
            }
            let mut rounds = 0;
            while !turns.is_empty() {
                rounds += 1;
                prop_assert!(rounds < 100, "somebody waits for ever");
                for key in turns.rotating.clone() {
                    turns.tell(&key, Standing::Aside);
                }
                for key in turns.next().copied().collect::<Vec<_>>() {
                    let place = turns.places[&key];
                    prop_assert_eq!(turns.ask(&key, place), Turn::Now);
                }
            }
        }
    }
}
