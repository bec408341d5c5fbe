//! The sweeper, the account's ledger and its freezes, and budgets: keys that nobody holds go, nobody else's do, and what looks
//! wrong stops until a person has looked.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use llmkey_operator::api::{FrozenAccount, LLMKey, LLMProvider, ProviderType};
use llmkey_operator::crypto::{Keyring, SecretBytes, SharedKeyring};
use llmkey_operator::domain::names::{AttemptId, MintName, ledger_name};
use llmkey_operator::ledger::{AccountId, AccountRecord, AccountStore};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation, Settings};
use serde_json::json;

use super::stage::{DIVISOR, Operator, Tenant, because, empty_stage, is, state, wait};
use super::workload::client;

fn ledgers(t: &Tenant) -> Api<Secret> {
    Api::namespaced(t.client.clone(), &t.stage.installation.namespace)
}

/// Makes a key at the provider by hand; returns the id of its service account.
async fn made_by_hand(t: &Tenant, name: &str) -> String {
    let url = format!("{}/organization/projects/{}/service_accounts", t.sandbox().base_url(), t.project);
    let request = client(t.sandbox()).post(&url).bearer_auth(t.sandbox().admin_key());
    let reply = request.json(&json!({"name": name})).send().await.unwrap();
    let made: serde_json::Value = reply.json().await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

/// The name of the key that the ledger's newest version was minted under.
fn minted_name(t: &Tenant) -> MintName {
    t.calls(Operation::CreateServiceAccount).into_iter().rev().find_map(|e| e.name?.parse().ok()).unwrap()
}

fn live(t: &Tenant) -> Vec<String> {
    t.sandbox().live_keys(&t.project).into_iter().filter_map(|key| key.service_account_id).collect()
}

/// Waits until the provider has told so many more lists.
async fn listed_again(t: &Tenant, times: usize) {
    let lists = || t.calls(Operation::ListServiceAccounts).len();
    let before = lists();
    wait("the account is listed again", async || (lists() >= before + times).then_some(())).await;
}

fn providers(t: &Tenant) -> Api<LLMProvider> {
    Api::all(t.client.clone())
}

/// Waits until the LLMProvider shows a freeze for the reason, and the LLMKey with it.
async fn frozen(t: &Tenant, reason: &str) -> FrozenAccount {
    let frozen = wait(&format!("{reason} is shown"), async || {
        let status = providers(t).get(&t.provider).await.unwrap().status?;
        status.frozen.filter(|frozen| frozen.reason == reason)
    })
    .await;
    t.until("chat", reason, |k| because(k, "Stalled", reason) && is(k, "Ready", "False")).await;
    frozen
}

async fn acknowledge(t: &Tenant, token: &str) {
    let patch = json!({"metadata": {"annotations": {"llmkeys.dev/acknowledge": token}}});
    providers(t).patch(&t.provider, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

async fn no_freeze_is_left(t: &Tenant) {
    wait("the freeze is over", async || {
        let provider = providers(t).get(&t.provider).await.unwrap();
        provider.status.unwrap().frozen.is_none().then_some(())
    })
    .await;
}

fn current(key: &LLMKey) -> Option<i32> {
    key.status.as_ref()?.current_version
}

#[tokio::test]
async fn a_key_that_no_ledger_holds_is_revoked_and_nobody_elses_is() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-sweeper", DIVISOR, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "orphans").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    let ours = live(&t).remove(0);
    let name = minted_name(&t);
    let named = |attempt: &AttemptId, change: fn(&mut MintName)| {
        let mut name = MintName { attempt: attempt.clone(), ..name.clone() };
        change(&mut name);
        name.to_string()
    };
    let earlier = AttemptId::new(0, 7).unwrap();
    // The keys of people and of other installations, one of them under a name that is almost ours.
    let theirs = [
        made_by_hand(&t, "theirs").await,
        made_by_hand(&t, &named(&earlier, |n| n.install = "aaaaaaaa".into())).await,
        made_by_hand(&t, &format!("{}-x", named(&earlier, |_| {}))).await,
    ];
    // The same attempt carried out twice, an earlier one, and one of a lineage that has no ledger.
    let orphans = [
        made_by_hand(&t, &name.to_string()).await,
        made_by_hand(&t, &named(&earlier, |_| {})).await,
        made_by_hand(&t, &named(&earlier, |n| n.lineage = "a".repeat(26))).await,
    ];
    wait("the orphans are shown", async || {
        let provider = providers(&t).get(&t.provider).await.unwrap();
        (provider.status?.orphans == Some(3)).then_some(())
    })
    .await;
    wait("they are revoked", async || orphans.iter().all(|id| !live(&t).contains(id)).then_some(())).await;
    for id in &orphans {
        let keys = t.sandbox().keys(&t.project);
        let key = keys.iter().find(|key| key.service_account_id.as_ref() == Some(id)).unwrap();
        let age = key.deleted_at.unwrap() - key.created_at;
        assert!(age.num_milliseconds() >= 2000, "{id} was young: {age}");
    }
    listed_again(&t, 5).await;
    let left = live(&t);
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.contains(&ours) && theirs.iter().all(|id| left.contains(id)), "{left:?}");
    assert!(is(&t.get("chat").await, "Ready", "True"));
    let metrics = operator.get("/metrics").await.1;
    assert!(metrics.contains("llmkey_orphans_revoked_total 3"), "{metrics}");
    wait("none is shown any more", async || {
        let provider = providers(&t).get(&t.provider).await.unwrap();
        provider.status.unwrap().orphans.is_none().then_some(())
    })
    .await;
    // At rest a sweep is one list, and writes nothing.
    let name = ledger_name(&t.namespace, "chat");
    let version = async || {
        let ledger = ledgers(&t).get(&name).await.unwrap().metadata.resource_version;
        (ledger, providers(&t).get(&t.provider).await.unwrap().metadata.resource_version)
    };
    let before = version().await;
    listed_again(&t, 3).await;
    assert_eq!(version().await, before);
}

#[tokio::test]
async fn orphans_behind_small_pages_are_found_and_a_list_that_breaks_counts_for_nothing() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-pages", DIVISOR, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "sweep-pages").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    t.sandbox().set_settings(Some(&t.project), Settings { max_page_size: 1, ..Settings::default() });
    // Every other page fails: no list is ever whole.
    let broken = FaultRule::on(Operation::ListServiceAccounts, Fault::refuse(Answer::InternalError));
    let fault = t.sandbox().add_fault(broken.project(&t.project).skip(1));
    let orphan = made_by_hand(&t, &minted_name(&t).to_string()).await;
    listed_again(&t, 12).await;
    assert!(live(&t).contains(&orphan));
    t.sandbox().remove_fault(fault);
    wait("it is revoked", async || (!live(&t).contains(&orphan)).then_some(())).await;
    assert_eq!(live(&t).len(), 1);
    drop(operator);
}

