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

/// Does not compile if key material could be printed or serialized: then more than one `Never` would fit.
const _: () = {
    trait Never<T> {
        const FITS: bool = true;
    }
    struct Printed;
    struct Shown;
    struct Serialized;
    impl<T: ?Sized> Never<()> for T {}
    impl<T: ?Sized + std::fmt::Debug> Never<Printed> for T {}
    impl<T: ?Sized + std::fmt::Display> Never<Shown> for T {}
    impl<T: ?Sized + serde::Serialize> Never<Serialized> for T {}
    assert!(<SecretBytes as Never<_>>::FITS);
};
