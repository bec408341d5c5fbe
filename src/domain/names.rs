//! Names that are computed, so that each can be found again without being stored, and stable shares of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::share;

/// Characters of a digest (its first 130 bits) or of a uid (its 128 bits) in base32.
const CODE_LEN: usize = 26;
/// Characters of an installation in a mint name.
const INSTALL_LEN: usize = 8;
/// Characters of an attempt: its number and its random part.
const ATTEMPT_LEN: usize = NUMBER_LEN + RANDOM_LEN;
const NUMBER_LEN: usize = 4;
const RANDOM_LEN: usize = 8;
/// Most characters of a version.
const VERSION_LEN: usize = 5;
/// Digits of base 36, of which the first 32 are those of base 32: they sort like the numbers they write.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Start of every name that the operator gives to a key at a provider.
pub const MINT_PREFIX: &str = "lk1-";

/// Start of the name of every account ledger.
pub const ACCOUNT_LEDGER_PREFIX: &str = "llmkey-account-";

/// Base32 (RFC 4648) in lower case without padding.
pub fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Name of the ledger Secret of the `LLMKey` `namespace/name`.
pub fn ledger_name(namespace: &str, name: &str) -> String {
    format!("llmkey-{}", digest_code(&format!("{namespace}/{name}")))
}

/// Name of the account ledger of one provider account: `kind` is the provider's type, `account` its canonical id.
pub fn account_ledger_name(kind: &str, account: &str) -> String {
    format!("{ACCOUNT_LEDGER_PREFIX}{}", digest_code(&format!("{kind}/{account}")))
}

/// An installation's part of mint names: 8 characters of the digest of its id.
pub fn install_code(install_id: &str) -> String {
    let mut code = digest_code(install_id);
    code.truncate(INSTALL_LEN);
    code
}

/// A lineage's part of mint names: its 16 bytes in 26 characters. A uid that is no UUID counts by its digest.
pub fn lineage_code(uid: &str) -> String {
    uuid_bytes(uid).map_or_else(|| digest_code(uid), |bytes| base32(&bytes))
}

/// The stable place of a lineage within `interval`: its probes are due at epoch + k × interval + this.
pub fn slot_offset(lineage: &str, interval: Duration) -> Duration {
    share("slot", lineage, interval)
}

fn digest_code(text: &str) -> String {
    let mut code = base32(&Sha256::digest(text));
    code.truncate(CODE_LEN);
    code
}

fn uuid_bytes(uid: &str) -> Option<[u8; 16]> {
    let hyphens = [8, 13, 18, 23];
    if uid.len() != 36 || hyphens.iter().any(|at| uid.as_bytes()[*at] != b'-') {
        return None;
    }
    let digits = uid.replace('-', "");
    data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok()
}

/// Why a name cannot be built or is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The attempt counter has no more room in a name.
    #[error("attempt numbers end at 1048575")]
    AttemptTooGreat,
    /// The version has no room in a name.
    #[error("version numbers in names end at 60466175")]
    VersionTooGreat,
    /// Another name.
    #[error("not a name that this operator gives to keys")]
    NotOurs,
}

/// One attempt to mint: a number that only grows within a ledger, then 40 random bits. They sort by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(String);

impl AttemptId {
    /// Attempt `number` of a ledger, up to 1048575; of `random` the low 40 bits are used.
    pub fn new(number: u32, random: u64) -> Result<Self, NameError> {
        let number = digits(u64::from(number), 32, NUMBER_LEN);
        if number.len() > NUMBER_LEN {
            return Err(NameError::AttemptTooGreat);
        }
        Ok(Self(number + &digits(random & 0xff_ffff_ffff, 32, RANDOM_LEN)))
    }

    /// The ledger's counter when the attempt began. "Revoke only what an earlier attempt minted" is decided from this.
    pub fn number(&self) -> u32 {
        value(&self.0[..NUMBER_LEN], 32).and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
    }

