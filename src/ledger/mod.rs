//! The record, its codec and its compare-and-swap store.
//!
//! The ledger is the truth, and compare-and-swap on it is the only safety: leader election, caches, status and
//! annotations are hints that may cause a read, never an effect.

mod account;
pub mod audit;
mod codec;
mod lease;
mod outside;
mod record;
mod rewrap;
mod rotation;
mod store;
mod switch;
mod used;
pub mod verify;

pub use account::{AccountId, AccountLedger, AccountRecord, AccountStore, Freeze, FreezeReason, MAX_LISTED};
pub use codec::{DecodeError, EncodeError, Summary, decode, encode, fingerprint_label, unverified};
pub use lease::{Claim, Found, Lease, Tenancy};
pub use outside::all_unverified;
#[cfg(test)]
pub(crate) use record::tests;
pub use record::{
    AccountRef, Before, FORMAT, KeyFacts, MAX_VERSIONS, OverlapTerms, Record, Released, Slot, Version,
};
pub use rewrap::Rewrapped;
pub use rotation::{
    MAX_ROTATIONS, Method, Outcome, Requester, Retry, Rotation, RotationFailure, ShownKey, Superseded,
};
pub use store::{Holder, Ledger, LedgerError, Listed, Store};
pub use switch::{Extent, Switch};
pub use used::{MAX_USED, UsedKey};
