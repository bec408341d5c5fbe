//! Work by name: first come, first served, a name at most once at a time, and again when its own time comes.
//!
//! kube-runtime's runner takes waiting objects out of a hash set, in the set's order: while there is more work than
//! workers, some are not looked at for as long as that lasts. And it polls every reconcile that waits whenever one goes on,
//! so that it cannot be made to hold many. The order here is that of a queue, and what waits costs nothing.
//!
//! Names stand in lanes, and each lane has workers of its own: a provider that answers nobody keeps the keys of that
//! provider waiting, and no others.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream, StreamExt};

use crate::kube_ext::clock::Clock;

/// Names that share workers.
#[derive(Debug)]
struct Lane<K> {
    /// Whose turn it is, with the place in the order of all lanes.
    ready: VecDeque<(u64, K)>,
    busy: usize,
}

/// What waits, what is due when, and what is being worked on. Times are those of a monotonic clock.
#[derive(Debug)]
pub struct Queue<K, L> {
    /// Workers of each lane.
    workers: usize,
    /// Lanes with a name that waits or is being worked on.
    lanes: HashMap<L, Lane<K>>,
    /// Time and number, by which equal times are told apart.
    due: BTreeMap<(Duration, u64), K>,
    /// Where each name stands in `due`.
    times: HashMap<K, (Duration, u64)>,
    waiting: HashSet<K>,
    /// Names that are being worked on, and in which lane.
    busy: HashMap<K, L>,
    count: u64,
}

impl<K: Clone + Eq + Hash, L: Clone + Eq + Hash> Queue<K, L> {
    /// Nothing waits.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            lanes: HashMap::new(),
            due: BTreeMap::new(),
            times: HashMap::new(),
            waiting: HashSet::new(),
            busy: HashMap::new(),
            count: 0,
        }
    }

    /// The name is to be worked on at `at`, unless that is so earlier anyway.
    pub fn ask(&mut self, name: K, at: Duration) {
        if self.waiting.contains(&name) {
            return;
        }
        if let Some(known) = self.times.get(&name) {
            if known.0 <= at {
                return;
            }
            self.due.remove(known);
        }
        self.count += 1;
        let place = (at, self.count);
        self.times.insert(name.clone(), place);
        self.due.insert(place, name);
    }

    /// The next name whose turn it is and whose lane has a worker left. It is busy until [`Queue::done`]; asked for meanwhile,
    /// it waits for that.
    pub fn take(&mut self, now: Duration, lane_of: impl Fn(&K) -> L) -> Option<K> {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let name = entry.remove();
            self.times.remove(&name);
            self.waiting.insert(name.clone());
            self.count += 1;
            let lane = self.lanes.entry(lane_of(&name));
            let lane = lane.or_insert_with(|| Lane { ready: VecDeque::new(), busy: 0 });
            lane.ready.push_back((self.count, name));
        }
        let (busy, workers) = (&self.busy, self.workers);
        let next = |lane: &Lane<K>| lane.ready.iter().position(|(_, name)| !busy.contains_key(name));
        let free = self.lanes.iter().filter(|(_, lane)| lane.busy < workers);
        let first = free.filter_map(|(of, lane)| {
            let place = next(lane)?;
            Some((lane.ready[place].0, place, of.clone()))
        });
        let (_, place, of) = first.min_by_key(|(order, ..)| *order)?;
        let lane = self.lanes.get_mut(&of)?;
        let (_, name) = lane.ready.remove(place)?;
        lane.busy += 1;
        self.waiting.remove(&name);
        self.busy.insert(name.clone(), of);
        Some(name)
    }

    /// The work on a name has ended.
    pub fn done(&mut self, name: &K) {
        let Some(of) = self.busy.remove(name) else { return };
        if let Some(lane) = self.lanes.get_mut(&of) {
            lane.busy -= 1;
            if lane.busy == 0 && lane.ready.is_empty() {
                self.lanes.remove(&of);
            }
        }
    }

    /// When the next name is due that is not so yet.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Works through the names that arrive, `workers` of a lane at a time, until they end and what was begun is done. `work` says
