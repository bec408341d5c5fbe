//! The newest reading of each account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::usage::Reading;
use crate::ledger::AccountId;
use crate::provider::ProviderKeyId;

/// By account.
#[derive(Default)]
pub struct Readings(Mutex<HashMap<AccountId, Arc<Reading>>>);

impl Readings {
    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Arc<Reading>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest reading of an account, if this process has read it.
    pub fn of(&self, account: &AccountId) -> Option<Arc<Reading>> {
        self.lock().get(account).cloned()
    }

    /// Takes a reading in. Returns the one before.
    pub fn replace(&self, account: &AccountId, reading: Reading) -> Option<Arc<Reading>> {
        self.lock().insert(account.clone(), Arc::new(reading))
    }

    /// Forgets accounts that no `LLMProvider` names any more.
    pub fn retain(&self, named: impl Fn(&AccountId) -> bool) {
        self.lock().retain(|account, _| named(account));
    }
}

/// What a reading tells of these keys, by their ids as ledgers have them.
pub fn of_keys<'a>(reading: &Reading, ids: impl IntoIterator<Item = &'a String>) -> Reading {
    let told = ids.into_iter().filter_map(|id| {
        let key = ProviderKeyId::parse(id).ok()?;
        Some((id.as_str().into(), *reading.keys.get(key.in_reports())?))
    });
    Reading { as_of: reading.as_of, keys: told.collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;

    use super::*;
    use crate::api::ProviderType;
    use crate::domain::usage::{Amounts, KeyUsage};

    #[test]
    fn a_reading_is_told_by_the_ids_of_ledgers_and_stays_until_the_next() {
        let account = |project: &str| AccountId {
            r#type: ProviderType::OpenAI,
            host: "api.openai.com:443".into(),
            project: project.into(),
        };
        let used = |requests| KeyUsage {
            total: Amounts { requests: Some(requests), ..Amounts::default() },
            window: None,
        };
        let reading = |requests| Reading {
            as_of: DateTime::UNIX_EPOCH,
            keys: BTreeMap::from([("key_1".into(), used(requests)), ("key_2".into(), used(9))]),
        };
        let readings = Readings::default();
        assert_eq!(readings.replace(&account("a"), reading(1)), None);
        assert_eq!(readings.replace(&account("a"), reading(2)).as_deref(), Some(&reading(1)));
        let ids = ["svc_acct_1/key_1".to_owned(), "svc_acct_3/key_3".to_owned(), "../x".to_owned()];
        let told = of_keys(&readings.of(&account("a")).unwrap(), &ids);
        assert_eq!(told.keys, BTreeMap::from([("svc_acct_1/key_1".into(), used(2))]));
        readings.retain(|known| *known == account("b"));
        assert_eq!(readings.of(&account("a")), None);
    }
}
