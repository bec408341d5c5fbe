//! Watches of several namespaces as one: a store takes one list of everything, then changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, BoxStream, select_all};
use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};

use crate::controller::sight::Sight;

/// The watch of one namespace.
pub type Part<K> = (Box<str>, BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>);

/// Joins them. `sight` learns of each namespace when all that its list showed has passed; none for kinds that tell nothing.
pub fn join<K>(
    parts: Vec<Part<K>>,
    sight: Option<Arc<Sight>>,
) -> impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let mut joined = Joined::of(parts.iter().map(|(namespace, _)| namespace.clone()));
    let named = parts
        .into_iter()
        .map(|(namespace, events)| events.map(move |event| (namespace.clone(), event)).boxed());
    select_all(named).flat_map(move |(namespace, event)| {
        let (events, opened) = joined.take(&namespace, event);
        let sight = sight.clone();
        let open = async move {
            for namespace in opened {
                if let Some(sight) = &sight {
                    sight.open(&namespace);
                }
            }
            None
        };
        stream::iter(events).chain(stream::once(open).filter_map(std::future::ready))
    })
}

/// Whether the API server says that the namespace may not be looked at.
pub fn refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

/// What was seen of each namespace.
struct Joined {
    parts: BTreeMap<Box<str>, Seen>,
    /// Those whose first list is awaited.
    awaited: BTreeSet<Box<str>>,
    begun: bool,
}

#[derive(Default)]
struct Seen {
    /// Names of the objects that were shown and not deleted.
    known: BTreeSet<String>,
    /// What the list that is coming in has shown.
    listed: BTreeSet<String>,
    /// A list was whole.
    whole: bool,
    /// Shown before the first list of everything was whole, and gone since.
    gone: BTreeSet<String>,
}

type Events<K> = Vec<watcher::Result<Event<DeserializeGuard<K>>>>;

impl Joined {
    fn of(namespaces: impl Iterator<Item = Box<str>>) -> Self {
        let awaited: BTreeSet<Box<str>> = namespaces.collect();
        let parts = awaited.iter().map(|namespace| (namespace.clone(), Seen::default())).collect();
        Self { parts, awaited, begun: false }
    }

    /// What an event of one namespace is to all of them, and the namespaces that are known when that has passed.
    fn take<K>(
        &mut self,
        namespace: &str,
        event: watcher::Result<Event<DeserializeGuard<K>>>,
    ) -> (Events<K>, Vec<Box<str>>)
    where
        K: Resource<DynamicType = ()>,
    {
        let first = !self.awaited.is_empty();
        let Some(part) = self.parts.get_mut(namespace) else { return (Vec::new(), Vec::new()) };
        let mut events: Events<K> = Vec::new();
        match event {
            Ok(Event::Init) => part.listed.clear(),
            Ok(Event::InitApply(object)) => {
                part.listed.insert(object.name_any());
                part.shows(&object);
                events.push(Ok(if first { Event::InitApply(object) } else { Event::Apply(object) }));
            }
            Ok(Event::InitDone) => {
                part.whole = true;
                let listed = std::mem::take(&mut part.listed);
                let lost: Vec<String> = part.known.difference(&listed).cloned().collect();
                part.known = listed;
                if first {
                    part.gone.extend(lost);
                    return self.arrived(namespace, events);
                }
                events.extend(lost.iter().map(|name| Ok(gone(namespace, name))));
                return (events, vec![namespace.into()]);
            }
            Ok(Event::Apply(object)) => {
                part.shows(&object);
                events.push(Ok(if first { Event::InitApply(object) } else { Event::Apply(object) }));
            }
            Ok(Event::Delete(object)) => {
                part.known.remove(&object.name_any());
                if first {
                    part.gone.insert(object.name_any());
                } else {
                    events.push(Ok(Event::Delete(object)));
                }
            }
            Err(error) => {
                let refused = refused(&error);
                events.push(Err(error));
                if refused && self.awaited.contains(namespace) {
                    tracing::warn!(
                        namespace,
                        kind = %K::kind(&()),
                        "the operator may not look into the namespace, which it was told to serve: what is there is left alone until it may"
                    );
                    return self.arrived(namespace, events);
                }
            }
        }
        if !self.begun && first && !events.iter().all(Result::is_err) {
            self.begun = true;
            events.insert(0, Ok(Event::Init));
        }
        (events, Vec::new())
    }

    /// The first list of the namespace is there, or will not come: with the last of them the list of all is whole.
    fn arrived<K>(&mut self, namespace: &str, mut events: Events<K>) -> (Events<K>, Vec<Box<str>>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.awaited.remove(namespace);
        if !self.awaited.is_empty() {
            return (events, Vec::new());
        }
        if !self.begun {
            self.begun = true;
            events.push(Ok(Event::Init));
        }
        events.push(Ok(Event::InitDone));
        for (namespace, part) in &mut self.parts {
            events.extend(std::mem::take(&mut part.gone).iter().map(|name| Ok(self::gone(namespace, name))));
        }
        let whole = self.parts.iter().filter(|(_, part)| part.whole);
        (events, whole.map(|(namespace, _)| namespace.clone()).collect())
    }
}

