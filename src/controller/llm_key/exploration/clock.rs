//! The clock goes on: every time in a component is moved back. The patterns name every field, so that a new time in the
//! record or in the memory cannot be forgotten. A time that no rule can look at any more is as old as any other.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::parts::{OLD, Place, Replica, Shift, Work, now};
use super::rules::{CANDIDATE_FRESH, HELD_UP, LIST_LAG, PUBLISH_UNKNOWN_AFTER, QUIET, RECHECK};
use crate::controller::llm_key::model::{Effect, Failing, LedgerView, Memory, Observed, TargetView};
use crate::domain::health::Health;
use crate::domain::lifecycle::VersionState;
use crate::ledger::{Record, Released, Version};

impl Shift {
    /// Everything outside the operator.
    pub fn place(self, place: &mut Place) {
        if let Some(ledger) = &mut place.ledger {
            self.record(&mut Arc::make_mut(ledger).record);
        }
        let idle = place.ledger.as_ref().is_some_and(|ledger| !delivering(&ledger.record));
        if let Some(target) = &mut place.target {
            self.within(&mut target.written, if idle { 0 } else { OLD });
        }
        for key in &mut place.keys {
            self.within(&mut key.made, LIST_LAG);
            self.maybe(&mut key.revoked);
            if let Some(used) = &mut key.used {
                self.within(used, QUIET + 1);
            }
        }
        if let Some((_, sent)) = &mut place.late {
            self.time(sent);
        }
    }

    /// A ledger's record.
    pub fn record(self, record: &mut Record) {
        let Record {
            format: _,
            install: _,
            namespace: _,
            name: _,
            lineage: _,
            owner: _,
            epoch: _,
            writer: _,
            released,
            retain_on_delete: _,
            deletion_grace_seconds: _,
            attempt: _,
            mints,
            handled_rotate: _,
            awaiting_supply: _,
            revoked_by_spec: _,
            audit_head: _,
            versions,
            rotations,
            used: _,
        } = record;
        // The budget of an hour is left out of the model: no bound of faults here comes near it, and for how long a released ledger is
        // kept for its sake is a matter of time alone. What counts is whether there was an attempt before this one, and for how long
        // the request of one that is open may be on its way, and its key missing from the list.
        let kept = if released.is_some() { 0 } else { 2 };
        mints.drain(..mints.len().saturating_sub(kept));
        let open = versions.iter().any(|v| v.state == VersionState::Intent && v.account.is_some());
        let counts = mints.len() - usize::from(open && !mints.is_empty());
        mints[..counts].fill(now() - chrono::Duration::seconds(OLD));
        for attempted in &mut mints[counts..] {
            self.within(attempted, HELD_UP + LIST_LAG);
        }
        // The history decides nothing; what it keeps of failures only puts off tries.
        rotations.clear();
        if let Some(Released { at, revoke_not_before, hand_over: _ }) = released {
            self.time(at);
            self.time(revoke_not_before);
        }
        let overlap = versions.iter().any(|v| v.state == VersionState::Overlap);
        for version in versions {
            self.version(version, overlap, released.is_some());
        }
    }

    fn version(self, version: &mut Version, overlap: bool, released: bool) {
        let Version {
            version: _,
            state,
            origin: _,
            reason: _,
            account: _,
            mint_name: _,
            provider_key_id: _,
            key: _,
            sealed: _,
            created_at,
            published_at,
            superseded_at,
            overlap: _,
            restarts: _,
            retiring_at,
            revoked_at,
            basis: _,
            key_of: _,
            member: _,
            spare_since,
            promoted_at,
            switch: _,
            slot: _,
            before: _,
            target: _,
        } = version;
        // The deadline of a new key, the overlap, and the time that a released ledger is kept: nothing else is counted.
        self.within(created_at, if state.in_flight() { OLD } else { 0 });
        for (time, counts) in [
            (published_at, overlap),
            (superseded_at, overlap),
            (retiring_at, false),
            (revoked_at, released),
            (spare_since, false),
            (promoted_at, false),
        ] {
            if let Some(time) = time {
                self.within(time, if counts { OLD } else { 0 });
            }
        }
    }

