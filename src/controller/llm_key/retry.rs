//! Tries to make a key that failed: what the ledger keeps of them, so that the next process waits as long as this one would.
//!
//! Every try is preceded by a write of the ledger, and one that was refused is followed by another. These writes carry the
//! failures, so nothing is written for them alone. A try whose end is not on record, because the process died or the answer
//! was lost, counts as one that failed when it was begun.

use chrono::{DateTime, Utc};

use super::model::{Env, Failing, LedgerView, Memory, Observed};
use crate::api::Reason;
use crate::domain::backoff::{self, Class, Failures};
use crate::domain::lifecycle::VersionState;
use crate::domain::timings::Timings;
use crate::ledger::{Outcome, Record, Retry, Rotation, RotationFailure, Version};

/// What is told where no key is made.
const MAKING: [Reason; 6] = [
    Reason::MintFailed,
    Reason::ProjectNotFound,
    Reason::CustomKeysDisabled,
    Reason::AdminCredentialInvalid,
    Reason::AddressRefused,
    Reason::MintBudget,
];

/// Longest sentence of a failure that is kept, in characters.
const MAX_MESSAGE: usize = 300;

/// How a rotation that is under way stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is wrong with it.
    Going,
    /// All tries that the policy allows have failed: since when, and the last one in a sentence.
    Failed(DateTime<Utc>, String),
    /// It has taken longer than the policy's `timeout`, which ended then.
    TimedOut(DateTime<Utc>),
}

/// Work at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// To make a key.
    Mint,
    /// To revoke one, and what has to be known before.
    Revoke,
    /// To switch one off or on.
    Switch,
}

impl Memory {
    /// What puts off work at the provider. A key that cannot be made keeps none from being revoked, and the other way round.
    pub fn waits(&self, work: Work, now: DateTime<Utc>) -> Option<&Failing> {
        let other: &[Reason] = match work {
            Work::Mint => &[Reason::RevokeFailed, Reason::SwitchFailed],
            Work::Revoke => &[
                Reason::MintFailed,
                Reason::ProjectNotFound,
                Reason::CustomKeysDisabled,
                Reason::MintBudget,
                Reason::SwitchFailed,
            ],
            Work::Switch => &[
                Reason::MintFailed,
                Reason::ProjectNotFound,
                Reason::CustomKeysDisabled,
                Reason::MintBudget,
                Reason::RevokeFailed,
            ],
        };
        let waiting = self.failing.values().filter(|f| !other.contains(&f.reason) && now < f.not_before);
        waiting.max_by_key(|f| f.not_before)
    }

    /// Failed tries to make a key. A budget that is used up is no failure.
    pub fn failed_mints(&self) -> u32 {
        let counted = MAKING.iter().filter(|reason| **reason != Reason::MintBudget);
        counted.filter_map(|reason| self.failing.get(reason)).map(|failing| failing.count).sum()
    }

    fn last_failed_mint(&self) -> Option<&Failing> {
        MAKING.iter().filter_map(|reason| self.failing.get(reason)).max_by_key(|failing| failing.at)
    }
}

impl Observed {
    /// Whether one more failure for the reason is the last one that the policy allows: from then on the intervals are the
    /// longest.
    pub fn is_last_try(&self, reason: Reason) -> bool {
        let counts = MAKING.contains(&reason) && reason != Reason::MintBudget;
        counts && self.memory.failed_mints().saturating_add(1) >= self.policy.retry_attempts
    }

    /// Takes up what the ledger says of tries that failed, unless people have edited something since.
    pub fn recall_failures(&mut self, timings: &Timings) {
        let LedgerView::Present(ledger) = &self.ledger else { return };
        let record = &ledger.record;
        let own = self.pass.fenced == Some(record.attempt) || self.pass.minted.is_some();
        if own || self.memory.last_failed_mint().is_some() {
            return;
        }
        let Some(version) = intent(record) else { return };
        let Some(rotation) = record.rotation(version.version) else { return };
        let Some(retry) = rotation.retry.as_ref().filter(|retry| retry.edits == self.edits) else { return };
        if let Some(failing) = self.recalled(version, rotation, retry, timings) {
            self.memory.failing.insert(failing.reason, failing);
        }
    }

