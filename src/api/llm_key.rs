//! `LLMKey`: one logical key: where it comes from, where it is delivered, how it rotates.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{GoDuration, LLMKeyStatus, Pool, ProviderType};

/// One logical LLM provider key.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "llmkeys.dev",
    version = "v1alpha1",
    kind = "LLMKey",
    plural = "llmkeys",
    namespaced,
    status = "LLMKeyStatus",
    derive = "PartialEq",
    shortname = "lk",
    category = "llm",
    doc = "One logical LLM provider key: where it comes from, the Secret it is delivered to, and how it rotates.",
    selectable = ".spec.provider",
    selectable = ".spec.providerRef.name",
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health.state"),
    printcolumn(name = "Version", type_ = "integer", json_path = ".status.currentVersion"),
    printcolumn(name = "Last4", type_ = "string", json_path = ".status.lastFour"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRotationTime"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".status.rotationPolicy", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName", priority = 1),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".status.fingerprint", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: at most 63 characters, because it becomes the value of a label"),
    validation = Rule::new("!has(self.spec.source.secretRef) || self.spec.source.secretRef.name != (has(self.spec.target.secretName) ? self.spec.target.secretName : self.metadata.name)").message("spec.target.secretName: the source Secret cannot also be the target (the default is the LLMKey's name); set target.secretName to another name"),
    validation = Rule::new("!has(self.spec.source.pool) || self.spec.source.pool.members.all(m, m.secretRef.name != (has(self.spec.target.secretName) ? self.spec.target.secretName : self.metadata.name))").message("spec.target.secretName: a pool member's Secret cannot also be the target (the default is the LLMKey's name); set target.secretName to another name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.provider) != has(self.providerRef)").message("set exactly one of provider (a public endpoint, validation only) and providerRef (an LLMProvider)"),
    validation = Rule::new("!has(self.source.mint) || has(self.providerRef)").message("source.mint needs providerRef: an LLMProvider with an admin credential"),
    validation = Rule::new("!has(self.source.slots) || has(self.providerRef)").message("source.slots needs providerRef: an LLMProvider of an account with slots, and its admin credential"),
    validation = Rule::new("has(self.provider) == has(oldSelf.provider) && (!has(self.provider) || self.provider == oldSelf.provider) && (!has(self.providerRef) || self.providerRef.name == oldSelf.providerRef.name)").message("provider: a key's provider does not change; create another LLMKey"),
    validation = Rule::new("!has(self.desiredState) || self.desiredState != 'Revoked' || has(self.source.mint) || has(self.source.slots)").message("desiredState: Revoked needs source.mint or source.slots: a supplied key is revoked at the provider by who made it"),
    validation = Rule::new("!has(self.expiresAt) || !has(self.source.mint) && !has(self.source.slots)").message("expiresAt is for supplied keys: the operator asks for no lifetime when it makes one"),
    validation = Rule::new("!has(self.expiresAt) || !has(self.source.pool)").message("expiresAt is for the one key of source.secretRef: the keys of a pool expire each at its own time; give the policy a schedule that is shorter than their life"),
    validation = Rule::new("!has(self.deletionPolicy) || self.deletionPolicy != 'Revoke' || has(self.source.mint) || has(self.source.slots)").message("deletionPolicy: Revoke needs source.mint or source.slots: a supplied key is revoked at the provider by who made it"),
    validation = Rule::new("!has(self.pinnedVersion) || !has(self.revokedVersions) || !(self.pinnedVersion in self.revokedVersions)").message("pinnedVersion stands in revokedVersions: pin another version, or none")
)]
pub struct LLMKeySpec {
    /// The provider's public endpoint, for keys that you supply: they are checked there, nothing is made or revoked.
    /// Exactly one of `provider` and `providerRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PublicProvider")]
    pub provider: Option<PublicProvider>,
    /// An LLMProvider: an account, which is needed to mint and revoke, or an endpoint of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<ProviderRef>,
    /// Where the key comes from. Exactly one of `secretRef`, `mint`, `slots` and `pool`.
    pub source: Source,
    /// The Secret that workloads mount.
    #[serde(default)]
    pub target: Target,
    /// Model name for `$(MODEL)` in `target.data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// Free JSON object for `$(CONFIG)` in `target.data`, up to 8 KiB as text. It is not secret: keep keys out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// The policy to follow. Default: the ClusterRotationPolicy named `default`, if there is one; that one rotates minted
    /// keys only and reminds for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_policy_ref: Option<RotationPolicyRef>,
    /// When the key of `source.secretRef` expires, if you know it: the policy's trigger `Expiry` then asks for the next one in time.
    /// RFC 3339, for example `2027-01-31T00:00:00Z`. Nothing is revoked at that time. Change it with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"), length(max = 64))]
    pub expires_at: Option<String>,
    /// How the key is checked. No check spends tokens.
    #[serde(default)]
    pub validation: Validation,
    /// `Active` (default), `Disabled` or `Revoked`. Revoked: revoke all keys of this resource at the provider now, without overlap, then
    /// take the target Secret away. Going back to Active makes a new key. For minted keys: a supplied one is revoked by who made it.
    /// Disabled: switch all keys off at the provider (OpenRouter, LiteLLM, xAI; supplied ones at Anthropic), until it is Active again. Elsewhere `Stalled` says so, and all goes
    /// on as with Active.
    #[serde(default)]
    pub desired_state: DesiredState,
    /// Break-glass: versions whose keys are to be revoked now, without overlap and without waiting for evidence, up to 16
    /// numbers of 1 to 1000000. The version in use is replaced first. What a list says goes on being true: no version gets a
    /// number up to the greatest in it again. For minted keys; a listed version of a pool is replaced, and its key deleted by who
    /// made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 1_000_000)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub revoked_versions: Vec<i32>,
    /// If the version in use is listed in `revokedVersions` and no replacement is there within the policy's `timeout`: `Hold`
    /// (default) goes on trying and leaves the key working, `RevokeAnyway` revokes it and leaves workloads without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnReplacementFailure")]
    pub on_replacement_failure: Option<OnReplacementFailure>,
    /// What happens to the provider's key when the LLMKey is deleted. Default: `Revoke` for minted keys; supplied ones are
    /// always retained, since the operator did not make them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DeletionPolicy")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// How long after deletion the keys are revoked, 0s to 168h. An LLMKey of the same name and source that comes back
    /// earlier keeps them. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('168h')").message("at most 168h"))]
    pub deletion_grace_period: Option<GoDuration>,
    /// Keep publishing this version's key, a number of 1 to 1000000. Nothing rotates it meanwhile, neither the schedule nor
    /// `llmkeys.dev/rotate` nor another value in the source Secret. The key of an older version is published again as a new version, if
    /// `status.versions[].pin` says `Possible`; else nothing changes, and `Stalled` says why. `revokedVersions` and `desiredState: Revoked`
    /// are stronger. Taken out, the schedule goes on, counted from that version's publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pinned_version: Option<i32>,
}

