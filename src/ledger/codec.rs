//! Record ⇄ Secret: type, labels, summary and MAC.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::record::{FORMAT, Record, Version};
use super::switch::Extent;
use crate::api::{
    KEY_FINGERPRINT_LABEL_PREFIX, LEDGER_SEALED_BY, LEDGER_SUMMARY, LEDGER_TYPE, MANAGED_BY, MANAGED_BY_LABEL,
};
use crate::crypto::{Keyring, LedgerMac, LedgerMacError, sign_ledger, verify_ledger};
use crate::domain::lifecycle::VersionState;
use crate::domain::names::ledger_name;

const RECORD: &str = "record";
const MAC: &str = "mac";

/// Facts of a record that a metadata-only cache can hold: never due times, which depend on policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Name of the LLMKey.
    pub name: String,
    /// Lineage, for probe slots and jitter.
    pub lineage: String,
    /// Owner, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The delivered version's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// When the delivered version was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<DateTime<Utc>>,
    /// Something is under way, or a person was asked for the next key: the record itself must be read.
    #[serde(default)]
    pub open: bool,
    /// A released ledger: when its keys may be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_not_before: Option<DateTime<Utc>>,
    /// Since when the LLMKey is gone, if keys that were made for it are to be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
    /// The account of the delivered version, else of the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Since when the oldest key is superseded that is kept sealed for pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_since: Option<DateTime<Utc>>,
    /// The number of the version that is kept ready as a spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<i32>,
    /// The next version is on its way beside the delivered one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotating: bool,
    /// How many keys are switched off at the provider, or may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_off: Option<Extent>,
}

impl Summary {
    /// The summary of a record.
    pub fn of(record: &Record) -> Self {
        let delivered = record.delivered();
        // A first version that is being published needs no second look: the target tells the rest.
        let folded = |state| state == VersionState::Publishing && record.versions.len() == 1;
        Self {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            lineage: record.lineage.clone(),
            owner: record.owner.clone(),
            version: delivered.map(|v| v.version),
            published_at: delivered.and_then(|v| v.published_at.or(Some(v.created_at))),
            open: record.versions.iter().any(|v| v.state.open() && !folded(v.state))
                || delivered.is_none()
                || record.awaiting_supply,
            revoke_not_before: record.released.as_ref().map(|r| r.revoke_not_before),
            deleted_at: record
                .released
                .as_ref()
                .filter(|_| !record.retain_on_delete && record.versions.iter().any(|v| v.mint_name.is_some()))
                .map(|r| r.at),
            account: delivered
                .or(record.versions.last())
                .and_then(|v| v.account.as_ref())
                .map(|a| format!("{}/{}", a.provider, a.project)),
            retained_since: record
                .versions
                .iter()
                .filter(|v| v.state == VersionState::Retained && v.sealed.is_some())
                .map(Version::superseded_since)
                .min(),
            spare: record.versions.iter().find(|v| v.state == VersionState::Spare).map(|v| v.version),
            rotating: record.rotating().is_some(),
            switched_off: record.switched_off(),
        }
    }
}

/// Why a Secret is not a ledger that this program may use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Another type: somebody else's Secret has the ledger's name.
    #[error("the Secret has the ledger's name, but not the type {LEDGER_TYPE}")]
    NotALedger,
    /// A record without contents, or one that cannot be parsed.
    #[error("the ledger's record cannot be read")]
    Garbled,
    /// A newer program wrote it.
    #[error("the ledger has format {0}, this operator knows formats up to {FORMAT}: upgrade the operator")]
    Newer(i32),
    /// The MAC does not match: changed by hand, or another install's keyring.
    #[error("the ledger's MAC does not match: it was changed by another hand or belongs to another keyring")]
    Tampered,
    /// The keyring lacks the key that the record was written with.
    #[error(
        "the keyring has no key-encryption key {0:?}, which the ledger was written with: put it back into the keyring"
    )]
    KeyMissing(String),
    /// It stands under another key's name.
    #[error("the ledger belongs to another LLMKey")]
    Misplaced,
}

