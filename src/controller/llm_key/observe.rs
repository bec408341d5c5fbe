//! All reads of a reconcile. As few as the question needs: what the watches show unchanged is not read.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::ResourceExt;
use kube::api::Api;

use super::act::Held;
use super::memory::{Remember, Seen, unchanged};
use super::model::{LedgerView, Memory, Observed, Pass, SourceView, TargetView};
use super::views::{Resolved, key_view, policy_view, resolve, texts};
use crate::api::{ConditionStatus, ConditionType, FIELD_MANAGER, LLMKey, Reason, from_k8s, parse_rfc3339};
use crate::controller::context::Ctx;
use crate::controller::index::owner;
use crate::crypto::{self, Identity, SecretBytes};
use crate::domain::health::{Health, HealthState};
use crate::domain::names::ledger_name;
use crate::domain::template;
use crate::ledger::{KeyFacts, Ledger, LedgerError, Record, Summary};
use crate::provider::check_shape;

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What the watches show is enough if nothing changed and nothing is due.
    Glance,
    /// Quorum reads of ledger, source and target.
    Full,
}

/// An observation with what must not stand in it.
pub struct Seeing {
    /// For decisions.
    pub observed: Observed,
    /// Key material and object versions, for effects.
    pub held: Held,
    /// For the end of the reconcile.
    pub remember: Remember,
}

/// Types of Secret that hold a key a person wrote down.
const SOURCE_TYPES: [&str; 1] = ["Opaque"];

/// Observes an LLMKey.
pub async fn observe(ctx: &Ctx, key: &LLMKey, depth: Depth) -> Result<Seeing, kube::Error> {
    let Resolved { view: provider, endpoint, account, stamp } = resolve(ctx, key).await;
    let texts = texts(key, endpoint.as_ref());
    let mut view = key_view(key, &texts, &ctx.timings);
    if texts.data.is_empty() {
        // Their defaults are the provider's. An empty Secret must never replace the last good one.
        view.template_problem = Some("what to deliver is not known while the provider cannot be used".into());
    }
    if view.deleting && view.finalizer {
        view.namespace_terminating = terminating(ctx, &view.namespace).await?;
    }
    let mut remember =
        ctx.remembered.recall(&view.namespace, &view.name, &view.uid).unwrap_or_else(|| from_status(key));
    remember.memory.started.get_or_insert_with(|| ctx.clock.now());
    if remember.generation != key.metadata.generation || remember.stamp != stamp {
        // Somebody did something about it: what failed is tried again at once.
        remember.memory.failing = None;
        remember.stamp = stamp;
    }
    resume_health(key, &mut remember.memory, ctx.clock.now());
    let mut seeing = Seeing {
        observed: Observed {
            policy: policy_view(ctx, key),
            provider,
            source: SourceView::None,
            ledger: LedgerView::Absent,
            target: TargetView::Unread,
            memory: remember.memory.clone(),
            pass: Pass::default(),
            key: view,
        },
        held: Held { texts, endpoint, account, ..Held::default() },
        remember,
    };
    if depth == Depth::Glance && glance(ctx, key, &mut seeing) {
        return Ok(seeing);
    }
    read(ctx, key, &mut seeing).await?;
    Ok(seeing)
}

async fn terminating(ctx: &Ctx, namespace: &str) -> Result<bool, kube::Error> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    Ok(api.get_opt(namespace).await?.is_none_or(|ns| ns.metadata.deletion_timestamp.is_some()))
}

/// Whether the watches say that nothing changed. Then the ledger's summary is all that is needed.
fn glance(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> bool {
    let o = &mut seeing.observed;
    let remember = &seeing.remember;
    let generation = remember.generation == key.metadata.generation;
    let asked = o.key.rotate.is_some() && o.key.rotate != o.key.last_handled_rotate;
    if !generation || o.key.deleting || o.memory.failing.is_some() || asked {
        return false;
    }
    let ledger = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&o.key.namespace, &o.key.name));
    let target = ctx.index.secret(&o.key.namespace, &o.key.target_name);
    let source = key.spec.source.secret_ref.as_ref();
    let source_unchanged = source.is_none_or(|s| {
        unchanged(ctx.index.secret(&o.key.namespace, &s.name).as_ref(), remember.source.as_ref())
    });
    if !source_unchanged
        || !unchanged(ledger.as_ref(), remember.ledger.as_ref())
        || !unchanged(target.as_ref(), remember.target.as_ref())
    {
        return false;
    }
    let summary = ledger.and_then(|l| l.summary).and_then(|s| serde_json::from_str::<Summary>(&s).ok());
    match summary {
        Some(summary) if !summary.open && summary.owner.as_deref() == Some(o.key.uid.as_str()) => {
            o.source = if source.is_some() { SourceView::Unchanged } else { SourceView::None };
            o.ledger = LedgerView::Unread(summary);
            true
        }
        _ => false,
    }
}

