//! The watches: what they fill, and whom they wake.

mod joined;
mod secrets;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Predicate, WatchStreamExt, predicates, reflector};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::context::Stores;
use super::index::{Index, Name, name};
use super::llm_key::requester::prune;
use super::parsed::{Parsed, unwrapped};
use super::sight::Sight;
use crate::api::{LLMKey, LLMProvider, PolicyKind};
pub use secrets::Poll;

/// Who wakes whom.
#[derive(Clone)]
pub struct Wake {
    keys: UnboundedSender<Name>,
    providers: UnboundedSender<ObjectRef<DeserializeGuard<LLMProvider>>>,
    released: UnboundedSender<Released>,
}

/// Which ledgers without an LLMKey are to be looked at.
#[derive(Debug)]
pub enum Released {
    /// This one: it changed, or its LLMKey went.
    Changed(Name),
    /// All that wait for somebody: what they wait for may have come.
    Waiting,
}

/// The other ends of [`Wake`].
pub struct Woken {
    /// LLMKeys to look at.
    pub keys: UnboundedReceiver<Name>,
    /// LLMProviders to look at.
    pub providers: UnboundedReceiver<ObjectRef<DeserializeGuard<LLMProvider>>>,
    /// Ledgers to look at, if they have no LLMKey.
    pub released: UnboundedReceiver<Released>,
}

impl Wake {
    /// Both ends.
    pub fn channel() -> (Self, Woken) {
        let (keys, woken_keys) = unbounded();
        let (providers, woken_providers) = unbounded();
        let (released, woken_released) = unbounded();
        let woken = Woken { keys: woken_keys, providers: woken_providers, released: woken_released };
        (Self { keys, providers, released }, woken)
    }

    // A closed channel means that the operator is ending; then nobody needs to be woken.
    pub(super) fn key(&self, name: &Name) {
        drop(self.keys.unbounded_send(name.clone()));
    }

    fn provider(&self, name: &str) {
        drop(self.providers.unbounded_send(ObjectRef::new(name)));
    }

    /// Everybody who uses an account whose state has changed: its LLMProvider, LLMKeys, and ledgers without one.
    pub fn account(&self, stores: &Stores, provider: &str) {
        self.provider(provider);
        let provider = name("", provider);
        for key in stores.keys.state() {
            if key.0.as_ref().is_ok_and(|k| uses(k, &provider)) {
                self.key(&name_of(&*key));
            }
        }
        self.waiting();
    }

    /// Those whose ledgers need a key-encryption key that came or went; if an account's does, everybody who uses one.
    pub fn keyring(&self, stores: &Stores, ledgers: &[Name], accounts: bool) {
        for name in ledgers {
            self.key(name);
            self.release(name.clone());
        }
        if accounts {
            for provider in stores.providers.state() {
                self.provider(&provider.name_any());
            }
            for key in stores.keys.state() {
                if key.0.as_ref().is_ok_and(|k| k.spec.provider_ref.is_some()) {
                    self.key(&name_of(&*key));
                }
            }
        }
    }

    fn release(&self, name: Name) {
        drop(self.released.unbounded_send(Released::Changed(name)));
    }

    /// Ledgers without an LLMKey that wait for somebody.
    pub fn waiting(&self) {
        drop(self.released.unbounded_send(Released::Waiting));
    }
}

/// How watches are set up.
#[derive(Clone)]
pub struct Setup {
    /// The API server.
    pub client: Client,
    /// Streaming lists, which need no pages.
    pub streaming: bool,
    /// The namespaces that are served.
    pub sight: Arc<Sight>,
}

/// What a watch tells, of objects that may not be readable.
pub type Guarded<K> = BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>;