/// The label that a ledger bears for a key that may still work: 40 hex digits of its fingerprint.
pub fn fingerprint_label(fingerprint: &str) -> String {
    let digits: String = fingerprint.chars().take(40).collect();
    format!("{KEY_FINGERPRINT_LABEL_PREFIX}{digits}")
}

/// Why a record could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// No JSON.
    #[error("the record could not be encoded")]
    Json(#[from] serde_json::Error),
    /// No MAC.
    #[error("the record could not be authenticated")]
    Mac(#[from] LedgerMacError),
}

/// The key-encryption keys that a record needs: the one that authenticates it, and those that its keys are sealed with.
pub(super) fn sealed_by<'a>(record: &'a Record, authenticated_by: &'a str) -> BTreeSet<&'a str> {
    let sealed = record.versions.iter().filter_map(|v| v.sealed.as_ref());
    sealed.map(|envelope| envelope.kek.as_str()).chain([authenticated_by]).collect()
}

/// As the annotation has them.
pub(super) fn listed(ids: &BTreeSet<&str>) -> String {
    ids.iter().copied().collect::<Vec<_>>().join(",")
}

/// Writes a record as a Secret without resourceVersion.
pub fn encode(record: &Record, operator_namespace: &str, keyring: &Keyring) -> Result<Secret, EncodeError> {
    let name = ledger_name(&record.namespace, &record.name);
    let bytes = serde_json::to_vec(record)?;
    let mac = serde_json::to_vec(&sign_ledger(keyring, &name, &bytes)?)?;
    let mut labels = BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())]);
    for fingerprint in record.live_fingerprints() {
        labels.insert(fingerprint_label(fingerprint), String::new());
    }
    let summary = serde_json::to_string(&Summary::of(record))?;
    let sealed_by = listed(&sealed_by(record, keyring.primary()));
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(operator_namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([
                (LEDGER_SUMMARY.to_owned(), summary),
                (LEDGER_SEALED_BY.to_owned(), sealed_by),
            ])),
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

/// Reads a record as it stands there, whoever wrote it: for a look from outside, without the keyring. None if it is no
/// record.
pub fn unverified(secret: &Secret) -> Option<Record> {
    serde_json::from_slice(&secret.data.as_ref()?.get(RECORD)?.0).ok()
}

/// Reads a record, and checks that it is ours and stands in its own place.
pub fn decode(
    secret: &Secret,
    namespace: &str,
    name: &str,
    keyring: &Keyring,
) -> Result<Record, DecodeError> {
    let record: Record = authentic(secret, &ledger_name(namespace, name), FORMAT, keyring)?;
    if record.namespace != namespace || record.name != name {
        return Err(DecodeError::Misplaced);
    }
    Ok(record)
}

/// The MAC that a ledger's Secret carries.
pub(super) fn stated_mac(secret: &Secret) -> Option<LedgerMac> {
    serde_json::from_slice(&secret.data.as_ref()?.get(MAC)?.0).ok()
}

