//! Which runs of the model show what a trace shows: the set of all states that the model may be in after each entry. What a trace
//! cannot show is free: time, when a replica begins and how old the `LLMKey` is that it sees, and reads in the cluster.

use std::collections::{BTreeSet, HashSet};

use super::visible::{Visible, confirms, next, question};
use crate::controller::llm_key::exploration::actions::{Action, Calm, Machine, Next};
use crate::controller::llm_key::exploration::fate::Fate;
use crate::controller::llm_key::exploration::parts::{Fresh, Replica};
use crate::controller::llm_key::exploration::place::Edit;
use crate::controller::llm_key::exploration::rules::Rules;
use crate::controller::llm_key::exploration::space::{Budget, NONE, State};
use crate::controller::llm_key::fold::Learned;
use crate::trace::{Entry, Request, is_success};

/// What may go wrong: as much as the trace says, so that no budget tells states apart.
pub const FREE: Budget = Budget { crash: 7, lost: 7, twice: 7, stale: 7, edit: 7 };

/// One state that the model may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guess {
    /// The state.
    pub state: State,
    /// Which replicas have seen the list of a confirmation, and ask about the key next.
    pub asking: [bool; 2],
    /// A sweep has written the ledger anew as it is, and nobody wrote it since: what it judges by stands.
    pub fenced: bool,
    /// A place as the write of the ledger would have left it that was given up last without having reached the server;
    /// [`NONE`] if there is none. It may reach the server later.
    pub under_way: u32,
}

/// States at one time at most; more are as good as a failure.
const MOST: usize = 200_000;

/// How far a trace could be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// To its end, where the model rests as well.
    ToItsEnd,
    /// So many entries; the next one has no counterpart. What the model has in its place.
    Until(usize, BTreeSet<String>),
    /// All entries, but the model would go on.
    Beyond,
    /// So many entries; the model may be in too many states by then.
    Lost(usize),
}

/// What else may happen at any moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Free {
    /// What people do, or Kubernetes.
    pub edits: &'static [Edit],
    /// The budget of an hour begins anew.
    pub hour: bool,
}

impl Guess {
    /// The beginning.
    pub fn begin(state: State) -> Self {
        Self { state: State { left: FREE, ..state }, asking: [false; 2], fenced: false, under_way: NONE }
    }

    fn after(self, next: &Next) -> Self {
        let mut asking = self.asking;
        if next.swapped {
            asking.swap(0, 1);
        }
        let fenced = self.fenced && next.written & Fresh::LEDGER == 0;
        Self { state: State { left: FREE, ..next.state }, asking, fenced, ..self }
    }
}

/// What a request says of its effect, against what the model has for it.
struct Seen<'a> {
    request: &'a Request,
    /// A call that changes nothing.
    reads: bool,
}

impl Seen<'_> {
    /// The fates that look like this.
    fn fates(&self) -> &'static [Fate] {
        let Request { server, heard, .. } = self.request;
        let mints = self.request.effect == "provider:mint";
        let answered = heard.is_some() && server.last() == heard.as_ref();
        if self.reads {
            let word = self.request.effect == "provider:validate" && matches!(heard, Some(401 | 403));
            return if answered && (self.request.told() || word) { &[Fate::Told] } else { &[Fate::NotDone] };
        }
        let writes_a_ledger = matches!(self.request.effect.as_str(), "ledger:create" | "ledger:swap");
        let absent = matches!(heard, Some(404));
        match (self.request.done(), *heard) {
            (true, _) if absent && self.ends_something() => &[Fate::Told],
            (true, Some(heard)) if is_success(heard) && server.len() > 1 => &[Fate::Told, Fate::Twice],
            (true, Some(heard)) if is_success(heard) => &[Fate::Told],
            (true, Some(404 | 409 | 422)) if writes_a_ledger => &[Fate::Twice, Fate::Told],
            (true, Some(404 | 409 | 422)) => &[Fate::Twice],
            // A ledger tells whose write it was the last: without an answer it is read, and the mark found.
            (true, _) if writes_a_ledger => &[Fate::ReplyLost, Fate::Told],
            (true, _) => &[Fate::ReplyLost],
            // The server's own word: nothing was changed.
            // A finalizer is read and then written: between the two another hand may write.
            (false, Some(_)) if answered => &[Fate::Told, Fate::NotDone, Fate::Refused],
            (false, Some(409)) if !mints => &[Fate::Refused],
            (false, Some(400..=499)) if mints => &[Fate::Refused],
            (false, _) => &[Fate::NotDone],
        }
    }

    fn ends_something(&self) -> bool {
        matches!(self.request.effect.as_str(), "provider:revoke" | "target:delete" | "finalizer")
    }
}

