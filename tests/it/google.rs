//! Keys at Google Cloud: the client against the sandbox, and the life of a key whose id the operator chose and whose value is read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use llmkey_operator::api::GoogleAccount;
use llmkey_operator::crypto::SecretBytes;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::domain::names::{AttemptId, MintName};
use llmkey_operator::provider::{
    Account, ErrorClass, MintError, Named, ProviderKeyId, Providers, ProvidersConfig, Revocation, WallClock,
};
use llmkey_operator::sandbox::{
    Answer, Clock, Effect, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings,
};
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::provider::endpoint_at;
use super::restart::{kill, leads, start};
use super::stage::{Stage, Tenant, because, empty_stage, is, now, stage, state, wait};
use super::workload::version;

const PROJECT: &str = "contoso-llm";

pub(crate) fn block(sandbox: &Sandbox, project: &str) -> Value {
    json!({
        "project": project, "serviceAccountEmail": "gemini@sandbox-llm.iam.gserviceaccount.com",
        "apiURL": sandbox.google_url(),
    })
}

/// What the admin credential's Secret has.
pub(crate) fn entries(sandbox: &Sandbox) -> Value {
    json!({"credential": sandbox.google_key_file().unwrap(), "host": sandbox.addr().to_string()})
}

/// A namespace with a project.
pub(crate) async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    let project = t.sandbox().create_google_project(&t.namespace);
    let spec = json!({
        "type": "Google", "baseURL": t.sandbox().gemini_url(), "openAI": null,
        "google": block(t.sandbox(), &project),
    });
    let entries = entries(t.sandbox());
    t.with_entries(project, "", entries, spec).await
}

fn account_with(sandbox: &Sandbox, project: &str, credential: &str) -> Account {
    let endpoint = endpoint_at(sandbox, "Google", &sandbox.gemini_url(), true);
    let block: GoogleAccount = serde_json::from_value(block(sandbox, project)).unwrap();
    let host = sandbox.addr().to_string();
    let data: BTreeMap<String, SecretBytes> = [("host", host.as_str()), ("credential", credential)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Account::of_google(&endpoint, &block, &data).unwrap()
}

fn account(sandbox: &Sandbox, project: &str) -> Account {
    account_with(sandbox, project, &sandbox.google_key_file().unwrap())
}

fn id(number: u32) -> ProviderKeyId {
    let attempt = AttemptId::new(number, 7).unwrap();
    let lineage = "00000000-0000-4000-8000-000000000001";
    ProviderKeyId::parse(&MintName::new("install", lineage, 1, attempt).unwrap().to_string()).unwrap()
}

struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
}

/// With time that stands still, or goes on.
async fn rig(clock: Clock, config: ProvidersConfig) -> Rig {
    let sandbox = Sandbox::start(SandboxOptions::new(Arc::clone(&clock))).await.unwrap();
    sandbox.create_google_project(PROJECT);
    let wall = WallClock::new(move || clock());
    let providers = Providers::new(ProvidersConfig { loopback_only: true, wall, ..config });
    let account = account(&sandbox, PROJECT);
    Rig { sandbox, providers, account }
}

fn still() -> Clock {
    Arc::new(|| DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap())
}

fn text(secret: &SecretBytes) -> String {
    secret.expose_str().unwrap().to_owned()
}

async fn made(providers: &Providers, account: &Account, id: &ProviderKeyId) -> String {
    text(&providers.mint_named(account, id).await.unwrap())
}

fn calls(sandbox: &Sandbox, operation: Operation) -> usize {
    sandbox.log().iter().filter(|entry| entry.operation == operation).count()
}

