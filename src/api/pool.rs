//! `source.pool` of an `LLMKey`, and what its status says of it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// Keys that you supply in advance, used one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct Pool {
    /// 1 to 32 members, each with one key. The first one's key is delivered first. Whenever a rotation is due, the next
    /// member in the order of the list, counted on from the one in use and from the end back to the beginning, whose key was
    /// never delivered for this LLMKey takes its turn. To fill a member again, put another key into its Secret.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 32))]
    pub members: Vec<PoolMember>,
}

/// One member of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolMember {
    /// Its name, unique in the pool, 1 to 63 lower-case letters, digits and '-'. `status.versions[].member` shows it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A Secret of the same namespace that holds its key.
    pub secret_ref: SecretKeyRef,
}

/// How far a pool is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// Members of the pool.
    pub total: i32,
    /// Members whose key was not delivered yet and may be. They are looked at up to `next`; those behind it count as unused
    /// if nothing of theirs was delivered yet.
    pub unused: i32,
    /// The member whose turn is next; none if no member has a key that was not delivered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub next: Option<String>,
    /// Members that were looked at and have no key that can be delivered. Each is looked at again when its Secret changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 32))]
    pub skipped: Vec<SkippedMember>,
}

/// A member of a pool that is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SkippedMember {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Why, in the words of the conditions' reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What is wrong and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Of a key that the provider refuses: twelve hex digits of a keyed hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    pub fingerprint: Option<String>,
}
