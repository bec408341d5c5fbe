//! Events as the real API server takes them.

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use kube::Resource;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use llmkey_operator::api::Reason;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::kube_ext::events::{EventKind, Events};
use llmkey_operator::testbed;

struct Scene {
    events: Events,
    about: ObjectReference,
    stored: Api<Event>,
}

impl Scene {
    async fn new() -> Self {
        let cluster = testbed::shared().await.unwrap();
        let namespace = cluster.namespace("events").await.unwrap();
        let client = cluster.admin().unwrap();
        let object = ConfigMap {
            metadata: ObjectMeta { name: Some("chat".to_owned()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let about = maps.create(&PostParams::default(), &object).await.unwrap().object_ref(&());
        let stored = Api::namespaced(client.clone(), &namespace);
        Self { events: Events::new(client, Clock::start(), &"instance".repeat(30)), about, stored }
    }

    async fn warn(&self, note: &str) {
        self.events.publish(&self.about, EventKind::Warning, Reason::KeyInvalid, note).await;
    }

    async fn notes(&self) -> Vec<String> {
        let stored = self.stored.list(&ListParams::default()).await.unwrap();
        let mut notes: Vec<String> = stored.items.into_iter().filter_map(|event| event.note).collect();
        notes.sort();
        notes
    }
}

#[tokio::test]
async fn an_event_tells_what_changed_and_says_it_once() {
    let scene = Scene::new().await;
    scene.warn("version 3 was rejected").await;
    scene.warn("version 3 was rejected").await;
    scene.warn("version 4 was rejected").await;
    assert_eq!(scene.notes().await, ["version 3 was rejected", "version 4 was rejected"]);

    let event = scene.stored.list(&ListParams::default()).await.unwrap().items.remove(0);
    assert_eq!(event.reason.as_deref(), Some("KeyInvalid"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.regarding.unwrap().uid, scene.about.uid);
    assert_eq!(event.reporting_controller.as_deref(), Some("llmkeys.dev/llmkey-operator"));
}

#[tokio::test]
async fn after_a_success_the_same_failure_is_a_new_event() {
    let scene = Scene::new().await;
    scene.warn("rejected").await;
    scene.events.forget(&scene.about);
    scene.warn("rejected").await;
    assert_eq!(scene.notes().await, ["rejected", "rejected"]);
}

#[tokio::test]
async fn a_note_that_is_too_long_is_cut() {
    let scene = Scene::new().await;
    scene.warn(&"é".repeat(5000)).await;
    assert_eq!(scene.notes().await, ["é".repeat(512)]);
}
