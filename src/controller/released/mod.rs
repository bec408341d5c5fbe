//! Ledgers whose LLMKey is gone. The same four steps; there is no status to write, since there is nobody to read it.

pub mod decide;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use futures::stream::FuturesUnordered;
use kube::runtime::reflector::ObjectRef;

use super::ReconcileError;
use super::context::Ctx;
use super::index::Name;
use super::llm_key::memory::Remember;
use super::llm_key::model::{
    KeyView, LedgerView, Memory, Observed, Pass, PolicyView, ProviderView, SourceView, TargetView,
};
use super::llm_key::requester::Asked;
use super::llm_key::{Actor, Held, NotDone, account_at, bare, env, unreadable};
use super::watches::Released;
use crate::api::{OnReplacementFailure, Reason, RotationMode, ValidationMode};
use crate::domain::names::ledger_name;
use crate::domain::usage::Thresholds;
use crate::ledger::{LedgerError, Record};
use crate::provider::Capabilities;
use decide::Waits;

/// Steps of one pass at most.
const MAX_STEPS: usize = 64;
/// Ledgers at the same time: some that wait for a server which does not answer hold up no other.
const CONCURRENCY: usize = 32;
/// With nothing to do.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of one ledger between two passes.
#[derive(Clone, Default)]
struct Known {
    memory: Memory,
    /// Why it waits for somebody, as it was told.
    waits: Option<Waits>,
    /// Version of the ledger that was last read or written.
    resource_version: Option<String>,
}

/// How a pass ended.
struct Looked {
    /// When to look again; none if the ledger is gone or an LLMKey's own.
    wake: Option<DateTime<Utc>>,
    known: Known,
}

impl Looked {
    /// There is nothing more to do with the name.
    fn over() -> Self {
        Self { wake: None, known: Known::default() }
    }
}

/// Works through the names that arrive, each at most once at a time, again when its own time comes.
pub async fn run(ctx: Arc<Ctx>, mut woken: UnboundedReceiver<Released>) {
    let mut due: HashMap<Name, Duration> = HashMap::new();
    let mut ledgers: HashMap<Name, Known> = HashMap::new();
    let mut working = FuturesUnordered::new();
    let mut busy: Vec<Name> = Vec::new();
    // Being looked at while what they may wait for changed: they may have seen it as it was.
    let mut again: BTreeSet<Name> = BTreeSet::new();
    loop {
        let now = ctx.clock.monotonic();
        let ready: Vec<Name> = due
            .iter()
            .filter(|(name, at)| **at <= now && !busy.contains(name))
            .map(|(name, _)| name.clone())
            .take(CONCURRENCY.saturating_sub(working.len()))
            .collect();
        for name in ready {
            due.remove(&name);
            busy.push(name.clone());
            let known = ledgers.get(&name).cloned().unwrap_or_default();
            let ctx = Arc::clone(&ctx);
            working.push(async move {
                let outcome = super::contained(pass(&ctx, &name, known)).await;
                (name, outcome)
            });
        }
        let next = due
            .iter()
            .filter(|(name, _)| !busy.contains(name))
            .map(|(_, at)| at.saturating_sub(ctx.clock.monotonic()))
            .min()
            .filter(|_| working.len() < CONCURRENCY)
            .unwrap_or(IDLE);
        tokio::select! {
            look = woken.next() => match look {
                Some(Released::Changed(name)) => {
                    let known = ledgers.get(&name);
                    let ours = known.is_some() || !alive(&ctx, &name);
                    if busy.contains(&name) || ours && changed(&ctx, &name, known) {
                        due.insert(name, ctx.clock.monotonic());
                    }
                }
                Some(Released::Waiting) => {
                    let waiting = ledgers.iter().filter(|(_, known)| known.waits.is_some());
                    due.extend(waiting.map(|(name, _)| (name.clone(), ctx.clock.monotonic())));
                    again.extend(busy.iter().cloned());
                }
                None => return,
            },
            Some((name, outcome)) = working.next(), if !working.is_empty() => {
                busy.retain(|b| *b != name);
                let before = ledgers.remove(&name).unwrap_or_default();
                let (wait, known) = match outcome {
                    Ok(Looked { wake, known }) => {
                        tell(&ctx, &name, before.waits.as_ref(), known.waits.as_ref());
                        (wake.map(|at| until(&ctx, at)), known)
                    }
                    Err(error) => {
                        tracing::warn!(namespace = %name.0, name = %name.1, %error, "a released ledger waits");
                        // Whatever it waited for, it still does as far as anybody knows.
                        (Some(RETRY), Known { waits: before.waits, ..Known::default() })
                    }
                };
                // What came while it was being looked at may be our own write.
                let again = again.remove(&name) && known.waits.is_some();
                if due.contains_key(&name) && !again && !changed(&ctx, &name, Some(&known)) {
                    due.remove(&name);
                }
                if let Some(wait) = wait {
                    let wait = if again { Duration::ZERO } else { wait };
                    ledgers.insert(name.clone(), known);
                    let at = ctx.clock.monotonic() + wait;
                    due.entry(name).and_modify(|known| *known = at.min(*known)).or_insert(at);
                }
            }
            () = tokio::time::sleep(next) => {}
        }
    }
}

