//! What is known of a key that is being made. Plain data, no key material.

use crate::ledger::KeyFacts;

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chosen {
    /// The id that the provider will know it by.
    pub id: String,
    /// What may be known of it.
    pub facts: KeyFacts,
}

/// What a slot of the account holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotView {
    /// Its name.
    pub name: String,
    /// The keyed hash of its key.
    pub fingerprint: String,
    /// Who else needs that key, in words.
    pub holder: Option<String>,
}

/// The provider's answer to a mint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Minted {
    /// The attempt.
    pub attempt: u32,
    /// The key's id.
    pub id: String,
    /// What may be known of it.
    pub facts: KeyFacts,
}