impl Setup {
    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default();
        if self.streaming { config.streaming_lists() } else { config.any_semantic() }
    }

    fn watch<K>(&self, api: Api<Parsed<K>>) -> Guarded<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        kube::runtime::watcher(api, self.config())
            .map_ok(unwrapped)
            .default_backoff()
            .modify(|object| {
                prune(object.managed_fields_mut());
                object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
            })
            .boxed()
    }

    /// A kind without namespaces.
    pub fn everywhere<K>(&self) -> Guarded<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        self.watch(Api::all(self.client.clone()))
    }

    /// A kind with namespaces, in those that are served.
    pub fn served<K>(&self, sight: Option<Arc<Sight>>) -> Guarded<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let Some(namespaces) = self.sight.namespaces() else { return self.everywhere() };
        let part = |namespace: Box<str>| {
            let events = self.watch(Api::namespaced(self.client.clone(), &namespace));
            (namespace, events)
        };
        joined::join(namespaces.into_iter().map(part).collect(), sight).boxed()
    }

    /// LLMKeys: the index learns what they refer to before a controller sees them. Yields those that changed in more than
    /// their status, which is the operator's own.
    pub fn keys<F>(
        &self,
        writer: Writer<DeserializeGuard<LLMKey>>,
        index: Arc<Index>,
        wake: Wake,
        gone: F,
    ) -> impl Stream<Item = watcher::Result<Name>> + Send + use<F>
    where
        F: Fn(&str, &str) + Send + Sync + 'static,
    {
        let mut listed: BTreeSet<Name> = BTreeSet::new();
        let mut waiting = Vec::new();
        self.served(Some(Arc::clone(&self.sight))).reflect(writer).filter_map(move |event| {
            let changed = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    None
                }
                Ok(Event::InitApply(key)) => {
                    listed.insert(name_of(&key));
                    if index.refer(&key) {
                        waiting.push(name_of(&key));
                    }
                    None
                }
                Ok(Event::InitDone) => {
                    for lost in index.keys_except(&std::mem::take(&mut listed)) {
                        forget(&index, &wake, &gone, lost);
                    }
                    // Only now does the store show what the list showed.
                    for key in std::mem::take(&mut waiting) {
                        wake.key(&key);
                    }
                    None
                }
                Ok(Event::Apply(key)) => index.refer(&key).then(|| Ok(name_of(&key))),
                Ok(Event::Delete(key)) => {
                    forget(&index, &wake, &gone, name_of(&key));
                    None
                }
                Err(error) => Some(Err(error)),
            };
            std::future::ready(changed)
        })
    }
}

/// A kind whose objects many LLMKeys depend on: each change of a spec wakes them all.
pub fn dependencies<K>(
    events: Guarded<K>,
    writer: Writer<DeserializeGuard<K>>,
    keys: Store<DeserializeGuard<LLMKey>>,
    wake: Wake,
    uses: fn(&LLMKey, &Name) -> bool,
) -> impl Stream<Item = watcher::Result<DeserializeGuard<K>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let known = Mutex::new(Dependencies::default());
    events
        .reflect(writer)
        .inspect(move |event| {
            let Ok(event) = event else { return };
            let changed = known.lock().unwrap_or_else(PoisonError::into_inner).changed(event);
            if changed.is_empty() {
                return;
            }
            for key in keys.state() {
                if key.0.as_ref().is_ok_and(|k| changed.iter().any(|object| uses(k, object))) {
                    wake.key(&name_of(&*key));
                }
            }
        })
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            kube::runtime::PredicateConfig::default(),
        )
}

/// What an earlier event of a watch showed, to find out what a later one changes.
#[derive(Default)]
struct Dependencies {
    /// Uid and generation: one that is created again begins with the same generation.
    known: HashMap<Name, (Option<String>, Option<i64>)>,
    /// While a full list comes in: what it showed, and what of it had changed. The store shows it only at the end.
    listed: BTreeSet<Name>,
    changed: BTreeSet<Name>,
}

impl Dependencies {
    /// The objects whose LLMKeys are to be looked at now.
    fn changed<K: Resource>(&mut self, event: &Event<K>) -> BTreeSet<Name> {
        match event {
            Event::Init => {
                self.listed.clear();
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                let name = name_of(object);
                if self.learn(&name, object) {
                    self.changed.insert(name.clone());
                }
                self.listed.insert(name);
                BTreeSet::new()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let mut changed = std::mem::take(&mut self.changed);
                changed.extend(self.known.extract_if(|name, _| !listed.contains(name)).map(|(name, _)| name));
                changed
            }
            Event::Apply(object) => {
                let name = name_of(object);
                if self.learn(&name, object) { BTreeSet::from([name]) } else { BTreeSet::new() }
            }
            Event::Delete(object) => {
                let name = name_of(object);
                self.known.remove(&name);
                BTreeSet::from([name])
            }
        }
    }

    fn learn<K: Resource>(&mut self, name: &Name, object: &K) -> bool {
        let shown = (object.meta().uid.clone(), object.meta().generation);
        self.known.insert(name.clone(), shown.clone()) != Some(shown)
    }
}

/// Wakes each LLMKey that the watch shows. Never ends.
pub async fn wake_each(keys: impl Stream<Item = watcher::Result<Name>>, wake: Wake) {
    let mut keys = std::pin::pin!(keys);
    while let Some(shown) = keys.next().await {
        match shown {
            Ok(key) => wake.key(&key),
            Err(error) => tracing::debug!(error = %error, "the watch of LLMKeys was interrupted"),
        }
    }
}

