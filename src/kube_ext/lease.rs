//! Leader election over one `coordination.k8s.io/v1` Lease, after client-go's `leaderelection`.
//!
//! What it promises: [`Leadership::is_leader_at`] turns false by itself, on our own monotonic clock, when
//! the Lease was not renewed within the deadline, however silent the API server is. Another process's
//! hold is judged by how long *we* have seen it unchanged, never by its clock. Every write carries the
//! resourceVersion that was read.
//!
//! What it does not promise: that no other process ever acts at the same time (a request in flight, a
//! suspended machine, a deleted Lease and a fresh process). Safety is the ledger's compare-and-swap.

mod elector;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;

use super::clock::Clock;

pub use elector::Elector;

/// The three durations of an election. `retry_period` < `renew_deadline` < `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait after the last renewal that they saw. Whole seconds in the Lease, rounded up.
    pub duration: Duration,
    /// How long a leader trusts its last renewal; what is left of `duration` is the margin for clock
    /// drift and for calls in flight.
    pub renew_deadline: Duration,
    /// Time between two tries, of renewing as of acquiring.
    pub retry_period: Duration,
}

impl Default for Timing {
    /// The durations of client-go and the Kubernetes components: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What a Lease says, as far as the election reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Who holds it; `None` after a release.
    pub holder: Option<String>,
    /// The holder's last renewal by the holder's clock: compared for change only.
    pub renewed: Option<String>,
    /// How long the holder asks others to wait.
    pub duration: Duration,
    /// How often the Lease changed hands.
    pub transitions: i32,
}

impl From<&Lease> for LeaseView {
    fn from(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        Self {
            holder: spec.holder_identity.filter(|h| !h.is_empty()),
            renewed: spec.renew_time.map(|t| t.0.to_string()),
            duration: Duration::from_secs(
                spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
            ),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

/// What one process remembers between two looks at the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    holder: String,
    foreign: Option<(LeaseView, Duration)>,
}

impl Local {
    /// A process that has not looked yet; `holder` must belong to no other process, past or present.
    pub fn new(holder: String) -> Self {
        Self { holder, foreign: None }
    }

    /// Takes note of what the Lease says at `now`. A Lease that is gone does not end the wait for a
    /// holder that was seen alive: that one will write it again.
    pub fn observe(&mut self, view: Option<&LeaseView>, now: Duration) {
        let Some(view) = view else { return };
        match &view.holder {
            Some(holder) if *holder != self.holder => {
                if self.foreign.as_ref().is_none_or(|(seen, _)| seen != view) {
                    self.foreign = Some((view.clone(), now));
                }
            }
            _ => self.foreign = None,
        }
    }

    /// When the last seen foreign hold ends, on our monotonic clock.
    fn free_at(&self, timing: &Timing) -> Option<Duration> {
        self.foreign.as_ref().map(|(view, since)| *since + view.duration.max(timing.duration))
    }
}

/// What to do next about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is none, and nobody is known to hold it: POST.
    Create,
    /// Nobody holds it, or its holder was silent for too long: PUT our name.
    Acquire,
    /// It is ours: PUT a new time.
    Renew,
    /// Another process holds it: look again after this time.
    Wait(Duration),
}

/// Decides from the Lease as just read (`None` = there is none), what was [observed](Local::observe)
/// including this look, and our monotonic clock.
pub fn decide(view: Option<&LeaseView>, local: &Local, timing: &Timing, now: Duration) -> Action {
    let held_for = local.free_at(timing).map_or(Duration::ZERO, |end| end.saturating_sub(now));
    match view.map(|v| v.holder.as_deref()) {
        Some(None) => Action::Acquire,
        Some(Some(holder)) if holder == local.holder => Action::Renew,
        _ if held_for > Duration::ZERO => Action::Wait(held_for.min(timing.retry_period)),
        Some(Some(_)) => Action::Acquire,
        None => Action::Create,
    }
}

/// Until when this process leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    until: Option<Duration>,
}

impl Leadership {
    /// For a process that runs without an election: leads always.
    pub const ALWAYS: Self = Self { until: Some(Duration::MAX) };

    /// Whether this process leads at `monotonic`. Ask again before every effect.
    pub fn is_leader_at(self, monotonic: Duration) -> bool {
        self.until.is_some_and(|until| monotonic < until)
    }
}

/// The guard that effects ask; cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaderGuard {
    leadership: watch::Receiver<Leadership>,
    clock: Clock,
}

