//! From the resources as they are stored to what decisions look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use sha2::{Digest, Sha256};

use super::fit::{misfit, over_limit};
use super::model::{KeyView, PolicyView, PoolTold, ProviderView};
use super::requester::Asked;
use crate::api::{
    APPROVE_REVOKE, Approval, ClusterRotationPolicy, ConditionType, ConsumerEvidence, DeletionPolicy,
    DesiredState, FINALIZER, LLMKey, LLMKeyStatus, LLMProvider, OnStuck, PAUSED, PolicyKind, ROTATE, Reason,
    RotationMode, RotationPolicy, RotationPolicySpec, Trigger, TriggerType, from_k8s,
};
use crate::controller::context::Ctx;
use crate::domain::template::{self, Values};
use crate::domain::usage::{Micros, Thresholds};
use crate::domain::{schedule, timings::Timings};
use crate::ledger::{AccountRef, Tenancy};
use crate::provider::{Account, Capabilities, Capability, Endpoint, MintKind, PRIVATE_ADDRESS, default_data};

/// Longest `spec.config`, as text.
const MAX_CONFIG: usize = 8 * 1024;

/// Superseded keys that stay sealed, where the policy says nothing.
const RETAINED: usize = 3;

/// Longest token of `llmkeys.dev/rotate` that counts, in characters: what status can show.
const MAX_TOKEN: usize = 256;

/// Rotations of one policy at the same time, where it says nothing.
const MAX_CONCURRENT: i32 = 10;

/// What the target's texts are rendered with, apart from the key.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// Entry → text.
    pub data: BTreeMap<String, String>,
    /// `$(BASE_URL)`.
    pub base_url: Option<String>,
    /// `$(MODEL)`.
    pub model: Option<String>,
    /// `$(CONFIG)`.
    pub config: Option<String>,
}

impl Texts {
    /// The values for one version.
    pub fn values(&self, version: i32) -> Values<'_> {
        Values {
            base_url: self.base_url.as_deref(),
            model: self.model.as_deref(),
            config: self.config.as_deref(),
            version: u32::try_from(version).unwrap_or_default(),
        }
    }

    /// Changes whenever what is rendered does, apart from the key and its version.
    pub fn digest(&self) -> String {
        let texts = serde_json::to_vec(&(&self.data, &self.base_url, &self.model, &self.config));
        data_encoding::HEXLOWER.encode(&Sha256::digest(texts.unwrap_or_default()))[..16].to_owned()
    }

    fn problem(&self) -> Option<String> {
        if self.config.as_ref().is_some_and(|c| c.len() > MAX_CONFIG) {
            return Some(format!("spec.config: at most {MAX_CONFIG} bytes as JSON text"));
        }
        template::validate(&self.data, &self.values(1)).err().map(|error| error.to_string())
    }
}

/// The texts of an LLMKey at an endpoint.
pub fn texts(key: &LLMKey, endpoint: Option<&Endpoint>) -> Texts {
    let data = if key.spec.target.data.is_empty() {
        endpoint.map(|e| default_data(e.provider(), e.is_public_default(), e.region())).unwrap_or_default()
    } else {
        key.spec.target.data.clone()
    };
    Texts {
        data,
        base_url: endpoint.map(|e| e.base_url().to_owned()),
        model: key.spec.model.clone(),
        config: key.spec.config.as_ref().and_then(|c| serde_json::to_string(c).ok()),
    }
}

