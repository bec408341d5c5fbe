//! What an effect taught, taken into the observation: pure, so that a model can drive it.

use chrono::{DateTime, Utc};

use super::decide::unnamed_strays;
use super::model::{
    Chosen, Effect, Env, Failing, LedgerView, Minted, Observed, SlotView, SourceView, Subject, TargetView,
    Unmatched,
};
use crate::api::Reason;
use crate::domain::backoff::{self, Class, Failures};
use crate::domain::evidence::Look;
use crate::domain::health::{Health, Verdict};
use crate::domain::lifecycle::{Origin, VersionState};
use crate::ledger::{AccountRef, Ledger, Tenancy};
use crate::provider::NoMatch;

/// Refused keys that are remembered: twice as many as a pool has members.
const MAX_REFUSED: usize = 64;

/// What an effect that succeeded taught.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Learned {
    /// The finalizer is on or off.
    Finalizer(bool),
    /// The ledger as it was written.
    Ledger(Box<Ledger>),
    /// The ledger is gone.
    LedgerDeleted,
    /// How the account is found now; or, in words, who else has it.
    Lease(Result<Tenancy, String>),
    /// A key was chosen.
    Chosen(Chosen),
    /// What the account's slots hold.
    Slots(Vec<SlotView>),
    /// Ids of the account's keys.
    Listed(Vec<String>),
    /// Whether the account has the chosen key.
    LookedUp(bool),
    /// The key's id is a deleted key's.
    Spent,
    /// The provider made a key.
    Minted(Minted),
    /// The provider refused to make a key, and made none.
    MintRefused(Failure),
    /// Ids of keys of earlier attempts in a project.
    Strays(Vec<String>),
    /// A key that nobody's version holds is gone.
    StrayRevoked(String),
    /// The provider's word on a key.
    Answer {
        /// Which key.
        subject: Subject,
        /// Its fingerprint as status shows it.
        fingerprint: String,
        /// The word.
        verdict: Verdict,
    },
    /// The target was written.
    TargetWritten {
        /// The version that it carries.
        version: i32,
        /// When, by the API server's clock, rounded up.
        since: Option<DateTime<Utc>>,
    },
    /// The target is gone.
    TargetDeleted,
    /// Whether another ledger holds the version's key.
    Shared {
        /// The version.
        version: i32,
        /// Who holds it, in words.
        holder: Option<String>,
    },
    /// When the version's key was last used.
    LastUse {
        /// The version.
        version: i32,
        /// The answer.
        used: Option<DateTime<Utc>>,
    },
    /// Who uses the target.
    Consumers(Look),
    /// A workload was restarted, or needs it no more.
    Restarted {
        /// Admission did not let it happen.
        refused: bool,
    },
    /// The version's key is off or on, as it should be.
    Switched(i32),
    /// Which key of its account the version's supplied one is.
    Matched {
        /// The version.
        version: i32,
        /// Its fingerprint as status shows it.
        fingerprint: String,
        /// The key's id, or why it is not known.
        found: Result<String, NoMatch>,
    },
    /// The provider answered the revocation.
    RevokeAnswered(i32),
    /// Whether the version's key is gone and refused.
    Confirmed {
        /// The version.
        version: i32,
        /// The answer.
        gone: bool,
    },
    /// What some members of the pool hold, by name.
    Members(Vec<(String, SourceView)>),
    /// A reminder was told of.
    Reminded,
    /// Nothing to remember.
    Nothing,
}

/// Why an effect failed, for status and for the next try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What failed.
    pub reason: Reason,
    /// A sentence for status, without any provider text.
    pub message: String,
    /// Who can make the next try succeed.
    pub class: Class,
    /// How long the provider asks us to wait.
    pub retry_after: Option<std::time::Duration>,
}