/// Whether the watch shows another ledger than the one that was last read or written, or the keyring another answer to whether
/// it can be read.
fn changed(ctx: &Ctx, name: &Name, known: Option<&Known>) -> bool {
    let Some(known) = known else { return true };
    let Some(seen) = known.resource_version.as_deref() else { return true };
    let shown = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&name.0, &name.1));
    let waits = known.waits.as_ref().is_some_and(|waits| waits.reason == Reason::KeyringMissing);
    shown.is_none_or(|shown| shown.gone || *shown.resource_version != *seen || ctx.opens(&shown) == waits)
}

/// Tells an administrator, who has no LLMKey to look at: once for each reason, and when the waiting is over.
fn tell(ctx: &Ctx, name: &Name, before: Option<&Waits>, after: Option<&Waits>) {
    let reason = |waits: Option<&Waits>| waits.map(|w| w.reason);
    if reason(before) == reason(after) {
        return;
    }
    ctx.metrics.released_waits(reason(before), reason(after));
    if let Some(Waits { reason, message }) = after {
        let reason = reason.as_str();
        tracing::warn!(namespace = %name.0, name = %name.1, reason, "a deleted LLMKey's key waits: {message}");
    } else {
        tracing::info!(namespace = %name.0, name = %name.1, "a deleted LLMKey's key waits no more");
    }
}

fn until(ctx: &Ctx, at: DateTime<Utc>) -> Duration {
    (at - ctx.clock.now_precise()).to_std().unwrap_or_default() + Duration::from_millis(20)
}

/// One ledger, as far as it goes now.
async fn pass(ctx: &Ctx, name: &Name, known: Known) -> Result<Looked, ReconcileError> {
    if !ctx.leader.is_leader() {
        return Err(ReconcileError::NotLeader);
    }
    if alive(ctx, name) {
        return Ok(Looked::over());
    }
    let ledger = match ctx.ledgers.get(&name.0, &name.1).await {
        Ok(Some(ledger)) => ledger,
        Ok(None) => return Ok(Looked::over()),
        Err(LedgerError::Kube(error)) => return Err(ReconcileError::Kube(error)),
        Err(error) => {
            let message = format!("its ledger {}: {error}", ledger_name(&name.0, &name.1));
            return Ok(Looked {
                wake: Some(later(ctx)),
                known: Known { waits: Some(Waits { reason: unreadable(&error), message }), ..known },
            });
        }
    };
    if ledger.record.owner.is_some() && !ctx.sight.sees(&name.0) {
        // Whether its LLMKey exists cannot be told: only what was released on record goes on.
        return Ok(Looked {
            wake: Some(ctx.clock.now() + decide::interval(ctx.timings.deletion_grace)),
            known,
        });
    }
    let mut held = Held::default();
    let provider = account(ctx, &ledger.record, &mut held).await?;
    let mut o = observed(&ledger.record, provider, known.memory);
    o.ledger = LedgerView::Present(Box::new(ledger));
    let mut remember = Remember::default();
    for _ in 0..MAX_STEPS {
        let env = env(ctx)?;
        let plan = decide::decide(&o, &env);
        for effect in &plan.effects {
            let mut actor = Actor { ctx, key: None, held: &mut held, remember: &mut remember };
            match actor.act(&o, effect).await {
                Ok(learned) => o.learn(effect, learned, &env),
                Err(NotDone::Failed(failure)) => {
                    let waits = Waits { reason: failure.reason, message: failure.message.clone() };
                    o.fail(failure, &super::llm_key::env(ctx)?);
                    let wake = o.memory.failing.values().map(|f| f.not_before).min();
                    return Ok(looked(o, wake, Some(waits)));
                }
                // Somebody else has it now, or it is gone: look again from the beginning.
                Err(NotDone::Changed) => {
                    return Ok(looked(o, Some(env.now + chrono::Duration::seconds(1)), known.waits));
                }
                Err(NotDone::NotLeader) => return Err(ReconcileError::NotLeader),
                Err(NotDone::Kube(error)) => return Err(ReconcileError::Kube(error)),
            }
        }
        if matches!(o.ledger, LedgerView::Absent) {
            return Ok(Looked::over());
        }
        if plan.effects.is_empty() {
            let wake = plan.wake.unwrap_or_else(|| later(ctx));
            return Ok(looked(o, Some(wake), decide::waits(&plan)));
        }
    }
    Ok(looked(o, Some(ctx.clock.now()), known.waits))
}

