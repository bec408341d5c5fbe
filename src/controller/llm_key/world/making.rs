//! How keys are made: the provider chooses them, or we do.

use super::perform::{Undone, broken, failed, record};
use super::{Held, ProviderKey, World, facts};
use crate::api::Reason;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Chosen, Minted, Observed};
use crate::ledger::Record;
use crate::provider::MintKind;

/// A request to make a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub name: String,
    /// The key, if we choose it.
    pub bytes: Option<String>,
    /// The slot that it is made in.
    pub slot: Option<String>,
    /// The key's id, if we choose that alone.
    pub id: Option<String>,
}

impl World {
    /// The same at a provider that lets us choose the keys.
    pub fn choosing() -> Self {
        let mut world = Self::minting();
        world.provider.mint = MintKind::CallerChosen;
        world
    }

    /// The same at a provider that lets us choose the keys' ids.
    pub fn naming() -> Self {
        let mut world = Self::minting();
        world.provider.mint = MintKind::CallerNamed;
        world
    }

    /// The same at an account that the LLMKey has for itself, where keys have no names and two are possible.
    pub fn unnamed() -> Self {
        Self::minting().without_names()
    }

    pub fn without_names(mut self) -> Self {
        self.provider.for_one = true;
        self.provider.mint = MintKind::Unnamed;
        self
    }

    pub fn mint(&mut self, o: &Observed, held: &mut Held, version: i32) -> Result<Learned, Undone> {
        let record = record(o)?;
        let name = record.version(version).and_then(|v| v.mint_name.clone()).ok_or(Undone::Changed)?;
        if !self.history.names.contains(&name) {
            return broken(format!("I9: {name} is not on record"));
        }
        let calls = self.history.minted.entry(name.clone()).or_insert(0);
        *calls += 1;
        if *calls > 1 {
            return broken(format!("I9: {name} is minted a second time"));
        }
        if self.provider.full {
            return Err(failed(Reason::MintFailed));
        }
        let full = self.provider.mint == MintKind::Unnamed && self.live_keys().count() >= 2;
        if full || self.provider.refuses.contains(&self.project) {
            let Undone::Failed(failure) = failed(Reason::MintFailed) else { return Err(Undone::Changed) };
            return Ok(Learned::MintRefused(failure));
        }
        let attempt = record.attempt;
        if self.in_slots() {
            self.judge_slot(o, version)?;
        }
        let key = self.make(&Self::request(record, version).ok_or(Undone::Changed)?, 1);
        if key.revoked.is_some() {
            return Ok(Learned::Spent);
        }
        held.minted = Some(key.bytes.clone());
        Ok(Learned::Minted(Minted { attempt, id: key.id.clone(), facts: facts(&key.bytes) }))
    }

    /// A key that an intent has named, and what it is.
    pub fn look_for_named(&self, o: &Observed, held: &mut Held, version: i32) -> Result<Learned, Undone> {
        let id =
            record(o)?.version(version).and_then(|v| v.provider_key_id.clone()).ok_or(Undone::Changed)?;
        Ok(match self.provider.keys.iter().find(|key| key.id == id) {
            None => Learned::LookedUp(false),
            Some(key) if key.revoked.is_some() => Learned::Spent,
            Some(key) => {
                held.minted = Some(key.bytes.clone());
                Learned::Minted(Minted { attempt: record(o)?.attempt, id, facts: facts(&key.bytes) })
            }
        })
    }

    /// Bytes that are told apart by the attempt that they are for, and where the nonce is not constant by that as well.
    pub fn choose(&mut self, o: &Observed, held: &mut Held) -> Learned {
        let attempt = record(o).map_or(0, |record| record.attempt) + 1;
        let bytes = Self::bytes_to_choose(&o.key.uid, attempt, self.env().nonce);
        held.chosen = Some(bytes.clone());
        Learned::Chosen(Chosen { id: id_of_chosen(&bytes), facts: facts(&bytes) })
    }

    /// The key that is chosen for an attempt.
    pub fn bytes_to_choose(uid: &str, attempt: u32, nonce: u64) -> String {
        format!("sk-chosen-{uid}-{attempt}-{nonce}")
    }

    /// The id of the `copy`th key of a name.
    pub fn id_of_copy(name: &str, copy: u8) -> String {
        format!("svc_{name}-{copy}")
    }

    /// The bytes of the `copy`th key of a name.
    pub fn bytes_of_copy(name: &str, copy: u8) -> String {
        format!("sk-minted-{name}-{copy}")
    }

    /// What a version's mint asks for.
    pub fn request(record: &Record, number: i32) -> Option<Request> {
        let name = record.version(number)?.mint_name.clone()?;
        let version = record.version(number)?;
        let slot = version.slot.as_ref().map(|slot| slot.name.clone());
        let id = version.provider_key_id.clone().filter(|_| version.key.is_none());
        Some(Request { name, bytes: Self::bytes_of(record, number), slot, id })
    }

    /// The provider makes a key. Names need not be unique: this is the `copy`th of its name. One that we chose is made once,
    /// or made again after it was revoked; one whose id we chose is made once, and never again.
    pub fn make(&mut self, request: &Request, copy: u8) -> ProviderKey {
        let Request { name, bytes, slot, id } = request;
        if let Some(slot) = slot {
            return self.renew_for(slot, name, copy);
        }
        self.history.writes += 1;
        if let Some(id) = id {
            return self.make_named(id);
        }
        let id = bytes.as_deref().map_or_else(|| Self::id_of_copy(name, copy), id_of_chosen);
        let key = ProviderKey {
            name: name.clone(),
            bytes: bytes.clone().unwrap_or_else(|| Self::bytes_of_copy(name, copy)),
            project: self.project.clone(),
            host: self.host.clone(),
            made: self.now,
            revoked: None,
            used: None,
            id,
        };
        if let Some(known) = self.provider.keys.iter_mut().find(|k| bytes.is_some() && k.id == key.id) {
            if known.revoked.is_some() {
                *known = key;
            }
            return known.clone();
        }
        self.provider.keys.push(key.clone());
        key
    }

    /// The name by which a list tells of it is its id.
    /// The bytes of a key whose id we chose.
    pub fn bytes_of_named(id: &str) -> String {
        format!("AIza-{id}")
    }

    fn make_named(&mut self, id: &str) -> ProviderKey {
        if let Some(known) = self.provider.keys.iter().find(|key| key.id == id) {
            return known.clone();
        }
        let key = ProviderKey {
            name: id.to_owned(),
            id: id.to_owned(),
            bytes: Self::bytes_of_named(id),
            project: self.project.clone(),
            host: self.host.clone(),
            made: self.now,
            revoked: None,
            used: None,
        };
        self.provider.keys.push(key.clone());
        key
    }
}

/// The provider knows such a key by its hash.
fn id_of_chosen(bytes: &str) -> String {
    facts(bytes).fingerprint
}
