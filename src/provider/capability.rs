//! What a provider type lets us do.

use std::fmt;

use super::Minting;
use crate::api::{LLMProviderSpec, ProviderType};

/// One thing that can be done at a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Tell when a key was last used.
    LastUsed,
    /// List the keys of the account.
    List,
    /// Tell which key of the account a supplied one is.
    Match,
    /// Create a key.
    Mint,
    /// End a key.
    Revoke,
    /// Report what each key has used.
    Usage,
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
            Self::Match => "Match",
            Self::Mint => "Mint",
            Self::Revoke => "Revoke",
            Self::Usage => "Usage",
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

/// How keys are made, which decides what becomes of a lost answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MintKind {
    /// The provider chooses the key and shows it once. A lost answer leaves a stray: it is revoked, and another key is made.
    #[default]
    ShownOnce,
    /// The same where keys have no names, at an account that one `LLMKey` has for itself. What is there that was not there before the first
    /// key was asked for, and that no version has, is the stray.
    Unnamed,
    /// The operator chooses the key and seals it before the call. After a lost answer the same key is made, or found.
    CallerChosen,
    /// The operator chooses the key's id and has it on record before the call; the provider chooses the key, which can be read again as
    /// long as it is there. After a lost answer the same key is read. An id is never free again.
    CallerNamed,
    /// The account has a fixed number of slots, each with a key that can be read again; one is made anew, which ends the key that it
    /// had. After a lost answer the slot tells whether that has happened.
    Slots,
}

/// A set of capabilities, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    has: &'static [Capability],
    mint: MintKind,
    for_one: bool,
}

impl Capabilities {
    const VALIDATION: Self = Self::new(&[Capability::Validate]);

    pub(super) const fn new(sorted: &'static [Capability]) -> Self {
        Self { has: sorted, mint: MintKind::ShownOnce, for_one: false }
    }

    /// The same at an account whose keys are fixed in number.
    #[must_use]
    pub const fn for_one(self) -> Self {
        Self { for_one: true, ..self }
    }

    /// What this build can do at a provider of the type; without an account (project and admin credential) only
    /// validation.
    pub fn of(provider: ProviderType, with_account: bool) -> Self {
        match super::dialect(provider).admin() {
            Some(admin) if with_account => {
                let mint = match admin.minting() {
                    Minting::Never | Minting::ShownOnce(_) => MintKind::ShownOnce,
                    Minting::Unnamed(_) => MintKind::Unnamed,
                    Minting::CallerChosen(_) => MintKind::CallerChosen,
                    Minting::CallerNamed(_) => MintKind::CallerNamed,
                    Minting::Slots(_) => MintKind::Slots,
                };
                Self { mint, ..admin.capabilities() }
            }
            _ => Self::VALIDATION,
        }
    }

    /// The same for what an `LLMProvider` says: whoever has not consented to what cannot be undone makes no keys there.
    pub fn of_spec(spec: &LLMProviderSpec, with_account: bool) -> Self {
        let all = Self::of(spec.r#type, with_account);
        let consents = spec.mistral.as_ref().is_some_and(|block| block.allow_unrecoverable_mint);
        if spec.r#type == ProviderType::Mistral && with_account && !consents {
            return Self { has: &[Capability::List, Capability::Validate], ..all };
        }
        all
    }

    /// Whether the set holds it.
    pub fn has(self, capability: Capability) -> bool {
        self.has.contains(&capability)
    }

    /// How keys are made, where they are.
    pub const fn mint_kind(self) -> MintKind {
        self.mint
    }

    /// Whether an account's keys are fixed in number, so that one `LLMKey` has it for itself.
    pub const fn is_for_one(self) -> bool {
        self.for_one
    }

    /// The names, sorted, as an `LLMProvider`'s status shows them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.has.iter().map(|capability| capability.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_account_can_do_depends_on_its_provider() {
        let all: Vec<_> = Capabilities::of(ProviderType::OpenAI, true).names().collect();
        assert_eq!(all, ["LastUsed", "List", "Mint", "Revoke", "Usage", "Validate"]);
        assert!(!Capabilities::of(ProviderType::OpenAI, true).has(Capability::Disable));
        let router: Vec<_> = Capabilities::of(ProviderType::OpenRouter, true).names().collect();
        assert_eq!(router, ["Disable", "List", "Mint", "Revoke", "Usage", "Validate"]);
        let proxy = Capabilities::of(ProviderType::LiteLLM, true);
        assert_eq!(
            proxy.names().collect::<Vec<_>>(),
            ["Disable", "List", "Mint", "Revoke", "Usage", "Validate"]
        );
        assert_eq!(proxy.mint_kind(), MintKind::CallerChosen);
        assert_eq!(Capabilities::of(ProviderType::OpenAI, true).mint_kind(), MintKind::ShownOnce);
        let slots = Capabilities::of(ProviderType::AzureOpenAI, true);
        assert_eq!(slots.names().collect::<Vec<_>>(), ["Mint", "Revoke", "Validate"]);
        assert!(slots.is_for_one() && !proxy.is_for_one());
        assert_eq!(slots.mint_kind(), MintKind::Slots);
        let google = Capabilities::of(ProviderType::Google, true);
        assert_eq!(google.names().collect::<Vec<_>>(), ["List", "Mint", "Revoke", "Validate"]);
        assert!(google.mint_kind() == MintKind::CallerNamed && !google.is_for_one());
        let user = Capabilities::of(ProviderType::Bedrock, true);
        assert_eq!(user.names().collect::<Vec<_>>(), ["Disable", "List", "Mint", "Revoke", "Validate"]);
        assert!(user.mint_kind() == MintKind::Unnamed && user.is_for_one());
        let told = Capabilities::of(ProviderType::Anthropic, true);
        assert_eq!(
            told.names().collect::<Vec<_>>(),
            ["Disable", "List", "Match", "Revoke", "Usage", "Validate"]
        );
        let xai: Vec<_> = Capabilities::of(ProviderType::XAI, true).names().collect();
        assert_eq!(xai, ["Disable", "List", "Mint", "Revoke", "Validate"]);
        let bare: Vec<_> = Capabilities::of(ProviderType::OpenAI, false).names().collect();
        assert_eq!(bare, ["Validate"]);
        for provider in [ProviderType::Anthropic, ProviderType::Groq, ProviderType::OpenAICompatible] {
            assert!(!Capabilities::of(provider, true).has(Capability::Mint));
            assert!(Capabilities::of(provider, true).has(Capability::Validate));
        }
    }
}
