//! `RotationPolicy` and `ClusterRotationPolicy`: when and how keys rotate. One spec type behind both.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

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
    /// How long a replacement for a version in an LLMKey's `revokedVersions` may take, 1m to 24h, before its
    /// `onReplacementFailure` counts. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("1m to 24h"))]
    pub timeout: Option<GoDuration>,
    /// How long the older key goes on working beside the new one, and what must be known before it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
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
#[x_kube(validation = Rule::new("!has(self.before) || self.type == 'Expiry'").message("before is for the type Expiry"))]
pub struct Trigger {
    /// `Expiry`: the key's `expiresAt` comes near. `Invalid`: the provider refuses the key in use, confirmed by
    /// `validation.failureThreshold` answers; the operator then makes another one (minted keys) or takes the next of the pool, without waiting for an overlap.
    pub r#type: TriggerType,
    /// How long before `expiresAt` the rotation is due, 1h to 2160h. Default: 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h') && duration(self) <= duration('2160h')").message("1h to 2160h"))]
    pub before: Option<GoDuration>,
}

/// A cause of rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Expiry or Invalid.")]
pub enum TriggerType {
    /// The key ends soon.
    Expiry,
    /// The key does not work any more.
    Invalid,
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
}
