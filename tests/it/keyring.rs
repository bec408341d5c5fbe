//! Key-encryption keys that come and go while the operator runs, and ledgers of other formats.

use std::collections::BTreeMap;
use std::fs;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use llmkey_operator::crypto::{Keyring, SecretBytes};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::ledger::{FORMAT, Record, encode, unverified};
use serde_json::{Value, json};

use super::audit::{logs, verify};
use super::bad_input::{calls, looked_again, secret, stalled};
use super::restart::{kill, leads, says, start};
use super::stage::{DIVISOR, Operator, Stage, Tenant, own_stage, state, wait};

const KEYRING: &str = "llmkey-keyring";

fn secrets(stage: &Stage) -> Api<Secret> {
    Api::namespaced(stage.cluster.admin().unwrap(), &stage.installation.namespace)
}

/// Every ledger by its name: the keys that it says it needs, and its version.
async fn ledgers(stage: &Stage) -> BTreeMap<String, (String, String)> {
    let only = ListParams::default().fields("type=llmkeys.dev/ledger");
    let found = secrets(stage).list(&only).await.unwrap().items;
    let told = |secret: &Secret| {
        let needs = secret.annotations().get("llmkeys.dev/sealed-by").cloned().unwrap_or_default();
        (secret.name_any(), (needs, secret.resource_version().unwrap()))
    };
    found.iter().map(told).collect()
}

async fn all_need(stage: &Stage, kek: &str) -> BTreeMap<String, (String, String)> {
    wait(&format!("every ledger needs {kek} alone"), async || {
        let found = ledgers(stage).await;
        found.values().all(|(needs, _)| needs == kek).then_some(found)
    })
    .await
}

async fn change(stage: &Stage, patch: Value) {
    let patch = Patch::Merge(patch);
    secrets(stage).patch(KEYRING, &PatchParams::default(), &patch).await.unwrap();
}

async fn keyring(stage: &Stage) -> Keyring {
    let data = secrets(stage).get(KEYRING).await.unwrap().data.unwrap();
    let data = data.into_iter().map(|(name, value)| (name, SecretBytes::new(value.0))).collect();
    Keyring::from_secret_data(&data).unwrap()
}

async fn record(t: &Tenant, name: &str) -> Record {
    unverified(&secrets(t.stage).get(&ledger_name(&t.namespace, name)).await.unwrap()).unwrap()
}

async fn until_says(operator: &Operator, line: &str) {
    wait(line, async || says(operator, line).await.then_some(())).await;
}

const NEWER: [u8; 32] = *b"vutsrqponmlkjihgfedcba9876543210";

fn newer() -> Value {
    json!({"data": {"kek-newer": ByteString(NEWER.to_vec())}, "stringData": {"primary": "newer"}})
}

async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t
}

async fn mint(t: &Tenant, name: &str) {
    let spec = json!({"rotationPolicyRef": {"name": "policy"}, "deletionGracePeriod": "168h",
                      "validation": {"interval": "168h"}});
    t.minted(name, spec).await;
    t.ready(name).await;
}