impl Machine {
    /// Follows the entries from the beginning. What is free happens at any moment.
    pub fn follow(&mut self, begin: Guess, entries: &[Entry], free: Free) -> Followed {
        let mut now = HashSet::from([begin]);
        for (place, entry) in entries.iter().enumerate() {
            let Some(all) = self.silently(&now, free) else { return Followed::Lost(place) };
            now = all.iter().flat_map(|guess| self.shown(*guess, entry)).collect();
            if now.is_empty() {
                let ahead = all.iter().flat_map(|guess| [self.next_of(guess, 0), self.next_of(guess, 1)]);
                return Followed::Until(place, ahead.flatten().map(|next| next.to_string()).collect());
            }
        }
        let Some(all) = self.silently(&now, free) else { return Followed::Lost(entries.len()) };
        let rests = |machine: &mut Self, guess: &Guess| {
            machine.calm(&guess.state) == Calm::Rests && machine.rests_well(&guess.state).is_ok()
        };
        if all.iter().any(|guess| rests(self, guess)) { Followed::ToItsEnd } else { Followed::Beyond }
    }

    /// All that may have happened unseen. None: too much to tell.
    fn silently(&mut self, from: &HashSet<Guess>, free: Free) -> Option<HashSet<Guess>> {
        let mut all = from.clone();
        let mut open: Vec<Guess> = from.iter().copied().collect();
        while let Some(guess) = open.pop() {
            for next in self.unseen(guess, free) {
                if all.insert(next) {
                    open.push(next);
                }
            }
            if all.len() > MOST {
                return None;
            }
        }
        Some(all)
    }

    fn unseen(&mut self, guess: Guess, free: Free) -> Vec<Guess> {
        let mut actions = vec![Action::Garbage];
        actions.extend(free.edits.iter().map(|edit| Action::Edit(*edit)));
        for who in 0..2 {
            actions.extend([Action::Begin(who), Action::BeginStale(who)]);
            if !guess.asking[who] {
                actions.push(Action::DecideLate(who));
                let hidden = self.next_of(&guess, who).is_none();
                actions.extend(hidden.then_some(Action::Step(who, Fate::Told)));
            }
        }
        let mut found = Vec::new();
        if let Some(state) = self.tick(&guess.state) {
            let under_way = guess.under_way;
            let under_way = if under_way == NONE { NONE } else { self.place_later(under_way, 1) };
            found.push(Guess { state, under_way, ..guess });
        }
        if free.hour {
            let place = Rules::an_hour_later(&self.space.places.get(guess.state.place));
            found.extend(place.map(|place| Guess {
                state: State { place: self.space.place(place), ..guess.state },
                ..guess
            }));
        }
        for action in actions {
            if let Some(next) = self.apply(&guess.state, action) {
                self.take(guess, next, &mut found);
            }
        }
        found
    }

    /// What a replica's next step shows; none if it does not work, or its step cannot be seen.
    fn next_of(&self, guess: &Guess, who: usize) -> Option<Visible> {
        let replica = Some(guess.state.replicas[who]).filter(|replica| *replica != NONE)?;
        match &self.space.replicas.get(replica) {
            Replica::Working(work) => next(&self.space.places.get(guess.state.place), work),
            Replica::Idle { .. } => None,
        }
    }