impl LeaderGuard {
    /// Asks an election's receiver by the same clock as the [`Elector`].
    pub fn new(leadership: watch::Receiver<Leadership>, clock: Clock) -> Self {
        Self { leadership, clock }
    }

    /// Whether this process leads now.
    pub fn is_leader(&self) -> bool {
        self.leadership.borrow().is_leader_at(self.clock.monotonic())
    }

    /// Returns once this process leads, or false if the election has ended.
    pub async fn acquired(&mut self) -> bool {
        let clock = self.clock;
        self.leadership.wait_for(|l| l.is_leader_at(clock.monotonic())).await.is_ok()
    }

    /// Returns once this process no longer leads.
    pub async fn lost(&mut self) {
        let clock = self.clock;
        // An error means that the election has ended, and with it the leadership.
        drop(self.leadership.wait_for(|l| !l.is_leader_at(clock.monotonic())).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn held(holder: &str, renewed: u64, duration: u64) -> LeaseView {
        LeaseView {
            holder: Some(holder.to_owned()),
            renewed: Some(renewed.to_string()),
            duration: s(duration),
            transitions: 1,
        }
    }

    fn released() -> LeaseView {
        LeaseView { holder: None, renewed: Some("9".to_owned()), duration: s(15), transitions: 1 }
    }

    /// What was seen, and at which second.
    type Looks = Vec<(u64, Option<LeaseView>)>;

    /// Each case is a sequence of looks and the action after the last of them.
    #[test]
    fn decides_from_what_was_seen_and_our_clock() {
        let cases: Vec<(&str, Looks, Action)> = vec![
            ("no Lease", vec![(0, None)], Action::Create),
            ("released", vec![(0, Some(released()))], Action::Acquire),
            ("ours", vec![(0, Some(held("me", 1, 15)))], Action::Renew),
            ("foreign, first look", vec![(100, Some(held("other", 1, 15)))], Action::Wait(s(2))),
            (
                "foreign, unchanged, not yet over",
                vec![(100, Some(held("other", 1, 15))), (114, Some(held("other", 1, 15)))],
                Action::Wait(s(1)),
            ),
            (
                "foreign, unchanged for its duration",
                vec![(100, Some(held("other", 1, 15))), (115, Some(held("other", 1, 15)))],
                Action::Acquire,
            ),
            (
                "foreign, renewed in between",
                vec![(100, Some(held("other", 1, 15))), (115, Some(held("other", 2, 15)))],
                Action::Wait(s(2)),
            ),
            (
                "foreign, asks for longer than we do",
                vec![(100, Some(held("other", 1, 60))), (130, Some(held("other", 1, 60)))],
                Action::Wait(s(2)),
            ),
            (
                "foreign, asks for no time at all",
                vec![(100, Some(held("other", 1, 0))), (101, Some(held("other", 1, 0)))],
                Action::Wait(s(2)),
            ),
            (
                "Lease deleted under a live holder",
                vec![(100, Some(held("other", 1, 15))), (103, None)],
                Action::Wait(s(2)),
            ),
            (
                "Lease deleted, holder never came back",
                vec![(100, Some(held("other", 1, 15))), (103, None), (115, None)],
                Action::Create,
            ),
            (
                "released after a foreign hold",
                vec![(100, Some(held("other", 1, 15))), (101, Some(released()))],
                Action::Acquire,
            ),
            (
                "released, then deleted",
                vec![(100, Some(held("other", 1, 15))), (101, Some(released())), (102, None)],
                Action::Create,
            ),
            (
                "a third process in between",
                vec![(100, Some(held("other", 1, 15))), (115, Some(held("third", 1, 15)))],
                Action::Wait(s(2)),
            ),
        ];
        for (name, looks, expected) in cases {
            let mut local = Local::new("me".to_owned());
            let mut action = None;
            for (at, view) in &looks {
                local.observe(view.as_ref(), s(*at));
                action = Some(decide(view.as_ref(), &local, &TIMING, s(*at)));
            }
            assert_eq!(action, Some(expected), "{name}");
        }
    }

    #[test]
    fn leadership_ends_by_the_clock_alone() {
        let leadership = Leadership { until: Some(s(10)) };
        assert!(leadership.is_leader_at(s(9)));
        assert!(!leadership.is_leader_at(s(10)));
        assert!(!Leadership::default().is_leader_at(Duration::ZERO));
        assert!(Leadership::ALWAYS.is_leader_at(s(u64::from(u32::MAX))));
    }
}
