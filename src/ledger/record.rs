//! The record: everything the operator knows of one logical key, as it is stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::rotation::Rotation;
use super::used::UsedKey;
use crate::api::ProviderType;
use crate::crypto::Envelope;
use crate::domain::evidence::Restart;
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};

/// Format that this program writes. Older ones are read, and have this one with their next write; newer ones are left alone.
///
/// 1 became 2 when states and reasons came that an operator of format 1 cannot read: all that it has is read as it stands.
pub const FORMAT: i32 = 2;

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
    /// When keys were made, or may have been, as far back as it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mints: Vec<DateTime<Utc>>,
    /// Seconds from the deletion of the LLMKey to the revocation of its keys; none in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_grace_seconds: Option<u64>,
    /// The last token of `llmkeys.dev/rotate` that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_rotate: Option<String>,
    /// A person was asked for the next key and has not supplied it.
    #[serde(default)]
    pub awaiting_supply: bool,
    /// `desiredState: Revoked` was carried out; coming back needs other bytes.
    #[serde(default)]
    pub revoked_by_spec: bool,
    /// Newest link of the audit trail: the hash of the line that tells of this write. Set by the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_head: Option<String>,
    /// The versions, by number.
    pub versions: Vec<Version>,
    /// The last rotations, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<Rotation>,
    /// Keys of a pool that were used, newest last; see [`UsedKey`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<UsedKey>,
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
    /// The Secret that it was published in; none in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When a newer version took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_at: Option<DateTime<Utc>>,
    /// What the policy in force asked of the overlap when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<OverlapTerms>,
    /// Restarts of workloads, so that they take this version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Restart>,
    /// L4. A time to come: the key is left alone until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_at: Option<DateTime<Utc>>,
    /// L5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
    /// What the revocation rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<RevocationBasis>,
    /// The pinned version whose key this is once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_of: Option<i32>,
    /// The member of the pool that its key came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// When the key was found good and kept back as a spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_since: Option<DateTime<Utc>>,
    /// When a rotation took the version that was begun as a spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<DateTime<Utc>>,
    /// Whether its key is switched off at the provider, or was and is to be on again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<super::Switch>,
    /// Where its key is, if the account has a fixed number of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// What its account had before the first key of this ledger, if keys have no names there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

impl Version {
    /// A version as it is begun: of its key nothing is known yet.
    pub const fn begun(
        version: i32,
        state: VersionState,
        origin: Origin,
        reason: RotationReason,
        created_at: DateTime<Utc>,
    ) -> Self {
        Self {
            version,
            state,
            origin,
            reason,
            account: None,
            mint_name: None,
            provider_key_id: None,
            key: None,
            sealed: None,
            created_at,
            published_at: None,
            target: None,
            superseded_at: None,
            overlap: None,
            restarts: Vec::new(),
            retiring_at: None,
            revoked_at: None,
            basis: None,
            key_of: None,
            member: None,
            spare_since: None,
            promoted_at: None,
            switch: None,
            slot: None,
            before: None,
        }
    }

    /// Since when a superseded version is one, as far as it is known.
    pub fn superseded_since(&self) -> DateTime<Utc> {
        self.superseded_at.or(self.published_at).unwrap_or(self.created_at)
    }

    /// Whether its key has this fingerprint.
    pub fn has_key(&self, fingerprint: &str) -> bool {
        self.key.as_ref().is_some_and(|key| key.fingerprint == fingerprint)
    }

    /// Until when its revocation, which is on record, is put off.
    pub fn put_off(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.retiring_at.filter(|at| self.state == VersionState::Retiring && now < *at)
    }

    /// When the rotation to this version began.
    pub fn wanted_since(&self) -> DateTime<Utc> {
        self.promoted_at.unwrap_or(self.created_at)
    }

