//! What one replica does at one place: the loop of the controller, one effect at a time. It calls the production planner,
//! fold and status; only the place is in memory.

use std::sync::Arc;

use super::clock::reachable;
use super::fate::{Fate, is_silent, told};
use super::parts::{Fresh, GONE, Place, Replica, STANDS, Shift, Stored, Work, now};
use super::place::Written;
use super::rules::Rules;
use crate::api::{LLMKeyStatus, ObservedVersions, Reason, VersionStatus};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Effect, LedgerView, Memory, Observed, Plan};
use crate::controller::llm_key::status::status;
use crate::controller::llm_key::world::perform::Undone;
use crate::controller::llm_key::world::{Held, Request, World, facts};
use crate::controller::released;
use crate::domain::lifecycle::VersionState;
use crate::ledger::{Ledger, Record};

/// What came of it.
#[derive(Clone, Debug)]
pub struct After {
    /// The place.
    pub place: Place,
    /// What of the place was written.
    pub written: Written,
    /// The replica.
    pub replica: Replica,
    /// What the replica saw stands.
    pub fresh: Fresh,
    /// A broken property.
    pub broken: Option<String>,
}

impl Rules {
    /// A replica observes the place and plans.
    pub fn begin(&self, place: &Place, replica: &Replica) -> Replica {
        let (known, memory) = match replica {
            Replica::Idle { uid, memory, .. } => (uid.as_str(), memory),
            Replica::Working(_) => return replica.clone(),
        };
        let world = self.world(place);
        let uid = place
            .key
            .as_ref()
            .map_or_else(|| "released".to_owned(), |k| k.value.metadata.uid.clone().unwrap_or_default());
        let memory = if known == uid { memory.clone() } else { Memory::default() };
        let (o, held) = match (&place.key, &place.ledger) {
            (None, None) => {
                return Replica::Idle { uid: String::new(), memory: Memory::default(), wake: None };
            }
            (None, Some(_)) => world.observe_released(&memory),
            (Some(_), _) => world.observe(&memory),
        };
        let work = Work {
            o,
            key: place.key.clone(),
            source: held.source,
            minted: None,
            chosen: None,
            target_seen: held.target_version.is_some(),
            planned: now(),
            queue: Vec::new(),
            untouched: true,
            looked_again: 0,
            again: false,
            tell: None,
            wake: None,
            own_attempt: None,
        };
        self.plan(work)
    }

    /// The next plan; if there is nothing to do, the end of the reconcile.
    fn plan(&self, mut work: Work) -> Replica {
        let plan = self.decide(&work);
        if plan.effects.is_empty() {
            return self.finish(work, &plan);
        }
        work.queue = plan.effects;
        work.planned = now();
        work.untouched = true;
        settled(work)
    }

    fn decide(&self, work: &Work) -> Plan {
        if work.key.is_some() {
            decide(&work.o, &self.env())
        } else {
            released::decide::decide(&work.o, &self.env())
        }
    }

    /// A replica that was held up between its observation and its decision.
    pub fn decide_late(&self, work: Work) -> Replica {
        self.plan(Work { queue: Vec::new(), ..work })
    }

    fn finish(&self, mut work: Work, plan: &Plan) -> Replica {
        work.queue.clear();
        let failing = work.o.memory.failing.values().map(|f| f.not_before).min();
        work.wake = match (work.again, &work.key) {
            (true, _) => Some(now()),
            // A pass over a released ledger that failed comes again after the back-off, whatever is planned.
            (false, None) if !plan.effects.is_empty() => reachable(failing),
            (false, _) => reachable(plan.wake),
        };
        if let Some(key) = work.key.as_ref().filter(|_| !work.o.key.deleting) {
            let before = key.value.status.clone().unwrap_or_default();
            let told = Self::shown(status(&work.o, plan, &before, ObservedVersions::default(), &self.env()));
            if told != before {
                work.tell = Some(Arc::new(Stored::new(told)));
                return settled(work);
            }
        }
        idle(work)
    }