#[tokio::test]
async fn a_named_key_is_made_once_read_again_and_its_id_never_given_twice() {
    let Rig { sandbox, providers, account: of } = rig(still(), ProvidersConfig::default()).await;
    assert_eq!(providers.check_account(&of).await, Ok(()));
    assert!(matches!(providers.named(&of, &id(1)).await, Ok(Named::Absent)));
    let value = made(&providers, &of, &id(1)).await;
    assert_eq!(made(&providers, &of, &id(1)).await, value, "once more, it is the same key");
    assert!(matches!(providers.named(&of, &id(1)).await, Ok(Named::There(again)) if text(&again) == value));
    assert_eq!(sandbox.live_keys(PROJECT).len(), 1);
    let check = async || providers.validate(of.endpoint(), &value.as_str().into()).await.verdict;
    assert_eq!(check().await, Verdict::Valid);
    let listed = providers.list(&of).await.unwrap();
    assert!(listed.len() == 1 && listed[0].id == id(1) && listed[0].name == id(1).as_str());
    assert_eq!(providers.exists(&of, &id(1)).await, Ok(Some(true)));

    sandbox.add_fault(FaultRule::on(Operation::DeleteApiKey, Fault::drop_reply()).times(1));
    assert_eq!(providers.revoke(&of, &id(1)).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(providers.revoke(&of, &id(1)).await, Ok(Revocation::AlreadyGone), "deleted keys are told of");
    assert_eq!(providers.revoke(&of, &id(9)).await, Ok(Revocation::AlreadyGone));
    assert_eq!(check().await, Verdict::Rejected);
    assert!(matches!(providers.named(&of, &id(1)).await, Ok(Named::Deleted)));
    assert_eq!(providers.exists(&of, &id(1)).await, Ok(Some(false)));
    assert!(providers.list(&of).await.unwrap().is_empty());
    let spent = providers.mint_named(&of, &id(1)).await.err().unwrap();
    assert!(matches!(&spent, MintError::Refused(error) if error.class == ErrorClass::IdSpent), "{spent}");
    assert_eq!(calls(&sandbox, Operation::ExchangeAssertion), 1, "a token is used as long as it is good");

    let strange = account(&sandbox, "another-project");
    assert_eq!(providers.check_account(&strange).await.unwrap_err().class, ErrorClass::Forbidden);
}

#[tokio::test]
async fn an_operation_that_goes_on_is_waited_for_and_a_fresh_key_may_be_refused() {
    let Rig { sandbox, providers, account } = rig(Arc::new(now), ProvidersConfig::default()).await;
    let slow = Settings { operation_lag_millis: 500, new_key_lag_millis: 60_000, ..Settings::default() };
    sandbox.set_settings(Some(PROJECT), slow);
    let value = made(&providers, &account, &id(1)).await;
    assert!(calls(&sandbox, Operation::GetOperation) >= 2);
    let answer = providers.validate(account.endpoint(), &value.as_str().into()).await;
    assert_eq!((answer.verdict, answer.code), (Verdict::Expired, "KeyExpired"));
    // The key is not to be had yet: nobody knows, and the next look tells.
    let unseen = Settings { lookup_lag_millis: 700, ..Settings::default() };
    sandbox.set_settings(Some(PROJECT), unseen);
    let unknown = providers.mint_named(&account, &id(2)).await.err().unwrap();
    assert!(matches!(&unknown, MintError::UnknownOutcome(error) if error.code == "KeyNotThere"), "{unknown}");
    wait("the key is seen", async || {
        matches!(providers.named(&account, &id(2)).await, Ok(Named::There(_))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_leaves_a_key_that_its_id_finds_and_that_is_made_no_second_time() {
    let Rig { sandbox, providers, account } = rig(still(), ProvidersConfig::default()).await;
    let lost = [
        Fault::drop_reply(),
        Fault::after_effect(Answer::CutBody),
        Fault::after_effect(Answer::HalfBody),
        Fault::after_effect(Answer::Html { status: 403 }),
        Fault::after_effect(Answer::InternalError),
        Fault::after_effect(Answer::Unavailable { retry_after_seconds: Some(1) }),
    ];
    for (number, fault) in (1..).zip(lost) {
        sandbox.add_fault(FaultRule::on(Operation::CreateApiKey, fault.clone()).times(1));
        let failed = providers.mint_named(&account, &id(number)).await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
        let Ok(Named::There(found)) = providers.named(&account, &id(number)).await else {
            panic!("{fault:?}")
        };
        assert_eq!(made(&providers, &account, &id(number)).await, text(&found));
        assert_eq!(u32::try_from(sandbox.live_keys(PROJECT).len()), Ok(number), "{fault:?}");
    }
    // The key is made, and cannot be read.
    sandbox.add_fault(FaultRule::on(Operation::GetKeyString, Fault::drop_reply()).times(1));
    let failed = providers.mint_named(&account, &id(20)).await.err().unwrap();
    assert!(matches!(failed, MintError::UnknownOutcome(_)), "{failed}");
    for (answer, class) in [
        (Answer::RateLimited { retry_after_seconds: None }, ErrorClass::RateLimited { retry_after: None }),
        (Answer::MissingScopes { status: 403 }, ErrorClass::Forbidden),
    ] {
        sandbox.add_fault(FaultRule::on(Operation::CreateApiKey, Fault::refuse(answer)).times(1));
        let failed = providers.mint_named(&account, &id(30)).await.err().unwrap();
        assert!(matches!(&failed, MintError::Refused(error) if error.class == class), "{answer:?}: {failed}");
    }
}

#[tokio::test]
async fn a_list_spans_pages_of_any_size_and_fails_as_a_whole() {
    let Rig { sandbox, providers, account } = rig(still(), ProvidersConfig::default()).await;
    for number in 1..=5 {
        made(&providers, &account, &id(number)).await;
    }
    providers.revoke(&account, &id(3)).await.unwrap();
    let wanted: Vec<_> = [1, 2, 4, 5].map(id).into();
    for max_page_size in 1..=6 {
        sandbox.set_settings(None, Settings { max_page_size, ..Settings::default() });
        let listed = providers.list(&account).await.unwrap();
        assert_eq!(listed.into_iter().map(|key| key.id).collect::<Vec<_>>(), wanted);
    }
    sandbox.set_settings(Some(PROJECT), Settings { max_page_size: 2, ..Settings::default() });
    sandbox.add_fault(FaultRule::on(Operation::ListApiKeys, Fault::refuse(Answer::InternalError)).skip(1));
    assert_eq!(providers.list(&account).await.unwrap_err().class, ErrorClass::Server);
}

#[tokio::test]
async fn tokens_come_for_a_key_or_for_the_clusters_own_token_and_an_expired_one_is_replaced_once() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("google-token-{}", std::process::id()));
    let config = ProvidersConfig { google_token_file: Some(file.clone()), ..ProvidersConfig::default() };
    let Rig { sandbox, providers, account: of } = rig(still(), config).await;
    providers.check_account(&of).await.unwrap();
    sandbox.expire_google_tokens();
    made(&providers, &of, &id(1)).await;
    assert_eq!(calls(&sandbox, Operation::ExchangeAssertion), 2);
    let committed = |entry: &&llmkey_operator::sandbox::LogEntry| {
        entry.operation == Operation::CreateApiKey && entry.effect == Effect::Committed
    };
    assert_eq!(sandbox.log().iter().filter(committed).count(), 1, "the one that was refused had no effect");

    // The key of a service account that Google does not know.
    let elsewhere = Sandbox::start(SandboxOptions::new(still())).await.unwrap();
    let wrong = account_with(&sandbox, PROJECT, &elsewhere.google_key_file().unwrap());
    let failed = providers.check_account(&wrong).await.unwrap_err();
    assert_eq!((failed.class, failed.code), (ErrorClass::CredentialInvalid, "TokenRefused"));
    let failed = providers.mint_named(&wrong, &id(2)).await.err().unwrap();
    assert!(matches!(failed, MintError::NotSent(_)), "{failed}");

    for impersonates in [false, true] {
        let of = account_with(&sandbox, PROJECT, &Sandbox::google_federation_file(impersonates));
        assert_eq!(providers.check_account(&of).await.unwrap_err().code, "UnreadableFederatedToken");
        std::fs::write(&file, "another-token").unwrap();
        assert_eq!(providers.check_account(&of).await.unwrap_err().code, "TokenRefused");
        std::fs::write(&file, "sandbox-service-account-token-1\n").unwrap();
        assert_eq!(providers.check_account(&of).await, Ok(()));
        assert_eq!(calls(&sandbox, Operation::Impersonate), usize::from(impersonates));
        std::fs::remove_file(&file).unwrap();
    }
    let without = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let fresh = account_with(&sandbox, PROJECT, &Sandbox::google_federation_file(true));
    assert_eq!(without.check_account(&fresh).await.unwrap_err().code, "NoFederatedToken");
}

#[tokio::test]
async fn names_delivers_rotates_revokes_and_sweeps() {
    let t = tenant(stage().await, "google").await;
    let sandbox = t.sandbox();
    let lags = Settings {
        max_page_size: 2,
        new_key_lag_millis: 300,
        deleted_key_lag_millis: 300,
        list_lag_millis: 300,
        unlist_lag_millis: 300,
        operation_lag_millis: 300,
        ..Settings::default()
    };
    sandbox.set_settings(Some(&t.project), lags.clone());
    let lost = || FaultRule::on(Operation::CreateApiKey, Fault::drop_reply()).project(&t.project).times(1);
    sandbox.add_fault(lost());
    t.policy("policy", json!({"overlap": {"minimum": "10m", "evidence": {"quietFor": "1h"}}})).await;
    t.minted("gemini", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let key = t.ready("gemini").await;
    let created = t.calls(Operation::CreateApiKey);
    assert_eq!(created.len(), 1, "the lost one is read: {created:?}");
    assert_eq!(created[0].fault.as_deref(), Some("dropReply"));
    let first = t.delivered("gemini", "GEMINI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&first));
    let all = sandbox.keys(&t.project);
    assert!(all.len() == 1 && version(&key, 1).provider_key_id.as_ref() == Some(&all[0].id));
    assert!(all[0].id.parse::<MintName>().is_ok());

    // Lost again, and missing where it is looked for: it is asked for once more, and is the same one.
    pod(&t, json!({}), using(&["gemini"])).await;
    sandbox.set_settings(Some(&t.project), Settings { lookup_lag_millis: 3_000, ..lags.clone() });
    sandbox.add_fault(lost());
    t.annotate("gemini", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("gemini", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(is(&key, "Ready", "True"));
    let created = t.calls(Operation::CreateApiKey);
    assert_eq!(created.iter().filter(|call| call.effect == Effect::Committed).count(), 2, "{created:?}");
    assert!(created.len() > 2 && created[1..].iter().all(|call| call.name == created[1].name), "{created:?}");
    assert_eq!(sandbox.keys(&t.project).len(), 2);
    sandbox.set_settings(Some(&t.project), lags.clone());
    t.until("gemini", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers"))
        .await;
    assert!(sandbox.accepts(&first), "both work during the overlap");
    assert!(t.calls(Operation::DeleteApiKey).is_empty());
    remove_pod(&t).await;
    let key = t.until("gemini", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    let second = t.delivered("gemini", "GEMINI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&second) && !sandbox.accepts(&first));

    // A person takes the deletion back, an earlier attempt comes late, and there is a person's own key.
    assert!(sandbox.undelete_key(&t.project, &all[0].id));
    assert!(sandbox.accepts(&first));
    let providers = Providers::new(ProvidersConfig {
        loopback_only: true,
        wall: WallClock::new(now),
        ..ProvidersConfig::default()
    });
    let of = account(sandbox, &t.project);
    let ours: MintName = all[0].id.parse().unwrap();
    let late = MintName { attempt: AttemptId::new(0, 7).unwrap(), ..ours }.to_string();
    for name in [late.as_str(), "a-persons"] {
        made(&providers, &of, &ProviderKeyId::parse(name).unwrap()).await;
    }
    wait("what is nobody's is revoked", async || {
        let live = sandbox.live_keys(&t.project);
        live.iter().all(|key| key.id != late && key.id != all[0].id).then_some(())
    })
    .await;
    assert!(!sandbox.accepts(&first) && sandbox.accepts(&second));

    // There is no way to switch a key off at Google.
    t.patch("gemini", json!({"spec": {"desiredState": "Disabled"}})).await;
    t.until("gemini", "it cannot be switched off", |k| because(k, "Stalled", "NotSupported")).await;
    assert!(sandbox.accepts(&second));
    t.patch("gemini", json!({"spec": {"desiredState": "Revoked"}})).await;
    wait("only the person's key is left", async || {
        let live = sandbox.live_keys(&t.project);
        (live.len() == 1 && live[0].id == "a-persons").then_some(())
    })
    .await;
}

/// Google has made the key, and the operator ends before it hears of it: the next one reads and delivers that very key.
#[tokio::test]
async fn an_operator_that_is_killed_after_the_commit_leaves_one_key_and_it_is_delivered() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let (kept, given_up) = (tenant(stage, "google-kill").await, tenant(stage, "google-gone").await);
    let mut faults = Vec::new();
    for t in [&kept, &given_up] {
        let hang = FaultRule::on(Operation::CreateApiKey, Fault::after_effect(Answer::Hang));
        faults.push(t.sandbox().add_fault(hang.project(&t.project)));
        t.minted("gemini", json!({"deletionGracePeriod": "0s"})).await;
        wait("the key is made", async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(())).await;
    }
    kill(stage, operator).await;
    for fault in faults {
        assert!(stage.sandbox.remove_fault(fault));
    }
    let ids = [&kept, &given_up].map(|t| t.sandbox().live_keys(&t.project).remove(0).id);
    given_up.keys().delete("gemini", &kube::api::DeleteParams::default()).await.unwrap();

    let _operator = start(stage);
    let key = kept.ready("gemini").await;
    assert_eq!(version(&key, 1).provider_key_id.as_ref(), Some(&ids[0]));
    let delivered = kept.delivered("gemini", "GEMINI_API_KEY").await.unwrap();
    assert!(kept.sandbox().accepts(&delivered));
    let all = kept.sandbox().keys(&kept.project);
    assert!(all.len() == 1 && delivered.ends_with(&all[0].last_four), "{all:?}");
    assert_eq!(kept.calls(Operation::CreateApiKey).len(), 1, "it is read, not made again");
    assert!(kept.calls(Operation::DeleteApiKey).is_empty());
    // Nobody wants the other one any more, and nobody ever read it: it goes by its id.
    wait("the key of no LLMKey is gone", async || {
        given_up.sandbox().live_keys(&given_up.project).is_empty().then_some(())
    })
    .await;
    let deleted = given_up.calls(Operation::DeleteApiKey);
    assert!(deleted.iter().all(|call| call.object_id.as_ref() == Some(&ids[1])), "{deleted:?}");
    assert_eq!(given_up.calls(Operation::CreateApiKey).len(), 1);
}
