//! The sweeper: keys at the accounts that bear this installation's names and that no ledger holds are revoked. The same four
//! steps; its status is what the `LLMProvider` shows. At rest it costs one list for each account and interval, and no write.
//!
//! Lost attempts of an `LLMKey` are found by that one itself, as long as it works on them. What is left is what nobody works
//! on any more: a mint that was carried out twice and noticed late, a late writer after its ledger went, a lost ledger.

pub mod act;
pub mod crowd;
pub mod decide;
pub mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use tokio::time::MissedTickBehavior;

use super::context::Ctx;
use super::{ReconcileError, llm_key};
use crate::api::{ConditionStatus, ConditionType, LLMProvider, Reason};
use crate::ledger::{AccountId, LedgerError};
use crate::provider::{Account, Capabilities, Capability, Endpoint};
use crate::telemetry::key_gauges::problems;
use crate::telemetry::metrics::{Controller, Outcome, SweepResult};
use observe::Memory;

/// Sweeps every account again and again, each by itself: one that is slow or hangs delays no other. Never ends.
pub async fn run(ctx: Arc<Ctx>) {
    // None: it is being swept.
    let mut memories: BTreeMap<AccountId, Option<Memory>> = BTreeMap::new();
    let mut sweeps = FuturesUnordered::new();
    let mut round = tokio::time::interval(ctx.timings.sweep_interval);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((id, memory)) = sweeps.next() => {
                memories.insert(id, Some(memory));
                tell_frozen(&ctx);
            }
            _ = round.tick() => {
                if ctx.leader.is_leader() {
                    let places = places(&ctx).await;
                    memories.retain(|id, memory| memory.is_none() || places.contains_key(id));
                    ctx.account_states.retain(|id| places.contains_key(id));
                    for place in places.into_values().filter(|place| place.answers && place.is_swept()) {
                        let memory = memories.entry(place.id.clone()).or_insert_with(|| Some(Memory::default()));
                        if let Some(memory) = memory.take() {
                            sweeps.push(visit(Arc::clone(&ctx), place, memory));
                        }
                    }
                    tell_frozen(&ctx);
                    tell_problems(&ctx);
                }
            }
        }
    }
}

fn tell_frozen(ctx: &Ctx) {
    let frozen: Vec<_> =
        ctx.account_states.frozen().into_iter().map(|(reason, count)| (reason.reason(), count)).collect();
    ctx.metrics.set_frozen(&frozen);
}

/// Counts the LLMProviders that say that they are not ready.
fn tell_problems(ctx: &Ctx) {
    let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
    for provider in ctx.stores.providers.state() {
        let status = provider.0.as_ref().ok().and_then(|provider| provider.status.as_ref());
        let [reason, ..] = status.map_or_else(Default::default, |status| problems(&status.conditions));
        if let Some(reason) = reason {
            *counts.entry(reason).or_default() += 1;
        }
    }
    ctx.metrics.set_provider_problems(&counts.into_iter().collect::<Vec<_>>());
}

/// An account with an admin credential, with the LLMProviders that name it.
pub(super) struct Place {
    pub(super) id: AccountId,
    pub(super) account: Arc<Account>,
    pub(super) providers: BTreeSet<String>,
    /// One of them says that the account answers.
    pub(super) answers: bool,
}