/// When what gives no time of its own is looked at again.
fn later(ctx: &Ctx) -> DateTime<Utc> {
    ctx.clock.now() + decide::interval(ctx.timings.provider_check_interval)
}

fn looked(o: Observed, wake: Option<DateTime<Utc>>, waits: Option<Waits>) -> Looked {
    let resource_version = match o.ledger {
        LedgerView::Present(ledger) => Some(ledger.resource_version),
        _ => None,
    };
    Looked { wake, known: Known { memory: o.memory, waits, resource_version } }
}

/// Whether an LLMKey of the name exists: then the ledger is its own.
fn alive(ctx: &Ctx, name: &Name) -> bool {
    let reference = ObjectRef::new(&name.1).within(&name.0);
    ctx.stores.keys.get(&reference).is_some()
}

/// The account that the ledger's keys are at, if it can be used.
async fn account(ctx: &Ctx, record: &Record, held: &mut Held) -> Result<ProviderView, kube::Error> {
    let mut view = bare(String::new());
    // The accounts of what is to be revoked; when nothing is, that of the newest key, for a last look.
    let mut wanted: Vec<&str> = Vec::new();
    let newest = record.versions.iter().rev().find(|v| v.mint_name.is_some() && v.account.is_some());
    let newest = newest.filter(|_| record.minted_alive().next().is_none());
    // What is put off keeps nothing else waiting.
    let now = ctx.clock.now();
    let due = record.minted_alive().filter(|v| v.put_off(now).is_none());
    let later = record.minted_alive().filter(|v| v.put_off(now).is_some());
    for account in due.chain(later).chain(newest).filter_map(|v| v.account.as_ref()) {
        if !wanted.contains(&account.provider.as_str()) {
            wanted.push(&account.provider);
        }
    }
    // One that cannot be used keeps no key at another from its revocation.
    let mut first = None;
    for provider in wanted {
        let problem = match account_at(ctx, provider).await? {
            Ok((of, account, endpoint)) => {
                ctx.count_deletions(&of).await?;
                let mut problem = ctx.hold_on(&of).await?;
                let mut tenancy = view.tenancy.clone();
                if problem.is_none() && Capabilities::of(of.r#type, true).is_for_one() {
                    (tenancy, problem) = ctx.tenancy(&of, &record.namespace, &record.name).await?;
                }
                if problem.is_none() {
                    view.tenancy = tenancy;
                    view.account = Some(of);
                    held.account = Some(account);
                    held.endpoint = Some(endpoint);
                    return Ok(view);
                }
                problem
            }
            Err(problem) => Some(problem),
        };
        first = first.or(problem);
    }
    view.account_problem = first;
    Ok(view)
}

/// An observation without an LLMKey: what effects need of one is its name.
pub(crate) fn observed(record: &Record, provider: ProviderView, memory: Memory) -> Observed {
    Observed {
        key: KeyView {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.lineage.clone(),
            generation: 0,
            created: DateTime::<Utc>::default(),
            deleting: true,
            namespace_terminating: false,
            finalizer: false,
            paused: false,
            approved: None,
            rotate: None,
            minted: true,
            target_name: String::new(),
            revoke_all: false,
            revoked_versions: BTreeSet::new(),
            expires_at: None,
            on_replacement_failure: OnReplacementFailure::Hold,
            restarts: false,
            retain_on_delete: record.retain_on_delete,
            grace: Duration::ZERO,
            validation: ValidationMode::Disabled,
            interval: Duration::ZERO,
            threshold: 1,
            template_problem: None,
            had_versions: true,
            newest_shown: 0,
            last_handled_rotate: None,
            asked: Asked::default(),
            pinned: None,
            disable: false,
            pool: Vec::new(),
            pool_told: None,
            published_shown: 0,
            id_shown: None,
        },
        policy: PolicyView {
            shown: None,
            defaulted: false,
            schedule: None,
            problem: None,
            mode: RotationMode::Automatic,
            expiry_before: None,
            replace_invalid: false,
            usage: Thresholds::default(),
            timeout: Duration::ZERO,
            overlap_minimum: Duration::ZERO,
            overlap_maximum: Duration::ZERO,
            consumers: true,
            manual: false,
            revoke_when_stuck: false,
            quiet_for: Duration::ZERO,
            retry_attempts: u32::MAX,
            retain_versions: 0,
            retain_for: Duration::ZERO,
            spares: 0,
            max_concurrent: 1,
        },
        provider,
        former: None,
        source: SourceView::None,
        ledger: LedgerView::Absent,
        target: TargetView::Absent,
        memory,
        pass: Pass::default(),
        edits: String::new(),
        supplied_by: None,
        turn: None,
        usage: None,
    }
}