/// Whether an LLMKey follows the `RotationPolicy`.
pub fn follows(key: &LLMKey, policy: &Name) -> bool {
    key.namespace().as_deref() == Some(&*policy.0)
        && key
            .spec
            .rotation_policy_ref
            .as_ref()
            .is_some_and(|r| r.kind == PolicyKind::RotationPolicy && *r.name == *policy.1)
}

/// Whether an LLMKey follows the `ClusterRotationPolicy`, named or by default.
pub fn follows_cluster(key: &LLMKey, policy: &Name) -> bool {
    match &key.spec.rotation_policy_ref {
        Some(r) => r.kind == PolicyKind::ClusterRotationPolicy && *r.name == *policy.1,
        None => *policy.1 == *"default",
    }
}

/// Whether an LLMKey uses the `LLMProvider`.
pub fn uses(key: &LLMKey, provider: &Name) -> bool {
    key.spec.provider_ref.as_ref().is_some_and(|r| *r.name == *provider.1)
}

/// The ledgers that no LLMKey has, once the index is full.
pub fn wake_released(
    index: &Index,
    keys: &Store<DeserializeGuard<LLMKey>>,
    operator_namespace: &str,
    wake: &Wake,
) {
    for owner in index.ledgers(operator_namespace) {
        if keys.get(&ObjectRef::new(&owner.1).within(&owner.0)).is_none() {
            wake.release(owner);
        }
    }
}

/// Makes a store.
pub fn store<K>() -> (Store<DeserializeGuard<K>>, Writer<DeserializeGuard<K>>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    reflector::store()
}

fn forget(index: &Index, wake: &Wake, gone: &impl Fn(&str, &str), key: Name) {
    gone(&key.0, &key.1);
    for waiting in index.forget(&key.0, &key.1) {
        wake.key(&waiting);
    }
    wake.release(key);
}

fn name_of<K: Resource>(object: &K) -> Name {
    name(&object.namespace().unwrap_or_default(), &object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RotationPolicy;

    fn policy(object: &str, uid: &str, generation: i64) -> RotationPolicy {
        let mut policy = RotationPolicy::new(object, crate::api::RotationPolicySpec::default());
        policy.metadata.namespace = Some("team".into());
        policy.metadata.uid = Some(uid.into());
        policy.metadata.generation = Some(generation);
        policy
    }

    fn woken(known: &mut Dependencies, events: &[Event<RotationPolicy>]) -> Vec<String> {
        let names = events.iter().flat_map(|event| known.changed(event)).map(|name| name.1.into());
        names.collect()
    }

    fn list(objects: Vec<RotationPolicy>) -> Vec<Event<RotationPolicy>> {
        let shown = objects.into_iter().map(Event::InitApply);
        [Event::Init].into_iter().chain(shown).chain([Event::InitDone]).collect()
    }

    #[test]
    fn what_a_list_lost_changed_or_shows_anew_wakes_its_keys_when_the_list_is_done() {
        let mut known = Dependencies::default();
        let before = ["same", "gone", "edited", "again"].map(|name| policy(name, "1", 1));
        assert_eq!(woken(&mut known, &list(before.to_vec())), ["again", "edited", "gone", "same"]);
        let after = || {
            list(vec![
                policy("same", "1", 1),
                policy("edited", "1", 2),
                policy("again", "2", 1),
                policy("new", "1", 1),
            ])
        };
        let mut interrupted = after();
        interrupted.pop();
        assert!(woken(&mut known, &interrupted).is_empty(), "the store does not show it yet");
        assert_eq!(woken(&mut known, &after()), ["again", "edited", "gone", "new"]);
        assert!(woken(&mut known, &after()).is_empty());
    }

    #[test]
    fn a_change_of_status_wakes_nobody_and_a_deletion_does() {
        let mut known = Dependencies::default();
        let apply = |generation| [Event::Apply(policy("one", "1", generation))];
        assert_eq!(woken(&mut known, &apply(1)), ["one"]);
        assert!(woken(&mut known, &apply(1)).is_empty());
        assert_eq!(woken(&mut known, &apply(2)), ["one"]);
        assert_eq!(woken(&mut known, &[Event::Delete(policy("one", "1", 2))]), ["one"]);
        assert_eq!(woken(&mut known, &apply(2)), ["one"]);
    }
}
