//! A ledger whose LLMKey is gone: wait for the grace, revoke, and go.

use crate::api::{ConditionType, Reason, rfc3339};
use crate::controller::llm_key::decide::{give_up, grace, lease, note, retire, successor};
use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan};
use crate::domain::budget;
use crate::domain::lifecycle::{Origin, VersionState};
use crate::ledger::{Record, Released};

/// What keeps a key from its revocation, for an administrator: with the LLMKey went the place where it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Why.
    pub reason: Reason,
    /// What can be done about it.
    pub message: String,
}

/// What a plan without effects waits for. Ordinary time (the grace, the last look) is no reason.
pub fn waits(plan: &Plan) -> Option<Waits> {
    let holds = |kind: ConditionType, reason: Reason| {
        // A shared key is no error of an LLMKey, whose overlap just goes on. Here nobody else ends it.
        matches!(kind, ConditionType::Stalled | ConditionType::Reconciling) || reason == Reason::KeyShared
    };
    let finding = plan.findings.iter().find(|f| holds(f.condition, f.reason))?;
    Some(Waits { reason: finding.reason, message: finding.message.clone() })
}

/// Plans the next step.
pub fn decide(o: &Observed, env: &Env) -> Plan {
    let mut plan = Plan::default();
    if let LedgerView::Present(ledger) = &o.ledger {
        step(o, &ledger.record, env, &mut plan);
    }
    note(o, env, &mut plan);
    plan
}

