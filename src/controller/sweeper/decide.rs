//! Which keys at an account are nobody's, and what is done about them: a pure function of one look.
//!
//! **Why a key that is judged an orphan can never become a version's.** L1 is acknowledged before P1, P1 happens before the
//! provider can list the key, and the ledgers are read after the list was complete. So the record that is read shows the
//! key's attempt, unless that attempt is closed; a key of an open attempt, or of a lineage with any open attempt, is left to
//! the `LLMKey`, which searches by itself. A slow L2 of a closed attempt names the version of the ledger that it read, which
//! the fence, one more compare-and-swap, has made an older one: it fails, and whoever holds that key's bytes drops them.
//! The fence also proves that the record is still the one that was judged by.
//!
//! **Without a ledger there is nothing to fence.** L2 replaces an existing object: on one that is gone it fails. A new ledger
//! for the lineage records only ids of keys whose bytes its own replica was just given, never one from a list. So such a key
//! is dead weight already, unless ledgers were *lost*: it is left alone while an `LLMKey`'s status names it, while its
//! lineage's `LLMKey` lives, or while any ledger cannot be told, and if there are many of them the account is frozen instead.
//! Keys that are retained on purpose have a ledger, which stays.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::controller::llm_key::decide::successor;
use crate::controller::llm_key::model::Env;
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::domain::names::MintName;
use crate::ledger::{FreezeReason, Ledger, Record, Version};
use crate::provider::ProviderKeyId;

/// So many keys without a ledger are never too many.
const FEW: usize = 3;
/// One part in so many of the account's keys is too many.
const SHARE: usize = 5;

/// Whether so many of an account's keys at once are more than happens in the course of things.
pub fn too_many(count: usize, total: usize) -> bool {
    count > FEW.max(total / SHARE)
}

/// What happened to an account's LLMKeys within a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Crowd {
    /// LLMKeys of the account, those that were just deleted included.
    pub total: usize,
    /// LLMKeys that were deleted, with keys that are to be revoked.
    pub deleted: usize,
    /// LLMKeys whose key turned invalid.
    pub invalid: usize,
}

impl Crowd {
    /// Why the account is to be frozen, and how many LLMKeys it is about.
    pub fn suspicion(&self) -> Option<(FreezeReason, usize)> {
        let reasons =
            [(FreezeReason::MassDeletion, self.deleted), (FreezeReason::ProviderSuspect, self.invalid)];
        reasons.into_iter().find(|(_, count)| too_many(*count, self.total))
    }
}

/// A listed key that bears a name of this installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its id at the provider.
    pub id: String,
    /// Its name.
    pub name: MintName,
    /// When the provider made it.
    pub created: Option<DateTime<Utc>>,
}

/// The ledger of a lineage, read after the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Read.
    Present(Box<Ledger>),
    /// There is one, and it cannot be read.
    Unreadable,
}

/// One look at one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Observed {
    /// Keys that were not found right before.
    pub keys: Vec<Key>,
    /// All keys of this installation in the list.
    pub total: usize,
    /// The provider's clock when it told the list.
    pub provider_now: Option<DateTime<Utc>>,
    /// By the lineage's code, for the lineages of `keys`. What is missing has none.
    pub ledgers: BTreeMap<String, Sight>,
    /// There is a ledger that does not even tell its lineage.
    pub blind: bool,
    /// Ids that `LLMKey`s' statuses name.
    pub claimed: BTreeSet<String>,
    /// Codes of the uids of `LLMKey`s that live.
    pub living: BTreeSet<String>,
    /// Ids that the sweep before found to be nobody's.
    pub before: BTreeSet<String>,
    /// What happened to the account's LLMKeys.
    pub crowd: Crowd,
    /// Nothing may be revoked at the account.
    pub frozen: bool,
    /// Ids that an acknowledged freeze was about.
    pub acknowledged: BTreeSet<String>,
}

