//! The loop of `mod.rs` on the world: decide, perform, learn, until nothing is left; with faults at chosen effects.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::perform::{Undone, at_provider, failed};
use super::world::{Held, World, sentence};
use crate::api::{ObservedVersions, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{Effect, Memory, Observed, Plan};
use crate::controller::llm_key::status::status;
use crate::controller::released;

/// What goes wrong at one effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The process dies before the effect.
    CrashBefore,
    /// It dies after the effect: memory and key material are lost.
    CrashAfter,
    /// The effect happens, the answer is lost.
    ReplyLost,
    /// The effect does not happen.
    NotDone,
    /// The provider carries a mint out twice.
    Twice,
    /// Another replica works on the same key first.
    Another,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::CrashBefore, Self::CrashAfter, Self::ReplyLost, Self::NotDone, Self::Twice, Self::Another];
}

pub type Event = (i64, fn(&mut World));

/// How one reconcile ended.
enum Ended {
    Wait(Option<DateTime<Utc>>),
    Again,
    Crashed,
}

/// One run of a scenario.
pub struct Run {
    pub world: World,
    /// Faults by the effect's number, from 1.
    pub faults: BTreeMap<usize, Fault>,
    /// Effects so far, over all processes.
    pub effects: usize,
    /// What happened, to be read when something is wrong.
    pub story: Vec<String>,
    /// Names of the effects.
    pub names: Vec<&'static str>,
    memory: (String, Memory),
}

impl Run {
    pub fn new(world: World) -> Self {
        Self {
            world,
            faults: BTreeMap::new(),
            effects: 0,
            story: Vec::new(),
            names: Vec::new(),
            memory: Default::default(),
        }
    }

    pub fn faulty(world: World, faults: &[(usize, Fault)]) -> Self {
        Self { faults: faults.iter().copied().collect(), ..Self::new(world) }
    }

    /// Runs until `end` seconds, with what people do meanwhile.
    pub fn until(&mut self, events: &[Event], end: i64) -> Result<(), String> {
        let end = super::world::at(end);
        let mut events = events.iter().peekable();
        let (mut idle, mut rounds) = (0, 0);
        loop {
            while let Some((_, event)) = events.next_if(|(at, _)| super::world::at(*at) <= self.world.now) {
                event(&mut self.world);
                // Somebody did something about it: what failed is tried again at once.
                self.world.edits += 1;
                self.memory.1.failing.clear();
                self.tell("a person acts");
            }
            let wake = match self.reconcile()? {
                Ended::Wait(wake) => wake,
                Ended::Again => Some(self.world.now + chrono::Duration::seconds(1)),
                Ended::Crashed => {
                    self.memory = Default::default();
                    Some(self.world.now + chrono::Duration::seconds(1))
                }
            };
            let next_event = events.peek().map(|(at, _)| super::world::at(*at));
            let next = wake.into_iter().chain(next_event).min().unwrap_or(end);
            rounds += 1;
            if rounds > 3000 {
                return Err("the run does not come to rest".into());
            }
            idle = if next <= self.world.now { idle + 1 } else { 0 };
            if idle > 40 {
                return Err("the plan wakes without end at one moment".into());
            }
            if next >= end {
                self.world.now = end;
                return Ok(());
            }
            self.world.now = self.world.now.max(next);
        }
    }

    fn tell(&mut self, what: impl std::fmt::Display) {
        let seconds = self.world.now.timestamp() - super::world::at(0).timestamp();
        self.story.push(format!("{seconds:>7} s  {what}"));
    }

