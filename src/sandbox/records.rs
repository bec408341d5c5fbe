//! What a provider keeps of projects, service accounts and keys.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    azure::Slot,
    credential::Digest,
    google::ApiKey,
    operation::Dialect,
    settings::{OwnerAccess, Settings},
    usage::Uses,
};

/// Who owns a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The service account with this ordinal.
    ServiceAccount(u64),
    /// A person.
    User,
}

/// When and how an object was deleted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deletion {
    /// The moment.
    pub(super) at: DateTime<Utc>,
    /// Until when a deleted key is still accepted.
    pub(super) accepted_until: DateTime<Utc>,
    /// Until when the object is still listed.
    pub(super) listed_until: DateTime<Utc>,
}

/// A project of the organization or at Google, a workspace at OpenRouter, a team at LiteLLM, an account at Azure, or an IAM user.
pub(super) struct Project {
    pub(super) id: String,
    pub(super) dialect: Dialect,
    pub(super) name: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) archived_at: Option<DateTime<Utc>>,
    /// Own switches, or those of the sandbox.
    pub(super) settings: Option<Settings>,
    pub(super) accounts: BTreeMap<u64, Account>,
    pub(super) keys: BTreeMap<u64, Key>,
    pub(super) ordinals: HashMap<String, u64>,
    /// Slots, by their names; Azure only.
    pub(super) slots: BTreeMap<String, Slot>,
    /// What is shown again of keys, by their ordinals; Google only.
    pub(super) api_keys: BTreeMap<u64, ApiKey>,
}

impl Project {
    /// The ordinal of an object of this project, deleted ones included.
    pub(super) fn ordinal(&self, id: &str) -> Option<u64> {
        self.ordinals.get(id).copied()
    }

    /// An account that exists.
    pub(super) fn live_account(&self, id: &str) -> Option<&Account> {
        self.accounts.get(&self.ordinal(id)?).filter(|account| account.deletion.is_none())
    }

    /// A key that exists.
    pub(super) fn live_key(&self, id: &str) -> Option<&Key> {
        self.keys.get(&self.ordinal(id)?).filter(|key| key.deletion.is_none())
    }

    /// The name under which a key is known: its account's, or its own if a person owns it.
    pub(super) fn name_of<'a>(&'a self, key: &'a Key) -> &'a str {
        self.owner_of(key).map_or(&key.name, |account| &account.name)
    }

    /// The account that owns a key.
    pub(super) fn owner_of(&self, key: &Key) -> Option<&Account> {
        match key.owner {
            Owner::ServiceAccount(ordinal) => self.accounts.get(&ordinal),
            Owner::User => None,
        }
    }
}

/// A service account.
pub(super) struct Account {
    pub(super) id: String,
    pub(super) name: String,
    /// `member`, or `none` if made without a key.
    pub(super) role: &'static str,
    pub(super) created_at: DateTime<Utc>,
    pub(super) listed_from: DateTime<Utc>,
    pub(super) deletion: Option<Deletion>,
}

/// A key, known by the digest of its value only.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) redacted: String,
    pub(super) last_four: String,
    pub(super) owner: Owner,
    pub(super) access: OwnerAccess,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
    pub(super) uses: Uses,
    /// What it was made with; LiteLLM only.
    pub(super) budget_duration: Option<String>,
    /// Switched off, or blocked; not at OpenAI.
    pub(super) disabled: bool,
    /// It may call models and nothing else; LiteLLM only.
    pub(super) models_only: bool,
    pub(super) updated_at: Option<DateTime<Utc>>,
    pub(super) accepted_from: DateTime<Utc>,
    pub(super) listed_from: DateTime<Utc>,
    pub(super) deletion: Option<Deletion>,
}

impl Key {
    /// Whether the provider accepts the key at `now`.
    pub(super) fn accepted(&self, now: DateTime<Utc>) -> bool {
        self.accepted_from <= now
            && !self.disabled
            && self.expires_at.is_none_or(|expiry| now < expiry)
            && self.deletion.is_none_or(|deletion| now < deletion.accepted_until)
    }
}

/// Whether an object shows in lists at `now`.
pub(super) fn listed(from: DateTime<Utc>, deletion: Option<Deletion>, now: DateTime<Utc>) -> bool {
    from <= now && deletion.is_none_or(|deletion| now < deletion.listed_until)
}

/// Where a key is.
#[derive(Clone, Copy)]
pub(super) struct KeyPlace {
    pub(super) project: usize,
    pub(super) ordinal: u64,
}

/// What a new key is to be.
pub(super) struct NewKey<'a> {
    /// Its value.
    pub(super) value: &'a str,
    /// Its name.
    pub(super) name: String,
    /// Its owner.
    pub(super) owner: Owner,
    /// Its owner's access.
    pub(super) access: OwnerAccess,
    /// Requested lifetime.
    pub(super) lifetime: Option<TimeDelta>,
}
