//! Secret bytes, envelope and keyring.

mod secret;

pub use secret::SecretBytes;
