//! What of a model's step can be seen from outside, as the proxy of the crash matrix tells it.

use std::fmt;

use crate::controller::llm_key::exploration::local::record;
use crate::controller::llm_key::exploration::parts::{Place, Work};
use crate::controller::llm_key::model::{Effect, Subject};
use crate::controller::llm_key::world::World;
use crate::domain::names::MintName;
use crate::ledger::Record;

/// A request, as far as the model can tell what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    /// What it is for.
    pub effect: &'static str,
    /// What it says.
    pub says: String,
    /// The key that it is about, by version and attempt.
    pub key: Option<String>,
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.effect)?;
        let says = Some(&self.says).filter(|says| !says.is_empty());
        says.into_iter().chain(&self.key).try_for_each(|word| write!(f, " {word}"))
    }
}

fn plain(effect: &'static str) -> Visible {
    Visible { effect, says: String::new(), key: None }
}

/// What can be seen of a replica's next step at a place; none if nothing can.
pub fn next(place: &Place, work: &Work) -> Option<Visible> {
    if work.tell.is_some() {
        return Some(plain("status"));
    }
    Some(match work.queue.first()? {
        Effect::SetFinalizer(on) => {
            let same = |key: &&crate::api::LLMKey| key.metadata.uid.as_ref() == Some(&work.o.key.uid);
            place.key.as_ref().map(|key| &key.value).filter(same)?;
            Visible { says: if *on { "on" } else { "off" }.to_owned(), ..plain("finalizer") }
        }
        Effect::CreateLedger(next) => Visible { says: states(next), ..plain("ledger:create") },
        Effect::SwapLedger(next) => Visible { says: states(next), ..plain("ledger:swap") },
        Effect::DeleteLedger => plain("ledger:delete"),
        Effect::Mint { version } => {
            let name = record(&work.o)?.version(*version)?.mint_name.as_deref();
            Visible { key: name.and_then(named), ..plain("provider:mint") }
        }
        // Of a confirmation, what is asked first.
        Effect::ListKeys | Effect::FindStrays { .. } | Effect::ConfirmRevoked { .. } => {
            plain("provider:list")
        }
        Effect::RevokeStray { id, .. } => Visible { key: of_id(place, id), ..plain("provider:revoke") },
        Effect::Revoke { version } => {
            let version = record(&work.o)?.version(*version)?;
            Visible { key: version.mint_name.as_deref().and_then(named), ..plain("provider:revoke") }
        }
        Effect::Validate(subject) => question(work, number(*subject)?),
        Effect::WriteTarget { version } => {
            let effect = if work.target_seen { "target:update" } else { "target:create" };
            Visible { effect, ..question(work, *version) }
        }
        Effect::DeleteTarget if work.target_seen => plain("target:delete"),
        Effect::ReadLastUse { .. } => plain("provider:last-use"),
        Effect::LookUp { .. } => plain("provider:look-up"),
        Effect::Switch { .. } => plain("provider:switch"),
        Effect::Match { .. } => plain("provider:match"),
        Effect::DeleteTarget
        | Effect::TakeLease
        | Effect::ReturnLease
        | Effect::ReadSlots
        | Effect::Choose
        | Effect::CheckShared { .. }
        | Effect::LookAtConsumers { .. }
        | Effect::Restart(_)
        | Effect::NoteReminder { .. }
        | Effect::Announce { .. }
        | Effect::ReadMembers { .. } => return None,
    })
}

/// The provider is asked about a version's key.
pub fn question(work: &Work, version: i32) -> Visible {
    let version = record(&work.o).and_then(|record| record.version(version));
    let key = version.and_then(|version| version.mint_name.as_deref()).and_then(named);
    Visible { key, ..plain("provider:validate") }
}

/// The version that a confirmation asks about once more after the list, if its bytes can be had.
pub fn confirms(work: &Work) -> Option<i32> {
    match work.queue.first()? {
        Effect::ConfirmRevoked { version } if work.tell.is_none() => {
            World::bytes_of(record(&work.o)?, *version).map(|_| *version)
        }
        _ => None,
    }
}

const fn number(subject: Subject) -> Option<i32> {
    match subject {
        Subject::Candidate(n) | Subject::Delivered(n) | Subject::Spare(n) | Subject::Pinned(n) => Some(n),
        Subject::Source | Subject::Member(_) => None,
    }
}

fn of_id(place: &Place, id: &str) -> Option<String> {
    place.keys.iter().find(|key| key.id == id).and_then(|key| named(&key.name))
}

/// `version/attempt` of a key's name.
pub fn named(name: &str) -> Option<String> {
    let name: MintName = name.parse().ok()?;
    Some(format!("{}/{}", name.version, name.attempt_number()))
}

/// The states of a ledger's versions, for example `1:Overlap 2:Current`; `released` once the LLMKey is gone.
pub fn states(record: &Record) -> String {
    let states = record.versions.iter().map(|v| format!("{}:{:?}", v.version, v.state));
    states.chain(record.released.iter().map(|_| "released".to_owned())).collect::<Vec<_>>().join(" ")
}
