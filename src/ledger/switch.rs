//! Keys that are switched off at the provider, and on again.

use serde::{Deserialize, Serialize};

use super::record::{Record, Version};
use crate::domain::lifecycle::{Origin, VersionState};

/// How a version's key stands that a person wants switched off, or on again. Each call is preceded by its wish, and followed by
/// its end. A key that was never switched off has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Switch {
    /// To be switched off: it may be off or on.
    TurningOff,
    /// The provider has said that it is off.
    Off,
    /// To be switched on: it may be off or on.
    TurningOn,
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Extent {
    /// Every one, for certain.
    All,
    /// Some, or it is not certain.
    Some,
}

impl Record {
    /// Versions whose keys can be switched: known by an id, neither gone nor going, and not on their way to workloads: a key that is off
    /// would be taken for one that never worked. A supplied key that was superseded is left to its owner, unless it was switched here.
    pub fn switchable(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|v| {
            let going = matches!(v.state, VersionState::Intent | VersionState::Retiring)
                || v.state == VersionState::Pending && v.switch.is_none();
            let ours = v.origin == Origin::Minted || v.state.protects_key() || v.switch.is_some();
            ours && v.state.key_may_work() && !going && v.provider_key_id.is_some()
        })
    }

    /// How many of these keys are off, or may be; none where every one is on.
    pub fn switched_off(&self) -> Option<Extent> {
        let all = self.switchable().all(|v| v.switch == Some(Switch::Off));
        self.switchable().any(|v| v.switch.is_some()).then_some(if all { Extent::All } else { Extent::Some })
    }
}
