//! Ledgers whose LLMKey is gone. The same four steps; there is no status to write, since there is nobody to read it.

pub mod decide;

use std::collections::HashMap;
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
    KeyView, LedgerView, Memory, Observed, Pass, Plan, PolicyView, ProviderView, SourceView, TargetView,
};
use super::llm_key::{Actor, Held, NotDone, env};
use crate::api::{ConditionType, Reason, RotationMode, ValidationMode};
use crate::ledger::{AccountRef, LedgerError, Record};
use crate::provider::Endpoint;

/// Steps of one pass at most.
const MAX_STEPS: usize = 64;
/// Ledgers at the same time.
const CONCURRENCY: usize = 4;
/// With nothing to do.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// Works through the names that arrive, each at most once at a time, again when its own time comes.
pub async fn run(ctx: Arc<Ctx>, mut names: UnboundedReceiver<Name>) {
    let mut due: HashMap<Name, Duration> = HashMap::new();
    let mut memory: HashMap<Name, Memory> = HashMap::new();
    let mut working = FuturesUnordered::new();
    let mut busy: Vec<Name> = Vec::new();
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
            let known = memory.remove(&name).unwrap_or_default();
            let ctx = Arc::clone(&ctx);
            working.push(async move {
                let outcome = pass(&ctx, &name, known).await;
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
            name = names.next() => match name {
                Some(name) => { due.insert(name, ctx.clock.monotonic()); }
                None => return,
            },
            Some((name, outcome)) = working.next(), if !working.is_empty() => {
                busy.retain(|b| *b != name);
                let (wait, known) = match outcome {
                    Ok((wake, known)) => (wake.map(|at| until(&ctx, at)), known),
                    Err(error) => {
                        tracing::warn!(namespace = %name.0, name = %name.1, %error, "a released ledger waits");
                        (Some(RETRY), Memory::default())
                    }
                };
                if let Some(wait) = wait {
                    memory.insert(name.clone(), known);
                    let at = ctx.clock.monotonic() + wait;
                    due.entry(name).and_modify(|known| *known = at.min(*known)).or_insert(at);
                }
            }
            () = tokio::time::sleep(next) => {}
        }
    }
}

fn until(ctx: &Ctx, at: DateTime<Utc>) -> Duration {
    (at - ctx.clock.now_precise()).to_std().unwrap_or_default() + Duration::from_millis(20)
}

/// One ledger, as far as it goes now.
async fn pass(
    ctx: &Ctx,
    name: &Name,
    known: Memory,
) -> Result<(Option<DateTime<Utc>>, Memory), ReconcileError> {
    if !ctx.leader.is_leader() || alive(ctx, name) {
        return Ok((None, known));
    }
    let ledger = match ctx.ledgers.get(&name.0, &name.1).await {
        Ok(Some(ledger)) => ledger,
        Ok(None) => return Ok((None, known)),
        Err(LedgerError::Kube(error)) => return Err(ReconcileError::Kube(error)),
        Err(error) => {
            tracing::warn!(namespace = %name.0, name = %name.1, %error, "a ledger cannot be read");
            return Ok((None, known));
        }
    };
    let mut held = Held::default();
    let provider = account(ctx, &ledger.record, &mut held).await;
    let mut o = observed(&ledger.record, provider, known);
    o.ledger = LedgerView::Present(Box::new(ledger));
    let mut remember = Remember::default();
    let mut last = Plan::default();
    for _ in 0..MAX_STEPS {
        let env = env(ctx)?;
        last = decide::decide(&o, &env);
        if last.effects.is_empty() {
            for finding in last.findings.iter().filter(|f| f.condition == ConditionType::Stalled) {
                let reason = finding.reason.as_str();
                tracing::warn!(namespace = %name.0, name = %name.1, reason, "a deleted LLMKey's key waits: {}", finding.message);
            }
            break;
        }
        for effect in &last.effects {
            let mut actor = Actor { ctx, key: None, held: &mut held, remember: &mut remember };
            match actor.act(&o, effect).await {
                Ok(learned) => o.learn(effect, learned, &env),
                Err(NotDone::Failed(failure)) => {
                    tracing::warn!(namespace = %name.0, name = %name.1, "{}", failure.message);
                    o.fail(failure, &env);
                    let wake = o.memory.failing.as_ref().map(|f| f.not_before);
                    return Ok((wake, o.memory));
                }
                // Somebody else has it now, or it is gone: look again from the beginning.
                Err(NotDone::Changed) => return Ok((Some(env.now + chrono::Duration::seconds(1)), o.memory)),
                Err(NotDone::NotLeader) => return Err(ReconcileError::NotLeader),
                Err(NotDone::Kube(error)) => return Err(ReconcileError::Kube(error)),
            }
        }
        if matches!(o.ledger, LedgerView::Absent) {
            return Ok((None, o.memory));
        }
    }
    Ok((last.wake, o.memory))
}

/// Whether an LLMKey of the name exists: then the ledger is its own.
fn alive(ctx: &Ctx, name: &Name) -> bool {
    let reference = ObjectRef::new(&name.1).within(&name.0);
    ctx.stores.keys.get(&reference).is_some()
}

/// The account that the ledger's keys are at, if it can be used.
async fn account(ctx: &Ctx, record: &Record, held: &mut Held) -> ProviderView {
    let mut view = ProviderView {
        shown: String::new(),
        problem: None,
        account: None,
        account_problem: None,
        reports_last_use: false,
    };
    // The account of what is to be revoked; when nothing is, that of the newest key, for a last look.
    let alive = record.minted_alive().find_map(|v| v.account.clone());
    let minted = record.versions.iter().rev().filter(|v| v.mint_name.is_some());
    let Some(wanted) = alive.or_else(|| minted.into_iter().find_map(|v| v.account.clone())) else {
        return view;
    };
    let missing = |message: String| Some((Reason::AdminCredentialMissing, message));
    let found = ctx.stores.providers.get(&ObjectRef::new(&wanted.provider));
    let Some(Ok(provider)) = found.as_ref().map(|p| &p.0) else {
        view.account_problem = missing(format!("LLMProvider {} is gone; restore it", wanted.provider));
        return view;
    };
    let Ok(endpoint) = Endpoint::from_spec(&provider.spec) else {
        view.account_problem = missing(format!("LLMProvider {} has no usable URL", wanted.provider));
        return view;
    };
    match ctx.account(provider, &endpoint).await {
        Ok(account) => {
            view.account = Some(AccountRef {
                provider: wanted.provider,
                r#type: provider.spec.r#type,
                host: endpoint.authority(),
                project: account.project().to_owned(),
            });
            held.account = Some(account);
            held.endpoint = Some(endpoint);
        }
        Err(problem) => view.account_problem = Some(problem),
    }
    view
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
            rotate: None,
            minted: true,
            target_name: String::new(),
            revoke_all: false,
            retain_on_delete: record.retain_on_delete,
            grace: Duration::ZERO,
            validation: ValidationMode::Disabled,
            interval: Duration::ZERO,
            threshold: 1,
            template_problem: None,
            had_versions: true,
            last_handled_rotate: None,
        },
        policy: PolicyView {
            shown: None,
            defaulted: false,
            schedule: None,
            problem: None,
            mode: RotationMode::Automatic,
            overlap_minimum: Duration::ZERO,
            quiet_for: Duration::ZERO,
        },
        provider,
        source: SourceView::None,
        ledger: LedgerView::Absent,
        target: TargetView::Absent,
        memory,
        pass: Pass::default(),
    }
}
