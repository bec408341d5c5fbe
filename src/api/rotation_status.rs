//! The history of rotations in the status of an `LLMKey`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One rotation: the way of one version to its publishing, and what became of the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// The version that it makes.
    pub version: i32,
    /// Why it was begun: Schedule, Requested, SourceChanged, Replaced, Invalid, Usage or BreakGlass.
    #[schemars(length(max = 32))]
    pub reason: String,
    /// How the version gets its key: Minted, Supplied, or Reused for the key of an earlier version.
    #[schemars(length(max = 32))]
    pub method: String,
    /// Who asked for it: llmkey-operator for what it does by itself; otherwise the field manager that changed the annotation,
    /// field or Secret which asked, marked unverified because any client can name itself anything.
    #[schemars(length(max = 160))]
    pub requested_by: String,
    /// When that was changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub requested_at: Option<String>,
    /// When it was begun, RFC 3339.
    #[schemars(length(max = 32))]
    pub started_at: String,
    /// When it ended, RFC 3339. Of one that has failed or timed out: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ended_at: Option<String>,
    /// InProgress, Succeeded, Failed (all of the policy's retry.attempts were used; it goes on being tried), TimedOut (it takes
    /// longer than the policy's timeout and goes on) or GivenUp (the version was given up before it was published).
    #[schemars(length(max = 32))]
    pub outcome: String,
    /// Attempts to make a key that were begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// Last four characters of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    pub last_four: Option<String>,
    /// Twelve hex digits of a keyed hash of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub fingerprint: Option<String>,
    /// The version that was delivered when it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RotationFrom>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<RotationError>,
}

/// The version that a rotation takes the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationFrom {
    /// Its number.
    pub version: i32,
    /// Last four characters of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    pub last_four: Option<String>,
    /// Twelve hex digits of a keyed hash of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub fingerprint: Option<String>,
    /// What its revocation rests on, as in versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revocation_basis: Option<String>,
    /// When the provider had confirmed its revocation, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revoked_at: Option<String>,
}

/// A failure of a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RotationError {
    /// What failed: the reason that the conditions showed, for example MintFailed.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Who can make the next try succeed: Transient (time alone) or User (a person).
    #[schemars(length(max = 32))]
    pub class: String,
    /// When it was, RFC 3339.
    #[schemars(length(max = 32))]
    pub time: String,
}