/// Providers whose public endpoint can be used without an LLMProvider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "A provider with a public endpoint.")]
pub enum PublicProvider {
    /// OpenAI.
    OpenAI,
    /// Anthropic.
    Anthropic,
    /// Google Gemini API.
    Google,
    /// Mistral.
    Mistral,
    /// OpenRouter.
    OpenRouter,
    /// xAI.
    XAI,
    /// Groq.
    Groq,
    /// Cohere.
    Cohere,
    /// DeepSeek.
    DeepSeek,
    /// Together.
    Together,
    /// Hugging Face.
    HuggingFace,
}

impl From<PublicProvider> for ProviderType {
    fn from(provider: PublicProvider) -> Self {
        match provider {
            PublicProvider::OpenAI => Self::OpenAI,
            PublicProvider::Anthropic => Self::Anthropic,
            PublicProvider::Google => Self::Google,
            PublicProvider::Mistral => Self::Mistral,
            PublicProvider::OpenRouter => Self::OpenRouter,
            PublicProvider::XAI => Self::XAI,
            PublicProvider::Groq => Self::Groq,
            PublicProvider::Cohere => Self::Cohere,
            PublicProvider::DeepSeek => Self::DeepSeek,
            PublicProvider::Together => Self::Together,
            PublicProvider::HuggingFace => Self::HuggingFace,
        }
    }
}

/// Names an LLMProvider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ProviderRef {
    /// Name of the LLMProvider.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = super::OBJECT_NAME)
    )]
    pub name: String,
}

/// Where the key comes from: exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.secretRef), has(self.mint), has(self.slots), has(self.pool)].filter(x, x).size() == 1").message("set exactly one of secretRef, mint, slots, pool"))]
pub struct Source {
    /// A Secret of the same namespace that holds a key you supply. A changed value is a new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// The key is created at the provider's admin API: one service account for each version at OpenAI, one key at Google,
    /// OpenRouter, LiteLLM, xAI and, by consent, Mistral.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint: Option<Mint>,
    /// Two fixed slots of an account, whose keys are made anew in turn (AzureOpenAI). One LLMKey has the account for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
    /// Keys that you supply in advance. They are used in order, each once: whenever a rotation is due, the next one is checked
    /// and delivered without a person, until none is left. Status warns when the last one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
}

impl Source {
    /// Whether the operator makes the key.
    pub const fn is_made(&self) -> bool {
        self.mint.is_some() || self.slots.is_some()
    }
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = super::OBJECT_NAME)
    )]
    pub name: String,
    /// Key within its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A minted key; the account of the LLMProvider says the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Mint {}

/// Slots whose keys are made anew; the account of the LLMProvider says the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Slots {}