#[tokio::test]
async fn every_ledger_goes_to_a_new_key_without_a_restart_and_the_old_one_can_be_taken_out() {
    let stage = own_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = tenant(stage, "renewed").await;
    mint(&t, "chat").await;
    mint(&t, "gone").await;
    t.delete("gone").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("gone").await.unwrap().is_none().then_some(()))
        .await;
    let old = keyring(stage).await.primary().to_owned();
    let found = all_need(stage, &old).await;
    assert_eq!(found.len(), 3, "a key's, a deleted key's and the account's: {found:?}");
    until_says(&operator, &format!("llmkey_ledgers{{kek=\"{old}\"}} 3")).await;
    let (good, before) = (secret(&t, "chat").await, calls(&t).len());
    let epochs = async || [record(&t, "chat").await.epoch, record(&t, "gone").await.epoch];
    let first = epochs().await;

    change(stage, newer()).await;
    let renewed = all_need(stage, "newer").await;
    assert_eq!(epochs().await, first.map(|epoch| epoch + 1), "one write each");
    until_says(&operator, &format!("llmkey_ledgers{{kek=\"{old}\"}} 0")).await;
    until_says(&operator, "llmkey_ledgers{kek=\"newer\"} 3").await;
    let words = format!("\"kek\":\"{old}\"");
    let told = || {
        let log = operator.log();
        let about = log.lines().filter(|line| line.contains("is needed by no ledger any more"));
        about.filter(|line| line.contains(&words)).count()
    };
    wait("it says that the old one can go", async || (told() > 0).then_some(())).await;
    t.ready("chat").await;
    looked_again(&t, "chat").await;
    assert_eq!(told(), 1, "once");
    assert_eq!(ledgers(stage).await, renewed, "at rest nothing is written");
    assert_eq!(secret(&t, "chat").await, good);
    assert_eq!(calls(&t).len(), before);

    change(stage, json!({"data": {format!("kek-{old}"): null}})).await;
    let gone = async || (!operator.get("/metrics").await.1.contains(&format!("kek=\"{old}\""))).then_some(());
    wait("nothing is said of the old one", gone).await;
    kill(stage, operator).await;
    let operator = start(stage);
    leads(&operator).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    let (right, said) = verify(stage, &logs(stage));
    assert!(right, "{said}");
    assert!(logs(stage).contains("\"also\":[\"Resealed\"]"), "a re-wrap is on record");
}

