//! What is observed. Plain data, no key material.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

pub use super::made::{Chosen, Minted, SlotView};
pub use super::plan::{Effect, Finding, Look, Plan, RestartOrder, Subject};
use super::requester::Asked;
pub use super::retry::Work;
use crate::api::{OnReplacementFailure, PoolMember, Reason, RotationMode, ValidationMode};
use crate::domain::evidence;
use crate::domain::health::Health;
use crate::domain::schedule;
use crate::domain::timings::Timings;
use crate::domain::turns::Turn;
use crate::domain::usage::{Reading, Thresholds};
use crate::ledger::{AccountRef, KeyFacts, Ledger, Record, Requester, Summary, Tenancy, Version};
use crate::provider::{MintKind, NoMatch};

/// What a decision may use besides the observation: the time and the ids, all given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Env {
    /// Now, whole seconds.
    pub now: DateTime<Utc>,
    /// Every constant of time.
    pub timings: Timings,
    /// Install id.
    pub install: String,
    /// Random, fresh for each decision: the writer's mark and the tail of a mint name.
    pub nonce: u64,
}

/// Everything that one reconcile knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// The LLMKey.
    pub key: KeyView,
    /// The policy in force.
    pub policy: PolicyView,
    /// The provider or account.
    pub provider: ProviderView,
    /// Where older keys are that are to go, if that is another LLMProvider: the LLMKey was created anew with this one.
    pub former: Option<Former>,
    /// The source Secret, for supplied keys.
    pub source: SourceView,
    /// The ledger.
    pub ledger: LedgerView,
    /// The target Secret.
    pub target: TargetView,
    /// What earlier reconciles of this process learned: hints, rebuilt after a restart.
    pub memory: Memory,
    /// What this reconcile has done so far.
    pub pass: Pass,
    /// Changes with every edit of the LLMKey, its policy or its account: what failed before waits no more.
    pub edits: String,
    /// Who put the value into the source Secret.
    pub supplied_by: Option<Requester>,
    /// Whether the policy lets another rotation begin now; none as long as nobody has asked.
    pub turn: Option<Turn>,
    /// What the provider reported of this LLMKey's keys, by their ids as ledgers have them; none before this process has read it.
    pub usage: Option<Reading>,
}

/// The LLMKey, parsed.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of the resource")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// Its namespace goes as well. Known only while it is being deleted.
    pub namespace_terminating: bool,
    /// Our finalizer is on it.
    pub finalizer: bool,
    /// The annotation that stops new rotations and revocations.
    pub paused: bool,
    /// The version whose revocation a person approves.
    pub approved: Option<i32>,
    /// The annotation that asks for a rotation.
    pub rotate: Option<String>,
    /// The key is made by the operator.
    pub minted: bool,
    /// Name of the target Secret.
    pub target_name: String,
    /// `desiredState: Revoked`.
    pub revoke_all: bool,
    /// `spec.revokedVersions`.
    pub revoked_versions: BTreeSet<i32>,
    /// `spec.expiresAt`.
    pub expires_at: Option<DateTime<Utc>>,
    /// What becomes of a listed version that cannot be replaced.
    pub on_replacement_failure: OnReplacementFailure,
    /// Workloads that use the target may be restarted.
    pub restarts: bool,
    /// Deletion leaves the keys.
    pub retain_on_delete: bool,
    /// Time between deletion and revocation.
    pub grace: Duration,
    /// How the key is checked.
    pub validation: ValidationMode,
    /// How often.
    pub interval: Duration,
    /// Rejections before a key is called bad.
    pub threshold: i32,
    /// What is wrong with `target.data`, if anything.
    pub template_problem: Option<String>,
    /// Status has versions: there was a ledger once.
    pub had_versions: bool,
    /// The greatest version number that status tells of; 0 if none.
    pub newest_shown: i32,
    /// `status.lastHandledRotate`.
    pub last_handled_rotate: Option<String>,
    /// Who asked for a rotation.
    pub asked: Asked,
    /// `spec.pinnedVersion`.
    pub pinned: Option<i32>,
    /// `desiredState: Disabled`.
    pub disable: bool,
    /// `spec.source.pool.members`; none if the source is another one.
    pub pool: Vec<PoolMember>,
    /// What status says of a due rotation of a pool: a hint, which saves reads.
    pub pool_told: Option<PoolTold>,
    /// The greatest version number that status tells of as delivered; 0 if none.
    pub published_shown: i32,
    /// The id of the delivered key, as status tells it: a hint, which saves reads.
    pub id_shown: Option<String>,
}

impl KeyView {
    /// Whether status tells of a version that the record does not know, or of the delivery of what the record takes for a spare:
    /// an older copy of the ledger was put back.
    pub fn is_newer_than(&self, record: &Record) -> bool {
        let delivered = |v: &Version| v.version <= self.published_shown;
        record.next_number() <= self.newest_shown || record.spare().is_some_and(delivered)
    }
}

