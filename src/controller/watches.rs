//! The watches: what they fill, and whom they wake.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, predicates, reflector};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::context::Stores;
use super::index::{Index, Name, name};
use super::parsed::{Parsed, unwrapped};
use crate::api::{ClusterRotationPolicy, LLMKey, LLMProvider, PolicyKind, RotationPolicy};

/// Who wakes whom.
#[derive(Clone)]
pub struct Wake {
    keys: UnboundedSender<ObjectRef<DeserializeGuard<LLMKey>>>,
    providers: UnboundedSender<ObjectRef<DeserializeGuard<LLMProvider>>>,
    released: UnboundedSender<Name>,
}

/// The other ends of [`Wake`].
pub struct Woken {
    /// LLMKeys to look at.
    pub keys: UnboundedReceiver<ObjectRef<DeserializeGuard<LLMKey>>>,
    /// LLMProviders to look at.
    pub providers: UnboundedReceiver<ObjectRef<DeserializeGuard<LLMProvider>>>,
    /// Ledgers whose LLMKey may be gone.
    pub released: UnboundedReceiver<Name>,
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
    fn key(&self, name: &Name) {
        drop(self.keys.unbounded_send(ObjectRef::new(&name.1).within(&name.0)));
    }

    fn provider(&self, name: &str) {
        drop(self.providers.unbounded_send(ObjectRef::new(name)));
    }

    fn release(&self, name: Name) {
        drop(self.released.unbounded_send(name));
    }
}

/// How watches are set up.
#[derive(Clone)]
pub struct Setup {
    /// The API server.
    pub client: Client,
    /// Streaming lists, which need no pages.
    pub streaming: bool,
}

impl Setup {
    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default();
        if self.streaming { config.streaming_lists() } else { config.any_semantic() }
    }

    /// A store, and the events that fill it as they pass.
    fn events<K>(
        &self,
        writer: Writer<DeserializeGuard<K>>,
    ) -> impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        kube::runtime::watcher(Api::<Parsed<K>>::all(self.client.clone()), self.config())
            .map_ok(unwrapped)
            .default_backoff()
            .modify(|object| {
                object.managed_fields_mut().clear();
                object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
            })
            .reflect(writer)
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
        self.events(writer).filter_map(move |event| {
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

    /// A kind whose objects many LLMKeys depend on: each change of a spec wakes them all.
    pub fn dependencies<K>(
        &self,
        writer: Writer<DeserializeGuard<K>>,
        keys: Store<DeserializeGuard<LLMKey>>,
        wake: Wake,
        uses: fn(&LLMKey, &DeserializeGuard<K>) -> bool,
    ) -> impl Stream<Item = watcher::Result<DeserializeGuard<K>>> + Send + use<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let generations: Mutex<std::collections::HashMap<Name, Option<i64>>> = Mutex::default();
        self.events(writer)
            .inspect(move |event| {
                let (object, changed) = match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => {
                        let generation = object.meta().generation;
                        let mut known = generations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        (object, known.insert(name_of(object), generation) != Some(generation))
                    }
                    Ok(Event::Delete(object)) => {
                        // One that is created again begins with the same generation.
                        let mut known = generations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        known.remove(&name_of(object));
                        (object, true)
                    }
                    _ => return,
                };
                if changed {
                    for key in keys.state() {
                        if key.0.as_ref().is_ok_and(|k| uses(k, object)) {
                            wake.key(&name_of(&*key));
                        }
                    }
                }
            })
            .applied_objects()
            .predicate_filter(predicates::generation, kube::runtime::PredicateConfig::default())
    }

    /// Secrets by metadata: fills the index, wakes whoever has to do with one. Never ends.
    pub async fn secrets(
        self,
        index: Arc<Index>,
        stores: Stores,
        wake: Wake,
        operator_namespace: String,
        ready: impl Fn(),
    ) {
        let api: Api<PartialObjectMeta<Secret>> = Api::all(self.client.clone());
        let config = self.config().fields("type!=helm.sh/release.v1");
        let mut events = kube::runtime::watcher(api, config).default_backoff().boxed();
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let affected = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(secret)) => {
                    listed.insert(name_of(&secret));
                    index.apply(&secret)
                }
                Ok(Event::InitDone) => {
                    let lost = index.retain(&std::mem::take(&mut listed));
                    ready();
                    lost
                }
                Ok(Event::Apply(secret)) => {
                    let affected = index.apply(&secret);
                    credential(&stores, &wake, &secret, &operator_namespace);
                    affected
                }
                Ok(Event::Delete(secret)) => {
                    let affected = index.delete(&secret);
                    credential(&stores, &wake, &secret, &operator_namespace);
                    affected
                }
                Err(error) => {
                    tracing::debug!(error = %error, "the watch of Secrets was interrupted");
                    continue;
                }
            };
            for key in &affected {
                wake.key(key);
            }
        }
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

/// Whether an LLMKey follows the policy.
pub fn follows(key: &LLMKey, policy: &DeserializeGuard<RotationPolicy>) -> bool {
    key.namespace() == policy.namespace()
        && key
            .spec
            .rotation_policy_ref
            .as_ref()
            .is_some_and(|r| r.kind == PolicyKind::RotationPolicy && r.name == policy.name_any())
}

/// Whether an LLMKey follows the cluster policy, named or by default.
pub fn follows_cluster(key: &LLMKey, policy: &DeserializeGuard<ClusterRotationPolicy>) -> bool {
    match &key.spec.rotation_policy_ref {
        Some(r) => r.kind == PolicyKind::ClusterRotationPolicy && r.name == policy.name_any(),
        None => policy.name_any() == "default",
    }
}

/// Whether an LLMKey uses the provider.
pub fn uses(key: &LLMKey, provider: &DeserializeGuard<LLMProvider>) -> bool {
    key.spec.provider_ref.as_ref().is_some_and(|r| r.name == provider.name_any())
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

fn credential(stores: &Stores, wake: &Wake, secret: &PartialObjectMeta<Secret>, operator_namespace: &str) {
    if secret.namespace().as_deref() != Some(operator_namespace) {
        return;
    }
    let secret = secret.name_any();
    for provider in stores.providers.state() {
        let Ok(spec) = provider.0.as_ref().map(|p| &p.spec) else { continue };
        if spec.admin_credential_ref.as_ref().is_none_or(|r| r.name != secret) {
            continue;
        }
        wake.provider(&provider.name_any());
        for key in stores.keys.state() {
            if key.0.as_ref().is_ok_and(|k| uses(k, &provider)) {
                wake.key(&name_of(&*key));
            }
        }
    }
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
