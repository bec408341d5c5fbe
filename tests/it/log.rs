//! That no level of logging shows what goes over the wire.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use llmkey_operator::telemetry::log::{LogFormat, subscriber};
use llmkey_operator::testbed;
use tracing::Level;
use tracing::dispatcher::Dispatch;

/// A key's canary, and the base64 form in which it lies in a Secret.
const CANARY: &str = "sk-canary-4f1d9c2e7a";
const ENCODED: &str = "c2stY2FuYXJ5LTRmMWQ5YzJlN2E=";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn shows_the_canary(&self) -> bool {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        text.contains(CANARY) || text.contains(ENCODED)
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a Secret, reads it, reads it as something that it is not, and sends the key as a bearer token.
async fn handle_a_key(client: &Client, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = Secret {
        metadata: ObjectMeta { generate_name: Some("key-".to_owned()), ..ObjectMeta::default() },
        string_data: Some([("key".to_owned(), CANARY.to_owned())].into()),
        ..Secret::default()
    };
    let name = secrets.create(&PostParams::default(), &secret).await.unwrap().metadata.name.unwrap();
    secrets.get(&name).await.unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    let request = Request::get(path).body(Vec::new()).unwrap();
    assert!(client.request::<Vec<u32>>(request).await.is_err(), "a Secret is no list of numbers");
    let url = testbed::shared().await.unwrap().url();
    let insecure = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    insecure.get(format!("{url}/api")).bearer_auth(CANARY).send().await.unwrap();
}

#[tokio::test]
async fn no_level_shows_what_a_dependency_carries() {
    let cluster = testbed::shared().await.unwrap();
    let namespace = cluster.namespace("log").await.unwrap();
    let captured = |dispatch: Dispatch, sink: Captured| {
        let namespace = namespace.clone();
        async move {
            let _guard = tracing::dispatcher::set_default(&dispatch);
            handle_a_key(&cluster.admin().unwrap(), &namespace).await;
            sink.shows_the_canary()
        }
    };

    let (plain, ours) = (Captured::default(), Captured::default());
    let sink = plain.clone();
    let unlimited =
        tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(move || sink.clone()).finish();
    assert!(
        captured(unlimited.into(), plain).await,
        "without our ceiling the canary shows: the test can see"
    );

    let sink = ours.clone();
    let everything = "trace,kube_client=trace,kube_runtime=trace,hyper=trace,h2=trace,reqwest=trace";
    let (limited, _handle) = subscriber(everything, LogFormat::Json, move || sink.clone()).unwrap();
    assert!(!captured(Dispatch::new(limited), ours).await);
}
