//! A compact index over the metadata of Secrets and over what LLMKeys refer to. Values never enter it.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Resource, ResourceExt};

use crate::api::{ADOPT_BY, GROUP, LEDGER_SEALED_BY, LEDGER_SUMMARY, LLMKey};
use crate::domain::names::ACCOUNT_LEDGER_PREFIX;

/// Namespace and name.
pub type Name = (Box<str>, Box<str>);

/// A name out of two texts.
pub fn name(namespace: &str, name: &str) -> Name {
    (namespace.into(), name.into())
}

/// What is kept of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretMeta {
    /// Its version.
    pub resource_version: Box<str>,
    /// It was deleted at that version.
    pub gone: bool,
    /// The LLMKey that controls it: name and uid.
    pub owner: Option<(Box<str>, Box<str>)>,
    /// The LLMKey that its owner lets take it over.
    pub adopt_by: Option<Box<str>>,
    /// A ledger's summary.
    pub summary: Option<Box<str>>,
    /// The key-encryption keys that a ledger needs, with commas between them; none also if it was written before that was told.
    pub sealed_by: Option<Box<str>>,
}

/// A ledger as its metadata tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerMeta {
    /// Name of its Secret.
    pub secret: Box<str>,
    /// Its version.
    pub resource_version: Box<str>,
    /// The LLMKey that it was written for; none for an account's.
    pub key: Option<Name>,
    /// See [`SecretMeta::sealed_by`].
    pub sealed_by: Option<Box<str>>,
}

impl SecretMeta {
    /// `ledgers`: the Secret stands where ledgers do; a summary elsewhere is nobody's.
    fn of(secret: &PartialObjectMeta<Secret>, gone: bool, ledgers: bool) -> Self {
        let annotation = |key: &str| secret.annotations().get(key).map(|v| v.as_str().into());
        Self {
            resource_version: secret.resource_version().unwrap_or_default().into(),
            gone,
            owner: owner(secret.owner_references()),
            adopt_by: annotation(ADOPT_BY),
            summary: annotation(LEDGER_SUMMARY).filter(|_| ledgers),
            sealed_by: annotation(LEDGER_SEALED_BY).filter(|_| ledgers),
        }
    }
}

/// The LLMKey among an object's owners that controls it: name and uid.
pub fn owner(
    references: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
) -> Option<(Box<str>, Box<str>)> {
    let ours = format!("{GROUP}/");
    references
        .iter()
        .find(|r| {
            r.controller == Some(true) && r.api_version.starts_with(&ours) && r.kind == LLMKey::kind(&())
        })
        .map(|r| (r.name.as_str().into(), r.uid.as_str().into()))
}

/// What an LLMKey refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs {
    /// Names of the source Secrets: one, or those of a pool.
    pub sources: Box<[Box<str>]>,
    /// Name of the target Secret.
    pub target: Box<str>,
    /// Creation time and uid, by which the first of two claimants is told.
    pub claim: (i64, Box<str>),
    /// A digest of what a reconcile looks at besides status.
    pub seen: u64,
}

#[derive(Default)]
struct Inner {
    /// Boxed, since a table has up to twice the room that it needs.
    secrets: HashMap<Name, Box<SecretMeta>>,
    keys: HashMap<Name, Refs>,
    /// Secret → names of the LLMKeys (of its namespace) that refer to it: almost always one.
    users: HashMap<Name, Vec<Box<str>>>,
}

/// The index, shared by the watches that fill it and the controllers that ask it.
pub struct Index {
    inner: RwLock<Inner>,
    operator_namespace: Box<str>,
}

