//! Events (`events.k8s.io/v1`): what changed, for `kubectl describe`.
//!
//! kube's `Recorder` folds every event with the same reason into a series and keeps the *first* note, so
//! that "version 4 revoked" would read "version 3 revoked", twice. Here an event that says something new
//! is a new object, and one that says the same again is not written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};

use super::clock::Clock;
use crate::api::Reason;

/// Longest note that the API accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// Longest `reportingInstance` that the API accepts, in bytes.
const MAX_INSTANCE: usize = 128;
/// Longest part of the object's name in the event's; the rest is a dot and the time.
const MAX_NAME: usize = 200;
/// Reporting controller of every event; a qualified name, as the API demands.
pub const CONTROLLER: &str = "llmkeys.dev/llmkey-operator";
/// API servers drop events after one hour by default (`--event-ttl`): what still holds then is said again.
const REPEAT_AFTER: Duration = Duration::from_secs(3600);

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something went as it should.
    Normal,
    /// Somebody may want to look.
    Warning,
}

impl EventKind {
    /// The kind as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Publishes events; cheap to clone, one memory for all clones.
#[derive(Clone)]
pub struct Events {
    client: Client,
    clock: Clock,
    instance: Arc<str>,
    said: Arc<Mutex<HashMap<Topic, Said>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    object: Box<str>,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    note: Box<str>,
    kind: EventKind,
    at: Duration,
}

impl Events {
    /// Publishes as `instance`, the identity of this process.
    pub fn new(client: Client, clock: Clock, instance: &str) -> Self {
        Self { client, clock, instance: cut(instance, MAX_INSTANCE).into(), said: Arc::default() }
    }

    /// Writes one event about `object`, unless the same was said within the last hour and not been
    /// forgotten since. `note` is cut at 1,024 bytes and must not hold key material or text of a provider.
    /// A failure is logged: an event never holds up what it tells of.
    pub async fn publish(&self, object: &ObjectReference, kind: EventKind, reason: Reason, note: &str) {
        let note = cut(note, MAX_NOTE);
        let topic = Topic { object: id(object), reason };
        let said = Said { note: note.into(), kind, at: self.clock.monotonic() };
        if !remember(&mut self.lock(), topic.clone(), said) {
            return;
        }
        let namespace = object.namespace.as_deref().unwrap_or("default");
        let event = self.event(object, kind, reason, note);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            self.lock().remove(&topic);
            // A namespace that is going away accepts no events; nobody is left to read them.
            if !matches!(&error, Error::Api(status) if matches!(status.code, 403 | 404)) {
                tracing::warn!(%error, reason = reason.as_str(), "an event was not written");
            }
        }
    }

    /// Forgets what was said about `object`: after a success, the next failure is news again.
    pub fn forget(&self, object: &ObjectReference) {
        let id = id(object);
        self.lock().retain(|topic, _| topic.object != id);
    }

    fn event(&self, object: &ObjectReference, kind: EventKind, reason: Reason, note: &str) -> Event {
        let now = self.clock.now_precise();
        let nanos = now.timestamp_nanos_opt().unwrap_or_default();
        let name = cut(object.name.as_deref().unwrap_or("llmkey-operator"), MAX_NAME);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{nanos:x}")),
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(
                Timestamp::from_microsecond(now.timestamp_micros()).unwrap_or(Timestamp::UNIX_EPOCH),
            )),
            type_: Some(kind.as_str().to_owned()),
            reason: Some(reason.as_str().to_owned()),
            action: Some("Reconcile".to_owned()),
            note: Some(note.to_owned()),
            regarding: Some(object.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.to_string()),
            ..Event::default()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Topic, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that something is about to be said; false if it was said already.
fn remember(said: &mut HashMap<Topic, Said>, topic: Topic, new: Said) -> bool {
    said.retain(|_, old| new.at.saturating_sub(old.at) < REPEAT_AFTER);
    match said.get(&topic) {
        Some(old) if old.note == new.note && old.kind == new.kind => false,
        _ => {
            said.insert(topic, new);
            true
        }
    }
}

/// What tells objects apart: the uid, or where there is none, kind, namespace and name.
fn id(object: &ObjectReference) -> Box<str> {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    object
        .uid
        .clone()
        .unwrap_or_else(|| {
            format!("{}/{}/{}", part(&object.kind), part(&object.namespace), part(&object.name))
        })
        .into()
}

/// The longest beginning of `text` that fits into `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(object: &str) -> Topic {
        Topic { object: object.into(), reason: Reason::KeyInvalid }
    }

    fn said(note: &str, seconds: u64) -> Said {
        Said { note: note.into(), kind: EventKind::Warning, at: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_same_is_said_once_and_news_at_once() {
        let mut memory = HashMap::new();
        assert!(remember(&mut memory, topic("a"), said("version 3", 0)));
        assert!(!remember(&mut memory, topic("a"), said("version 3", 60)));
        assert!(remember(&mut memory, topic("a"), said("version 4", 61)));
        assert!(remember(&mut memory, topic("b"), said("version 4", 62)));
    }

    #[test]
    fn what_still_holds_is_said_again_after_an_hour() {
        let mut memory = HashMap::new();
        assert!(remember(&mut memory, topic("a"), said("version 3", 0)));
        assert!(remember(&mut memory, topic("a"), said("version 3", 3600)));
        assert_eq!(memory.len(), 1);
    }

    #[test]
    fn notes_are_cut_at_a_character() {
        let text = "ä".repeat(MAX_NOTE);
        assert_eq!(cut(&text, MAX_NOTE).len(), MAX_NOTE);
        assert_eq!(cut(&text, MAX_NOTE - 1).len(), MAX_NOTE - 2);
    }
}
