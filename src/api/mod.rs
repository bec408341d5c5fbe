//! The custom resources, group `llmkeys.dev`, version `v1alpha1`.

// Field texts are read in `kubectl explain`, where backticks around every name only hinder; columns repeat `type_`.
#![allow(clippy::doc_markdown, clippy::duplicated_attributes)]

mod conditions;
mod crds;
mod duration;
mod llm_key;
mod llm_key_status;
mod llm_provider;
mod pool;
mod reference;
mod rotation_policy;
mod rotation_status;
mod time;
mod usage;

pub use conditions::{ConditionStatus, ConditionType, Conditions, Reason};
pub use crds::{all as crds, crd};
pub use duration::GoDuration;
pub use llm_key::*;
pub use llm_key_status::*;
pub use llm_provider::*;
pub use pool::*;
pub use reference::reference;
pub use rotation_policy::*;
pub use rotation_status::*;
pub use time::{from_k8s, parse_rfc3339, rfc3339, to_k8s};
pub use usage::*;

/// API group of every kind of this operator.
pub const GROUP: &str = "llmkeys.dev";
/// Names of Kubernetes objects (RFC 1123 subdomains), as the schema checks them.
pub(crate) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Version of every kind of this operator.
pub const VERSION: &str = "v1alpha1";
/// Field manager of every write but the restart annotation.
pub const FIELD_MANAGER: &str = "llmkey-operator";
/// Field manager of the restart annotation.
pub const RESTART_FIELD_MANAGER: &str = "llmkey-operator-restart";
/// Finalizer, present only while the ledger holds something that deletion must revoke.
pub const FINALIZER: &str = "llmkeys.dev/revoke";

/// Annotation on an `LLMKey`: rotate once for each new token.
pub const ROTATE: &str = "llmkeys.dev/rotate";
/// Annotation on an `LLMKey`: look at everything and check the key now, once for each new token.
pub const REFRESH: &str = "llmkeys.dev/refresh";
/// Annotation on an `LLMKey`: `"true"` stops new rotations and revocations.
pub const PAUSED: &str = "llmkeys.dev/paused";
/// Annotation on an `LLMKey`: the version whose key may be revoked, where the policy asks for an approval.
pub const APPROVE_REVOKE: &str = "llmkeys.dev/approve-revoke";
/// Annotation on an `LLMProvider`: the token of the freeze that a person has looked into.
pub const ACKNOWLEDGE: &str = "llmkeys.dev/acknowledge";
/// Annotation on a Secret: its owner lets the named `LLMKey` take it over.
pub const ADOPT_BY: &str = "llmkeys.dev/adopt-by";
/// Annotation on a pod template: the `LLMKey` and version that the operator restarted it for.
pub const RESTARTED_FOR: &str = "llmkeys.dev/restarted-for";
/// Annotation on a workload or its pod template: `"false"` keeps the operator from restarting it.
pub const RESTART: &str = "llmkeys.dev/restart";
/// Annotation on a pod: `"true"` says that it reads Secret volumes anew when they change.
pub const RELOAD: &str = "llmkeys.dev/reload";
/// Label on a target Secret: the `LLMKey` that it belongs to.
pub const KEY_LABEL: &str = "llmkeys.dev/key";
/// Label on an admin credential Secret, value `"true"`.
pub const ADMIN_CREDENTIAL_LABEL: &str = "llmkeys.dev/admin-credential";
/// Label that Kubernetes tools read to tell who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on everything that the operator writes.
pub const MANAGED_BY: &str = "llmkey-operator";
/// Type of a ledger Secret; immutable, so that no other Secret can be taken for one.
pub const LEDGER_TYPE: &str = "llmkeys.dev/ledger";
/// Annotation on a ledger: facts for caches that hold metadata only.
pub const LEDGER_SUMMARY: &str = "llmkeys.dev/summary";
/// Annotation on a ledger: ids of the key-encryption keys that it needs, with commas between them.
pub const LEDGER_SEALED_BY: &str = "llmkeys.dev/sealed-by";
/// Prefix of the labels on a ledger, one for each key that is not yet revoked.
pub const KEY_FINGERPRINT_LABEL_PREFIX: &str = "k.llmkeys.dev/";
