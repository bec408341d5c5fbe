//! The audit trail: one line of JSON for every write of a ledger, chained for each key, its newest link in the ledger.
//!
//! The line is written before the ledger is: what happened is never without its line. A line whose write did not come about
//! (another hand was first, or the process ended) is told apart by the chain: the next line, or the ledger, names the one
//! that counts. Values of keys are in no line.

use std::io;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{AccountRef, Record, Version};
use super::rotation::Rotation;
use crate::domain::lifecycle::VersionState;

/// Name in the field `target` of every line, as log pipelines know it.
pub const TARGET: &str = "llmkey_operator::audit";

/// One write of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// When it was written, RFC 3339 with milliseconds, by the operator's clock.
    pub timestamp: String,
    /// Always `INFO`.
    pub level: String,
    /// Always [`TARGET`].
    pub target: String,
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The ledger's lineage: uid of the first LLMKey that had it.
    pub lineage: String,
    /// Uid of the LLMKey that has it from here on; absent once that one is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The ledger's epoch with this write: 1, 2, 3, … without gaps.
    pub sequence: i64,
    /// Random mark of the writer.
    pub writer: String,
    /// Number of the newest mint attempt.
    pub attempt: u32,
    /// What else changed: `Created`, `Owner`, `Attempt`, `HandledRotate`, `Switched`, `Format`, `Resealed`, `Deleted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Versions that moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Hash of the line before; empty at the beginning of a chain.
    pub previous: String,
    /// SHA-256 of this line with this field empty, 64 hex digits.
    pub hash: String,
}

/// A version that moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// Its number.
    pub version: i32,
    /// The state before; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<VersionState>,
    /// The state after.
    pub to: VersionState,
    /// Where its key came from.
    pub origin: String,
    /// Why it was made.
    pub reason: String,
    /// Name of the mint attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_name: Option<String>,
    /// Id of the key at the provider.
    #[serde(default, rename = "providerKeyID", skip_serializing_if = "Option::is_none")]
    pub provider_key_id: Option<String>,
    /// The key's last four characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_four: Option<String>,
    /// Its fingerprint, as status shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The account that it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRef>,
    /// What its revocation rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// Where it begins: who asked for it, as their client named itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}

impl Change {
    fn of(from: Option<VersionState>, version: &Version, after: &Record) -> Self {
        let begun = after.rotation(version.version).filter(|_| from.is_none());
        Self {
            version: version.version,
            from,
            to: version.state,
            origin: version.origin.as_str().to_owned(),
            reason: version.reason.as_str().to_owned(),
            mint_name: version.mint_name.clone(),
            provider_key_id: version.provider_key_id.clone(),
            last_four: version.key.as_ref().map(|k| k.last_four.clone()),
            fingerprint: version.key.as_ref().map(|k| k.shown.clone()),
            account: version.account.clone(),
            basis: version.basis.map(|b| b.as_str().to_owned()),
            requested_by: begun.filter(|r| r.requested_by.is_some()).map(Rotation::asked_by),
        }
    }
}

impl Entry {
    /// The line of a write that makes `after` of `before`; `after` is none if the ledger goes.
    pub fn new(before: Option<&Record>, after: Option<&Record>, at: DateTime<Utc>) -> Option<Self> {
        let record = after.or(before)?;
        let state = |number| before.and_then(|b| b.version(number)).map(|v| v.state);
        let changes = after.into_iter().flat_map(|a| a.versions.iter().map(move |v| (a, v)));
        let changes = changes
            .map(|(a, v)| (state(v.version), v, a))
            .filter(|(was, v, _)| *was != Some(v.state))
            .map(|(was, v, a)| Change::of(was, v, a))
            .collect();
        let mut entry = Self {
            timestamp: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            level: "INFO".to_owned(),
            target: TARGET.to_owned(),
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            lineage: record.lineage.clone(),
            owner: after.and_then(|a| a.owner.clone()),
            sequence: after.map_or(record.epoch + 1, |a| a.epoch),
            writer: record.writer.clone(),
            attempt: record.attempt,
            also: also(before, after),
            changes,
            previous: before.and_then(|b| b.audit_head.clone()).unwrap_or_default(),
            hash: String::new(),
        };
        entry.hash = entry.digest()?;
        Some(entry)
    }

