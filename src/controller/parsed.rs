//! Objects as the watches read them. One that cannot be parsed stops nobody else.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::Event;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What [`DeserializeGuard`] tells, parsed from the text itself. The guard's own way builds a tree of each object and
/// clones it first: four times the time, and more than half of all allocations of a start. Only for JSON text, which
/// is what the client reads.
#[derive(Clone, Debug)]
pub struct Parsed<K>(pub DeserializeGuard<K>);

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Parsed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let object = match serde_json::from_str(text.get()) {
            Ok(object) => Ok(object),
            Err(error) => {
                let PartialObjectMeta::<K> { metadata, .. } =
                    serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                Err(InvalidObject { error: error.to_string(), metadata })
            }
        };
        Ok(Self(DeserializeGuard(object)))
    }
}

impl<K: Resource> Resource for Parsed<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

/// The event of the object itself.
pub fn unwrapped<K>(event: Event<Parsed<K>>) -> Event<DeserializeGuard<K>> {
    match event {
        Event::Apply(object) => Event::Apply(object.0),
        Event::Delete(object) => Event::Delete(object.0),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.0),
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::*;
    use crate::api::LLMKey;

    fn text(source: &serde_json::Value) -> String {
        let object = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": "chat", "namespace": "team-a"},
            "spec": {"provider": "OpenAI", "source": source},
        });
        // As the API server writes it: the type first.
        format!(r#"{{"type":"ADDED","object":{object}}}"#)
    }

    fn parsed(text: &str) -> DeserializeGuard<LLMKey> {
        let Ok(WatchEvent::Added(Parsed(guarded))) = serde_json::from_str(text) else { panic!("{text}") };
        guarded
    }

    #[test]
    fn a_watch_event_is_parsed_as_the_guard_parses_it() {
        let text = text(&json!({"secretRef": {"name": "source", "key": "api-key"}}));
        let Ok(WatchEvent::Added(expected)) = serde_json::from_str::<WatchEvent<LLMKey>>(&text) else {
            panic!("{text}")
        };
        assert_eq!(parsed(&text).0.unwrap().spec, expected.spec);
    }

    #[test]
    fn what_cannot_be_parsed_keeps_its_metadata() {
        let invalid = parsed(&text(&json!("not a map"))).0.unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("chat"));
        assert_eq!(invalid.metadata.namespace.as_deref(), Some("team-a"));
    }
}
