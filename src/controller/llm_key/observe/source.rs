//! The source Secret: whether it may be used, and what it holds.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;

use super::{Seeing, facts};
use crate::api::{LLMKey, Reason};
use crate::controller::context::Ctx;
use crate::controller::index::owner;
use crate::controller::llm_key::memory::Seen;
use crate::controller::llm_key::model::SourceView;
use crate::controller::llm_key::requester::of_entry;
use crate::crypto::SecretBytes;
use crate::provider::check_shape;

/// Types of Secret that hold a key a person wrote down.
const SOURCE_TYPES: [&str; 1] = ["Opaque"];

pub(super) async fn read_source(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let Some(reference) = &key.spec.source.secret_ref else { return Ok(()) };
    let namespace = &seeing.observed.key.namespace;
    let problem =
        |reason, message: String| SourceView::Problem(reason, format!("spec.source.secretRef: {message}"));
    let place = format!("Secret {namespace}/{}", reference.name);
    if ctx.index.is_target(namespace, &reference.name) {
        seeing.observed.source = problem(
            Reason::SourceIsTarget,
            format!("{place} is the target of an LLMKey; name the Secret that you write"),
        );
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(mut secret) = api.get_opt(&reference.name).await? else {
        seeing.remember.source = None;
        seeing.observed.source =
            problem(Reason::SourceNotFound, format!("{place} does not exist; create it"));
        return Ok(());
    };
    seeing.remember.source =
        secret.resource_version().map(|v| Seen { resource_version: v.into_boxed_str(), first_hand: true });
    seeing.observed.supplied_by = of_entry(&secret.metadata, &reference.key);
    let type_ = secret.type_.clone().unwrap_or_default();
    if !SOURCE_TYPES.contains(&type_.as_str()) || owner(secret.owner_references()).is_some() {
        seeing.observed.source = problem(
            Reason::SourceTypeRefused,
            format!(
                "{place} has type {type_}; a key is taken only from a Secret of type Opaque that the operator does not write"
            ),
        );
        return Ok(());
    }
    let Some(value) = secret.data.take().and_then(|mut data| data.remove(&reference.key)) else {
        seeing.observed.source =
            problem(Reason::SourceKeyMissing, format!("{place} has no key {}; add it", reference.key));
        return Ok(());
    };
    let value = trimmed(SecretBytes::new(value.0));
    let Some(kind) = seeing.held.endpoint.as_ref().map(crate::provider::Endpoint::provider) else {
        // Whose key it would be is not known: it is looked at when it is.
        seeing.remember.source = None;
        seeing.observed.source = SourceView::Unchanged;
        return Ok(());
    };
    seeing.observed.source = if let Err(error) = check_shape(kind, &value) {
        problem(Reason::SourceShapeRefused, format!("the value of {} in {place}: {error}", reference.key))
    } else {
        let facts = facts(ctx, namespace, &value);
        seeing.held.source = Some(value);
        SourceView::Value(facts)
    };
    Ok(())
}

/// Tools that write files add a line break; it is never part of a key.
fn trimmed(value: SecretBytes) -> SecretBytes {
    let kept = value.expose().trim_ascii_end().len();
    if kept == value.len() { value } else { SecretBytes::new(value.expose()[..kept].to_vec()) }
}
