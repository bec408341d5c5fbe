//! The lease of an account. Where an account has a fixed number of keys, one `LLMKey` has it for itself, and the account's ledger
//! says which.
//!
//! **Why there are never two holders.** A lease is taken by compare-and-swap before there is a ledger, and confirmed by another
//! one, with the uid of the ledger, once there is. Only who has confirmed it makes or revokes keys. It is taken from a holder only
//! after its ledger was found gone, and by naming the version of the account's ledger that was read *before* that: if the holder
//! has confirmed since, the write fails; if it had confirmed before, its ledger would have been found.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::account::{AccountId, AccountRecord};
use super::record::Record;

/// Who has an account for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Namespace of the `LLMKey`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Lineage of its ledger.
    pub lineage: String,
    /// Uid of its ledger's Secret. None until that is written: so far nothing may be made or revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// When it was taken.
    pub since: DateTime<Utc>,
}

/// What stands where a holder's ledger should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A ledger.
    Ledger {
        /// Its lineage.
        lineage: String,
        /// It has keys at the account that may work.
        uses: bool,
    },
    /// None. `missed`: an `LLMKey` of that name has versions, so it was lost, and a person is asked for it.
    Nothing {
        /// See above.
        missed: bool,
    },
    /// Something that cannot be read, so that nobody can tell whose it is.
    Unreadable,
}

impl Found {
    /// What a ledger says of an account.
    pub fn of(record: &Record, account: &AccountId) -> Self {
        let uses =
            record.minted_alive().filter_map(|v| v.account.as_ref()).any(|of| AccountId::of(of) == *account);
        Self::Ledger { lineage: record.lineage.clone(), uses }
    }
}

impl Lease {
    /// Whether it is the lease of the `LLMKey` of this name, whichever that was.
    pub fn is_of(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// Whether nobody has it any more. Who has taken it just now may take `patience` to write its ledger.
    pub fn is_over(&self, found: &Found, patience: TimeDelta, now: DateTime<Utc>) -> bool {
        match found {
            Found::Ledger { lineage, uses } => *lineage != self.lineage && !uses,
            Found::Nothing { missed } => {
                !missed && (self.ledger.is_some() || self.since.checked_add_signed(patience) <= Some(now))
            }
            Found::Unreadable => false,
        }
    }
}

/// An account, as one `LLMKey` finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tenancy {
    /// Any number of `LLMKey`s have keys there.
    #[default]
    Shared,
    /// One has it for itself; not this one.
    Vacant,
    /// This one has it, and it was confirmed with this ledger.
    Own(Option<String>),
}

/// How an `LLMKey` that wants an account goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It has it.
    Held,
    /// The next record of the account says that it has.
    Take(Box<AccountRecord>),
    /// Another one has it, as far as the record tells: its ledger is to be looked for.
    Ask(Lease),
}

impl AccountRecord {
    /// What `wanted` has to do to have the account. `over`: the holder's ledger was looked for after this record was read, and
    /// nobody has the account.
    pub fn claim(&self, wanted: &Lease, over: bool, writer: String) -> Claim {
        match &self.lease {
            Some(held) if held.is_of(&wanted.namespace, &wanted.name) && same(held, wanted) => Claim::Held,
            Some(held) if !held.is_of(&wanted.namespace, &wanted.name) && !over => Claim::Ask(held.clone()),
            // Only one ledger can have a name: of who had it before, nothing is left.
            _ => Claim::Take(Box::new(Self { lease: Some(wanted.clone()), ..self.successor(writer) })),
        }
    }

    /// The record without the lease of a lineage; none if that does not have it.
    pub fn returned(&self, lineage: &str, writer: String) -> Option<Self> {
        let held = self.lease.as_ref().is_some_and(|held| held.lineage == lineage);
        held.then(|| Self { lease: None, ..self.successor(writer) })
    }
}

