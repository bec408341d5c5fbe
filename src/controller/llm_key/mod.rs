//! The controller of `LLMKey`s: observe, decide, act, status, and nothing else.

mod act;
pub mod decide;
mod edits;
#[cfg(any(test, feature = "model"))]
pub mod exploration;
mod fit;
pub mod fold;
pub mod made;
pub mod memory;
pub mod model;
mod observe;
pub mod plan;
pub mod requester;
pub mod retry;
mod rotations;
mod status;
mod views;
#[cfg(any(test, feature = "model"))]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests and the model end where they are wrong")]
#[cfg_attr(not(test), allow(dead_code, reason = "the model needs less of it than the tests"))]
mod world;

use std::sync::Arc;
use std::time::Duration;

use chrono::SubsecRound;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tracing::Instrument;

pub use act::{Actor, Held, NotDone};
pub use model::{Env, Observed, Plan};
pub use observe::{Depth, Seeing, unreadable, written};
pub use views::{Resolved, account_at, allowed, bare, policy};

use crate::api::{FIELD_MANAGER, FINALIZER, LLMKey, LLMKeyStatus, ObservedVersions, Reason};
use crate::controller::context::Ctx;
use crate::controller::fleet;
use crate::controller::index::Name;
use crate::controller::llm_key::memory::{Seen, newest};
use crate::controller::llm_key::model::{Effect, LedgerView, Look, TargetView};
use crate::controller::{ReconcileError, brief, malformed, retry_after};
use crate::domain::health::Health;
use crate::domain::lifecycle::VersionState;
use crate::telemetry::key_gauges::{KeyGauges, problems};
use crate::telemetry::metrics::{Controller, Outcome};

/// Steps of one reconcile at most; what is left is done in the next.
const MAX_STEPS: usize = 32;

/// A pass that has waited for an answer so long does not go by what it saw before to make or revoke a further key: a person may have
/// paused the `LLMKey` or changed its policy since.
const SEEN_LASTS: Duration = Duration::from_secs(5);

/// How long to wait for a watch that is behind our own write.
const LATE_WATCH: Duration = Duration::from_millis(20);

/// Whose answers work on an LLMKey waits for: the LLMProvider, or the provider whose public endpoint it names.
pub fn lane(ctx: &Ctx, name: &Name) -> String {
    let guarded = ctx.stores.keys.get(&ObjectRef::new(&name.1).within(&name.0));
    let spec = guarded.as_ref().and_then(|key| Some(&key.0.as_ref().ok()?.spec));
    match spec.map(|spec| (&spec.provider_ref, spec.provider)) {
        Some((Some(account), _)) => account.name.clone(),
        // No LLMProvider has a name like that.
        Some((None, Some(provider))) => format!("{provider:?}"),
        Some((None, None)) | None => String::new(),
    }
}

/// One reconcile, of the LLMKey as it is when its turn comes. Returns when to look again, if that is known.
pub async fn in_turn(ctx: Arc<Ctx>, name: Name) -> Option<Duration> {
    let guarded = ctx.stores.keys.get(&ObjectRef::new(&name.1).within(&name.0))?;
    let span = tracing::info_span!("reconcile", kind = "LLMKey", namespace = &*name.0, name = &*name.1);
    async {
        let ended = super::contained(reconcile(guarded, &ctx)).await;
        ended.unwrap_or_else(|error| Some(retry_after(&error, &ctx)))
    }
    .instrument(span)
    .await
}

async fn reconcile(
    guarded: Arc<DeserializeGuard<LLMKey>>,
    ctx: &Ctx,
) -> Result<Option<Duration>, ReconcileError> {
    if !ctx.leader.is_leader() {
        return Err(ReconcileError::NotLeader);
    }
    let pass = ctx.metrics.begin(Controller::LLMKey, ctx.clock);
    let key = match &guarded.0 {
        Ok(key) => key,
        Err(invalid) => {
            if invalid.metadata.deletion_timestamp.is_some() {
                let_go(ctx, &invalid.metadata).await?;
            } else {
                malformed::<LLMKey>(ctx, invalid, true).await;
            }
            // What was last known of it tells nothing about it any more.
            let meta = &invalid.metadata;
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            fleet::forget(ctx, namespace.unwrap_or_default(), name.unwrap_or_default());
            ctx.metrics.forget_key(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            );
            pass.finish(Outcome::Waiting);
            return Ok(None);
        }
    };
    let ended = run(ctx, key).await;
    forget_gone(ctx, key);
    match ended {
        Ok((again, outcome)) => {
            pass.finish(outcome);
            Ok(again)
        }
        Err(error) => {
            pass.finish(Outcome::Failed);
            Err(error)
        }
    }
}

