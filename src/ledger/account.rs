//! The account ledger: what holds for a whole account at a provider. One Secret for each account, beside the keys' ledgers,
//! written by compare-and-swap and authenticated like them.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};

use super::codec::{DecodeError, EncodeError, authentic};
use super::lease::Lease;
use super::record::AccountRef;
use super::store::LedgerError;
use crate::api::{LEDGER_SEALED_BY, LEDGER_TYPE, MANAGED_BY, MANAGED_BY_LABEL, ProviderType, Reason};
use crate::crypto::{Keyring, SharedKeyring, sign_ledger};
use crate::domain::names::account_ledger_name;

/// Format that this program writes. Older ones are read, newer ones are left alone.
pub const ACCOUNT_FORMAT: i32 = 1;

/// Keys and names that a freeze lists at most.
pub const MAX_LISTED: usize = 64;

/// Acknowledged tokens that are kept.
const MAX_TOKENS: usize = 16;

const RECORD: &str = "record";
const MAC: &str = "mac";

/// An account, whichever LLMProvider names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountId {
    /// The provider's type.
    pub r#type: ProviderType,
    /// Host of its URL, with the port where it is not 443.
    pub host: String,
    /// Project at OpenAI and Google, workspace at OpenRouter, team at LiteLLM (`-` for none), path of an account at Azure.
    pub project: String,
}

impl AccountId {
    /// The account that a key was made at.
    pub fn of(account: &AccountRef) -> Self {
        Self { r#type: account.r#type, host: account.host.clone(), project: account.project.clone() }
    }

    /// Name of its ledger.
    pub fn ledger_name(&self) -> String {
        account_ledger_name(self.r#type.as_str(), &format!("{}/{}", self.host, self.project))
    }
}

/// Why nothing is made or revoked at an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FreezeReason {
    /// The ledgers were written in another cluster: this one is a copy, or was restored elsewhere.
    ClonedCluster,
    /// The provider has keys of ours that are newer than their ledgers, or whose ledgers are gone in number.
    LedgerRolledBack,
    /// Many LLMKeys of the account were deleted at once.
    MassDeletion,
    /// Many keys of the account turned invalid at once.
    ProviderSuspect,
}

impl FreezeReason {
    /// As conditions and status spell it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::ClonedCluster => Reason::ClonedCluster,
            Self::LedgerRolledBack => Reason::LedgerRolledBack,
            Self::MassDeletion => Reason::MassDeletion,
            Self::ProviderSuspect => Reason::ProviderSuspect,
        }
    }
}

/// A freeze, until a person acknowledges its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freeze {
    /// Why.
    pub reason: FreezeReason,
    /// What the acknowledgement must name.
    pub token: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Keys or LLMKeys that it is about.
    pub count: u32,
    /// Ids of keys at the provider that it is about, at most [`MAX_LISTED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// One account's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountRecord {
    /// See [`ACCOUNT_FORMAT`].
    pub format: i32,
    /// Install id of the operator that wrote it first.
    pub install: String,
    /// The account.
    pub account: AccountId,
    /// The cluster that works at the account: uid of its namespace `kube-system`.
    pub cluster: String,
    /// Raised by every write.
    pub epoch: i64,
    /// Random mark of the last write.
    pub writer: String,
    /// Nothing is made or revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    /// Tokens that were acknowledged, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledged: Vec<String>,
    /// Keys that the last acknowledged freeze was about: they are no reason to freeze again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
    /// What happened before a freeze was last acknowledged is no reason to freeze again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_from: Option<DateTime<Utc>>,
    /// When keys were made, where the LLMProvider limits how many; as far back as it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mints: Vec<DateTime<Utc>>,
    /// Who has the account for itself, where it has a fixed number of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

impl AccountRecord {
    /// The ledger of an account that was never used from here.
    pub fn new(install: &str, account: AccountId, cluster: &str, writer: String) -> Self {
        Self {
            format: ACCOUNT_FORMAT,
            install: install.to_owned(),
            account,
            cluster: cluster.to_owned(),
            epoch: 1,
            writer,
            frozen: None,
            acknowledged: Vec::new(),
            known: Vec::new(),
            counts_from: None,
            mints: Vec::new(),
            lease: None,
        }
    }

    /// The record as the next write has it.
    #[must_use]
    pub fn successor(&self, writer: String) -> Self {
        Self { epoch: self.epoch + 1, writer, ..self.clone() }
    }

