//! The compare-and-swap store: found by GET, created by POST, changed by PUT with the version that was read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};

use super::audit::Trail;
use super::codec::{DecodeError, Summary, decode, encode, fingerprint_label};
use super::record::{FORMAT, Record};
use crate::api::{LEDGER_SUMMARY, LEDGER_TYPE};
use crate::crypto::SharedKeyring;
use crate::domain::names::{ACCOUNT_LEDGER_PREFIX, ledger_name};

/// A record as it was read or written, with the version that the next write must name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The record.
    pub record: Record,
    /// Version of the Secret; never empty, so that no PUT overwrites blindly.
    pub resource_version: String,
    /// Uid of the Secret.
    pub uid: String,
}

/// Why a ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody wrote since it was read: read again, decide again.
    #[error("the ledger changed since it was read")]
    Conflict,
    /// What stands there is not a ledger that this program may use.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The API server did not do it, or its answer was lost.
    #[error("the ledger could not be reached")]
    Kube(#[source] Box<kube::Error>),
    /// The record could not be written as JSON.
    #[error("the record could not be encoded")]
    Encode(#[from] super::codec::EncodeError),
    /// The line of the audit trail could not be written, so the ledger was not.
    #[error("the audit trail cannot be written: {0}")]
    Audit(#[source] std::io::Error),
    /// A key could not be sealed anew.
    #[error("a key could not be sealed anew: {0}")]
    Seal(#[from] crate::crypto::SealError),
    /// The API server's answer lacks a resourceVersion.
    #[error("the API server's answer has no resourceVersion")]
    NoVersion,
}

impl From<kube::Error> for LedgerError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status)
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Self::Conflict
            }
            _ => Self::Kube(Box::new(error)),
        }
    }
}

/// A ledger that needs a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name of its Secret.
    pub ledger: String,
    /// Namespace and name of its LLMKey, if it can be read.
    pub key: Option<(String, String)>,
}

/// A ledger in the list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its lineage, as far as anything tells.
    pub lineage: Option<String>,
    /// The ledger; none if it cannot be read.
    pub ledger: Option<Ledger>,
}

/// Ledgers in one page of the list of all.
const PAGE: u32 = 100;

/// All ledgers of this install.
#[derive(Clone)]
pub struct Store {
    secrets: Api<Secret>,
    namespace: Arc<str>,
    pub(super) keyring: SharedKeyring,
    trail: Trail,
}

