//! The keyring while the operator runs: keys that come and go, and ledgers that are taken to the newest key. It has no status:
//! metrics and the log tell which key is needed. At rest it reads and writes nothing at the API server.

pub mod decide;
pub mod source;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};

use super::context::Ctx;
use super::index::{LedgerMeta, Name};
use super::llm_key::memory::newest;
use crate::api::Reason;
use crate::crypto::{Entropy, SystemEntropy};
use crate::ledger::{LedgerError, Rewrapped};
use decide::{Ledger, Observed, Plan, decide};
use source::Source;

/// Ledgers at the same time: one whose write does not come back holds up no other.
const CONCURRENCY: usize = 10;
/// After so many ledgers comes a pause.
const BETWEEN_PAUSES: usize = 10;
/// With more failures the API server has other work to do.
const MOST_FAILURES: usize = 20;
/// After so many ledgers the keyring is looked at again.
const ROUND: usize = 600;

/// What this process knows of a ledger, as long as the watch shows nothing newer.
struct Known {
    resource_version: String,
    sealed_by: Option<String>,
    /// It could not be used: until then it is left alone.
    held_until: Option<Duration>,
}

/// What was last told.
#[derive(Default)]
struct Told {
    unneeded: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Looks at the keyring, and then at the ledgers, again and again. Never ends.
pub async fn run(ctx: Arc<Ctx>, dir: Option<PathBuf>) {
    let mut source = Source::new(dir);
    let mut known = HashMap::new();
    let mut told = Told::default();
    loop {
        let mut more = false;
        if ctx.leader.is_leader() {
            if let Some(changed) = source.look(&ctx).await {
                // What could not be read may be readable now.
                known.clear();
                wake(&ctx, &changed);
            }
            more = round(&ctx, &mut known, &mut told).await;
        }
        if !more {
            tokio::time::sleep(ctx.timings.keyring_interval).await;
        }
    }
}

/// Whoever has a ledger that needs one of these keys, or may need it.
fn wake(ctx: &Ctx, changed: &[String]) {
    ctx.remembered.forget_failure(Reason::KeyringMissing);
    let concerned = |meta: &LedgerMeta| {
        let needs = meta.sealed_by.as_deref();
        needs.is_none_or(|needs| needs.split(',').any(|id| changed.iter().any(|changed| changed == id)))
    };
    let mut metas = ctx.index.ledger_metas(&ctx.operator_namespace);
    metas.retain(concerned);
    let keys: Vec<Name> = metas.iter().filter_map(|meta| meta.key.clone()).collect();
    ctx.woken_by.keyring(&ctx.stores, &keys, metas.iter().any(|meta| meta.key.is_none()));
}

/// One round. Whether there is more to do at once.
async fn round(ctx: &Ctx, known: &mut HashMap<Box<str>, Known>, told: &mut Told) -> bool {
    let plan = decide(&observe(ctx, known));
    tell(ctx, &plan, told);
    if plan.rewrap.is_empty() {
        return false;
    }
    let todo = plan.rewrap.into_iter().take(ROUND).map(|(secret, key)| async move {
        let done = if ctx.leader.is_leader() { Some(rewrap(ctx, &secret, key.as_ref()).await) } else { None };
        (secret, done)
    });
    let mut doing = stream::iter(todo).buffer_unordered(CONCURRENCY);
    let (mut count, mut failed) = (0, 0);
    while let Some((secret, done)) = doing.next().await {
        let Some(done) = done else { return false };
        match done {
            Ok(Some(done)) => {
                let sealed_by = Some(done.sealed_by);
                let resource_version = done.resource_version;
                known.insert(secret, Known { resource_version, sealed_by, held_until: None });
            }
            Ok(None) => {}
            // Another hand wrote it, or the API server does not do it now: the next round finds it again.
            Err(error @ (LedgerError::Conflict | LedgerError::Kube(_))) => {
                tracing::debug!(%error, ledger = %secret, "a ledger was not taken to the newest key");
                failed += 1;
            }
            Err(error) => {
                tracing::warn!(
                    ledger = %secret, %error,
                    "a ledger cannot be taken to the newest key-encryption key: it stays as it is"
                );
                hold_back(ctx, &secret, known);
            }
        }
        if failed > MOST_FAILURES {
            return false;
        }
        count += 1;
        if count % BETWEEN_PAUSES == 0 {
            tokio::time::sleep(ctx.timings.rewrap_pause).await;
        }
    }
    drop(doing);
    let plan = decide(&observe(ctx, known));
    tell(ctx, &plan, told);
    failed == 0 && !plan.rewrap.is_empty()
}

async fn rewrap(ctx: &Ctx, secret: &str, key: Option<&Name>) -> Result<Option<Rewrapped>, LedgerError> {
    let mut mark = [0; 8];
    SystemEntropy.fill(&mut mark).map_err(|error| LedgerError::Seal(error.into()))?;
    let writer = data_encoding::HEXLOWER.encode(&mark);
    match key {
        Some((namespace, name)) => ctx.ledgers.rewrap(namespace, name, &writer, &mut SystemEntropy).await,
        None => ctx.account_states.rewrap(secret, &writer).await,
    }
}

fn hold_back(ctx: &Ctx, secret: &str, known: &mut HashMap<Box<str>, Known>) {
    let Some(shown) = ctx.index.secret(&ctx.operator_namespace, secret) else { return };
    let held = Known {
        resource_version: shown.resource_version.into(),
        sealed_by: shown.sealed_by.map(String::from),
        held_until: Some(ctx.clock.monotonic() + ctx.timings.user_error_resync),
    };
    known.insert(secret.into(), held);
}

/// What the watch shows, or what this process knows better.
fn observe(ctx: &Ctx, known: &mut HashMap<Box<str>, Known>) -> Observed {
    let metas = ctx.index.ledger_metas(&ctx.operator_namespace);
    let there: HashSet<&str> = metas.iter().map(|meta| &*meta.secret).collect();
    known.retain(|secret, _| there.contains(&**secret));
    let now = ctx.clock.monotonic();
    let ledgers = metas.into_iter().map(|meta| {
        let fresh = known.get(&meta.secret).filter(|known| {
            let shown = Some(String::from(meta.resource_version.clone()));
            newest(Some(&known.resource_version), shown).as_ref() == Some(&known.resource_version)
        });
        let needs = fresh.map_or(meta.sealed_by.as_deref(), |known| known.sealed_by.as_deref());
        Ledger {
            sealed_by: needs.map(|needs| needs.split(',').map(str::to_owned).collect()),
            held_back: fresh.and_then(|known| known.held_until).is_some_and(|until| now < until),
            secret: meta.secret,
            key: meta.key,
        }
    });
    let ledgers = ledgers.collect();
    let keyring = ctx.keyring.now();
    Observed {
        ids: keyring.ids().map(str::to_owned).collect(),
        primary: keyring.primary().to_owned(),
        ledgers,
    }
}

/// Tells an administrator, who has no object to look at: how many ledgers need which key, and when that decides something.
fn tell(ctx: &Ctx, plan: &Plan, told: &mut Told) {
    ctx.metrics.set_ledgers(&plan.users, plan.unknown);
    for kek in plan.unneeded.difference(&told.unneeded) {
        tracing::info!(
            kek,
            "this key-encryption key is needed by no ledger any more: it can be taken out of the keyring"
        );
    }
    for kek in plan.missing.difference(&told.missing) {
        let ledgers = plan.users.get(kek).copied().unwrap_or_default();
        tracing::error!(
            kek,
            ledgers,
            "ledgers need a key-encryption key that is not in the keyring: what they hold waits until it is put back"
        );
    }
    told.unneeded.clone_from(&plan.unneeded);
    told.missing.clone_from(&plan.missing);
}
