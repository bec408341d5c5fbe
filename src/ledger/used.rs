//! Keys of a pool that were used: what is left of a supplied version when it is pruned.

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::domain::lifecycle::{Origin, VersionState};

/// Used keys that a record remembers at most; the oldest are forgotten first. A pool has up to 32 members, so each can be
/// filled eight times before the first key could come back.
pub const MAX_USED: usize = 256;

/// A supplied key that was published, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedKey {
    /// Its keyed hash over the whole install, 64 hex digits.
    pub fingerprint: String,
    /// The member of the pool that it came from, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

impl Record {
    /// Whether a key was ever published from this ledger, as far back as it remembers.
    pub fn was_used(&self, fingerprint: &str) -> bool {
        let of_version = self.versions.iter().any(|v| {
            v.state != VersionState::Abandoned && v.key.as_ref().is_some_and(|k| k.fingerprint == fingerprint)
        });
        of_version || self.used.iter().any(|used| used.fingerprint == fingerprint)
    }

    /// Whether a key of the pool's member was ever published from this ledger, as far back as it remembers.
    pub fn used_member(&self, member: &str) -> bool {
        let is = |name: &Option<String>| name.as_deref() == Some(member);
        self.used.iter().any(|used| is(&used.member))
            || self.versions.iter().any(|v| v.state != VersionState::Abandoned && is(&v.member))
    }

    /// Notes the supplied keys of all versions, so that they are known when the versions are pruned.
    pub fn note_used(&mut self) {
        let supplied = self
            .versions
            .iter()
            .filter(|v| v.origin == Origin::Supplied && v.state != VersionState::Abandoned)
            .filter_map(|v| {
                Some(UsedKey { fingerprint: v.key.as_ref()?.fingerprint.clone(), member: v.member.clone() })
            });
        for used in supplied.collect::<Vec<_>>() {
            match self.used.iter_mut().find(|known| known.fingerprint == used.fingerprint) {
                Some(known) => known.member = used.member.or_else(|| known.member.take()),
                None => self.used.push(used),
            }
        }
        let forgotten = self.used.len().saturating_sub(MAX_USED);
        self.used.drain(..forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::MAX_VERSIONS;
    use super::super::record::tests::{record, version};
    use super::*;

    fn supplied(number: i32, state: VersionState) -> super::super::record::Version {
        super::super::record::Version {
            member: Some(format!("m-{number}")),
            ..version(number, state, Origin::Supplied)
        }
    }

    #[test]
    fn a_pruned_version_is_still_used_and_an_abandoned_one_never_was() {
        let mut record =
            record(vec![supplied(1, VersionState::Abandoned), supplied(2, VersionState::Current)]);
        record.note_used();
        for number in 3..=i32::try_from(MAX_VERSIONS).unwrap() + 5 {
            record.versions.last_mut().unwrap().state = VersionState::Retained;
            record.versions.push(supplied(number, VersionState::Current));
            record.prune();
            record.note_used();
        }
        assert!(record.version(2).is_none(), "pruned");
        assert!(!record.was_used(&format!("{:064}", 1)) && !record.used_member("m-1"));
        assert!(record.was_used(&format!("{:064}", 2)) && record.used_member("m-2"));
        let once = record.used.len();
        record.note_used();
        assert_eq!(record.used.len(), once, "each key once");
    }

    #[test]
    fn the_oldest_are_forgotten_and_an_older_record_remembers_none() {
        let mut full = record(Vec::new());
        let key = |n: usize| UsedKey { fingerprint: format!("{n:064}"), member: None };
        full.used = (0..MAX_USED).map(key).collect();
        full.versions.push(supplied(999, VersionState::Current));
        full.note_used();
        assert_eq!(full.used.len(), MAX_USED);
        assert!(!full.was_used(&format!("{:064}", 0)) && full.was_used(&format!("{:064}", 1)));
        let mut old = serde_json::to_value(record(vec![supplied(1, VersionState::Current)])).unwrap();
        assert!(old.get("used").is_none(), "{old}");
        old["versions"][0].as_object_mut().unwrap().remove("member");
        let read: Record = serde_json::from_value(old).unwrap();
        assert!(read.used.is_empty() && read.versions[0].member.is_none());
    }
}
