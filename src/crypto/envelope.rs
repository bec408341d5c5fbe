//! Sealing one key for one place: the construction of Kubernetes KMS v2 (`aes_extended_nonce.go`), with the identity of
//! the record as associated data.
//!
//! Every envelope has its own data key, expanded from 32 fresh random bytes, so nothing counts messages and a virtual
//! machine that is restored from a snapshot cannot repeat a nonce under one data key.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use serde::{Deserialize, Serialize};

use super::{Entropy, EntropyError, Keyring, SecretBytes, keyring::Seed, push_prefixed};

/// First field of the associated data: names this construction.
pub const ENVELOPE_FORMAT: &str = "llmkeys.dev/envelope/v1";

/// Bytes of `info`, from which the data key is expanded.
const INFO_LEN: usize = 32;
/// Bytes of the nonce.
const NONCE_LEN: usize = 12;

/// The place that a sealed key belongs to. An envelope opens under the identity it was sealed with and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity<'a> {
    /// Id of the installation, from the install Secret.
    pub install: &'a str,
    /// Namespace of the `LLMKey`.
    pub namespace: &'a str,
    /// Name of the `LLMKey`.
    pub name: &'a str,
    /// Uid of the first `LLMKey` that the ledger served.
    pub lineage: &'a str,
    /// Version that the key is stored for.
    pub version: u32,
}

impl Identity<'_> {
    /// The associated data: format, install id, namespace, name, lineage, version (decimal) and key-encryption-key id,
    /// each after its length in 32 bits, big-endian.
    pub fn aad(&self, kek: &str) -> Vec<u8> {
        let version = self.version.to_string();
        let fields =
            [ENVELOPE_FORMAT, self.install, self.namespace, self.name, self.lineage, version.as_str(), kek];
        let mut aad = Vec::with_capacity(fields.iter().map(|field| field.len() + 4).sum());
        for field in fields {
            push_prefixed(&mut aad, field.as_bytes());
        }
        aad
    }
}

/// A sealed key. `Debug` prints sizes only.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// Id of the key-encryption key.
    pub kek: String,
    /// From which the data key is expanded.
    #[serde(with = "super::base64")]
    pub info: [u8; INFO_LEN],
    /// Of AES-256-GCM.
    #[serde(with = "super::base64")]
    pub nonce: [u8; NONCE_LEN],
    /// Ciphertext and, in its last 16 bytes, the tag.
    #[serde(with = "super::base64")]
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({} bytes under {})", self.ciphertext.len(), self.kek)
    }
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The cipher refused: longer than AES-GCM allows.
    #[error("the value could not be sealed")]
    Cipher,
}

/// Why an envelope did not open. What exactly failed is not told: that would help who tampers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The keyring does not have the key-encryption key. The only failure that waiting or an operator can mend.
    #[error("the keyring has no key-encryption key {kek:?}")]
    KeyMissing {
        /// Its id, as the envelope says.
        kek: String,
    },
    /// Altered, cut short, moved from another record, or sealed under other bytes.
    #[error("the sealed value does not open")]
    Failed,
}

/// Seals `key` for `identity` under the keyring's newest key-encryption key.
pub fn seal(
    keyring: &Keyring,
    identity: &Identity<'_>,
    key: &SecretBytes,
    entropy: &mut dyn Entropy,
) -> Result<Envelope, SealError> {
    let (kek, seed) = keyring.primary_seed();
    let mut info = [0; INFO_LEN];
    entropy.fill(&mut info)?;
    let mut nonce = [0; NONCE_LEN];
    entropy.fill(&mut nonce)?;
    let aad = identity.aad(kek);
    let ciphertext = cipher(seed, &info)
        .ok_or(SealError::Cipher)?
        .encrypt(&Nonce::from(nonce), Payload { msg: key.expose(), aad: &aad })
        .map_err(|_| SealError::Cipher)?;
    Ok(Envelope { kek: kek.to_owned(), info, nonce, ciphertext })
}