    /// Whether another cluster works at the account, as far as the ledger tells.
    pub fn is_from_elsewhere(&self, cluster: &str) -> bool {
        self.cluster != cluster
    }

    /// The record after a person has acknowledged the freeze in `cluster`; none if the token is not the freeze's.
    pub fn after_acknowledgement(
        &self,
        token: &str,
        cluster: &str,
        now: DateTime<Utc>,
        writer: String,
    ) -> Option<Self> {
        let freeze = self.frozen.as_ref().filter(|freeze| freeze.token == token)?;
        let mut next = self.successor(writer);
        next.frozen = None;
        next.counts_from = Some(now);
        if freeze.reason == FreezeReason::ClonedCluster {
            cluster.clone_into(&mut next.cluster);
        }
        if !freeze.keys.is_empty() {
            next.known.clone_from(&freeze.keys);
        }
        next.acknowledged.push(token.to_owned());
        let excess = next.acknowledged.len().saturating_sub(MAX_TOKENS);
        next.acknowledged.drain(..excess);
        Some(next)
    }
}

/// An account's record as it was read or written, with the version that the next write must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountLedger {
    /// The record.
    pub record: AccountRecord,
    /// Version of the Secret.
    pub resource_version: String,
    uid: String,
}

/// The account ledgers of this install.
#[derive(Clone)]
pub struct AccountStore {
    secrets: Api<Secret>,
    namespace: Arc<str>,
    pub(super) keyring: SharedKeyring,
}

impl AccountStore {
    /// The account ledgers in the operator's namespace.
    pub fn new(client: &kube::Client, namespace: &str, keyring: SharedKeyring) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), namespace: namespace.into(), keyring }
    }

    /// Quorum read.
    pub async fn get(&self, account: &AccountId) -> Result<Option<AccountLedger>, LedgerError> {
        let Some(secret) = self.secret(&account.ledger_name()).await? else { return Ok(None) };
        let record = decode(&secret, account, &self.keyring.now())?;
        written(&record, &secret).map(Some)
    }

    pub(super) async fn secret(&self, name: &str) -> Result<Option<Secret>, LedgerError> {
        self.secrets.get_opt(name).await.map_err(|error| LedgerError::Kube(Box::new(error)))
    }

    /// The first write. `Conflict` if there is one already.
    pub async fn create(&self, record: &AccountRecord) -> Result<AccountLedger, LedgerError> {
        let secret = encode(record, &self.namespace, &self.keyring.now())?;
        let stored = self.secrets.create(&PostParams::default(), &secret).await?;
        written(record, &stored)
    }

    /// Replaces what was read, if nobody wrote since.
    pub async fn swap(
        &self,
        read: &AccountLedger,
        record: &AccountRecord,
    ) -> Result<AccountLedger, LedgerError> {
        if record.epoch <= read.record.epoch {
            return Err(LedgerError::Conflict);
        }
        let mut secret = encode(record, &self.namespace, &self.keyring.now())?;
        secret.metadata.resource_version = Some(read.resource_version.clone());
        secret.metadata.uid = Some(read.uid.clone());
        let name = record.account.ledger_name();
        match self.secrets.replace(&name, &PostParams::default(), &secret).await {
            Ok(stored) => written(record, &stored),
            // The reply may have been lost after the write took effect: the writer's mark tells.
            Err(error) => match self.get(&record.account).await {
                Ok(Some(found)) if found.record == *record => Ok(found),
                _ => Err(error.into()),
            },
        }
    }
}

pub(super) fn written(record: &AccountRecord, stored: &Secret) -> Result<AccountLedger, LedgerError> {
    let resource_version = stored.metadata.resource_version.clone().filter(|v| !v.is_empty());
    let (Some(resource_version), Some(uid)) = (resource_version, stored.metadata.uid.clone()) else {
        return Err(LedgerError::NoVersion);
    };
    Ok(AccountLedger { record: record.clone(), resource_version, uid })
}

