//! How the operator learns of Secrets: by a watch of their metadata, or, outside of its own namespace, by asking for each that
//! an `LLMKey` names, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};

use super::joined::refused;
use super::{Setup, Wake, name_of};
use crate::controller::brief;
use crate::controller::context::Stores;
use crate::controller::index::{Index, Name};

/// Secrets that are asked for at the same time when `LLMKey`s have changed.
const AT_ONCE: usize = 16;

impl Setup {
    /// Secrets by metadata, those of one namespace or of all: fills the index, wakes whoever has to do with one. Never ends.
    /// `ready` is called when the first list is there, or is refused for a namespace other than the operator's own.
    pub async fn secrets(
        self,
        within: Option<Box<str>>,
        index: Arc<Index>,
        stores: Stores,
        wake: Wake,
        operator_namespace: String,
        ready: impl Fn(),
    ) {
        let within = within.as_deref();
        let api: Api<PartialObjectMeta<Secret>> = match within {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let config = self.config().fields("type!=helm.sh/release.v1");
        let mut events = watch(api, config).default_backoff().boxed();
        let mut listed = BTreeSet::new();
        // Before the first full list is done, nobody works on released ledgers; then all of them are looked at.
        let mut complete = false;
        while let Some(event) = events.next().await {
            let (affected, ledger) = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(secret)) => {
                    listed.insert(name_of(&secret));
                    (index.apply(&secret), complete && stands_in(&secret, &operator_namespace))
                }
                Ok(Event::InitDone) => {
                    let lost = index.retain(within, &std::mem::take(&mut listed));
                    ready();
                    (lost, std::mem::replace(&mut complete, true))
                }
                Ok(Event::Apply(secret)) => {
                    let affected = index.apply(&secret);
                    credential(&stores, &wake, &secret, &operator_namespace);
                    (affected, stands_in(&secret, &operator_namespace))
                }
                Ok(Event::Delete(secret)) => {
                    let affected = index.delete(&secret);
                    credential(&stores, &wake, &secret, &operator_namespace);
                    (affected, stands_in(&secret, &operator_namespace))
                }
                Err(error) => {
                    tracing::debug!(error = %error, "the watch of Secrets was interrupted");
                    if within.is_some_and(|namespace| namespace != operator_namespace) && refused(&error) {
                        ready();
                    }
                    continue;
                }
            };
            for key in affected {
                wake.key(&key);
                if ledger {
                    wake.release(key);
                }
            }
        }
    }
}

/// Asks for the metadata of Secrets outside of the operator's namespace, one by one: needs no right to list or watch them.
pub struct Poll {
    /// The API server.
    pub client: Client,
    /// What is filled.
    pub index: Arc<Index>,
    /// Who is woken.
    pub wake: Wake,
    /// The namespace that is watched.
    pub operator_namespace: String,
    /// Time in which each Secret is asked for once.
    pub every: Duration,
}

impl Poll {
    /// Asks for what each changed `LLMKey` names before it is woken, and for all Secrets that `LLMKey`s name once in each
    /// interval. Never ends.
    pub async fn run(self, keys: impl Stream<Item = watcher::Result<Name>>) {
        let poll = Arc::new(self);
        let rounds = Arc::clone(&poll);
        let arrivals = keys.for_each_concurrent(AT_ONCE, move |shown| Arc::clone(&poll).arrived(shown));
        futures::future::join(arrivals, rounds.rounds()).await;
    }

    async fn arrived(self: Arc<Self>, shown: watcher::Result<Name>) {
        match shown {
            Ok(key) => {
                for secret in self.index.named_by(&key) {
                    self.look(&secret).await;
                }
                self.wake.key(&key);
            }
            Err(error) => tracing::debug!(error = %error, "the watch of LLMKeys was interrupted"),
        }
    }

    /// Spread over the interval, so that the API server sees no bursts. What takes longer makes the round longer.
    async fn rounds(&self) {
        loop {
            self.index.drop_unnamed(&self.operator_namespace);
            let named = self.index.named();
            let pause = self.every / u32::try_from(named.len().max(1)).unwrap_or(u32::MAX);
            if named.is_empty() {
                tokio::time::sleep(pause).await;
            }
            for secret in named {
                tokio::time::sleep(pause).await;
                self.look(&secret).await;
            }
        }
    }

    async fn look(&self, secret: &Name) {
        if *secret.0 == *self.operator_namespace {
            return;
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &secret.0);
        let affected = match api.get_metadata_opt(&secret.1).await {
            Ok(Some(found)) => self.index.apply(&found),
            Ok(None) => self.index.absent(secret),
            Err(error) => {
                let (namespace, name) = (&*secret.0, &*secret.1);
                tracing::debug!(namespace, name, error = brief(&error), "a Secret was not looked at");
                return;
            }
        };
        for key in affected {
            self.wake.key(&key);
        }
    }
}

fn credential(stores: &Stores, wake: &Wake, secret: &PartialObjectMeta<Secret>, operator_namespace: &str) {
    if !stands_in(secret, operator_namespace) {
        return;
    }
    let secret = secret.name_any();
    for provider in stores.providers.state() {
        let Ok(spec) = provider.0.as_ref().map(|p| &p.spec) else { continue };
        if spec.admin_credential_ref.as_ref().is_none_or(|r| r.name != secret) {
            continue;
        }
        let name = name_of(&*provider);
        wake.account(stores, &name.1);
    }
}

fn stands_in(secret: &PartialObjectMeta<Secret>, namespace: &str) -> bool {
    secret.namespace().as_deref() == Some(namespace)
}
