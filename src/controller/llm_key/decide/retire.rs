//! P3 to L5: revoke, confirm, record. The same for a living LLMKey and for a ledger whose LLMKey is gone.

use super::gate::delta;
use super::{chosen, due, successor};
use crate::api::{ConditionStatus, ConditionType, Reason, rfc3339};
use crate::controller::llm_key::model::{Effect, Env, Former, Memory, Pass, Plan, Work};
use crate::domain::lifecycle::{RevocationBasis, VersionState};
use crate::ledger::{AccountRef, Record, Version};

/// A revocation that is not confirmed for so many of the longest pauses between two questions waits for a person: an hour.
const UNCONFIRMED: i32 = 12;

/// What revocation needs to know.
pub struct View<'a> {
    /// The record.
    pub record: &'a Record,
    /// Why the account cannot be used.
    pub account_problem: Option<&'a (Reason, String)>,
    /// The account that can be used.
    pub account: Option<&'a AccountRef>,
    /// What is to be done before anything is ended at the account.
    pub lease: Option<Effect>,
    /// The account of another LLMProvider, for keys that were made there.
    pub former: Option<&'a Former>,
    /// Hints.
    pub memory: &'a Memory,
    /// This reconcile.
    pub pass: &'a Pass,
}

/// One step for the versions that are being revoked: one that cannot go on holds up no other.
pub fn advance(view: &View<'_>, env: &Env, plan: &mut Plan) {
    let retiring: Vec<&Version> =
        view.record.versions.iter().filter(|v| v.state == VersionState::Retiring).collect();
    if retiring.is_empty() {
        return;
    }
    if waiting(view.record, view.memory, Work::Revoke, env, plan) {
        revoking(retiring[0].version, plan);
        return;
    }
    // A failure ends a reconcile: in the next one it is another version's turn.
    let failures = view.memory.failing.values().map(|f| f.count).sum::<u32>();
    let first = usize::try_from(failures).unwrap_or_default() % retiring.len();
    for version in retiring.iter().cycle().skip(first).take(retiring.len()) {
        revoke(view, version, env, plan);
        revoking(version.version, plan);
        if !plan.effects.is_empty() {
            return;
        }
    }
}

fn revoke(view: &View<'_>, version: &Version, env: &Env, plan: &mut Plan) {
    let number = version.version;
    if let Some(at) = version.put_off(env.now) {
        plan.find(
            ConditionType::OverlapActive,
            ConditionStatus::True,
            Reason::OverlapMinimum,
            format!(
                "version {number} is revoked at {}: the LLMKey that it was made for was deleted, and until then workloads may have it",
                rfc3339(at)
            ),
        );
        plan.wake_at(at);
        return;
    }
    if unreachable(view, version, "waits for its revocation", env, plan) {
        return;
    }
    if leased_first(view, version, plan) {
        return;
    }
    match view.pass.confirmed.get(&number) {
        Some(true) => return record_revoked(view, number, env, plan),
        Some(false) => {
            // The provider still accepts it somewhere: asked again until it does not, ever more seldom.
            let elapsed = version.retiring_at.map_or(chrono::Duration::zero(), |since| env.now - since);
            let longest = delta(env.timings.provider_check_interval);
            let pause = (elapsed / 8).clamp(chrono::Duration::zero(), longest);
            plan.wake_at(env.now + pause.max(delta(env.timings.revoke_confirm_interval)));
            if elapsed > longest * UNCONFIRMED {
                unconfirmed(version, plan);
            }
            return;
        }
        None => {}
    }
    // Of a key that was only named, nobody has the bytes.
    if version.key.is_some() && !view.pass.checked_after_l4.contains(&number) {
        plan.effects.push(Effect::CheckShared { version: number });
    } else if let Some(holder) = holder(view.pass, view.record, version) {
        shared(version, &holder, env, plan);
    } else if !open_attempt(view.record) && !searched_after(view, version, plan) {
        // A key that the provider made twice goes first.
    } else if view.pass.revoke_answered.contains(&number) {
        plan.effects.push(Effect::ConfirmRevoked { version: number });
    } else {
        plan.effects.push(Effect::Revoke { version: number });
    }
}

/// The provider has answered that the key is gone, long ago, and it is not.
fn unconfirmed(version: &Version, plan: &mut Plan) {
    let (since, id) = (version.retiring_at.map(rfc3339), version.provider_key_id.as_deref());
    let message = format!(
        "version {} is being revoked since {}, and the provider still lists its key, or does not refuse it; look at the key {} there \
         and delete it by hand, or restore the account that it was made in",
        version.version,
        since.unwrap_or_default(),
        id.unwrap_or_default()
    );
    if version.basis == Some(RevocationBasis::Explicit) {
        plan.stall(Reason::RevokeFailed, message.clone());
    }
    plan.find(ConditionType::OverlapActive, ConditionStatus::True, Reason::RevokeFailed, message);
}

