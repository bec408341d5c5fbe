use std::collections::BTreeMap;

use serde_json::Value;

use super::super::audit::Entry;
use super::super::codec::{decode, encode};
use super::super::record::FORMAT;
use super::*;
use crate::api::LEDGER_SEALED_BY;
use crate::crypto::{InstallKey, SecretBytes, SystemEntropy};
use crate::domain::lifecycle::VersionState;

/// A ledger of the first format in the middle of a rotation, and the Secrets that it needs.
fn first_format() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/ledger_format_1.json")).unwrap()
}

fn data(secret: &Value) -> BTreeMap<String, SecretBytes> {
    let secret: Secret = serde_json::from_value(secret.clone()).unwrap();
    secret.data.unwrap().into_iter().map(|(name, bytes)| (name, SecretBytes::new(bytes.0))).collect()
}

/// The keyring of then, and the same with a newer key.
fn keyrings() -> [Keyring; 2] {
    let then = data(&first_format()["keyring"]);
    let mut now = then.clone();
    now.insert("kek-newer".into(), SecretBytes::new((0..32).collect()));
    now.insert("primary".into(), "newer".into());
    [then, now].map(|data| Keyring::from_secret_data(&data).unwrap())
}

fn stored() -> Secret {
    serde_json::from_value(first_format()["ledger"].clone()).unwrap()
}

fn read(secret: &Secret, keyring: &Keyring) -> Result<Record, DecodeError> {
    decode(secret, "team-a-mujnupdu", "chat", keyring)
}

/// What every key that is sealed opens to, by its fingerprint over the install.
fn opened(record: &Record, keyring: &Keyring) -> Vec<(i32, String)> {
    let install = InstallKey::new(&data(&first_format()["install"])["fingerprint-key"]).unwrap();
    let sealed = record.versions.iter().filter_map(|v| Some((v, v.sealed.as_ref()?)));
    sealed
        .map(|(v, envelope)| {
            let key = open(keyring, &record.identity(v.version), envelope).unwrap();
            assert!(v.has_key(install.fingerprint(&key).as_str()), "version {}", v.version);
            (v.version, envelope.kek.clone())
        })
        .collect()
}

#[test]
fn a_ledger_of_the_first_format_is_read_as_it_stands() {
    let [then, _] = keyrings();
    let record = read(&stored(), &then).unwrap();
    assert_eq!((record.format, record.epoch), (1, 6));
    let states: Vec<VersionState> = record.versions.iter().map(|v| v.state).collect();
    assert_eq!(states, [VersionState::Overlap, VersionState::Current]);
    let kek = then.primary().to_owned();
    assert_eq!(opened(&record, &then), [(1, kek.clone()), (2, kek)]);
    // Nothing of it is lost or moved by the way through this program.
    let again = read(&encode(&record, "llmkey-system", &then).unwrap(), &then).unwrap();
    assert_eq!(again, record);
}

#[test]
fn a_conversion_is_told_once_and_changes_nothing_else() {
    let [then, _] = keyrings();
    let before = read(&stored(), &then).unwrap();
    let after = Record { format: FORMAT, epoch: before.epoch + 1, ..before.clone() };
    let at = before.versions[1].created_at;
    let told = |before: &Record, after: &Record| Entry::new(Some(before), Some(after), at).unwrap();
    assert_eq!(
        (told(&before, &after).also, told(&before, &after).changes),
        (vec!["Format".to_owned()], vec![])
    );
    let next = Record { epoch: after.epoch + 1, ..after.clone() };
    assert!(told(&after, &next).also.is_empty(), "it has the format already");
}

#[test]
fn a_record_goes_to_the_newest_key_once_and_its_keys_stay_what_they_are() {
    let [then, now] = keyrings();
    let before = read(&stored(), &now).unwrap();
    let rewrapped = |record: &Record, by: &str, keyring: &Keyring| {
        record.rewrapped(by, keyring, "writer", &mut SystemEntropy).unwrap()
    };
    assert_eq!(rewrapped(&before, then.primary(), &then), None, "at rest nothing is written");
    let after = rewrapped(&before, then.primary(), &now).unwrap();
    assert_eq!((after.epoch, after.writer.as_str()), (before.epoch + 1, "writer"));
    assert_eq!(opened(&after, &now), [(1, "newer".to_owned()), (2, "newer".to_owned())]);
    let told = Entry::new(Some(&before), Some(&after), before.versions[1].created_at).unwrap();
    assert_eq!((told.also, told.changes), (vec!["Resealed".to_owned()], vec![]));

    let secret = encode(&after, "llmkey-system", &now).unwrap();
    assert_eq!(secret.metadata.annotations.as_ref().unwrap()[LEDGER_SEALED_BY], "newer");
    assert_eq!(stated_mac(&secret).unwrap().kek, "newer");
    assert_eq!(rewrapped(&after, "newer", &now), None, "it is where it should be");
    assert_eq!(read(&secret, &then), Err(DecodeError::KeyMissing("newer".into())));
}

#[test]
fn a_key_that_does_not_open_stays_as_it_is_and_is_named() {
    let [then, now] = keyrings();
    let before = read(&stored(), &now).unwrap();
    let after = before.rewrapped(then.primary(), &now, "w", &mut SystemEntropy).unwrap().unwrap();
    // The older key was taken out too early: one version still needs it, and the record was written meanwhile.
    let mut mixed = after.clone();
    mixed.versions[0].sealed.clone_from(&before.versions[0].sealed);
    let data = BTreeMap::from([("kek-newer".to_owned(), SecretBytes::new((0..32).collect()))]);
    let alone = Keyring::from_secret_data(&data).unwrap();
    assert_eq!(mixed.rewrapped("newer", &alone, "w", &mut SystemEntropy).unwrap(), None);
    let named = encode(&mixed, "llmkey-system", &alone).unwrap().metadata.annotations.unwrap();
    assert_eq!(named[LEDGER_SEALED_BY], format!("newer,{}", then.primary()));
}
