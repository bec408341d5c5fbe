//! A ledger that needs an older key-encryption key is written anew under the newest one, by the same compare-and-swap as every
//! other write: its keys are sealed anew, and its MAC comes with the write.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;

use super::account::{ACCOUNT_FORMAT, AccountRecord, AccountStore, written};
use super::codec::{DecodeError, authentic, listed, sealed_by, stated_mac};
use super::record::Record;
use super::store::{LedgerError, Store};
use crate::crypto::{Entropy, Identity, Keyring, SealError, open, seal};

/// What became of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// Version of the Secret now.
    pub resource_version: String,
    /// The key-encryption keys that it needs now, as its annotation has them.
    pub sealed_by: String,
    /// It was written.
    pub written: bool,
}

impl Record {
    /// The place that a version's key is sealed for.
    pub fn identity(&self, number: i32) -> Identity<'_> {
        Identity {
            install: &self.install,
            namespace: &self.namespace,
            name: &self.name,
            lineage: &self.lineage,
            version: u32::try_from(number).unwrap_or_default(),
        }
    }

    /// The record as it is under the keyring's newest key, if anything of it is not: a higher epoch, and every key that opens
    /// sealed anew. One that does not open stays as it is.
    fn rewrapped(
        &self,
        authenticated_by: &str,
        keyring: &Keyring,
        writer: &str,
        entropy: &mut dyn Entropy,
    ) -> Result<Option<Self>, SealError> {
        let mut next = self.clone();
        let mut differs = authenticated_by != keyring.primary();
        for version in &mut next.versions {
            let Some(envelope) = version.sealed.as_ref().filter(|e| e.kek != keyring.primary()) else {
                continue;
            };
            let identity = self.identity(version.version);
            let Ok(key) = open(keyring, &identity, envelope) else { continue };
            version.sealed = Some(seal(keyring, &identity, &key, entropy)?);
            differs = true;
        }
        next.epoch += 1;
        writer.clone_into(&mut next.writer);
        Ok(differs.then_some(next))
    }
}

impl Store {
    /// Takes one ledger to the newest key-encryption key. None if there is none.
    pub async fn rewrap(
        &self,
        namespace: &str,
        name: &str,
        writer: &str,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<Option<Rewrapped>, LedgerError> {
        let found = self.secret(namespace, name).await?;
        let Some(secret) = found else { return Ok(None) };
        let read = self.ledger(&secret, namespace, name)?;
        let authenticated_by = stated_mac(&secret).ok_or(DecodeError::Tampered)?.kek;
        let keyring = self.keyring.now();
        let Some(next) = read.record.rewrapped(&authenticated_by, &keyring, writer, entropy)? else {
            let sealed_by = listed(&sealed_by(&read.record, &authenticated_by));
            return Ok(Some(Rewrapped {
                resource_version: read.resource_version,
                sealed_by,
                written: false,
            }));
        };
        let ledger = self.swap(&read, &next).await?;
        let sealed_by = listed(&sealed_by(&ledger.record, keyring.primary()));
        Ok(Some(Rewrapped { resource_version: ledger.resource_version, sealed_by, written: true }))
    }
}

impl AccountStore {
    /// Takes one account's ledger, by the name of its Secret, to the newest key-encryption key. None if there is none.
    pub async fn rewrap(&self, name: &str, writer: &str) -> Result<Option<Rewrapped>, LedgerError> {
        let Some(secret) = self.secret(name).await? else { return Ok(None) };
        let keyring = self.keyring.now();
        let record = named(&secret, name, &keyring)?;
        let read = written(&record, &secret)?;
        let authenticated_by = stated_mac(&secret).ok_or(DecodeError::Tampered)?.kek;
        let (ledger, done) = if authenticated_by == keyring.primary() {
            (read, false)
        } else {
            (self.swap(&read, &record.successor(writer.to_owned())).await?, true)
        };
        Ok(Some(Rewrapped {
            resource_version: ledger.resource_version,
            sealed_by: listed(&BTreeSet::from([keyring.primary()])),
            written: done,
        }))
    }
}

/// An account's record that stands in its own place.
fn named(secret: &Secret, name: &str, keyring: &Keyring) -> Result<AccountRecord, DecodeError> {
    let record: AccountRecord = authentic(secret, name, ACCOUNT_FORMAT, keyring)?;
    if record.account.ledger_name() == name { Ok(record) } else { Err(DecodeError::Misplaced) }
}

#[cfg(test)]
mod tests;
