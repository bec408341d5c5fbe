//! Randomness as an argument: the operator passes the system's source, published vectors pass fixed bytes.

/// A source of bytes that nobody can guess.
pub trait Entropy {
    /// Fills the whole buffer, or fails without a partial promise.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntropyError>;
}

/// The random source failed. Nothing may be sealed or generated without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed")]
pub struct EntropyError;

/// The operating system's random source. It holds no state of its own, so two processes that continue from one memory
/// image still draw different bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buffer).map_err(|_| EntropyError)
    }
}