/// What a ledger's Secret holds, if its MAC is right and its format not newer than `newest`.
pub(super) fn authentic<T: serde::de::DeserializeOwned>(
    secret: &Secret,
    name: &str,
    newest: i32,
    keyring: &Keyring,
) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Format {
        format: i32,
    }
    if secret.type_.as_deref() != Some(LEDGER_TYPE) {
        return Err(DecodeError::NotALedger);
    }
    let data = secret.data.as_ref().ok_or(DecodeError::Garbled)?;
    let bytes = &data.get(RECORD).ok_or(DecodeError::Garbled)?.0;
    let stated = stated_mac(secret).ok_or(DecodeError::Tampered)?;
    let format: Format = serde_json::from_slice(bytes).map_err(|_| DecodeError::Garbled)?;
    if format.format > newest {
        return Err(DecodeError::Newer(format.format));
    }
    verify_ledger(keyring, name, bytes, &stated).map_err(|error| match error {
        LedgerMacError::KeyMissing { kek } => DecodeError::KeyMissing(kek),
        LedgerMacError::Mismatch | LedgerMacError::Derive => DecodeError::Tampered,
    })?;
    serde_json::from_slice(bytes).map_err(|_| DecodeError::Garbled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::{record, version};
    use super::*;
    use crate::crypto::{SecretBytes, SystemEntropy};
    use crate::domain::lifecycle::Origin;

    fn keyring() -> Keyring {
        let seed = SecretBytes::new((0..32).collect());
        Keyring::from_secret_data(&BTreeMap::from([
            ("kek-a".to_owned(), seed),
            ("primary".to_owned(), "a".into()),
        ]))
        .unwrap()
    }

    fn some() -> Record {
        record(vec![
            version(1, VersionState::Revoked, Origin::Minted),
            version(2, VersionState::Current, Origin::Minted),
        ])
    }

    fn stored() -> Secret {
        encode(&some(), "llmkey-system", &keyring()).unwrap()
    }

    fn read(secret: &Secret) -> Result<Record, DecodeError> {
        decode(secret, "team-a", "chat", &keyring())
    }

    #[test]
    fn a_record_reads_back_and_bears_a_label_for_each_live_key() {
        let secret = stored();
        assert_eq!(read(&secret), Ok(some()));
        let labels = secret.metadata.labels.unwrap();
        let live = some().versions[1].key.clone().unwrap().fingerprint;
        assert!(labels.contains_key(&fingerprint_label(&live)));
        assert_eq!(labels.len(), 2, "{labels:?}");
    }

    #[test]
    fn each_refusal_has_its_own_reason() {
        let with = |change: fn(&mut Secret)| {
            let mut secret = stored();
            change(&mut secret);
            read(&secret).unwrap_err()
        };
        assert_eq!(with(|s| s.type_ = Some("Opaque".into())), DecodeError::NotALedger);
        assert_eq!(with(|s| s.data = None), DecodeError::Garbled);
        assert_eq!(with(|s| drop(s.data.as_mut().unwrap().remove(RECORD))), DecodeError::Garbled);
        assert_eq!(with(|s| drop(s.data.as_mut().unwrap().remove(MAC))), DecodeError::Tampered);
        assert_eq!(
            with(|s| {
                let bytes = br#"{"format":3,"new":true}"#.to_vec();
                s.data.as_mut().unwrap().insert(RECORD.into(), ByteString(bytes));
            }),
            DecodeError::Newer(3)
        );
        let elsewhere = decode(&stored(), "team-b", "chat", &keyring());
        assert_eq!(elsewhere, Err(DecodeError::Tampered));
        let stranger = Keyring::from_secret_data(&Keyring::generate(&mut SystemEntropy).unwrap()).unwrap();
        assert!(matches!(decode(&stored(), "team-a", "chat", &stranger), Err(DecodeError::KeyMissing(_))));
    }

    #[test]
    fn a_summary_says_when_the_record_itself_must_be_read() {
        use VersionState::{
            Current, Intent, Overlap, Pending, Publishing, Retained, Retiring, Revoked, Spare,
        };
        for (states, open) in [
            (vec![Publishing], false),
            (vec![Current], false),
            (vec![Revoked, Current], false),
            (vec![Retained, Current], false),
            (vec![Retained, Publishing], true),
            (vec![Intent], true),
            (vec![Current, Pending], true),
            (vec![Overlap, Current], true),
            (vec![Retiring, Current], true),
            (vec![Revoked], true),
            (vec![Current, Spare], false),
        ] {
            let versions = states.iter().zip(1..).map(|(s, n)| version(n, *s, Origin::Minted)).collect();
            let summary = Summary::of(&record(versions));
            assert_eq!(summary.open, open, "{states:?}");
            assert_eq!(summary.spare, states.contains(&Spare).then_some(2), "{states:?}");
        }
        let asked = Record { awaiting_supply: true, ..record(vec![version(1, Current, Origin::Supplied)]) };
        assert!(Summary::of(&asked).open, "what was asked of a person stands in the record alone");
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_ever_read_as_a_record(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut secret = stored();
            let bytes = &mut secret.data.as_mut().unwrap().get_mut(RECORD).unwrap().0;
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(read(&secret).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(record in any::<Vec<u8>>(), mac in any::<Vec<u8>>()) {
            let mut secret = stored();
            secret.data = Some(BTreeMap::from([
                (RECORD.to_owned(), ByteString(record)),
                (MAC.to_owned(), ByteString(mac)),
            ]));
            prop_assert!(read(&secret).is_err());
        }
    }
}
