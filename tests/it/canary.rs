//! Keys that must turn up nowhere: every stored revision, every log line, metric, event and status of an operator that
//! logs all it can is searched for them, after all that a key goes through has happened.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use llmkey_operator::testbed::etcd::Entry;
use llmkey_operator::testbed::needles::Needles;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bad_input::stalled;
use super::stage::{Tenant, state, traced, wait};

/// Bytes that only the provider writes: none of its text may be repeated anywhere.
const PROVIDER_TEXT: &str = "Incorrect API key provided";

/// A provider that sends back what it was given, in every place of a reply. Returns its address and certificate.
async fn parrot() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut served = 0_u32;
        while let Ok((stream, _)) = listener.accept().await {
            served += 1;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    drop(repeat(stream, served).await);
                }
            });
        }
    });
    (address, made.cert.pem())
}

async fn repeat(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, served: u32) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let token = request
        .lines()
        .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")))
        .map_or("", |(_, value)| value.trim_start_matches("Bearer "));
    let status = ["401 No", "400 No", "500 No", "302 Elsewhere", "200 OK"][served as usize % 5];
    let body = json!({
        "error": {"message": token, "code": token, "type": token, "param": token}, "object": token, "id": token,
        "data": [{"id": token}],
    })
    .to_string();
    let reply = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: {token}\r\nretry-after: {token}\r\n\
         location: https://127.0.0.1/{token}\r\nwww-authenticate: {token}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// What may hold one of the secrets, by its key in etcd.
struct Allowed {
    /// The operator's namespace: admin credentials, which are not named like the operator's own Secrets.
    home: String,
    /// Sources and targets.
    secrets: Vec<String>,
}

impl Allowed {
    fn add(&mut self, t: &Tenant, secrets: &[&str]) {
        self.secrets.extend(secrets.iter().map(|s| format!("/registry/secrets/{}/{s}", t.namespace)));
    }

    fn holds(&self, entry: &Entry) -> bool {
        let credential = entry.key.strip_prefix(&self.home).is_some_and(|name| !name.starts_with("llmkey-"));
        credential || self.secrets.contains(&entry.key)
    }
}

/// A value that nothing else has, with characters that encodings change.
fn canary(needles: &mut Needles, name: &str, prefix: &str) -> String {
    let mut random = [0; 33];
    getrandom::fill(&mut random).unwrap();
    let value = format!("{prefix}{}+/=%&<", data_encoding::BASE64.encode(&random));
    assert!(needles.add(name, &value));
    value
}

#[tokio::test]
async fn keys_are_nowhere_but_in_their_secrets() {
    let stage = traced().await;
    let t = Tenant::on(stage, "canary").await;
    let home = &stage.installation.namespace;
    let mut needles = Needles::default();
    let mut allowed = Allowed { home: format!("/registry/secrets/{home}/"), secrets: Vec::new() };
    assert!(needles.add("the admin credential", t.sandbox().admin_key()));

    // A person's key, as kubectl applies it; another; one that is rejected; the first again.
    let first = person(&t, &mut needles, "first");
    let second = person(&t, &mut needles, "second");
    let rejected = canary(&mut needles, "the rejected key", "sk-proj-");
    allowed.add(&t, &["chat", "chat-source", "minted"]);
    applied(&t, "chat-source", &first).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    t.source("chat", &second).await;
    t.until("chat", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    t.source("chat", &rejected).await;
    stalled(&t, "chat", "RejectedNotPublished", &[]).await;
    t.source("chat", &first).await;
    t.until("chat", "version 3", |key| state(key, 3).as_deref() == Some("Current")).await;

    // Minted, with answers that are lost and cut; rotated; revoked.
    let once = |operation, answer| {
        t.sandbox().add_fault(FaultRule::on(operation, answer).project(&t.project).times(1));
    };
    once(Operation::CreateServiceAccount, Fault::after_effect(Answer::HalfBody));
    once(Operation::CreateServiceAccount, Fault::drop_reply());
    once(Operation::CreateServiceAccount, Fault::after_effect(Answer::Html { status: 200 }));
    t.policy("by-hand", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t.minted("minted", json!({"rotationPolicyRef": {"name": "by-hand"}})).await;
    t.ready("minted").await;
    assert!(needles.add("the first minted key", &t.delivered("minted", "OPENAI_API_KEY").await.unwrap()));
    once(Operation::ListModels, Fault::refuse(Answer::InvalidApiKey));
    once(Operation::DeleteServiceAccount, Fault::refuse(Answer::InternalError));
    t.annotate("minted", "llmkeys.dev/rotate", Some("now")).await;
    t.until("minted", "the first is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    assert!(needles.add("the second minted key", &t.delivered("minted", "OPENAI_API_KEY").await.unwrap()));

    // A provider that repeats whatever it is told, asked with a key and with an admin credential.
    let (address, certificate) = parrot().await;
    let parroted = canary(&mut needles, "the parroted credential", "sk-admin-");
    let echo = format!("{}-echo", t.namespace);
    t.credential(&echo, &parroted, &address).await;
    let spec = json!({
        "baseURL": format!("https://{address}/v1"), "caBundle": certificate, "adminCredentialRef": {"name": echo},
    });
    t.llm_provider(&echo, spec).await;
    let spoken = canary(&mut needles, "the parroted key", "sk-proj-");
    allowed.add(&t, &["spoken", "spoken-source"]);
    t.source("spoken", &spoken).await;
    t.supplied("spoken", json!({"providerRef": {"name": echo}})).await;
    t.minted("spoken-minted", json!({"providerRef": {"name": echo}})).await;
    t.until("spoken-minted", "an answer", |key| key.status.as_ref().is_some_and(|s| !s.versions.is_empty()))
        .await;
    t.until("spoken", "an answer", |key| key.status.as_ref().is_some_and(|s| s.observed.is_some())).await;
    let asked = || t.operator().log().matches("the provider").count();
    let before = asked();
    wait("the parrot is asked more than once", async || (asked() > before + 5).then_some(())).await;

    t.delete("minted").await;
    t.delete("chat").await;
    search(&t, &needles, &allowed).await;
}

/// A key that a person has.
fn person(t: &Tenant, needles: &mut Needles, name: &str) -> String {
    let value = canary(needles, &format!("the {name} key"), "sk-proj-");
    let owner = llmkey_operator::sandbox::OwnerAccess::Active;
    t.sandbox().register_key(&value, &t.project, name, owner).unwrap();
    value
}

/// As `kubectl apply` leaves it: the value stands in an annotation too.
async fn applied(t: &Tenant, name: &str, value: &str) {
    let data = json!({"key": data_encoding::BASE64.encode(value.as_bytes())});
    let last =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}).to_string();
    let object: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}},
        "data": data,
    }))
    .unwrap();
    t.secrets().create(&PostParams::default(), &object).await.unwrap();
}