    /// Its 12 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AttemptId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() == ATTEMPT_LEN && text.is_ascii() && value(text, 32).is_some() {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::NotOurs)
        }
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a key at a provider, chosen before the call: `lk1-<install>-<lineage>-<version>-<attempt>`, at most 58
/// characters of `[a-z0-9-]`. It says whose key it is if the reply is lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MintName {
    /// Eight characters for the installation, from [`install_code`].
    pub install: String,
    /// Twenty-six characters for the lineage, from [`lineage_code`].
    pub lineage: String,
    /// Version that the key is minted for.
    pub version: u32,
    /// The attempt.
    pub attempt: AttemptId,
}

impl MintName {
    /// The name of an attempt to mint `version` for the ledger of `lineage_uid`.
    pub fn new(
        install_id: &str,
        lineage_uid: &str,
        version: u32,
        attempt: AttemptId,
    ) -> Result<Self, NameError> {
        if digits(u64::from(version), 36, 1).len() > VERSION_LEN {
            return Err(NameError::VersionTooGreat);
        }
        Ok(Self { install: install_code(install_id), lineage: lineage_code(lineage_uid), version, attempt })
    }

    /// The attempt's number.
    pub fn attempt_number(&self) -> u32 {
        self.attempt.number()
    }
}

impl fmt::Display for MintName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = digits(u64::from(self.version), 36, 1);
        write!(f, "{MINT_PREFIX}{}-{}-{version}-{}", self.install, self.lineage, self.attempt)
    }
}

impl FromStr for MintName {
    type Err = NameError;

    /// Reads back exactly what was written: any other spelling is someone else's name.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.strip_prefix(MINT_PREFIX).ok_or(NameError::NotOurs)?.split('-').collect();
        let [install, lineage, version, attempt] = parts.as_slice() else { return Err(NameError::NotOurs) };
        let code = |text: &str, len| {
            text.len() == len && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7'))
        };
        if !code(install, INSTALL_LEN) || !code(lineage, CODE_LEN) || version.len() > VERSION_LEN {
            return Err(NameError::NotOurs);
        }
        let version_number =
            value(version, 36).and_then(|number| u32::try_from(number).ok()).ok_or(NameError::NotOurs)?;
        if digits(u64::from(version_number), 36, 1) != *version {
            return Err(NameError::NotOurs);
        }
        Ok(Self {
            install: (*install).to_owned(),
            lineage: (*lineage).to_owned(),
            version: version_number,
            attempt: attempt.parse()?,
        })
    }
}

/// `number` in `base` (at most 36) with at least `width` digits.
fn digits(mut number: u64, base: u64, width: usize) -> String {
    let mut reversed = Vec::new();
    while number > 0 || reversed.len() < width {
        let digit = usize::try_from(number % base).unwrap_or_default();
        reversed.push(char::from(DIGITS[digit]));
        number /= base;
    }
    reversed.iter().rev().collect()
}

