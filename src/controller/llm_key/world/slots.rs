//! An account with two slots, each of which always has some key.

use super::perform::{Undone, broken, record};
use super::{Held, ProviderKey, World, facts};
use crate::api::Slots;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Minted, Observed, SlotView};
use crate::domain::lifecycle::RevocationBasis;
use crate::ledger::Version;
use crate::provider::{MintKind, slot_key_id};

/// The slots, the one that is made anew first comes first.
const SLOTS: [&str; 2] = ["Key2", "Key1"];

impl World {
    /// The same at an account with two slots, whose keys somebody had before.
    pub fn slotting() -> Self {
        Self::minting().in_two_slots()
    }

    pub fn in_two_slots(mut self) -> Self {
        self.provider.for_one = true;
        self.provider.mint = MintKind::Slots;
        self.provider.slots = SLOTS.map(|slot| (slot.to_owned(), format!("sk-given-{slot}"))).into();
        if let Some(key) = &mut self.key {
            key.spec.source.mint = None;
            key.spec.source.slots = Some(Slots {});
        }
        self
    }

    pub fn in_slots(&self) -> bool {
        self.provider.mint == MintKind::Slots
    }

    pub fn read_slots(&self) -> Learned {
        let view = |name: &str| {
            let fingerprint = facts(&self.provider.slots[name]).fingerprint;
            let holder = self.elsewhere.contains(&fingerprint).then(|| "another".to_owned());
            SlotView { name: name.to_owned(), fingerprint, holder }
        };
        Learned::Slots(SLOTS.map(view).into())
    }

    fn slot_of(o: &Observed, version: i32) -> Result<(&Version, &str), Undone> {
        let version = record(o)?.version(version).ok_or(Undone::Changed)?;
        Ok((version, version.slot.as_ref().map(|slot| slot.name.as_str()).ok_or(Undone::Changed)?))
    }

    /// What the intent's slot has, if it is not what it had before.
    pub fn look_into_slot(&self, o: &Observed, held: &mut Held, version: i32) -> Result<Learned, Undone> {
        let (of, slot) = Self::slot_of(o, version)?;
        let bytes = self.provider.slots[slot].clone();
        let found = facts(&bytes);
        if of.slot.as_ref().is_some_and(|slot| slot.before == found.fingerprint) {
            return Ok(Learned::LookedUp(false));
        }
        held.minted = Some(bytes);
        let attempt = record(o)?.attempt;
        Ok(Learned::Minted(Minted { attempt, id: slot_key_id(slot, &found.shown), facts: found }))
    }

    /// The slot's key is made anew for a mint attempt: the one before it ends.
    pub fn renew_for(&mut self, slot: &str, name: &str, copy: u8) -> ProviderKey {
        let bytes = format!("sk-{slot}-{name}-{copy}");
        let key = ProviderKey {
            name: name.to_owned(),
            id: slot_key_id(slot, &facts(&bytes).shown),
            project: self.project.clone(),
            host: self.host.clone(),
            made: self.now,
            revoked: None,
            used: None,
            bytes: bytes.clone(),
        };
        self.replace(slot, bytes);
        self.provider.keys.push(key.clone());
        key
    }

    fn replace(&mut self, slot: &str, bytes: String) {
        self.history.writes += 1;
        let now = self.now;
        let before = self.provider.slots.insert(slot.to_owned(), bytes);
        for key in self.provider.keys.iter_mut().filter(|key| Some(&key.bytes) == before.as_ref()) {
            key.revoked.get_or_insert(now);
        }
    }

    /// A person has the slot's key made anew.
    pub fn renew_by_hand(&mut self, slot: &str) {
        let bytes = format!("sk-by-hand-{slot}-{}", self.next());
        self.replace(slot, bytes);
    }

    /// Before a slot is made anew for a version: nobody needs what it has.
    pub fn judge_slot(&self, o: &Observed, version: i32) -> Result<(), Undone> {
        let (_, slot) = Self::slot_of(o, version)?;
        let held = &self.provider.slots[slot];
        let needed = self.ledger.as_ref().is_some_and(|l| l.record.protects(&facts(held).fingerprint));
        let carried = self.target.as_ref().is_some_and(|target| target.bytes == *held);
        if needed || carried {
            return broken(format!("I4: {slot} is made anew, and its key is in use"));
        }
        Ok(())
    }

    pub fn is_in_slot(&self, o: &Observed, version: i32) -> Result<bool, Undone> {
        let (of, slot) = Self::slot_of(o, version)?;
        Ok(of.has_key(&facts(&self.provider.slots[slot]).fingerprint))
    }

    /// P3: unless the slot has another key already.
    pub fn end_in_slot(&mut self, o: &Observed, version: i32) -> Result<(), Undone> {
        if !self.is_in_slot(o, version)? {
            return Ok(());
        }
        let (of, slot) = Self::slot_of(o, version)?;
        let held = self.provider.slots[slot].clone();
        let carried = self.target.as_ref().is_some_and(|target| target.bytes == held);
        if carried && of.basis != Some(RevocationBasis::Explicit) {
            return broken(format!("I4: version {version} is revoked and stands in the target"));
        }
        let slot = slot.to_owned();
        self.replace(&slot, format!("sk-unknown-{}", facts(&held).shown));
        Ok(())
    }
}