    fn reconcile(&mut self) -> Result<Ended, String> {
        let Some(key) = &self.world.key else { return self.sweep() };
        let uid = key.metadata.uid.clone().unwrap_or_default();
        if self.memory.0 != uid {
            self.memory = (uid, Memory::default());
        }
        let (mut o, mut held) = self.world.observe(&self.memory.1);
        let ended = self.steps(&mut o, &mut held, decide)?;
        if matches!(ended, Ended::Crashed) {
            return Ok(Ended::Crashed);
        }
        let env = self.world.env();
        let plan = decide(&o, &env);
        let Some(written) = self.write_status(&o, &held, &plan)? else { return Ok(Ended::Crashed) };
        self.memory.1 = o.memory;
        if !written {
            return Ok(Ended::Again);
        }
        Ok(match ended {
            // The watch tells of its deletion.
            Ended::Wait(_) if self.world.key.is_none() => Ended::Again,
            Ended::Wait(_) => Ended::Wait(plan.wake),
            other => other,
        })
    }

    /// A ledger whose LLMKey is gone.
    fn sweep(&mut self) -> Result<Ended, String> {
        self.world.collect_garbage();
        if self.world.ledger.is_none() {
            return Ok(Ended::Wait(None));
        }
        let (mut o, mut held) = self.world.observe_released(&self.memory.1);
        let ended = self.steps(&mut o, &mut held, released::decide::decide)?;
        let env = self.world.env();
        let plan = released::decide::decide(&o, &env);
        self.memory.1 = o.memory;
        Ok(match ended {
            Ended::Wait(_) => Ended::Wait(plan.wake),
            other => other,
        })
    }