impl Observed {
    /// Takes in what an effect taught.
    pub fn learn(&mut self, effect: &Effect, learned: Learned, env: &Env) {
        match learned {
            Learned::Finalizer(on) => self.key.finalizer = on,
            Learned::Ledger(ledger) => self.learn_ledger(*ledger),
            Learned::LedgerDeleted => self.ledger = LedgerView::Absent,
            Learned::Lease(Ok(tenancy)) => self.provider.tenancy = tenancy,
            Learned::Lease(Err(held)) => {
                self.provider.tenancy = Tenancy::Vacant;
                self.provider.account_problem = Some((Reason::AccountLeased, held));
            }
            Learned::Chosen(chosen) => self.pass.chosen = Some(chosen),
            Learned::Slots(slots) => self.pass.slots = Some(slots),
            Learned::Listed(ids) => self.pass.listed = Some(ids),
            Learned::LookedUp(there) => self.learn_look(effect, there),
            Learned::Spent => self.pass.spent = self.attempt(),
            Learned::Minted(minted) => self.learn_minted(minted),
            Learned::MintRefused(failure) => {
                self.fail(failure, env);
                self.pass.refused = self.attempt();
            }
            Learned::Strays(strays) => {
                if let Effect::FindStrays { project, .. } = effect {
                    self.pass.found_none = strays.is_empty();
                    self.pass.strays.retain(|(known, _)| known != project);
                    self.pass.strays.extend(strays.into_iter().map(|id| (project.clone(), id)));
                    self.pass.searched.insert(project.clone());
                }
            }
            Learned::StrayRevoked(id) => {
                self.pass.strays.retain(|(_, stray)| *stray != id);
                if self.pass.minted.as_ref().is_some_and(|m| m.id == id) {
                    self.pass.minted = None;
                }
            }
            Learned::Answer { subject, fingerprint, verdict } => {
                self.learn_answer(subject, &fingerprint, verdict, env);
            }
            Learned::TargetWritten { version, since } => {
                let repaired = match self.target {
                    TargetView::Ours { changed, .. } => changed,
                    _ => self.state_of(version) == Some(VersionState::Current),
                };
                if repaired {
                    self.memory.repaired = Some(env.now);
                }
                self.target = TargetView::Ours { carries: Some(version), since, changed: false };
                self.pass.wrote_target = Some(version);
                self.memory.failing.retain(|_, f| f.at_provider());
                self.delivered_from_candidate(version);
            }
            Learned::TargetDeleted => {
                self.target = TargetView::Absent;
                self.pass.deleted_target = true;
            }
            Learned::Shared { version, holder } => {
                self.pass.shared.insert(version, holder);
                if self.state_of(version) == Some(VersionState::Retiring) {
                    self.pass.checked_after_l4.insert(version);
                }
            }
            Learned::LastUse { version, used } => {
                self.memory.last_use = Some((version, env.now, used));
                self.mended(&[Reason::RevokeFailed]);
            }
            Learned::Consumers(look) => {
                self.pass.looked_for_l4 = matches!(effect, Effect::LookAtConsumers { since: None });
                self.memory.consumers = Some(look);
            }
            Learned::Restarted { refused } => self.learn_restart(effect, refused),
            Learned::Switched(version) => self.learn_switched(version),
            Learned::Matched { version, fingerprint, found } => {
                self.learn_match(version, fingerprint, found, env);
            }
            Learned::RevokeAnswered(version) => {
                self.pass.revoke_answered.insert(version);
            }
            // The answer to a revocation is not yet its success: the account may still not list its keys.
            Learned::Confirmed { version, gone } => {
                self.pass.confirmed.insert(version, gone);
                self.memory.failing.retain(|reason, _| {
                    matches!(
                        reason,
                        Reason::MintFailed | Reason::ProjectNotFound | Reason::CustomKeysDisabled
                    )
                });
            }
            Learned::Reminded => {
                if let Effect::NoteReminder { due, before } = effect {
                    self.memory.reminded = Some((*due, *before));
                }
            }
            Learned::Members(members) => self.pass.members.extend(members),
            Learned::Nothing => {}
        }
    }

    fn learn_switched(&mut self, version: i32) {
        self.pass.switched.insert(version);
        self.mended(&[Reason::SwitchFailed]);
    }

    fn learn_restart(&mut self, effect: &Effect, refused: bool) {
        // What the last look told is not so any more.
        self.memory.consumers = None;
        if let Effect::Restart(order) = effect {
            let workload = order.workload.to_string();
            if refused {
                self.memory.restart_refused.insert(workload);
            } else {
                self.memory.restart_refused.remove(&workload);
            }
        }
    }

    fn learn_match(&mut self, version: i32, fingerprint: String, found: Result<String, NoMatch>, env: &Env) {
        match found {
            Ok(id) => self.pass.matched = Some((version, id)),
            Err(why) => self.memory.unmatched = Some(Unmatched { fingerprint, at: env.now, why }),
        }
    }

    fn learn_minted(&mut self, minted: Minted) {
        self.pass.minted = Some(minted);
        self.memory.failing.retain(|reason, _| *reason == Reason::RevokeFailed);
    }

