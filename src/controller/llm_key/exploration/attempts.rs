//! Mint attempts, numbered anew: what counts of their numbers is which are the same and which came first, and the numbers of
//! attempts that nothing speaks of any more are nobody's. So of the attempts that a state speaks of, the first is the first.
//!
//! The planner compares attempts with each other and counts on from the newest; it looks at no number by itself. That states so
//! numbered lead to the same is looked at in `exploration/tests.rs`. Each text that an attempt is in (names, ids, keys and their
//! fingerprints) is known beforehand.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::parts::{Place, Replica, Stored, Work};
use super::rules::Rules;
use crate::controller::llm_key::made::{Chosen, Minted, SlotView};
use crate::controller::llm_key::model::{Effect, LedgerView, Memory, Observed, Pass};
use crate::controller::llm_key::world::{INSTALL, ProviderKey, Request, World, facts};
use crate::domain::names::{AttemptId, MintName};
use crate::ledger::{Before, KeyFacts, Record, Slot, Version};

/// Attempts that can be numbered anew at most.
const MOST: u32 = 24;
/// Versions whose attempts are known.
const VERSIONS: u32 = 8;

/// Attempts, as bits: the first is the lowest.
pub type Attempts = u32;
/// A text speaks of an attempt that is not known: nothing is numbered anew.
pub const STRANGE: Attempts = u32::MAX;

/// Every text that an attempt is in, and the same text of the other attempts.
pub struct Vocabulary {
    /// By text: which series it is in, and the attempt.
    index: HashMap<String, (usize, u32)>,
    /// The same text for each attempt, the first first.
    series: Vec<Vec<String>>,
    /// By fingerprint.
    facts: HashMap<String, KeyFacts>,
}

impl Vocabulary {
    /// The texts of the attempts for the first `LLMKey` of a world.
    pub fn new(rules: &Rules) -> Self {
        let mut vocabulary = Self { index: HashMap::new(), series: Vec::new(), facts: HashMap::new() };
        let lineage = rules.lineage();
        for version in 1..=VERSIONS {
            let names = (1..=MOST).filter_map(|attempt| {
                let attempt = AttemptId::new(attempt, 0).ok()?;
                Some(MintName::new(INSTALL, &lineage, version, attempt).ok()?.to_string())
            });
            let names: Vec<String> = names.collect();
            for copy in 1..=2 {
                vocabulary.add(names.iter().map(|name| World::id_of_copy(name, copy)).collect());
                vocabulary.add_keys(names.iter().map(|name| World::bytes_of_copy(name, copy)).collect());
            }
            vocabulary.add_keys(names.iter().map(|id| World::bytes_of_named(id)).collect());
            vocabulary.add(names);
        }
        vocabulary.add_keys((1..=MOST).map(|attempt| Rules::chosen(&lineage, attempt)).collect());
        vocabulary
    }

    /// Texts of attempts from this one on.
    #[cfg(test)]
    pub fn texts_from(&self, first: u32) -> impl Iterator<Item = &String> {
        self.index.iter().filter(move |(_, (_, attempt))| *attempt >= first).map(|(text, _)| text)
    }

    fn add(&mut self, texts: Vec<String>) {
        let series = self.series.len();
        self.index.extend((1..).zip(&texts).map(|(attempt, text)| (text.clone(), (series, attempt))));
        self.series.push(texts);
    }

    fn add_keys(&mut self, keys: Vec<String>) {
        let all: Vec<KeyFacts> = keys.iter().map(|bytes| facts(bytes)).collect();
        self.add(all.iter().map(|facts| facts.fingerprint.clone()).collect());
        self.add(all.iter().map(|facts| facts.shown.clone()).collect());
        self.facts.extend(all.into_iter().map(|facts| (facts.fingerprint.clone(), facts)));
        self.add(keys);
    }

    /// The attempts that a place speaks of.
    pub fn of_place(&self, mut place: Place) -> Attempts {
        let mut reader = Reader { vocabulary: self, seen: 0, number: None };
        reader.place(&mut place);
        reader.seen
    }

    /// The attempts that a replica speaks of.
    pub fn of_replica(&self, mut replica: Replica) -> Attempts {
        let mut reader = Reader { vocabulary: self, seen: 0, number: None };
        reader.replica(&mut replica);
        reader.seen
    }

    /// The place, if these are all attempts that count.
    pub fn place(&self, place: &mut Place, all: Attempts) {
        Reader { vocabulary: self, seen: 0, number: Some(all) }.place(place);
    }

    /// The replica, if these are all attempts that count.
    pub fn replica(&self, replica: &mut Replica, all: Attempts) {
        Reader { vocabulary: self, seen: 0, number: Some(all) }.replica(replica);
    }
}