#[tokio::test]
async fn a_copied_cluster_makes_and_revokes_nothing_until_it_is_acknowledged() {
    let (_alone, stage) = empty_stage().await;
    let start = |name| Operator::start(stage.cluster, &stage.installation, name, DIVISOR, "debug");
    let operator = start("operator-original");
    operator.ready().await;
    let t = Tenant::on(stage, "cloned").await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    drop(operator);

    // As after a restore into another cluster: the account's ledger names one with another uid.
    let account = AccountId {
        r#type: ProviderType::OpenAI,
        host: t.sandbox().addr().to_string(),
        project: t.project.clone(),
    };
    let keyring = ledgers(&t).get("llmkey-keyring").await.unwrap().data.unwrap();
    let keyring = keyring.into_iter().map(|(name, value)| (name, SecretBytes::new(value.0))).collect();
    let keyring = SharedKeyring::new(Keyring::from_secret_data(&keyring).unwrap());
    let store = AccountStore::new(&t.client, &t.stage.installation.namespace, keyring);
    let read = store.get(&account).await.unwrap().unwrap();
    let elsewhere = AccountRecord { cluster: "another".into(), ..read.record.successor("by hand".into()) };
    store.swap(&read, &elsewhere).await.unwrap();
    let orphan = made_by_hand(&t, &minted_name(&t).to_string()).await;
    let operator = start("operator-copy");
    let freeze = frozen(&t, "ClonedCluster").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let secret = t.secrets().get("chat").await.unwrap();
    let gone = kube::api::DeleteParams::default();
    t.secrets().delete(&secret.metadata.name.unwrap(), &gone).await.unwrap();
    wait("delivery goes on", async || t.delivered("chat", "OPENAI_API_KEY").await).await;
    listed_again(&t, 8).await;
    assert_eq!((t.mints(), t.revocations()), (2, 0), "one of them by hand");
    assert!(t.sandbox().accepts(&value) && live(&t).contains(&orphan));
    let metrics = operator.get("/metrics").await.1;
    assert!(metrics.contains("llmkey_frozen_accounts{reason=\"ClonedCluster\"} 1"), "{metrics}");

    acknowledge(&t, "something else").await;
    listed_again(&t, 3).await;
    assert_eq!(frozen(&t, "ClonedCluster").await, freeze);
    acknowledge(&t, &freeze.token).await;
    no_freeze_is_left(&t).await;
    let key = t.until("chat", "the rotation", |k| current(k) == Some(2) && is(k, "Ready", "True")).await;
    assert!(is(&key, "Stalled", "False"));
    t.until("chat", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    wait("the orphan goes", async || (live(&t).len() == 1).then_some(())).await;
    // It is remembered.
    drop(operator);
    let operator = start("operator-again");
    operator.ready().await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("2")).await;
    t.until("chat", "another rotation", |k| current(k) == Some(3) && is(k, "Ready", "True")).await;
}

