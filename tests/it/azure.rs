//! Keys in the two slots of an Azure account: the client against the sandbox, and the life of a key that is made anew in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use llmkey_operator::api::{AzureOpenAIAccount, LLMKey, Ownership};
use llmkey_operator::crypto::SecretBytes;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::provider::{Account, ErrorClass, MintError, Providers, ProvidersConfig};
use llmkey_operator::sandbox::{
    Answer, Effect, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings,
};
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::provider::endpoint_at;
use super::restart::{kill, leads, start};
use super::stage::{Stage, Tenant, because, empty_stage, find, is, stage, state, wait};
use super::workload::version;

pub(crate) fn block(sandbox: &Sandbox, account: &str) -> Value {
    json!({
        "subscription": sandbox.azure().subscription, "resourceGroup": sandbox.azure().group, "account": account,
        "ownership": "Exclusive",
        "resourceManagerURL": sandbox.azure_manager_url(), "authorityURL": sandbox.azure_authority_url(),
    })
}

fn credential(sandbox: &Sandbox, secret: Option<&str>) -> BTreeMap<String, SecretBytes> {
    let host = sandbox.addr().to_string();
    let entries = [
        ("host", Some(host.as_str())),
        ("authorityHost", Some(host.as_str())),
        ("tenantID", Some(sandbox.azure().tenant)),
        ("clientID", Some(sandbox.azure().client)),
        ("clientSecret", secret),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn account(sandbox: &Sandbox, name: &str, secret: Option<&str>) -> Account {
    let endpoint = endpoint_at(sandbox, "AzureOpenAI", &sandbox.azure_url(), true);
    let block: AzureOpenAIAccount = serde_json::from_value(block(sandbox, name)).unwrap();
    assert_eq!(block.ownership, Ownership::Exclusive);
    Account::of_azure(&endpoint, &block, &credential(sandbox, secret)).unwrap()
}

/// A namespace with an account.
pub(crate) async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    let account = t.sandbox().create_azure_account(&t.namespace);
    let spec = json!({
        "type": "AzureOpenAI", "baseURL": t.sandbox().azure_url(), "openAI": null,
        "azureOpenAI": block(t.sandbox(), &account),
    });
    let (entries, secret) = (entries(t.sandbox()), t.sandbox().azure().secret);
    t.with_entries(account, secret, entries, spec).await
}

/// What the admin credential's Secret has.
pub(crate) fn entries(sandbox: &Sandbox) -> Value {
    let host = sandbox.addr().to_string();
    json!({
        "tenantID": sandbox.azure().tenant, "clientID": sandbox.azure().client, "clientSecret": sandbox.azure().secret,
        "host": host, "authorityHost": host,
    })
}

struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
}

async fn rig(config: ProvidersConfig) -> Rig {
    let clock = Arc::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let sandbox = Sandbox::start(SandboxOptions::new(clock)).await.unwrap();
    sandbox.create_azure_account("contoso");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..config });
    let account = account(&sandbox, "Contoso", Some(sandbox.azure().secret));
    Rig { sandbox, providers, account }
}

async fn held(providers: &Providers, account: &Account) -> BTreeMap<&'static str, String> {
    let slots = providers.slots(account).await.unwrap();
    slots.into_iter().map(|slot| (slot.slot, slot.secret.expose_str().unwrap().to_owned())).collect()
}

fn calls(sandbox: &Sandbox, operation: Operation) -> usize {
    sandbox.log().iter().filter(|entry| entry.operation == operation).count()
}

#[tokio::test]
async fn a_slot_is_made_anew_and_read_and_the_other_one_stays() {
    let Rig { sandbox, providers, account: of } = rig(ProvidersConfig::default()).await;
    assert_eq!(providers.check_account(&of).await, Ok(()));
    let before = held(&providers, &of).await;
    let verdict = async |key: &str| providers.validate(of.endpoint(), &key.into()).await.verdict;
    assert_eq!(verdict(&before["Key1"]).await, Verdict::Valid);
    assert_eq!(verdict("0123456789abcdef0123456789abcdef").await, Verdict::Rejected);
    providers.renew_slot(&of, "Key2").await.unwrap();
    let after = held(&providers, &of).await;
    assert!(after["Key1"] == before["Key1"] && after["Key2"] != before["Key2"]);
    assert_eq!(verdict(&before["Key2"]).await, Verdict::Rejected, "the old value stops at once");
    assert_eq!(verdict(&after["Key2"]).await, Verdict::Valid);
    assert_eq!(calls(&sandbox, Operation::RequestToken), 1, "a token is used as long as it is good");

    // The answer is lost: the slot tells that it has happened.
    sandbox.add_fault(FaultRule::on(Operation::RenewSlot, Fault::drop_reply()).times(1));
    let lost = providers.renew_slot(&of, "Key1").await.unwrap_err();
    assert!(matches!(lost, MintError::UnknownOutcome(_)), "{lost}");
    assert_ne!(held(&providers, &of).await["Key1"], after["Key1"]);
    for (answer, class) in [
        (Answer::RateLimited { retry_after_seconds: None }, ErrorClass::RateLimited { retry_after: None }),
        (Answer::MissingScopes { status: 403 }, ErrorClass::Forbidden),
        (Answer::NotFound, ErrorClass::NotFound),
    ] {
        sandbox.add_fault(FaultRule::on(Operation::RenewSlot, Fault::refuse(answer)).times(1));
        let failed = providers.renew_slot(&of, "Key1").await.unwrap_err();
        assert!(matches!(&failed, MintError::Refused(error) if error.class == class), "{answer:?}: {failed}");
    }
    let absent = account(&sandbox, "fabrikam", Some(sandbox.azure().secret));
    assert_eq!(providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);
}

