//! `kubectl llmkey support-bundle`: what helps is in it, and no form of anything secret, wherever that was planted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use llmkey_operator::testbed::needles::Needles;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::stage::{DIVISOR, Operator, Stage, Tenant, own_stage, state};

/// A value that nothing else has, with characters that encodings change.
fn canary(needles: &mut Needles, name: &str) -> String {
    let mut random = [0; 33];
    getrandom::fill(&mut random).unwrap();
    let value = format!("sk-proj-{}+/=%&<", data_encoding::BASE64.encode(&random));
    assert!(needles.add(name, &value));
    value
}

/// An address of this machine that the API server takes for a pod's: it refuses loopback.
fn address() -> std::net::IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this asks which address would be used.
    socket.connect("192.0.2.254:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// Passes connections on to the operator's metrics, as a pod's network does.
async fn reached_at(address: std::net::IpAddr, operator: u16) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", operator)).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    at
}

/// The operator's Deployment and a pod of it, with secrets wherever people put them.
async fn workload(t: &Tenant, secret: &str, metrics: SocketAddr) {
    let home = &t.stage.installation.namespace;
    let labels = json!({"app.kubernetes.io/part-of": "llmkey-operator", "note": "x"});
    let pod = json!({"containers": [{
        "name": "operator", "image": "llmkey-operator:0.1.0",
        "args": ["run", "--log-level=debug", format!("--identity={secret}")],
        "env": [{"name": "HTTPS_PROXY", "value": format!("http://me:{secret}@proxy")}],
        "ports": [{"name": "metrics", "containerPort": metrics.port()}],
    }]});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "llmkey-operator", "labels": labels, "annotations": {"note": secret}},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels},
                 "template": {"metadata": {"labels": labels, "annotations": {"note": secret}}, "spec": pod}},
    }))
    .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(t.client.clone(), home);
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(t.client.clone(), home);
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"name": "llmkey-operator-0", "labels": {"app.kubernetes.io/part-of": "llmkey-operator"},
                     "annotations": {"note": secret}},
        "spec": pod,
    }))
    .unwrap();
    pods.create(&PostParams::default(), &object).await.unwrap();
    let running = json!({"status": {
        "phase": "Running", "podIP": metrics.ip().to_string(), "podIPs": [{"ip": metrics.ip().to_string()}],
    }});
    pods.patch_status("llmkey-operator-0", &PatchParams::default(), &Patch::Merge(running)).await.unwrap();
}

/// Sealed keys, the keyring and all other data of Secrets.
async fn all_data(t: &Tenant) -> Vec<Vec<u8>> {
    let secrets: Api<Secret> = Api::all(t.client.clone());
    let listed = secrets.list(&ListParams::default()).await.unwrap();
    listed.items.into_iter().flat_map(|s| s.data.unwrap_or_default().into_values().map(|v| v.0)).collect()
}

/// The texts of a JSON document, those in it that are documents themselves included.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

fn sealed(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == "sealed" { texts(field, found) } else { sealed(field, found) }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| sealed(item, found)),
        _ => {}
    }
}

fn bundle(t: &Tenant, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-llmkey"))
        .arg("support-bundle")
        .args(words)
        .env("KUBECONFIG", t.stage.cluster.admin_kubeconfig())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(path).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().components().skip(1).collect::<PathBuf>().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    files
}