fn same(held: &Lease, wanted: &Lease) -> bool {
    held.lineage == wanted.lineage && held.ledger == wanted.ledger
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ProviderType;
    use crate::ledger::AccountId;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn lease(name: &str, lineage: &str, ledger: Option<&str>) -> Lease {
        Lease {
            namespace: "team".into(),
            name: name.into(),
            lineage: lineage.into(),
            ledger: ledger.map(str::to_owned),
            since: at(0),
        }
    }

    fn record(lease: Option<Lease>) -> AccountRecord {
        let account =
            AccountId { r#type: ProviderType::OpenAI, host: "a.example:443".into(), project: "p".into() };
        AccountRecord { lease, ..AccountRecord::new("install", account, "cluster", "w".into()) }
    }

    fn taken(claim: Claim) -> Lease {
        let Claim::Take(next) = claim else { panic!("{claim:?}") };
        assert_eq!(next.epoch, 2, "a write that raises the epoch");
        next.lease.unwrap()
    }

    #[test]
    fn it_is_taken_then_confirmed_and_then_held() {
        let first = lease("chat", "uid-1", None);
        assert_eq!(taken(record(None).claim(&first, false, "x".into())), first);
        let confirmed = lease("chat", "uid-1", Some("ledger-1"));
        assert_eq!(taken(record(Some(first.clone())).claim(&confirmed, false, "x".into())), confirmed);
        assert_eq!(record(Some(first.clone())).claim(&first, false, "x".into()), Claim::Held);
        assert_eq!(record(Some(confirmed.clone())).claim(&confirmed, false, "x".into()), Claim::Held);
        // The ledger was restored from a backup, or is another one under the same name.
        for next in [lease("chat", "uid-1", Some("ledger-2")), lease("chat", "uid-2", None)] {
            assert_eq!(taken(record(Some(confirmed.clone())).claim(&next, false, "x".into())), next);
        }
    }

    #[test]
    fn from_another_it_is_taken_only_after_a_look_for_its_ledger() {
        let held = lease("chat", "uid-1", Some("ledger-1"));
        let wanted = lease("other", "uid-2", None);
        assert_eq!(record(Some(held.clone())).claim(&wanted, false, "x".into()), Claim::Ask(held.clone()));
        assert_eq!(taken(record(Some(held)).claim(&wanted, true, "x".into())), wanted);
    }

    #[test]
    fn it_is_over_when_the_ledger_is_gone() {
        let (early, confirmed) = (lease("chat", "uid-1", None), lease("chat", "uid-1", Some("ledger-1")));
        let patience = TimeDelta::seconds(60);
        let over = |lease: &Lease, found: &Found, now| lease.is_over(found, patience, at(now));
        for held in [&early, &confirmed] {
            let ledger = |lineage: &str, uses| Found::Ledger { lineage: lineage.into(), uses };
            assert!(!over(held, &ledger("uid-1", false), 9999));
            assert!(over(held, &ledger("uid-2", false), 0), "it is another one's");
            assert!(
                !over(held, &ledger("uid-2", true), 9999),
                "it is another one's, and it needs the account"
            );
            assert!(!over(held, &Found::Unreadable, 9999));
            assert!(!over(held, &Found::Nothing { missed: true }, 9999), "it was lost, not finished");
        }
        assert!(over(&confirmed, &Found::Nothing { missed: false }, 0));
        assert!(!over(&early, &Found::Nothing { missed: false }, 59), "its ledger may come");
        assert!(over(&early, &Found::Nothing { missed: false }, 60));
    }

    #[test]
    fn only_its_holder_gives_it_back() {
        let held = record(Some(lease("chat", "uid-1", Some("ledger-1"))));
        assert_eq!(held.returned("uid-2", "x".into()), None);
        assert_eq!(record(None).returned("uid-1", "x".into()), None);
        assert_eq!(held.returned("uid-1", "x".into()).unwrap().lease, None);
    }
}
