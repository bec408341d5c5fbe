//! The record: everything the operator knows of one logical key, as it is stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::ProviderType;
use crate::crypto::Envelope;
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};

/// Format that this program writes. Older ones are read, newer ones are left alone.
pub const FORMAT: i32 = 1;

/// Versions that a record keeps at most; the oldest that are closed go first.
pub const MAX_VERSIONS: usize = 20;

/// One logical key's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// See [`FORMAT`].
    pub format: i32,
    /// Install id of the operator that wrote the first version.
    pub install: String,
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Name of the LLMKey.
    pub name: String,
    /// Uid of the first LLMKey that had this ledger: in mint names, sealing, jitter and probe slots.
    pub lineage: String,
    /// Uid of the LLMKey that has it now; none once that one is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Raised by every write, so that a compare-and-swap always fences.
    pub epoch: i64,
    /// Random mark of the last write, to recognise one's own after a lost reply.
    pub writer: String,
    /// Set when the LLMKey is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
    /// Deletion of the LLMKey leaves the keys as they are.
    #[serde(default)]
    pub retain_on_delete: bool,
    /// The newest mint attempt's number; only names with a lower one may be swept.
    #[serde(default)]
    pub attempt: u32,
    /// The last token of `llmkeys.dev/rotate` that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_rotate: Option<String>,
    /// A person was asked for the next key and has not supplied it.
    #[serde(default)]
    pub awaiting_supply: bool,
    /// `desiredState: Revoked` was carried out; coming back needs other bytes.
    #[serde(default)]
    pub revoked_by_spec: bool,
    /// The versions, by number.
    pub versions: Vec<Version>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its number.
    pub version: i32,
    /// Where it stands.
    pub state: VersionState,
    /// Where its key came from.
    pub origin: Origin,
    /// Why it was made.
    pub reason: RotationReason,
    /// The account that its key is at; kept even if the LLMProvider goes or changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRef>,
    /// Name of the newest mint attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_name: Option<String>,
    /// Id of the key at the provider.
    #[serde(default, rename = "providerKeyID", skip_serializing_if = "Option::is_none")]
    pub provider_key_id: Option<String>,
    /// What is known of the key's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyFacts>,
    /// The key itself, sealed. Dropped once the key is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Envelope>,
    /// When the version was begun.
    pub created_at: DateTime<Utc>,
    /// When the target carried it, by the API server's clock, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<DateTime<Utc>>,
    /// When a newer version took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_at: Option<DateTime<Utc>>,
    /// L4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_at: Option<DateTime<Utc>>,
    /// L5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
    /// What the revocation rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<RevocationBasis>,
}

/// What may be known of a key without holding it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyFacts {
    /// Keyed hash over the whole install, 64 hex digits.
    pub fingerprint: String,
    /// Keyed hash within the namespace, 12 hex digits: the one that status shows.
    pub shown: String,
    /// Its last four characters.
    pub last_four: String,
}

/// The account that a key was made at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountRef {
    /// Name of the LLMProvider at the time.
    pub provider: String,
    /// Its type.
    pub r#type: ProviderType,
    /// Host of its URL, with the port where it is not 443.
    pub host: String,
    /// Project, for OpenAI.
    pub project: String,
}

/// The LLMKey is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// Since when.
    pub at: DateTime<Utc>,
    /// Keys that are to be revoked are left alone until then.
    pub revoke_not_before: DateTime<Utc>,
    /// An LLMKey of the same name may take the keys over until they are revoked.
    pub hand_over: bool,
}

impl Record {
    /// The version that workloads have, as far as the ledger knows.
    pub fn current(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|v| v.state == VersionState::Current)
    }

    /// The version on its way, if any. There is at most one.
    pub fn in_flight(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|v| v.state.in_flight())
    }

    /// A version by its number.
    pub fn version(&self, number: i32) -> Option<&Version> {
        self.versions.iter().find(|v| v.version == number)
    }

    /// A version by its number, to be changed.
    pub fn version_mut(&mut self, number: i32) -> Option<&mut Version> {
        self.versions.iter_mut().find(|v| v.version == number)
    }

    /// The number of the next version.
    pub fn next_number(&self) -> i32 {
        self.versions.iter().map(|v| v.version).max().unwrap_or(0) + 1
    }

    /// The version that must stand in the target: the one being published, else the current one.
    pub fn delivered(&self) -> Option<&Version> {
        self.versions
            .iter()
            .rev()
            .find(|v| matches!(v.state, VersionState::Publishing | VersionState::Current))
    }

    /// Fingerprints of keys that may still work.
    pub fn live_fingerprints(&self) -> impl Iterator<Item = &str> {
        self.versions
            .iter()
            .filter(|v| v.state.key_may_work())
            .filter_map(|v| v.key.as_ref())
            .map(|k| k.fingerprint.as_str())
    }

    /// Whether a key's revocation was ever begun here.
    pub fn was_retired(&self, fingerprint: &str) -> bool {
        self.versions.iter().any(|v| {
            matches!(v.state, VersionState::Retiring | VersionState::Revoked)
                && v.key.as_ref().is_some_and(|k| k.fingerprint == fingerprint)
        })
    }

    /// Minted keys that may still work.
    pub fn minted_alive(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|v| {
            v.origin == Origin::Minted && v.state.key_may_work() && v.state != VersionState::Retained
        })
    }

    /// Moves a version on. False, and nothing changes, if the move is not a legal one.
    #[must_use]
    pub fn advance(&mut self, number: i32, next: VersionState) -> bool {
        match self.version_mut(number) {
            Some(version) if version.state.may_become(next) => {
                version.state = next;
                true
            }
            _ => false,
        }
    }

    /// Keeps the record bounded: drops the oldest closed versions, and key bytes that no longer serve anybody.
    pub fn prune(&mut self) {
        for version in &mut self.versions {
            if matches!(version.state, VersionState::Revoked | VersionState::Abandoned) {
                version.sealed = None;
            }
        }
        while self.versions.len() > MAX_VERSIONS {
            let Some(oldest) = self.versions.iter().position(|v| {
                matches!(v.state, VersionState::Revoked | VersionState::Abandoned | VersionState::Retained)
            }) else {
                break;
            };
            self.versions.remove(oldest);
        }
    }
}