/// The LLMKey, parsed. Texts that are not known yet are not judged.
pub fn key_view(key: &LLMKey, texts: &Texts, timings: &Timings) -> KeyView {
    let status = key.status.as_ref();
    let minted = key.spec.source.is_made();
    let duration = |given: Option<crate::api::GoDuration>, default: Duration| {
        // Specs are divided with everything else; defaults are divided already.
        given.map_or(default.saturating_mul(timings.divisor), Duration::from)
    };
    KeyView {
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        uid: key.uid().unwrap_or_default(),
        generation: key.metadata.generation.unwrap_or_default(),
        created: key.creation_timestamp().map(|t| from_k8s(&t)).unwrap_or_default(),
        deleting: key.metadata.deletion_timestamp.is_some(),
        namespace_terminating: false,
        finalizer: key.finalizers().iter().any(|f| f == FINALIZER),
        paused: key.annotations().get(PAUSED).is_some_and(|v| v == "true"),
        approved: key.annotations().get(APPROVE_REVOKE).and_then(|version| version.trim().parse().ok()),
        rotate: key
            .annotations()
            .get(ROTATE)
            .filter(|t| !t.is_empty())
            .map(|t| t.chars().take(MAX_TOKEN).collect()),
        minted,
        target_name: key.spec.target.secret_name.clone().unwrap_or_else(|| key.name_any()),
        revoke_all: key.spec.desired_state == DesiredState::Revoked,
        revoked_versions: key.spec.revoked_versions.iter().copied().collect(),
        expires_at: key.spec.expires_at.as_deref().and_then(crate::api::parse_rfc3339),
        on_replacement_failure: key.spec.on_replacement_failure.unwrap_or_default(),
        restarts: key.spec.target.rollout != Some(crate::api::TargetRollout::None),
        // What a person supplied is retained anyway: that goes by each version's origin, which outlives the spec.
        retain_on_delete: key.spec.deletion_policy == Some(DeletionPolicy::Retain),
        grace: duration(key.spec.deletion_grace_period, timings.deletion_grace),
        validation: key.spec.validation.mode,
        interval: duration(key.spec.validation.interval, timings.validation_interval),
        threshold: key.spec.validation.failure_threshold.unwrap_or(3).clamp(1, 10),
        template_problem: if texts.data.is_empty() { None } else { texts.problem() },
        had_versions: status.is_some_and(|s| !s.versions.is_empty()),
        newest_shown: status.and_then(|s| s.versions.iter().map(|v| v.version).max()).unwrap_or_default(),
        last_handled_rotate: status.and_then(|s| s.last_handled_rotate.clone()),
        asked: Asked::of(&key.metadata),
        pinned: key.spec.pinned_version,
        disable: key.spec.desired_state == DesiredState::Disabled,
        pool: key.spec.source.pool.as_ref().map(|pool| pool.members.clone()).unwrap_or_default(),
        pool_told: status.and_then(pool_told),
        published_shown: status
            .and_then(|s| s.versions.iter().filter(|v| v.published_at.is_some()).map(|v| v.version).max())
            .unwrap_or_default(),
        id_shown: status.and_then(|s| {
            let current = s.versions.iter().find(|v| Some(v.version) == s.current_version);
            current.and_then(|v| v.provider_key_id.clone())
        }),
    }
}

/// What status says of a pool whose rotation is due.
fn pool_told(status: &LLMKeyStatus) -> Option<PoolTold> {
    let pool = status.pool.as_ref()?;
    let due = status.conditions.iter().find(|c| c.type_ == ConditionType::RotationDue.as_str())?;
    let reason = (due.status == "True").then(|| Reason::named(&due.reason)).flatten()?;
    let settled = pool.skipped.iter().all(|s| s.reason != Reason::RejectedNotPublished.as_str());
    Some(PoolTold { reason, message: due.message.clone(), settled })
}

/// The policy in force.
pub fn policy_view(ctx: &Ctx, key: &LLMKey) -> PolicyView {
    let namespace = key.namespace().unwrap_or_default();
    let unreadable = |shown: String, defaulted| PolicyView {
        problem: Some((
            Reason::Malformed,
            format!("{shown} cannot be read: apply it again in the CRD's form"),
        )),
        ..policy(&RotationPolicySpec::default(), shown, defaulted, &ctx.timings)
    };
    let Some(reference) = &key.spec.rotation_policy_ref else {
        let shown = "ClusterRotationPolicy/default (Defaulted)".to_owned();
        return match cluster_policy(ctx, "default") {
            Some(Ok(spec)) => policy(&spec, shown, true, &ctx.timings),
            Some(Err(())) => unreadable(shown, true),
            None => policy(&RotationPolicySpec::default(), String::new(), false, &ctx.timings),
        };
    };
    let shown = format!("{}/{}", reference.kind.as_str(), reference.name);
    let found = match reference.kind {
        PolicyKind::RotationPolicy => ctx
            .stores
            .policies
            .get(&ObjectRef::new(&reference.name).within(&namespace))
            .map(|p| p.0.as_ref().map(|p: &RotationPolicy| p.spec.clone()).map_err(|_| ())),
        PolicyKind::ClusterRotationPolicy => cluster_policy(ctx, &reference.name),
    };
    match found {
        Some(Ok(spec)) => policy(&spec, shown, false, &ctx.timings),
        Some(Err(())) => unreadable(shown, false),
        None => {
            let problem = (
                Reason::PolicyNotFound,
                format!("spec.rotationPolicyRef: {shown} does not exist; create it, or name another policy"),
            );
            PolicyView {
                problem: Some(problem),
                ..policy(&RotationPolicySpec::default(), shown, false, &ctx.timings)
            }
        }
    }
}

fn cluster_policy(ctx: &Ctx, name: &str) -> Option<Result<RotationPolicySpec, ()>> {
    ctx.stores
        .cluster_policies
        .get(&ObjectRef::new(name))
        .map(|p| p.0.as_ref().map(|p: &ClusterRotationPolicy| p.spec.policy.clone()).map_err(|_| ()))
}