#[tokio::test]
async fn an_older_ledger_put_back_freezes_the_account_and_the_delivered_key_stays() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-rolled", DIVISOR, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "rolled").await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    let name = ledger_name(&t.namespace, "chat");
    let old = ledgers(&t).get(&name).await.unwrap();
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    t.settled("chat").await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    let mut back = ledgers(&t).get(&name).await.unwrap();
    back.data = old.data;
    back.metadata.labels = old.metadata.labels;
    back.metadata.annotations = old.metadata.annotations;
    ledgers(&t).replace(&name, &PostParams::default(), &back).await.unwrap();

    let freeze = frozen(&t, "LedgerRolledBack").await;
    assert_eq!(freeze.count, 1);
    listed_again(&t, 8).await;
    assert_eq!(
        t.delivered("chat", "OPENAI_API_KEY").await.as_ref(),
        Some(&value),
        "the dead one is not delivered"
    );
    assert!(t.sandbox().accepts(&value));
    let key = t.get("chat").await;
    assert_eq!((current(&key), t.mints(), t.revocations()), (Some(2), 2, 1));

    acknowledge(&t, &freeze.token).await;
    no_freeze_is_left(&t).await;
    let key = t.until("chat", "version 3", |k| current(k) == Some(3) && is(k, "Ready", "True")).await;
    assert_eq!(state(&key, 2).as_deref(), Some("Abandoned"));
    let newest = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(newest != value && t.sandbox().accepts(&newest));
    wait("the key that no ledger knows goes", async || (live(&t).len() == 1).then_some(())).await;
    assert!(t.sandbox().accepts(&newest));
    drop(operator);
}

