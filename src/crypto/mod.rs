//! Secret bytes, envelope and keyring.
