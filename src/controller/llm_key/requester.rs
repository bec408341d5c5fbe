//! Who asked for a rotation, as far as Kubernetes tells it: the field manager that owns what asks, from `metadata.managedFields`.
//! A client names its manager itself, so the name is a hint for people and nothing is decided by it.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::api::ObjectMeta;
use serde_json::Value;

use crate::api::{ROTATE, from_k8s};
use crate::ledger::Requester;

/// Longest manager's name that is kept, in characters: the API server's own bound.
const MAX_MANAGER: usize = 128;

/// What of an LLMKey asks for a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Rotate,
    RevokedVersions,
    PinnedVersion,
}

impl Wish {
    const ALL: [Self; 3] = [Self::Rotate, Self::RevokedVersions, Self::PinnedVersion];

    /// Its name in what the cache keeps.
    const fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::RevokedVersions => "revokedVersions",
            Self::PinnedVersion => "pinnedVersion",
        }
    }

    fn path(self) -> Vec<String> {
        match self {
            Self::Rotate => vec!["f:metadata".into(), "f:annotations".into(), format!("f:{ROTATE}")],
            Self::RevokedVersions | Self::PinnedVersion => {
                vec!["f:spec".into(), format!("f:{}", self.name())]
            }
        }
    }

    /// Whether the entry owns it, as the API server tells it or as the cache keeps it.
    fn is_of(self, entry: &ManagedFieldsEntry) -> bool {
        match entry.fields_v1.as_ref().map(|f| &f.0) {
            Some(Value::String(kept)) => kept.split(' ').any(|name| name == self.name()),
            Some(fields) => owns(fields, &self.path()),
            None => false,
        }
    }
}

/// Who last changed what asks for a rotation of an LLMKey.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The annotation `llmkeys.dev/rotate`.
    pub rotate: Option<Requester>,
    /// `spec.revokedVersions`.
    pub revoked_versions: Option<Requester>,
    /// `spec.pinnedVersion`.
    pub pinned_version: Option<Requester>,
}

impl Asked {
    /// From an LLMKey's metadata, whole or as the cache keeps it.
    pub fn of(meta: &ObjectMeta) -> Self {
        let of = |wish: Wish| latest(meta, |entry| wish.is_of(entry));
        Self {
            rotate: of(Wish::Rotate),
            revoked_versions: of(Wish::RevokedVersions),
            pinned_version: of(Wish::PinnedVersion),
        }
    }
}

/// Who last changed an entry of a Secret's data.
pub fn of_entry(secret: &ObjectMeta, key: &str) -> Option<Requester> {
    let paths = ["f:data", "f:stringData"].map(|data| vec![data.to_owned(), format!("f:{key}")]);
    latest(secret, |entry| {
        entry.fields_v1.as_ref().is_some_and(|fields| paths.iter().any(|path| owns(&fields.0, path)))
    })
}

/// Leaves of the managed fields only what [`Asked`] needs: of most objects nothing at all.
pub fn prune(fields: &mut Vec<ManagedFieldsEntry>) {
    let kept = |entry: &ManagedFieldsEntry| {
        let names: Vec<&str> = Wish::ALL.into_iter().filter(|w| w.is_of(entry)).map(Wish::name).collect();
        (!names.is_empty()).then(|| ManagedFieldsEntry {
            manager: entry.manager.clone(),
            time: entry.time.clone(),
            fields_v1: Some(FieldsV1(Value::String(names.join(" ")))),
            ..ManagedFieldsEntry::default()
        })
    };
    *fields = fields.iter().filter_map(kept).collect();
    fields.shrink_to_fit();
}

fn latest(meta: &ObjectMeta, owns: impl Fn(&ManagedFieldsEntry) -> bool) -> Option<Requester> {
    let time = |entry: &ManagedFieldsEntry| -> Option<DateTime<Utc>> { entry.time.as_ref().map(from_k8s) };
    let owners = meta.managed_fields.iter().flatten().filter(|entry| owns(entry));
    let last = owners.max_by_key(|entry| time(entry))?;
    let manager = last.manager.as_ref()?.chars().take(MAX_MANAGER).collect();
    Some(Requester { manager, at: time(last) })
}

fn owns(fields: &Value, path: &[String]) -> bool {
    path.iter().try_fold(fields, |fields, name| fields.get(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(entries: &Value) -> ObjectMeta {
        serde_json::from_value(json!({"managedFields": entries})).unwrap()
    }

    fn entry(manager: &str, second: u32, fields: &Value) -> Value {
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "llmkeys.dev/v1alpha1", "fieldsType": "FieldsV1",
            "time": format!("2026-11-22T09:00:{second:02}Z"), "fieldsV1": fields,
        })
    }

    fn object() -> ObjectMeta {
        let rotate = json!({"f:metadata": {"f:annotations": {".": {}, "f:llmkeys.dev/rotate": {}}}});
        meta(&json!([
            entry("helm", 1, &json!({"f:spec": {"f:source": {}, "f:revokedVersions": {}}})),
            entry("kubectl-annotate", 7, &rotate),
            entry("ci", 3, &rotate),
            entry("llmkey-operator", 9, &json!({"f:status": {"f:conditions": {}}})),
        ]))
    }

    #[test]
    fn the_newest_owner_of_what_asks_is_who_asked() {
        let asked = Asked::of(&object());
        let rotate = asked.rotate.unwrap();
        assert_eq!(rotate.manager, "kubectl-annotate");
        assert_eq!(rotate.at.map(crate::api::rfc3339).as_deref(), Some("2026-11-22T09:00:07Z"));
        assert_eq!(asked.revoked_versions.unwrap().manager, "helm");
        assert_eq!(asked.pinned_version, None);
        assert_eq!(Asked::of(&ObjectMeta::default()), Asked::default());
    }

    #[test]
    fn what_the_cache_keeps_tells_the_same_and_is_little() {
        let mut cached = object();
        let fields = cached.managed_fields.get_or_insert_default();
        prune(fields);
        assert_eq!(fields.len(), 3);
        assert_eq!(fields.capacity(), 3);
        assert!(fields.iter().all(|f| f.api_version.is_none() && f.operation.is_none()));
        assert_eq!(Asked::of(&cached), Asked::of(&object()));
        let again = cached.clone();
        prune(cached.managed_fields.get_or_insert_default());
        assert_eq!(Asked::of(&cached), Asked::of(&again));
        let mut plain = meta(&json!([entry("helm", 1, &json!({"f:spec": {"f:source": {}}}))]));
        prune(plain.managed_fields.get_or_insert_default());
        assert_eq!(plain.managed_fields.unwrap().capacity(), 0);
    }

    #[test]
    fn the_owner_of_a_secrets_entry_is_who_supplied_it() {
        let secret = meta(&json!([
            entry("vault-sync", 5, &json!({"f:data": {"f:key": {}}})),
            entry("kubectl-label", 6, &json!({"f:metadata": {"f:labels": {}}})),
            entry("flux", 2, &json!({"f:stringData": {"f:key": {}}})),
        ]));
        assert_eq!(of_entry(&secret, "key").unwrap().manager, "vault-sync");
        assert_eq!(of_entry(&secret, "other"), None);
    }
}