/// Somebody else needs the key. What a person asked for and does not get is told as a stall.
fn shared(version: &Version, holder: &str, env: &Env, plan: &mut Plan) {
    let number = version.version;
    let message = format!("version {number} is not revoked: {holder} has the same key");
    if version.basis == Some(RevocationBasis::Explicit) {
        plan.stall(
            Reason::KeyShared,
            format!("{message}; give that one a key of its own, or delete the key at the provider"),
        );
    }
    plan.find(ConditionType::OverlapActive, ConditionStatus::True, Reason::KeyShared, message);
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
}

/// Said unless there is more to say.
fn revoking(number: i32, plan: &mut Plan) {
    plan.find(
        ConditionType::OverlapActive,
        ConditionStatus::True,
        Reason::Revoking,
        format!("version {number} is being revoked"),
    );
}

fn record_revoked(view: &View<'_>, number: i32, env: &Env, plan: &mut Plan) {
    let mut next = successor(view.record, env);
    if !next.advance(number, VersionState::Revoked) {
        return;
    }
    let mut basis = "";
    if let Some(v) = next.version_mut(number) {
        v.revoked_at = Some(env.now);
        basis = v.basis.map_or("", RevocationBasis::as_str);
    }
    next.prune();
    plan.effects.push(Effect::SwapLedger(Box::new(next)));
    plan.effects.push(Effect::Announce {
        warning: false,
        reason: Reason::KeyRevoked,
        note: format!("version {number} is revoked and refused by the provider (basis: {basis})"),
    });
}

/// Who else needs the version's key, in words: as the ledgers last said, or another version of the same ledger.
pub(super) fn holder(pass: &Pass, record: &Record, version: &Version) -> Option<String> {
    let told = pass.shared.get(&version.version).cloned().flatten();
    told.or_else(|| {
        let key = version.key.as_ref()?;
        let other = record.versions.iter().find(|v| {
            v.version != version.version
                && v.state.protects_key()
                && v.key.as_ref().is_some_and(|k| k.fingerprint == key.fingerprint)
        })?;
        Some(format!("version {}", other.version))
    })
}

/// Failures put off the next try. A user has to wait for it only if there is no key to work with meanwhile.
pub(super) fn waiting(record: &Record, memory: &Memory, work: Work, env: &Env, plan: &mut Plan) -> bool {
    let Some(failing) = memory.waits(work, env.now) else { return false };
    let (reason, message) = (failing.reason, failing.message.clone());
    let works = record.owner.is_some() && record.delivered().is_some();
    match reason {
        Reason::MintFailed | Reason::ProjectNotFound | Reason::CustomKeysDisabled | Reason::MintBudget
            if works =>
        {
            due(plan, reason, message);
        }
        Reason::RevokeFailed if works => {
            plan.find(ConditionType::OverlapActive, ConditionStatus::True, reason, message);
        }
        Reason::MintFailed | Reason::MintBudget | Reason::RevokeFailed | Reason::SwitchFailed => {
            plan.progress(reason, message);
        }
        // The other failures wait for a person.
        _ => plan.stall(reason, message),
    }
    plan.wake_at(failing.not_before);
    true
}

/// A key that an earlier process made just before it ended, or that another replica makes under the attempt on record, may still
/// be on its way, and then be missing from the provider's list for a while. Two replicas that did not wait for it would fence each
/// other off, each with one more key.
pub(super) fn unlisted(record: &Record, pass: &Pass, memory: &Memory, env: &Env, plan: &mut Plan) -> bool {
    let Some(started) = memory.started.filter(|_| pass.fenced != Some(record.attempt)) else { return false };
    let sent =
        record.mints.last().map_or(started, |attempted| *attempted + delta(env.timings.mint_under_way));
    let listed = started.max(sent) + delta(env.timings.list_visibility_lag);
    if env.now >= listed {
        return false;
    }
    plan.wake_at(listed);
    true
}

/// The version's account is not the one at hand, or cannot be used: a call elsewhere would find nothing and prove nothing.
pub(super) fn unreachable(
    view: &View<'_>,
    version: &Version,
    what: &str,
    env: &Env,
    plan: &mut Plan,
) -> bool {
    let (problem, account) = match view.former.filter(|former| at(former, version)) {
        Some(former) => (former.account.as_ref().err(), former.account.as_ref().ok()),
        None => (view.account_problem, view.account),
    };
    if let Some((reason, message)) = problem {
        plan.stall(*reason, format!("version {} {what}: {message}", version.version));
    } else if !version.within_reach(account) {
        plan.stall(Reason::AccountChanged, elsewhere(version));
    } else {
        return false;
    }
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    true
}

