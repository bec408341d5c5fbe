//! The source Secret, or one of a pool: whether it may be used, and what it holds.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use sha2::{Digest, Sha256};

use super::{Seeing, facts};
use crate::api::{LLMKey, Reason, SecretKeyRef};
use crate::controller::context::Ctx;
use crate::controller::index::owner;
use crate::controller::llm_key::memory::Seen;
use crate::controller::llm_key::model::{KeyView, SourceView};
use crate::controller::llm_key::requester::of_entry;
use crate::crypto::SecretBytes;
use crate::ledger::Requester;
use crate::provider::{Endpoint, check_shape};

/// Types of Secret that hold a key a person wrote down.
const SOURCE_TYPES: [&str; 1] = ["Opaque"];

/// What a Secret holds.
pub struct SourceValue {
    /// For decisions.
    pub view: SourceView,
    /// The key, where the view is a value.
    pub key: Option<SecretBytes>,
    /// The Secret's version; none if there is no Secret, or nobody knows whose key it would be.
    pub seen: Option<Seen>,
    /// Who last wrote the entry.
    pub by: Option<Requester>,
}

impl SourceValue {
    const fn without_key(view: SourceView, seen: Option<Seen>) -> Self {
        Self { view, key: None, seen, by: None }
    }
}

pub(super) async fn read_source(ctx: &Ctx, key: &LLMKey, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let namespace = &seeing.observed.key.namespace;
    if !seeing.observed.key.pool.is_empty() {
        // Which of its Secrets are read is decided later. What the watch shows now is not newer than what is read then.
        let known = seeing.held.endpoint.is_some();
        seeing.remember.source =
            known.then(|| Seen { resource_version: versions(ctx, &seeing.observed.key), first_hand: false });
        seeing.observed.source = if known { SourceView::None } else { SourceView::Unchanged };
        return Ok(());
    }
    let Some(reference) = &key.spec.source.secret_ref else { return Ok(()) };
    let value =
        read_value(ctx, namespace, reference, seeing.held.endpoint.as_ref(), "spec.source.secretRef: ")
            .await?;
    if !matches!(value.view, SourceView::Problem(Reason::SourceIsTarget, _)) {
        seeing.remember.source = value.seen;
    }
    if value.key.is_some() {
        seeing.held.source = value.key;
    }
    seeing.observed.supplied_by = value.by;
    seeing.observed.source = value.view;
    Ok(())
}

/// Reads one key of a Secret; `place` begins what is said of a problem.
pub async fn read_value(
    ctx: &Ctx,
    namespace: &str,
    reference: &SecretKeyRef,
    endpoint: Option<&Endpoint>,
    place: &str,
) -> Result<SourceValue, kube::Error> {
    let problem = |reason, message: String| SourceView::Problem(reason, format!("{place}{message}"));
    let place = format!("Secret {namespace}/{}", reference.name);
    if ctx.index.is_target(namespace, &reference.name) {
        let view = problem(
            Reason::SourceIsTarget,
            format!("{place} is the target of an LLMKey; name the Secret that you write"),
        );
        return Ok(SourceValue::without_key(view, None));
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(mut secret) = api.get_opt(&reference.name).await? else {
        let view = problem(Reason::SourceNotFound, format!("{place} does not exist; create it"));
        return Ok(SourceValue::without_key(view, None));
    };
    let seen =
        secret.resource_version().map(|v| Seen { resource_version: v.into_boxed_str(), first_hand: true });
    let by = of_entry(&secret.metadata, &reference.key);
    let type_ = secret.type_.clone().unwrap_or_default();
    if !SOURCE_TYPES.contains(&type_.as_str()) || owner(secret.owner_references()).is_some() {
        let view = problem(
            Reason::SourceTypeRefused,
            format!(
                "{place} has type {type_}; a key is taken only from a Secret of type Opaque that the operator does not write"
            ),
        );
        return Ok(SourceValue::without_key(view, seen));
    }
    let Some(value) = secret.data.take().and_then(|mut data| data.remove(&reference.key)) else {
        let view = problem(Reason::SourceKeyMissing, format!("{place} has no key {}; add it", reference.key));
        return Ok(SourceValue::without_key(view, seen));
    };
    let value = trimmed(SecretBytes::new(value.0));
    let Some(kind) = endpoint.map(Endpoint::provider) else {
        // Whose key it would be is not known: it is looked at when it is.
        return Ok(SourceValue::without_key(SourceView::Unchanged, None));
    };
    if let Err(error) = check_shape(kind, &value) {
        let view = problem(
            Reason::SourceShapeRefused,
            format!("the value of {} in {place}: {error}", reference.key),
        );
        return Ok(SourceValue::without_key(view, seen));
    }
    Ok(SourceValue { view: SourceView::Value(facts(ctx, namespace, &value)), key: Some(value), seen, by })
}

/// Whether the watch shows all Secrets of a pool as they were when they were last looked at.
pub(super) fn pool_unchanged(ctx: &Ctx, key: &KeyView, seen: Option<&Seen>) -> bool {
    seen.is_some_and(|seen| seen.resource_version == versions(ctx, key))
}

/// The versions of a pool's Secrets as the watch shows them, in one word: changes whenever one of them does.
fn versions(ctx: &Ctx, key: &KeyView) -> Box<str> {
    let mut hash = Sha256::new();
    for member in &key.pool {
        let watched = ctx.index.secret(&key.namespace, &member.secret_ref.name);
        let version = watched.filter(|w| !w.gone).map_or_else(String::new, |w| w.resource_version.into());
        for text in [&member.name, &member.secret_ref.name, &member.secret_ref.key, &version] {
            hash.update(text);
            hash.update([0]);
        }
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())[..32].into()
}

/// Tools that write files add a line break; it is never part of a key.
fn trimmed(value: SecretBytes) -> SecretBytes {
    let kept = value.expose().trim_ascii_end().len();
    if kept == value.len() { value } else { SecretBytes::new(value.expose()[..kept].to_vec()) }
}