async fn read(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let namespace = seeing.observed.key.namespace.clone();
    let name = seeing.observed.key.name.clone();
    // A new LLMKey of which no watch shows a ledger has none; if it has, the POST says so.
    let watched = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&namespace, &name));
    let nothing_known = seeing.remember.ledger.is_none() && !seeing.observed.key.had_versions;
    seeing.observed.ledger = if nothing_known && watched.is_none_or(|w| w.gone) && !seeing.held.look_again {
        LedgerView::Absent
    } else {
        read_ledger(ctx, &namespace, &name, &mut seeing.remember).await?
    };
    read_source(ctx, key, seeing).await?;
    read_target(ctx, seeing).await
}

/// Reads again after another hand's write: nothing is taken from the watches.
pub async fn look_again(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    seeing.held.look_again = true;
    seeing.observed.pass.shared = None;
    seeing.observed.pass.checked_after_l4 = None;
    read(ctx, key, seeing).await
}

async fn read_ledger(
    ctx: &Ctx,
    namespace: &str,
    name: &str,
    remember: &mut Remember,
) -> Result<LedgerView, kube::Error> {
    Ok(match ctx.ledgers.get(namespace, name).await {
        Ok(Some(ledger)) => {
            remember.ledger =
                Some(Seen { resource_version: ledger.resource_version.as_str().into(), first_hand: true });
            LedgerView::Present(Box::new(ledger))
        }
        Ok(None) => LedgerView::Absent,
        Err(LedgerError::Kube(error)) => return Err(*error),
        Err(error) => LedgerView::Unreadable(
            Reason::LedgerUnreadable,
            format!(
                "Secret {} in namespace {}: {error}",
                ledger_name(namespace, name),
                ctx.operator_namespace
            ),
        ),
    })
}

