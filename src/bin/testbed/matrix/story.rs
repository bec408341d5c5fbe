//! What lies there before a story begins, and who does what to begin it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Timelike;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use llmkey_operator::api::{ClusterRotationPolicy, LEDGER_SEALED_BY, LLMKey, LLMProvider, RotationPolicy};
use llmkey_operator::controller::install::KEYRING_SECRET;
use llmkey_operator::crypto::{Keyring, SecretBytes, SystemEntropy};
use llmkey_operator::domain::health::last_slot;
use llmkey_operator::domain::names::slot_offset;
use llmkey_operator::ledger::{Record, encode, unverified};
use llmkey_operator::sandbox::{OwnerAccess, Sandbox};
use llmkey_operator::testbed::apply;
use serde_json::{Value, json};

use super::Failure;
use super::bed::{Bed, DIVISOR};
use super::cell::Cell;
use super::probe::{ENTRY, TARGET};
use super::scenario::Scenario;

const POLICY: &str = "policy";
const SOURCE: &str = "chat-source";
/// A schedule's least interval, an hour, as it counts here, and a little more.
const INTERVAL: Duration = Duration::from_millis(12_500);
/// Longest wait for one step of what has to happen before.
const WITHIN: Duration = Duration::from_secs(120);
/// Nothing was written for so long: it is at rest.
const REST: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(100);
/// Its seconds.
const MINUTE: u64 = 60;
/// The watches have shown it by then.
const SHOWN: Duration = Duration::from_millis(300);

/// What lies there before the story begins. `provider` is the address that the operator calls, `authority` who signed its
/// certificate. The admin credential's Secret of a cell, and its LLMProvider, have the namespace's name.
pub fn ground(
    cell: &Cell,
    sandbox: &Sandbox,
    operator_namespace: &str,
    provider: &str,
    authority: &str,
) -> Vec<Value> {
    let (scenario, namespace) = (cell.name.scenario, &cell.namespace);
    // Two seconds here: long enough that the overlap is always waited for. Six: until the sweeps have done what they have to.
    let minimum = if scenario == Scenario::Acknowledge { "30m" } else { "10m" };
    let mut policy = json!({"overlap": {"minimum": minimum, "evidence": {"quietFor": "0s"}}});
    if scenario == Scenario::LoseKey {
        policy["triggers"] = json!([{"type": "Invalid"}]);
    }
    let (kind, path, field, place, credential) = if scenario.at_litellm() {
        ("LiteLLM", "proxy", "liteLLM", json!({"teamID": cell.project()}), sandbox.master_key())
    } else {
        ("OpenAI", "v1", "openAI", json!({"project": cell.project()}), sandbox.admin_key())
    };
    let mut ground = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": namespace, "namespace": operator_namespace,
                         "labels": {"llmkeys.dev/admin-credential": "true"}},
            "stringData": {"credential": credential, "host": provider},
        }),
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": namespace},
            "spec": {
                "type": kind, "baseURL": format!("https://{provider}/{path}"), "caBundle": authority,
                "addresses": "AllowPrivate", field: place,
                "adminCredentialRef": {"name": namespace}, "allowedNamespaces": [namespace],
            },
        }),
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": POLICY, "namespace": namespace}, "spec": policy,
        }),
    ];
    if cell.policy.as_ref() == Some(namespace) {
        policy["maxConcurrent"] = json!(1);
        policy["jitter"] = json!("0s");
        ground.push(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "ClusterRotationPolicy",
            "metadata": {"name": namespace}, "spec": policy,
        }));
    }
    if scenario == Scenario::CreateSupplied {
        let value = format!("sk-proj-{}T3BlbkFJsupplied", namespace.replace('-', ""));
        if sandbox.register_key(&value, cell.project(), "supplied", OwnerAccess::Active).is_none() {
            cell.violates("INVALID: the sandbox lost the project".to_owned());
        }
        ground.push(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SOURCE, "namespace": namespace},
            "stringData": {"key": value},
        }));
    }
    if scenario == Scenario::BarePods {
        let env = json!([{"secretRef": {"name": TARGET}}]);
        ground.push(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"automountServiceAccountToken": false,
                     "containers": [{"name": "app", "image": "app", "envFrom": env}]},
        }));
    }
    if scenario.begins_ready() {
        ground.push(key(cell));
    }
    ground
}

