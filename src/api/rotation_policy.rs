//! `RotationPolicy` and `ClusterRotationPolicy`: when and how keys rotate. One spec type behind both.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GoDuration, UsageThresholds};

/// When and how keys rotate. `schedule` alone is a safe policy.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[kube(
    group = "llmkeys.dev",
    version = "v1alpha1",
    kind = "RotationPolicy",
    plural = "rotationpolicies",
    namespaced,
    status = "RotationPolicyStatus",
    derive = "PartialEq",
    shortname = "rp",
    category = "llm",
    doc = "When and how the keys of this namespace that refer to it rotate.",
    printcolumn(name = "Schedule", type_ = "string", json_path = ".status.schedule"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Rotating", type_ = "integer", json_path = ".status.inFlight"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.upcoming[0].time"),
    printcolumn(name = "Overdue", type_ = "integer", json_path = ".status.overdue", priority = 1),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.overlap) || !has(self.overlap.minimum) || !has(self.schedule) || !has(self.schedule.interval) || duration(self.overlap.minimum) < duration(self.schedule.interval)").message("overlap.minimum must be shorter than schedule.interval"),
    validation = Rule::new("(has(self.overlap) && has(self.overlap.minimum)) || !has(self.schedule) || !has(self.schedule.interval) || duration(self.schedule.interval) > duration('24h')").message("overlap.minimum: with an interval of 24h or less set it, below the interval (its default is 24h)")
)]
pub struct RotationPolicySpec {
    /// When keys rotate, counted from the publishing of the current version. None: by hand, with the annotation
    /// `llmkeys.dev/rotate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Spread of due times so that keys do not all rotate at once, 0s to 24h; each key has its own stable share.
    /// Default: 10 % of the period, at most 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("at most 24h"))]
    pub jitter: Option<GoDuration>,
    /// `Automatic` (default): rotate what can be minted or taken from a pool, remind for the rest. `RemindOnly`: remind for all.
    #[serde(default)]
    pub mode: RotationMode,
    /// When a scheduled rotation may start, at most 8; none: at any time. One that is due outside of them waits for the next
    /// opening. What a person asks for does not wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub windows: Vec<Window>,
    /// Durations before the due time at which an event reminds, at most 5, for example `["168h", "24h"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new("self.all(d, duration(d) >= duration('1m') && duration(d) <= duration('2160h'))").message("each 1m to 2160h"))]
    pub reminders: Vec<GoDuration>,
    /// What makes a rotation due besides the schedule, one entry for each type. Default: `Expiry` with `before: 168h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub triggers: Option<Vec<Trigger>>,
    /// How long a rotation may take until its key is delivered, 1m to 24h. One that takes longer is told as failed
    /// (`RotationDue` with `RotationFailed`, `status.lastRotation`) and goes on; for a version in an LLMKey's `revokedVersions` its
    /// `onReplacementFailure` counts from then on. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("1m to 24h"))]
    pub timeout: Option<GoDuration>,
    /// How long the older key goes on working beside the new one, and what must be known before it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// What happens when a key cannot be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RotationRetry>,
    /// How long keys of superseded versions that were not revoked stay sealed in the ledger, so that `pinnedVersion` of an LLMKey can
    /// publish them again. For supplied keys; a minted one is revoked after its overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Keys that are made, checked and kept ready for each LLMKey whose keys the operator makes, 0 or 1. The next rotation delivers
    /// the spare; a key in use that is confirmed as refused is replaced by it within seconds. It is one more key that works.
    /// Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub spares: Option<i32>,
    /// How many keys of this policy are replaced at the same time, 1 to 1000. A rotation that is due while as many are under way
    /// waits for its turn: those that a person asked for first, then the oldest due. First keys, `revokedVersions` and keys that
    /// the provider refuses do not wait. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent: Option<i32>,
}

/// What happens when a key cannot be made. Tries are a second apart at first, and twice as long after each failure; what a
/// person must mend is looked at every 10 minutes. The ledger remembers, so a restart of the operator does not begin anew; an
/// edit of the LLMKey, policy or LLMProvider, or a new `llmkeys.dev/rotate`, does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RotationRetry {
    /// Failures in a row after which the rotation is told as failed (`RotationDue` with `RotationFailed`, `status.lastRotation`, an
    /// event), 1 to 20. It goes on being tried every 5 minutes. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub attempts: Option<i32>,
}