impl Store {
    /// The ledgers in the operator's namespace. Every write is told to `trail` before it is tried.
    pub fn new(client: &kube::Client, namespace: &str, keyring: SharedKeyring, trail: Trail) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { secrets, namespace: namespace.into(), keyring, trail }
    }

    /// The record as it is written: in this program's format, with the link of the audit trail that tells of it.
    fn told(&self, before: Option<&Record>, record: &Record) -> Result<Record, LedgerError> {
        let record = Record { format: FORMAT, ..record.clone() };
        let audit_head = self.trail.tell(before, Some(&record)).map_err(LedgerError::Audit)?;
        Ok(Record { audit_head, ..record })
    }

    /// Quorum read.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<Ledger>, LedgerError> {
        let found = self.secret(namespace, name).await?;
        found.map(|secret| self.ledger(&secret, namespace, name)).transpose()
    }

    pub(super) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, LedgerError> {
        let found = self.secrets.get_opt(&ledger_name(namespace, name)).await;
        found.map_err(|error| LedgerError::Kube(Box::new(error)))
    }

    /// The first write. `Conflict` if there is one already.
    pub async fn create(&self, record: &Record) -> Result<Ledger, LedgerError> {
        let record = &self.told(None, record)?;
        let secret = encode(record, &self.namespace, &self.keyring.now())?;
        let stored = self.secrets.create(&PostParams::default(), &secret).await?;
        Self::written(record, &stored)
    }

    /// Replaces what was read, if nobody wrote since. The record's epoch must be higher than the one read: a PUT of
    /// the same bytes fences nobody.
    pub async fn swap(&self, read: &Ledger, record: &Record) -> Result<Ledger, LedgerError> {
        if record.epoch <= read.record.epoch {
            return Err(LedgerError::Conflict);
        }
        let record = &self.told(Some(&read.record), record)?;
        let mut secret = encode(record, &self.namespace, &self.keyring.now())?;
        secret.metadata.resource_version = Some(read.resource_version.clone());
        secret.metadata.uid = Some(read.uid.clone());
        match self
            .secrets
            .replace(&ledger_name(&record.namespace, &record.name), &PostParams::default(), &secret)
            .await
        {
            Ok(stored) => Self::written(record, &stored),
            Err(error) => self.after_failure(record, error).await,
        }
    }

    /// The reply may have been lost after the write took effect: the writer's mark tells.
    async fn after_failure(&self, record: &Record, error: kube::Error) -> Result<Ledger, LedgerError> {
        match self.get(&record.namespace, &record.name).await {
            Ok(Some(found)) if found.record.epoch == record.epoch && found.record.writer == record.writer => {
                Ok(found)
            }
            _ => Err(error.into()),
        }
    }

    /// Deletes a ledger exactly as it was read.
    pub async fn delete(&self, read: &Ledger) -> Result<(), LedgerError> {
        self.trail.tell(Some(&read.record), None).map_err(LedgerError::Audit)?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(read.uid.clone()),
                resource_version: Some(read.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        self.secrets.delete(&ledger_name(&read.record.namespace, &read.record.name), &params).await?;
        Ok(())
    }

    /// The ledgers with a version that needs the key: one quorum LIST. One that cannot be read counts as well, since nobody
    /// can tell what it needs.
    pub async fn holders(&self, fingerprint: &str) -> Result<Vec<Holder>, LedgerError> {
        let label = fingerprint_label(fingerprint);
        let found = self
            .secrets
            .list(&ListParams::default().labels(&label))
            .await
            .map_err(|e| LedgerError::Kube(Box::new(e)))?;
        Ok(found.items.iter().filter_map(|secret| self.holder(secret, fingerprint)).collect())
    }

    /// All ledgers, by one quorum LIST in pages: an error on any of them voids the whole.
    pub async fn all(&self) -> Result<Vec<Listed>, LedgerError> {
        let mut params = ListParams::default().fields(&format!("type={LEDGER_TYPE}")).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = self.secrets.list(&params).await.map_err(|e| LedgerError::Kube(Box::new(e)))?;
            found.extend(page.items.iter().filter_map(|secret| self.listed(secret)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// None: no key's ledger.
    fn listed(&self, secret: &Secret) -> Option<Listed> {
        if secret.metadata.name.as_ref()?.starts_with(ACCOUNT_LEDGER_PREFIX) {
            return None;
        }
        let summary = secret.metadata.annotations.as_ref().and_then(|a| a.get(LEDGER_SUMMARY));
        let place = summary.and_then(|text| serde_json::from_str::<Summary>(text).ok());
        let ledger = place.as_ref().and_then(|s| self.ledger(secret, &s.namespace, &s.name).ok());
        let lineage = ledger.as_ref().map(|l| l.record.lineage.clone()).or_else(|| place.map(|s| s.lineage));
        Some(Listed { lineage, ledger })
    }

    fn holder(&self, secret: &Secret, fingerprint: &str) -> Option<Holder> {
        let ledger = secret.metadata.name.clone()?;
        let summary = secret.metadata.annotations.as_ref().and_then(|a| a.get(LEDGER_SUMMARY));
        let place = summary.and_then(|text| serde_json::from_str::<Summary>(text).ok());
        match place.map(|s| decode(secret, &s.namespace, &s.name, &self.keyring.now())) {
            Some(Ok(record)) if !record.protects(fingerprint) => None,
            Some(Ok(record)) => Some(Holder { ledger, key: Some((record.namespace, record.name)) }),
            _ => Some(Holder { ledger, key: None }),
        }
    }

    pub(super) fn ledger(&self, secret: &Secret, namespace: &str, name: &str) -> Result<Ledger, LedgerError> {
        let record = decode(secret, namespace, name, &self.keyring.now())?;
        Self::written(&record, secret)
    }

    fn written(record: &Record, stored: &Secret) -> Result<Ledger, LedgerError> {
        let resource_version = stored.metadata.resource_version.clone().filter(|v| !v.is_empty());
        let uid = stored.metadata.uid.clone();
        match (resource_version, uid) {
            (Some(resource_version), Some(uid)) => {
                Ok(Ledger { record: record.clone(), resource_version, uid })
            }
            _ => Err(LedgerError::NoVersion),
        }
    }
}
