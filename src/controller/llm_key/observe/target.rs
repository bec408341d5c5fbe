//! The target Secret: whose it is, and which version it carries.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta};

use super::{Seeing, open};
use crate::api::{FIELD_MANAGER, LLMKey, Reason, from_k8s};
use crate::controller::context::Ctx;
use crate::controller::index::owner;
use crate::controller::llm_key::act::Held;
use crate::controller::llm_key::memory::Seen;
use crate::controller::llm_key::model::{LedgerView, TargetView};
use crate::domain::template;

pub(super) async fn read_target(ctx: &Ctx, seeing: &mut Seeing) -> Result<(), kube::Error> {
    let Seeing { observed: o, held, remember } = seeing;
    let (namespace, name) = (&o.key.namespace, &o.key.target_name);
    let watched = ctx.index.secret(namespace, name);
    let delivering = remember.target.is_some()
        || watched.as_ref().and_then(|w| w.owner.as_ref()).is_some_and(|(_, uid)| **uid == *o.key.uid);
    // Creation times have steps of a second and clocks differ: who delivers already is not asked to yield.
    if !delivering && let Some(other) = ctx.index.earlier_claimant(namespace, &o.key.name) {
        o.target = TargetView::Foreign(
            Reason::TargetConflict,
            format!("LLMKey {other} delivers to Secret {name} already; choose another target.secretName"),
        );
        return Ok(());
    }
    let first = matches!(o.ledger, LedgerView::Absent) && remember.target.is_none() && !held.look_again;
    if first && watched.is_none_or(|w| w.gone) {
        o.target = TargetView::Absent;
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(secret) = api.get_opt(name).await? else {
        held.target = None;
        o.target = TargetView::Absent;
        return Ok(());
    };
    let resource_version = secret.resource_version().unwrap_or_default();
    let uid = secret.uid().unwrap_or_default();
    o.target = match owner(secret.owner_references()) {
        Some((_, owner_uid)) if *owner_uid == *o.key.uid => {
            let mut carries = carried(ctx, &o.ledger, held, &secret, &o.key.name);
            if carries.is_none() && matches!(o.ledger, LedgerView::Present(_)) {
                // A version that another replica delivered after our ledger was read is in the ledger by now: it is recorded
                // before it is delivered. What the newer one does not know either is another hand's.
                o.ledger = super::read_ledger(ctx, namespace, &o.key.name, remember).await?;
                carries = carried(ctx, &o.ledger, held, &secret, &o.key.name);
            }
            let touched =
                remember.target.as_ref().is_none_or(|seen| *seen.resource_version != *resource_version);
            if carries.is_some() {
                remember.target =
                    Some(Seen { resource_version: resource_version.as_str().into(), first_hand: true });
            } else if touched {
                // Not found right: no glance may pass over it.
                remember.target = None;
            }
            TargetView::Ours { carries, since: written_at(&secret), changed: touched && carries.is_none() }
        }
        Some((owner, _)) if *owner == *o.key.name => TargetView::PreviousOwner,
        _ if secret.annotations().get(crate::api::ADOPT_BY).is_some_and(|by| *by == o.key.name) => {
            TargetView::Offered
        }
        Some((owner, _)) => TargetView::Foreign(
            Reason::TargetConflict,
            format!("Secret {name} belongs to LLMKey {owner}; choose another target.secretName"),
        ),
        None => TargetView::Foreign(
            Reason::TargetForeign,
            format!(
                "Secret {name} is not the operator's; choose another target.secretName, or let it be taken over: \
                 kubectl annotate secret {name} {}={}",
                crate::api::ADOPT_BY,
                o.key.name
            ),
        ),
    };
    if secret.type_.as_deref() != Some("Opaque") && !matches!(o.target, TargetView::Foreign(..)) {
        o.target = TargetView::Foreign(
            Reason::TargetForeign,
            format!(
                "Secret {name} has a type that cannot be changed; delete it, or choose another target.secretName"
            ),
        );
    }
    held.target = Some((resource_version, uid));
    Ok(())
}

/// The versions that the target may carry, with their keys opened into `held`: the one on its way, which may have been
/// written already, the delivered one, and the one that a replacement on record has not replaced yet. A spare, if the ledger is
/// older than the target.
fn deliverable(ctx: &Ctx, ledger: &LedgerView, held: &mut Held) -> Vec<i32> {
    let LedgerView::Present(ledger) = ledger else { return Vec::new() };
    let record = &ledger.record;
    let on_its_way = record.in_flight().filter(|v| v.sealed.is_some());
    let spare = record.spare().filter(|v| v.sealed.is_some());
    let known = on_its_way.into_iter().chain(record.delivered()).chain(record.current()).chain(spare);
    let numbers: Vec<i32> = known.map(|v| v.version).collect();
    for number in &numbers {
        open(ctx, ledger, *number, held);
    }
    numbers
}

/// The version that the Secret carries, of those that it may.
fn carried(ctx: &Ctx, ledger: &LedgerView, held: &mut Held, secret: &Secret, key: &str) -> Option<i32> {
    deliverable(ctx, ledger, held).into_iter().find(|version| carries(secret, held, *version, key))
}

/// Whether the Secret is exactly what delivering the version would write.
fn carries(secret: &Secret, held: &Held, version: i32, key: &str) -> bool {
    let Some(bytes) = held.keys.get(&version) else { return false };
    let Ok(rendered) = template::render(&held.texts.data, bytes, &held.texts.values(version)) else {
        return false;
    };
    let data = secret.data.as_ref();
    let labels = secret.labels();
    data.is_some_and(|d| d.len() == rendered.len())
        && rendered.iter().all(|(entry, value)| {
            data.and_then(|d| d.get(entry)).is_some_and(|found| found.0 == value.expose())
        })
        && labels.get(crate::api::MANAGED_BY_LABEL).map(String::as_str) == Some(crate::api::MANAGED_BY)
        && labels.get(crate::api::KEY_LABEL).is_some_and(|l| l == key)
}

/// When somebody last wrote the Secret's data, by the API server's clock: whole seconds, rounded up. If it was another hand, what
/// it held before that time is not known.
pub fn written_at(secret: &Secret) -> Option<DateTime<Utc>> {
    written(&secret.metadata)
}

/// The same of its metadata alone.
pub fn written(metadata: &ObjectMeta) -> Option<DateTime<Utc>> {
    metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|f| f.manager.as_deref() == Some(FIELD_MANAGER) || wrote_data(f))
        .filter_map(|f| f.time.as_ref())
        .map(|t| from_k8s(t) + chrono::Duration::seconds(1))
        .max()
}

fn wrote_data(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.as_object());
    fields.is_some_and(|fields| ["f:data", "f:stringData"].iter().any(|field| fields.contains_key(*field)))
}

/// The LLMKey as an owner of its target.
pub fn owner_reference(
    key: &LLMKey,
) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    kube::Resource::controller_owner_ref(key, &())
}
