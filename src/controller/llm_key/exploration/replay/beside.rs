//! What a trace shows beside the requests of a replica: sweeps, what status tells more than the model has, a client that asks
//! once more by itself, requests that come late, kills and edits.

use super::search::Guess;
use super::visible::{named, states};
use crate::controller::llm_key::exploration::actions::{Action, Machine};
use crate::controller::llm_key::exploration::parts::{Fresh, Place};
use crate::controller::llm_key::exploration::place::Edit;
use crate::controller::llm_key::exploration::rules::Rules;
use crate::controller::llm_key::exploration::space::{NONE, State};
use crate::controller::llm_key::world::ProviderKey;
use crate::controller::sweeper::decide::{Verdict, judge};
use crate::domain::names::MintName;
use crate::trace::{Event, Request};

/// Whether the client of the API server makes it once more by itself: nobody hears of the first time.
fn is_repeated(request: &Request) -> bool {
    let to_provider = request.effect.starts_with("provider:");
    !to_provider && request.server.is_empty() && matches!(request.heard, Some(429 | 503 | 504))
}

/// The keys at a place that are nobody's, by the sweeper's own judgement.
fn nobodys(place: &Place) -> impl Iterator<Item = &ProviderKey> {
    let record = place.ledger.as_ref().map(|ledger| &ledger.record);
    place.keys.iter().filter(move |key| {
        let judged = key.name.parse::<MintName>().ok().zip(record);
        key.revoked.is_none()
            && judged.is_some_and(|(name, record)| judge(&key.id, &name, record) == Verdict::Orphan)
    })
}

impl Machine {
    /// Whether the request may be none of a replica's that matters.
    pub fn is_beside(&self, guess: &Guess, request: &Request) -> bool {
        let idle = |who: &usize| {
            let replica = guess.state.replicas[*who];
            replica != NONE && !self.space.posture(replica).working
        };
        let anybody_idle = (0..2).any(|who| idle(&who));
        match request.effect.as_str() {
            // A sweep lists an account's keys at any time.
            "provider:list" => true,
            // Status tells more than the model has.
            "status" if anybody_idle => true,
            // A good key is checked at its slots.
            "provider:validate" => anybody_idle && request.told() && self.delivered(guess) == request.key,
            // The LLMKey went after it was read for this.
            "finalizer" if request.heard == Some(404) && !request.done() => {
                self.space.places.get(guess.state.place).key.is_none()
            }
            _ => is_repeated(request),
        }
    }

    /// The key that the ledger calls delivered.
    fn delivered(&self, guess: &Guess) -> Option<String> {
        let place = self.space.places.get(guess.state.place);
        place.ledger.as_ref()?.record.delivered()?.mint_name.as_deref().and_then(named)
    }

    /// A sweep makes the request: it writes the ledger anew as it is, and then revokes what is nobody's by its own judgement.
    pub fn swept(&mut self, guess: Guess, request: &Request) -> Vec<Guess> {
        let place = self.space.places.get(guess.state.place);
        match request.effect.as_str() {
            "ledger:swap" if nobodys(&place).next().is_some() => {
                let as_it_is = place.ledger.as_ref().is_some_and(|l| states(&l.record) == request.says);
                let mut after = guess;
                if request.done() {
                    after.state.outdate(Fresh::LEDGER, None);
                    after.fenced = true;
                }
                Vec::from_iter(as_it_is.then_some(after))
            }
            "provider:revoke" if guess.fenced => {
                let mut found = Vec::new();
                for key in nobodys(&place).filter(|key| named(&key.name) == request.key) {
                    let mut after = guess;
                    if request.done() {
                        after.state.place = self.space.place(Rules::sweep(&place, &key.id));
                    }
                    found.push(after);
                }
                found
            }
            _ => Vec::new(),
        }
    }

    /// A request that nobody waits for any more reaches the server.
    pub fn late(&mut self, guess: Guess, request: &Request) -> Vec<Guess> {
        if !request.done() {
            return vec![guess];
        }
        let place = self.space.places.get(guess.state.place);
        let mut after = guess;
        let arrived = match request.effect.as_str() {
            "provider:mint" => {
                let name = place.names.iter().find(|name| named(name) == request.key);
                name.map(|name| self.rules.deliver(&place, name))
            }
            "ledger:swap" if guess.under_way != NONE => {
                let ledger = self.space.places.get(guess.under_way).ledger;
                let same = ledger.as_ref().is_some_and(|ledger| states(&ledger.record) == request.says);
                after.under_way = NONE;
                after.fenced = false;
                after.state.outdate(Fresh::LEDGER, None);
                same.then_some(Place { ledger, ..place })
            }
            _ => None,
        };
        let Some(arrived) = arrived else { return Vec::new() };
        after.state.place = self.space.place(arrived);
        vec![after]
    }

    pub fn befallen(&mut self, guess: Guess, event: Event) -> Vec<Guess> {
        let State { replicas, .. } = guess.state;
        let there = |who: &usize| replicas[*who] != NONE;
        let mut found = Vec::new();
        match event {
            Event::Killed => {
                for who in (0..2).filter(there) {
                    let mut after = guess;
                    after.asking[who] = false;
                    match self.apply(&guess.state, Action::Crash(who)) {
                        Some(next) => self.take(after, next, &mut found),
                        None => found.push(after),
                    }
                }
            }
            Event::SecondWorks => {
                let mut state = guess.state;
                (state.replicas[1], state.fresh[1]) = (self.started(), Fresh::NONE);
                let (state, swapped) = state.ordered();
                let asking = if swapped { [false, guess.asking[0]] } else { [guess.asking[0], false] };
                found.push(Guess { state, asking, ..guess });
            }
            Event::Ended => {
                for who in (0..2).filter(there) {
                    let (mut after, other) = (guess, 1 - who);
                    after.state.replicas = [replicas[other], NONE];
                    after.state.fresh = [guess.state.fresh[other], Fresh::NONE];
                    after.asking = [guess.asking[other], false];
                    found.push(after);
                }
            }
            Event::TargetDeleted | Event::TargetOverwritten => {
                let edit =
                    if event == Event::TargetDeleted { Edit::DeleteTarget } else { Edit::OverwriteTarget };
                match self.apply(&guess.state, Action::Edit(edit)) {
                    Some(next) => self.take(guess, next, &mut found),
                    None => found.push(guess),
                }
            }
        }
        found
    }
}
