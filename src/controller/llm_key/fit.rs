//! Why no key is made for an LLMKey at an account that could make some.

use kube::ResourceExt;

use crate::api::{LLMKey, LLMProvider, ProviderType, Reason};
use crate::controller::context::Ctx;
use crate::provider::{Capabilities, Capability, MintKind};

/// Why no key is made for an LLMKey that has none yet: others of its namespace have as many as the LLMProvider allows, or were
/// there first.
pub(super) fn over_limit(ctx: &Ctx, provider: &LLMProvider, key: &LLMKey) -> Option<(Reason, String)> {
    let limit = provider.spec.limits.and_then(|limits| limits.keys_per_namespace)?;
    let begun = |key: &LLMKey| key.status.as_ref().is_some_and(|status| !status.versions.is_empty());
    if begun(key) || !key.spec.source.is_made() {
        return None;
    }
    let claim = |key: &LLMKey| (key.creation_timestamp(), key.uid());
    let mine = claim(key);
    let keys = ctx.stores.keys.state();
    let before = keys.iter().filter_map(|other| other.0.as_ref().ok()).filter(|other| {
        other.namespace() == key.namespace()
            && other.spec.provider_ref == key.spec.provider_ref
            && other.spec.source.is_made()
            && other.uid() != key.uid()
            && (begun(other) || claim(other) < mine)
    });
    let name = provider.name_any();
    (before.count() >= usize::try_from(limit).unwrap_or_default()).then(|| {
        let message = format!(
            "LLMProvider {name} makes keys for {limit} LLMKey(s) of a namespace, and others have them; delete one, or \
             ask the platform's administrators for more"
        );
        (Reason::KeyLimit, message)
    })
}

/// A source that makes keys in another way than the account does.
pub(super) fn misfit(
    key: &LLMKey,
    provider: &LLMProvider,
    capabilities: Capabilities,
) -> Option<(Reason, String)> {
    let slots = capabilities.mint_kind() == MintKind::Slots;
    let source = &key.spec.source;
    if source.mint.is_some() && !capabilities.has(Capability::Mint) && capabilities.has(Capability::List) {
        return Some(no_minting(provider));
    }
    let (written, right, why) = match (source.mint.is_some(), source.slots.is_some(), slots) {
        (true, _, true) => {
            ("mint", "slots", "an account of it has two fixed slots, whose keys are made anew in turn")
        }
        (_, true, false) => ("slots", "mint", "keys of it are made one by one, not in fixed slots"),
        _ => return None,
    };
    let message = format!(
        "spec.source: type {}: {why}; write `source: {{{right}: {{}}}}` instead of `{written}`",
        provider.spec.r#type.as_str()
    );
    Some((Reason::NotSupported, message))
}

/// Why an account that can be called makes no keys.
fn no_minting(provider: &LLMProvider) -> (Reason, String) {
    if provider.spec.r#type == ProviderType::Mistral {
        let message = format!(
            "Mistral documents no call that ends a key, so none is made: supply keys (source.secretRef, or source.pool for several); or set \
             mistral.allowUnrecoverableMint of LLMProvider {} and delete by hand what cannot be ended",
            provider.name_any()
        );
        return (Reason::UnrecoverableMint, message);
    }
    let message = format!(
        "{}'s API makes no keys: supply them (source.secretRef, or source.pool for several)",
        provider.spec.r#type.as_str()
    );
    (Reason::NotSupported, message)
}