#[tokio::test]
async fn an_expired_token_is_replaced_once_and_a_refused_secret_is_told() {
    let Rig { sandbox, providers, account: of } = rig(ProvidersConfig::default()).await;
    providers.check_account(&of).await.unwrap();
    sandbox.expire_azure_tokens();
    let before = held(&providers, &of).await;
    assert_eq!(calls(&sandbox, Operation::RequestToken), 2);
    sandbox.expire_azure_tokens();
    providers.renew_slot(&of, "Key1").await.unwrap();
    assert_ne!(held(&providers, &of).await["Key1"], before["Key1"]);
    let made = sandbox
        .log()
        .iter()
        .filter(|e| e.operation == Operation::RenewSlot && e.effect == Effect::Committed)
        .count();
    assert_eq!(made, 1, "the one that was refused had no effect");
    let wrong = account(&sandbox, "contoso", Some("not-the-secret"));
    let failed = providers.check_account(&wrong).await.unwrap_err();
    assert_eq!((failed.class, failed.code), (ErrorClass::CredentialInvalid, "TokenRefused"));
    let failed = providers.renew_slot(&wrong, "Key1").await.unwrap_err();
    assert!(matches!(failed, MintError::NotSent(_)), "{failed}");
}

#[tokio::test]
async fn the_clusters_own_token_is_read_anew_for_each_exchange() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("azure-token-{}", std::process::id()));
    let config = ProvidersConfig { federated_token_file: Some(file.clone()), ..ProvidersConfig::default() };
    let Rig { sandbox, providers, .. } = rig(config).await;
    let of = account(&sandbox, "contoso", None);
    assert_eq!(providers.check_account(&of).await.unwrap_err().code, "UnreadableFederatedToken");
    std::fs::write(&file, "another-token").unwrap();
    assert_eq!(providers.check_account(&of).await.unwrap_err().code, "TokenRefused");
    std::fs::write(&file, "sandbox-service-account-token-1\n").unwrap();
    assert_eq!(providers.check_account(&of).await, Ok(()));
    std::fs::remove_file(&file).unwrap();
    let without = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let fresh = account(&sandbox, "contoso", None);
    assert_eq!(without.check_account(&fresh).await.unwrap_err().code, "NoFederatedToken");
}

