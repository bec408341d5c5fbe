//! Conditions: all known types from the first write, transitions kept.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::time::to_k8s;

/// Longest message that a condition carries, in characters; the API's own bound is 32,768.
const MAX_MESSAGE: usize = 1024;

/// The condition types of an `LLMKey`. Policies and providers use `Ready`, `Reconciling` and `Stalled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The key that workloads mount works, as far as the last conclusive answer tells.
    Ready,
    /// A user who waits should go on waiting.
    Reconciling,
    /// Nothing goes on until a person acts.
    Stalled,
    /// What the provider says of the published key now.
    Healthy,
    /// A rotation is due and has not started.
    RotationDue,
    /// Every workload that uses the Secret has the current version.
    ConsumersCurrent,
    /// An older key still works beside the current one.
    OverlapActive,
}

impl ConditionType {
    /// Every type, in the order in which they stand in the status.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::Healthy,
        Self::RotationDue,
        Self::ConsumersCurrent,
        Self::OverlapActive,
    ];

    /// The type as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Healthy => "Healthy",
            Self::RotationDue => "RotationDue",
            Self::ConsumersCurrent => "ConsumersCurrent",
            Self::OverlapActive => "OverlapActive",
        }
    }
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known, or not yet.
    Unknown,
}

impl ConditionStatus {
    /// The status as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The list under construction: starts from what is stored, so that unchanged conditions keep their transition time.
#[derive(Clone, Debug)]
pub struct Conditions {
    previous: Vec<Condition>,
    built: Vec<Condition>,
    generation: i64,
    now: DateTime<Utc>,
}

impl Conditions {
    /// Begins a list for one write at `now`.
    pub fn new(previous: &[Condition], generation: i64, now: DateTime<Utc>) -> Self {
        Self { previous: previous.to_vec(), built: Vec::new(), generation, now }
    }

    /// Sets one condition; the last call for a type wins.
    pub fn set(&mut self, kind: ConditionType, status: ConditionStatus, reason: Reason, message: &str) {
        let type_ = kind.as_str();
        let before = self.previous.iter().find(|c| c.type_ == type_ && c.status == status.as_str());
        let last_transition_time =
            before.map_or_else(|| to_k8s(self.now), |c| c.last_transition_time.clone());
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: Some(self.generation),
            last_transition_time,
        };
        match self.built.iter_mut().find(|c| c.type_ == type_) {
            Some(slot) => *slot = condition,
            None => self.built.push(condition),
        }
    }

    /// The finished list.
    pub fn finish(self) -> Vec<Condition> {
        self.built
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Why a condition has its status; also the reason of the event that tells of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name),+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The reason that the API spells like this.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().find(|reason| reason.as_str() == name).copied()
            }

            /// The reason as the API spells it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