    /// Found, the chosen key is as good as just made.
    fn learn_look(&mut self, effect: &Effect, there: bool) {
        let (LedgerView::Present(ledger), Effect::LookUp { version }) = (&self.ledger, effect) else {
            return;
        };
        let attempt = ledger.record.attempt;
        let slot = ledger.record.version(*version).is_some_and(|v| v.slot.is_some());
        let found =
            ledger.record.version(*version).filter(|_| there).and_then(|v| {
                Some(Minted { attempt, id: v.provider_key_id.clone()?, facts: v.key.clone()? })
            });
        if let Some(found) = found {
            self.learn_minted(found);
        } else {
            self.pass.absent = Some(attempt);
            // The attempt before this one made no key. Where there are names, the list says so.
            self.pass.found_none = slot;
        }
    }

    /// Whether an intent has chosen this key, or finds it in its slot again.
    fn is_chosen(&self, id: &str) -> bool {
        let LedgerView::Present(ledger) = &self.ledger else { return false };
        let mut versions = ledger.record.versions.iter();
        versions.any(|v| {
            v.state == VersionState::Intent && (v.slot.is_some() || v.provider_key_id.as_deref() == Some(id))
        })
    }

    /// What a search for strays that fails puts off: while an attempt is open the next one, else a revocation.
    pub fn waits_for_strays(&self) -> Reason {
        let LedgerView::Present(ledger) = &self.ledger else { return Reason::RevokeFailed };
        let making = ledger.record.versions.iter().any(|v| v.state == VersionState::Intent);
        if making { Reason::MintFailed } else { Reason::RevokeFailed }
    }

    /// What failed for one of these reasons has succeeded.
    fn mended(&mut self, reasons: &[Reason]) {
        self.memory.failing.retain(|reason, _| !reasons.contains(reason));
    }

    /// Takes in that an effect failed: the next try waits.
    pub fn fail(&mut self, failure: Failure, env: &Env) {
        let count = self.memory.failing.get(&failure.reason).map_or(0, |f| f.count) + 1;
        let failures = Failures {
            count: if self.is_last_try(failure.reason) { u32::MAX } else { count },
            last: env.now,
            class: failure.class,
            retry_after: failure.retry_after,
        };
        let failing = Failing {
            reason: failure.reason,
            message: failure.message,
            count,
            not_before: backoff::not_before(&failures, &self.key.uid, &env.timings),
            at: env.now,
        };
        self.memory.failing.insert(failing.reason, failing);
        // A mint that failed may have left a key behind: the attempt is not used again.
        self.pass.fenced = None;
    }

    /// The reconcile ends before the key that it made is on record: that one is looked for once it must be listed.
    pub fn lose_minted(&mut self, env: &Env) {
        let Some(minted) = &self.pass.minted else { return };
        let (what, retry_after) = if self.is_chosen(&minted.id) {
            ("it is asked for again", None)
        } else {
            ("it is revoked and another is made", Some(env.timings.list_visibility_lag))
        };
        let message = format!("a key was made and could not be put on record; {what}");
        self.fail(Failure { reason: Reason::MintFailed, message, class: Class::Transient, retry_after }, env);
    }

    fn learn_ledger(&mut self, ledger: Ledger) {
        let before = match &self.ledger {
            LedgerView::Present(before) => Some(before.record.clone()),
            _ => None,
        };
        let record = &ledger.record;
        if before.as_ref().is_none_or(|b| b.attempt < record.attempt)
            && let Some(version) = record.versions.iter().find(|v| v.state == VersionState::Intent)
        {
            // Nothing can be left of an attempt that was never made, nor of one that was refused.
            let earlier = before.as_ref().and_then(|b| b.version(version.version));
            self.pass.fenced = Some(record.attempt);
            self.pass.strays.clear();
            self.pass.searched.clear();
            let clean = |account: &AccountRef| {
                let listed = self.pass.listed.as_deref().unwrap_or_default();
                unnamed_strays(self, record, &account.project, listed).is_empty()
            };
            let clean = version.account.as_ref().is_none_or(clean);
            if earlier.is_none_or(|v| v.account.is_none()) && clean {
                self.pass.searched.extend(version.account.as_ref().map(|a| a.project.clone()));
                self.pass.absent = Some(record.attempt);
            }
        }
        if record.versions.iter().all(|v| v.state != VersionState::Intent) {
            self.pass.minted = None;
            self.pass.fenced = None;
        }
        if !record.versions.iter().any(|v| v.state.open()) {
            self.memory.failing.clear();
        }
        if record.spare().is_none() {
            self.memory.spare = None;
        }
        self.pass.chosen = None;
        self.pass.slots = None;
        self.pass.listed = None;
        self.pass.found_none = false;
        self.pass.confirmed.clear();
        self.pass.revoke_answered.clear();
        self.pass.switched.clear();
        self.ledger = LedgerView::Present(Box::new(ledger));
    }