#[tokio::test]
async fn many_llmkeys_deleted_at_once_keep_their_keys_until_it_is_acknowledged() {
    // Slower than elsewhere: ten minutes are 10 s here.
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator-mass", 60, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "mass").await;
    let names = ["chat", "one", "two", "three", "four"];
    for name in names {
        // Long enough that all of them are gone before the first key would be revoked.
        t.minted(name, json!({"deletionGracePeriod": "20m"})).await;
    }
    for name in names {
        t.ready(name).await;
    }
    futures::future::join_all(names[1..].iter().map(|name| t.delete(name))).await;
    let deleted = super::stage::now();
    let freeze = frozen(&t, "MassDeletion").await;
    assert_eq!(freeze.count, 4);
    wait("the grace is over", async || {
        listed_again(&t, 1).await;
        (super::stage::now() - deleted > chrono::TimeDelta::seconds(30)).then_some(())
    })
    .await;
    assert_eq!((live(&t).len(), t.revocations()), (5, 0));
    acknowledge(&t, &freeze.token).await;
    no_freeze_is_left(&t).await;
    wait("they are revoked", async || (live(&t).len() == 1).then_some(())).await;
    t.ready("chat").await;
    // Nor is it frozen again for what was acknowledged.
    listed_again(&t, 3).await;
    no_freeze_is_left(&t).await;
    drop(operator);
}

#[tokio::test]
async fn many_keys_that_turn_invalid_at_once_say_something_of_the_provider() {
    let t = Tenant::new("suspect").await;
    let names = ["chat", "one", "two", "three"];
    for name in names {
        t.minted(name, json!({"validation": {"interval": "5m"}})).await;
    }
    for name in names {
        t.ready(name).await;
    }
    for name in names {
        t.sandbox().withdraw_key(&t.delivered(name, "OPENAI_API_KEY").await.unwrap());
    }
    let freeze = frozen(&t, "ProviderSuspect").await;
    assert!(freeze.count >= 4);
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    listed_again(&t, 5).await;
    assert_eq!((t.mints(), t.revocations()), (4, 0));
    acknowledge(&t, &freeze.token).await;
    no_freeze_is_left(&t).await;
    t.until("chat", "the rotation", |k| current(k) == Some(2) && is(k, "Ready", "True")).await;
}

/// An hour is 12 s here.
#[tokio::test]
async fn an_accounts_limits_hold_and_whoever_waits_gets_a_turn() {
    let t = Tenant::new("limits").await;
    t.llm_provider(&t.provider, json!({"limits": {"mintsPerHour": 2, "keysPerNamespace": 3}})).await;
    for name in ["one", "two", "three", "four"] {
        t.minted(name, json!({})).await;
        t.until(name, "it was looked at", |k| {
            k.status.as_ref().is_some_and(|s| s.observed_generation == Some(1))
        })
        .await;
    }
    t.until("four", "KeyLimit", |k| because(k, "Stalled", "KeyLimit") && is(k, "Ready", "False")).await;
    t.until("three", "MintBudget", |k| because(k, "Reconciling", "MintBudget") && is(k, "Ready", "Unknown"))
        .await;
    assert_eq!(t.mints(), 2);
    for name in ["one", "two", "three"] {
        t.ready(name).await;
    }
    t.delete("one").await;
    t.ready("four").await;
    let times: Vec<_> = t.calls(Operation::CreateServiceAccount).iter().map(|call| call.time).collect();
    assert_eq!(times.len(), 4);
    for pair in times.windows(3) {
        // Times on record are cut to seconds.
        assert!((pair[2] - pair[0]).num_milliseconds() > 10_500, "{times:?}");
    }
}

/// The budget is five keys in 12 s here.
#[tokio::test]
async fn an_llmkey_that_is_deleted_and_created_again_and_again_does_not_run_up_a_bill() {
    let t = Tenant::new("loop").await;
    let spec = || json!({"deletionGracePeriod": "0s"});
    let first = super::stage::now();
    for _ in 0..30 {
        t.minted("chat", spec()).await;
        // Until a key is made, or the budget is told.
        t.until("chat", "a key or the budget", |k| {
            current(k).is_some() || because(k, "RotationDue", "MintBudget")
        })
        .await;
        t.delete("chat").await;
        wait("it is gone", async || t.keys().get_opt("chat").await.unwrap().is_none().then_some(())).await;
    }
    let took = (super::stage::now() - first).num_seconds();
    let windows = usize::try_from(took).unwrap() / 12 + 1;
    assert!(t.mints() <= 5 * windows, "{} keys in {took} s", t.mints());
    t.minted("chat", spec()).await;
    t.ready("chat").await;
}