/// The Secret that workloads mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)").message("secretName does not change; create another LLMKey"))]
pub struct Target {
    /// Name of the Secret. Default: the LLMKey's name. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = super::OBJECT_NAME)
    )]
    pub secret_name: Option<String>,
    /// The Secret's data: key to text with `$(KEY)`, `$(BASE_URL)`, `$(MODEL)`, `$(CONFIG)`, `$(VERSION)`; `$$` is a dollar sign.
    /// At least one has `$(KEY)`. Default: the variables that the provider's SDK reads, for OpenAI `OPENAI_API_KEY`, and `OPENAI_BASE_URL` where the URL is
    /// not the public one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = bounded_text()))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 253 && k.matches('^[-._a-zA-Z0-9]+$') && k != '.' && !k.startsWith('..'))").message("keys: 1 to 253 letters, digits, '-', '_' and '.', not '.' and not beginning with '..'"))]
    #[x_kube(validation = Rule::new(HAS_KEY).message("no entry has $(KEY), so the key would not be delivered; add one, or leave data out for the default ($$(KEY) is plain text)"))]
    #[x_kube(validation = Rule::new(KNOWN_NAMES).message("$(NAME) knows the names KEY, BASE_URL, MODEL, CONFIG and VERSION; write $$( for a plain $("))]
    pub data: BTreeMap<String, String>,
    /// Whether workloads that use the Secret are restarted after a rotation. `Automatic` (default): where the operator may do that, by
    /// the annotation `llmkeys.dev/restarted-for` on their pod template. `None`: you do it; the older key is kept meanwhile. One
    /// workload opts out with the annotation `llmkeys.dev/restart: "false"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TargetRollout")]
    pub rollout: Option<TargetRollout>,
}

/// Who restarts workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Automatic or None.")]
pub enum TargetRollout {
    /// The operator, where it may.
    Automatic,
    /// A person.
    None,
}

/// Names a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationPolicyRef {
    /// RotationPolicy (default; of the same namespace) or ClusterRotationPolicy.
    #[serde(default)]
    pub kind: PolicyKind,
    /// Name of the policy.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = super::OBJECT_NAME)
    )]
    pub name: String,
}

/// Kind of a policy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(description = "RotationPolicy or ClusterRotationPolicy.")]
pub enum PolicyKind {
    /// Of the same namespace.
    #[default]
    RotationPolicy,
    /// Of the cluster.
    ClusterRotationPolicy,
}

impl PolicyKind {
    /// The kind as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RotationPolicy => "RotationPolicy",
            Self::ClusterRotationPolicy => "ClusterRotationPolicy",
        }
    }
}

/// How the key is checked at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// `Required` (default): publish what the provider accepts. `Advisory`: publish at once and report. `Disabled`: never ask.
    #[serde(default)]
    pub mode: ValidationMode,
    /// How often a published key is checked, 1m to 168h. Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('168h')").message("1m to 168h"))]
    pub interval: Option<GoDuration>,
    /// Rejections of the key in a row before it is called Invalid, 1 to 10. Default: 3. Outages and throttling never count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub failure_threshold: Option<i32>,
}

/// Whether validation decides, reports or is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Required, Advisory or Disabled.")]
pub enum ValidationMode {
    /// Publish what the provider accepts.
    #[default]
    Required,
    /// Publish at once, report.
    Advisory,
    /// Never ask.
    Disabled,
}

/// What the keys are meant to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Active, Disabled or Revoked.")]
pub enum DesiredState {
    /// In use.
    #[default]
    Active,
    /// Revoked at the provider, without overlap or grace.
    Revoked,
    /// Switched off at the provider, where it can do that.
    Disabled,
}

/// What becomes of a version that is to be revoked and cannot be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Hold or RevokeAnyway.")]
pub enum OnReplacementFailure {
    /// It goes on working until there is another one.
    #[default]
    Hold,
    /// It is revoked all the same.
    RevokeAnyway,
}

/// What happens to the provider's key on deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Revoke or Retain.")]
pub enum DeletionPolicy {
    /// Revoked after the grace period.
    Revoke,
    /// Left as it is.
    Retain,
}

/// A `$(` that does not follow `$` begins one of the known names. `$$` is consumed as a pair, from the left.
const KNOWN_NAMES: &str = "self.all(k, self[k].matches('^([^$]|[$][$]|[$][(](KEY|BASE_URL|MODEL|CONFIG|VERSION)[)]|[$][^$(])*[$]?$'))";

/// A `$(KEY)` whose `$` is not the second of a pair. What stands before it must be read from the left, pair by pair.
const HAS_KEY: &str = "size(self) == 0 || self.exists(k, self[k].matches('^([^$]|[$][$]|[$][(](BASE_URL|MODEL|CONFIG|VERSION)[)]|[$][^$(])*[$][(]KEY[)]'))";

/// `BTreeMap<String, String>` has no place for the bound that keeps the rule on its values cheap.
fn bounded_text() -> serde_json::Value {
    serde_json::json!({"type": "string", "maxLength": 4096})
}

fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "maxProperties": 64})
}