fn step(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(released) = record.released.as_ref().filter(|_| record.owner.is_none()) else {
        plan.effects.push(Effect::SwapLedger(Box::new(release(record, env))));
        return;
    };
    if env.now < released.revoke_not_before {
        plan.wake_at(released.revoke_not_before);
        return;
    }
    if record.versions.iter().any(|v| v.state.protects_key()) {
        let mut next = successor(record, env);
        give_up(&mut next, env);
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    let view = retire::View {
        record,
        account_problem: o.provider.account_problem.as_ref(),
        account: o.provider.account.as_ref(),
        lease: lease::missing(o),
        former: None,
        memory: &o.memory,
        pass: &o.pass,
    };
    retire::abandon_intents(&view, env, plan);
    if plan.effects.is_empty() {
        retire::advance(&view, env, plan);
    }
    if record.versions.iter().any(|v| matches!(v.state, VersionState::Intent | VersionState::Retiring)) {
        plan.wake_at(env.now + interval(env.timings.provider_check_interval));
        return;
    }
    // Late writers of a replica that was paused may still come: the ledger stays for a while.
    let last = record.versions.iter().filter_map(|v| v.revoked_at).fold(released.at, std::cmp::Ord::max);
    let end = last + interval(env.timings.sweep_interval * env.timings.sweep_clean_count);
    // Deleted and created again, an LLMKey has no new budget.
    let end = end.max(budget::forgotten_at(&record.mints, env.timings.mint_budget_window).unwrap_or(end));
    if env.now < end {
        plan.wake_at(end);
    } else if record.versions.iter().any(|v| v.state == VersionState::Retained && v.origin == Origin::Minted)
    {
        // Nothing but this ledger says that the key stays on purpose: without it the key would be nobody's.
        plan.wake_at(env.now + interval(env.timings.deletion_grace));
    } else if !record.used.is_empty() {
        // Nothing but this ledger says which keys of a pool were used. The keys themselves serve nobody any more.
        if record.versions.iter().any(|v| v.sealed.is_some()) {
            let mut next = successor(record, env);
            next.versions.iter_mut().for_each(|v| v.sealed = None);
            plan.effects.push(Effect::SwapLedger(Box::new(next)));
        } else {
            plan.wake_at(env.now + interval(env.timings.deletion_grace));
        }
    } else if !searched(&view, plan) {
        // What a lost attempt has left goes first.
    } else if lease::is_held(o) {
        plan.effects.push(Effect::ReturnLease);
    } else {
        tracing::info!(
            namespace = record.namespace,
            name = record.name,
            since = rfc3339(released.at),
            "an empty ledger goes"
        );
        plan.effects.push(Effect::DeleteLedger);
    }
}

/// Whether no project that keys were made in holds one of a lost attempt, as far as the account at hand reaches.
fn searched(view: &retire::View<'_>, plan: &mut Plan) -> bool {
    let minted = view.record.versions.iter().filter(|v| v.mint_name.is_some());
    minted.filter(|v| v.within_reach(view.account)).all(|version| retire::searched_after(view, version, plan))
}

/// The LLMKey went without a word: it had nothing to revoke, or its finalizer was taken off by another hand.
fn release(record: &Record, env: &Env) -> Record {
    let mut next = successor(record, env);
    next.owner = None;
    next.released =
        Some(Released { at: env.now, revoke_not_before: env.now + grace(record, env), hand_over: true });
    next
}

/// A duration of the operator's constants, for sums of times.
pub fn interval(duration: std::time::Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::llm_key::model::{Failing, Memory, ProviderView};
    use crate::controller::released::observed;
    use crate::ledger::{Ledger, Tenancy};
    use crate::provider::MintKind;
    use chrono::DateTime;
    use serde_json::json;

    const ACCOUNT: &str =
        r#"{"provider": "acme", "type": "OpenAI", "host": "api.openai.com", "project": "proj_1"}"#;

    fn env() -> Env {
        let timings = crate::domain::timings::Timings::default();
        Env {
            now: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            timings,
            install: "install-1".into(),
            nonce: 7,
        }
    }

    /// A ledger without an LLMKey, whose only version is in the state, and whose account can be used.
    fn ledger(state: &str, grace: i64) -> Observed {
        let account: serde_json::Value = serde_json::from_str(ACCOUNT).unwrap();
        let released = env().now;
        let record: Record = serde_json::from_value(json!({
            "format": 1, "install": "install-1", "namespace": "team", "name": "chat", "lineage": "uid-1",
            "epoch": 3, "writer": "w", "attempt": 1,
            "released": {"at": released, "revokeNotBefore": released + chrono::Duration::seconds(grace), "handOver": true},
            "versions": [{
                "version": 1, "state": state, "origin": "Minted", "reason": "Initial", "account": account,
                "mintName": "lk1-x", "providerKeyID": "key", "createdAt": released, "retiringAt": released,
                "key": {"fingerprint": "f", "shown": "s", "lastFour": "1234"},
            }],
        }))
        .unwrap();
        let provider = ProviderView {
            shown: String::new(),
            problem: None,
            account: record.versions[0].account.clone(),
            account_problem: None,
            reports_last_use: false,
            reports_usage: false,
            can_disable: false,
            matches: false,
            ends_supplied: false,
            mint: MintKind::ShownOnce,
            tenancy: Tenancy::Shared,
        };
        let mut o = observed(&record, provider, Memory::default());
        o.ledger =
            LedgerView::Present(Box::new(Ledger { record, resource_version: "1".into(), uid: "u".into() }));
        o
    }

    fn reason(o: &Observed) -> Option<Reason> {
        let plan = decide(o, &env());
        assert!(plan.effects.is_empty() && plan.wake.is_some(), "{plan:?}");
        waits(&plan).map(|w| w.reason)
    }

    #[test]
    fn time_that_passes_as_planned_is_no_waiting() {
        assert_eq!(reason(&ledger("Current", 60)), None, "the grace");
        assert_eq!(reason(&ledger("Revoked", 0)), None, "the last look");
        let mut confirming = ledger("Retiring", 0);
        confirming.pass.checked_after_l4.insert(1);
        confirming.pass.searched.insert("proj_1".into());
        confirming.pass.revoke_answered.insert(1);
        confirming.pass.confirmed.insert(1, false);
        assert_eq!(reason(&confirming), None, "the provider has not yet forgotten the key");
    }

    #[test]
    fn a_revocation_that_is_never_confirmed_is_told() {
        let mut confirming = ledger("Retiring", 0);
        confirming.pass.checked_after_l4.insert(1);
        confirming.pass.searched.insert("proj_1".into());
        confirming.pass.revoke_answered.insert(1);
        confirming.pass.confirmed.insert(1, false);
        let LedgerView::Present(held) = &mut confirming.ledger else { unreachable!() };
        held.record.versions[0].basis = Some(crate::domain::lifecycle::RevocationBasis::Explicit);
        let later = Env { now: env().now + chrono::Duration::hours(2), ..env() };
        let waits = waits(&decide(&confirming, &later)).unwrap();
        assert_eq!(waits.reason, Reason::RevokeFailed);
        assert!(waits.message.contains("since 2027-01-15T08:00:00Z"), "{}", waits.message);
    }

    #[test]
    fn a_finalizer_that_was_taken_off_by_hand_shortens_no_grace() {
        let mut o = ledger("Current", 0);
        let LedgerView::Present(held) = &mut o.ledger else { unreachable!() };
        held.record.released = None;
        held.record.owner = Some("uid-1".into());
        for (said, grace) in [(Some(168 * 3600), 168), (None, 1)] {
            let LedgerView::Present(held) = &mut o.ledger else { unreachable!() };
            held.record.deletion_grace_seconds = said;
            let plan = decide(&o, &env());
            let Effect::SwapLedger(next) = &plan.effects[0] else { panic!("{plan:?}") };
            let until = next.released.as_ref().unwrap().revoke_not_before;
            assert_eq!(until - env().now, chrono::Duration::hours(grace));
        }
    }

    #[test]
    fn a_ledger_stays_as_long_as_its_key_is_not_revoked() {
        let mut o = ledger("Retiring", 0);
        o.provider.account_problem = Some((Reason::AdminCredentialMissing, "it is gone".into()));
        let later = Env { now: env().now + chrono::Duration::days(365), ..env() };
        let plan = decide(&o, &later);
        assert!(plan.effects.is_empty() && plan.wake.is_some(), "{plan:?}");
    }

    #[test]
    fn what_keeps_a_key_from_its_revocation_has_a_reason() {
        let mut missing = ledger("Retiring", 0);
        missing.provider.account = None;
        missing.provider.account_problem = Some((Reason::AdminCredentialHostMismatch, "hosts differ".into()));
        assert_eq!(reason(&missing), Some(Reason::AdminCredentialHostMismatch));

        let mut elsewhere = ledger("Retiring", 0);
        elsewhere.provider.account = None;
        assert_eq!(reason(&elsewhere), Some(Reason::AccountChanged));

        let mut shared = ledger("Retiring", 0);
        shared.pass.checked_after_l4.insert(1);
        shared.pass.shared.insert(1, Some("another".into()));
        assert_eq!(reason(&shared), Some(Reason::KeyShared));

        let mut failing = ledger("Retiring", 0);
        let failed = Failing {
            reason: Reason::RevokeFailed,
            message: "the provider does not answer".into(),
            count: 1,
            not_before: env().now + chrono::Duration::seconds(5),
            at: env().now,
        };
        failing.memory.failing.insert(failed.reason, failed);
        assert_eq!(reason(&failing), Some(Reason::RevokeFailed));
    }
}