async fn search(t: &Tenant, needles: &Needles, allowed: &Allowed) {
    let cluster = t.stage.cluster;
    let entries = cluster.etcd_get_all().await.unwrap();
    let mut leaks = Vec::new();
    let mut recognised = 0;
    for entry in &entries {
        let found = needles.found_in(&entry.value);
        if allowed.holds(entry) {
            recognised += usize::from(!found.is_empty());
        } else if !found.is_empty() {
            leaks.push(format!("etcd {} at revision {}: {found:?}", entry.key, entry.revision));
        }
    }
    // The search is worth nothing if it does not find what is there.
    assert!(recognised >= 8, "only {recognised} values of Secrets were recognised");
    let kinds =
        |prefix: &str| entries.iter().filter(|e| e.key.starts_with(prefix) && !e.value.is_empty()).count();
    assert!(kinds("/registry/events/") > 5 && kinds("/registry/llmkeys.dev/llmkeys/") > 5);
    assert!(entries.iter().any(|e| e.key.starts_with("/registry/secrets/llmkey-system/llmkey-")));

    let log = t.operator().log();
    assert!(log.contains("a key was not accepted"));
    let (status, metrics) = t.operator().get("/metrics").await;
    assert!(status == 200 && metrics.contains("llmkey_validation"));
    let audit = std::fs::read(cluster.audit_log()).unwrap();
    assert!(audit.len() > 10_000);
    let pid = t.operator().pid();
    let mut places = vec![
        ("the log".to_owned(), log.into_bytes()),
        ("metrics".to_owned(), metrics.into_bytes()),
        ("the audit log".to_owned(), audit),
    ];
    for part in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{pid}/{part}")).unwrap();
        assert!(!bytes.is_empty());
        assert!(part != "cmdline" || String::from_utf8_lossy(&bytes).contains("--log-level=trace"));
        places.push((part.to_owned(), bytes));
    }
    places.extend(open_files(pid));
    for (place, bytes) in &places {
        let found = needles.found_in(bytes);
        if !found.is_empty() {
            leaks.push(format!("{place}: {found:?}"));
        }
        if bytes.windows(PROVIDER_TEXT.len()).any(|text| text == PROVIDER_TEXT.as_bytes()) {
            leaks.push(format!("{place}: the provider's own text"));
        }
    }
    for entry in &entries {
        if entry.value.windows(PROVIDER_TEXT.len()).any(|text| text == PROVIDER_TEXT.as_bytes()) {
            leaks.push(format!("etcd {}: the provider's own text", entry.key));
        }
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

/// Regular files that the process has open, deleted ones included: temporary files would be among them.
fn open_files(pid: u32) -> Vec<(String, Vec<u8>)> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let regular = descriptors.filter_map(|entry| {
        let path = entry.unwrap().path();
        let meta = std::fs::metadata(&path).ok()?;
        let name = std::fs::read_link(&path).ok()?.display().to_string();
        (meta.is_file() && meta.size() > 0).then(|| (name, std::fs::read(&path).unwrap_or_default()))
    });
    regular.collect()
}

#[tokio::test]
async fn a_secret_of_another_type_is_no_oracle() {
    let stage = traced().await;
    let t = Tenant::on(stage, "oracle").await;
    let home: Api<Secret> = Api::namespaced(t.client.clone(), &t.namespace);
    let mut told = Vec::new();
    for (name, password) in [("a", "x"), ("b", "sk-proj-0123456789abcdefghijklmnop")] {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
            "metadata": {"name": format!("{name}-source")}, "stringData": {"password": password},
        });
        home.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let source = json!({"source": {"secretRef": {"name": format!("{name}-source"), "key": "password"}}});
        t.supplied(name, source).await;
        let key = stalled(&t, name, "SourceTypeRefused", &[]).await;
        let mut status = serde_json::to_value(key.status.unwrap()).unwrap();
        status["observed"] = json!(null);
        for condition in status["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = json!(null);
        }
        told.push(
            status
                .to_string()
                .replace(&format!("{name}-source"), "source")
                .replace(&format!("\"secretName\":\"{name}\""), "\"secretName\":\"target\""),
        );
    }
    assert_eq!(told[0], told[1]);
}
