//! All reads of a reconcile. As few as the question needs: what the watches show unchanged is not read.

mod source;
mod target;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;

use super::act::Held;
use super::edits::edits;
use super::memory::{Remember, Seen, unchanged};
use super::model::{Former, LedgerView, Memory, Observed, Pass, SourceView, TargetView};
use super::views::{Resolved, account_at, key_view, policy_view, resolve, texts};
use crate::api::{ConditionStatus, ConditionType, LLMKey, REFRESH, Reason, parse_rfc3339};
use crate::controller::context::Ctx;
use crate::controller::usage::of_keys;
use crate::crypto::{self, SecretBytes};
use crate::domain::health::{Health, HealthState, Verdict};
use crate::domain::lifecycle::VersionState;
use crate::domain::names::ledger_name;
use crate::domain::usage::Reading;
use crate::ledger::{AccountId, DecodeError, KeyFacts, Ledger, LedgerError, Record, Summary, Version};
pub use source::read_value;
pub use target::{owner_reference, written, written_at};

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

/// Observes an LLMKey.
pub async fn observe(ctx: &Ctx, key: &LLMKey, depth: Depth) -> Result<Seeing, kube::Error> {
    let Resolved { view: provider, endpoint, account, stamp } = resolve(ctx, key).await?;
    let texts = texts(key, endpoint.as_ref());
    let mut view = key_view(key, &texts, &ctx.timings);
    if texts.data.is_empty() {
        // Their defaults are the provider's. An empty Secret must never replace the last good one.
        view.template_problem = Some("what to deliver is not known while the provider cannot be used".into());
    }
    if view.deleting && view.finalizer {
        view.namespace_terminating = terminating(ctx, &view.namespace).await?;
    }
    let recalled = ctx.remembered.recall(&view.namespace, &view.name, &view.uid);
    let refresh = key.annotations().get(REFRESH);
    // Of one that is there when the key is first looked at nobody knows whether it was answered; that look is a fresh one.
    let refreshed = refresh.is_some() && recalled.as_ref().is_some_and(|r| r.refresh.as_ref() != refresh);
    let mut remember = recalled.unwrap_or_else(|| from_status(key));
    remember.refresh = refresh.cloned();
    if refreshed {
        remember.memory.check_asked = Some(ctx.clock.now());
    }
    remember.memory.started.get_or_insert_with(|| ctx.clock.now());
    let edits = edits(ctx, key, &stamp);
    if remember.edits != edits {
        // Somebody did something about it: what failed is tried again at once.
        remember.memory.failing.clear();
        remember.memory.unmatched = None;
        remember.edits.clone_from(&edits);
    }
    resume_health(key, &mut remember.memory, ctx.clock.now());
    let mut seeing = Seeing {
        observed: Observed {
            policy: policy_view(ctx, key),
            provider,
            former: None,
            source: SourceView::None,
            ledger: LedgerView::Absent,
            target: TargetView::Unread,
            memory: remember.memory.clone(),
            pass: Pass::default(),
            turn: None,
            usage: None,
            key: view,
            edits,
            supplied_by: None,
        },
        held: Held { texts, endpoint, account, ..Held::default() },
        remember,
    };
    seeing.observed.usage = usage(ctx, key, &seeing.observed);
    if depth == Depth::Glance && !refreshed && glance(ctx, key, &mut seeing) {
        return Ok(seeing);
    }
    read(ctx, key, &mut seeing).await?;
    Ok(seeing)
}

/// Whether the provider reports what this `LLMKey`'s keys have used: those that it knows by their ids.
pub(super) const fn tells_usage(o: &Observed) -> bool {
    (o.key.minted || o.provider.matches) && o.provider.reports_usage
}