    /// Whether the admin credential at hand is for the account that the version's key is at, whichever its project.
    pub fn within_reach(&self, at_hand: Option<&AccountRef>) -> bool {
        self.account.as_ref().zip(at_hand).is_some_and(|(of, at_hand)| of.same_but_for_the_project(at_hand))
    }
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

/// A slot of an account, each of which has one key at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// Its name at the provider.
    pub name: String,
    /// Fingerprint of the key that it had at L1: as long as it has that one, the version's key was not made.
    pub before: String,
}

/// Keys that were at an account before the first one was made for this ledger: they are somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// The account, by the place in it that keys are made in.
    pub project: String,
    /// Their ids.
    pub ids: Vec<String>,
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
    /// Project at OpenAI and Google, workspace at OpenRouter, team at LiteLLM (`-` for none); at Azure subscription, resource group and account; at Bedrock AWS account
    /// and IAM user.
    pub project: String,
}

impl AccountRef {
    /// Whether one admin credential reaches both.
    fn same_but_for_the_project(&self, other: &Self) -> bool {
        let same = self.provider == other.provider && self.r#type == other.r#type && self.host == other.host;
        same && (!self.r#type.is_one_account() || self.project == other.project)
    }
}

/// What a policy asks of an overlap: kept for the case that the policy goes before the overlap is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverlapTerms {
    /// The policy as status showed it; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `overlap.minimum`.
    pub minimum_seconds: u64,
    /// `overlap.evidence.quietFor`.
    pub quiet_for_seconds: u64,
    /// `overlap.maximum`; none in records of an earlier version, like those below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_seconds: Option<u64>,
    /// `overlap.evidence.consumers` is Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<bool>,
    /// `overlap.approval` is Manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<bool>,
    /// `overlap.onStuck` is Revoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_when_stuck: Option<bool>,
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

    /// The version on its way to workloads, if any. There is at most one; a spare that is being made is none.
    pub fn in_flight(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|v| v.state.in_flight() && v.reason != RotationReason::Spare)
    }

    /// The version that is kept back for the next rotation, or is being made for that.
    pub fn spare(&self) -> Option<&Version> {
        let in_making = |v: &Version| v.state.in_flight() && v.reason == RotationReason::Spare;
        self.versions.iter().rev().find(|v| v.state == VersionState::Spare || in_making(v))
    }

    /// The version that is on its way to take the place of the delivered one.
    pub fn rotating(&self) -> Option<&Version> {
        let delivered = self.delivered()?.version;
        self.in_flight().filter(|v| v.version != delivered)
    }

    /// A version by its number.
    pub fn version(&self, number: i32) -> Option<&Version> {
        self.versions.iter().find(|v| v.version == number)
    }

    /// A version by its number, to be changed.
    pub fn version_mut(&mut self, number: i32) -> Option<&mut Version> {
        self.versions.iter_mut().find(|v| v.version == number)
    }

    /// What was at an account before the first key of this ledger, as far as it is on record.
    pub fn before(&self, project: &str) -> Option<&Before> {
        self.versions.iter().rev().filter_map(|v| v.before.as_ref()).find(|before| before.project == project)
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

    /// Whether a version that needs its key has the one with this fingerprint.
    pub fn protects(&self, fingerprint: &str) -> bool {
        self.versions
            .iter()
            .any(|v| v.state.protects_key() && v.key.as_ref().is_some_and(|k| k.fingerprint == fingerprint))
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
            if matches!(
                version.state,
                VersionState::Revoked | VersionState::Abandoned | VersionState::Republished
            ) {
                version.sealed = None;
            }
            if version.state != VersionState::Current {
                version.restarts.clear();
            }
        }
        while self.versions.len() > MAX_VERSIONS {
            // A key that was made and left alive on purpose is nobody's once no record has it, and would be revoked as such.
            let may_go = |v: &Version| match v.state {
                VersionState::Revoked | VersionState::Abandoned | VersionState::Republished => true,
                VersionState::Retained => v.origin == Origin::Supplied,
                _ => false,
            };
            let Some(oldest) = self.versions.iter().position(may_go) else {
                break;
            };
            self.versions.remove(oldest);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
