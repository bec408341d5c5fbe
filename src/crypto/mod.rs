//! Secret bytes, envelope, keyring, fingerprints and the ledger's MAC.
//!
//! `docs/cryptography.md` states each construction byte for byte, and `tests/vectors/` holds published values.

mod base64;
mod entropy;
mod envelope;
mod fingerprint;
mod keyring;
mod mac;
mod secret;

pub use entropy::{Entropy, EntropyError, SystemEntropy};
pub use envelope::{ENVELOPE_FORMAT, Envelope, Identity, OpenError, SealError, open, seal};
pub use fingerprint::{Fingerprint, FingerprintError, InstallKey, InstallKeyError, last_four};
pub use keyring::{KEY_ENTRY_PREFIX, Keyring, KeyringChange, KeyringError, PRIMARY_ENTRY, SharedKeyring};
pub use mac::{LedgerMac, LedgerMacError, sign_ledger, verify_ledger};
pub use secret::SecretBytes;

/// Appends `field` with its length before it (32 bits, big-endian), so that no two lists of fields have one encoding.
fn push_prefixed(out: &mut Vec<u8>, field: &[u8]) {
    // A field longer than 4 GiB cannot come from an API object; saturating keeps the function total.
    out.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(field);
}

#[cfg(test)]
mod vectors;