fn value(text: &str, base: u64) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u64, |number, c| {
        let digit = DIGITS.iter().position(|d| *d == c).and_then(|at| u64::try_from(at).ok())?;
        // A random part of an attempt overflows nothing: twelve digits of five bits are sixty.
        (digit < base).then(|| number.checked_mul(base)?.checked_add(digit))?
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0b54a5a1-6d2a-4d3e-9c0a-0a1b2c3d4e5f";

    #[test]
    fn ledgers_are_named_by_digest() {
        let name = ledger_name("team-a", "chat");
        assert_eq!(name, "llmkey-uednqx6lgxhhxjo4xnompxh2dw");
        assert_ne!(name, ledger_name("team", "a-chat"));
        let account = account_ledger_name("OpenAI", "proj_1");
        assert!(account.starts_with("llmkey-account-") && account.len() == 41);
        assert_ne!(account, account_ledger_name("XAI", "proj_1"));
    }

    #[test]
    fn lineages_are_their_bytes_and_odd_uids_their_digest() {
        let code = lineage_code(UID);
        let bytes = BASE32_NOPAD.decode(code.to_uppercase().as_bytes()).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), UID.replace('-', ""));
        for odd in ["", "not-a-uid", &UID.to_uppercase(), "0b54a5a1-6d2a-4d3e-9c0a-0a1b2c3d4e5g"] {
            assert_eq!(lineage_code(odd).len(), CODE_LEN);
            assert_ne!(lineage_code(odd), code);
        }
    }

    #[test]
    fn attempts_sort_by_number() {
        let ids: Vec<AttemptId> = [0, 1, 9, 10, 31, 32, 1023, 1024, 1_048_575]
            .iter()
            .map(|n| AttemptId::new(*n, u64::MAX - u64::from(*n) * 77).unwrap())
            .collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        assert_eq!(AttemptId::new(1_048_576, 0), Err(NameError::AttemptTooGreat));
    }

    #[test]
    fn the_longest_name_has_58_characters() {
        let name =
            MintName::new("install", UID, 60_466_175, AttemptId::new(1_048_575, u64::MAX).unwrap()).unwrap();
        assert_eq!(name.to_string().len(), 58);
        assert_eq!(
            MintName::new("install", UID, 60_466_176, AttemptId::new(0, 0).unwrap()),
            Err(NameError::VersionTooGreat)
        );
    }

    #[test]
    fn other_names_are_not_ours() {
        let ours = MintName::new("install", UID, 3, AttemptId::new(2, 5).unwrap()).unwrap().to_string();
        assert!(ours.parse::<MintName>().is_ok());
        for other in [
            String::new(),
            "lk1-".to_owned(),
            "lk1----".to_owned(),
            ours.to_uppercase(),
            ours.replacen("lk1", "lk2", 1),
            format!("{ours}x"),
            format!("{ours}-x"),
            ours.replace("-3-", "-03-"),
            ours.replace("-3-", "--"),
            ours.replace("-3-", "-zzzzzz-"),
            ours.replace("-3-", "-é-"),
            ours.replace("00020", "0z020"),
        ] {
            assert_eq!(other.parse::<MintName>(), Err(NameError::NotOurs), "{other}");
        }
    }

    #[test]
    fn published_vectors() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/names.json")).unwrap();
        let text = |value: &serde_json::Value, field: &str| value[field].as_str().unwrap().to_owned();
        let number = |value: &serde_json::Value, field: &str| value[field].as_u64().unwrap();
        for ledger in file["ledgers"].as_array().unwrap() {
            assert_eq!(
                ledger_name(&text(ledger, "namespace"), &text(ledger, "name")),
                text(ledger, "secret")
            );
        }
        for account in file["accounts"].as_array().unwrap() {
            let name = account_ledger_name(&text(account, "type"), &text(account, "account"));
            assert_eq!(name, text(account, "secret"));
        }
        for mint in file["mintNames"].as_array().unwrap() {
            let small = |field| u32::try_from(number(mint, field)).unwrap();
            let attempt = AttemptId::new(small("attempt"), number(mint, "random")).unwrap();
            let name =
                MintName::new(&text(mint, "install"), &text(mint, "lineage"), small("version"), attempt)
                    .unwrap();
            assert_eq!(name.to_string(), text(mint, "mintName"));
        }
    }

    proptest! {
        #[test]
        fn names_read_back(install in ".{0,40}", uid in ".{0,40}", version in 0u32..60_466_176, number in 0u32..1_048_576, random in any::<u64>()) {
            let name = MintName::new(&install, &uid, version, AttemptId::new(number, random).unwrap()).unwrap();
            let text = name.to_string();
            prop_assert!(text.len() <= 59 && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-')));
            prop_assert_eq!(name.attempt_number(), number);
            prop_assert_eq!(text.parse::<MintName>().unwrap(), name);
        }

        #[test]
        fn any_text_that_parses_is_its_own_spelling(text in "lk1-[a-z2-7]{8}-[a-z2-7]{26}-[0-9a-z]{1,6}-[0-9a-z]{11,13}") {
            if let Ok(name) = text.parse::<MintName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn slots_are_stable_and_within_the_interval(lineage in ".{0,40}", seconds in 1u64..1_000_000) {
            let interval = Duration::from_secs(seconds);
            let offset = slot_offset(&lineage, interval);
            prop_assert!(offset < interval);
            prop_assert_eq!(offset, slot_offset(&lineage, interval));
        }
    }

    #[test]
    fn slots_spread_evenly() {
        let interval = Duration::from_secs(1000);
        let mut tenths = [0; 10];
        for n in 0..10_000 {
            let offset = slot_offset(&format!("lineage-{n}"), interval).as_secs() / 100;
            tenths[usize::try_from(offset).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (850..1150).contains(n)), "{tenths:?}");
    }
}
