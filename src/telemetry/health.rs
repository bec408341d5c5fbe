//! What `/readyz` and `/healthz` answer: gates that open once, and loops that must keep turning.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::kube_ext::clock::Clock;

/// Readiness and liveness of this process; cheap to clone.
///
/// Ready means that every gate is open: the caches are synced. Leading is no part of it, so that a
/// rolling update of several replicas comes to an end. Alive means that every loop has turned lately.
#[derive(Clone, Debug)]
pub struct Health {
    clock: Clock,
    parts: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    gates: BTreeMap<&'static str, bool>,
    pulses: BTreeMap<&'static str, Beat>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    last: Duration,
    limit: Duration,
}

/// One condition of readiness, closed at first.
#[derive(Clone, Debug)]
pub struct Gate {
    name: &'static str,
    health: Health,
}

/// One loop that must keep turning.
#[derive(Clone, Debug)]
pub struct Pulse {
    name: &'static str,
    health: Health,
}

impl Health {
    /// No gates, no loops: ready and alive.
    pub fn new(clock: Clock) -> Self {
        Self { clock, parts: Arc::default() }
    }

    /// Adds a closed gate. The same name twice is the same gate.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.lock().gates.entry(name).or_insert(false);
        Gate { name, health: self.clone() }
    }

    /// Adds a loop that counts as stuck when it has not [beaten](Pulse::beat) for `limit`.
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        let last = self.clock.monotonic();
        self.lock().pulses.insert(name, Beat { last, limit });
        Pulse { name, health: self.clone() }
    }

    /// The gates that are closed; ready if there are none.
    pub fn closed_gates(&self) -> Vec<&'static str> {
        self.lock().gates.iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }

    /// The loops that are stuck; alive if there are none.
    pub fn stuck_loops(&self) -> Vec<&'static str> {
        let now = self.clock.monotonic();
        let parts = self.lock();
        let stuck = parts.pulses.iter().filter(|(_, beat)| now.saturating_sub(beat.last) > beat.limit);
        stuck.map(|(name, _)| *name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.health.lock().gates.insert(self.name, true);
    }

    /// Closes it again.
    pub fn close(&self) {
        self.health.lock().gates.insert(self.name, false);
    }
}

impl Pulse {
    /// Says that the loop has turned.
    pub fn beat(&self) {
        let now = self.health.clock.monotonic();
        if let Some(beat) = self.health.lock().pulses.get_mut(self.name) {
            beat.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_every_gate_is_open() {
        let health = Health::new(Clock::start());
        assert!(health.closed_gates().is_empty());
        let (keys, policies) = (health.gate("keys"), health.gate("policies"));
        keys.open();
        assert_eq!(health.closed_gates(), ["policies"]);
        policies.open();
        assert!(health.closed_gates().is_empty());
        keys.close();
        assert_eq!(health.closed_gates(), ["keys"]);
    }

    #[test]
    fn is_alive_while_every_loop_turns() {
        let health = Health::new(Clock::start());
        let _slow = health.pulse("slow", Duration::from_secs(3600));
        let stuck = health.pulse("stuck", Duration::ZERO);
        assert_eq!(health.stuck_loops(), ["stuck"]);
        stuck.beat();
        health.pulse("stuck", Duration::from_secs(3600));
        assert!(health.stuck_loops().is_empty());
    }
}
