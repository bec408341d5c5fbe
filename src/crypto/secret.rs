//! The one type that our own copies of a key live in.

use zeroize::Zeroizing;

/// Key material: wiped on drop, without `Debug`, `Display` or `Serialize`, so that it cannot be logged by accident.
///
/// Buffers inside HTTP and JSON libraries are not covered; `docs/security.md` says so.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the caller's other copies are the caller's to wipe.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Takes over a string's buffer without copying it.
    pub fn from_string(text: String) -> Self {
        Self::new(text.into_bytes())
    }

    /// The bytes themselves. Every caller is a place where a key could leave: keep them few.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for SecretBytes {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}