/// What a sweep does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing is made or revoked at the account from now on.
    Freeze {
        /// Why.
        reason: FreezeReason,
        /// Keys that it is about.
        count: usize,
        /// Their ids.
        keys: Vec<String>,
    },
    /// A compare-and-swap on the ledger that was judged by, with the version that was read.
    Fence {
        /// As it was read.
        read: Box<Ledger>,
        /// As it is written.
        next: Box<Record>,
    },
    /// Revoke a key that is nobody's.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// The plan of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Each chain in order, up to its first failure; chains do not depend on each other.
    pub chains: Vec<Vec<Effect>>,
    /// Ids that are nobody's, those that are still left alone included.
    pub orphans: BTreeSet<String>,
    /// Ids that their ledgers hold: they need no look as long as those do not change. With the ledger's version.
    pub right: BTreeMap<String, (String, String, String)>,
}

/// What a ledger says of a listed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A version needs it, or holds it up to its own end.
    Held,
    /// The `LLMKey` works on its keys, and searches for such ones by itself.
    Owned,
    /// Nobody's.
    Orphan,
    /// The ledger is older than the key.
    Ahead,
}

/// Judges one key by its lineage's record, which was read after the key was listed.
pub fn judge(id: &str, name: &MintName, record: &Record) -> Verdict {
    let same = |v: &&Version| {
        let known = v.provider_key_id.as_deref().and_then(|id| ProviderKeyId::parse(id).ok());
        let listed = ProviderKeyId::parse(id).ok();
        known.zip(listed).is_some_and(|(known, listed)| known.same_handle(&listed))
    };
    // By id, not by attempt: the provider may have carried one attempt out twice.
    if record.versions.iter().filter(same).any(|v| v.state.key_may_work()) {
        return Verdict::Held;
    }
    let newest = record.versions.iter().map(|v| v.version).max().unwrap_or_default();
    if name.attempt_number() > record.attempt
        || i64::from(name.version) > i64::from(newest)
        || is_of_another_history(name, record)
    {
        return Verdict::Ahead;
    }
    let open = record.versions.iter().any(|v| v.state == VersionState::Intent && v.account.is_some());
    if open {
        return Verdict::Owned;
    }
    // Its revocation was confirmed, and it is here: a request that came late has made it once more.
    if record.versions.iter().filter(same).any(|v| v.state == VersionState::Revoked) {
        return Verdict::Orphan;
    }
    // Where nothing is delivered by the ledger, the target may still hold this very key, unless all were revoked as asked.
    if record.owner.is_some() && record.delivered().is_none() && !record.revoked_by_spec {
        return Verdict::Owned;
    }
    Verdict::Orphan
}

/// Whether the record has given the attempt's number to another name: by compare-and-swap a number has one. Then the ledger that
/// gave this one was overtaken by an older copy, which has counted on.
pub(crate) fn is_of_another_history(name: &MintName, record: &Record) -> bool {
    let known = record.versions.iter().filter_map(|v| v.mint_name.as_deref()?.parse::<MintName>().ok());
    let mut known = known.filter(|known| known.lineage == name.lineage);
    known.any(|known| known.attempt_number() == name.attempt_number() && known != *name)
}