/// What status says of a rotation that is due and that a pool has not served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolTold {
    /// `RotationDue`'s reason.
    pub reason: Reason,
    /// Its message.
    pub message: String,
    /// No member waits for another try: only a person, or a changed Secret, changes anything.
    pub settled: bool,
}

/// The policy in force.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent word of the policy")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyView {
    /// As status shows it.
    pub shown: Option<String>,
    /// No policy was named; the cluster's default serves.
    pub defaulted: bool,
    /// The schedule, if it works.
    pub schedule: Option<schedule::Plan>,
    /// What is wrong with it.
    pub problem: Option<(Reason, String)>,
    /// Rotate or remind.
    pub mode: RotationMode,
    /// A rotation is due so long before the key expires.
    pub expiry_before: Option<Duration>,
    /// A delivered key that is confirmed as refused is replaced.
    pub replace_invalid: bool,
    /// A delivered key that has used so much is replaced.
    pub usage: Thresholds,
    /// A rotation whose key is not delivered by then takes too long.
    pub timeout: Duration,
    /// Both keys work at least this long.
    pub overlap_minimum: Duration,
    /// Evidence is waited for so long; `revoke_when_stuck` says what happens then.
    pub overlap_maximum: Duration,
    /// The provider must not have seen the old key for this long.
    pub quiet_for: Duration,
    /// All workloads must have the current version.
    pub consumers: bool,
    /// A person must approve a revocation.
    pub manual: bool,
    /// An older key is revoked at the maximum, whatever is known of its use.
    pub revoke_when_stuck: bool,
    /// Failures in a row after which a rotation has failed.
    pub retry_attempts: u32,
    /// So many superseded keys that were not revoked stay sealed.
    pub retain_versions: usize,
    /// So long.
    pub retain_for: Duration,
    /// Keys that are kept ready, 0 or 1.
    pub spares: i32,
    /// So many rotations of its keys at the same time.
    pub max_concurrent: usize,
}

/// The provider or account.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent ability or consent")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderView {
    /// As status shows it.
    pub shown: String,
    /// What keeps it from being used.
    pub problem: Option<(Reason, String)>,
    /// The account, where there is one with a credential.
    pub account: Option<AccountRef>,
    /// Why there is none, for a spec that needs one.
    pub account_problem: Option<(Reason, String)>,
    /// It reports when a key was last used.
    pub reports_last_use: bool,
    /// It reports what each key has used.
    pub reports_usage: bool,
    /// It can switch a key off.
    pub can_disable: bool,
    /// It tells which of its keys a supplied one is.
    pub matches: bool,
    /// The `LLMProvider` consents that older supplied keys are ended like made ones.
    pub ends_supplied: bool,
    /// How it makes keys.
    pub mint: MintKind,
    /// Whether one LLMKey has the account for itself, and whether it is this one.
    pub tenancy: Tenancy,
}

/// An account that only revocation still needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Former {
    /// The LLMProvider.
    pub provider: String,
    /// Its account, or why it cannot be used.
    pub account: Result<AccountRef, (Reason, String)>,
}

/// The source Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceView {
    /// The key is minted.
    None,
    /// As it was when it was last found right.
    Unchanged,
    /// It cannot be used.
    Problem(Reason, String),
    /// It holds a value of a key's shape.
    Value(KeyFacts),
}

/// The ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LedgerView {
    /// There is none.
    Absent,
    /// As it was when it was last found right; the record was not read.
    Unread(Summary),
    /// Read.
    Present(Box<Ledger>),
    /// It may not be used.
    Unreadable(Reason, String),
}

/// The target Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetView {
    /// There is none.
    Absent,
    /// As it was when it was last found right; it was not read.
    Unread,
    /// Ours.
    Ours {
        /// The version whose key, rendered, is exactly what it holds.
        carries: Option<i32>,
        /// When the operator last wrote it, by the API server's clock, rounded up.
        since: Option<DateTime<Utc>>,
        /// Another hand has changed what it holds since it was last found right. Where it carries no version and nobody has
        /// touched it, what is to be rendered has changed: the spec, or the provider's URL.
        changed: bool,
    },
    /// It names the LLMKey of this name that was there before.
    PreviousOwner,
    /// Somebody else's, who lets this LLMKey take it over.
    Offered,
    /// Somebody else's.
    Foreign(Reason, String),
}