/// What was read of the keys that status and ledger name, as long as the account can be called.
fn usage(ctx: &Ctx, key: &LLMKey, o: &Observed) -> Option<Reading> {
    let account = o.provider.account.as_ref().filter(|_| tells_usage(o))?;
    let reading = ctx.usage.of(&AccountId::of(account))?;
    let shown = key.status.iter().flat_map(|status| &status.versions);
    let shown = shown.filter_map(|version| version.provider_key_id.as_ref());
    let held = match &o.ledger {
        LedgerView::Present(ledger) => ledger.record.versions.as_slice(),
        _ => &[],
    };
    let held = held.iter().filter_map(|version| version.provider_key_id.as_ref());
    Some(of_keys(&reading, shown.chain(held)))
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
    if !generation || o.key.deleting || !o.memory.failing.is_empty() || asked {
        return false;
    }
    let ledger = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&o.key.namespace, &o.key.name));
    let target = ctx.index.secret(&o.key.namespace, &o.key.target_name);
    let source = key.spec.source.secret_ref.as_ref();
    let pool = key.spec.source.pool.as_ref();
    // Where a text is wrong nothing would be written.
    let rendered =
        o.key.template_problem.is_some() || remember.rendering.as_ref() == Some(&seeing.held.texts.digest());
    let source_unchanged = source.is_none_or(|s| {
        unchanged(ctx.index.secret(&o.key.namespace, &s.name).as_ref(), remember.source.as_ref())
    }) && pool
        .is_none_or(|_| source::pool_unchanged(ctx, &o.key, remember.source.as_ref()));
    if !rendered
        || !source_unchanged
        || !unchanged(ledger.as_ref(), remember.ledger.as_ref())
        || !unchanged(target.as_ref(), remember.target.as_ref())
        || !ledger.as_ref().is_none_or(|ledger| ctx.opens(ledger))
    {
        return false;
    }
    let summary = ledger.and_then(|l| l.summary).and_then(|s| serde_json::from_str::<Summary>(&s).ok());
    match summary {
        Some(summary) if !summary.open && summary.owner.as_deref() == Some(o.key.uid.as_str()) => {
            o.source =
                if source.is_some() || pool.is_some() { SourceView::Unchanged } else { SourceView::None };
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
    // On deletion nothing is left to a watch that may be late.
    let nothing_known = seeing.remember.ledger.is_none()
        && !seeing.observed.key.had_versions
        && !seeing.observed.key.deleting;
    seeing.observed.ledger = if nothing_known && watched.is_none_or(|w| w.gone) && !seeing.held.look_again {
        LedgerView::Absent
    } else {
        read_ledger(ctx, &namespace, &name, &mut seeing.remember).await?
    };
    if let LedgerView::Present(ledger) = &seeing.observed.ledger {
        let own = key.spec.provider_ref.as_ref().map(|p| p.name.as_str());
        let former = former(ctx, &ledger.record, own, &mut seeing.held).await?;
        seeing.observed.former = former;
    }
    seeing.observed.usage = usage(ctx, key, &seeing.observed);
    seeing.observed.recall_failures(&ctx.timings);
    source::read_source(ctx, key, seeing).await?;
    target::read_target(ctx, seeing).await
}

/// Keys that are to go and were made at another LLMProvider; if at several, those of the oldest version.
async fn former(
    ctx: &Ctx,
    record: &Record,
    own: Option<&str>,
    held: &mut Held,
) -> Result<Option<Former>, kube::Error> {
    let now = ctx.clock.now();
    let leaving = |v: &&Version| {
        matches!(v.state, VersionState::Retiring | VersionState::Intent) && v.put_off(now).is_none()
    };
    let accounts = record.versions.iter().filter(leaving).filter_map(|v| v.account.as_ref());
    let Some(provider) = accounts.map(|a| a.provider.clone()).find(|p| Some(p.as_str()) != own) else {
        return Ok(None);
    };
    let account = match account_at(ctx, &provider).await? {
        Ok((of, account, _)) => {
            if let Some(problem) = ctx.hold_on(&of).await? {
                Err(problem)
            } else {
                held.former = Some((provider.clone(), account));
                Ok(of)
            }
        }
        Err(problem) => Err(problem),
    };
    Ok(Some(Former { provider, account }))
}

/// After a glance: reads the ledger for the key that it holds. If it is another one than was last found right, or
/// unusable, everything is read.
pub async fn look_at_ledger(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let known = seeing.remember.ledger.clone();
    let Seeing { observed: o, remember, .. } = seeing;
    o.ledger = read_ledger(ctx, &o.key.namespace, &o.key.name, remember).await?;
    let same = |ledger: &Ledger| known.is_some_and(|k| *k.resource_version == *ledger.resource_version);
    match &o.ledger {
        LedgerView::Present(ledger) if same(ledger) => Ok(()),
        _ => read(ctx, key, seeing).await,
    }
}

/// Reads again after another hand's write: nothing is taken from the watches.
pub async fn look_again(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    seeing.held.look_again = true;
    seeing.observed.pass.forget_holders();
    read(ctx, key, seeing).await
}

/// Whether all that a person may have said, and the account, still are what this pass went by. The target is read anew.
pub async fn stands(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<bool, kube::Error> {
    let reference = ObjectRef::new(&seeing.observed.key.name).within(&seeing.observed.key.namespace);
    let shown = ctx.stores.keys.get(&reference);
    let Some(Ok(now)) = shown.as_ref().map(|shown| &shown.0) else { return Ok(false) };
    let said = |key: &LLMKey| {
        let meta = &key.metadata;
        (meta.uid.clone(), meta.generation, meta.annotations.clone(), meta.deletion_timestamp.clone())
    };
    if said(now) != said(key) {
        return Ok(false);
    }
    let Resolved { view, stamp, .. } = resolve(ctx, now).await?;
    let o = &seeing.observed;
    if view != o.provider || policy_view(ctx, now) != o.policy || edits(ctx, now, &stamp) != o.edits {
        return Ok(false);
    }
    if !matches!(seeing.observed.target, TargetView::Unread) {
        target::read_target(ctx, seeing).await?;
    }
    Ok(true)
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
            unreadable(&error),
            format!(
                "Secret {} in namespace {}: {error}",
                ledger_name(namespace, name),
                ctx.operator_namespace
            ),
        ),
    })
}