/// Plans a sweep.
pub fn decide(o: &Observed, env: &Env) -> Plan {
    let mut plan = Plan::default();
    let mut ahead: Vec<&Key> = Vec::new();
    let mut lost: Vec<&Key> = Vec::new();
    let mut nobodys: BTreeMap<&str, (Vec<&Key>, Vec<&Key>)> = BTreeMap::new();
    for key in &o.keys {
        match o.ledgers.get(&key.name.lineage) {
            Some(Sight::Unreadable) => {}
            Some(Sight::Present(ledger)) => match judge(&key.id, &key.name, &ledger.record) {
                Verdict::Held => note_right(&mut plan, key, ledger),
                Verdict::Owned => {}
                Verdict::Ahead if !o.acknowledged.contains(&key.id) => ahead.push(key),
                // The ledger goes on above it at once; it is an orphan like others from then on.
                Verdict::Ahead => nobodys.entry(&key.name.lineage).or_default().0.push(key),
                Verdict::Orphan => {
                    plan.orphans.insert(key.id.clone());
                    if ripe(o, key, env) {
                        nobodys.entry(&key.name.lineage).or_default().1.push(key);
                    }
                }
            },
            None => {
                plan.orphans.insert(key.id.clone());
                if ripe(o, key, env) && !needed_without_a_ledger(o, key) {
                    lost.push(key);
                }
            }
        }
    }
    if o.frozen {
        return plan;
    }
    if let Some((reason, count)) = o.crowd.suspicion() {
        plan.chains.push(vec![Effect::Freeze { reason, count, keys: Vec::new() }]);
        return plan;
    }
    let new = |key: &&&Key| !o.acknowledged.contains(&key.id);
    let unknown = lost.iter().filter(new).count();
    if !ahead.is_empty() || too_many(unknown, o.total) {
        let lost = lost.iter().copied().filter(|key| unknown > FEW && new(&key));
        let keys: Vec<String> = ahead.iter().copied().chain(lost).map(|key| key.id.clone()).collect();
        let freeze = Effect::Freeze { reason: FreezeReason::LedgerRolledBack, count: keys.len(), keys };
        plan.chains.push(vec![freeze]);
        return plan;
    }
    for (lineage, (ahead, ripe)) in nobodys {
        let Some(Sight::Present(ledger)) = o.ledgers.get(lineage) else { continue };
        let next = fence(&ledger.record, &ahead, env);
        let fence = Effect::Fence { read: ledger.clone(), next: Box::new(next) };
        let revoke = ripe.iter().map(|key| Effect::Revoke { id: key.id.clone() });
        plan.chains.push([fence].into_iter().chain(revoke).collect());
    }
    plan.chains.extend(lost.iter().map(|key| vec![Effect::Revoke { id: key.id.clone() }]));
    plan
}

fn note_right(plan: &mut Plan, key: &Key, ledger: &Ledger) {
    let Record { namespace, name, .. } = &ledger.record;
    let place = (namespace.clone(), name.clone(), ledger.resource_version.clone());
    plan.right.insert(key.id.clone(), place);
}

/// Old enough by the provider's own clock, and found by the sweep before too.
fn ripe(o: &Observed, key: &Key, env: &Env) -> bool {
    let least = chrono::Duration::from_std(env.timings.orphan_age).unwrap_or(chrono::Duration::MAX);
    let age = o.provider_now.zip(key.created).map(|(now, created)| now - created);
    age.is_some_and(|age| age >= least) && o.before.contains(&key.id)
}

/// A key whose ledger may have been lost: somebody may still use it.
fn needed_without_a_ledger(o: &Observed, key: &Key) -> bool {
    let handle = |id: &str| ProviderKeyId::parse(id).map(|id| id.handle().to_owned()).unwrap_or_default();
    o.blind
        || o.living.contains(&key.name.lineage)
        || o.claimed.iter().any(|claimed| handle(claimed) == handle(&key.id))
}

/// The record after the fence. Numbers of keys that are newer than an acknowledged old ledger are not given again.
fn fence(record: &Record, ahead: &[&Key], env: &Env) -> Record {
    let mut next = successor(record, env);
    for key in ahead {
        next.attempt = next.attempt.max(key.name.attempt_number());
        raise(&mut next, i32::try_from(key.name.version).unwrap_or(i32::MAX), env);
    }
    next.prune();
    next
}

/// Goes on from a ledger that is older than what it tells of, above version `number`: no number is given twice. What the
/// ledger takes for delivered was superseded by a key that it does not know, so another one is made before the target is
/// written again, and the older one is revoked on evidence like any other.
pub fn raise(record: &mut Record, number: i32, env: &Env) {
    if number >= record.next_number() {
        // A spare may have been delivered since as well.
        let older = |v: &&Version| {
            matches!(v.state, VersionState::Current | VersionState::Spare) && v.origin == Origin::Minted
        };
        let superseded: Vec<i32> = record.versions.iter().filter(older).map(|v| v.version).collect();
        for older in superseded {
            if record.advance(older, VersionState::Overlap)
                && let Some(version) = record.version_mut(older)
            {
                version.superseded_at = Some(env.now);
            }
        }
        record.versions.push(Version::begun(
            number,
            VersionState::Abandoned,
            Origin::Minted,
            RotationReason::Replaced,
            env.now,
        ));
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
