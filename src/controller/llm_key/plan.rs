//! What is planned: effects, findings, and when to look again. Plain data, no key material.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::model::LedgerView;
use crate::api::{ConditionStatus, ConditionType, PoolStatus, Reason};
use crate::domain::evidence::{Judged, Workload};
use crate::domain::lifecycle::VersionState;
use crate::domain::turns::Place;
use crate::ledger::Record;

/// A workload that is to be restarted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RestartOrder {
    /// Which.
    pub workload: Workload,
    /// Its uid.
    pub uid: String,
    /// What the annotation said when it was looked at.
    pub before: Option<String>,
    /// What it is to say.
    pub mark: String,
}

/// Which key to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The value in the source Secret.
    Source,
    /// A version's key, before it is delivered.
    Candidate(i32),
    /// The delivered version's key.
    Delivered(i32),
    /// The key of a pool's member, by its place in the list.
    Member(usize),
    /// The key of a version that is kept ready, or is being made for that.
    Spare(i32),
    /// A version's key that a pin wants to be delivered.
    Pinned(i32),
}

/// Every effect that a reconcile can have. Dependent ones stand in order; the first failure stops the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Put our finalizer on the LLMKey, or take it off.
    SetFinalizer(bool),
    /// First write of the ledger. Keys that the record names and this pass holds are sealed on the way.
    CreateLedger(Box<Record>),
    /// Compare-and-swap of the ledger.
    SwapLedger(Box<Record>),
    /// Take an empty ledger away, exactly as it was read.
    DeleteLedger,
    /// Take the account for this LLMKey alone, or confirm with its ledger that it has it.
    TakeLease,
    /// Give the account back.
    ReturnLease,
    /// Choose the bytes of the key that the next intent will make.
    Choose,
    /// Read what the account's slots hold.
    ReadSlots,
    /// List the account's keys, where they have no names, before the next one is made.
    ListKeys,
    /// Ask the account for the key that an intent has sealed, or whether its slot's key was made anew.
    LookUp {
        /// The version.
        version: i32,
    },
    /// Create a key at the account under the name that stands in the ledger.
    Mint {
        /// The version.
        version: i32,
    },
    /// List a project for keys of earlier attempts of this lineage.
    FindStrays {
        /// The project.
        project: String,
        /// Only names with a lower attempt.
        below: u32,
    },
    /// Revoke a key that no version of the ledger holds.
    RevokeStray {
        /// Its project.
        project: String,
        /// Its id.
        id: String,
    },
    /// Ask the provider whether a key works.
    Validate(Subject),
    /// Deliver a version.
    WriteTarget {
        /// The version.
        version: i32,
    },
    /// Take the target away.
    DeleteTarget,
    /// Ask all ledgers whether another one holds the version's key.
    CheckShared {
        /// The version.
        version: i32,
    },
    /// Ask the provider when the version's key was last used.
    ReadLastUse {
        /// The version.
        version: i32,
    },
    /// Look at the workloads that use the target.
    LookAtConsumers {
        /// A look that began then or later serves; none: only one that begins now.
        since: Option<DateTime<Utc>>,
    },
    /// Restart a workload by its template's annotation.
    Restart(Box<RestartOrder>),
    /// Ask the account which of its keys the version's supplied one is.
    Match {
        /// The version.
        version: i32,
    },
    /// Revoke the version's key.
    Revoke {
        /// The version.
        version: i32,
    },
    /// Ask the provider whether the revoked key is gone and refused.
    ConfirmRevoked {
        /// The version.
        version: i32,
    },
    /// Remember that a reminder was told of.
    NoteReminder {
        /// The due time.
        due: DateTime<Utc>,
        /// The reminder.
        before: Duration,
    },
    /// Switch a version's key off or on at the provider.
    Switch {
        /// The version.
        version: i32,
        /// Off or on.
        on: bool,
    },
    /// An event on the LLMKey.
    Announce {
        /// Something is wrong.
        warning: bool,
        /// Its reason.
        reason: Reason,
        /// Its note.
        note: String,
    },
    /// Read the Secrets of some members of the pool.
    ReadMembers {
        /// Their names.
        members: Vec<String>,
    },
}

impl Effect {
    /// Whether nothing of source and target enters into it.
    pub const fn needs_ledger_only(&self) -> bool {
        matches!(
            self,
            Self::Validate(Subject::Delivered(_) | Subject::Spare(_))
                | Self::NoteReminder { .. }
                | Self::Announce { .. }
        )
    }

    /// The effect's name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetFinalizer(_) => "set_finalizer",
            Self::CreateLedger(_) => "create_ledger",
            Self::SwapLedger(_) => "swap_ledger",
            Self::DeleteLedger => "delete_ledger",
            Self::TakeLease => "take_lease",
            Self::ReturnLease => "return_lease",
            Self::Choose => "choose",
            Self::ReadSlots => "read_slots",
            Self::ListKeys => "list_keys",
            Self::LookUp { .. } => "look_up",
            Self::Mint { .. } => "mint",
            Self::FindStrays { .. } => "find_strays",
            Self::RevokeStray { .. } => "revoke_stray",
            Self::Validate(_) => "validate",
            Self::WriteTarget { .. } => "write_target",
            Self::DeleteTarget => "delete_target",
            Self::CheckShared { .. } => "check_shared",
            Self::ReadLastUse { .. } => "read_last_use",
            Self::LookAtConsumers { .. } => "look_at_consumers",
            Self::Restart(_) => "restart",
            Self::Switch { .. } => "switch",
            Self::Match { .. } => "match",
            Self::Revoke { .. } => "revoke",
            Self::ConfirmRevoked { .. } => "confirm_revoked",
            Self::NoteReminder { .. } => "note_reminder",
            Self::Announce { .. } => "announce",
            Self::ReadMembers { .. } => "read_members",
        }
    }
}

