//! The status of an `LLMKey`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RotationStatus;

use super::{PoolStatus, UsageAmounts, UsageStatus};

/// What the operator observed. A projection of the ledger: it can be lost and is rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LLMKeyStatus {
    /// Generation of the spec that this status speaks of; -1 before the first visit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, Healthy, RotationDue, ConsumersCurrent and OverlapActive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The provider in words: `OpenAI`, or `OpenAI (team-a)` for the LLMProvider `team-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub provider: Option<String>,
    /// Health of the published key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<KeyHealth>,
    /// The published version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<i32>,
    /// Last four characters of the published key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    pub last_four: Option<String>,
    /// Twelve hex digits of a keyed hash of the published key, for comparing keys within this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub fingerprint: Option<String>,
    /// The target Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,
    /// The policy in force: `RotationPolicy/monthly`, with ` (Defaulted)` if the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub rotation_policy: Option<String>,
    /// When the next rotation is due, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub next_rotation_time: Option<String>,
    /// The last rotation that ended, has failed, or takes longer than the policy's timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<LastRotation>,
    /// The last token of `llmkeys.dev/rotate` that was accepted, its first 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_rotate: Option<String>,
    /// The newest versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["version".into()]))]
    #[schemars(length(max = 20))]
    pub versions: Vec<VersionStatus>,
    /// Workloads that use the Secret, at most 50, stragglers first; only while an older key works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    #[schemars(length(max = 50))]
    pub consumers: Vec<ConsumerStatus>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers_total: Option<i32>,
    /// Resource versions that were last found right: a hint that saves reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedVersions>,
    /// The last rotations, newest first, at most 10: who asked for each, how it went, and what became of the version before. The
    /// first version is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["version".into()]))]
    #[schemars(length(max = 10))]
    pub rotations: Vec<RotationStatus>,
    /// How far `source.pool` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolStatus>,
    /// The next rotations, at most 3, soonest first, each taken to happen when it may begin; empty while one is due. What a
    /// policy's trigger Usage makes due cannot be foreseen and is not among them: it may come at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["time".into()]))]
    #[schemars(length(max = 3))]
    pub upcoming: Vec<UpcomingRotation>,
    /// What the published key has used, as its provider reports it; written when that changes, at most hourly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
}

/// A rotation to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpcomingRotation {
    /// When it may begin, RFC 3339.
    #[schemars(length(max = 32))]
    pub time: String,
    /// What decides the time: Schedule, Window (the policy's next one) or Expiry.
    #[schemars(length(max = 32))]
    pub reason: String,
}

/// Health of the published key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyHealth {
    /// Valid, Invalid, Disabled, Expired, RestrictedScope, OutOfCredit, RateLimited, ProviderDown or Unknown.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Since when, RFC 3339.
    #[schemars(length(max = 32))]
    pub since: String,
    /// Earlier states, newest first, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<PastHealth>,
}

/// A state that has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PastHealth {
    /// The state.
    #[schemars(length(max = 32))]
    pub state: String,
    /// When it began, RFC 3339.
    #[schemars(length(max = 32))]
    pub since: String,
}

/// A rotation that ended, or does not get on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRotation {
    /// Version that it made.
    pub version: i32,
    /// Why: Initial, Schedule, Requested, SourceChanged, Replaced, Invalid, Usage or BreakGlass.
    #[schemars(length(max = 32))]
    pub reason: String,
    /// Succeeded, Failed, TimedOut or GivenUp, as in rotations.
    #[schemars(length(max = 32))]
    pub result: String,
    /// When it ended; of one that has failed or timed out, since when. RFC 3339.
    #[schemars(length(max = 32))]
    pub time: String,
}

/// One version: an act of publishing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Its number, counted from 1.
    pub version: i32,
    /// Pending, Publishing, Current, Overlap, Retiring, Revoked, Retained, Abandoned, Republished or Spare.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Supplied or Minted.
    #[schemars(length(max = 32))]
    pub origin: String,
    /// Why it was made.
    #[schemars(length(max = 32))]
    pub reason: String,
    /// Last four characters of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    pub last_four: Option<String>,
    /// Twelve hex digits of a keyed hash of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub fingerprint: Option<String>,
    /// The key's id at the provider.
    #[serde(default, rename = "providerKeyID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260))]
    pub provider_key_id: Option<String>,
    /// When it was delivered, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub published_at: Option<String>,
    /// When the provider had confirmed its revocation, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revoked_at: Option<String>,
    /// What the revocation rests on: ConsumersProven, Presumed, ProviderQuiet, MinimumElapsed, MaximumReached, Explicit or
    /// NeverPublished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revocation_basis: Option<String>,
    /// Who asked for it, as in rotations; as long as the history goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub requested_by: Option<String>,
    /// Whether `spec.pinnedVersion` can name it: Possible; Revoked (its key's revocation was begun); Listed (its key stands in
    /// `spec.revokedVersions`); Forgotten (its key was dropped from the ledger, see `retention` of the policy); NeverPublished. Absent while
    /// it is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pin: Option<String>,
    /// The member of `source.pool` that its key came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub member: Option<String>,
    /// What its key has used in all, as the provider last reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageAmounts>,
}

/// A workload that uses the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// Deployment, StatefulSet, DaemonSet, Job, CronJob, Pod, or another kind with its group.
    #[schemars(length(max = 330))]
    pub kind: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Current, Presumed, Stale or Straggler.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Why it is Stale or a Straggler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub reason: Option<String>,
    /// Pods that may have the older version.
    pub stale_pods: i32,
}

/// Resource versions that were last found right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ObservedVersions {
    /// Of the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub ledger: Option<String>,
    /// Of the source Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub source: Option<String>,
    /// Of the target Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub target: Option<String>,
    /// Digest of what the target was rendered with, apart from the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rendering: Option<String>,
}