    /// One replica.
    pub fn replica(self, replica: &mut Replica) {
        match replica {
            Replica::Idle { uid: _, memory, wake } => {
                self.memory(memory);
                if let Some(wake) = wake {
                    self.deadline(wake);
                }
            }
            Replica::Working(work) => self.work(work),
        }
    }

    /// A reconcile under way.
    pub fn work(self, work: &mut Work) {
        self.observed(&mut work.o);
        self.time(&mut work.planned);
        for effect in &mut work.queue {
            match effect {
                Effect::CreateLedger(record) | Effect::SwapLedger(record) => self.record(record),
                Effect::NoteReminder { due, .. } => self.time(due),
                _ => {}
            }
        }
        if let Some(wake) = &mut work.wake {
            self.deadline(wake);
        }
    }

    fn observed(self, o: &mut Observed) {
        self.time(&mut o.key.created);
        self.memory(&mut o.memory);
        if let LedgerView::Present(ledger) = &mut o.ledger {
            self.record(&mut ledger.record);
        }
        let idle = matches!(&o.ledger, LedgerView::Present(ledger) if !delivering(&ledger.record));
        if let TargetView::Ours { since: Some(since), .. } = &mut o.target {
            self.within(since, if idle { 0 } else { OLD });
        }
    }

    fn memory(self, memory: &mut Memory) {
        let Memory {
            started,
            health,
            candidate,
            failing,
            still_accepted,
            reminded,
            repaired,
            last_use,
            consumers,
            restart_refused: _,
            refused,
            spare,
            pinned,
        } = memory;
        for asked in refused.values_mut() {
            self.time(asked);
        }
        if let Some(look) = consumers {
            self.time(&mut look.at);
        }
        self.maybe(still_accepted);
        if let Some(started) = started {
            self.within(started, LIST_LAG);
        }
        self.maybe(repaired);
        repaired.take_if(|at| *at < now());
        for health in [&mut *health, candidate, &mut *spare, pinned].into_iter().flatten() {
            self.health(health);
        }
        for Failing { reason: _, message, count, not_before, at } in failing.values_mut() {
            self.deadline(not_before);
            *at = now();
            // Told only; and the second wait is as long as the first here.
            message.clear();
            *count = 1;
        }
        if let Some((due, _)) = reminded {
            self.time(due);
        }
        if let Some((_, asked, used)) = last_use {
            self.time(asked);
            self.maybe(used);
        }
        // The answer counts for a second.
        last_use.take_if(|(_, asked, _)| *asked < now());
        for health in [health, spare] {
            if let Some(Health { last: Some((verdict, asked)), first_asked, .. }) = health
                && verdict.accepts()
            {
                *asked = now() - chrono::Duration::seconds(OLD);
                *first_asked = Some(*asked);
            }
        }
    }

    fn health(self, health: &mut Health) {
        let Health {
            fingerprint: _,
            state: _,
            since,
            history,
            rejections: _,
            accepted: _,
            last,
            first_asked,
        } = health;
        // Shown, and never decided on.
        *since = now();
        history.clear();
        if let Some((verdict, asked)) = last {
            // A refusal is compared with the deadline of a new key; other answers count until the key is asked about again.
            match (verdict.accepts(), verdict.refuses()) {
                (true, _) => self.within(asked, CANDIDATE_FRESH),
                (_, true) => self.time(asked),
                _ => self.within(asked, RECHECK),
            }
        }
        if let Some(first) = first_asked {
            self.within(first, PUBLISH_UNKNOWN_AFTER);
        }
    }
}

/// A wake-up, if it is one within reach: checks that are due in years are no events of the model.
pub fn reachable(wake: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let mut wake = wake.filter(|at| *at < now() + chrono::Duration::days(1))?;
    Shift::CUT.deadline(&mut wake);
    Some(wake)
}

/// A version is on its way, or two keys work: only then it counts when the target was written.
fn delivering(record: &Record) -> bool {
    record.in_flight().is_some() || record.versions.iter().any(|v| v.state == VersionState::Overlap)
}