/// A reconcile that ends after its LLMKey went leaves nothing behind: the watch, which takes it out of the store first
/// and forgets it then, has done so before.
fn forget_gone(ctx: &Ctx, key: &LLMKey) {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let shown = ctx.stores.keys.get(&ObjectRef::new(&name).within(&namespace));
    if shown.is_none_or(|shown| shown.meta().uid != key.metadata.uid) {
        ctx.remembered.forget(&namespace, &name);
        ctx.metrics.forget_key(&namespace, &name);
        fleet::forget(ctx, &namespace, &name);
    }
}

/// Takes our finalizer off an LLMKey that cannot be read: its ledger knows all that revocation needs, and is released
/// when the LLMKey is gone.
async fn let_go(ctx: &Ctx, meta: &ObjectMeta) -> Result<(), ReconcileError> {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let others: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
    if others.len() == finalizers.len() {
        return Ok(());
    }
    let api: Api<PartialObjectMeta<LLMKey>> =
        Api::namespaced(ctx.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let patch = serde_json::json!({"metadata": {
        "resourceVersion": meta.resource_version, "uid": meta.uid, "finalizers": others,
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn run(ctx: &Ctx, key: &LLMKey) -> Result<(Option<Duration>, Outcome), ReconcileError> {
    if ctx.remembered.wrote_after(key) {
        // The watch has not shown our own status yet. One that is derived from an older one would lose what it tells.
        return Ok((Some(LATE_WATCH), Outcome::Waiting));
    }
    let now = env(ctx)?;
    let seen = Box::pin(see(ctx, key, &now)).await;
    let mut seeing = seen.inspect_err(|_| fleet::falter(ctx, key))?;
    let ended = steps(ctx, key, &mut seeing).await;
    if let LedgerView::Present(ledger) = &seeing.observed.ledger
        && seeing.observed.key.is_newer_than(&ledger.record)
    {
        // An older copy that was put back is never found right: each look reads it, and tells of it.
        seeing.remember.ledger = None;
    }
    if !seeing.observed.source_is_delivered() {
        // What was not found right is read again, by this process and by the next.
        seeing.remember.source = None;
    }
    if matches!(seeing.observed.target, TargetView::Ours { carries: Some(_), .. }) {
        seeing.remember.rendering = Some(seeing.held.texts.digest());
    }
    let now = env(ctx)?;
    let plan = decide::decide(&seeing.observed, &now);
    fleet::report(ctx, key, &seeing.observed, &plan, &now);
    let written = write_status(ctx, key, &mut seeing, &plan, &now).await;
    // A status that was not written is lost to a glance: the next pass reads everything again.
    let whole = written.is_ok() && ended.as_ref().is_ok_and(|e| *e != Ended::Changed);
    remember(ctx, key, seeing, whole);
    let outcome = ended?;
    written?;
    tracing::debug!(
        namespace = key.namespace(),
        name = key.name_any(),
        ?outcome,
        wake = plan.wake.map(crate::api::rfc3339),
        "reconciled"
    );
    let again = match outcome {
        Ended::Changed => Some(ctx.timings.retry_base),
        Ended::Unfinished => Some(Duration::ZERO),
        Ended::Done { .. } => plan.wake.map(|at| {
            // Decisions count in whole seconds: before the next one is full nothing new is due.
            let at = if at.timestamp_subsec_nanos() == 0 {
                at
            } else {
                at.trunc_subsecs(0) + chrono::Duration::seconds(1)
            };
            let wait = (at - ctx.clock.now_precise()).to_std().unwrap_or_default();
            wait + Duration::from_millis(20)
        }),
    };
    Ok((again, outcome.as_outcome(&plan)))
}

/// A glance, and as much more as what is due needs.
async fn see(ctx: &Ctx, key: &LLMKey, now: &Env) -> Result<Seeing, kube::Error> {
    let mut seeing = observe::observe(ctx, key, Depth::Glance).await?;
    if !matches!(seeing.observed.ledger, LedgerView::Unread(_)) {
        return Ok(seeing);
    }
    let mut plan = decide::decide(&seeing.observed, now);
    if fleet::ask(ctx, key, &mut seeing.observed, &plan) {
        plan = decide::decide(&seeing.observed, now);
    }
    match plan.look {
        Look::Nothing => {}
        Look::Ledger => observe::look_at_ledger(ctx, key, &mut seeing).await?,
        Look::Everything => {
            let turn = seeing.observed.turn;
            seeing = observe::observe(ctx, key, Depth::Full).await?;
            seeing.observed.turn = turn;
        }
    }
    Ok(seeing)
}

/// How the steps of a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nothing is left to do now.
    Done { acted: bool },
    /// Another hand wrote, more than once.
    Changed,
    /// There is more than one reconcile does.
    Unfinished,
}

impl Ended {
    fn as_outcome(self, plan: &Plan) -> Outcome {
        match self {
            Self::Done { acted: true } => Outcome::Applied,
            Self::Done { acted: false } if plan.findings.is_empty() => Outcome::Skipped,
            Self::Done { acted: false } | Self::Unfinished => Outcome::Waiting,
            Self::Changed => Outcome::Failed,
        }
    }
}

/// Decides and acts until nothing is left to do.
async fn steps(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<Ended, ReconcileError> {
    let mut acted = false;
    let mut looked_again = 0;
    let mut begun = ctx.clock.monotonic();
    for _ in 0..MAX_STEPS {
        let env = env(ctx)?;
        let plan = decide::decide(&seeing.observed, &env);
        let late = acted && ctx.clock.monotonic().saturating_sub(begun) > SEEN_LASTS;
        if late && plan.commits(&seeing.observed.ledger) {
            if !observe::stands(ctx, key, seeing).await? {
                return Ok(Ended::Unfinished);
            }
            // What was learned meanwhile is not asked for again: a slow provider would have it so for ever.
            begun = ctx.clock.monotonic();
            continue;
        }
        if plan.effects.is_empty() {
            if fleet::ask(ctx, key, &mut seeing.observed, &plan) {
                continue;
            }
            return Ok(Ended::Done { acted });
        }
        if seeing.observed.only_ledger_read() && !plan.effects.iter().all(Effect::needs_ledger_only) {
            observe::look_again(ctx, key, seeing).await?;
            continue;
        }
        match perform(ctx, key, seeing, &plan, &env).await {
            Ok(()) => acted = true,
            Err(NotDone::Changed) if looked_again < 3 => {
                looked_again += 1;
                observe::look_again(ctx, key, seeing).await?;
            }
            Err(NotDone::Changed) => return Ok(Ended::Changed),
            Err(NotDone::Failed(failure)) => {
                tracing::warn!(
                    namespace = seeing.observed.key.namespace,
                    name = seeing.observed.key.name,
                    reason = failure.reason.as_str(),
                    "{}",
                    failure.message
                );
                // A call may take longer than the back-off: that counts from the failure.
                seeing.observed.fail(failure, &self::env(ctx)?);
                return Ok(Ended::Done { acted: true });
            }
            Err(NotDone::NotLeader) => return Err(ReconcileError::NotLeader),
            Err(NotDone::Kube(error)) => {
                seeing.observed.lose_minted(&self::env(ctx)?);
                return Err(ReconcileError::Kube(error));
            }
        }
    }
    Ok(Ended::Unfinished)
}

async fn perform(
    ctx: &Ctx,
    key: &LLMKey,
    seeing: &mut Seeing,
    plan: &Plan,
    env: &Env,
) -> Result<(), NotDone> {
    for effect in &plan.effects {
        let mut actor = Actor { ctx, key: Some(key), held: &mut seeing.held, remember: &mut seeing.remember };
        let learned = actor.act(&seeing.observed, effect).await;
        let outcome = if learned.is_ok() { Outcome::Applied } else { Outcome::Failed };
        ctx.metrics.effect(effect.name(), outcome);
        seeing.observed.learn(effect, learned?, env);
    }
    Ok(())
}

/// The time and a fresh random number.
pub fn env(ctx: &Ctx) -> Result<Env, ReconcileError> {
    Ok(Env {
        now: ctx.clock.now(),
        timings: ctx.timings.clone(),
        install: ctx.install.id.clone(),
        nonce: getrandom::u64().map_err(|_| ReconcileError::Randomness)?,
    })
}

fn remember(ctx: &Ctx, key: &LLMKey, mut seeing: Seeing, whole: bool) {
    let o = seeing.observed;
    if o.key.deleting && !o.key.finalizer {
        ctx.remembered.forget(&o.key.namespace, &o.key.name);
        return;
    }
    seeing.remember.generation = key.metadata.generation.filter(|_| whole);
    seeing.remember.memory = o.memory;
    ctx.remembered.remember(&o.key.namespace, &o.key.name, &o.key.uid, seeing.remember);
}

async fn write_status(
    ctx: &Ctx,
    key: &LLMKey,
    seeing: &mut Seeing,
    plan: &Plan,
    env: &Env,
) -> Result<(), ReconcileError> {
    let Seeing { observed: o, remember, .. } = seeing;
    if o.key.deleting {
        return Ok(());
    }
    let version = |seen: &Option<Seen>| seen.as_ref().map(|s| s.resource_version.to_string());
    let observed = ObservedVersions {
        ledger: version(&remember.ledger),
        source: version(&remember.source),
        target: version(&remember.target),
        rendering: remember.rendering.clone(),
    };
    let before = key.status.clone().unwrap_or_default();
    let status = status::status(o, plan, &before, observed, env);
    gauges(ctx, o, &status);
    // What the watch shows is not older than our own last write.
    if status == before {
        return Ok(());
    }
    let seen = newest(remember.resource_version.as_deref(), key.resource_version());
    let patch = serde_json::json!({
        "apiVersion": LLMKey::api_version(&()),
        "kind": LLMKey::kind(&()),
        "metadata": {"resourceVersion": seen},
        "status": status,
    });
    let api: Api<PartialObjectMeta<LLMKey>> = Api::namespaced(ctx.client.clone(), &o.key.namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&o.key.name, &params, &Patch::Apply(&patch)).await {
        Ok(written) => {
            remember.resource_version = written.metadata.resource_version.map(String::into_boxed_str);
            for (kind, reason, message) in status::news(&before, &status) {
                ctx.events.publish(&act::reference(key), kind, reason, message).await;
            }
            Ok(())
        }
        Err(kube::Error::Api(error)) if error.is_not_found() => Ok(()),
        Err(error) => {
            // The watch will show what stands there now.
            tracing::debug!(seen, error = brief(&error), "the status was not written");
            remember.resource_version = None;
            Err(error.into())
        }
    }
}

fn gauges(ctx: &Ctx, o: &Observed, status: &LLMKeyStatus) {
    let seconds =
        |text: &Option<String>| text.as_deref().and_then(crate::api::parse_rfc3339).map(|t| t.timestamp());
    let holds = |kind: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let current = status.current_version;
    let published = status.versions.iter().find(|v| Some(v.version) == current).map(|v| &v.published_at);
    let health: Option<&Health> = o.memory.health.as_ref().filter(|_| status.health.is_some());
    let ended = status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == Reason::Revoked.as_str());
    ctx.metrics.set_key(
        &o.key.namespace,
        &o.key.name,
        KeyGauges {
            state: health.map_or("Unknown", |h| h.state.as_str()),
            ready: (!ended).then(|| holds("Ready")),
            next_rotation: seconds(&status.next_rotation_time),
            expiry: o.key.expires_at.filter(|_| !ended).map(|at| at.timestamp()),
            last_probe: health.and_then(|h| h.last).map(|(_, at)| at.timestamp()),
            published: published.and_then(seconds),
            spare: (o.policy.spares > 0 && o.key.minted && !o.key.revoke_all)
                .then(|| status.versions.iter().any(|v| v.state == VersionState::Spare.as_str())),
            // All keys were revoked as asked: nothing is wrong.
            problems: if ended { Default::default() } else { problems(&status.conditions) },
            usage: status.usage.as_ref().and_then(|usage| usage.total.as_ref()).map(|t| Box::new(t.into())),
        },
    );
}