    /// The hash that the line has to have.
    pub fn digest(&self) -> Option<String> {
        let bare = Self { hash: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&bare).ok()?;
        Some(data_encoding::HEXLOWER.encode(&Sha256::digest(&text)))
    }
}

fn also(before: Option<&Record>, after: Option<&Record>) -> Vec<String> {
    let (before, after) = match (before, after) {
        (None, _) => return vec!["Created".to_owned()],
        (_, None) => return vec!["Deleted".to_owned()],
        (Some(before), Some(after)) => (before, after),
    };
    let changed = [
        ("Owner", before.owner != after.owner),
        ("Attempt", before.attempt != after.attempt),
        ("HandledRotate", before.handled_rotate != after.handled_rotate),
        ("Switched", switched(before, after)),
        ("Format", before.format != after.format),
        ("Resealed", resealed(before, after)),
    ];
    changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| (*what).to_owned()).collect()
}

/// Whether a key is to be switched off or on, or was.
fn switched(before: &Record, after: &Record) -> bool {
    after.versions.iter().any(|v| before.version(v.version).and_then(|was| was.switch) != v.switch)
}

/// Whether a key that stays is sealed with another key-encryption key.
fn resealed(before: &Record, after: &Record) -> bool {
    after.versions.iter().any(|version| {
        let was = before.version(version.version).and_then(|v| v.sealed.as_ref());
        was.zip(version.sealed.as_ref()).is_some_and(|(was, is)| was.kek != is.kek)
    })
}

/// Takes a line, without its end.
type Sink = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// Where the lines go, and the time that stands in them.
#[derive(Clone)]
pub struct Trail {
    now: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    write: Arc<Sink>,
}

impl Trail {
    /// Lines go to `write`; one that fails keeps the ledger from being written.
    pub fn new(
        now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
        write: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), write: Arc::new(write) }
    }

    /// Writes the line of a write that is about to be tried, and returns the chain's new head.
    pub fn tell(&self, before: Option<&Record>, after: Option<&Record>) -> io::Result<Option<String>> {
        let Some(entry) = Entry::new(before, after, (self.now)()) else { return Ok(None) };
        (self.write)(&serde_json::to_string(&entry)?)?;
        Ok(Some(entry.hash))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{at, record, version};
    use super::*;
    use crate::domain::lifecycle::Origin;

    #[test]
    fn a_line_tells_what_moved_and_the_chain_goes_on() {
        let mut first = record(vec![version(1, VersionState::Pending, Origin::Minted)]);
        let created = Entry::new(None, Some(&first), at(0)).unwrap();
        assert_eq!(
            (created.sequence, created.previous.as_str(), &created.also[..]),
            (1, "", &["Created".to_owned()][..])
        );
        assert_eq!(created.digest().as_ref(), Some(&created.hash));
        first.audit_head = Some(created.hash.clone());
        let mut second = Record { epoch: 2, handled_rotate: Some("now".into()), ..first.clone() };
        assert!(second.advance(1, VersionState::Current));
        let entry = Entry::new(Some(&first), Some(&second), at(1)).unwrap();
        assert_eq!((entry.sequence, &entry.previous), (2, &created.hash));
        assert_eq!(entry.also, ["HandledRotate"]);
        let [change] = &entry.changes[..] else { panic!("{entry:?}") };
        assert_eq!((change.from, change.to), (Some(VersionState::Pending), VersionState::Current));
        let text = serde_json::to_string(&entry).unwrap();
        assert!(
            !text.contains(&"0".repeat(40)),
            "the fingerprint over the whole install is not shown: {text}"
        );
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        let gone = Entry::new(Some(&second), None, at(2)).unwrap();
        assert_eq!((gone.sequence, &gone.also[..]), (3, &["Deleted".to_owned()][..]));
    }

    #[test]
    fn an_edited_line_has_another_hash() {
        let first = record(vec![version(1, VersionState::Retiring, Origin::Minted)]);
        let entry = Entry::new(None, Some(&first), at(0)).unwrap();
        for edited in [
            Entry { name: "other".into(), ..entry.clone() },
            Entry { previous: "00".into(), ..entry.clone() },
            Entry { changes: Vec::new(), ..entry.clone() },
            Entry { timestamp: "2020-01-01T00:00:00.000Z".into(), ..entry.clone() },
        ] {
            assert_ne!(edited.digest().as_ref(), Some(&entry.hash), "{edited:?}");
        }
    }
}