/// A policy's spec as decisions see it.
pub fn policy(spec: &RotationPolicySpec, shown: String, defaulted: bool, timings: &Timings) -> PolicyView {
    let (schedule, problem) = match schedule::parse(spec) {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some((Reason::ScheduleImpossible, format!("{shown}: {error}")))),
    };
    let overlap = spec.overlap.clone().unwrap_or_default();
    let retention = spec.retention.clone().unwrap_or_default();
    let whole = |default: Duration| default.saturating_mul(timings.divisor);
    PolicyView {
        shown: (!shown.is_empty()).then_some(shown),
        defaulted,
        schedule,
        problem,
        mode: if spec.mode == RotationMode::RemindOnly {
            RotationMode::RemindOnly
        } else {
            RotationMode::Automatic
        },
        expiry_before: expiry_before(spec, whole(timings.expiry_before)),
        replace_invalid: triggers(spec).any(|t| t.r#type == TriggerType::Invalid),
        usage: thresholds(spec),
        timeout: spec.timeout.map_or(whole(timings.rotation_timeout), Duration::from),
        overlap_minimum: overlap.minimum.map_or(whole(timings.overlap), Duration::from),
        overlap_maximum: overlap.maximum.map_or(whole(timings.overlap_maximum), Duration::from),
        consumers: overlap.evidence.as_ref().is_none_or(|e| e.consumers != ConsumerEvidence::Ignored),
        manual: overlap.approval == Approval::Manual,
        revoke_when_stuck: overlap.on_stuck == OnStuck::Revoke,
        quiet_for: overlap
            .evidence
            .and_then(|e| e.quiet_for)
            .map_or(whole(timings.quiet_for), Duration::from),
        retry_attempts: attempts(spec),
        retain_versions: retention.versions.and_then(|n| usize::try_from(n).ok()).unwrap_or(RETAINED),
        retain_for: retention.duration.map_or(whole(timings.retention), Duration::from),
        spares: spec.spares.unwrap_or(0),
        max_concurrent: usize::try_from(spec.max_concurrent.unwrap_or(MAX_CONCURRENT)).unwrap_or(1),
    }
}

/// Failures in a row after which a rotation has failed, where the policy says nothing.
const RETRY_ATTEMPTS: u32 = 8;

fn attempts(spec: &RotationPolicySpec) -> u32 {
    let given = spec.retry.and_then(|retry| retry.attempts);
    given.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(RETRY_ATTEMPTS).max(1)
}

fn triggers(spec: &RotationPolicySpec) -> impl Iterator<Item = &Trigger> {
    spec.triggers.iter().flatten()
}

/// How much a key may use, if the policy says so.
fn thresholds(spec: &RotationPolicySpec) -> Thresholds {
    let Some(given) = triggers(spec).find_map(|trigger| trigger.usage.as_ref()) else {
        return Thresholds::default();
    };
    Thresholds {
        requests: given.requests,
        tokens: given.tokens,
        cost: given.cost_usd.as_deref().and_then(Micros::parse),
    }
}

