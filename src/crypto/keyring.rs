//! Key-encryption keys by id: the newest seals, all open.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Entropy, EntropyError, SecretBytes};

/// Before each key's id in the keyring Secret's data.
pub const KEY_ENTRY_PREFIX: &str = "kek-";
/// Names the newest key, in the Secret's data and in the directory.
pub const PRIMARY_ENTRY: &str = "primary";

/// Ending of a key's file in the keyring directory.
const KEY_FILE_SUFFIX: &str = ".key";
/// Bytes of a key-encryption key.
const KEY_LEN: usize = 32;
/// No form of a key is longer than its 64 hexadecimal digits and a line ending; a bigger file is not read.
const MAX_FILE: u64 = 256;
/// Characters of an id that the operator makes.
const GENERATED_ID_LEN: usize = 8;

/// The 32 bytes of one key-encryption key, used as the pseudo-random key of HKDF-SHA-256.
pub(super) struct Seed(Zeroizing<[u8; KEY_LEN]>);

impl Seed {
    /// HKDF-Expand to 32 bytes. `None` cannot happen at these lengths; callers answer with their generic error.
    pub(super) fn expand(&self, info: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let mut okm = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::from_prk(self.0.as_slice()).ok()?.expand(info, okm.as_mut_slice()).ok()?;
        Some(okm)
    }
}

/// The key-encryption keys. It has no `Debug`, `Clone` or `Serialize`; its bytes are wiped on drop.
pub struct Keyring {
    keys: BTreeMap<String, Seed>,
    primary: String,
}

/// How a keyring differs from the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringChange {
    /// Not at all.
    Same,
    /// It may take the other's place.
    Replaces {
        /// Keys that were not there before.
        added: Vec<String>,
        /// Keys that are not there any more.
        removed: Vec<String>,
    },
    /// A key has other bytes than before under the same id: whatever was sealed with it would not open any more.
    Swapped {
        /// Its id.
        kek: String,
    },
}

/// The keyring of this process, which another one may take the place of while it runs. Cheap to clone.
#[derive(Clone)]
pub struct SharedKeyring(Arc<RwLock<Arc<Keyring>>>);

impl SharedKeyring {
    /// Begins with a keyring.
    pub fn new(keyring: Keyring) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keyring))))
    }

    /// The keyring as it is now.
    pub fn now(&self) -> Arc<Keyring> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another one takes its place.
    pub fn replace(&self, keyring: Keyring) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
    }
}

