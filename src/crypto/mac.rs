//! The ledger's message authentication code: who can write Secrets cannot write a ledger that is believed.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Keyring, keyring::Seed, push_prefixed};

/// `info` of the key's expansion. Data keys are expanded from 32 bytes, so the two never meet.
const LEDGER_MAC_INFO: &[u8] = b"ledger-mac";

/// A MAC and the id of the key-encryption key it was made with, so that it can be checked after re-keying.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerMac {
    /// Id of the key-encryption key.
    pub kek: String,
    /// 64 lower-case hexadecimal digits.
    pub mac: String,
}

/// Why a ledger is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerMacError {
    /// The keyring does not have the key-encryption key.
    #[error("the keyring has no key-encryption key {kek:?}")]
    KeyMissing {
        /// Its id, as the record says.
        kek: String,
    },
    /// Not what the operator wrote, or another ledger's record.
    #[error("the ledger's record was not written by this installation under this name")]
    Mismatch,
    /// No key could be derived.
    #[error("the ledger's record could not be authenticated")]
    Derive,
}

/// Authenticates `record` as the content of the Secret named `secret_name`, under the keyring's newest key.
pub fn sign_ledger(keyring: &Keyring, secret_name: &str, record: &[u8]) -> Result<LedgerMac, LedgerMacError> {
    let (kek, seed) = keyring.primary_seed();
    let tag = mac(seed, secret_name, record)?.finalize().into_bytes();
    Ok(LedgerMac { kek: kek.to_owned(), mac: HEXLOWER.encode(&tag) })
}

/// Checks, in constant time, that `record` is what was signed under `secret_name`.
pub fn verify_ledger(
    keyring: &Keyring,
    secret_name: &str,
    record: &[u8],
    signed: &LedgerMac,
) -> Result<(), LedgerMacError> {
    let seed =
        keyring.seed(&signed.kek).ok_or_else(|| LedgerMacError::KeyMissing { kek: signed.kek.clone() })?;
    let tag = HEXLOWER.decode(signed.mac.as_bytes()).map_err(|_| LedgerMacError::Mismatch)?;
    mac(seed, secret_name, record)?.verify_slice(&tag).map_err(|_| LedgerMacError::Mismatch)
}

fn mac(seed: &Seed, secret_name: &str, record: &[u8]) -> Result<Hmac<Sha256>, LedgerMacError> {
    let key = seed.expand(LEDGER_MAC_INFO).ok_or(LedgerMacError::Derive)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).map_err(|_| LedgerMacError::Derive)?;
    let mut name = Vec::with_capacity(secret_name.len() + 4);
    push_prefixed(&mut name, secret_name.as_bytes());
    mac.update(&name);
    mac.update(record);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{SecretBytes, SystemEntropy};
    use super::*;

    fn two_keys(primary: &str) -> Keyring {
        Keyring::from_secret_data(&BTreeMap::from([
            ("kek-a".to_owned(), SecretBytes::new((0..32).collect())),
            ("kek-b".to_owned(), SecretBytes::new((32..64).collect())),
            ("primary".to_owned(), primary.into()),
        ]))
        .unwrap()
    }

    #[test]
    fn verifies_before_and_after_re_keying() {
        let signed = sign_ledger(&two_keys("a"), "llmkey-x", b"record").unwrap();
        assert_eq!(verify_ledger(&two_keys("b"), "llmkey-x", b"record", &signed), Ok(()));
        let stranger = Keyring::from_secret_data(&Keyring::generate(&mut SystemEntropy).unwrap()).unwrap();
        assert!(matches!(
            verify_ledger(&stranger, "llmkey-x", b"record", &signed),
            Err(LedgerMacError::KeyMissing { .. })
        ));
    }

    #[test]
    fn another_name_record_key_or_tag_does_not_verify() {
        let ring = two_keys("a");
        let signed = sign_ledger(&ring, "llmkey-x", b"record").unwrap();
        let fails = |name: &str, record: &[u8], signed: &LedgerMac| {
            assert_eq!(verify_ledger(&ring, name, record, signed), Err(LedgerMacError::Mismatch));
        };
        fails("llmkey-y", b"record", &signed);
        fails("llmkey-x", b"Record", &signed);
        fails("llmkey-xr", b"ecord", &signed);
        fails("llmkey-x", b"record", &LedgerMac { kek: "b".into(), ..signed.clone() });
        fails("llmkey-x", b"record", &LedgerMac { mac: signed.mac[..62].into(), ..signed.clone() });
        fails("llmkey-x", b"record", &LedgerMac { mac: String::new(), ..signed.clone() });
        fails("llmkey-x", b"record", &LedgerMac { mac: signed.mac.to_uppercase() + "!", ..signed.clone() });
    }
}