impl Place {
    /// Whether keys of ours can be there, be listed and revoked, and are told apart by names. At an account that one LLMKey has for itself,
    /// that one looks after them.
    fn is_swept(&self) -> bool {
        let capabilities = Capabilities::of(self.id.r#type, true);
        let swept = [Capability::Mint, Capability::List, Capability::Revoke];
        swept.into_iter().all(|c| capabilities.has(c)) && !capabilities.is_for_one()
    }
}

/// The accounts with an admin credential. One without is for checks only, and is never called here.
pub(super) async fn places(ctx: &Ctx) -> BTreeMap<AccountId, Place> {
    let mut places: BTreeMap<AccountId, Place> = BTreeMap::new();
    for provider in ctx.stores.providers.state() {
        let Ok(provider) = &provider.0 else { continue };
        if provider.spec.admin_credential_ref.is_none() {
            continue;
        }
        let Ok(endpoint) = Endpoint::from_spec(&provider.spec) else { continue };
        if endpoint.refuses_its_address() {
            continue;
        }
        let Ok(Ok(account)) = ctx.account(provider, &endpoint).await else { continue };
        let id = AccountId {
            r#type: provider.spec.r#type,
            host: account.authority(),
            project: account.project().to_owned(),
        };
        let place = places.entry(id.clone()).or_insert_with(|| Place {
            id,
            account,
            providers: BTreeSet::new(),
            answers: false,
        });
        place.providers.insert(provider.name_any());
        place.answers |= answers(provider);
    }
    places
}

/// Whether the account was found to answer: a credential that is refused is tried by the `LLMProvider`'s own check only.
fn answers(provider: &LLMProvider) -> bool {
    let Some(status) = &provider.status else { return false };
    let ready = |c: &&Condition| c.type_ == ConditionType::Ready.as_str();
    status.frozen.is_some()
        || status.conditions.iter().find(ready).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

async fn visit(ctx: Arc<Ctx>, place: Place, mut memory: Memory) -> (AccountId, Memory) {
    let pass = ctx.metrics.begin(Controller::Sweeper, ctx.clock);
    let before = ctx.account_states.frozen();
    let swept = super::contained(async { Ok(sweep(&ctx, &place, &mut memory).await) }).await;
    let (result, outcome) = match swept.unwrap_or_else(|error| Err(error.into())) {
        Ok(act::Done { revoked: 0, failed: false, froze: false }) if memory.orphans.is_empty() => {
            (SweepResult::Clean, Outcome::Skipped)
        }
        Ok(done) => {
            ctx.metrics.orphans_revoked(done.revoked);
            let outcome = if done.failed { Outcome::Failed } else { Outcome::Applied };
            (SweepResult::Orphans, outcome)
        }
        Err(error) => {
            // What was seen of an account that cannot be told whole counts for nothing.
            memory.orphans.clear();
            tracing::warn!(project = place.id.project, %error, "the account could not be swept");
            (SweepResult::Void, Outcome::Failed)
        }
    };
    pass.finish(outcome);
    ctx.metrics.swept(result);
    let told = result != SweepResult::Void && ctx.account_states.set_orphans(&place.id, memory.orphans.len());
    if told || before != ctx.account_states.frozen() {
        for provider in &place.providers {
            ctx.woken_by.account(&ctx.stores, provider);
        }
    }
    (place.id, memory)
}

/// Why a sweep is void.
#[derive(Debug, thiserror::Error)]
enum Void {
    #[error("the account's keys could not be listed: {0}")]
    List(#[from] crate::provider::CallError),
    #[error("{0}")]
    Account(#[from] super::account::AccountError),
    #[error("the ledgers could not be read: {0}")]
    Ledgers(#[from] LedgerError),
    #[error("{0}")]
    Other(#[from] ReconcileError),
}

/// List, then read, then fence, then revoke.
async fn sweep(ctx: &Ctx, place: &Place, memory: &mut Memory) -> Result<act::Done, Void> {
    let listed = observe::list(ctx, &place.account).await?;
    let record = ctx.account_record(&place.id).await?;
    let mut observed = observe::observe(ctx, listed, &record, memory).await?;
    observed.crowd = crowd::count(ctx, &place.providers, &place.id.project, record.counts_from);
    let plan = decide::decide(&observed, &llm_key::env(ctx)?);
    memory.orphans.clone_from(&plan.orphans);
    memory.right.extend(plan.right.clone());
    Ok(act::act(ctx, &place.id, &place.account, plan).await)
}