/// after how long a name is to be worked on again, if that is known. A name that arrives waits for `debounce`: what comes
/// meanwhile is the same work.
pub async fn run<K, L, F>(
    names: impl Stream<Item = K>,
    lane_of: impl Fn(&K) -> L,
    workers: usize,
    debounce: Duration,
    clock: Clock,
    mut work: impl FnMut(K) -> F,
) where
    K: Clone + Eq + Hash,
    L: Clone + Eq + Hash,
    F: Future<Output = Option<Duration>>,
{
    let mut names = pin!(names.fuse());
    let mut queue: Queue<K, L> = Queue::new(workers);
    let mut working = FuturesUnordered::new();
    let mut ended = false;
    while !(ended && working.is_empty()) {
        while !ended && let Some(name) = queue.take(clock.monotonic(), &lane_of) {
            let work = work(name.clone());
            working.push(async move { (name, work.await) });
        }
        let next = queue.next_due().filter(|_| !ended).map(|at| at.saturating_sub(clock.monotonic()));
        let timer = async {
            match next {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = names.next(), if !ended => match name {
                Some(name) => queue.ask(name, clock.monotonic() + debounce),
                None => ended = true,
            },
            Some((name, again)) = working.next(), if !working.is_empty() => {
                queue.done(&name);
                if let Some(wait) = again {
                    queue.ask(name, clock.monotonic() + wait);
                }
            }
            () = timer => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// The lane is the first letter.
    fn lane(name: &&'static str) -> Option<char> {
        name.chars().next()
    }

    fn taken<L: Clone + Eq + Hash>(
        queue: &mut Queue<&'static str, L>,
        now: u64,
        lane_of: fn(&&'static str) -> L,
    ) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.take(seconds(now), lane_of)).collect()
    }

    fn queue() -> Queue<&'static str, ()> {
        Queue::new(10)
    }

    #[test]
    fn first_come_first_served_and_each_only_once() {
        let mut queue = queue();
        for name in ["b", "a", "c", "a", "b"] {
            queue.ask(name, seconds(1));
        }
        assert_eq!(taken(&mut queue, 0, |_| ()), Vec::<&str>::new());
        assert_eq!((queue.next_due(), taken(&mut queue, 1, |_| ())), (Some(seconds(1)), vec!["b", "a", "c"]));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn the_earliest_time_counts() {
        let mut queue = queue();
        queue.ask("a", seconds(9));
        queue.ask("a", seconds(5));
        queue.ask("a", seconds(7));
        assert_eq!((queue.next_due(), taken(&mut queue, 4, |_| ())), (Some(seconds(5)), vec![]));
        assert_eq!(taken(&mut queue, 5, |_| ()), ["a"]);
        queue.done(&"a");
        assert_eq!(taken(&mut queue, 100, |_| ()), Vec::<&str>::new(), "the other times are forgotten");
    }

    #[test]
    fn a_busy_name_waits_for_its_end_and_holds_up_no_other() {
        let mut queue = queue();
        queue.ask("a", seconds(1));
        assert_eq!(queue.take(seconds(1), |_| ()), Some("a"));
        queue.ask("a", seconds(1));
        queue.ask("b", seconds(2));
        assert_eq!(taken(&mut queue, 2, |_| ()), ["b"]);
        queue.done(&"a");
        assert_eq!(taken(&mut queue, 2, |_| ()), ["a"]);
    }

    #[test]
    fn who_comes_back_at_once_stands_at_the_end() {
        let mut queue = queue();
        for name in ["a", "b", "c"] {
            queue.ask(name, seconds(0));
        }
        let mut order = Vec::new();
        for now in 1..=6 {
            let name = queue.take(seconds(now), |_| ()).unwrap();
            order.push(name);
            queue.done(&name);
            queue.ask(name, seconds(now));
        }
        assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn a_lane_whose_workers_all_wait_holds_up_no_other() {
        let mut queue = Queue::new(2);
        for name in ["a1", "a2", "a3", "b1", "a4", "b2", "b3"] {
            queue.ask(name, seconds(0));
        }
        assert_eq!(taken(&mut queue, 0, lane), ["a1", "a2", "b1", "b2"]);
        queue.done(&"b1");
        assert_eq!(taken(&mut queue, 0, lane), ["b3"], "nothing of a has ended");
        queue.done(&"a2");
        queue.done(&"a1");
        assert_eq!(taken(&mut queue, 0, lane), ["a3", "a4"]);
        for name in ["a3", "a4", "b2", "b3"] {
            queue.done(&name);
        }
        assert!(queue.lanes.is_empty(), "a lane is known only while somebody stands in it");
    }

    #[test]
    fn a_name_that_changed_its_lane_while_it_was_busy_leaves_the_one_that_it_was_in() {
        let mut queue = Queue::new(1);
        queue.ask("a", seconds(0));
        assert_eq!(queue.take(seconds(0), |_| 1), Some("a"));
        queue.ask("a", seconds(0));
        queue.ask("b", seconds(0));
        assert_eq!(queue.take(seconds(0), |_| 2), Some("b"), "a is busy");
        queue.done(&"a");
        queue.done(&"b");
        assert_eq!(queue.take(seconds(0), |_| 1), Some("a"));
        queue.done(&"a");
        assert!(queue.lanes.is_empty());
    }

    #[tokio::test]
    async fn no_more_at_a_time_than_allowed_and_what_was_begun_ends() {
        let (at_once, most, runs) =
            (std::cell::Cell::new(0), std::cell::Cell::new(0), std::cell::Cell::new(0));
        let names = futures::stream::iter((0..20).chain(0..20)).then(|n| async move {
            tokio::task::yield_now().await;
            n
        });
        run(
            names.chain(futures::stream::once(async {
                while runs.get() < 20 {
                    tokio::task::yield_now().await;
                }
                0
            })),
            |_| (),
            3,
            Duration::ZERO,
            Clock::start(),
            |_| async {
                at_once.set(at_once.get() + 1);
                most.set(most.get().max(at_once.get()));
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                at_once.set(at_once.get() - 1);
                runs.set(runs.get() + 1);
                None
            },
        )
        .await;
        assert!(most.get() == 3 && runs.get() >= 20 && at_once.get() == 0, "{} {}", most.get(), runs.get());
    }
}