#[tokio::test]
async fn a_key_that_is_taken_out_too_early_stalls_what_needs_it_and_loses_nothing() {
    let stage = own_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = tenant(stage, "early").await;
    mint(&t, "chat").await;
    mint(&t, "gone").await;
    t.delete("gone").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("gone").await.unwrap().is_none().then_some(()))
        .await;
    let all = secrets(stage).get(KEYRING).await.unwrap();
    let old = keyring(stage).await.primary().to_owned();
    let (good, before) = (secret(&t, "chat").await, calls(&t).len());
    let found = all_need(stage, &old).await;

    let mut swapped = newer();
    swapped["data"][format!("kek-{old}")] = Value::Null;
    change(stage, swapped).await;
    let words = [&*format!("{old:?}"), "put it back into the keyring", &*ledger_name(&t.namespace, "chat")];
    stalled(&t, "chat", "KeyringMissing", &words).await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    looked_again(&t, "chat").await;
    stalled(&t, "chat", "KeyringMissing", &words).await;
    until_says(&operator, "llmkey_released_waiting{reason=\"KeyringMissing\"} 1").await;
    until_says(&operator, &format!("llmkey_ledgers{{kek=\"{old}\"}} 3")).await;
    assert_eq!((secret(&t, "chat").await, calls(&t).len()), (good, before));
    assert_eq!(ledgers(stage).await, found);

    // Also the one that starts without it finds it again.
    kill(stage, operator).await;
    let operator = start(stage);
    leads(&operator).await;
    looked_again(&t, "chat").await;
    // It has not read the account's ledger before, which needs the same key and is told first.
    stalled(&t, "chat", "KeyringMissing", &words[..2]).await;
    let kek = &all.data.as_ref().unwrap()[&format!("kek-{old}")];
    change(stage, json!({"data": {format!("kek-{old}"): kek}})).await;
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    t.ready("chat").await;
    all_need(stage, "newer").await;
    wait("nothing waits", async || {
        (!operator.get("/metrics").await.1.contains("llmkey_released_waiting{")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_directory_is_read_again_and_a_damaged_one_changes_nothing() {
    let stage = own_stage().await;
    let dir = stage.cluster.dir().join("keyring");
    fs::create_dir(&dir).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    put("old.key", b"0123456789abcdefghijklmnopqrstuv");
    let further = format!("--keyring-dir={}", dir.display());
    let operator =
        Operator::start_with(stage.cluster, &stage.installation, "operator", DIVISOR, "debug", &[&further]);
    leads(&operator).await;
    let t = tenant(stage, "files").await;
    mint(&t, "chat").await;
    all_need(stage, "old").await;

    // Two keys, and nothing says which is the newest.
    put("newer.key", &NEWER);
    until_says(&operator, "llmkey_keyring_unusable 1").await;
    mint(&t, "other").await;
    all_need(stage, "old").await;
    put("primary", b"newer\n");
    until_says(&operator, "llmkey_keyring_unusable 0").await;
    all_need(stage, "newer").await;

    put("old.key", &NEWER);
    until_says(&operator, "llmkey_keyring_unusable 1").await;
    assert!(operator.log().contains("key-encryption key old has other bytes than before"));
    fs::remove_file(dir.join("old.key")).unwrap();
    until_says(&operator, "llmkey_keyring_unusable 0").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
}

/// Writes the record of a key as an operator of another format would have.
async fn written_as(t: &Tenant, name: &str, format: i32) -> String {
    let api = secrets(t.stage);
    let found = api.get(&ledger_name(&t.namespace, name)).await.unwrap();
    let record = Record { format, ..unverified(&found).unwrap() };
    let mut secret = encode(&record, &t.stage.installation.namespace, &keyring(t.stage).await).unwrap();
    secret.metadata.resource_version = found.metadata.resource_version;
    secret.metadata.annotations.as_mut().unwrap().remove("llmkeys.dev/sealed-by");
    let written = api.replace(&ledger_name(&t.namespace, name), &PostParams::default(), &secret).await;
    written.unwrap().resource_version().unwrap()
}

#[tokio::test]
async fn a_ledger_of_the_first_format_is_converted_by_its_next_write_and_a_newer_one_is_left_alone() {
    let stage = own_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = tenant(stage, "formats").await;
    mint(&t, "chat").await;
    mint(&t, "future").await;
    let version = async |name: &str| ledgers(stage).await[&ledger_name(&t.namespace, name)].1.clone();
    assert_eq!(record(&t, "chat").await.format, FORMAT);

    let first = written_as(&t, "chat", 1).await;
    kill(stage, operator).await;
    let operator = start(stage);
    leads(&operator).await;
    looked_again(&t, "chat").await;
    t.ready("chat").await;
    assert_eq!(version("chat").await, first, "at rest nothing is converted");
    until_says(&operator, "llmkey_ledgers{kek=\"(unknown)\"} 1").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(record(&t, "chat").await.format, FORMAT);
    let told =
        logs(stage).matches("\"also\":[\"Format\"").count() + logs(stage).matches(",\"Format\"").count();
    assert_eq!(told, 1, "it is converted once");

    let (good, before) = (secret(&t, "future").await, calls(&t).len());
    let newer = FORMAT + 7;
    let left = written_as(&t, "future", newer).await;
    let words = [&*format!("format {newer}"), "upgrade the operator", &*ledger_name(&t.namespace, "future")];
    stalled(&t, "future", "LedgerUnreadable", &words).await;
    t.annotate("future", "llmkeys.dev/rotate", Some("1")).await;
    change(stage, self::newer()).await;
    wait("the other ledgers need the new key", async || {
        let needs = &ledgers(stage).await[&ledger_name(&t.namespace, "chat")].0;
        (needs == "newer").then_some(())
    })
    .await;
    looked_again(&t, "future").await;
    stalled(&t, "future", "LedgerUnreadable", &words).await;
    assert_eq!(version("future").await, left, "nobody writes it");
    assert_eq!((secret(&t, "future").await, calls(&t).len()), (good, before));

    // An operator that knows the format takes it up where it was.
    written_as(&t, "future", FORMAT).await;
    t.until("future", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
}