/// A policy that says nothing of triggers still tells of keys that expire.
fn expiry_before(spec: &RotationPolicySpec, default: Duration) -> Option<Duration> {
    if spec.triggers.is_none() {
        return Some(default);
    }
    let expiry = triggers(spec).find(|t| t.r#type == TriggerType::Expiry)?;
    Some(expiry.before.map_or(default, Duration::from))
}

/// The provider, with what is needed to call it.
pub struct Resolved {
    /// What decisions see.
    pub view: ProviderView,
    /// Where keys are checked.
    pub endpoint: Option<Endpoint>,
    /// What can make and revoke.
    pub account: Option<Arc<Account>>,
    /// Changes whenever the account may have changed.
    pub stamp: String,
}

/// A provider without an account.
pub const fn bare(shown: String) -> ProviderView {
    ProviderView {
        shown,
        problem: None,
        account: None,
        account_problem: None,
        reports_last_use: false,
        reports_usage: false,
        can_disable: false,
        matches: false,
        ends_supplied: false,
        mint: MintKind::ShownOnce,
        tenancy: Tenancy::Shared,
    }
}

/// Finds the provider of an LLMKey. The provider is not called; an error is the API server's.
pub async fn resolve(ctx: &Ctx, key: &LLMKey) -> Result<Resolved, kube::Error> {
    let unusable = |shown: String, reason, message| {
        Ok(Resolved {
            view: ProviderView { problem: Some((reason, message)), ..bare(shown) },
            endpoint: None,
            account: None,
            stamp: String::new(),
        })
    };
    let name = match (&key.spec.provider, &key.spec.provider_ref) {
        (Some(public), _) => {
            let kind = crate::api::ProviderType::from(*public);
            let endpoint = Endpoint::public(kind).ok();
            return Ok(Resolved {
                view: ProviderView {
                    account_problem: Some((
                        Reason::AdminCredentialMissing,
                        "a public endpoint can check keys, not make them: set providerRef".into(),
                    )),
                    ..bare(kind.as_str().to_owned())
                },
                endpoint,
                account: None,
                stamp: String::new(),
            });
        }
        (None, Some(reference)) => &reference.name,
        (None, None) => {
            return unusable(String::new(), Reason::Malformed, "set provider or providerRef".into());
        }
    };
    let found = ctx.stores.providers.get(&ObjectRef::new(name));
    let provider = match found.as_ref().map(|p| &p.0) {
        Some(Ok(provider)) => provider,
        Some(Err(_)) => {
            let message = format!("LLMProvider {name} cannot be read: apply it again in the CRD's form");
            return unusable(name.clone(), Reason::Malformed, message);
        }
        None => {
            let message = format!(
                "spec.providerRef: LLMProvider {name} does not exist; ask the platform's administrators"
            );
            return unusable(name.clone(), Reason::ProviderNotFound, message);
        }
    };
    let shown = format!("{} ({name})", provider.spec.r#type.as_str());
    let namespace = key.namespace().unwrap_or_default();
    if !allowed(provider, &namespace) {
        let message = format!(
            "LLMProvider {name} does not list the namespace {namespace} in allowedNamespaces; ask the platform's administrators"
        );
        return unusable(shown, Reason::NamespaceNotAllowed, message);
    }
    let endpoint = match Endpoint::from_spec(&provider.spec) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return unusable(shown, Reason::AddressRefused, format!("LLMProvider {name}: {error}"));
        }
    };
    if endpoint.refuses_its_address() {
        return unusable(shown, Reason::AddressRefused, format!("LLMProvider {name}: {PRIVATE_ADDRESS}"));
    }
    let account = ctx.account(provider, &endpoint).await?;
    let capabilities = Capabilities::of_spec(&provider.spec, account.is_ok());
    // A wish that keys stay off holds also while the credential cannot be used.
    let meant = Capabilities::of_spec(&provider.spec, provider.spec.admin_credential_ref.is_some());
    let account_ref = account.as_ref().ok().map(|account| reference(name, provider, account));
    let mut held = match &account_ref {
        Some(account) => ctx.hold_on(account).await?.or_else(|| over_limit(ctx, provider, key)),
        None => None,
    };
    let mut tenancy = Tenancy::Shared;
    if let Some(account) = account_ref.as_ref().filter(|_| held.is_none() && capabilities.is_for_one()) {
        (tenancy, held) = ctx.tenancy(account, &namespace, &key.name_any()).await?;
    }
    Ok(Resolved {
        view: ProviderView {
            shown,
            problem: None,
            account: account_ref,
            account_problem: account
                .as_ref()
                .err()
                .cloned()
                .or(held)
                .or_else(|| misfit(key, provider, capabilities)),
            reports_last_use: capabilities.has(Capability::LastUsed),
            reports_usage: capabilities.has(Capability::Usage),
            can_disable: meant.has(Capability::Disable),
            matches: meant.has(Capability::Match),
            ends_supplied: provider.spec.anthropic.as_ref().is_some_and(|block| block.end_supplied_keys),
            mint: capabilities.mint_kind(),
            tenancy,
        },
        endpoint: Some(endpoint),
        account: account.ok(),
        stamp: ctx.stamp(provider),
    })
}

/// The account that an LLMProvider of this name has now, or why it cannot be used.
pub async fn account_at(
    ctx: &Ctx,
    name: &str,
) -> Result<Result<(AccountRef, Arc<Account>, Endpoint), (Reason, String)>, kube::Error> {
    let missing = |message: String| Ok(Err((Reason::AdminCredentialMissing, message)));
    let found = ctx.stores.providers.get(&ObjectRef::new(name));
    let Some(Ok(provider)) = found.as_ref().map(|p| &p.0) else {
        return missing(format!("LLMProvider {name} is gone; restore it"));
    };
    let Ok(endpoint) = Endpoint::from_spec(&provider.spec) else {
        return missing(format!("LLMProvider {name} has no usable URL"));
    };
    let account = ctx.account(provider, &endpoint).await?;
    Ok(account.map(|account| (reference(name, provider, &account), account, endpoint)))
}

/// The account as ledgers name it.
fn reference(name: &str, provider: &LLMProvider, account: &Account) -> AccountRef {
    AccountRef {
        provider: name.to_owned(),
        r#type: provider.spec.r#type,
        host: account.authority(),
        project: account.project().to_owned(),
    }
}

/// Whether the provider lists the namespace.
pub fn allowed(provider: &LLMProvider, namespace: &str) -> bool {
    provider.spec.allowed_namespaces.iter().any(|n| n == "*" || n == namespace)
}