/// One thing to be said in the conditions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    /// The condition.
    pub condition: ConditionType,
    /// Its status.
    pub status: ConditionStatus,
    /// Its reason.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

/// What to do, what to say, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    /// For the conditions; the first finding for a condition wins.
    pub findings: Vec<Finding>,
    /// In order.
    pub effects: Vec<Effect>,
    /// When to look again, if nothing happens before.
    pub wake: Option<DateTime<Utc>>,
    /// When the next rotation is due.
    pub next_rotation: Option<DateTime<Utc>>,
    /// The workloads that use the target, as far as they were looked at.
    pub consumers: Vec<Judged>,
    /// No later step may follow in this decision.
    pub hold: bool,
    /// What is due and a glance does not show: read it and decide again.
    pub look: Look,
    /// How far the pool is used, if that was looked at.
    pub pool: Option<PoolStatus>,
    /// A rotation is due and nothing but its turn holds it: where it stands in line.
    pub in_line: Option<Place>,
    /// A key is to be made as soon as there is room for it, or the provider says whether there is.
    pub awaits_room: bool,
}

/// What must be read before a decision that a glance led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Look {
    /// Nothing.
    #[default]
    Nothing,
    /// The ledger: the delivered key is to be checked.
    Ledger,
    /// Ledger, source and target.
    Everything,
}

impl Plan {
    /// Adds a finding.
    pub fn find(
        &mut self,
        condition: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
    ) {
        self.findings.push(Finding { condition, status, reason, message: message.into() });
    }

    /// Nothing goes on until a person acts.
    pub fn stall(&mut self, reason: Reason, message: impl Into<String>) {
        self.find(ConditionType::Stalled, ConditionStatus::True, reason, message);
    }

    /// A user who waits should go on waiting.
    pub fn progress(&mut self, reason: Reason, message: impl Into<String>) {
        self.find(ConditionType::Reconciling, ConditionStatus::True, reason, message);
    }

    /// Wakes at the earliest of all times asked for.
    pub fn wake_at(&mut self, at: DateTime<Utc>) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Whether it puts on record, beyond what the record says, that a key is to be made or revoked.
    pub fn commits(&self, ledger: &LedgerView) -> bool {
        let known = |version, state| match ledger {
            LedgerView::Present(ledger) => ledger.record.version(version).is_some_and(|v| v.state == state),
            _ => false,
        };
        self.effects.iter().any(|effect| match effect {
            Effect::CreateLedger(next) | Effect::SwapLedger(next) => next.versions.iter().any(|v| {
                matches!(v.state, VersionState::Intent | VersionState::Retiring) && !known(v.version, v.state)
            }),
            _ => false,
        })
    }

    /// Whether a person must act.
    pub fn stalled(&self) -> bool {
        self.findings.iter().any(|f| f.condition == ConditionType::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lifecycle::Origin;
    use crate::ledger::Ledger;
    use crate::ledger::tests::{record, version};

    #[test]
    fn a_further_key_to_make_or_to_revoke_commits_and_the_rest_of_the_way_does_not() {
        use VersionState::{Current, Intent, Overlap, Pending, Retiring, Revoked};
        let of = |states: &[VersionState]| {
            record(states.iter().zip(1..).map(|(state, n)| version(n, *state, Origin::Minted)).collect())
        };
        let commits = |before: Option<&[VersionState]>, next: &[VersionState]| {
            let ledger = before.map_or(LedgerView::Absent, |before| {
                let (resource_version, uid) = ("1".to_owned(), "uid".to_owned());
                LedgerView::Present(Box::new(Ledger { record: of(before), resource_version, uid }))
            });
            let effects = vec![Effect::SwapLedger(Box::new(of(next)))];
            Plan { effects, ..Plan::default() }.commits(&ledger)
        };
        assert!(commits(None, &[Intent]));
        assert!(commits(Some(&[Current]), &[Current, Intent]));
        assert!(commits(Some(&[Overlap, Current]), &[Retiring, Current]));
        // Another attempt at what is on record, and each step after it.
        assert!(!commits(Some(&[Current, Intent]), &[Current, Intent]));
        assert!(!commits(Some(&[Current, Intent]), &[Current, Pending]));
        assert!(!commits(Some(&[Current, Pending]), &[Overlap, Current]));
        assert!(!commits(Some(&[Retiring, Current]), &[Revoked, Current]));
        assert!(!Plan { effects: vec![Effect::Choose], ..Plan::default() }.commits(&LedgerView::Absent));
    }
}
