use std::fs;

use super::*;
use crate::provider::{
    Admin, Capabilities,
    usage::{Report, UsageReports},
};

/// The row of a capability, by the name that an `LLMProvider`'s status shows.
fn row(capability: &str) -> Feature {
    match capability {
        "Validate" => Validate,
        "Mint" => Mint,
        "List" => List,
        "Revoke" => Revoke,
        "Disable" => Disable,
        "LastUsed" => LastUsed,
        "Match" => Match,
        "Usage" => Usage,
        _ => {
            panic!("{capability} is a new capability: give it a row in Feature, and a fact at each provider")
        }
    }
}

/// Whether this build does it at the provider; none where no capability tells.
fn is_done_at(provider: ProviderType, feature: Feature) -> Option<bool> {
    let mut capabilities = Capabilities::of(provider, true).names();
    let usage = dialect(provider).admin().and_then(Admin::usage);
    let ends_unverified = dialect(provider).admin().is_some_and(Admin::revocation_is_unverified);
    let reports = usage.map(UsageReports::reports).unwrap_or_default();
    match feature {
        Usage => Some(
            reports.iter().any(|r| matches!(r, Report::Completions | Report::Embeddings | Report::Messages)),
        ),
        Cost => Some(reports.iter().any(|r| matches!(r, Report::Costs | Report::Keys))),
        // No capability where nothing documents the call, which is made by consent all the same.
        Revoke | Confirm => Some(ends_unverified || capabilities.any(|name| row(name) == Revoke)),
        // The one client reads that header whoever sends it.
        RetryAfter => Some(true),
        // The cases of tests/contract show the first; nothing in the program does the others.
        Credit => None,
        RateHeaders => Some(false),
        // `bedrock.credentialAgeDays`.
        Expiry => Some(provider == ProviderType::Bedrock),
        Validate | Mint | List | Disable | Match | LastUsed => {
            Some(capabilities.any(|name| row(name) == feature))
        }
    }
}

fn cells() -> impl Iterator<Item = (ProviderType, Feature)> {
    ALL.into_iter().flat_map(|provider| Feature::ALL.map(|feature| (provider, feature)))
}

#[test]
fn every_feature_of_every_provider_has_one_fact_with_a_source() {
    for (provider, feature) in cells() {
        let facts = dialect(provider).facts().iter().filter(|fact| fact.features.contains(&feature));
        let facts: Vec<_> = facts.collect();
        assert_eq!(facts.len(), 1, "facts() of {provider:?} must speak of {feature:?} once");
        assert!(facts[0].source.len() > 12, "{provider:?} {feature:?}: the fact names no source");
        for text in [facts[0].source, facts[0].limits] {
            assert!(!text.contains(['|', '\n']), "{provider:?} {feature:?}: not for a table: {text}");
        }
    }
}

#[test]
fn what_a_fact_says_is_done_is_what_the_program_can() {
    for (provider, feature) in cells() {
        let fact = fact(provider, feature).unwrap();
        let never = fact.standing == Standing::NotOffered;
        assert!(!(never && fact.done), "{provider:?} {feature:?} is done, and not offered");
        if let Some(done) = is_done_at(provider, feature) {
            let wanted = if done { "done" } else { "not done, or not offered" };
            assert_eq!(fact.done, done, "{provider:?} {feature:?} is {wanted}: say so in its facts()");
        }
    }
}

#[test]
fn every_capability_has_a_fact_that_says_done() {
    for provider in ALL {
        for capability in Capabilities::of(provider, true).names() {
            let fact = fact(provider, row(capability)).unwrap();
            let offered = fact.standing != Standing::NotOffered;
            // Requests and tokens may be missing where only costs are told.
            assert!(offered && (fact.done || capability == "Usage"), "{provider:?} {capability}");
        }
    }
}

#[test]
fn the_docs_have_the_facts_of_this_build() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = fs::read_to_string(docs.join("providers.md")).unwrap();
    let wanted =
        with_support_matrix(&page).expect("docs/providers.md has lost the marks of its support matrix");
    assert!(page == wanted, "docs/providers.md is stale; run `make crds`");
    let sources = fs::read_to_string(docs.join("provider-matrix.md")).unwrap_or_default();
    assert!(sources == support_sources(), "docs/provider-matrix.md is stale; run `make crds`");
}
