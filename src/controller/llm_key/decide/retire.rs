//! P3 to L5: revoke, confirm, record. The same for a living LLMKey and for a ledger whose LLMKey is gone.

use super::gate::delta;
use super::successor;
use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::controller::llm_key::model::{Effect, Env, Memory, Pass, Plan};
use crate::domain::lifecycle::VersionState;
use crate::ledger::{AccountRef, Record, Version};

/// What revocation needs to know.
pub struct View<'a> {
    /// The record.
    pub record: &'a Record,
    /// Why the account cannot be used.
    pub account_problem: Option<&'a (Reason, String)>,
    /// The account that can be used.
    pub account: Option<&'a AccountRef>,
    /// Hints.
    pub memory: &'a Memory,
    /// This reconcile.
    pub pass: &'a Pass,
}

/// One step for the first version that is being revoked.
pub fn advance(view: &View<'_>, env: &Env, plan: &mut Plan) {
    let Some(version) = view.record.versions.iter().find(|v| v.state == VersionState::Retiring) else {
        return;
    };
    let number = version.version;
    if unreachable(view, version, "waits for its revocation", env, plan) {
        return;
    }
    if waiting(view.memory, env, plan) {
        revoking(number, plan);
        return;
    }
    if let Some((confirmed, true)) = view.pass.confirmed
        && confirmed == number
    {
        record_revoked(view, number, env, plan);
        return;
    }
    if view.pass.checked_after_l4 != Some(number) {
        plan.effects.push(Effect::CheckShared { version: number });
    } else if shared(view.pass, number) || protected_here(view.record, version) {
        plan.find(
            ConditionType::OverlapActive,
            ConditionStatus::True,
            Reason::KeyShared,
            format!("version {number} is not revoked: another version or LLMKey holds the same key"),
        );
        plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    } else if !open_attempt(view.record) && !searched(view, plan) {
        // A key that the provider made twice goes first.
    } else if view.pass.revoke_answered != Some(number) {
        plan.effects.push(Effect::Revoke { version: number });
    } else if view.pass.confirmed.is_none() {
        plan.effects.push(Effect::ConfirmRevoked { version: number });
    } else {
        // The provider still accepts it somewhere: asked again until it does not.
        plan.wake_at(env.now + delta(env.timings.revoke_confirm_interval));
    }
    revoking(number, plan);
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
        basis = v.basis.map_or("", crate::domain::lifecycle::RevocationBasis::as_str);
    }
    next.prune();
    plan.effects.push(Effect::SwapLedger(Box::new(next)));
    plan.effects.push(Effect::Announce {
        warning: false,
        reason: Reason::KeyRevoked,
        note: format!("version {number} is revoked and refused by the provider (basis: {basis})"),
    });
}

/// Whether the last answer said that another ledger holds the key.
pub(super) fn shared(pass: &Pass, number: i32) -> bool {
    pass.shared == Some((number, true))
}

/// Another version of the same ledger points to the same key and needs it.
pub(super) fn protected_here(record: &Record, version: &Version) -> bool {
    let Some(key) = &version.key else { return false };
    record.versions.iter().any(|v| {
        v.version != version.version
            && v.state.protects_key()
            && v.key.as_ref().is_some_and(|k| k.fingerprint == key.fingerprint)
    })
}

/// Failures put off the next try.
pub(super) fn waiting(memory: &Memory, env: &Env, plan: &mut Plan) -> bool {
    let Some(failing) = memory.failing.as_ref().filter(|f| env.now < f.not_before) else { return false };
    match failing.reason {
        Reason::MintFailed | Reason::RevokeFailed => plan.progress(failing.reason, failing.message.clone()),
        // The other failures wait for a person.
        reason => plan.stall(reason, failing.message.clone()),
    }
    plan.wake_at(failing.not_before);
    true
}

/// A key that an earlier process made just before it ended may be missing from the provider's list for a while.
pub(super) fn unlisted(record: &Record, pass: &Pass, memory: &Memory, env: &Env, plan: &mut Plan) -> bool {
    let Some(started) = memory.started.filter(|_| pass.fenced != Some(record.attempt)) else { return false };
    let listed = started + delta(env.timings.list_visibility_lag);
    if env.now >= listed {
        return false;
    }
    plan.wake_at(listed);
    true
}

/// The version's account is not the one at hand, or cannot be used: a call elsewhere would find nothing and prove nothing.
fn unreachable(view: &View<'_>, version: &Version, what: &str, env: &Env, plan: &mut Plan) -> bool {
    if let Some((reason, message)) = view.account_problem {
        plan.stall(*reason, format!("version {} {what}: {message}", version.version));
    } else if version.account.as_ref() != view.account {
        plan.stall(Reason::AdminCredentialMissing, elsewhere(version));
    } else {
        return false;
    }
    plan.wake_at(env.now + delta(env.timings.provider_check_interval));
    true
}

/// Which account a version's key is at, for a person.
pub(super) fn elsewhere(version: &Version) -> String {
    version.account.as_ref().map_or_else(
        || format!("version {} has no account on record", version.version),
        |account| {
            format!(
                "version {} was made at the account {} ({}, project {}), which is not the one at hand; restore that \
                 LLMProvider and its admin credential",
                version.version, account.provider, account.host, account.project
            )
        },
    )
}

/// Intents that nobody wants any more: fence, find, revoke, give up.
pub fn abandon_intents(view: &View<'_>, env: &Env, plan: &mut Plan) {
    let View { record, pass, memory, .. } = *view;
    let Some(version) = record.versions.iter().find(|v| v.state == VersionState::Intent) else { return };
    if unreachable(view, version, "may have been made", env, plan)
        || waiting(memory, env, plan)
        || unlisted(record, pass, memory, env, plan)
    {
        return;
    }
    if let Some(minted) = &pass.minted {
        plan.effects.push(Effect::RevokeStray { id: minted.id.clone() });
    } else if pass.fenced != Some(record.attempt) {
        let next = super::flight::refenced(record, version.version, env);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
    } else if !pass.names_searched {
        plan.effects.push(Effect::FindStrays { below: record.attempt });
    } else if let Some((id, _)) = pass.strays.first() {
        plan.effects.push(Effect::RevokeStray { id: id.clone() });
    } else {
        let mut next = successor(record, env);
        if next.advance(version.version, VersionState::Abandoned) {
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        }
    }
}

fn open_attempt(record: &Record) -> bool {
    record.versions.iter().any(|v| v.state == VersionState::Intent)
}

/// Looks once more for keys that no version points to: the provider may have carried a mint out twice, or may have
/// listed a lost one late. Only while no attempt is open, so that none of them can still become a version's. False while
/// there is something to do.
pub fn searched(view: &View<'_>, plan: &mut Plan) -> bool {
    if !view.pass.names_searched {
        plan.effects.push(Effect::FindStrays { below: view.record.attempt.saturating_add(1) });
    } else if let Some((id, _)) = view.pass.strays.first() {
        plan.effects.push(Effect::RevokeStray { id: id.clone() });
    } else {
        return true;
    }
    false
}