reasons! {
    /// The published key was accepted by the provider.
    KeyValid,
    /// The key is published; its check is switched off or only reports.
    PublishedUnchecked,
    /// The key is published, but no conclusive answer has come yet.
    NotYetValidated,
    /// The first steps are under way.
    Progressing,
    /// Nothing is under way.
    Idle,
    /// Nothing waits for a person.
    NotStalled,
    /// The provider rejected the key, and rejected it again.
    KeyInvalid,
    /// The provider rejected the key once; asked again before it is believed.
    ConfirmingRejection,
    /// The provider says that the key is switched off.
    KeyDisabled,
    /// The provider says that the key has expired.
    KeyExpired,
    /// The key works, but may not use the call that checks it.
    RestrictedScope,
    /// The key works; its account has no credit left.
    OutOfCredit,
    /// The provider throttles us.
    RateLimited,
    /// The provider cannot be reached or fails.
    ProviderDown,
    /// The provider's answer could not be understood.
    UnknownAnswer,
    /// Checks are switched off.
    ValidationDisabled,
    /// A rejected key is not published; the last good one stays.
    RejectedNotPublished,
    /// A new key is not accepted yet; it may still spread at the provider.
    WaitingForProvider,
    /// The source Secret does not exist.
    SourceNotFound,
    /// The source Secret has no such key.
    SourceKeyMissing,
    /// The source Secret is of a type that holds no API keys.
    SourceTypeRefused,
    /// The value does not look like a key of this provider.
    SourceShapeRefused,
    /// The source Secret is one that the operator writes.
    SourceIsTarget,
    /// The value was revoked by this resource and is not taken again.
    SourceWasRevoked,
    /// The `LLMProvider` does not exist.
    ProviderNotFound,
    /// The `LLMProvider` does not list this namespace.
    NamespaceNotAllowed,
    /// The `LLMProvider` has no admin credential, and this needs one.
    AdminCredentialMissing,
    /// The provider rejected the admin credential.
    AdminCredentialInvalid,
    /// The admin credential is for another host than the `LLMProvider`'s URL.
    AdminCredentialHostMismatch,
    /// The key is at another account than the `LLMProvider` names now.
    AccountChanged,
    /// The provider cannot do what the spec asks for.
    NotSupported,
    /// The `LLMProvider`'s URL is not one that may be called.
    AddressRefused,
    /// The policy does not exist.
    PolicyNotFound,
    /// The policy's schedule never comes.
    ScheduleImpossible,
    /// Another owner has the target Secret.
    TargetForeign,
    /// Another `LLMKey` delivers to the same Secret.
    TargetConflict,
    /// The target text names something that this key does not have.
    TargetTemplateInvalid,
    /// Kubernetes refused the write.
    RefusedByKubernetes,
    /// There are versions, or a target, but no ledger.
    LedgerMissing,
    /// The ledger cannot be read or is not ours.
    LedgerUnreadable,
    /// The resource as stored cannot be read.
    Malformed,
    /// No key encryption key opens the record.
    KeyringMissing,
    /// A person must supply the next key.
    SupplyNextKey,
    /// The schedule says so.
    ScheduleDue,
    /// The next key is being made.
    Rotating,
    /// Not due.
    NotDue,
    /// The policy only reminds.
    RemindOnly,
    /// A due rotation waits for the policy's next window.
    WaitingForWindow,
    /// A due rotation waits for the end of the overlap.
    OverlapActive,
    /// Rotation is paused by annotation.
    Paused,
    /// The older key still works, for the policy's minimum.
    OverlapMinimum,
    /// The older key was used a short while ago.
    StillInUse,
    /// The older key is being revoked.
    Revoking,
    /// No older key works.
    NoOverlap,
    /// Workloads are not looked at.
    NotObserved,
    /// Every pod that uses the Secret has the current version.
    AllCurrent,
    /// Every pod that uses the Secret has the current version, if some do as they say.
    PresumedCurrent,
    /// No pod uses the Secret.
    NoConsumers,
    /// Workloads that use the Secret may have the older version.
    WaitingForConsumers,
    /// A person must approve the revocation.
    WaitingForApproval,
    /// Workloads are restarted.
    WorkloadRestarted,
    /// The keys are revoked, as the spec asks.
    Revoked,
    /// The keys are switched off at the provider, as the spec asks.
    SwitchedOff,
    /// The keys are being switched off.
    SwitchingOff,
    /// The keys are being switched on again.
    SwitchingOn,
    /// The provider did not switch a key off or on.
    SwitchFailed,
    /// Which key of the account a supplied one is, is not known.
    NotMatched,
    /// The provider's API documents no way to end a key, and nobody has consented to making some all the same.
    UnrecoverableMint,
    /// The provider did not make a key.
    MintFailed,
    /// The account has no project of that name.
    ProjectNotFound,
    /// The provider takes no keys whose value the operator chose.
    CustomKeysDisabled,
    /// The provider did not revoke a key.
    RevokeFailed,
    /// The audit trail cannot be written, so nothing is done.
    AuditUnwritable,
    /// A new version is published.
    Published,
    /// A rotation is finished: the new version is published.
    Rotated,
    /// Another hand changes the target Secret again and again.
    TargetContested,
    /// The target Secret was put right.
    TargetRepaired,
    /// An older key was revoked.
    KeyRevoked,
    /// The policy's schedule works.
    ScheduleValid,
    /// The account answers.
    AccountReachable,
    /// Validation only: the account has no admin credential.
    ValidationOnly,
    /// A key that nobody's ledger knows was found and revoked.
    StrayRevoked,
    /// A reminder before the due time.
    RotationReminder,
    /// The same key is in more than one ledger.
    KeyShared,
    /// So many keys were made a short while ago that the next one waits.
    MintBudget,
    /// The account's ledger was written in another cluster.
    ClonedCluster,
    /// A ledger is older than what it tells of.
    LedgerRolledBack,
    /// Many LLMKeys of an account were deleted at once.
    MassDeletion,
    /// Many keys of an account turned invalid at once.
    ProviderSuspect,
    /// Another LLMKey has the account for itself.
    AccountLeased,
    /// Every slot of the account has a key that may be in use.
    SlotsTaken,
    /// The namespace has as many keys at the account as it may have.
    KeyLimit,
    /// A rotation has failed as often as its policy allows, or takes too long. It goes on being tried.
    RotationFailed,
    /// A due rotation is held by `spec.pinnedVersion`.
    Pinned,
    /// The version in `spec.pinnedVersion` cannot be published.
    PinImpossible,
    /// The key in use is the last of its pool.
    LastPoolMember,
    /// A spare key is made and checked.
    SpareReady,
    /// A due rotation waits for others of its policy.
    WaitingForTurn,
}