    /// Carries out what is next. None: there is nothing, or no such fate of it.
    pub fn carry_out(&self, place: &Place, mut work: Work, fresh: Fresh, fate: Fate) -> Option<After> {
        if let Some(told) = work.tell.take() {
            let late = fate == Fate::TwiceLater;
            return (!late).then(|| self.write_status(place, work, &told.value, fresh, fate));
        }
        if work.queue.is_empty() {
            return None;
        }
        let effect = &work.queue.remove(0);
        work.untouched = false;
        let mut world = self.world(place);
        see(&mut work.o, fresh);
        let mut held = held(&work, fresh);
        let mut broken = single_cause(&work, effect);
        let request = request(&work.o, effect);
        let mut done =
            if fate.happens() { world.perform(&work.o, &mut held, effect) } else { Ok(Learned::Nothing) };
        if let Err(Undone::Broken(what)) = &done {
            broken = broken.or_else(|| Some(what.clone()));
        }
        if let (Some(request), Fate::Twice, Ok(learned)) = (&request, fate, &mut done) {
            let copy = world.make(request, 2);
            // The answer is not believed: what a slot has is read after it, and that is the copy's.
            if let Learned::Minted(minted) = learned
                && request.slot.is_some()
            {
                (minted.id, minted.facts) = (copy.id, facts(&copy.bytes));
                held.minted = Some(copy.bytes);
            }
        }
        if broken.is_none() {
            broken = world.judge().err();
        }
        let (mut after, written) = Self::place(world, place);
        // A copy that comes when the slot was read and its key delivered ends that key: what finds it, checks, is no part of the model.
        let named = request.filter(|request| request.slot.is_none());
        if let (Some(request), Fate::TwiceLater, Ok(_)) = (named, fate, &done) {
            after.late = Some((request, now()));
        }
        work.minted.clone_from(&held.minted);
        work.chosen.clone_from(&held.chosen);
        note_own_attempt(&mut work, effect, matches!(done, Ok(Learned::Ledger(_))) && fate == Fate::Told);
        let told = told(&work.o, effect, fate, done);
        let fresh_before = fresh;
        let mut fresh = fresh.without(written.0);
        let replica = match told {
            Ok(learned) => {
                // Its own write to an LLMKey does not hide that it was changed meanwhile, or is gone: the watch shows it.
                let told = fresh_before.has(Fresh::KEY) && after.key.is_some();
                let hidden = if told { 0 } else { Fresh::KEY };
                fresh = fresh.with(written.0 & !hidden);
                if matches!(learned, Learned::TargetWritten { .. } | Learned::TargetDeleted) {
                    work.target_seen = matches!(learned, Learned::TargetWritten { .. });
                }
                let env = self.env_at(work.planned);
                work.o.learn(effect, learned, &env);
                while let Some(silent) = work.queue.first().filter(|next| is_silent(next)).cloned() {
                    work.o.learn(&silent, Learned::Nothing, &env);
                    work.queue.remove(0);
                }
                if work.queue.is_empty() { self.plan(work) } else { settled(work) }
            }
            Err(undone) => self.undone(&after, work, &mut fresh, undone),
        };
        let fresh = if ended_badly(&replica) { Fresh::NONE } else { fresh };
        Some(After { place: after, written, replica, fresh, broken })
    }

    /// What is answered to what comes next, if nothing befalls it.
    pub fn answer(&self, place: &Place, work: &Work, fresh: Fresh) -> Option<Learned> {
        let effect = work.queue.first().filter(|_| work.tell.is_none())?;
        let mut o = work.o.clone();
        see(&mut o, fresh);
        self.world(place).perform(&o, &mut held(work, fresh), effect).ok()
    }

    /// What the controller does when an effect was not done.
    fn undone(&self, place: &Place, mut work: Work, fresh: &mut Fresh, undone: Undone) -> Replica {
        match undone {
            Undone::Changed if work.key.is_some() && work.looked_again < 3 => {
                work.looked_again += 1;
                let world = self.world(place);
                let mut held = Held { source: work.source.take(), ..Held::default() };
                work.o.pass.forget_holders();
                world.look(&mut work.o, &mut held);
                work.source = held.source;
                work.target_seen = held.target_version.is_some();
                *fresh = fresh.with(Fresh::LEDGER | Fresh::TARGET);
                work.queue.clear();
                return self.plan(work);
            }
            Undone::Changed | Undone::Broken(_) => work.again = true,
            Undone::Lost => {
                work.again = true;
                work.o.lose_minted(&self.env());
            }
            Undone::Failed(failure) => work.o.fail(failure, &self.env()),
        }
        let plan = self.decide(&work);
        self.finish(work, &plan)
    }

    fn write_status(
        &self,
        place: &Place,
        mut work: Work,
        told: &LLMKeyStatus,
        mut fresh: Fresh,
        fate: Fate,
    ) -> After {
        let mut world = self.world(place);
        let mut writes = fate.happens() && fresh.has(Fresh::KEY);
        match &mut world.key {
            Some(key) if writes => key.status = Some(told.clone()),
            _ => writes = false,
        }
        if writes {
            world.key_written();
        }
        let (after, written) = Self::place(world, place);
        if !writes || fate != Fate::Told {
            fresh = Fresh::NONE;
            work.wake = Some(now());
        }
        After { place: after, written, replica: idle(work), fresh, broken: None }
    }