/// The LLMKey. Its slots for checks lie far apart, so that none falls into the story.
fn key(cell: &Cell) -> Value {
    let source = match cell.name.scenario {
        Scenario::CreateSupplied => json!({"secretRef": {"name": SOURCE, "key": "key"}}),
        _ => json!({"mint": {}}),
    };
    let policy = match &cell.policy {
        Some(shared) => json!({"kind": "ClusterRotationPolicy", "name": shared}),
        None => json!({"name": POLICY}),
    };
    json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
        "metadata": {"name": TARGET, "namespace": cell.namespace},
        "spec": {
            "providerRef": {"name": cell.namespace}, "source": source,
            "rotationPolicyRef": policy, "deletionGracePeriod": "0s",
            "validation": {"interval": "168h"},
        },
    })
}

/// What else happens before the story begins, once the key is ready.
pub async fn prepare(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    match cell.name.scenario {
        Scenario::Schedule => tokio::time::sleep(INTERVAL).await,
        Scenario::EditPolicy => {
            let second = u64::from(bed.clock.now_precise().second());
            tokio::time::sleep(Duration::from_secs(MINUTE - second) + SHOWN).await;
        }
        Scenario::Upgrade => {
            cell.watch(true);
            write_first_format(bed, cell).await?;
            rest(bed, cell).await?;
        }
        Scenario::RestoreLedger => rotate_and_rest(bed, cell).await?,
        Scenario::Acknowledge => {
            rotate_and_rest(bed, cell).await?;
            cell.watch(true);
            put_back(bed, cell).await?;
            let frozen = until(bed, "the account is frozen", async || Ok(token(bed, cell).await?.is_some()));
            frozen.await?;
            rest(bed, cell).await?;
        }
        _ => {}
    }
    Ok(())
}