/// Why there is no keyring. Names entries and lengths, never contents.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Not one key.
    #[error("the keyring holds no key-encryption key")]
    Empty,
    /// An id that cannot be part of an entry's name.
    #[error("{entry}: a key-encryption key's id has 1 to 63 characters of a-z, A-Z, 0-9, '.', '_' and '-'")]
    BadId {
        /// The entry or file.
        entry: String,
    },
    /// Not a key.
    #[error("{entry}: {why}")]
    BadKey {
        /// The entry or file.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Several keys and nothing says which is the newest.
    #[error("the keyring holds several keys: an entry named `primary` must hold the id of the newest")]
    NoPrimary,
    /// `primary` names no key.
    #[error("`primary` names a key-encryption key that is not in the keyring")]
    UnknownPrimary,
    /// The directory or a file in it could not be read.
    #[error("{path}: {source}")]
    Read {
        /// What could not be read.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Keyring {
    /// Reads the data of the keyring Secret: `kek-<id>` holds 32 bytes, `primary` the id of the newest. Other entries
    /// are left alone. With one key `primary` may be absent.
    pub fn from_secret_data(data: &BTreeMap<String, SecretBytes>) -> Result<Self, KeyringError> {
        let mut keys = BTreeMap::new();
        for (entry, value) in data {
            if let Some(id) = entry.strip_prefix(KEY_ENTRY_PREFIX) {
                keys.insert(checked_id(id, entry)?, raw_key(value.expose(), entry)?);
            }
        }
        Self::build(keys, data.get(PRIMARY_ENTRY))
    }

    /// Reads a directory: each `<id>.key` holds one key as 32 raw bytes, 64 hexadecimal digits or 44 base64 characters
    /// (a line ending after text is ignored), `primary` the id of the newest. Other files, such as the `..data` links of
    /// a mounted Secret, are left alone.
    pub fn from_dir(dir: &Path) -> Result<Self, KeyringError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| KeyringError::Read { path, source }
        };
        let mut keys = BTreeMap::new();
        let mut primary = None;
        for file in std::fs::read_dir(dir).map_err(failed(dir))? {
            let file = file.map_err(failed(dir))?;
            let Ok(entry) = file.file_name().into_string() else { continue };
            if entry == PRIMARY_ENTRY {
                primary = Some(read_small(&file.path()).map_err(failed(&file.path()))?);
            } else if let Some(id) = entry.strip_suffix(KEY_FILE_SUFFIX) {
                let value = read_small(&file.path()).map_err(failed(&file.path()))?;
                keys.insert(checked_id(id, &entry)?, any_key(value.expose(), &entry)?);
            }
        }
        Self::build(keys, primary.as_ref())
    }

    /// A new keyring with one key, as the data of the keyring Secret.
    pub fn generate(entropy: &mut dyn Entropy) -> Result<BTreeMap<String, SecretBytes>, EntropyError> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(key.as_mut_slice())?;
        let mut id = [0; 5];
        entropy.fill(&mut id)?;
        let mut id = data_encoding::BASE32_NOPAD.encode(&id).to_ascii_lowercase();
        id.truncate(GENERATED_ID_LEN);
        Ok(BTreeMap::from([
            (format!("{KEY_ENTRY_PREFIX}{id}"), SecretBytes::new(key.to_vec())),
            (PRIMARY_ENTRY.to_owned(), SecretBytes::from_string(id)),
        ]))
    }

    /// Ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Id of the newest key, the one that seals.
    pub fn primary(&self) -> &str {
        &self.primary
    }

    /// Whether it has the key.
    pub fn has(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }

    /// How it differs from the one before.
    pub fn change_from(&self, before: &Self) -> KeyringChange {
        let swapped = self.keys.iter().find(|(id, seed)| {
            before.keys.get(*id).is_some_and(|earlier| earlier.0.as_slice() != seed.0.as_slice())
        });
        if let Some((kek, _)) = swapped {
            return KeyringChange::Swapped { kek: kek.clone() };
        }
        let missing = |of: &Self, from: &Self| {
            of.keys.keys().filter(|id| !from.keys.contains_key(*id)).cloned().collect::<Vec<_>>()
        };
        let (added, removed) = (missing(self, before), missing(before, self));
        if added.is_empty() && removed.is_empty() && self.primary == before.primary {
            return KeyringChange::Same;
        }
        KeyringChange::Replaces { added, removed }
    }

    pub(super) fn seed(&self, id: &str) -> Option<&Seed> {
        self.keys.get(id)
    }

    pub(super) fn primary_seed(&self) -> (&str, &Seed) {
        (&self.primary, &self.keys[&self.primary])
    }

    fn build(keys: BTreeMap<String, Seed>, primary: Option<&SecretBytes>) -> Result<Self, KeyringError> {
        let primary = match primary {
            Some(text) => text.expose_str().map(str::trim).ok_or(KeyringError::UnknownPrimary)?.to_owned(),
            None if keys.len() > 1 => return Err(KeyringError::NoPrimary),
            None => keys.keys().next().ok_or(KeyringError::Empty)?.clone(),
        };
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        // Every constructor passes here: `primary_seed` relies on it.
        if !keys.contains_key(&primary) {
            return Err(KeyringError::UnknownPrimary);
        }
        Ok(Self { keys, primary })
    }
}

fn checked_id(id: &str, entry: &str) -> Result<String, KeyringError> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if (1..=63).contains(&id.len()) && id.bytes().all(allowed) {
        Ok(id.to_owned())
    } else {
        Err(KeyringError::BadId { entry: entry.to_owned() })
    }
}

fn raw_key(bytes: &[u8], entry: &str) -> Result<Seed, KeyringError> {
    let bad = |why| KeyringError::BadKey { entry: entry.to_owned(), why };
    let key: [u8; KEY_LEN] = bytes.try_into().map_err(|_| bad("a key-encryption key has 32 bytes"))?;
    let key = Zeroizing::new(key);
    if key.iter().all(|byte| byte == &key[0]) {
        return Err(bad("one byte repeated 32 times is no key"));
    }
    // 32 random bytes are all hexadecimal digits once in 10^34: this is a 16-byte key written as text.
    if key.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad("32 hexadecimal digits are only 16 bytes; a key-encryption key has 32 bytes"));
    }
    Ok(Seed(key))
}

fn any_key(bytes: &[u8], entry: &str) -> Result<Seed, KeyringError> {
    if bytes.len() == KEY_LEN {
        return raw_key(bytes, entry);
    }
    let text = bytes.trim_ascii();
    let decoded = match text.len() {
        64 => HEXLOWER_PERMISSIVE.decode(text).ok(),
        44 => BASE64.decode(text).ok(),
        _ => None,
    };
    let Some(decoded) = decoded.map(Zeroizing::new) else {
        let why = "expected 32 raw bytes, 64 hexadecimal digits or 44 base64 characters";
        return Err(KeyringError::BadKey { entry: entry.to_owned(), why });
    };
    raw_key(&decoded, entry)
}