impl Seen {
    fn shows<K: Resource>(&mut self, object: &DeserializeGuard<K>) {
        self.known.insert(object.meta().name.clone().unwrap_or_default());
        self.gone.remove(object.meta().name.as_deref().unwrap_or_default());
    }
}

/// The end of an object of which only the name is known.
fn gone<K: Resource>(namespace: &str, name: &str) -> Event<DeserializeGuard<K>> {
    let metadata = kube::api::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..kube::api::ObjectMeta::default()
    };
    Event::Delete(DeserializeGuard(Err(InvalidObject { error: String::new(), metadata })))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::api::{RotationPolicy, RotationPolicySpec};

    type Told = watcher::Result<Event<DeserializeGuard<RotationPolicy>>>;

    fn policy(namespace: &str, name: &str) -> DeserializeGuard<RotationPolicy> {
        let mut policy = RotationPolicy::new(name, RotationPolicySpec::default());
        policy.metadata.namespace = Some(namespace.into());
        DeserializeGuard(Ok(policy))
    }

    fn forbidden() -> Told {
        let status = Status { code: 403, ..Status::default() };
        Err(watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status))))
    }

    fn word(event: &Told) -> String {
        let name = |object: &DeserializeGuard<RotationPolicy>| {
            format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
        };
        match event {
            Ok(Event::Init) => "begin".into(),
            Ok(Event::InitDone) => "end".into(),
            Ok(Event::InitApply(object)) => format!("list {}", name(object)),
            Ok(Event::Apply(object)) => format!("apply {}", name(object)),
            Ok(Event::Delete(object)) => format!("delete {}", name(object)),
            Err(_) => "error".into(),
        }
    }

    /// What comes out of each event, and which namespaces are known then.
    fn told(joined: &mut Joined, namespace: &str, event: Told) -> String {
        let (events, opened) = joined.take(namespace, event);
        let words: Vec<String> =
            events.iter().map(word).chain(opened.iter().map(|o| format!("open {o}"))).collect();
        words.join(", ")
    }

    fn of(namespaces: &[&str]) -> Joined {
        Joined::of(namespaces.iter().map(|namespace| (*namespace).into()))
    }

    #[test]
    fn a_store_sees_one_list_of_all_and_then_changes() {
        let mut joined = of(&["a", "b"]);
        assert_eq!(told(&mut joined, "a", Ok(Event::Init)), "");
        assert_eq!(told(&mut joined, "a", Ok(Event::InitApply(policy("a", "one")))), "begin, list a/one");
        assert_eq!(told(&mut joined, "b", Ok(Event::Init)), "");
        assert_eq!(told(&mut joined, "a", Ok(Event::InitDone)), "", "the other is not known yet");
        assert_eq!(told(&mut joined, "a", Ok(Event::Apply(policy("a", "two")))), "list a/two");
        assert_eq!(told(&mut joined, "a", Ok(Event::Delete(policy("a", "one")))), "");
        assert_eq!(told(&mut joined, "b", Ok(Event::InitDone)), "end, delete a/one, open a, open b");
        // A watch that broke lists again: the store keeps what the others showed.
        assert_eq!(told(&mut joined, "a", Ok(Event::Init)), "");
        assert_eq!(told(&mut joined, "a", Ok(Event::InitApply(policy("a", "three")))), "apply a/three");
        assert_eq!(told(&mut joined, "a", Ok(Event::InitDone)), "delete a/two, open a");
        assert_eq!(told(&mut joined, "b", Ok(Event::Delete(policy("b", "x")))), "delete b/x");
    }

    #[test]
    fn a_first_list_that_was_cut_off_leaves_nothing_of_itself() {
        let mut joined = of(&["a"]);
        told(&mut joined, "a", Ok(Event::Init));
        told(&mut joined, "a", Ok(Event::InitApply(policy("a", "one"))));
        told(&mut joined, "a", Ok(Event::Init));
        assert_eq!(told(&mut joined, "a", Ok(Event::InitApply(policy("a", "two")))), "list a/two");
        assert_eq!(told(&mut joined, "a", Ok(Event::InitDone)), "end, delete a/one, open a");
    }

    #[test]
    fn a_namespace_that_may_not_be_looked_at_holds_up_no_other_and_is_not_known() {
        let mut joined = of(&["a", "b"]);
        assert_eq!(told(&mut joined, "b", forbidden()), "error");
        told(&mut joined, "a", Ok(Event::Init));
        assert_eq!(told(&mut joined, "a", Ok(Event::InitDone)), "begin, end, open a");
        assert_eq!(told(&mut joined, "b", forbidden()), "error");
        // Its rights have come.
        told(&mut joined, "b", Ok(Event::Init));
        assert_eq!(told(&mut joined, "b", Ok(Event::InitApply(policy("b", "one")))), "apply b/one");
        assert_eq!(told(&mut joined, "b", Ok(Event::InitDone)), "open b");
        let mut alone = of(&["a"]);
        assert_eq!(told(&mut alone, "a", forbidden()), "error, begin, end");
    }
}
