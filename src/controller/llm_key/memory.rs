//! What a process remembers of a key between reconciles: hints, all of them rebuilt after a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;

use super::model::Memory;
use crate::api::{LLMKey, Reason};
use crate::controller::index::{Name, SecretMeta, name};

/// A version of an object that was last found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The version.
    pub resource_version: Box<str>,
    /// This process wrote it or read it itself, so that a watch that shows an older one is only late.
    pub first_hand: bool,
}

/// What is remembered of one key.
#[derive(Clone, Debug, Default)]
pub struct Remember {
    /// Hints for decisions.
    pub memory: Memory,
    /// The ledger.
    pub ledger: Option<Seen>,
    /// The source Secret.
    pub source: Option<Seen>,
    /// The target Secret.
    pub target: Option<Seen>,
    /// Digest of what the target was rendered with when it was last found right.
    pub rendering: Option<String>,
    /// Generation that was last carried out in full.
    pub generation: Option<i64>,
    /// What people had edited when it was last looked at.
    pub edits: String,
    /// The token of `llmkeys.dev/refresh` that was last seen.
    pub refresh: Option<String>,
    /// Version of the LLMKey after our last write to it.
    pub resource_version: Option<Box<str>>,
}

/// By name: uid, and what is remembered. Boxed, since a table has up to twice the room that it needs.
type Known = HashMap<Name, Box<(Box<str>, Remember)>>;

/// All keys.
#[derive(Default)]
pub struct Remembered(Mutex<Known>);

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of the LLMKey with this uid.
    pub fn recall(&self, namespace: &str, key: &str, uid: &str) -> Option<Remember> {
        self.lock().get(&name(namespace, key)).filter(|known| *known.0 == *uid).map(|known| known.1.clone())
    }

    /// Whether this process wrote to the LLMKey after the version at hand.
    pub fn wrote_after(&self, key: &LLMKey) -> bool {
        let known = self.lock();
        let Some(found) = known.get(&name(&key.namespace().unwrap_or_default(), &key.name_any())) else {
            return false;
        };
        let (uid, remember) = &**found;
        let (Some(written), Some(shown)) = (&remember.resource_version, key.resource_version()) else {
            return false;
        };
        key.uid().is_some_and(|own| *own == **uid) && older(&shown, written)
    }

    /// Remembers.
    pub fn remember(&self, namespace: &str, key: &str, uid: &str, remember: Remember) {
        self.lock().insert(name(namespace, key), Box::new((uid.into(), remember)));
    }

    /// Forgets an LLMKey that is gone.
    pub fn forget(&self, namespace: &str, key: &str) {
        self.lock().remove(&name(namespace, key));
    }

    /// Forgets failures of one kind: what they waited for has come.
    pub fn forget_failure(&self, reason: Reason) {
        for known in self.lock().values_mut() {
            known.1.memory.failing.remove(&reason);
        }
    }

    /// Forgets everything: another replica may have worked meanwhile.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

/// Whether a Secret is still as it was last found right, as far as the watch shows.
pub fn unchanged(watched: Option<&SecretMeta>, seen: Option<&Seen>) -> bool {
    match (watched, seen) {
        (Some(meta), Some(seen)) => {
            *meta.resource_version == *seen.resource_version && !meta.gone
                || seen.first_hand && older(&meta.resource_version, &seen.resource_version)
        }
        (None, Some(seen)) => seen.first_hand,
        _ => false,
    }
}

/// The newer of the version that this process wrote and the one that the watch shows.
pub fn newest(written: Option<&str>, watched: Option<String>) -> Option<String> {
    match (written, watched) {
        (Some(written), Some(watched)) if older(written, &watched) => Some(watched),
        (Some(written), _) => Some(written.to_owned()),
        (None, watched) => watched,
    }
}

/// Resource versions of one server are comparable as numbers; where they are not, nothing is older.
fn older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u128>(), b.parse::<u128>()), (Ok(a), Ok(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(version: &str, gone: bool) -> SecretMeta {
        SecretMeta {
            resource_version: version.into(),
            gone,
            owner: None,
            adopt_by: None,
            summary: None,
            sealed_by: None,
        }
    }

    fn seen(version: &str, first_hand: bool) -> Seen {
        Seen { resource_version: version.into(), first_hand }
    }

    #[test]
    fn a_late_watch_is_not_a_change_but_a_deletion_is() {
        assert!(unchanged(Some(&meta("9", false)), Some(&seen("10", true))));
        assert!(unchanged(None, Some(&seen("10", true))));
        assert!(unchanged(Some(&meta("10", false)), Some(&seen("10", false))));
        assert!(!unchanged(Some(&meta("11", true)), Some(&seen("10", true))));
        assert!(!unchanged(Some(&meta("11", false)), Some(&seen("10", true))));
    }

    #[test]
    fn after_a_restart_only_equality_counts() {
        assert!(!unchanged(Some(&meta("9", false)), Some(&seen("10", false))));
        assert!(!unchanged(None, Some(&seen("10", false))));
        assert!(!unchanged(Some(&meta("10", false)), None));
    }
}
