//! What must hold in a state, and where every run without further faults must end.

use super::actions::Machine;
use super::parts::{Place, Replica};
use super::space::{Budget, NONE, State};
use crate::api::DesiredState;
use crate::controller::llm_key::world::World;
use crate::domain::lifecycle::VersionState;

/// The properties, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Nothing is lost.
    I2,
    /// Keys are bounded.
    I3,
    /// No early revocation.
    I4,
    /// No way back.
    I7,
    /// One cause for each call.
    I9,
    /// Legal moves, others' objects untouched, no plan without end.
    Rules,
    /// Every state leads to the goal without further faults.
    Goal,
}

impl Property {
    /// All.
    pub const ALL: [Self; 7] = [Self::I2, Self::I3, Self::I4, Self::I7, Self::I9, Self::Rules, Self::Goal];

    /// The property that a sentence of the world speaks of.
    pub fn of(broken: &str) -> Self {
        let named = [
            ("I2", Self::I2),
            ("I3", Self::I3),
            ("I4", Self::I4),
            ("I7", Self::I7),
            ("I9", Self::I9),
            ("Goal", Self::Goal),
        ];
        named
            .into_iter()
            .find(|(name, _)| broken.starts_with(name))
            .map_or(Self::Rules, |(_, property)| property)
    }

    /// In words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::I2 => "I2   no key is lost: each one is in the ledger or found by its name",
            Self::I3 => "I3   at most three keys live and the spare, and one more for each fault",
            Self::I4 => "I4   a key is revoked only when it is out of use, or on a person's word",
            Self::I7 => "I7   a retired key is never delivered again, versions never go back",
            Self::I9 => "I9   each mint and each revocation stands in the ledger before it happens",
            Self::Rules => "move only legal moves, and nobody else's objects",
            Self::Goal => "goal every state comes to its end without further faults",
        }
    }
}

impl Machine {
    /// What must hold in every state, beside what each step was judged by.
    pub fn judge(&self, state: &State, whole: Budget) -> Option<String> {
        let outline = self.space.outline(state.place);
        let spent = whole.faults() - state.left.faults();
        if outline.live > 3 + self.rules.spares() + spent {
            return Some(format!("I3: {} keys live after {spent} faults", outline.live));
        }
        let held = |r: &u32| *r != NONE && self.space.posture(*r).holds_key;
        if outline.orphaned && !state.replicas.iter().any(held) {
            return Some("I2: a key lives, and there is no ledger that could find it".to_owned());
        }
        None
    }

    /// Whether a state in which nothing is left to do is the goal.
    pub fn rests_well(&self, state: &State) -> Result<(), String> {
        let place = self.space.places.get(state.place);
        if state
            .replicas
            .iter()
            .any(|r| *r != NONE && matches!(self.space.replicas.get(*r), Replica::Working(_)))
        {
            return Err("Goal: a replica is held up for ever".to_owned());
        }
        place
            .converged(self.rules.spares())
            .map_err(|what| format!("Goal: nothing is left to do, and {what}"))
    }
}

impl Place {
    /// Whether everything is as the LLMKey asks for.
    fn converged(&self, spares: u8) -> Result<(), String> {
        let Some(key) = self.key.as_ref().map(|key| &key.value) else {
            return match (&self.ledger, &self.target, self.live()) {
                (None, None, 0) => Ok(()),
                (ledger, target, live) => Err(format!(
                    "the LLMKey is gone, but ledger: {}, target: {}, live keys: {live}",
                    ledger.is_some(),
                    target.is_some()
                )),
            };
        };
        let wanted = key.spec.desired_state != DesiredState::Revoked;
        let status = key.status.as_ref().ok_or("there is no status")?;
        let ready = status
            .conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .map(|c| (c.status.as_str(), c.reason.as_str()));
        let Some(ledger) = &self.ledger else {
            return if !wanted && self.live() == 0 && self.target.is_none() {
                Ok(())
            } else {
                Err("there is no ledger".into())
            };
        };
        let record = &ledger.record;
        if let Some(open) = record.versions.iter().find(|v| v.state.open()) {
            return Err(format!("version {} is {:?}", open.version, open.state));
        }
        // A copy that the provider made of a request is found by the next search by name.
        let held = |id: &str| {
            record.versions.iter().any(|v| v.provider_key_id.as_deref() == Some(id) && v.state.key_may_work())
        };
        let kept = self.keys.iter().filter(|k| k.revoked.is_none() && held(&k.id)).count();
        let finalizer = key.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
        let current = record.delivered().filter(|v| v.state == VersionState::Current);
        let carried = current.and_then(|v| World::bytes_of(record, v.version));
        match (wanted, current, &self.target) {
            (true, Some(_), Some(target)) if carried.as_ref() == Some(&target.bytes) => {}
            (true, ..) => return Err("the target does not hold a current version".into()),
            (false, None, None) => {}
            (false, ..) => return Err("a key is delivered that is to be revoked".into()),
        }
        let spare = record.versions.iter().filter(|v| v.state == VersionState::Spare).count();
        if wanted && spare != usize::from(spares) {
            return Err(format!("{spare} spares are ready, not {spares}"));
        }
        let expected = usize::from(wanted) + spare;
        if kept != expected {
            return Err(format!("{kept} keys of the ledger live, not {expected}"));
        }
        if finalizer != wanted {
            return Err(format!("finalizer: {finalizer}"));
        }
        let told = if wanted { ("True", "KeyValid") } else { ("False", "Revoked") };
        if ready != Some(told) {
            return Err(format!("status tells {ready:?}"));
        }
        let asked = key.metadata.annotations.as_ref().and_then(|a| a.get(crate::api::ROTATE));
        if wanted && asked.is_some() && asked != record.handled_rotate.as_ref() {
            return Err("the rotation that was asked for was not begun".into());
        }
        Ok(())
    }

    /// Live keys. What a slot has and no version points to, is known to nobody.
    pub fn live(&self) -> usize {
        let live = self.keys.iter().filter(|key| key.revoked.is_none()).count();
        if self.slots.is_empty() { live } else { live - self.strays() }
    }

    /// Live keys that no version points to: they are found when the account is searched next.
    pub fn strays(&self) -> usize {
        let versions = self.ledger.iter().flat_map(|l| &l.record.versions);
        let ids: Vec<&str> = versions.filter_map(|v| v.provider_key_id.as_deref()).collect();
        self.keys.iter().filter(|key| key.revoked.is_none() && !ids.contains(&key.id.as_str())).count()
    }
}
