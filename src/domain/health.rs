//! What a provider's reply says about a key, and the fold of replies into the key's health.

use std::time::Duration;

/// What one validation call said of the key. Only [`Verdict::Rejected`] is the key's own rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The provider accepted the key.
    Valid,
    /// The provider rejected this key, by a code that speaks of the key alone.
    Rejected,
    /// The provider says that the key exists and is switched off.
    Disabled,
    /// The provider says that the key's lifetime is over.
    Expired,
    /// Accepted, but the key may not use the call that checks it.
    RestrictedScope,
    /// The key is accepted; its account has no credit or budget left.
    OutOfCredit,
    /// Throttled: says nothing of the key.
    RateLimited {
        /// How long the provider asks us to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx, TLS, DNS, connection or time-out: says nothing of the key.
    ProviderDown,
    /// An answer that could not be understood: says nothing of the key.
    Unknown,
}

impl Verdict {
    /// The key works at the provider, whatever else is wrong.
    pub fn accepts(self) -> bool {
        matches!(self, Self::Valid | Self::RestrictedScope | Self::OutOfCredit)
    }

    /// The provider spoke of this key and refused it.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Rejected | Self::Disabled | Self::Expired)
    }
}
