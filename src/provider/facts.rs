//! What is known of each provider's API, with its source, and what this program does with it: the support matrix of the docs.
//!
//! The facts stand beside each provider's code ([`super::Dialect::facts`]). `crdgen` writes them into the docs; the tests below hold them
//! against the capability sets.

use std::fmt::Write as _;

use super::{ALL, default_base_url, dialect};
use crate::api::ProviderType;

/// A row of what is told of each provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Feature {
    /// Asking whether a key is accepted, without using tokens.
    Validate,
    /// Making keys.
    Mint,
    /// Listing keys.
    List,
    /// Ending keys.
    Revoke,
    /// Asking whether a key has ended.
    Confirm,
    /// Switching keys off, and on again.
    Disable,
    /// Telling which key of the account a supplied one is.
    Match,
    /// Telling when a key was last used.
    LastUsed,
    /// Reporting requests and tokens by key.
    Usage,
    /// Reporting cost by key.
    Cost,
    /// Saying that a key, or its account, has nothing left to spend.
    Credit,
    /// Saying how long to wait after a 429.
    RetryAfter,
    /// Telling in headers what is left of the limits of rate.
    RateHeaders,
    /// Making keys that end by themselves.
    Expiry,
}

use Feature::{
    Confirm, Cost, Credit, Disable, Expiry, LastUsed, List, Match, Mint, RateHeaders, RetryAfter, Revoke,
    Usage, Validate,
};

/// Everything that needs an API that manages keys: what is not offered together.
pub(super) const MANAGEMENT: &[Feature] =
    &[Mint, List, Revoke, Confirm, Disable, Match, LastUsed, Usage, Cost, Expiry];

impl Feature {
    /// All of them, as the table has them.
    pub(super) const ALL: [Self; 14] = [
        Validate,
        Mint,
        List,
        Revoke,
        Confirm,
        Disable,
        Match,
        LastUsed,
        Usage,
        Cost,
        Credit,
        RetryAfter,
        RateHeaders,
        Expiry,
    ];

    /// Its title in the docs.
    const fn title(self) -> &'static str {
        match self {
            Validate => "Validate",
            Mint => "Mint",
            List => "List",
            Revoke => "Revoke",
            Confirm => "Confirm",
            Disable => "Switch off",
            Match => "Match",
            LastUsed => "Last use",
            Usage => "Usage",
            Cost => "Cost",
            Credit => "Credit",
            RetryAfter => "Wait",
            RateHeaders => "Limits",
            Expiry => "Expiry",
        }
    }
}

/// How sure a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// The provider's own specification, reference or SDK says so.
    Documented,
    /// Public clients and logs show it.
    Inferred,
    /// Nothing that was found says so.
    Unverified,
    /// Its API has no such thing.
    NotOffered,
}

/// What is known of some features at one provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    /// The features that it speaks of.
    pub(super) features: &'static [Feature],
    /// How sure it is.
    pub(super) standing: Standing,
    /// Whether this program does it.
    pub(super) done: bool,
    /// Where it is from: a URL, or a document with its version.
    pub(super) source: &'static str,
    /// What it is limited to; may be empty.
    pub(super) limits: &'static str,
}

impl Fact {
    const fn new(standing: Standing, features: &'static [Feature], source: &'static str) -> Self {
        let done = !matches!(standing, Standing::NotOffered);
        Self { features, standing, done, source, limits: "" }
    }

    pub(super) const fn documented(features: &'static [Feature], source: &'static str) -> Self {
        Self::new(Standing::Documented, features, source)
    }

    pub(super) const fn inferred(features: &'static [Feature], source: &'static str) -> Self {
        Self::new(Standing::Inferred, features, source)
    }

    pub(super) const fn unverified(features: &'static [Feature], source: &'static str) -> Self {
        Self::new(Standing::Unverified, features, source)
    }

    pub(super) const fn not_offered(features: &'static [Feature], source: &'static str) -> Self {
        Self::new(Standing::NotOffered, features, source)
    }

    /// The same of what the API has and this program leaves alone.
    pub(super) const fn not_done(self) -> Self {
        Self { done: false, ..self }
    }

    /// The same with what it is limited to.
    pub(super) const fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    const fn mark(&self) -> &'static str {
        match (self.standing, self.done) {
            (Standing::NotOffered, _) => "–",
            (Standing::Documented, true) => "**D**",
            (Standing::Inferred, true) => "**I**",
            (Standing::Unverified, true) => "**U**",
            (Standing::Documented, false) => "(D)",
            (Standing::Inferred, false) => "(I)",
            (Standing::Unverified, false) => "(U)",
        }
    }

    const fn words(&self) -> &'static str {
        match (self.standing, self.done) {
            (Standing::NotOffered, _) => "not offered",
            (Standing::Documented, true) => "documented",
            (Standing::Inferred, true) => "inferred",
            (Standing::Unverified, true) => "unverified",
            (Standing::Documented, false) => "documented; not done",
            (Standing::Inferred, false) => "inferred; not done",
            (Standing::Unverified, false) => "unverified; not done",
        }
    }
}

/// The fact that speaks of a feature at a provider.
pub(super) fn fact(provider: ProviderType, feature: Feature) -> Option<&'static Fact> {
    dialect(provider).facts().iter().find(|fact| fact.features.contains(&feature))
}

/// Where the table stands in `docs/providers.md`.
const BEGIN: &str = "<!-- The support matrix, as `make crds` writes it. -->\n";
const END: &str = "<!-- The end of the support matrix. -->\n";

/// `docs/providers.md` with the table of this build between its two marks; none: the page has no such marks.
pub fn with_support_matrix(page: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", matrix()))
}

fn matrix() -> String {
    let mut table = String::from("| Type |");
    for feature in Feature::ALL {
        let _ = write!(table, " {} |", feature.title());
    }
    let _ = write!(table, " Public URL |\n|---|{}---|\n", "---|".repeat(Feature::ALL.len()));
    for provider in ALL {
        let _ = write!(table, "| {} |", provider.as_str());
        for feature in Feature::ALL {
            let _ = write!(table, " {} |", fact(provider, feature).map_or("?", Fact::mark));
        }
        let url = default_base_url(provider).map_or("none".to_owned(), |url| format!("`{url}`"));
        let _ = writeln!(table, " {url} |");
    }
    table
}

/// `docs/provider-matrix.md`: each mark with its source.
pub fn support_sources() -> String {
    let mut page = String::from(
        "# What is known of each provider\n\n\
         `make crds` writes this page from the facts beside each provider's code. [providers.md](providers.md#what-works-where) has the same as\n\
         one table, and what the words mean. Nothing here was measured against a live account.\n",
    );
    for provider in ALL {
        let _ = write!(
            page,
            "\n## {}\n\n| What | Standing | Source | Here |\n|---|---|---|---|\n",
            provider.as_str()
        );
        for fact in dialect(provider).facts() {
            let titles: Vec<&str> = fact.features.iter().map(|feature| feature.title()).collect();
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} |",
                titles.join(", "),
                fact.words(),
                fact.source,
                fact.limits
            );
        }
    }
    page
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