/// How many superseded keys stay sealed, and how long. What a pin names stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// At most so many versions, the newest ones, 1 to 20. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub versions: Option<i32>,
    /// At most so long after a newer version took its place, 0s to 8760h. Default: 720h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('8760h')").message("at most 8760h; write days as hours, 30 days are 720h"))]
    pub duration: Option<GoDuration>,
}

/// At most one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.interval), has(self.calendar), has(self.cron)].filter(x, x).size() <= 1").message("set at most one of interval, calendar, cron"))]
pub struct Schedule {
    /// Rotate this long after the current version was published, 1h to 8760h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h') && duration(self) <= duration('8760h')").message("1h to 8760h; write days as hours, 30 days are 720h"))]
    pub interval: Option<GoDuration>,
    /// Rotate at the start of each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<Calendar>,
    /// Rotate when the expression says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<Cron>,
}

/// The start of each period. The first one at least half a period after the current version's publishing counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Calendar {
    /// Daily, Weekly (Monday), Monthly or Quarterly.
    pub period: Period,
    /// IANA time zone, for example `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    #[x_kube(validation = Rule::new("self != 'Local' && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0").message("no such time zone; use an IANA name, for example Europe/Berlin"))]
    pub time_zone: Option<String>,
}

/// A calendar period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Daily, Weekly (starts on Monday), Monthly or Quarterly.")]
pub enum Period {
    /// Midnight.
    Daily,
    /// Midnight of Monday.
    Weekly,
    /// Midnight of the first of the month.
    Monthly,
    /// Midnight of the first of January, April, July and October.
    Quarterly,
}

/// A cron schedule with the meaning that Kubernetes CronJobs give it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cron {
    /// Five fields: minute, hour, day of month, month, day of week, for example `0 3 1 * *`.
    #[schemars(length(min = 9, max = 128), regex(pattern = r"^\S+\s+\S+\s+\S+\s+\S+\s+\S+$"))]
    pub expression: String,
    /// IANA time zone, for example `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    #[x_kube(validation = Rule::new("self != 'Local' && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0").message("no such time zone; use an IANA name, for example Europe/Berlin"))]
    pub time_zone: Option<String>,
}

/// A time in which rotations may start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// What it is called, for example `nights`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// When it opens, five fields as in `schedule.cron`, for example `0 22 * * 1-5`.
    #[schemars(length(min = 9, max = 128), regex(pattern = r"^\S+\s+\S+\s+\S+\s+\S+\s+\S+$"))]
    pub cron: String,
    /// How long it stays open, 15m to 168h.
    #[x_kube(validation = Rule::new("duration(self) >= duration('15m') && duration(self) <= duration('168h')").message("15m to 168h"))]
    pub duration: GoDuration,
    /// IANA time zone, for example `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    #[x_kube(validation = Rule::new("self != 'Local' && timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0").message("no such time zone; use an IANA name, for example Europe/Berlin"))]
    pub time_zone: Option<String>,
}

/// One cause of rotations besides the schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.before) || self.type == 'Expiry'").message("before is for the type Expiry"),
    validation = Rule::new("has(self.usage) == (self.type == 'Usage')").message("usage is for the type Usage, which needs it")
)]
pub struct Trigger {
    /// `Expiry`: the key's `expiresAt` comes near. `Invalid`: the provider refuses the key in use, confirmed by
    /// `validation.failureThreshold` answers; the operator then makes another one (minted keys) or takes the next of the pool, without waiting for an overlap.
    /// `Usage`: the current key has used what `usage` says, as its provider reports it by the hour; for minted keys.
    pub r#type: TriggerType,
    /// How long before `expiresAt` the rotation is due, 1h to 2160h. Default: 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h') && duration(self) <= duration('2160h')").message("1h to 2160h"))]
    pub before: Option<GoDuration>,
    /// How much one key may use, in all, before the next one takes its place. Reports are late, and a key goes on working while
    /// the next is made and through the overlap: this bounds nothing, it says when to rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageThresholds>,
}

/// A cause of rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Expiry, Invalid or Usage.")]
pub enum TriggerType {
    /// The key ends soon.
    Expiry,
    /// The key does not work any more.
    Invalid,
    /// The key has used much.
    Usage,
}

/// Whether the operator rotates or reminds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Automatic or RemindOnly.")]
pub enum RotationMode {
    /// Rotate what can be minted or taken from a pool.
    #[default]
    Automatic,
    /// Only remind.
    RemindOnly,
}