    /// Of the status, what a later decision reads or the goal speaks of.
    fn shown(mut status: LLMKeyStatus) -> LLMKeyStatus {
        status.conditions.retain(|c| c.type_ == "Ready" || c.type_ == "Healthy");
        for condition in &mut status.conditions {
            condition.message = String::new();
            if condition.type_ == "Ready" && condition.status == "Unknown" {
                Reason::Progressing.as_str().clone_into(&mut condition.reason);
            }
        }
        if let Some(health) = &mut status.health {
            health.since = crate::api::rfc3339(now());
            health.history.clear();
        }
        status.versions.truncate(1);
        for version in &mut status.versions {
            *version = VersionStatus::default();
        }
        status.current_version = None;
        status.last_four = None;
        status.last_rotation = None;
        status.rotations.clear();
        status.next_rotation_time = None;
        status.observed = None;
        status
    }
}

/// Gives the observation the versions of objects as they are now.
fn see(o: &mut Observed, fresh: Fresh) {
    if let LedgerView::Present(ledger) = &mut o.ledger {
        ledger.resource_version = if fresh.has(Fresh::LEDGER) { STANDS } else { GONE }.to_string();
    }
}

/// What it holds, with the versions of objects as they are now.
fn held(work: &Work, fresh: Fresh) -> Held {
    Held {
        source: work.source.clone(),
        minted: work.minted.clone(),
        chosen: work.chosen.clone(),
        key_version: if fresh.has(Fresh::KEY) { STANDS } else { GONE },
        target_version: work.target_seen.then(|| if fresh.has(Fresh::TARGET) { STANDS } else { GONE }),
        ..Held::default()
    }
}

/// I9: a mint follows the record of its own attempt, by the same replica, in the same reconcile, once.
fn single_cause(work: &Work, effect: &Effect) -> Option<String> {
    let (Effect::Mint { version }, LedgerView::Present(ledger)) = (effect, &work.o.ledger) else {
        return None;
    };
    let attempt = ledger.record.attempt;
    (work.own_attempt != Some(attempt)).then(|| {
        format!("I9: version {version} is minted, and attempt {attempt} was not put on record for it")
    })
}

/// A reconcile as it is kept: times cut, versions of objects left out.
fn settled(mut work: Work) -> Replica {
    Shift::CUT.work(&mut work);
    let mut read = 0;
    if let LedgerView::Present(ledger) = &mut work.o.ledger {
        let Ledger { record, resource_version, .. } = &mut **ledger;
        resource_version.clear();
        read = std::mem::take(&mut record.epoch);
    }
    for effect in &mut work.queue {
        match effect {
            Effect::CreateLedger(record) | Effect::SwapLedger(record) => record.epoch -= read,
            // Told only.
            Effect::Announce { note, .. } => note.clear(),
            _ => {}
        }
    }
    Replica::Working(Box::new(work))
}

fn idle(work: Work) -> Replica {
    let uid = if work.key.is_some() { work.o.key.uid.clone() } else { "released".to_owned() };
    let mut replica = Replica::Idle { uid, memory: work.o.memory, wake: work.wake };
    Shift::CUT.replica(&mut replica);
    replica
}

fn ended_badly(replica: &Replica) -> bool {
    match replica {
        Replica::Idle { wake, .. } => *wake == Some(now()),
        Replica::Working(_) => false,
    }
}

/// The ledger's record, if it was read.
pub fn record(o: &Observed) -> Option<&Record> {
    match &o.ledger {
        LedgerView::Present(ledger) => Some(&ledger.record),
        _ => None,
    }
}

fn request(o: &Observed, effect: &Effect) -> Option<Request> {
    let Effect::Mint { version } = effect else { return None };
    World::request(record(o)?, *version)
}

/// Which attempt the replica itself has put on record and may now make, once.
fn note_own_attempt(work: &mut Work, effect: &Effect, written: bool) {
    match effect {
        Effect::Mint { .. } => work.own_attempt = None,
        Effect::CreateLedger(next) | Effect::SwapLedger(next) if written => {
            let raised = record(&work.o).is_none_or(|before| before.attempt < next.attempt);
            if raised && next.versions.iter().any(|v| v.state == VersionState::Intent) {
                work.own_attempt = Some(next.attempt);
            }
        }
        _ => {}
    }
}
