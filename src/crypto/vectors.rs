//! The published vectors of `tests/vectors/`, made by an independent implementation, against the code.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct File<V> {
    vectors: Vec<V>,
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn keyring(id: &str, seed: &str) -> Keyring {
    let data = BTreeMap::from([(format!("{KEY_ENTRY_PREFIX}{id}"), SecretBytes::new(hex(seed)))]);
    Keyring::from_secret_data(&data).unwrap()
}

/// Answers with the bytes of a vector, in the order in which sealing asks.
struct Given(Vec<u8>);

impl Entropy for Given {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        let rest = self.0.split_off(buffer.len());
        buffer.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    identity: Place,
    kek_id: String,
    seed_hex: String,
    key_hex: String,
    info_hex: String,
    nonce_hex: String,
    aad_hex: String,
    data_key_hex: String,
    envelope: Envelope,
}

#[derive(Deserialize)]
struct Place {
    install: String,
    namespace: String,
    name: String,
    lineage: String,
    version: u32,
}

#[test]
fn envelopes() {
    let file: File<Sealed> = serde_json::from_str(include_str!("../../tests/vectors/envelope.json")).unwrap();
    assert_eq!(file.vectors.len(), 4);
    for vector in file.vectors {
        let ring = keyring(&vector.kek_id, &vector.seed_hex);
        let place = &vector.identity;
        let identity = Identity {
            install: &place.install,
            namespace: &place.namespace,
            name: &place.name,
            lineage: &place.lineage,
            version: place.version,
        };
        assert_eq!(HEXLOWER.encode(&identity.aad(&vector.kek_id)), vector.aad_hex);
        let data_key = ring.primary_seed().1.expand(&hex(&vector.info_hex)).unwrap();
        assert_eq!(HEXLOWER.encode(data_key.as_slice()), vector.data_key_hex);

        let mut entropy = Given([hex(&vector.info_hex), hex(&vector.nonce_hex)].concat());
        let key = SecretBytes::new(hex(&vector.key_hex));
        let sealed = seal(&ring, &identity, &key, &mut entropy).unwrap();
        assert!(entropy.0.is_empty());
        assert_eq!(serde_json::to_value(&sealed).unwrap(), serde_json::to_value(&vector.envelope).unwrap());
        let opened = open(&ring, &identity, &vector.envelope).unwrap();
        assert_eq!(opened.expose(), key.expose());
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    namespace: String,
    key_hex: String,
    fingerprint: String,
    label: String,
    status_fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrintedFile {
    install_key_hex: String,
    vectors: Vec<Printed>,
}

#[test]
fn fingerprints() {
    let file: PrintedFile =
        serde_json::from_str(include_str!("../../tests/vectors/fingerprint.json")).unwrap();
    assert_eq!(file.vectors.len(), 4);
    let install = InstallKey::new(&SecretBytes::new(hex(&file.install_key_hex))).unwrap();
    for vector in file.vectors {
        let key = SecretBytes::new(hex(&vector.key_hex));
        let print = install.fingerprint(&key);
        assert_eq!(print.as_str(), vector.fingerprint);
        assert_eq!(print.label(), vector.label);
        assert_eq!(install.status_fingerprint(&vector.namespace, &key), vector.status_fingerprint);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    kek_id: String,
    seed_hex: String,
    secret_name: String,
    record_hex: String,
    mac_key_hex: String,
    mac: String,
}

#[test]
fn ledger_macs() {
    let file: File<Signed> =
        serde_json::from_str(include_str!("../../tests/vectors/ledger_mac.json")).unwrap();
    assert_eq!(file.vectors.len(), 3);
    for vector in file.vectors {
        let ring = keyring(&vector.kek_id, &vector.seed_hex);
        let record = hex(&vector.record_hex);
        let mac_key = ring.primary_seed().1.expand(b"ledger-mac").unwrap();
        assert_eq!(HEXLOWER.encode(mac_key.as_slice()), vector.mac_key_hex);
        let signed = sign_ledger(&ring, &vector.secret_name, &record).unwrap();
        assert_eq!(signed, LedgerMac { kek: vector.kek_id, mac: vector.mac });
        assert_eq!(verify_ledger(&ring, &vector.secret_name, &record, &signed), Ok(()));
    }
}
