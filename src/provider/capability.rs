//! What a provider type lets us do.

use std::fmt;

use crate::api::ProviderType;

/// One thing that can be done at a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Tell when a key was last used.
    LastUsed,
    /// List the keys of the account.
    List,
    /// Create a key.
    Mint,
    /// End a key.
    Revoke,
    /// Ask whether a key is accepted, without using tokens.
    Validate,
    /// Switch a key off, and on again.
    Disable,
}

impl Capability {
    /// The name shown in an `LLMProvider`'s status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LastUsed => "LastUsed",
            Self::List => "List",
            Self::Mint => "Mint",
            Self::Revoke => "Revoke",
            Self::Validate => "Validate",
            Self::Disable => "Disable",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of capabilities, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities(&'static [Capability]);

impl Capabilities {
    const VALIDATION: Self = Self(&[Capability::Validate]);

    pub(super) const fn new(sorted: &'static [Capability]) -> Self {
        Self(sorted)
    }

    /// What this build can do at a provider of the type; without an account (project and admin credential) only
    /// validation.
    pub fn of(provider: ProviderType, with_account: bool) -> Self {
        match super::dialect(provider).admin() {
            Some(admin) if with_account => admin.capabilities(),
            _ => Self::VALIDATION,
        }
    }

    /// Whether the set holds it.
    pub fn has(self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// The names, sorted, as an `LLMProvider`'s status shows them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|capability| capability.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_account_can_do_depends_on_its_provider() {
        let all: Vec<_> = Capabilities::of(ProviderType::OpenAI, true).names().collect();
        assert_eq!(all, ["LastUsed", "List", "Mint", "Revoke", "Validate"]);
        assert!(!Capabilities::of(ProviderType::OpenAI, true).has(Capability::Disable));
        let router: Vec<_> = Capabilities::of(ProviderType::OpenRouter, true).names().collect();
        assert_eq!(router, ["List", "Mint", "Revoke", "Validate"]);
        let bare: Vec<_> = Capabilities::of(ProviderType::OpenAI, false).names().collect();
        assert_eq!(bare, ["Validate"]);
        for provider in [ProviderType::Anthropic, ProviderType::Groq, ProviderType::OpenAICompatible] {
            assert!(!Capabilities::of(provider, true).has(Capability::Mint));
            assert!(Capabilities::of(provider, true).has(Capability::Validate));
        }
    }
}