async fn read_source(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let Some(reference) = &key.spec.source.secret_ref else { return Ok(()) };
    let namespace = &seeing.observed.key.namespace;
    let problem =
        |reason, message: String| SourceView::Problem(reason, format!("spec.source.secretRef: {message}"));
    let place = format!("Secret {namespace}/{}", reference.name);
    if ctx.index.is_target(namespace, &reference.name) {
        seeing.observed.source = problem(
            Reason::SourceIsTarget,
            format!("{place} is the target of an LLMKey; name the Secret that you write"),
        );
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(mut secret) = api.get_opt(&reference.name).await? else {
        seeing.remember.source = None;
        seeing.observed.source =
            problem(Reason::SourceNotFound, format!("{place} does not exist; create it"));
        return Ok(());
    };
    seeing.remember.source =
        secret.resource_version().map(|v| Seen { resource_version: v.into_boxed_str(), first_hand: true });
    let type_ = secret.type_.clone().unwrap_or_default();
    if !SOURCE_TYPES.contains(&type_.as_str()) || owner(secret.owner_references()).is_some() {
        seeing.observed.source = problem(
            Reason::SourceTypeRefused,
            format!(
                "{place} has type {type_}; a key is taken only from a Secret of type Opaque that the operator does not write"
            ),
        );
        return Ok(());
    }
    let Some(value) = secret.data.take().and_then(|mut data| data.remove(&reference.key)) else {
        seeing.observed.source =
            problem(Reason::SourceKeyMissing, format!("{place} has no key {}; add it", reference.key));
        return Ok(());
    };
    let value = trimmed(SecretBytes::new(value.0));
    let Some(kind) = seeing.held.endpoint.as_ref().map(crate::provider::Endpoint::provider) else {
        // Whose key it would be is not known: it is looked at when it is.
        seeing.remember.source = None;
        seeing.observed.source = SourceView::Unchanged;
        return Ok(());
    };
    seeing.observed.source = if let Err(error) = check_shape(kind, &value) {
        problem(Reason::SourceShapeRefused, format!("the value of {} in {place}: {error}", reference.key))
    } else {
        let facts = facts(ctx, namespace, &value);
        seeing.held.source = Some(value);
        SourceView::Value(facts)
    };
    Ok(())
}

/// Tools that write files add a line break; it is never part of a key.
fn trimmed(value: SecretBytes) -> SecretBytes {
    let kept = value.expose().trim_ascii_end().len();
    if kept == value.len() { value } else { SecretBytes::new(value.expose()[..kept].to_vec()) }
}

/// What may be known of a key without holding it.
pub fn facts(ctx: &Ctx, namespace: &str, key: &SecretBytes) -> KeyFacts {
    KeyFacts {
        fingerprint: ctx.install.key.fingerprint(key).as_str().to_owned(),
        shown: ctx.install.key.status_fingerprint(namespace, key),
        last_four: crypto::last_four(key).unwrap_or_default(),
    }
}

async fn read_target(ctx: &Ctx, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let Seeing { observed: o, held, remember } = seeing;
    let (namespace, name) = (&o.key.namespace, &o.key.target_name);
    let watched = ctx.index.secret(namespace, name);
    let delivering = remember.target.is_some()
        || watched.as_ref().and_then(|w| w.owner.as_ref()).is_some_and(|(_, uid)| **uid == *o.key.uid);
    // Creation times have steps of a second and clocks differ: who delivers already is not asked to yield.
    if !delivering && let Some(other) = ctx.index.earlier_claimant(namespace, &o.key.name) {
        o.target = TargetView::Foreign(
            Reason::TargetConflict,
            format!("LLMKey {other} delivers to Secret {name} already; choose another target.secretName"),
        );
        return Ok(());
    }
    let first = matches!(o.ledger, LedgerView::Absent) && remember.target.is_none() && !held.look_again;
    if first && watched.is_none_or(|w| w.gone) {
        o.target = TargetView::Absent;
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(secret) = api.get_opt(name).await? else {
        held.target = None;
        o.target = TargetView::Absent;
        return Ok(());
    };
    let resource_version = secret.resource_version().unwrap_or_default();
    let uid = secret.uid().unwrap_or_default();
    o.target = match owner(secret.owner_references()) {
        Some((_, owner_uid)) if *owner_uid == *o.key.uid => {
            let deliverable = deliverable(ctx, &o.ledger, held);
            remember.target =
                Some(Seen { resource_version: resource_version.as_str().into(), first_hand: true });
            TargetView::Ours {
                carries: deliverable.into_iter().find(|v| carries(&secret, held, *v, &o.key.name)),
                since: written_at(&secret),
            }
        }
        Some((owner, _)) if *owner == *o.key.name => TargetView::PreviousOwner,
        _ if secret.annotations().get(crate::api::ADOPT_BY).is_some_and(|by| *by == o.key.name) => {
            TargetView::Offered
        }
        Some((owner, _)) => TargetView::Foreign(
            Reason::TargetConflict,
            format!("Secret {name} belongs to LLMKey {owner}; choose another target.secretName"),
        ),
        None => TargetView::Foreign(
            Reason::TargetForeign,
            format!(
                "Secret {name} is not the operator's; choose another target.secretName, or let it be taken over: \
                 kubectl annotate secret {name} {}={}",
                crate::api::ADOPT_BY,
                o.key.name
            ),
        ),
    };
    if secret.type_.as_deref() != Some("Opaque") && !matches!(o.target, TargetView::Foreign(..)) {
        o.target = TargetView::Foreign(
            Reason::TargetForeign,
            format!(
                "Secret {name} has a type that cannot be changed; delete it, or choose another target.secretName"
            ),
        );
    }
    held.target = Some((resource_version, uid));
    Ok(())
}

/// The versions that the target may carry, with their keys opened into `held`: the delivered one, and before it the one
/// on its way, which may have been written already.
fn deliverable(ctx: &Ctx, ledger: &LedgerView, held: &mut Held) -> Vec<i32> {
    let LedgerView::Present(ledger) = ledger else { return Vec::new() };
    let record = &ledger.record;
    let on_its_way = record.in_flight().filter(|v| v.sealed.is_some());
    let numbers: Vec<i32> = on_its_way.into_iter().chain(record.delivered()).map(|v| v.version).collect();
    for number in &numbers {
        open(ctx, ledger, *number, held);
    }
    numbers
}

/// Opens a version's key into `held`. What does not open is not held, and its target not touched.
pub fn open(ctx: &Ctx, ledger: &Ledger, number: i32, held: &mut Held) -> bool {
    if held.keys.contains_key(&number) {
        return true;
    }
    let record = &ledger.record;
    let Some(envelope) = record.version(number).and_then(|v| v.sealed.as_ref()) else { return false };
    match crypto::open(&ctx.keyring, &identity(record, number), envelope) {
        Ok(key) => {
            held.keys.insert(number, key);
            true
        }
        Err(error) => {
            tracing::error!(namespace = record.namespace, name = record.name, version = number, %error, "a sealed key does not open");
            false
        }
    }
}

/// The place that a version's key is sealed for.
pub fn identity(record: &Record, number: i32) -> Identity<'_> {
    Identity {
        install: &record.install,
        namespace: &record.namespace,
        name: &record.name,
        lineage: &record.lineage,
        version: u32::try_from(number).unwrap_or_default(),
    }
}

/// Whether the Secret is exactly what delivering the version would write.
fn carries(secret: &Secret, held: &Held, version: i32, key: &str) -> bool {
    let Some(bytes) = held.keys.get(&version) else { return false };
    let Ok(rendered) = template::render(&held.texts.data, bytes, &held.texts.values(version)) else {
        return false;
    };
    let data = secret.data.as_ref();
    let labels = secret.labels();
    data.is_some_and(|d| d.len() == rendered.len())
        && rendered.iter().all(|(entry, value)| {
            data.and_then(|d| d.get(entry)).is_some_and(|found| found.0 == value.expose())
        })
        && labels.get(crate::api::MANAGED_BY_LABEL).map(String::as_str) == Some(crate::api::MANAGED_BY)
        && labels.get(crate::api::KEY_LABEL).is_some_and(|l| *l == super::act::key_label(key))
}

/// When the operator last wrote the Secret, by the API server's clock: whole seconds, rounded up.
pub fn written_at(secret: &Secret) -> Option<DateTime<Utc>> {
    secret
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|f| f.manager.as_deref() == Some(FIELD_MANAGER))
        .filter_map(|f| f.time.as_ref())
        .map(|t| from_k8s(t) + chrono::Duration::seconds(1))
        .max()
}

