//! Keys that have no names ([`MintKind::Unnamed`]), at an account that one LLMKey has for itself and that holds few of them at once.
//!
//! **A stray is told by set difference.** Before the first intent at an account its keys are listed, and the intent has them on record; every
//! later one goes on from that. A key that is listed, was not there then, and that no version has, was made by an attempt of this ledger: as long
//! as the LLMKey has the account, nobody else makes any there (`ownership: Exclusive`). What was there before is never touched.
//!
//! **Why it is never a later attempt's key.** A list tells nothing of the attempt that a key is of. But before a stray is revoked, the ledger is
//! read once more, after the list: as long as it stands as it was judged by, no attempt after its newest one has begun, and that
//! one is this replica's own, which makes its key after the search.
//!
//! **A stray takes room.** An account that is full of keys which are needed, or are not ours, is said to be so, with their ids.

use super::gate::delta;
use super::{due, retire};
use crate::api::Reason;
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan, TargetView, Work};
use crate::ledger::{Before, Record, Version};
use crate::provider::{MintKind, ProviderKeyId};

/// Keys that an account holds at once: IAM's quota of service-specific credentials of one user for one service (botocore 1.44.5, `data/iam`).
const ROOM: usize = 2;

/// Whether keys have no names.
pub(super) const fn is_so(o: &Observed) -> bool {
    matches!(o.provider.mint, MintKind::Unnamed)
}

/// Before an intent: the account's keys are listed, and there is room for another. True while there is something to do, or to wait for.
pub(super) fn before_intent(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    is_so(o) && (retire::waiting(record, &o.memory, Work::Mint, env, plan) || is_full(o, record, env, plan))
}

/// The same before another attempt of an intent, whose tries wait already.
pub(super) fn is_full(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let Some(account) = o.provider.account.as_ref().filter(|_| is_so(o)) else { return false };
    let Some(listed) = &o.pass.listed else {
        plan.effects.push(Effect::ListKeys);
        return true;
    };
    let strays = strays(o, record, &account.project, listed);
    let mut held: Vec<&String> = listed.iter().filter(|id| !strays.contains(id)).collect();
    held.dedup();
    if held.len() < ROOM {
        return false;
    }
    let who: Vec<String> = held.into_iter().map(|id| whose(record, id)).collect();
    let message = format!(
        "{} {} has {} keys, and no more is possible: {}. It goes on when one of them is revoked (spec.revokedVersions does that at once), or \
         deleted at the provider by who made it",
        account.r#type.place(),
        account.project,
        who.len(),
        who.join(", ")
    );
    if record.delivered().is_none() {
        plan.stall(Reason::SlotsTaken, message.clone());
    }
    due(plan, Reason::SlotsTaken, message);
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    true
}

fn whose(record: &Record, id: &str) -> String {
    let version = record.versions.iter().find(|v| has(v, id));
    version.map_or_else(
        || format!("{id}, which the operator did not make"),
        |v| format!("{id} of version {} ({})", v.version, v.state.as_str()),
    )
}

/// What an intent records of the account: what was there before the first key of this ledger.
pub(super) fn before(o: &Observed, record: &Record) -> Option<Before> {
    let project = &o.provider.account.as_ref().filter(|_| is_so(o))?.project;
    if let Some(known) = record.before(project) {
        return Some(known.clone());
    }
    let listed = o.pass.listed.as_ref()?;
    // A key that was revoked may be listed for a while.
    let ids = listed.iter().filter(|id| !record.versions.iter().any(|v| has(v, id))).cloned().collect();
    Some(Before { project: project.clone(), ids })
}

fn has(version: &Version, id: &str) -> bool {
    let of = |id: &str| ProviderKeyId::parse(id).ok();
    version.provider_key_id.as_deref().and_then(of).zip(of(id)).is_some_and(|(a, b)| a.same_handle(&b))
}

/// Of the listed keys, those of attempts whose answers were lost. None as long as it is not on record what was there before.
///
/// The ledger may be an older copy that was put back: what the target may hold, or status tells of as delivered, is left alone as long as that
/// may be so. Unless all keys are to go.
pub(crate) fn strays(o: &Observed, record: &Record, project: &str, listed: &[String]) -> Vec<String> {
    let Some(before) = record.before(project) else { return Vec::new() };
    let unknown_in_use = matches!(o.target, TargetView::Ours { carries: None, .. });
    if unknown_in_use && !o.key.revoke_all {
        return Vec::new();
    }
    let shown = o.key.id_shown.as_ref().filter(|_| !o.key.revoke_all);
    let recorded = |id: &String| record.versions.iter().any(|v| v.state.key_may_work() && has(v, id));
    let known = |id: &String| before.ids.contains(id) || shown == Some(id) || recorded(id);
    listed.iter().filter(|id| !known(id)).cloned().collect()
}