/// Opens `envelope` as the key of `identity`.
pub fn open(
    keyring: &Keyring,
    identity: &Identity<'_>,
    envelope: &Envelope,
) -> Result<SecretBytes, OpenError> {
    let seed =
        keyring.seed(&envelope.kek).ok_or_else(|| OpenError::KeyMissing { kek: envelope.kek.clone() })?;
    let aad = identity.aad(&envelope.kek);
    cipher(seed, &envelope.info)
        .ok_or(OpenError::Failed)?
        .decrypt(&Nonce::from(envelope.nonce), Payload { msg: &envelope.ciphertext, aad: &aad })
        .map(SecretBytes::new)
        .map_err(|_| OpenError::Failed)
}

fn cipher(seed: &Seed, info: &[u8; INFO_LEN]) -> Option<Aes256Gcm> {
    let data_key = seed.expand(info)?;
    Aes256Gcm::new_from_slice(data_key.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::SystemEntropy;
    use super::*;

    fn keyring() -> Keyring {
        Keyring::from_secret_data(&Keyring::generate(&mut SystemEntropy).unwrap()).unwrap()
    }

    const HOME: Identity<'static> = Identity {
        install: "install",
        namespace: "team-a",
        name: "chat",
        lineage: "0b54a5a1-6d2a-4d3e-9c0a-0a1b2c3d4e5f",
        version: 7,
    };

    #[test]
    fn aes_256_gcm_known_answer() {
        // The GCM specification (McGrew and Viega), test case 16: a published value for the cipher underneath.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let msg = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let out = Aes256Gcm::new_from_slice(&key)
            .unwrap()
            .encrypt(&Nonce::from(nonce), Payload { msg: &msg, aad: &aad })
            .unwrap();
        assert_eq!(
            out,
            hex(
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"
            )
        );
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_fails() {
        let ring = keyring();
        let sealed = seal(&ring, &HOME, &"sk-canary-0123456789".into(), &mut SystemEntropy).unwrap();
        let fails =
            |envelope: &Envelope| assert_eq!(open(&ring, &HOME, envelope).err(), Some(OpenError::Failed));
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut bad = sealed.clone();
            bad.ciphertext[bit / 8] ^= 1 << (bit % 8);
            fails(&bad);
        }
        for bit in 0..INFO_LEN * 8 {
            let mut bad = sealed.clone();
            bad.info[bit / 8] ^= 1 << (bit % 8);
            fails(&bad);
        }
        for bit in 0..NONCE_LEN * 8 {
            let mut bad = sealed.clone();
            bad.nonce[bit / 8] ^= 1 << (bit % 8);
            fails(&bad);
        }
        for len in 0..sealed.ciphertext.len() {
            let mut bad = sealed.clone();
            bad.ciphertext.truncate(len);
            fails(&bad);
        }
        let mut longer = sealed.clone();
        longer.ciphertext.push(0);
        fails(&longer);
    }

    #[test]
    fn each_field_of_the_identity_is_bound() {
        let ring = keyring();
        let sealed = seal(&ring, &HOME, &"sk-canary-0123456789".into(), &mut SystemEntropy).unwrap();
        for other in [
            Identity { install: "installed", ..HOME },
            Identity { namespace: "team-b", ..HOME },
            Identity { name: "chat2", ..HOME },
            Identity { lineage: "0b54a5a1-6d2a-4d3e-9c0a-0a1b2c3d4e5e", ..HOME },
            Identity { version: 8, ..HOME },
            // Fields that read the same when joined without their lengths.
            Identity { namespace: "team-", name: "achat", ..HOME },
            Identity { install: "installteam-a", namespace: "", ..HOME },
        ] {
            assert_eq!(open(&ring, &other, &sealed).err(), Some(OpenError::Failed), "{other:?}");
        }
    }

    #[test]
    fn a_missing_key_encryption_key_is_told_apart_and_a_renamed_one_fails() {
        let ring = keyring();
        let sealed = seal(&ring, &HOME, &"sk-canary-0123456789".into(), &mut SystemEntropy).unwrap();
        assert_eq!(
            open(&keyring(), &HOME, &sealed).err(),
            Some(OpenError::KeyMissing { kek: sealed.kek.clone() })
        );
        // The same bytes under another id: the id is part of what is authenticated.
        let mut data = std::collections::BTreeMap::new();
        data.insert("kek-a".to_owned(), SecretBytes::new((0..32).collect()));
        data.insert("kek-b".to_owned(), SecretBytes::new((0..32).collect()));
        data.insert("primary".to_owned(), "a".into());
        let twins = Keyring::from_secret_data(&data).unwrap();
        let mut moved = seal(&twins, &HOME, &"sk-canary-0123456789".into(), &mut SystemEntropy).unwrap();
        assert_eq!(moved.kek, "a");
        moved.kek = "b".to_owned();
        assert_eq!(open(&twins, &HOME, &moved).err(), Some(OpenError::Failed));
    }

    #[test]
    fn a_hundred_thousand_seals_repeat_neither_info_nor_nonce() {
        let ring = keyring();
        let key = SecretBytes::from("sk-canary-0123456789");
        let mut infos = HashSet::new();
        let mut pairs = HashSet::new();
        for _ in 0..100_000 {
            let sealed = seal(&ring, &HOME, &key, &mut SystemEntropy).unwrap();
            assert!(infos.insert(sealed.info));
            assert!(pairs.insert((sealed.info, sealed.nonce)));
        }
    }

    #[test]
    fn no_randomness_no_envelope() {
        struct Broken;
        impl Entropy for Broken {
            fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
                Err(EntropyError)
            }
        }
        assert_eq!(
            seal(&keyring(), &HOME, &"k".into(), &mut Broken).err(),
            Some(SealError::Entropy(EntropyError))
        );
    }

    #[test]
    fn debug_shows_sizes_only() {
        let ring = keyring();
        let sealed = seal(&ring, &HOME, &"sk-canary-0123456789".into(), &mut SystemEntropy).unwrap();
        assert_eq!(format!("{sealed:?}"), format!("Envelope(36 bytes under {})", ring.primary()));
    }

    #[test]
    fn serialised_envelopes_with_wrong_sizes_are_refused() {
        for text in [
            r#"{"kek":"a","info":"AA==","nonce":"AAAAAAAAAAAAAAAA","ciphertext":""}"#,
            r#"{"kek":"a","info":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","nonce":"AAAA","ciphertext":""}"#,
            r#"{"kek":"a","info":"!","nonce":"AAAAAAAAAAAAAAAA","ciphertext":""}"#,
        ] {
            assert!(serde_json::from_str::<Envelope>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn opens_to_what_was_sealed(
            key in proptest::collection::vec(any::<u8>(), 0..600),
            install in ".{0,20}", namespace in ".{0,20}", name in ".{0,20}", lineage in ".{0,20}",
            version in any::<u32>(),
        ) {
            let ring = keyring();
            let identity = Identity { install: &install, namespace: &namespace, name: &name, lineage: &lineage, version };
            let sealed = seal(&ring, &identity, &SecretBytes::new(key.clone()), &mut SystemEntropy).unwrap();
            let text = serde_json::to_string(&sealed).unwrap();
            let read: Envelope = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &sealed);
            let opened = open(&ring, &identity, &read).unwrap();
            prop_assert_eq!(opened.expose(), key.as_slice());
        }

        #[test]
        fn two_identities_never_share_associated_data(
            a in proptest::array::uniform4("[ab]{0,3}"), b in proptest::array::uniform4("[ab]{0,3}"),
            va in 0u32..20, vb in 0u32..20,
        ) {
            let of = |f: &[String; 4], version| Identity {
                install: &f[0], namespace: &f[1], name: &f[2], lineage: &f[3], version,
            }.aad("k");
            prop_assert_eq!(of(&a, va) == of(&b, vb), a == b && va == vb);
        }
    }
}