/// Hints kept in the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// When this process first looked at the key.
    pub started: Option<DateTime<Utc>>,
    /// Health of the delivered key.
    pub health: Option<Health>,
    /// Health of a key that is to be delivered.
    pub candidate: Option<Health>,
    /// What failed and waits for its next try, by the reason that is told.
    pub failing: BTreeMap<Reason, Failing>,
    /// When a revoked key was last found to work still.
    pub still_accepted: Option<DateTime<Utc>>,
    /// The due time and the reminder that was last told of.
    pub reminded: Option<(DateTime<Utc>, Duration)>,
    /// When a target that another hand had changed was last put right.
    pub repaired: Option<DateTime<Utc>>,
    /// When the provider was last asked whether the old key is in use, and what it said.
    pub last_use: Option<(i32, DateTime<Utc>, Option<DateTime<Utc>>)>,
    /// The last look at the workloads that use the target.
    pub consumers: Option<evidence::Look>,
    /// Workloads whose restart admission refused.
    pub restart_refused: BTreeSet<String>,
    /// Keys of a pool's members that the provider refused, as status shows them, and when it was last asked.
    pub refused: BTreeMap<String, DateTime<Utc>>,
    /// Health of the key that is kept ready, or is being made for that.
    pub spare: Option<Health>,
    /// Health of a pinned key that is to be delivered: another one may be asked about meanwhile.
    pub pinned: Option<Health>,
    /// When a person last asked that the delivered key be checked at once.
    pub check_asked: Option<DateTime<Utc>>,
    /// The supplied key whose id was last asked for in vain.
    pub unmatched: Option<Unmatched>,
}

/// A supplied key whose id is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unmatched {
    /// Its fingerprint as status shows it.
    pub fingerprint: String,
    /// When that was found.
    pub at: DateTime<Utc>,
    /// Why.
    pub why: NoMatch,
}

impl Memory {
    /// What was last heard of a key before its delivery, by its fingerprint in status.
    pub fn before_delivery(&self, shown: &str) -> Option<&Health> {
        let known = [&self.candidate, &self.pinned].into_iter().flatten().filter(|h| h.fingerprint == shown);
        known.max_by_key(|h| h.last.map(|(_, at)| at))
    }
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failing {
    /// What failed.
    pub reason: Reason,
    /// A sentence for status.
    pub message: String,
    /// How often.
    pub count: u32,
    /// Not again before.
    pub not_before: DateTime<Utc>,
    /// When the last one was.
    pub at: DateTime<Utc>,
}

impl Failing {
    /// A call at the provider failed, not a write in the cluster.
    pub const fn at_provider(&self) -> bool {
        matches!(
            self.reason,
            Reason::MintFailed
                | Reason::ProjectNotFound
                | Reason::CustomKeysDisabled
                | Reason::MintBudget
                | Reason::RevokeFailed
                | Reason::SwitchFailed
                | Reason::AdminCredentialInvalid
                | Reason::AddressRefused
        )
    }
}

/// What this reconcile has done so far.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent step of the pass")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pass {
    /// The mint attempt that this reconcile has put on record and not yet made.
    pub fenced: Option<u32>,
    /// Projects that were searched for keys of earlier attempts.
    pub searched: BTreeSet<String>,
    /// The search that was made since the last write found no key.
    pub found_none: bool,
    /// Keys of earlier attempts: project and id.
    pub strays: Vec<(String, String)>,
    /// The key that was made.
    pub minted: Option<Minted>,
    /// The key that was chosen for the next intent.
    pub chosen: Option<Chosen>,
    /// What the account's slots hold, read for the next intent.
    pub slots: Option<Vec<SlotView>>,
    /// Ids of the account's keys, where they have no names, listed for the next attempt.
    pub listed: Option<Vec<String>>,
    /// The mint attempt whose chosen key the provider does not have.
    pub absent: Option<u32>,
    /// The mint attempt whose key has an id that a deleted key has.
    pub spent: Option<u32>,
    /// The mint attempt that the provider refused: it made no key.
    pub refused: Option<u32>,
    /// Versions that were asked about, and who else holds the same key, in words.
    pub shared: BTreeMap<i32, Option<String>>,
    /// Versions for which `shared` was asked after their L4 was on record.
    pub checked_after_l4: BTreeSet<i32>,
    /// Versions whose revocation the provider answered.
    pub revoke_answered: BTreeSet<i32>,
    /// Versions that the provider was asked about after that: whether their keys are gone and refused.
    pub confirmed: BTreeMap<i32, bool>,
    /// The workloads were looked at in this reconcile, for a revocation.
    pub looked_for_l4: bool,
    /// The delivered key was checked in this reconcile.
    pub checked_delivered: bool,
    /// The target was written in this reconcile.
    pub wrote_target: Option<i32>,
    /// The target was deleted in this reconcile.
    pub deleted_target: bool,
    /// Versions of which the provider said that they are switched as their wish on record says.
    pub switched: BTreeSet<i32>,
    /// Members of the pool that were read in this reconcile, by name.
    pub members: BTreeMap<String, SourceView>,
    /// The version whose key was found at its account, and the key's id.
    pub matched: Option<(i32, String)>,
}

impl Pass {
    /// Another hand wrote: who holds a key is asked again, a pool's members are read again, and what was chosen and may
    /// be on record already serves for nothing else.
    pub fn forget_holders(&mut self) {
        self.chosen = None;
        self.slots = None;
        self.listed = None;
        self.members.clear();
        self.shared.clear();
        self.checked_after_l4.clear();
        self.looked_for_l4 = false;
    }
}