fn from_status(key: &LLMKey) -> Remember {
    let status = key.status.as_ref();
    let seen = |version: &Option<String>| {
        version.as_ref().map(|v| Seen { resource_version: v.as_str().into(), first_hand: false })
    };
    let observed = status.and_then(|s| s.observed.as_ref());
    Remember {
        ledger: observed.and_then(|o| seen(&o.ledger)),
        source: observed.and_then(|o| seen(&o.source)),
        target: observed.and_then(|o| seen(&o.target)),
        generation: status.and_then(|s| s.observed_generation),
        ..Remember::default()
    }
}

/// Health as status tells it, after a restart: state and history go on; the last answer is not known.
pub(super) fn resume_health(key: &LLMKey, memory: &mut Memory, now: DateTime<Utc>) {
    if memory.health.is_some() {
        return;
    }
    let Some(status) = &key.status else { return };
    let (Some(shown), Some(health)) = (&status.fingerprint, &status.health) else { return };
    let condition = |kind: ConditionType| status.conditions.iter().find(|c| c.type_ == kind.as_str());
    let time = |text: &str| parse_rfc3339(text).unwrap_or(now);
    let ready = condition(ConditionType::Ready);
    let is = |status: ConditionStatus| ready.is_some_and(|c| c.status == status.as_str());
    let reason = |r: Reason| ready.is_some_and(|c| c.reason == r.as_str());
    let confirming =
        condition(ConditionType::Healthy).is_some_and(|c| c.reason == Reason::ConfirmingRejection.as_str());
    memory.health = Some(Health {
        fingerprint: shown.clone(),
        state: HealthState::parse(&health.state).unwrap_or(HealthState::Unknown),
        since: time(&health.since),
        history: health
            .history
            .iter()
            .filter_map(|h| Some((HealthState::parse(&h.state)?, time(&h.since))))
            .collect(),
        rejections: i32::from(confirming),
        accepted: if is(ConditionStatus::True) && reason(Reason::KeyValid) {
            Some(true)
        } else if reason(Reason::KeyInvalid) {
            Some(false)
        } else {
            None
        },
        last: None,
        first_asked: None,
    });
}

/// The LLMKey as an owner of its target.
pub fn owner_reference(
    key: &LLMKey,
) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    kube::Resource::controller_owner_ref(key, &())
}