    fn steps(
        &mut self,
        o: &mut Observed,
        held: &mut Held,
        decide: fn(&Observed, &crate::controller::llm_key::model::Env) -> Plan,
    ) -> Result<Ended, String> {
        let mut looked_again = 0;
        'steps: for _ in 0..32 {
            let env = self.world.env();
            let plan = decide(o, &env);
            if plan.effects.is_empty() {
                return Ok(Ended::Wait(None));
            }
            for effect in &plan.effects {
                let fault = self.begin(effect);
                let done = self.strike(o, held, effect, fault);
                self.world.judge().map_err(|broken| format!("after {}: {broken}", effect.name()))?;
                match done {
                    Some(Ok(learned)) => o.learn(effect, learned, &env),
                    Some(Err(Undone::Changed)) if looked_again < 3 => {
                        looked_again += 1;
                        o.pass.forget_holders();
                        self.world.look(o, held);
                        continue 'steps;
                    }
                    Some(Err(Undone::Changed)) => return Ok(Ended::Again),
                    Some(Err(Undone::Lost)) => {
                        o.lose_minted(&env);
                        return Ok(Ended::Again);
                    }
                    Some(Err(Undone::Failed(failure))) => {
                        o.fail(failure, &env);
                        return Ok(Ended::Wait(None));
                    }
                    Some(Err(Undone::Broken(what))) => return Err(format!("{}: {what}", effect.name())),
                    None => return Ok(Ended::Crashed),
                }
            }
        }
        Ok(Ended::Again)
    }

    fn begin(&mut self, effect: &Effect) -> Option<Fault> {
        self.effects += 1;
        self.names.push(effect.name());
        let fault = self.faults.get(&self.effects).copied();
        let fault_text = fault.map_or(String::new(), |f| format!("   <-- {f:?}"));
        self.tell(format!("{:>3} {}{fault_text}", self.effects, sentence(effect)));
        if fault.is_some() {
            self.world.history.faults += 1;
        }
        fault
    }

    /// Carries an effect out under a fault. None: the process is dead.
    fn strike(
        &mut self,
        o: &Observed,
        held: &mut Held,
        effect: &Effect,
        fault: Option<Fault>,
    ) -> Option<Result<crate::controller::llm_key::fold::Learned, Undone>> {
        let lost = || if at_provider(effect) { failed(reason(o, effect)) } else { Undone::Lost };
        match fault {
            None => Some(self.world.perform(o, held, effect)),
            Some(Fault::CrashBefore) => None,
            Some(Fault::CrashAfter) => match self.world.perform(o, held, effect) {
                Err(Undone::Broken(what)) => Some(Err(Undone::Broken(what))),
                _ => None,
            },
            Some(Fault::ReplyLost) => match self.world.perform(o, held, effect) {
                Err(Undone::Broken(what)) => Some(Err(Undone::Broken(what))),
                // The provider's answer to a check is lost: nothing is known.
                Ok(_) if matches!(effect, Effect::Validate(_)) => Some(Err(Undone::Lost)),
                Ok(_) => Some(Err(lost())),
                Err(other) => Some(Err(other)),
            },
            Some(Fault::NotDone) => Some(Err(lost())),
            Some(Fault::Twice) => {
                let done = self.world.perform(o, held, effect);
                if let (Effect::Mint { version }, Ok(_)) = (effect, &done)
                    && let Some(request) = World::request(self.world.record(), *version)
                {
                    let slot = self.world.record().version(*version).and_then(|v| v.slot.clone());
                    match slot {
                        // Nobody has read what the copy put there.
                        Some(slot) => self.world.renew_by_hand(&slot.name),
                        None => drop(self.world.make(&request, 2)),
                    }
                }
                Some(done)
            }
            Some(Fault::Another) => {
                if let Err(what) = self.another() {
                    return Some(Err(Undone::Broken(what)));
                }
                Some(self.world.perform(o, held, effect))
            }
        }
    }

    /// Another replica, which has been up for an hour, reconciles the same key.
    fn another(&mut self) -> Result<(), String> {
        let mut other = Self::new(self.world.clone());
        let uid = self.world.key.as_ref().and_then(|k| k.metadata.uid.clone()).unwrap_or_default();
        let started = Some(self.world.now - chrono::Duration::hours(1));
        other.memory = (uid, Memory { started, ..Memory::default() });
        let ended = other.reconcile();
        for line in &other.story {
            self.story.push(format!("      another: {}", line.trim_start()));
        }
        self.world = other.world;
        ended.map(drop)
    }

    /// The status counts as an effect: the process may die around it. False: it is not written; none: the process is dead.
    fn write_status(&mut self, o: &Observed, held: &Held, plan: &Plan) -> Result<Option<bool>, String> {
        let env = self.world.env();
        let Some(key) = self.world.key.clone().filter(|_| !o.key.deleting) else {
            return Ok(Some(true));
        };
        let before = key.status.clone().unwrap_or_default();
        let after = status(o, plan, &before, ObservedVersions::default(), &env);
        self.world.judge_status(&after, plan).map_err(|broken| format!("status: {broken}"))?;
        if after == before {
            return Ok(Some(true));
        }
        self.effects += 1;
        self.names.push("status");
        let fault = self.faults.get(&self.effects).copied();
        self.world.history.faults += usize::from(fault.is_some());
        let ready = after.conditions.iter().find(|c| c.type_ == "Ready");
        self.tell(format!(
            "{:>3} status: Ready={} ({}){}",
            self.effects,
            ready.map_or("", |c| &c.status),
            ready.map_or("", |c| &c.reason),
            fault.map_or(String::new(), |f| format!("   <-- {f:?}")),
        ));
        if fault == Some(Fault::CrashBefore) {
            return Ok(None);
        }
        let current = super::world::version_of(&key) == held.key_version;
        if current && fault != Some(Fault::NotDone) {
            self.world.key_written();
            if let Some(key) = &mut self.world.key {
                key.status = Some(after);
            }
        }
        let told = current && !matches!(fault, Some(Fault::NotDone | Fault::ReplyLost));
        Ok((fault != Some(Fault::CrashAfter)).then_some(told))
    }

    pub fn story(&self) -> String {
        self.story.join("\n")
    }
}

fn reason(o: &Observed, effect: &Effect) -> Reason {
    match effect {
        Effect::Mint { .. } | Effect::ReadSlots => Reason::MintFailed,
        Effect::LookUp { .. } | Effect::FindStrays { .. } | Effect::RevokeStray { .. } => {
            o.waits_for_strays()
        }
        Effect::Switch { .. } => Reason::SwitchFailed,
        _ => Reason::RevokeFailed,
    }
}