    fn learn_answer(&mut self, subject: Subject, fingerprint: &str, verdict: Verdict, env: &Env) {
        if matches!(subject, Subject::Member(_)) {
            self.learn_refusal(fingerprint, verdict, env);
        }
        let spreads = verdict.refuses() && self.is_spreading(subject, env);
        let slot = match subject {
            Subject::Source | Subject::Candidate(_) | Subject::Member(_) => &mut self.memory.candidate,
            Subject::Spare(_) => &mut self.memory.spare,
            Subject::Pinned(_) => &mut self.memory.pinned,
            Subject::Delivered(_) => {
                self.pass.checked_delivered = true;
                self.memory.failing.remove(&Reason::KeyringMissing);
                &mut self.memory.health
            }
        };
        let health = match slot {
            Some(health) if health.fingerprint == fingerprint => health,
            _ => slot.insert(Health::unknown(fingerprint, env.now)),
        };
        // However often it is refused meanwhile, that confirms nothing.
        let threshold = if spreads && health.accepted.is_none() { i32::MAX } else { self.key.threshold };
        health.observe(verdict, env.now, threshold);
    }

    /// A key that was delivered as soon as it was made, and that may not be known to all of the provider yet.
    fn is_spreading(&self, subject: Subject, env: &Env) -> bool {
        let (Subject::Delivered(version), LedgerView::Present(ledger)) = (subject, &self.ledger) else {
            return false;
        };
        let made =
            ledger.record.version(version).filter(|v| v.origin == Origin::Minted && v.key_of.is_none());
        made.is_some_and(|v| {
            (env.now - v.created_at).to_std().is_ok_and(|age| age < env.timings.new_key_deadline)
        })
    }

    /// The provider's word on a pool's key outlives the next one's: else both would be asked in turn without end.
    fn learn_refusal(&mut self, fingerprint: &str, verdict: Verdict, env: &Env) {
        let refused = &mut self.memory.refused;
        if verdict.refuses() {
            refused.insert(fingerprint.to_owned(), env.now);
        } else if verdict.accepts() {
            refused.remove(fingerprint);
        }
        if refused.len() > MAX_REFUSED
            && let Some(oldest) = refused.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
        {
            refused.remove(&oldest);
        }
    }

    /// What was asked about a key before its delivery is known of it afterwards.
    fn delivered_from_candidate(&mut self, version: i32) {
        let LedgerView::Present(ledger) = &self.ledger else { return };
        let Some(fingerprint) = ledger.record.version(version).and_then(|v| v.key.as_ref()).map(|k| &k.shown)
        else {
            return;
        };
        if self.memory.health.as_ref().is_some_and(|h| h.fingerprint == *fingerprint) {
            return;
        }
        let known = self.memory.before_delivery(fingerprint).cloned();
        self.memory.candidate.take_if(|c| c.fingerprint == *fingerprint);
        self.memory.pinned.take_if(|c| c.fingerprint == *fingerprint);
        let mut health = known.unwrap_or_else(|| {
            let since = self.memory.started.unwrap_or_default();
            Health::unknown(fingerprint, since)
        });
        if let Some(before) = &self.memory.health {
            health.succeed(before);
        }
        self.memory.health = Some(health);
    }

    /// Whether nothing in the source Secret waits to be delivered or to be put right.
    pub fn source_is_delivered(&self) -> bool {
        if !self.key.pool.is_empty() {
            return super::decide::pool::settled(self);
        }
        match (&self.source, &self.ledger) {
            (SourceView::None | SourceView::Unchanged, _) => true,
            (SourceView::Value(facts), LedgerView::Present(ledger)) => {
                let delivered = ledger.record.delivered().and_then(|v| v.key.as_ref());
                delivered.is_some_and(|key| key.fingerprint == facts.fingerprint)
            }
            (SourceView::Value(_) | SourceView::Problem(..), _) => false,
        }
    }

    /// The ledger was read, the target (and the source) only glanced at: enough to check the delivered key.
    pub const fn only_ledger_read(&self) -> bool {
        matches!((&self.ledger, &self.target), (LedgerView::Present(_), TargetView::Unread))
    }

    const fn attempt(&self) -> Option<u32> {
        match &self.ledger {
            LedgerView::Present(ledger) => Some(ledger.record.attempt),
            _ => None,
        }
    }

    fn state_of(&self, version: i32) -> Option<VersionState> {
        match &self.ledger {
            LedgerView::Present(ledger) => ledger.record.version(version).map(|v| v.state),
            _ => None,
        }
    }
}