#[tokio::test]
async fn makes_delivers_rotates_and_revokes_in_two_slots() {
    let t = tenant(stage().await, "azure").await;
    let sandbox = t.sandbox();
    let lags = Settings { new_key_lag_millis: 200, lookup_lag_millis: 200, ..Settings::default() };
    sandbox.set_settings(Some(&t.project), lags);
    let given = sandbox.slot_values(&t.project);
    let renewals = || t.calls(Operation::RenewSlot);
    sandbox.add_fault(FaultRule::on(Operation::RenewSlot, Fault::drop_reply()).project(&t.project).times(1));
    t.policy("policy", json!({"overlap": {"minimum": "10m"}})).await;
    let slots = json!({"source": {"mint": null, "slots": {}}, "rotationPolicyRef": {"name": "policy"}});
    t.minted("azure", slots.clone()).await;
    let key = t.ready("azure").await;
    assert!(version(&key, 1).provider_key_id.as_ref().unwrap().starts_with("Key2-"));
    assert_eq!(renewals().len(), 1, "the lost one is found in its slot");
    let first = t.delivered("azure", "AZURE_OPENAI_API_KEY").await.unwrap();
    assert_eq!(t.delivered("azure", "AZURE_OPENAI_ENDPOINT").await, Some(sandbox.azure_url()));
    assert!(sandbox.accepts(&first) && sandbox.accepts(&given["Key1"]) && !sandbox.accepts(&given["Key2"]));

    // Another LLMKey at the account is told who has it, and causes no call.
    t.minted("second", slots.clone()).await;
    let held = t.until("second", "the account is leased", |k| because(k, "Stalled", "AccountLeased")).await;
    assert!(find(&held, "Stalled").unwrap().2.contains(&format!("{}/azure", t.namespace)));
    assert_eq!(renewals().len(), 1);

    // Rotation: the other slot, and the older key works until it is revoked.
    pod(&t, json!({}), using(&["azure"])).await;
    t.annotate("azure", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("azure", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(version(&key, 2).provider_key_id.as_ref().unwrap().starts_with("Key1-"));
    let second = t.delivered("azure", "AZURE_OPENAI_API_KEY").await.unwrap();
    t.until("azure", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers")).await;
    assert!(sandbox.accepts(&first) && sandbox.accepts(&second) && !sandbox.accepts(&given["Key1"]));
    // One more has to wait: its slot would be the one of the older key.
    t.annotate("azure", "llmkeys.dev/rotate", Some("again")).await;
    t.until("azure", "it waits", |k| because(k, "RotationDue", "OverlapActive")).await;
    assert_eq!(renewals().len(), 2);
    remove_pod(&t).await;
    // The list may still tell of the value that ended the first key: that one is refused, and another is made.
    let current = |key: &LLMKey| key.status.as_ref().and_then(|s| s.current_version).unwrap_or_default();
    let key = t.until("azure", "a third key", |k| current(k) > 2).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    assert!(version(&key, current(&key)).provider_key_id.as_ref().unwrap().starts_with("Key2-"));
    assert!(!sandbox.accepts(&first) && sandbox.accepts(&second));

    // Gone with its LLMKey, and then the account is the other one's.
    t.patch("azure", json!({"spec": {"deletionGracePeriod": "0s"}})).await;
    t.delete("azure").await;
    let third = sandbox.slot_values(&t.project)["Key2"].clone();
    wait("both are revoked", async || (!sandbox.accepts(&second) && !sandbox.accepts(&third)).then_some(()))
        .await;
    let key = t.ready("second").await;
    assert!(is(&key, "Stalled", "False"));
    let delivered = t.delivered("second", "AZURE_OPENAI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&delivered));
}

#[tokio::test]
async fn a_source_that_does_not_fit_the_account_is_told_what_to_write() {
    let t = tenant(stage().await, "azure-misfit").await;
    t.minted("minted", json!({})).await;
    let key = t.until("minted", "it does not fit", |k| because(k, "Stalled", "NotSupported")).await;
    assert!(find(&key, "Stalled").unwrap().2.contains("source: {slots: {}}"), "{key:?}");
    let other = Tenant::on(t.stage, "azure-misfit-openai").await;
    other.minted("slots", json!({"source": {"mint": null, "slots": {}}})).await;
    let key = other.until("slots", "it does not fit", |k| because(k, "Stalled", "NotSupported")).await;
    assert!(find(&key, "Stalled").unwrap().2.contains("source: {mint: {}}"), "{key:?}");
    assert!(t.calls(Operation::RenewSlot).is_empty());
}

#[tokio::test]
async fn a_slot_that_another_hand_makes_anew_is_noticed_and_replaced() {
    let t = tenant(stage().await, "azure-hand").await;
    let sandbox = t.sandbox();
    t.policy("policy", json!({"triggers": [{"type": "Invalid"}]})).await;
    let slots = json!({
        "source": {"mint": null, "slots": {}}, "rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "1m"},
    });
    t.minted("azure", slots).await;
    t.ready("azure").await;
    sandbox.renew_slot(&t.project, "Key2");
    let key = t.until("azure", "replaced", |k| state(k, 2).as_deref() == Some("Current")).await;
    let delivered = t.delivered("azure", "AZURE_OPENAI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&delivered));
    assert_eq!(version(&key, 2).reason, "Invalid");
}

/// The slot was made anew, and the operator ends before it hears of it: the next one delivers what the slot holds.
#[tokio::test]
async fn an_operator_that_is_killed_after_the_commit_finds_the_key_in_its_slot() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = tenant(stage, "azure-kill").await;
    let hang = FaultRule::on(Operation::RenewSlot, Fault::after_effect(Answer::Hang)).project(&t.project);
    let fault = t.sandbox().add_fault(hang);
    let given = t.sandbox().slot_values(&t.project);
    t.minted("azure", json!({"source": {"mint": null, "slots": {}}})).await;
    wait("the slot is made anew", async || {
        (t.sandbox().slot_values(&t.project)["Key2"] != given["Key2"]).then_some(())
    })
    .await;
    kill(stage, operator).await;
    assert!(stage.sandbox.remove_fault(fault));
    let _operator = start(stage);
    t.ready("azure").await;
    let delivered = t.delivered("azure", "AZURE_OPENAI_API_KEY").await.unwrap();
    assert_eq!(delivered, t.sandbox().slot_values(&t.project)["Key2"]);
    assert_eq!(t.calls(Operation::RenewSlot).len(), 1, "it is found, not made again");
}
