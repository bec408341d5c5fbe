//! How many ledgers need which key-encryption key.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// The label of ledgers that do not tell what they need; no key has it as its id, since ids have no brackets.
const UNKNOWN: &str = "(unknown)";

/// The table of all keys.
#[derive(Debug, Default)]
pub(super) struct KeyringTable(Mutex<BTreeMap<String, usize>>);

impl KeyringTable {
    pub(super) fn set(&self, users: &BTreeMap<String, usize>, unknown: usize) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.clone_from(users);
        if unknown > 0 {
            table.insert(UNKNOWN.to_owned(), unknown);
        }
    }
}

impl Collector for KeyringTable {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.is_empty() {
            return Ok(());
        }
        let help =
            "Ledgers that need a key-encryption key; an older one with 0 can be taken out of the keyring.";
        let mut family = encoder.encode_descriptor("ledgers", help, None, MetricType::Gauge)?;
        for (kek, ledgers) in table.iter() {
            let ledgers = i64::try_from(*ledgers).unwrap_or(i64::MAX);
            family.encode_family(&[("kek", kek.as_str())])?.encode_gauge(&ledgers)?;
        }
        Ok(())
    }
}