fn json_of(files: &BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An operator, with keys that were made, supplied and rotated, and canaries in everything that a person can write.
async fn planted(stage: &'static Stage, needles: &mut Needles) -> (Tenant, Operator) {
    let t = Tenant::on(stage, "bundle").await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-bundle", DIVISOR, "debug");
    operator.ready().await;
    assert!(needles.add("the admin credential", t.admin_key));
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    let annotated = canary(needles, "an annotation");
    let own = canary(needles, "a text of the spec");
    let changes = json!({
        "rotationPolicyRef": {"name": "policy"}, "model": "gpt", "config": {"token": own},
        "target": {"data": {"KEY": "$(KEY)", "OTHER": format!("{own}$(VERSION)")}},
    });
    let annotations = json!({
        "note": annotated,
        "kubectl.kubernetes.io/last-applied-configuration": json!({"spec": {"config": {"token": own}}}).to_string(),
    });
    t.minted_with("chat", annotations, changes).await;
    t.ready("chat").await;
    assert!(needles.add("the first key", &t.delivered("chat", "KEY").await.unwrap()));
    t.annotate("chat", "llmkeys.dev/rotate", Some(&canary(needles, "a token"))).await;
    t.until("chat", "the older key is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    assert!(needles.add("the second key", &t.delivered("chat", "KEY").await.unwrap()));
    let supplied = t.person_key("supplied-with-a-long-tail");
    assert!(needles.add("the supplied key", &supplied));
    t.source("own", &supplied).await;
    t.supplied("own", json!({})).await;
    t.ready("own").await;
    (t, operator)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_has_what_helps_and_nothing_that_is_secret() {
    let stage = own_stage().await;
    let mut needles = Needles::default();
    let (t, operator) = planted(stage, &mut needles).await;
    let at = reached_at(address(), operator.port).await;
    workload(&t, &canary(&mut needles, "an argument, a variable, an annotation"), at).await;
    let lost = canary(&mut needles, "a line of the log");
    let log = stage.cluster.dir().join("given.log");
    let odd = json!({"level": "WARN", "message": format!("said {lost}"), "body": lost}).to_string();
    fs::write(&log, format!("{}panicked at {lost}\n{odd}\n", operator.log())).unwrap();

    let archive = stage.cluster.dir().join("bundle.tar.gz");
    let place = archive.display().to_string();
    let home = stage.installation.namespace.as_str();
    let given = log.display().to_string();
    let words = [
        "-n",
        &t.namespace,
        "--operator-namespace",
        home,
        "--to",
        &place,
        "--log-file",
        &given,
        "--log-lines",
        "100000",
    ];
    let (code, said) = bundle(&t, &words);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("llmkeys.json") && said.contains(&place), "{said}");
    let files = unpacked(&archive);

    // What helps.
    let keys = json_of(&files, "llmkeys.json");
    let key =
        |name: &str| keys.as_array().unwrap().iter().find(|key| key["metadata"]["name"] == name).unwrap();
    assert_eq!(key("chat")["status"]["versions"].as_array().unwrap().len(), 2);
    assert_eq!(key("chat")["spec"]["target"]["data"], json!(["KEY", "OTHER"]));
    assert_eq!(key("own")["spec"]["source"]["secretRef"], json!({"key": "key", "name": "own-source"}));
    let ledgers = json_of(&files, "ledgers.json");
    let ledger = ledgers.as_array().unwrap().iter().find(|ledger| ledger["name"] == "chat").unwrap();
    let versions = ledger["versions"].as_array().unwrap();
    assert_eq!(
        versions.iter().map(|v| v["state"].as_str().unwrap()).collect::<Vec<_>>(),
        ["Revoked", "Current"]
    );
    assert!(versions.iter().all(|version| version["key"]["fingerprint"].is_string()));
    assert!(files["ledger-secrets.json"].contains("llmkey-"));
    assert!(files["events.json"].contains("KeyDelivered") || files["events.json"].contains("\"reason\""));
    assert!(files["leases.json"].contains("operator-bundle"));
    assert!(files["crds.json"].contains("llmkeys.llmkeys.dev"));
    assert!(
        files["llmproviders.json"].contains(&t.project) && files["rotationpolicies.json"].contains("policy")
    );
    assert!(files["doctor.json"].contains("leader"));
    assert!(
        files["logs/given.jsonl"].contains("reconciled")
            && files["logs/given.jsonl"].contains("1 lines that are no JSON")
    );
    assert!(files["metrics/llmkey-operator-0.txt"].contains("llmkey_"), "{}", files["bundle.json"]);
    let deployments = json_of(&files, "deployments.json");
    assert_eq!(deployments[0]["args"], json!(["run", "--log-level=debug", "--identity=…"]));
    let about = json_of(&files, "bundle.json");
    assert_eq!(about["missing"], json!([]), "{about:#}");

    // What is secret. The search is worth nothing if it does not find what is there.
    let data = all_data(&t).await;
    assert!(data.iter().filter(|data| !needles.found_in(data).is_empty()).count() >= 4);
    for (name, text) in &files {
        assert_eq!(needles.found_in(text.as_bytes()), Vec::<String>::new(), "{name}");
    }
    let whole: String = files.values().cloned().collect();
    let mut seals = Vec::new();
    for data in &data {
        if let Ok(record) = serde_json::from_slice::<Value>(data) {
            sealed(&record, &mut seals);
        }
        // The keyring, the key of fingerprints, sealed keys.
        if data.len() >= 24 {
            assert!(!whole.contains(&data_encoding::BASE64.encode(data)));
        }
    }
    seals.retain(|seal| seal.len() >= 32);
    assert!(!seals.is_empty());
    assert!(seals.iter().all(|seal| !whole.contains(seal)), "a sealed key");

    // It overwrites nothing, writes a directory as well, and says what it may not have.
    assert_eq!(bundle(&t, &words).0, 2);
    let directory = stage.cluster.dir().join("bundle");
    let place = directory.display().to_string();
    let (code, said) = bundle(&t, &["-A", "--operator-namespace", "elsewhere", "--to", &place]);
    assert!(code == 0 && said.contains("logs: no pod of the operator is in namespace elsewhere"), "{said}");
    let same: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("llmkeys.json")).unwrap()).unwrap();
    assert_eq!(same.as_array().unwrap().len(), 2);
    assert_eq!(fs::metadata(&archive).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
}