/// The time in which two keys work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maximum) || duration(self.maximum) >= (has(self.minimum) ? duration(self.minimum) : duration('24h'))").message("maximum: at least minimum, whose default is 24h"))]
pub struct Overlap {
    /// The older key works at least this long after the new one was published, 0s to 720h. Default: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('720h')").message("at most 720h"))]
    pub minimum: Option<GoDuration>,
    /// How long evidence is waited for, counted like `minimum` and not shorter, up to 2160h. Default: 168h, or `minimum` if that is
    /// longer. What happens then is `onStuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('2160h')").message("at most 2160h"))]
    pub maximum: Option<GoDuration>,
    /// What must be known before the older key is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What happens to the older key when `maximum` has passed without evidence. `Hold` (default): it works on until the evidence
    /// comes. `Revoke`: it is revoked, whoever uses it still, if the current key works.
    #[serde(default)]
    pub on_stuck: OnStuck,
    /// `Automatic` (default): the older key is revoked when all this holds, or `maximum` says so. `Manual`: then it waits for a
    /// person's approval, the annotation `llmkeys.dev/approve-revoke: <its version>` on the LLMKey.
    #[serde(default)]
    pub approval: Approval,
}

/// Who has the last word on a revocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Automatic or Manual.")]
pub enum Approval {
    /// The operator.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

/// What happens without evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Hold or Revoke.")]
pub enum OnStuck {
    /// The older key works on.
    #[default]
    Hold,
    /// The older key is revoked.
    Revoke,
}

/// Whether workloads are evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Required or Ignored.")]
pub enum ConsumerEvidence {
    /// All pods that use the Secret must have the current version.
    #[default]
    Required,
    /// Workloads are not looked at.
    Ignored,
}

/// Evidence that nobody uses the older key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// `Required` (default): every pod that uses the Secret must have begun with the current version. `Ignored`: workloads are
    /// neither looked at nor restarted.
    #[serde(default)]
    pub consumers: ConsumerEvidence,
    /// The provider must not have seen the older key for this long, 0s to 168h; 0s does not ask. Default: 1h where the
    /// provider reports the last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('168h')").message("at most 168h"))]
    pub quiet_for: Option<GoDuration>,
}

/// The same for all namespaces. The one named `default` serves every key that names no policy.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[kube(
    group = "llmkeys.dev",
    version = "v1alpha1",
    kind = "ClusterRotationPolicy",
    plural = "clusterrotationpolicies",
    status = "RotationPolicyStatus",
    derive = "PartialEq",
    shortname = "crp",
    category = "llm",
    doc = "When and how keys of any namespace that refer to it rotate. The one named `default` serves keys that name none.",
    printcolumn(name = "Schedule", type_ = "string", json_path = ".status.schedule"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Rotating", type_ = "integer", json_path = ".status.inFlight"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.upcoming[0].time"),
    printcolumn(name = "Overdue", type_ = "integer", json_path = ".status.overdue", priority = 1),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct ClusterRotationPolicySpec {
    /// The policy itself.
    pub policy: RotationPolicySpec,
}

/// What the operator observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationPolicyStatus {
    /// Generation of the spec that this status speaks of; -1 before the first visit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The schedule in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub schedule: Option<String>,
    /// LLMKeys that follow this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i32>,
    /// Of these, LLMKeys whose next key is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i32>,
    /// LLMKeys whose rotation is due and has not begun; `waitingFor` says what for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i32>,
    /// What those wait for: reasons of their condition RotationDue, the most frequent first, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reason".into()]))]
    #[schemars(length(max = 16))]
    pub waiting_for: Vec<WaitingFor>,
    /// LLMKeys that have been due for longer than the policy's `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<i32>,
    /// LLMKeys whose rotation is due or under way and cannot go on: their condition Stalled says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i32>,
    /// The next rotations, at most 10, soonest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    #[schemars(length(max = 10))]
    pub upcoming: Vec<UpcomingKey>,
}

/// How many wait for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// Reason of the condition RotationDue.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// LLMKeys with this reason.
    pub keys: i32,
}

/// The next rotation of an LLMKey.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpcomingKey {
    /// Namespace of the LLMKey.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When its rotation is due, RFC 3339.
    #[schemars(length(max = 32))]
    pub time: String,
}