/// Why a ledger that is there cannot be used: what is missing in the keyring, a person can put back.
pub fn unreadable(error: &LedgerError) -> Reason {
    match error {
        LedgerError::Unreadable(DecodeError::KeyMissing(_)) => Reason::KeyringMissing,
        LedgerError::Audit(_) => Reason::AuditUnwritable,
        _ => Reason::LedgerUnreadable,
    }
}

/// What may be known of a key without holding it.
pub fn facts(ctx: &Ctx, namespace: &str, key: &SecretBytes) -> KeyFacts {
    KeyFacts {
        fingerprint: ctx.install.key.fingerprint(key).as_str().to_owned(),
        shown: ctx.install.key.status_fingerprint(namespace, key),
        last_four: crypto::last_four(key).unwrap_or_default(),
    }
}

/// Opens a version's key into `held`. What does not open is not held, and its target not touched.
pub fn open(ctx: &Ctx, ledger: &Ledger, number: i32, held: &mut Held) -> bool {
    if held.keys.contains_key(&number) {
        return true;
    }
    let record = &ledger.record;
    let Some(envelope) = record.version(number).and_then(|v| v.sealed.as_ref()) else { return false };
    match crypto::open(&ctx.keyring.now(), &record.identity(number), envelope) {
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
        rendering: observed.and_then(|o| o.rendering.clone()),
        generation: status.and_then(|s| s.observed_generation),
        ..Remember::default()
    }
}

/// Health as status tells it, after a restart: state and history go on; the last answer is not known.
pub(super) fn resume_health(key: &LLMKey, memory: &mut Memory, now: DateTime<Utc>) {
    if memory.refused.is_empty() {
        // What the provider said of a pool's keys: they are not asked again just because of a restart.
        let skipped = key.status.iter().flat_map(|s| &s.pool).flat_map(|pool| &pool.skipped);
        memory.refused = skipped.filter_map(|s| Some((s.fingerprint.clone()?, now))).collect();
    }
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
    let healthy = |r: Reason| condition(ConditionType::Healthy).is_some_and(|c| c.reason == r.as_str());
    memory.health = Some(Health {
        fingerprint: shown.clone(),
        state: HealthState::parse(&health.state).unwrap_or(HealthState::Unknown),
        since: time(&health.since),
        history: health
            .history
            .iter()
            .filter_map(|h| Some((HealthState::parse(&h.state)?, time(&h.since))))
            .collect(),
        rejections: i32::from(healthy(Reason::ConfirmingRejection)),
        accepted: if is(ConditionStatus::True) && reason(Reason::KeyValid) {
            Some(true)
        } else if reason(Reason::KeyInvalid) {
            Some(false)
        } else {
            None
        },
        last: healthy(Reason::AddressRefused).then_some((Verdict::AddressRefused, now)),
        first_asked: None,
    });
}