/// The story begins.
pub async fn begin(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let client = &bed.admin;
    let keys: Api<LLMKey> = Api::namespaced(client.clone(), &cell.namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &cell.namespace);
    let edit = PatchParams::default();
    match cell.name.scenario {
        Scenario::CreateMinted | Scenario::CreateSupplied | Scenario::CreateChosen => {
            apply(client, &[key(cell)]).await?;
        }
        Scenario::Rotate
        | Scenario::RotateChosen
        | Scenario::Upgrade
        | Scenario::Outage
        | Scenario::BarePods => rotate(&keys).await?,
        // Once for all of them, by `renew_keyring`.
        Scenario::RenewKeyring => {}
        Scenario::EditPolicy => make_all_due(bed, cell).await?,
        Scenario::Schedule => set_schedule(client, cell, true).await?,
        Scenario::RevokeAll => {
            cell.watch(false);
            keys.patch(TARGET, &edit, &Patch::Merge(json!({"spec": {"desiredState": "Revoked"}}))).await?;
        }
        Scenario::RevokeVersion => {
            keys.patch(TARGET, &edit, &Patch::Merge(json!({"spec": {"revokedVersions": [1]}}))).await?;
        }
        Scenario::ChangeTarget => {
            let data = json!({ENTRY: "$(KEY)", "OPENAI_BASE_URL": "$(BASE_URL)", "APP_KEY": "$(KEY)"});
            keys.patch(TARGET, &edit, &Patch::Merge(json!({"spec": {"target": {"data": data}}}))).await?;
        }
        Scenario::ChangeProject => {
            let providers: Api<LLMProvider> = Api::all(client.clone());
            let spec = json!({"spec": {"openAI": {"project": cell.projects[1]}}});
            providers.patch(&cell.namespace, &edit, &Patch::Merge(spec)).await?;
            let seen = async || {
                let provider = providers.get(&cell.namespace).await?;
                let seen = provider.status.as_ref().and_then(|status| status.observed_generation);
                Ok(seen.is_some() && seen == provider.metadata.generation)
            };
            until(bed, "the other project is seen", seen).await?;
            tokio::time::sleep(SHOWN).await;
            rotate(&keys).await?;
        }
        Scenario::LoseTarget => {
            // The workload finds it again when it is written.
            cell.watch(false);
            secrets.delete(TARGET, &DeleteParams::default()).await?;
        }
        Scenario::OverwriteTarget => {
            cell.watch(false);
            bed.proxy.prober.overwrite(cell).await;
        }
        Scenario::LoseKey => {
            cell.watch(false);
            let secret = secrets.get(TARGET).await?;
            let value = secret.data.and_then(|mut data| data.remove(ENTRY)).ok_or("nothing is delivered")?;
            bed.sandbox.withdraw_key(&String::from_utf8(value.0)?);
            let lineage = keys.get(TARGET).await?.metadata.uid.ok_or("an LLMKey without uid")?;
            let interval = format!("{}s", interval_with_a_slot_now(bed, &lineage));
            let spec = json!({"spec": {"validation": {"interval": interval}}});
            keys.patch(TARGET, &edit, &Patch::Merge(spec)).await?;
        }
        Scenario::RestoreLedger => put_back(bed, cell).await?,
        Scenario::Acknowledge => {
            let token = token(bed, cell).await?.ok_or("the account is not frozen")?;
            let patch = json!({"metadata": {"annotations": {"llmkeys.dev/acknowledge": token}}});
            let providers: Api<LLMProvider> = Api::all(client.clone());
            providers.patch(&cell.namespace, &edit, &Patch::Merge(patch)).await?;
        }
        Scenario::DeleteKey => {
            cell.watch(false);
            keys.delete(TARGET, &DeleteParams::default()).await?;
        }
        Scenario::DeleteNamespace => {
            cell.watch(false);
            let namespaces: Api<Namespace> = Api::all(client.clone());
            namespaces.delete(&cell.namespace, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

/// What a person does once a key is published: nothing else may be due before the story ends.
pub async fn published(client: &Client, cell: &Cell) {
    if cell.name.scenario == Scenario::Schedule
        && let Err(error) = set_schedule(client, cell, false).await
    {
        cell.violates(format!("INVALID: the schedule could not be taken away: {error}"));
    }
}

/// Hourly, which is 12 s here, or none.
async fn set_schedule(client: &Client, cell: &Cell, hourly: bool) -> Result<(), Failure> {
    let policies: Api<RotationPolicy> = Api::namespaced(client.clone(), &cell.namespace);
    let schedule = if hourly { json!({"interval": "1h"}) } else { Value::Null };
    let patch = json!({"spec": {"schedule": schedule, "jitter": "0s"}});
    policies.patch(POLICY, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn rotate(keys: &Api<LLMKey>) -> Result<(), Failure> {
    let patch = json!({"metadata": {"annotations": {"llmkeys.dev/rotate": "1"}}});
    keys.patch(TARGET, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A schedule whose last time is the minute that has begun since the keys were published, and whose next is a year from now: all
/// of them are due, each once.
async fn make_all_due(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let policies: Api<ClusterRotationPolicy> = Api::all(bed.admin.clone());
    let expression = bed.clock.now_precise().format("%-M %-H %-d %-m *").to_string();
    let patch = json!({"spec": {"schedule": {"cron": {"expression": expression, "timeZone": "UTC"}}}});
    policies.patch(&cell.namespace, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A person adds a key-encryption key and names it as the newest, for all cells at once.
pub async fn renew_keyring(bed: &Bed) -> Result<(), Failure> {
    let secrets: Api<Secret> = Api::namespaced(bed.admin.clone(), &bed.installation.namespace);
    let made = Keyring::generate(&mut SystemEntropy)?;
    let data: BTreeMap<String, ByteString> =
        made.into_iter().map(|(name, value)| (name, ByteString(value.expose().to_vec()))).collect();
    let patch = Patch::Merge(json!({"data": data}));
    secrets.patch(KEYRING_SECRET, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The ledger as an operator of the first format would have left it.
async fn write_first_format(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let secrets: Api<Secret> = Api::namespaced(bed.admin.clone(), &bed.installation.namespace);
    let keyring = secrets.get(KEYRING_SECRET).await?.data.unwrap_or_default();
    let keyring = keyring.into_iter().map(|(name, value)| (name, SecretBytes::new(value.0))).collect();
    let keyring = Keyring::from_secret_data(&keyring)?;
    let found = secrets.get(&cell.ledger).await?;
    let record = unverified(&found).ok_or("the ledger cannot be read")?;
    let mut older = encode(&Record { format: 1, ..record }, &bed.installation.namespace, &keyring)?;
    older.metadata.resource_version = found.metadata.resource_version;
    if let Some(annotations) = &mut older.metadata.annotations {
        // It did not tell what it needs.
        annotations.remove(LEDGER_SEALED_BY);
    }
    secrets.replace(&cell.ledger, &PostParams::default(), &older).await?;
    Ok(())
}

/// A validation interval of one to two hours, one of whose slots came a moment ago: the next check is due at once, and the one
/// after it no sooner than 12 s later.
fn interval_with_a_slot_now(bed: &Bed, lineage: &str) -> u64 {
    let now = bed.clock.now_precise();
    let age = |seconds: &u64| {
        let interval = Duration::from_secs(*seconds) / DIVISOR;
        now - last_slot(now, interval, slot_offset(lineage, interval))
    };
    (3600..7200_u64).min_by_key(age).unwrap_or(3600)
}

/// Keeps a copy of the ledger, and rotates to the end.
async fn rotate_and_rest(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let ledgers: Api<Secret> = Api::namespaced(bed.admin.clone(), &bed.installation.namespace);
    cell.keep(ledgers.get(&cell.ledger).await?);
    let keys: Api<LLMKey> = Api::namespaced(bed.admin.clone(), &cell.namespace);
    rotate(&keys).await?;
    let revoked = async || {
        let status = keys.get(TARGET).await?.status.unwrap_or_default();
        Ok(status.versions.iter().any(|version| version.version == 1 && version.state == "Revoked"))
    };
    until(bed, "the older key is revoked", revoked).await?;
    rest(bed, cell).await
}

/// Puts the copy of the ledger back.
async fn put_back(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let ledgers: Api<Secret> = Api::namespaced(bed.admin.clone(), &bed.installation.namespace);
    let older = cell.kept().ok_or("no copy of the ledger was kept")?;
    let mut ledger = ledgers.get(&cell.ledger).await?;
    ledger.data = older.data;
    ledger.metadata.labels = older.metadata.labels;
    ledger.metadata.annotations = older.metadata.annotations;
    ledgers.replace(&cell.ledger, &PostParams::default(), &ledger).await?;
    Ok(())
}

/// The token of the account's freeze, if it is frozen.
async fn token(bed: &Bed, cell: &Cell) -> Result<Option<String>, Failure> {
    let provider = Api::<LLMProvider>::all(bed.admin.clone()).get(&cell.namespace).await?;
    Ok(provider.status.and_then(|status| status.frozen).map(|frozen| frozen.token))
}

async fn rest(bed: &Bed, cell: &Cell) -> Result<(), Failure> {
    let at_rest = async || {
        let last = cell.last_write().unwrap_or_default();
        Ok(bed.clock.monotonic().saturating_sub(last) > REST)
    };
    until(bed, "nothing is written any more", at_rest).await
}

async fn until(
    bed: &Bed,
    what: &str,
    wanted: impl AsyncFn() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let begin = bed.clock.monotonic();
    while !wanted().await? {
        if bed.clock.monotonic().saturating_sub(begin) > WITHIN {
            return Err(format!("not within {} s: {what}", WITHIN.as_secs()).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