impl Index {
    /// An empty index; ledgers stand in the operator's namespace.
    pub fn new(operator_namespace: &str) -> Self {
        Self { inner: RwLock::default(), operator_namespace: operator_namespace.into() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Secret's metadata, deleted ones included while somebody refers to them.
    pub fn secret(&self, namespace: &str, secret: &str) -> Option<SecretMeta> {
        self.read().secrets.get(&name(namespace, secret)).map(|meta| (**meta).clone())
    }

    /// Takes in a Secret as the watch shows it. Returns the LLMKeys of its namespace to look at.
    pub fn apply(&self, secret: &PartialObjectMeta<Secret>) -> Vec<Name> {
        let id = id_of(secret);
        let meta = SecretMeta::of(secret, false, id.0 == self.operator_namespace);
        let mut inner = self.write();
        let known = inner.secrets.get(&id);
        if known.is_some_and(|known| **known == meta) {
            return Vec::new();
        }
        let mut affected = inner.affected(&id, &meta);
        if let Some(before) = known.cloned() {
            affected.extend(inner.affected(&id, &before));
        }
        inner.secrets.insert(id, Box::new(meta));
        affected.into_iter().collect()
    }

    /// Takes in that a Secret was deleted. Returns the LLMKeys of its namespace to look at.
    pub fn delete(&self, secret: &PartialObjectMeta<Secret>) -> Vec<Name> {
        let id = id_of(secret);
        let meta = SecretMeta::of(secret, true, id.0 == self.operator_namespace);
        let mut inner = self.write();
        let affected = inner.affected(&id, &meta);
        if affected.iter().any(|key| inner.keys.contains_key(key)) || meta.summary.is_some() {
            inner.secrets.insert(id, Box::new(meta));
        } else {
            inner.secrets.remove(&id);
        }
        affected.into_iter().collect()
    }

    /// A Secret was asked for and does not exist. Returns the LLMKeys of its namespace to look at; none if that was known.
    pub fn absent(&self, id: &Name) -> Vec<Name> {
        let mut inner = self.write();
        let known = inner.secrets.get(id).cloned();
        if known.as_ref().is_some_and(|known| known.gone) {
            return Vec::new();
        }
        let mut meta = known.unwrap_or_default();
        meta.gone = true;
        let affected = inner.affected(id, &meta);
        inner.secrets.insert(id.clone(), meta);
        affected.into_iter().collect()
    }

    /// The Secrets that an LLMKey names: its sources and its target.
    pub fn named_by(&self, key: &Name) -> Vec<Name> {
        let inner = self.read();
        let refs = inner.keys.get(key);
        let names = refs.into_iter().flat_map(|refs| refs.sources.iter().chain([&refs.target]));
        names.map(|secret| (key.0.clone(), secret.clone())).collect()
    }

    /// The Secrets that any LLMKey names.
    pub fn named(&self) -> Vec<Name> {
        self.read().users.keys().cloned().collect()
    }

    /// Drops the Secrets of other namespaces that no LLMKey names: where each is asked for by name, nothing tells of them.
    pub fn drop_unnamed(&self, operator_namespace: &str) {
        let mut inner = self.write();
        let Inner { secrets, users, .. } = &mut *inner;
        secrets.retain(|id, _| *id.0 == *operator_namespace || users.contains_key(id));
    }

    /// After a full list, of one namespace or of all: everything that it did not show is gone. Returns the LLMKeys to look
    /// at.
    pub fn retain(&self, within: Option<&str>, listed: &BTreeSet<Name>) -> Vec<Name> {
        let mut inner = self.write();
        let lost: Vec<(Name, Box<SecretMeta>)> = inner
            .secrets
            .iter()
            .filter(|(id, meta)| {
                within.is_none_or(|namespace| *id.0 == *namespace) && !meta.gone && !listed.contains(*id)
            })
            .map(|(id, meta)| (id.clone(), meta.clone()))
            .collect();
        let mut affected = BTreeSet::new();
        for (id, meta) in lost {
            affected.extend(inner.affected(&id, &meta));
            inner.secrets.remove(&id);
        }
        affected.into_iter().collect()
    }

    /// Takes in what an LLMKey refers to. Returns whether anything but its status has changed. One that cannot be read
    /// refers to what it did before.
    pub fn refer(&self, guarded: &DeserializeGuard<LLMKey>) -> bool {
        let id = name(&guarded.namespace().unwrap_or_default(), &guarded.name_any());
        let seen = digest(guarded.meta());
        let mut inner = self.write();
        let before = inner.keys.get(&id);
        let refs = match &guarded.0 {
            Ok(key) => Refs {
                sources: sources(key),
                target: key.spec.target.secret_name.as_deref().unwrap_or(&id.1).into(),
                claim: (
                    key.creation_timestamp().map_or(0, |t| t.0.as_second()),
                    key.uid().unwrap_or_default().into(),
                ),
                seen,
            },
            Err(_) => Refs { seen, ..before.cloned().unwrap_or_default() },
        };
        if before == Some(&refs) {
            return false;
        }
        inner.unuse(&id);
        for secret in refs.sources.iter().chain([&refs.target]) {
            let users = inner.users.entry((id.0.clone(), secret.clone()));
            users.or_insert_with(|| Vec::with_capacity(1)).push(id.1.clone());
        }
        inner.keys.insert(id, refs);
        true
    }

    /// An LLMKey is gone. Returns the LLMKeys that wait for the same target.
    pub fn forget(&self, namespace: &str, key: &str) -> Vec<Name> {
        let id = name(namespace, key);
        let mut inner = self.write();
        let target = inner.keys.get(&id).map(|r| r.target.clone());
        inner.unuse(&id);
        inner.keys.remove(&id);
        let Some(target) = target else { return Vec::new() };
        let secret = (id.0.clone(), target);
        inner.users.get(&secret).into_iter().flatten().map(|k| (id.0.clone(), k.clone())).collect()
    }

    /// The LLMKeys that a full list did not show.
    pub fn keys_except(&self, listed: &BTreeSet<Name>) -> Vec<Name> {
        self.read().keys.keys().filter(|key| !listed.contains(*key)).cloned().collect()
    }

    /// The LLMKeys that ledgers were written for.
    pub fn ledgers(&self, operator_namespace: &str) -> Vec<Name> {
        let summaries = self.summaries(operator_namespace);
        summaries.iter().map(|summary| name(&summary.namespace, &summary.name)).collect()
    }

    /// All ledgers, those of accounts included.
    pub fn ledger_metas(&self, operator_namespace: &str) -> Vec<LedgerMeta> {
        let inner = self.read();
        let ledgers = inner.secrets.iter().filter(|(id, meta)| *id.0 == *operator_namespace && !meta.gone);
        ledgers
            .filter_map(|(id, meta)| {
                let key = match &meta.summary {
                    Some(summary) => {
                        let summary: crate::ledger::Summary = serde_json::from_str(summary).ok()?;
                        Some(name(&summary.namespace, &summary.name))
                    }
                    None if id.1.starts_with(ACCOUNT_LEDGER_PREFIX) => None,
                    None => return None,
                };
                Some(LedgerMeta {
                    secret: id.1.clone(),
                    resource_version: meta.resource_version.clone(),
                    key,
                    sealed_by: meta.sealed_by.clone(),
                })
            })
            .collect()
    }

    /// What the ledgers say of themselves.
    pub fn summaries(&self, operator_namespace: &str) -> Vec<crate::ledger::Summary> {
        let inner = self.read();
        let ledgers = inner.secrets.iter().filter(|(id, meta)| *id.0 == *operator_namespace && !meta.gone);
        ledgers.filter_map(|(_, meta)| serde_json::from_str(meta.summary.as_ref()?).ok()).collect()
    }

    /// The other LLMKey that was first to claim the same target, if any.
    pub fn earlier_claimant(&self, namespace: &str, key: &str) -> Option<Box<str>> {
        let inner = self.read();
        let id = name(namespace, key);
        let mine = inner.keys.get(&id)?;
        let users = inner.users.get(&(id.0.clone(), mine.target.clone()))?;
        users
            .iter()
            .filter(|other| **other != id.1)
            .filter_map(|other| Some((other, inner.keys.get(&(id.0.clone(), other.clone()))?)))
            .find(|(_, refs)| refs.target == mine.target && refs.claim < mine.claim)
            .map(|(other, _)| other.clone())
    }

    /// Whether the Secret is the target of an LLMKey, or would become it. One that stands there and is not an LLMKey's is
    /// claimed in vain: whoever names it as a target is told, and whoever uses it as a source goes on.
    pub fn is_target(&self, namespace: &str, secret: &str) -> bool {
        let inner = self.read();
        let id = name(namespace, secret);
        if inner
            .secrets
            .get(&id)
            .is_some_and(|meta| !meta.gone && meta.owner.is_none() && meta.adopt_by.is_none())
        {
            return false;
        }
        inner.users.get(&id).into_iter().flatten().any(|key| {
            inner.keys.get(&(id.0.clone(), key.clone())).is_some_and(|refs| *refs.target == *secret)
        })
    }
}

impl Inner {
    /// LLMKeys that have something to do with a Secret.
    fn affected(&self, id: &Name, meta: &SecretMeta) -> BTreeSet<Name> {
        let mut keys: BTreeSet<Name> =
            self.users.get(id).into_iter().flatten().map(|key| (id.0.clone(), key.clone())).collect();
        if let Some((owner, _)) = &meta.owner {
            keys.insert((id.0.clone(), owner.clone()));
        }
        if let Some(summary) = &meta.summary
            && let Ok(summary) = serde_json::from_str::<crate::ledger::Summary>(summary)
        {
            keys.insert(name(&summary.namespace, &summary.name));
        }
        keys
    }

    fn unuse(&mut self, id: &Name) {
        let Some(refs) = self.keys.get(id).cloned() else { return };
        for secret in refs.sources.into_iter().chain([refs.target]) {
            let secret = (id.0.clone(), secret);
            if let Some(users) = self.users.get_mut(&secret) {
                users.retain(|user| *user != id.1);
                if users.is_empty() {
                    self.users.remove(&secret);
                }
            }
        }
    }
}

/// The Secrets that an LLMKey takes keys from, each once.
fn sources(key: &LLMKey) -> Box<[Box<str>]> {
    let source = &key.spec.source;
    let members = source.pool.iter().flat_map(|pool| &pool.members).map(|member| &member.secret_ref);
    let names: BTreeSet<&str> = source.secret_ref.iter().chain(members).map(|r| r.name.as_str()).collect();
    names.into_iter().map(Into::into).collect()
}

/// Whatever of an LLMKey's metadata tells that somebody changed it.
fn digest(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&meta.uid, meta.generation, &meta.annotations, &meta.finalizers).hash(&mut hasher);
    hasher.finish()
}

fn id_of(secret: &PartialObjectMeta<Secret>) -> Name {
    name(&secret.namespace().unwrap_or_default(), &secret.name_any())
}

#[cfg(test)]
mod tests {
    use kube::core::error_boundary::InvalidObject;
    use serde_json::json;

