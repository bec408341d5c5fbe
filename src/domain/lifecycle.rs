//! Version states and the only legal moves between them.
//!
//! A version is one act of publishing; a key is its bytes at the provider. Several versions may point to one key.

use serde::{Deserialize, Serialize};

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VersionState {
    /// L1: the name of a key to be minted is on record, and where we choose keys the key as well; it may exist or not.
    Intent,
    /// L2: the key is sealed in the record and not yet delivered.
    Pending,
    /// Delivery is under way. If the target carries the key, the version is current, and the next write says so.
    Publishing,
    /// L3: workloads mount it.
    Current,
    /// Superseded; the key still works.
    Overlap,
    /// L4: the key is being revoked. It is never published again.
    Retiring,
    /// L5: the provider has confirmed that the key no longer works.
    Revoked,
    /// Superseded; the key is not the operator's to revoke.
    Retained,
    /// Given up before it was delivered, with no key left behind.
    Abandoned,
    /// Superseded; a newer version was made with its key and answers for it.
    Republished,
    /// Made, checked and kept back: the next rotation delivers it.
    Spare,
}

impl VersionState {
    /// The state as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent | Self::Pending => "Pending",
            Self::Publishing => "Publishing",
            Self::Current => "Current",
            Self::Overlap => "Overlap",
            Self::Retiring => "Retiring",
            Self::Revoked => "Revoked",
            Self::Retained => "Retained",
            Self::Abandoned => "Abandoned",
            Self::Republished => "Republished",
            Self::Spare => "Spare",
        }
    }

    /// The only legal moves. Everything else is a fault of the program and is refused by the ledger.
    pub const fn may_become(self, next: Self) -> bool {
        use VersionState::{
            Abandoned, Current, Intent, Overlap, Pending, Publishing, Republished, Retained, Retiring,
            Revoked, Spare,
        };
        matches!(
            (self, next),
            (Intent, Pending | Retiring | Abandoned)
                | (Pending, Publishing | Current | Retiring | Abandoned | Spare)
                | (Publishing, Current | Overlap | Retained | Retiring | Abandoned | Republished)
                | (Current, Overlap | Retained | Retiring | Republished)
                | (Overlap, Retiring | Retained | Republished)
                | (Retained, Republished)
                | (Retiring, Revoked)
                // It is taken into use as any key that is sealed and not yet delivered. Where an older ledger was put back, it may
                // have been delivered since.
                | (Spare, Pending | Retiring | Overlap)
        )
    }

    /// The version is on its way to workloads.
    pub const fn in_flight(self) -> bool {
        matches!(self, Self::Intent | Self::Pending | Self::Publishing)
    }

    /// A key that such a version points to must not be revoked (rule 1 of the design).
    pub const fn protects_key(self) -> bool {
        matches!(self, Self::Pending | Self::Publishing | Self::Current | Self::Overlap | Self::Spare)
    }

    /// The key may still work at the provider, and this version answers for it.
    pub const fn key_may_work(self) -> bool {
        !matches!(self, Self::Revoked | Self::Abandoned | Self::Republished)
    }

    /// Something remains to be done for it.
    pub const fn open(self) -> bool {
        matches!(self, Self::Intent | Self::Pending | Self::Publishing | Self::Overlap | Self::Retiring)
    }
}

/// Where a version's key came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// A person supplied it.
    Supplied,
    /// The operator created it at the provider.
    Minted,
}

impl Origin {
    /// The origin as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Supplied => "Supplied",
            Self::Minted => "Minted",
        }
    }
}

/// Why a version was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RotationReason {
    /// The first one.
    Initial,
    /// The schedule.
    Schedule,
    /// The annotation `llmkeys.dev/rotate`.
    Requested,
    /// A person supplied another value.
    SourceChanged,
    /// The one before cannot be used any more.
    Replaced,
    /// The provider refuses the one before.
    Invalid,
    /// The one before has used what the policy lets a key use.
    Usage,
    /// The one before stands in `spec.revokedVersions`.
    BreakGlass,
    /// `spec.pinnedVersion`: the key of an older version once more.
    Pinned,
    /// To be kept ready. A rotation that takes it gives it its own reason.
    Spare,
}

impl RotationReason {
    /// The reason as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "Initial",
            Self::Schedule => "Schedule",
            Self::Requested => "Requested",
            Self::SourceChanged => "SourceChanged",
            Self::Replaced => "Replaced",
            Self::Invalid => "Invalid",
            Self::Usage => "Usage",
            Self::BreakGlass => "BreakGlass",
            Self::Pinned => "Pinned",
            Self::Spare => "Spare",
        }
    }
}

/// What a revocation rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RevocationBasis {
    /// The provider had not seen the key for the policy's `quietFor`.
    ProviderQuiet,
    /// The policy's `overlap.minimum` is over, and the policy asks for no quiet.
    MinimumElapsed,
    /// Every pod that uses the Secret was newer.
    ConsumersProven,
    /// Every pod that uses the Secret was newer, or said that it reads the file anew.
    Presumed,
    /// The policy's `overlap.maximum` was over, and `onStuck` is `Revoke`.
    MaximumReached,
    /// A person asked for it, or deleted the resource.
    Explicit,
    /// The key was never delivered to anybody.
    NeverPublished,
}

impl RevocationBasis {
    /// The basis as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderQuiet => "ProviderQuiet",
            Self::MinimumElapsed => "MinimumElapsed",
            Self::ConsumersProven => "ConsumersProven",
            Self::Presumed => "Presumed",
            Self::MaximumReached => "MaximumReached",
            Self::Explicit => "Explicit",
            Self::NeverPublished => "NeverPublished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VersionState::{self, *};

    const ALL: [VersionState; 11] = [
        Intent,
        Pending,
        Publishing,
        Current,
        Overlap,
        Retiring,
        Revoked,
        Retained,
        Abandoned,
        Republished,
        Spare,
    ];

    #[test]
    fn a_spare_is_protected_and_waits_for_nothing() {
        assert!(Spare.protects_key() && Spare.key_may_work());
        assert!(!Spare.in_flight() && !Spare.open());
        for to in [Publishing, Current, Abandoned, Retained] {
            assert!(!Spare.may_become(to), "{to:?}: what it is taken for is on record first");
        }
    }

    #[test]
    fn a_key_on_its_way_out_never_comes_back() {
        for from in [Retiring, Revoked, Republished] {
            for to in ALL.into_iter().filter(|s| s.protects_key()) {
                assert!(!from.may_become(to), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn only_a_retiring_version_is_ever_called_revoked() {
        for from in ALL {
            assert_eq!(from.may_become(Revoked), from == Retiring, "{from:?}");
        }
    }

    #[test]
    fn every_state_but_the_last_ones_leads_on() {
        for from in ALL {
            let leads_on = ALL.into_iter().any(|to| from.may_become(to));
            assert_eq!(leads_on, !matches!(from, Revoked | Abandoned | Republished), "{from:?}");
        }
    }
}
