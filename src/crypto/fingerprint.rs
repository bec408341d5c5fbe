//! Fingerprints: tell whether two keys are the same without holding either.
//!
//! Keyed with the install key, so that nobody who reads a ledger or a status can test guesses against them.

use std::fmt;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Entropy, EntropyError, SecretBytes, push_prefixed};

/// Bytes of the install key.
const INSTALL_KEY_LEN: usize = 32;
/// HMAC-SHA-256 pads its key with zeros to this length.
const BLOCK_LEN: usize = 64;
/// Hexadecimal digits that become a label's name: the name part of a label holds at most 63 characters.
const LABEL_DIGITS: usize = 40;
/// Hexadecimal digits shown in a status.
const STATUS_DIGITS: usize = 12;
/// Shorter values show no last characters.
const LAST_FOUR_MIN_LEN: usize = 20;

/// The key of all fingerprints of one installation. It lives in the install Secret, apart from the keyring, so that
/// fingerprints survive re-keying.
#[derive(Clone)]
pub struct InstallKey(Zeroizing<[u8; INSTALL_KEY_LEN]>);

/// The install Secret does not hold 32 bytes for the fingerprint key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the install key has 32 bytes that are not all the same")]
pub struct InstallKeyError;

impl InstallKey {
    /// Takes 32 bytes.
    pub fn new(bytes: &SecretBytes) -> Result<Self, InstallKeyError> {
        let key: [u8; INSTALL_KEY_LEN] = bytes.expose().try_into().map_err(|_| InstallKeyError)?;
        let key = Zeroizing::new(key);
        if key.iter().all(|byte| byte == &key[0]) {
            return Err(InstallKeyError);
        }
        Ok(Self(key))
    }

    /// The bytes of a new install key, for the install Secret.
    pub fn generate(entropy: &mut dyn Entropy) -> Result<SecretBytes, EntropyError> {
        let mut key = Zeroizing::new([0; INSTALL_KEY_LEN]);
        entropy.fill(key.as_mut_slice())?;
        Ok(SecretBytes::new(key.to_vec()))
    }

    /// HMAC-SHA-256 of the key: equal exactly for equal keys of one installation.
    pub fn fingerprint(&self, key: &SecretBytes) -> Fingerprint {
        Fingerprint(HEXLOWER.encode(&self.hmac(&[key.expose()])))
    }

    /// What a status shows: 12 hexadecimal digits that differ from namespace to namespace, so that a tenant cannot see
    /// that another tenant has the same key.
    pub fn status_fingerprint(&self, namespace: &str, key: &SecretBytes) -> String {
        let mut prefix = Vec::with_capacity(namespace.len() + 4);
        push_prefixed(&mut prefix, namespace.as_bytes());
        let mut digits = HEXLOWER.encode(&self.hmac(&[&prefix, key.expose()]));
        digits.truncate(STATUS_DIGITS);
        digits
    }

    fn hmac(&self, parts: &[&[u8]]) -> [u8; 32] {
        // A key given as a whole block is the same key, and this constructor cannot fail.
        let mut block = Zeroizing::new([0; BLOCK_LEN]);
        block[..INSTALL_KEY_LEN].copy_from_slice(self.0.as_slice());
        let mut mac = Hmac::<Sha256>::new((&*block).into());
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

/// Not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 64 lower-case hexadecimal digits")]
pub struct FingerprintError;

impl Fingerprint {
    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 40 digits: the name part of the label that a ledger carries for each key not yet revoked.
    pub fn label(&self) -> &str {
        &self.0[..LABEL_DIGITS]
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        let digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(digit) { Ok(Self(text)) } else { Err(FingerprintError) }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last four characters, by which people recognise a key at the provider's console. Only of a value of at least 20
/// characters whose end is printable: of a shorter one they would give too much away.
pub fn last_four(key: &SecretBytes) -> Option<String> {
    let bytes = key.expose();
    let tail = bytes.get(bytes.len().checked_sub(4)?..)?;
    if bytes.len() < LAST_FOUR_MIN_LEN || !tail.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    String::from_utf8(tail.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::SystemEntropy;
    use super::*;

    fn install() -> InstallKey {
        InstallKey::new(&SecretBytes::new((0..32).collect())).unwrap()
    }

    #[test]
    fn a_block_padded_key_is_the_same_hmac() {
        let key: Vec<u8> = (0..32).collect();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(b"sk-abc");
        let expected: [u8; 32] = mac.finalize().into_bytes().into();
        assert_eq!(install().fingerprint(&"sk-abc".into()).as_str(), HEXLOWER.encode(&expected));
    }

    #[test]
    fn status_fingerprints_differ_between_namespaces_and_from_the_ledgers() {
        let (install, key) = (install(), SecretBytes::from("sk-abc"));
        let a = install.status_fingerprint("a", &key);
        assert_eq!(a.len(), 12);
        assert_ne!(a, install.status_fingerprint("b", &key));
        assert!(!install.fingerprint(&key).as_str().starts_with(&a));
        // The namespace's end is not the key's start.
        assert_ne!(install.status_fingerprint("as", &"k-abc".into()), a);
    }

    #[test]
    fn install_keys_are_32_real_bytes() {
        assert!(InstallKey::new(&SecretBytes::new(vec![1; 31])).is_err());
        assert!(InstallKey::new(&SecretBytes::new(vec![0; 32])).is_err());
        assert!(InstallKey::new(&InstallKey::generate(&mut SystemEntropy).unwrap()).is_ok());
    }

    #[test]
    fn fingerprints_read_back_and_nothing_else_does() {
        let print = install().fingerprint(&"sk-abc".into());
        let text = serde_json::to_string(&print).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), print);
        assert_eq!(print.label().len(), 40);
        for bad in ["", "abc", &"A".repeat(64), &"a".repeat(65)] {
            assert!(Fingerprint::try_from((*bad).to_owned()).is_err());
        }
    }

    #[test]
    fn last_four_only_of_long_printable_keys() {
        assert_eq!(last_four(&"sk-proj-0123456789abcdWXYZ".into()).as_deref(), Some("WXYZ"));
        assert_eq!(last_four(&"0123456789012345WXYZ".into()).as_deref(), Some("WXYZ"));
        for none in [
            "",
            "abc",
            "012345678901234WXYZ",
            "01234567890123456789WX\u{e4}",
            "01234567890123456789WXY\n",
            "01234567890123456789WX Y",
        ] {
            assert_eq!(last_four(&none.into()), None, "{none:?}");
        }
    }
}