/// Whether the attempts are numbered from the first without a gap, or cannot be.
pub const fn in_order(all: Attempts) -> bool {
    all & all.wrapping_add(1) == 0
}

/// How many of the attempts come before this one.
const fn before(all: Attempts, attempt: u32) -> u32 {
    (all & ((1 << (attempt - 1)) - 1)).count_ones()
}

/// Goes through everything that attempts are in. The patterns name every field, so that none can be forgotten.
struct Reader<'a> {
    vocabulary: &'a Vocabulary,
    /// What was spoken of.
    seen: Attempts,
    /// All attempts that count, if they are to be numbered anew.
    number: Option<Attempts>,
}

impl Reader<'_> {
    fn see(&mut self, attempt: u32) {
        self.seen |= if attempt > MOST { STRANGE } else { 1 << (attempt - 1) };
    }

    /// Zero is none.
    fn attempt(&mut self, attempt: &mut u32) {
        if *attempt == 0 {
            return;
        }
        self.see(*attempt);
        self.bound(attempt);
    }

    /// A number with which attempts are compared.
    fn bound(&self, attempt: &mut u32) {
        if let Some(all) = self.number.filter(|_| *attempt > 0) {
            *attempt = before(all, *attempt) + 1;
        }
    }

    fn text(&mut self, text: &mut String) {
        let Some((series, attempt)) = self.vocabulary.index.get(text.as_str()).copied() else {
            if text.contains("lk1-") || text.contains("sk-chosen-") {
                self.seen = STRANGE;
            }
            return;
        };
        self.see(attempt);
        if let Some(all) = self.number {
            text.clone_from(&self.vocabulary.series[series][before(all, attempt) as usize]);
        }
    }

    fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t mut String>) {
        texts.into_iter().for_each(|text| self.text(text));
    }

    fn facts(&mut self, facts: &mut KeyFacts) {
        self.text(&mut facts.fingerprint);
        if let Some(known) = self.vocabulary.facts.get(&facts.fingerprint) {
            facts.clone_from(known);
        }
    }

    /// Of an object, the texts between quotes.
    fn object<T: serde::Serialize + serde::de::DeserializeOwned>(&mut self, object: &mut Arc<Stored<T>>) {
        let mut pieces: Vec<String> = object.text.split('"').map(str::to_owned).collect();
        self.texts(&mut pieces);
        let text = pieces.join("\"");
        if text != object.text
            && let Ok(value) = serde_json::from_str(&text)
        {
            *object = Arc::new(Stored::new(value));
        }
    }

    fn place(&mut self, place: &mut Place) {
        let Place { key, ledger, target, keys, late, names, retired, published: _, slots, holder: _ } = place;
        for key in key.iter_mut() {
            self.object(key);
        }
        if let Some(ledger) = ledger {
            self.record(&mut Arc::make_mut(ledger).record);
        }
        if let Some(target) = target {
            self.text(&mut target.bytes);
        }
        for key in keys.iter_mut() {
            let ProviderKey { name, id, bytes, project: _, host: _, made: _, revoked: _, used: _ } = key;
            self.texts([name, id, bytes]);
        }
        keys.sort();
        if let Some((Request { name, bytes, slot: _, id }, _)) = late {
            self.text(name);
            self.texts(bytes);
            self.texts(id);
        }
        for (_, fingerprint) in retired.values_mut() {
            self.text(fingerprint);
        }
        self.texts(slots.values_mut());
        // A name is looked for only by who speaks of its attempt.
        if let Some(all) = self.number {
            let counts = |name: &String| {
                let known = self.vocabulary.index.get(name);
                known.is_none_or(|(_, attempt)| all >> (attempt - 1) & 1 == 1)
            };
            let kept: Vec<String> = names.iter().filter(|name| counts(name)).cloned().collect();
            *names = kept
                .into_iter()
                .map(|mut name| {
                    self.text(&mut name);
                    name
                })
                .collect::<BTreeSet<_>>();
        }
    }

    fn record(&mut self, record: &mut Record) {
        let Record {
            format: _,
            install: _,
            namespace: _,
            name: _,
            lineage: _,
            owner: _,
            epoch: _,
            writer: _,
            released: _,
            retain_on_delete: _,
            deletion_grace_seconds: _,
            attempt,
            mints: _,
            handled_rotate: _,
            awaiting_supply: _,
            revoked_by_spec: _,
            audit_head: _,
            versions,
            rotations: _,
            used: _,
        } = record;
        self.attempt(attempt);
        for version in versions {
            let Version {
                version: _,
                state: _,
                origin: _,
                reason: _,
                account: _,
                mint_name,
                provider_key_id,
                key,
                sealed,
                created_at: _,
                published_at: _,
                target: _,
                superseded_at: _,
                overlap: _,
                restarts: _,
                retiring_at: _,
                revoked_at: _,
                basis: _,
                key_of: _,
                member: _,
                spare_since: _,
                promoted_at: _,
                switch: _,
                slot,
                before,
            } = version;
            self.texts(mint_name);
            self.texts(provider_key_id);
            for key in key.iter_mut() {
                self.facts(key);
            }
            if let Some(sealed) = sealed
                && let Ok(mut bytes) = String::from_utf8(std::mem::take(&mut sealed.ciphertext))
            {
                self.text(&mut bytes);
                sealed.ciphertext = bytes.into_bytes();
            }
            if let Some(Slot { name: _, before }) = slot {
                self.text(before);
            }
            if let Some(Before { project: _, ids }) = before {
                self.texts(ids);
            }
        }
    }

    fn replica(&mut self, replica: &mut Replica) {
        match replica {
            Replica::Idle { uid: _, memory, wake: _ } => self.memory(memory),
            Replica::Working(work) => self.work(work),
        }
    }

    fn work(&mut self, work: &mut Work) {
        let Work {
            o,
            key,
            source: _,
            minted,
            chosen,
            target_seen: _,
            planned: _,
            queue,
            untouched: _,
            looked_again: _,
            again: _,
            tell,
            wake: _,
            own_attempt,
        } = work;
        self.observed(o);
        for key in key.iter_mut() {
            self.object(key);
        }
        self.texts(minted.iter_mut().chain(chosen));
        for effect in queue {
            match effect {
                Effect::CreateLedger(record) | Effect::SwapLedger(record) => self.record(record),
                Effect::FindStrays { project: _, below } => self.bound(below),
                Effect::RevokeStray { project: _, id } => self.text(id),
                Effect::Announce { .. }
                | Effect::SetFinalizer(_)
                | Effect::DeleteLedger
                | Effect::TakeLease
                | Effect::ReturnLease
                | Effect::Choose
                | Effect::ReadSlots
                | Effect::ListKeys
                | Effect::LookUp { .. }
                | Effect::Mint { .. }
                | Effect::Validate(_)
                | Effect::WriteTarget { .. }
                | Effect::DeleteTarget
                | Effect::CheckShared { .. }
                | Effect::ReadLastUse { .. }
                | Effect::LookAtConsumers { .. }
                | Effect::Restart(_)
                | Effect::Revoke { .. }
                | Effect::ConfirmRevoked { .. }
                | Effect::NoteReminder { .. }
                | Effect::Switch { .. }
                | Effect::Match { .. }
                | Effect::ReadMembers { .. } => {}
            }
        }
        for status in tell.iter_mut() {
            self.object(status);
        }
        for attempt in own_attempt.iter_mut() {
            self.attempt(attempt);
        }
    }

    fn observed(&mut self, o: &mut Observed) {
        let Observed {
            key,
            policy: _,
            provider: _,
            former: _,
            source: _,
            ledger,
            target: _,
            memory,
            pass,
            edits: _,
            supplied_by: _,
            turn: _,
            usage: _,
        } = o;
        self.texts(key.id_shown.iter_mut());
        if let LedgerView::Present(ledger) = ledger {
            self.record(&mut ledger.record);
        }
        self.memory(memory);
        let Pass {
            fenced,
            searched: _,
            found_none: _,
            strays,
            minted,
            chosen,
            slots,
            listed,
            absent,
            refused,
            spent,
            shared: _,
            checked_after_l4: _,
            revoke_answered: _,
            confirmed: _,
            looked_for_l4: _,
            checked_delivered: _,
            wrote_target: _,
            deleted_target: _,
            switched: _,
            members: _,
            matched: _,
        } = pass;
        for attempt in [fenced, absent, refused, spent].into_iter().flatten() {
            self.attempt(attempt);
        }
        self.texts(strays.iter_mut().map(|(_, id)| id));
        self.texts(listed.iter_mut().flatten());
        if let Some(Minted { attempt, id, facts }) = minted {
            self.attempt(attempt);
            self.text(id);
            self.facts(facts);
        }
        if let Some(Chosen { id, facts }) = chosen {
            self.text(id);
            self.facts(facts);
        }
        for SlotView { name: _, fingerprint, holder: _ } in slots.iter_mut().flatten() {
            self.text(fingerprint);
        }
    }

    fn memory(&mut self, memory: &mut Memory) {
        let Memory {
            started: _,
            health,
            candidate,
            failing: _,
            still_accepted: _,
            reminded: _,
            repaired: _,
            last_use: _,
            consumers: _,
            restart_refused: _,
            refused: _,
            spare,
            pinned,
            check_asked: _,
            unmatched: _,
        } = memory;
        for health in [health, candidate, spare, pinned].into_iter().flatten() {
            self.text(&mut health.fingerprint);
        }
    }
}