fn encode(
    record: &AccountRecord,
    operator_namespace: &str,
    keyring: &Keyring,
) -> Result<Secret, EncodeError> {
    let name = record.account.ledger_name();
    let bytes = serde_json::to_vec(record)?;
    let mac = serde_json::to_vec(&sign_ledger(keyring, &name, &bytes)?)?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(operator_namespace.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())])),
            annotations: Some(BTreeMap::from([(LEDGER_SEALED_BY.to_owned(), keyring.primary().to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some(LEDGER_TYPE.to_owned()),
        data: Some(BTreeMap::from([
            (RECORD.to_owned(), ByteString(bytes)),
            (MAC.to_owned(), ByteString(mac)),
        ])),
        ..Secret::default()
    })
}

fn decode(secret: &Secret, account: &AccountId, keyring: &Keyring) -> Result<AccountRecord, DecodeError> {
    let record: AccountRecord = authentic(secret, &account.ledger_name(), ACCOUNT_FORMAT, keyring)?;
    if record.account != *account {
        return Err(DecodeError::Misplaced);
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretBytes;

    fn keyring() -> Keyring {
        let seed = SecretBytes::new((0..32).collect());
        Keyring::from_secret_data(&BTreeMap::from([
            ("kek-a".to_owned(), seed),
            ("primary".to_owned(), "a".into()),
        ]))
        .unwrap()
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn account(project: &str) -> AccountId {
        AccountId { r#type: ProviderType::OpenAI, host: "api.openai.com".into(), project: project.into() }
    }

    fn record() -> AccountRecord {
        AccountRecord::new("install", account("proj_1"), "cluster-1", "w".into())
    }

    fn freeze(reason: FreezeReason, keys: &[&str]) -> Freeze {
        let keys = keys.iter().map(|k| (*k).to_owned()).collect();
        Freeze { reason, token: "t1".into(), since: at(), count: 1, keys }
    }

    #[test]
    fn a_record_reads_back_in_its_own_place_only() {
        let frozen =
            AccountRecord { frozen: Some(freeze(FreezeReason::LedgerRolledBack, &["svc_1"])), ..record() };
        let secret = encode(&frozen, "llmkey-system", &keyring()).unwrap();
        assert_eq!(decode(&secret, &account("proj_1"), &keyring()), Ok(frozen));
        assert_eq!(decode(&secret, &account("proj_2"), &keyring()), Err(DecodeError::Tampered));
        let mut changed = secret.clone();
        let bytes = &mut changed.data.as_mut().unwrap().get_mut(RECORD).unwrap().0;
        let text = String::from_utf8(bytes.clone()).unwrap().replace("cluster-1", "cluster-2");
        *bytes = text.into_bytes();
        assert_eq!(decode(&changed, &account("proj_1"), &keyring()), Err(DecodeError::Tampered));
        let mut opaque = secret;
        opaque.type_ = Some("Opaque".into());
        assert_eq!(decode(&opaque, &account("proj_1"), &keyring()), Err(DecodeError::NotALedger));
    }

    #[test]
    fn only_the_freezes_own_token_ends_it() {
        let frozen =
            AccountRecord { frozen: Some(freeze(FreezeReason::LedgerRolledBack, &["svc_1"])), ..record() };
        assert_eq!(frozen.after_acknowledgement("t0", "cluster-1", at(), "x".into()), None);
        let next = frozen.after_acknowledgement("t1", "cluster-1", at(), "x".into()).unwrap();
        assert_eq!((next.frozen, next.known), (None, vec!["svc_1".to_owned()]));
        assert_eq!((next.acknowledged, next.epoch), (vec!["t1".to_owned()], 2));
        assert_eq!(
            record().after_acknowledgement("t1", "cluster-1", at(), "x".into()),
            None,
            "nothing is frozen"
        );
    }

    #[test]
    fn an_acknowledged_copy_is_the_accounts_cluster_from_then_on() {
        let copied = AccountRecord { frozen: Some(freeze(FreezeReason::ClonedCluster, &[])), ..record() };
        assert!(copied.is_from_elsewhere("cluster-2"));
        let next = copied.after_acknowledgement("t1", "cluster-2", at(), "x".into()).unwrap();
        assert!(!next.is_from_elsewhere("cluster-2"));
        // Another freeze says nothing of the cluster.
        let other = AccountRecord { frozen: Some(freeze(FreezeReason::LedgerRolledBack, &[])), ..record() };
        let next = other.after_acknowledgement("t1", "cluster-2", at(), "x".into()).unwrap();
        assert!(next.is_from_elsewhere("cluster-2"));
    }

    #[test]
    fn tokens_are_bounded() {
        let mut now = record();
        for n in 0..40 {
            now.frozen = Some(Freeze { token: n.to_string(), ..freeze(FreezeReason::ClonedCluster, &[]) });
            now = now.after_acknowledgement(&n.to_string(), "cluster-1", at(), "x".into()).unwrap();
        }
        assert_eq!(now.acknowledged.len(), MAX_TOKENS);
        assert_eq!(now.acknowledged.last().unwrap(), "39");
    }
}