    /// Nothing is explained by a run that breaks a property.
    pub fn take(&mut self, guess: Guess, next: Next, found: &mut Vec<Guess>) {
        if next.broken != NONE {
            return;
        }
        found.push(guess.after(&next));
        if let Some(next) = self.linger(&guess.state, next) {
            found.push(guess.after(&next));
        }
    }

    /// Where the entry leads from a state.
    fn shown(&mut self, guess: Guess, entry: &Entry) -> Vec<Guess> {
        match entry {
            Entry::Event { event } => self.befallen(guess, *event),
            Entry::Request(request) if request.late => self.late(guess, request),
            Entry::Request(request) => {
                let mut found: Vec<Guess> =
                    (0..2).flat_map(|who| self.requested(guess, who, request)).collect();
                found.extend(self.is_beside(&guess, request).then_some(guess));
                found.extend(self.swept(guess, request));
                found
            }
        }
    }

    /// A replica makes the request.
    fn requested(&mut self, guess: Guess, who: usize, request: &Request) -> Vec<Guess> {
        let Some(visible) = self.next_of(&guess, who) else { return Vec::new() };
        let replica = self.space.replicas.get(guess.state.replicas[who]);
        let Replica::Working(work) = &replica else { return Vec::new() };
        let place = self.space.places.get(guess.state.place);
        let confirms = confirms(work);
        let visible = match confirms.filter(|_| guess.asking[who]) {
            Some(version) => question(work, version),
            None => visible,
        };
        let same = visible.effect == request.effect
            && visible.says == request.says
            && (visible.key.is_none() || visible.key == request.key);
        if !same {
            return Vec::new();
        }
        let reads = matches!(visible.effect, "provider:list" | "provider:validate" | "provider:last-use");
        let seen = Seen { request, reads };
        let answer = self.rules.answer(&place, work, guess.state.fresh[who]);
        if let (Some(_), Some(Learned::Confirmed { gone, .. })) = (confirms, &answer) {
            let gone = *gone;
            if guess.asking[who] {
                // Only a refusal confirms; whatever else is heard, the key may still work.
                let refused = matches!(request.heard, Some(401 | 403));
                let mut asked = guess;
                asked.asking[who] = false;
                return if refused == gone { self.carried(asked, who, Fate::Told, None) } else { Vec::new() };
            }
            if request.told() {
                let mut asking = guess;
                asking.asking[who] = true;
                let mut found = vec![asking];
                // Still listed: nothing more is asked.
                if !gone {
                    found.extend(self.carried(guess, who, Fate::Told, None));
                }
                return found;
            }
        }
        if let Some(Learned::Answer { verdict, .. }) = answer
            && seen.fates() == [Fate::Told]
            && verdict.accepts() != request.told()
        {
            return Vec::new();
        }
        let mut guess = guess;
        if visible.effect.starts_with("ledger:") && request.server.is_empty() && request.heard.is_none() {
            let arrived =
                self.carry_out(&guess.state, who, Fate::ReplyLost).filter(|next| next.broken == NONE);
            guess.under_way = arrived.map_or(NONE, |next| next.state.place);
        }
        let writes = !reads && !matches!(visible.effect, "provider:mint" | "provider:revoke");
        let done = writes.then(|| request.done());
        seen.fates().iter().flat_map(|fate| self.carried(guess, who, *fate, done)).collect()
    }

    /// A step with this fate; only if it is done or not, as was seen.
    fn carried(&mut self, guess: Guess, who: usize, fate: Fate, done: Option<bool>) -> Vec<Guess> {
        let mut found = Vec::new();
        let Some(next) = self.carry_out(&guess.state, who, fate) else { return found };
        if done.is_none_or(|done| done == (next.written != 0)) {
            self.take(guess, next, &mut found);
        }
        found
    }
}