/// The account is this LLMKey's alone, and has to be taken or confirmed before anything is ended there.
fn leased_first(view: &View<'_>, version: &Version, plan: &mut Plan) -> bool {
    let former = view.former.is_some_and(|former| at(former, version));
    plan.effects.extend(view.lease.clone().filter(|_| !former));
    !former && view.lease.is_some()
}

/// Whether the version's key is at a former account.
pub(super) fn at(former: &Former, version: &Version) -> bool {
    version.account.as_ref().is_some_and(|account| account.provider == former.provider)
}

/// Which account a version's key is at, for a person.
pub(super) fn elsewhere(version: &Version) -> String {
    version.account.as_ref().map_or_else(
        || format!("version {} has no account on record", version.version),
        |account| {
            format!(
                "version {} was made at the account {} ({}, {} {}), which is not the one at hand; restore that \
                 LLMProvider and its admin credential",
                version.version,
                account.provider,
                account.host,
                account.r#type.place(),
                account.project
            )
        },
    )
}

/// Intents that nobody wants any more: fence, find, revoke, give up. A key that was chosen here is revoked by its id.
pub fn abandon_intents(view: &View<'_>, env: &Env, plan: &mut Plan) {
    let View { record, pass, memory, .. } = *view;
    let Some(version) = record.versions.iter().find(|v| v.state == VersionState::Intent) else { return };
    let Some(account) = &version.account else {
        // No attempt is open.
        give_up_intent(record, version.version, env, plan);
        return;
    };
    if chosen::recovers(version) {
        // Whether it was made or not: from here on nobody can take it into use, and then it is revoked.
        let given_up = chosen::given_up(record, version.version, env);
        plan.effects.extend(given_up.map(Box::new).map(Effect::SwapLedger));
        return;
    }
    if unreachable(view, version, "may have been made", env, plan)
        || waiting(record, memory, Work::Mint, env, plan)
        || unlisted(record, pass, memory, env, plan)
        || leased_first(view, version, plan)
    {
        return;
    }
    if let Some(minted) = &pass.minted {
        plan.effects.push(Effect::RevokeStray { project: account.project.clone(), id: minted.id.clone() });
    } else if pass.fenced != Some(record.attempt) {
        let next = super::flight::refenced(record, version.version, None, chosen::Fresh::Unknown, env);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    } else if searched(account, record.attempt, pass, plan) {
        give_up_intent(record, version.version, env, plan);
    }
}

fn give_up_intent(record: &Record, number: i32, env: &Env, plan: &mut Plan) {
    let mut next = successor(record, env);
    if next.advance(number, VersionState::Abandoned) {
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    }
}

/// Whether another version of the ledger needs the version's key.
pub(super) fn is_needed(record: &Record, number: i32) -> bool {
    record.version(number).and_then(|v| v.key.as_ref()).is_some_and(|key| {
        let mut others = record.versions.iter().filter(|v| v.version != number);
        others.any(|v| v.state.protects_key() && v.has_key(&key.fingerprint))
    })
}

/// L4 of a version whose key nobody was ever given.
pub(super) fn never_published(record: &Record, number: i32, env: &Env) -> Option<Record> {
    let mut next = successor(record, env);
    if !next.advance(number, VersionState::Retiring) {
        return None;
    }
    let version = next.version_mut(number)?;
    version.retiring_at = Some(env.now);
    version.basis = Some(RevocationBasis::NeverPublished);
    Some(next)
}

fn open_attempt(record: &Record) -> bool {
    record.versions.iter().any(|v| v.state == VersionState::Intent)
}

/// Looks once more for keys that no version points to: the provider may have carried a mint out twice, or may have
/// listed a lost one late. Only while no attempt is open, so that none of them can still become a version's. False while
/// there is something to do.
pub fn searched_after(view: &View<'_>, version: &Version, plan: &mut Plan) -> bool {
    let all = view.record.attempt.saturating_add(1);
    // What is in slots has no names.
    let named = version.account.as_ref().filter(|_| version.slot.is_none());
    named.is_none_or(|account| searched(account, all, view.pass, plan))
}

/// Whether the version's project holds no key of an attempt below `below`. False while there is something to do.
pub(super) fn searched(account: &AccountRef, below: u32, pass: &Pass, plan: &mut Plan) -> bool {
    let project = &account.project;
    if !pass.searched.contains(project) {
        plan.effects.push(Effect::FindStrays { project: project.clone(), below });
    } else if let Some((_, id)) = pass.strays.iter().find(|(of, _)| of == project) {
        plan.effects.push(Effect::RevokeStray { project: project.clone(), id: id.clone() });
    } else {
        return true;
    }
    false
}