fn read_small(path: &Path) -> std::io::Result<SecretBytes> {
    // The capacity is fixed up front: a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default() + 1));
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::super::SystemEntropy;
    use super::*;

    fn data(entries: &[(&str, &[u8])]) -> BTreeMap<String, SecretBytes> {
        entries.iter().map(|(name, bytes)| ((*name).to_owned(), SecretBytes::new(bytes.to_vec()))).collect()
    }

    fn error(entries: &[(&str, &[u8])]) -> String {
        Keyring::from_secret_data(&data(entries)).err().map(|e| e.to_string()).unwrap_or_default()
    }

    const A: &[u8] = b"0123456789abcdefghijklmnopqrstuv";
    const B: &[u8] = b"vutsrqponmlkjihgfedcba9876543210";

    #[test]
    fn the_newest_is_named_or_alone() {
        let one = Keyring::from_secret_data(&data(&[("kek-a", A), ("note", b"left alone")])).unwrap();
        assert_eq!((one.primary(), one.ids().collect::<Vec<_>>()), ("a", vec!["a"]));
        let two =
            Keyring::from_secret_data(&data(&[("kek-a", A), ("kek-b", B), ("primary", b"b\n")])).unwrap();
        assert_eq!((two.primary(), two.ids().count()), ("b", 2));
        assert!(error(&[("kek-a", A), ("kek-b", B)]).contains("primary"));
        assert!(error(&[("kek-a", A), ("primary", b"c")]).contains("not in the keyring"));
        assert!(error(&[("kek-a", A), ("primary", b"\xff")]).contains("not in the keyring"));
        assert!(error(&[("primary", b"a")]).contains("no key-encryption key"));
        assert!(error(&[]).contains("no key-encryption key"));
    }

    #[test]
    fn a_keyring_takes_the_place_of_another_unless_an_id_means_other_bytes() {
        let ring = |entries: &[(&str, &[u8])]| Keyring::from_secret_data(&data(entries)).unwrap();
        let one = ring(&[("kek-a", A)]);
        let both = ring(&[("kek-a", A), ("kek-b", B), ("primary", b"b")]);
        let replaces = |added: &[&str], removed: &[&str]| KeyringChange::Replaces {
            added: added.iter().map(ToString::to_string).collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(ring(&[("kek-a", A), ("primary", b"a")]).change_from(&one), KeyringChange::Same);
        assert_eq!(both.change_from(&one), replaces(&["b"], &[]));
        assert_eq!(one.change_from(&both), replaces(&[], &["b"]));
        let back = ring(&[("kek-a", A), ("kek-b", B), ("primary", b"a")]);
        assert_eq!(back.change_from(&both), replaces(&[], &[]), "another one seals");
        let swapped = ring(&[("kek-a", B)]);
        assert_eq!(swapped.change_from(&one), KeyringChange::Swapped { kek: "a".to_owned() });
        let shared = SharedKeyring::new(one);
        let held = shared.clone();
        shared.replace(both);
        assert_eq!((held.now().primary(), held.now().has("a")), ("b", true));
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        for (bytes, word) in [
            (&b"short"[..], "32 bytes"),
            (&[0; 32][..], "repeated"),
            (b"00112233445566778899aabbccddeeff", "16 bytes"),
            (&[1; 33][..], "32 bytes"),
        ] {
            let text = error(&[("kek-a", bytes)]);
            assert!(text.contains(word) && text.starts_with("kek-a: "), "{text}");
        }
        for id in ["kek-", "kek-a/b", "kek-ä"] {
            assert!(error(&[(id, A)]).contains("1 to 63"), "{id}");
        }
    }

    #[test]
    fn generated_keyrings_parse_and_differ() {
        let first = Keyring::generate(&mut SystemEntropy).unwrap();
        let second = Keyring::generate(&mut SystemEntropy).unwrap();
        let ring = Keyring::from_secret_data(&first).unwrap();
        assert_eq!(ring.primary().len(), GENERATED_ID_LEN);
        assert_ne!(ring.primary(), Keyring::from_secret_data(&second).unwrap().primary());
    }

    #[test]
    fn a_directory_takes_raw_hex_and_base64() {
        let dir = std::env::temp_dir().join(format!("llmkey-keyring-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("raw.key"), A).unwrap();
        std::fs::write(dir.join("hex.key"), format!("{}\n", data_encoding::HEXUPPER.encode(A))).unwrap();
        std::fs::write(dir.join("b64.key"), format!("{}\r\n", BASE64.encode(A))).unwrap();
        std::fs::write(dir.join("primary"), "hex\n").unwrap();
        std::fs::write(dir.join("..data"), "a link in a mounted Secret").unwrap();
        let ring = Keyring::from_dir(&dir).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), ["b64", "hex", "raw"]);
        assert_eq!(ring.primary(), "hex");
        let expanded = |id: &str| ring.seed(id).and_then(|seed| seed.expand(b"x")).unwrap();
        assert_eq!(*expanded("raw"), *expanded("hex"));
        assert_eq!(*expanded("raw"), *expanded("b64"));

        std::fs::write(dir.join("bad.key"), vec![b'x'; 4096]).unwrap();
        let text = Keyring::from_dir(&dir).err().map(|e| e.to_string()).unwrap();
        assert!(text.starts_with("bad.key: expected"), "{text}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(Keyring::from_dir(&dir), Err(KeyringError::Read { .. })));
    }
}