    fn recalled(
        &self,
        version: &Version,
        rotation: &Rotation,
        retry: &Retry,
        timings: &Timings,
    ) -> Option<Failing> {
        if let Some(at) = retry.tried_at.filter(|_| version.account.is_some()) {
            let count = retry.failures.saturating_add(1);
            let spent = count >= self.policy.retry_attempts;
            let failures = Failures {
                count: if spent { u32::MAX } else { count },
                last: at,
                class: Class::Transient,
                retry_after: None,
            };
            let message = format!(
                "version {} could not be made: the end of the last try is not known",
                version.version
            );
            let not_before = backoff::not_before(&failures, &self.key.uid, timings).max(retry.not_before);
            return Some(Failing { reason: Reason::MintFailed, message, count, not_before, at });
        }
        let failure = rotation.failure.as_ref()?;
        let reason = MAKING.into_iter().find(|reason| reason.as_str() == failure.reason)?;
        Some(Failing {
            reason,
            message: retry.message.clone(),
            count: retry.failures,
            not_before: retry.not_before,
            at: failure.at,
        })
    }

    /// Puts what is known of failed tries into the record that is about to be written.
    pub fn keep_failures(&self, before: Option<&Record>, next: &mut Record, env: &Env) {
        let Some(version) = intent(next) else { return };
        let (number, open) = (version.version, version.account.is_some());
        let raised = before.is_none_or(|b| b.attempt < next.attempt);
        // An attempt that is only raised to end the one before is none.
        let tried = raised && next.mints.last() == Some(&env.now);
        let (last, failures) = (self.memory.last_failed_mint(), self.memory.failed_mints());
        let Some(rotation) = next.rotations.iter_mut().find(|r| r.version == number) else { return };
        let had_failed = rotation.outcome == Outcome::Failed;
        if let Some(last) = last {
            rotation.failure = Some(RotationFailure {
                reason: last.reason.as_str().to_owned(),
                class: class(last.reason),
                at: last.at,
            });
        }
        let before_this = rotation.retry.as_ref().and_then(|retry| retry.tried_at);
        rotation.retry = Some(Retry {
            failures,
            not_before: last.map_or(env.now, |last| last.not_before),
            tried_at: if tried { Some(env.now) } else { before_this.filter(|_| open) },
            edits: self.edits.clone(),
            message: last.map(|last| last.message.chars().take(MAX_MESSAGE).collect()).unwrap_or_default(),
        });
        rotation.attempts += u32::from(tried);
        let failed = last.filter(|_| failures >= self.policy.retry_attempts);
        rotation.outcome = if failed.is_some() { Outcome::Failed } else { Outcome::InProgress };
        rotation.ended_at = failed.map(|last| last.at);
        if had_failed && tried {
            // A token that came after the failure asks for what this try is about to make.
            next.handled_rotate = self.key.rotate.clone().or(next.handled_rotate.take());
        }
    }

    /// How the rotation that makes this version stands.
    pub fn standing(&self, version: &Version, env: &Env) -> Standing {
        let last = self.memory.last_failed_mint();
        if let Some(last) = last.filter(|_| version.state == VersionState::Intent)
            && self.memory.failed_mints() >= self.policy.retry_attempts
        {
            return Standing::Failed(last.at, last.message.clone());
        }
        let end = self.times_out(version, env);
        if env.now >= end { Standing::TimedOut(end) } else { Standing::Going }
    }

    /// When the policy's `timeout` for the version's rotation ends.
    pub fn times_out(&self, version: &Version, env: &Env) -> DateTime<Utc> {
        let timeout = chrono::Duration::from_std(env.timings.scale(self.policy.timeout));
        timeout
            .ok()
            .and_then(|timeout| version.wanted_since().checked_add_signed(timeout))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

fn intent(record: &Record) -> Option<&Version> {
    record.versions.iter().find(|v| v.state == VersionState::Intent)
}

/// Who can make the next try succeed.
const fn class(reason: Reason) -> Class {
    match reason {
        Reason::ProjectNotFound
        | Reason::CustomKeysDisabled
        | Reason::AdminCredentialInvalid
        | Reason::AddressRefused => Class::User,
        _ => Class::Transient,
    }
}