    use super::*;

    fn key(generation: i64, source: &str, status: &serde_json::Value) -> DeserializeGuard<LLMKey> {
        let key = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": "chat", "namespace": "team-a", "uid": "1", "generation": generation},
            "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": source, "key": "api-key"}}},
            "status": status,
        });
        DeserializeGuard(Ok(serde_json::from_value(key).unwrap()))
    }

    #[test]
    fn a_status_is_no_change_and_an_edit_is_one() {
        let index = Index::new("llmkey-system");
        assert!(index.refer(&key(1, "source", &json!({}))));
        assert!(!index.refer(&key(1, "source", &json!({"currentVersion": 1}))));
        assert!(index.refer(&key(2, "another", &json!({}))));
        let users = &index.read().users;
        assert!(!users.contains_key(&name("team-a", "source")));
        assert_eq!(users[&name("team-a", "another")], [Box::<str>::from("chat")]);
        assert_eq!(users[&name("team-a", "chat")], [Box::<str>::from("chat")]);
    }

    #[test]
    fn every_member_of_a_pool_wakes_its_key_until_it_is_taken_out() {
        let index = Index::new("llmkey-system");
        let pool = |generation, secrets: &[&str]| {
            let member = |(n, secret)| json!({"name": format!("m{n}"), "secretRef": {"name": secret, "key": "api-key"}});
            let members: Vec<_> = secrets.iter().enumerate().map(member).collect();
            let DeserializeGuard(mut key) = key(generation, "source", &json!({}));
            key.as_mut().unwrap().spec.source =
                serde_json::from_value(json!({"pool": {"members": members}})).unwrap();
            DeserializeGuard(key)
        };
        let users = |secret: &str| index.read().users.get(&name("team-a", secret)).map_or(0, Vec::len);
        index.refer(&pool(1, &["one", "two", "two"]));
        assert_eq!((users("one"), users("two"), users("source")), (1, 1, 0));
        index.refer(&pool(2, &["two"]));
        assert_eq!((users("one"), users("two")), (0, 1));
    }

    fn secret(namespace: &str, name: &str, version: &str) -> PartialObjectMeta<Secret> {
        let metadata =
            json!({"metadata": {"name": name, "namespace": namespace, "resourceVersion": version}});
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_about_another() {
        let index = Index::new("llmkey-system");
        index.refer(&key(1, "source", &json!({})));
        index.apply(&secret("team-a", "source", "1"));
        assert!(index.retain(Some("llmkey-system"), &BTreeSet::new()).is_empty());
        assert!(index.secret("team-a", "source").is_some());
        assert_eq!(index.retain(Some("team-a"), &BTreeSet::new()), [name("team-a", "chat")]);
        assert_eq!(index.secret("team-a", "source"), None);
    }

    #[test]
    fn a_secret_that_is_asked_for_wakes_its_key_when_something_changed() {
        let index = Index::new("llmkey-system");
        index.refer(&key(1, "source", &json!({})));
        let (source, chat) = (name("team-a", "source"), [name("team-a", "chat")]);
        assert_eq!(index.named_by(&chat[0]), [source.clone(), name("team-a", "chat")]);
        assert_eq!(index.absent(&source), chat);
        assert!(index.absent(&source).is_empty(), "that is known");
        assert_eq!(index.apply(&secret("team-a", "source", "1")), chat);
        assert!(index.apply(&secret("team-a", "source", "1")).is_empty());
        assert_eq!(index.absent(&source), chat);
        assert!(index.secret("team-a", "source").unwrap().gone);

        index.apply(&secret("llmkey-system", "ledger", "1"));
        index.forget("team-a", "chat");
        index.drop_unnamed("llmkey-system");
        assert_eq!(index.secret("team-a", "source"), None, "nobody names it any more");
        assert!(index.secret("llmkey-system", "ledger").is_some());
    }

    #[test]
    fn what_cannot_be_read_refers_to_what_it_did_before() {
        let index = Index::new("llmkey-system");
        index.refer(&key(1, "source", &json!({})));
        let mut metadata = key(2, "source", &json!({})).0.unwrap().metadata;
        let invalid = |metadata: &ObjectMeta| {
            DeserializeGuard(Err(InvalidObject { error: String::new(), metadata: metadata.clone() }))
        };
        assert!(index.refer(&invalid(&metadata)));
        assert!(!index.refer(&invalid(&metadata)));
        assert!(index.is_target("team-a", "chat"));
        metadata.finalizers = Some(vec!["other.example/hold".into()]);
        assert!(index.refer(&invalid(&metadata)));
    }
}
