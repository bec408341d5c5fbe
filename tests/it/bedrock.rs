//! Bedrock's API keys, which are credentials of an IAM user: the client against the sandbox, which checks every signature, and the life of a
//! key that has no name.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use llmkey_operator::api::{BedrockAccount, LLMKey, Ownership};
use llmkey_operator::crypto::SecretBytes;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::provider::{
    Account, ErrorClass, MintError, Providers, ProvidersConfig, Revocation, WallClock,
};
use llmkey_operator::sandbox::{
    Answer, Clock, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings,
};
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::provider::endpoint_at;
use super::restart::{kill, leads, start};
use super::stage::{Stage, Tenant, because, empty_stage, find, is, stage, state, wait};
use super::workload::version;

const USER: &str = "Llm-Keys";
const REGION: &str = "eu-central-1";

pub(crate) fn block(sandbox: &Sandbox, user: &str) -> Value {
    json!({
        "region": REGION, "accountID": sandbox.aws().account, "userName": user, "ownership": "Exclusive",
        "iamURL": sandbox.iam_url(), "stsURL": sandbox.sts_url(),
    })
}

/// What the admin credential's Secret has.
pub(crate) fn entries(sandbox: &Sandbox) -> Value {
    let aws = sandbox.aws();
    json!({
        "accessKeyID": aws.access_key_id, "secretAccessKey": aws.secret_access_key,
        "host": sandbox.addr().to_string(),
    })
}

/// A namespace with a user.
pub(crate) async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    let user = t.sandbox().create_iam_user(&t.namespace);
    let spec = json!({
        "type": "Bedrock", "baseURL": t.sandbox().bedrock_url(), "openAI": null,
        "bedrock": block(t.sandbox(), &user),
    });
    let entries = entries(t.sandbox());
    t.with_entries(user, "", entries, spec).await
}

fn account(sandbox: &Sandbox, user: &str, changes: &[(&str, &str)]) -> Account {
    let endpoint = endpoint_at(sandbox, "Bedrock", &sandbox.bedrock_url(), true);
    let block: BedrockAccount = serde_json::from_value(block(sandbox, user)).unwrap();
    assert_eq!(block.ownership, Ownership::Exclusive);
    let entries = entries(sandbox);
    let mut data: BTreeMap<String, SecretBytes> = entries
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().into()))
        .collect();
    data.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
    Account::of_bedrock(&endpoint, &block, &data).unwrap()
}

fn with_role(sandbox: &Sandbox) -> Account {
    let host = sandbox.addr().to_string();
    account(sandbox, USER, &[("roleARN", sandbox.aws().role), ("stsHost", &host)])
}

struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
}

fn still() -> Clock {
    Arc::new(|| DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap())
}

fn client(config: ProvidersConfig) -> Providers {
    let wall = WallClock::new(|| DateTime::<Utc>::from_timestamp(1_800_000_000, 0).unwrap());
    Providers::new(ProvidersConfig { loopback_only: true, wall, ..config })
}

async fn rig(config: ProvidersConfig) -> Rig {
    let sandbox = Sandbox::start(SandboxOptions::new(still())).await.unwrap();
    sandbox.create_iam_user(USER);
    let account = account(&sandbox, USER, &[]);
    Rig { sandbox, providers: client(config), account }
}

fn calls(sandbox: &Sandbox, operation: Operation) -> usize {
    sandbox.log().iter().filter(|entry| entry.operation == operation).count()
}

const PLACE: &str = "llm-keys";

#[tokio::test]
async fn a_key_is_made_listed_switched_and_ended_by_signed_requests() {
    let Rig { sandbox, providers, account: of } = rig(ProvidersConfig::default()).await;
    assert_eq!(providers.check_account(&of).await, Ok(()));
    let made = providers.mint(&of, "a-name-that-is-not-sent").await.unwrap();
    let value = made.secret.expose_str().unwrap().to_owned();
    let check = async || providers.validate(of.endpoint(), &value.as_str().into()).await.verdict;
    assert_eq!(check().await, Verdict::Valid);
    let second = providers.mint(&of, "x").await.unwrap();
    for max_page_size in [1, 2] {
        sandbox.set_settings(None, Settings { max_page_size, ..Settings::default() });
        let listed = providers.list(&of).await.unwrap();
        assert_eq!(listed.iter().map(|key| &key.id).collect::<Vec<_>>(), [&made.id, &second.id]);
        assert!(listed.iter().all(|key| key.name.is_empty() && key.created_at.is_some()));
    }
    let full = providers.mint(&of, "x").await.err().unwrap();
    assert!(matches!(&full, MintError::Refused(error) if error.code == "LimitExceeded"), "{full}");
    assert_eq!(providers.exists(&of, &made.id).await, Ok(None), "there is no such question");

    providers.switch(&of, &made.id, false).await.unwrap();
    assert_eq!(check().await, Verdict::Rejected);
    let full = providers.mint(&of, "x").await.err().unwrap();
    assert!(matches!(full, MintError::Refused(_)), "what is off takes room as well");
    providers.switch(&of, &made.id, true).await.unwrap();
    assert_eq!(check().await, Verdict::Valid);

    sandbox.add_fault(FaultRule::on(Operation::DeleteCredential, Fault::drop_reply()).times(1));
    assert_eq!(providers.revoke(&of, &made.id).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(providers.revoke(&of, &made.id).await, Ok(Revocation::AlreadyGone));
    assert_eq!(check().await, Verdict::Rejected);
    assert_eq!(providers.list(&of).await.unwrap().len(), 1);
    assert_eq!(calls(&sandbox, Operation::GetUser), 1, "who the user is, is asked once");
}

#[tokio::test]
async fn a_lost_answer_leaves_a_key_that_is_listed_and_a_no_of_iams_leaves_none() {
    let Rig { sandbox, providers, account: of } = rig(ProvidersConfig::default()).await;
    for fault in [
        Fault::drop_reply(),
        Fault::after_effect(Answer::CutBody),
        Fault::after_effect(Answer::HalfBody),
        Fault::after_effect(Answer::Html { status: 403 }),
        Fault::after_effect(Answer::InternalError),
        Fault::after_effect(Answer::Unavailable { retry_after_seconds: Some(1) }),
    ] {
        sandbox.add_fault(FaultRule::on(Operation::CreateCredential, fault.clone()).times(1));
        let failed = providers.mint(&of, "x").await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
        let [lost] = &providers.list(&of).await.unwrap()[..] else { panic!("{fault:?}: one is there") };
        providers.revoke(&of, &lost.id).await.unwrap();
    }
    for (answer, class) in [
        (Answer::RateLimited { retry_after_seconds: None }, ErrorClass::RateLimited { retry_after: None }),
        (Answer::MissingScopes { status: 403 }, ErrorClass::Forbidden),
        (Answer::InvalidApiKey, ErrorClass::CredentialInvalid),
        (Answer::NotFound, ErrorClass::NotFound),
        (Answer::InsufficientQuota, ErrorClass::BadRequest),
    ] {
        sandbox.add_fault(FaultRule::on(Operation::CreateCredential, Fault::refuse(answer)).times(1));
        let failed = providers.mint(&of, "x").await.err().unwrap();
        assert!(matches!(&failed, MintError::Refused(error) if error.class == class), "{answer:?}: {failed}");
        assert!(providers.list(&of).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_credential_that_is_wrong_or_another_accounts_does_nothing() {
    let Rig { sandbox, providers, .. } = rig(ProvidersConfig::default()).await;
    let refused = async |changes: &[(&str, &str)]| {
        let failed = providers.check_account(&account(&sandbox, USER, changes)).await.unwrap_err();
        (failed.class, failed.code)
    };
    let rejected = (ErrorClass::CredentialInvalid, "CredentialRejected");
    assert_eq!(refused(&[("secretAccessKey", "another-secret-of-forty-characters")]).await, rejected);
    assert_eq!(refused(&[("accessKeyID", "AKIASANDBOX0NOBODY01")]).await, rejected);
    let absent = account(&sandbox, "somebody-else", &[]);
    assert_eq!(providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);
    // A clock that is an hour off signs what IAM does not take.
    let late = WallClock::new(|| DateTime::<Utc>::from_timestamp(1_800_003_600, 0).unwrap());
    let late =
        Providers::new(ProvidersConfig { loopback_only: true, wall: late, ..ProvidersConfig::default() });
    let failed = late.check_account(&account(&sandbox, USER, &[])).await.unwrap_err();
    assert_eq!(failed.class, ErrorClass::CredentialInvalid);

    // The user of this name is in another AWS account than the LLMProvider says: nothing but the question who it is.
    let endpoint = endpoint_at(&sandbox, "Bedrock", &sandbox.bedrock_url(), true);
    let mut other = block(&sandbox, USER);
    other["accountID"] = json!("444455556666");
    let other: BedrockAccount = serde_json::from_value(other).unwrap();
    let entries = entries(&sandbox);
    let data = entries.as_object().unwrap().iter();
    let data = data.map(|(name, value)| (name.clone(), value.as_str().unwrap().into())).collect();
    let other = Account::of_bedrock(&endpoint, &other, &data).unwrap();
    let before = sandbox.log().len();
    for _ in 0..2 {
        let failed = providers.list(&other).await.unwrap_err();
        assert_eq!((failed.class, failed.code), (ErrorClass::NotFound, "OtherAccount"));
        let failed = providers.mint(&other, "x").await.err().unwrap();
        assert!(matches!(&failed, MintError::NotSent(error) if error.code == "OtherAccount"), "{failed}");
    }
    assert!(sandbox.log()[before..].iter().all(|entry| entry.operation == Operation::GetUser));
}

#[tokio::test]
async fn the_clusters_own_token_is_exchanged_for_keys_that_are_used_as_long_as_they_are_good() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("aws-token-{}", std::process::id()));
    let config = ProvidersConfig { aws_token_file: Some(file.clone()), ..ProvidersConfig::default() };
    let Rig { sandbox, providers, .. } = rig(config).await;
    let of = with_role(&sandbox);
    assert_eq!(providers.check_account(&of).await.unwrap_err().code, "UnreadableFederatedToken");
    std::fs::write(&file, "another-token").unwrap();
    let failed = providers.check_account(&of).await.unwrap_err();
    assert_eq!((failed.class, failed.code), (ErrorClass::CredentialInvalid, "TokenRefused"));
    std::fs::write(&file, "sandbox-service-account-token-1\n").unwrap();
    assert_eq!(providers.check_account(&of).await, Ok(()));
    providers.mint(&of, "x").await.unwrap();
    assert_eq!(calls(&sandbox, Operation::TakeRole), 2, "the one that was refused, and one that lasts");
    sandbox.expire_aws_sessions();
    providers.mint(&of, "x").await.unwrap();
    assert_eq!(calls(&sandbox, Operation::TakeRole), 3);
    assert_eq!(sandbox.live_keys(PLACE).len(), 2, "the one that was refused had no effect");
    std::fs::remove_file(&file).unwrap();
    let without = client(ProvidersConfig::default());
    assert_eq!(without.check_account(&with_role(&sandbox)).await.unwrap_err().code, "NoFederatedToken");
}

#[tokio::test]
async fn mints_delivers_rotates_switches_and_revokes() {
    let t = tenant(stage().await, "bedrock").await;
    let sandbox = t.sandbox();
    let lags = Settings {
        max_page_size: 1,
        deleted_key_lag_millis: 300,
        list_lag_millis: 300,
        unlist_lag_millis: 300,
        ..Settings::default()
    };
    sandbox.set_settings(Some(&t.project), lags.clone());
    sandbox.add_fault(
        FaultRule::on(Operation::CreateCredential, Fault::drop_reply()).project(&t.project).times(1),
    );
    t.policy("policy", json!({"overlap": {"minimum": "10m"}})).await;
    let policy = json!({"rotationPolicyRef": {"name": "policy"}});
    t.minted("bedrock", policy.clone()).await;
    let key = t.ready("bedrock").await;
    let made = t.calls(Operation::CreateCredential);
    assert_eq!(made.iter().filter(|call| call.status == Some(200)).count(), 1, "{made:?}");
    let lost = made[0].object_id.clone().unwrap();
    let ended = t.calls(Operation::DeleteCredential);
    assert!(ended.iter().all(|call| call.object_id.as_ref() == Some(&lost)), "{ended:?}");
    let live = sandbox.live_keys(&t.project);
    assert!(live.len() == 1 && Some(&live[0].id) == version(&key, 1).provider_key_id.as_ref(), "{live:?}");
    let first = t.delivered("bedrock", "AWS_BEARER_TOKEN_BEDROCK").await.unwrap();
    assert_eq!(t.delivered("bedrock", "AWS_REGION").await.as_deref(), Some(REGION));
    assert!(sandbox.accepts(&first));

    // Another LLMKey at the user is told who has it, and makes none.
    let before = t.calls(Operation::CreateCredential).len();
    t.minted("second", policy).await;
    let held = t.until("second", "the user is leased", |k| because(k, "Stalled", "AccountLeased")).await;
    assert!(find(&held, "Stalled").unwrap().2.contains(&format!("{}/bedrock", t.namespace)));
    assert_eq!(t.calls(Operation::CreateCredential).len(), before);

    // Both keys work during the overlap, and take all the room that there is.
    pod(&t, json!({}), using(&["bedrock"])).await;
    sandbox.set_settings(Some(&t.project), Settings { new_key_lag_millis: 300, ..lags });
    t.annotate("bedrock", "llmkeys.dev/rotate", Some("now")).await;
    t.until("bedrock", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    let second = t.delivered("bedrock", "AWS_BEARER_TOKEN_BEDROCK").await.unwrap();
    t.until("bedrock", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers"))
        .await;
    assert!(sandbox.accepts(&first) && sandbox.accepts(&second));
    t.annotate("bedrock", "llmkeys.dev/rotate", Some("again")).await;
    t.until("bedrock", "it waits", |k| because(k, "RotationDue", "OverlapActive")).await;
    assert_eq!(sandbox.live_keys(&t.project).len(), 2);
    remove_pod(&t).await;
    let key = t.until("bedrock", "version 3", |k| state(k, 3).as_deref() == Some("Current")).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    assert!(!sandbox.accepts(&first) && sandbox.accepts(&second));
    t.until("bedrock", "the second is revoked", |k| state(k, 2).as_deref() == Some("Revoked")).await;
    let third = t.delivered("bedrock", "AWS_BEARER_TOKEN_BEDROCK").await.unwrap();
    assert!(!sandbox.accepts(&second) && sandbox.accepts(&third));

    for (wish, reason, works) in [("Disabled", "SwitchedOff", false), ("Active", "KeyValid", true)] {
        t.patch("bedrock", json!({"spec": {"desiredState": wish}})).await;
        t.until("bedrock", wish, |k| because(k, "Ready", reason)).await;
        assert_eq!(sandbox.accepts(&third), works, "{wish}");
    }

    // Gone with its LLMKey, and then the user is the other one's.
    t.patch("bedrock", json!({"spec": {"deletionGracePeriod": "0s"}})).await;
    t.delete("bedrock").await;
    wait("it is revoked", async || (!sandbox.accepts(&third)).then_some(())).await;
    let key = t.ready("second").await;
    assert!(is(&key, "Stalled", "False"));
}

#[tokio::test]
async fn what_was_there_before_is_left_alone_and_a_full_user_is_told() {
    let t = tenant(stage().await, "bedrock-full").await;
    let sandbox = t.sandbox();
    let persons = ["one", "two"].map(|tail| t.person_key(tail));
    let ids: Vec<String> = sandbox.live_keys(&t.project).into_iter().map(|key| key.id).collect();
    t.policy("policy", json!({"overlap": {"minimum": "10m"}})).await;
    t.minted("bedrock", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let key = t.until("bedrock", "there is no room", |k| because(k, "Stalled", "SlotsTaken")).await;
    let message = find(&key, "Stalled").unwrap().2;
    assert!(ids.iter().all(|id| message.contains(id.as_str())), "{message}");
    assert!(t.calls(Operation::CreateCredential).is_empty());
    sandbox.withdraw_key(&persons[0]);
    t.ready("bedrock").await;
    assert!(sandbox.accepts(&persons[1]));
    // No room for a rotation: the key in use stays, and a person is told what takes the room.
    t.annotate("bedrock", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("bedrock", "no room again", |k| because(k, "RotationDue", "SlotsTaken")).await;
    assert!(find(&key, "RotationDue").unwrap().2.contains(ids[1].as_str()));
    assert!(is(&key, "Ready", "True"));
    sandbox.withdraw_key(&persons[1]);
    let current = |key: &LLMKey| key.status.as_ref().and_then(|s| s.current_version);
    t.until("bedrock", "version 2", |k| current(k) == Some(2)).await;
    t.until("bedrock", "version 1 is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    // What comes afterwards is taken for a lost one, and goes with the next search.
    t.person_key("three");
    t.patch("bedrock", json!({"spec": {"desiredState": "Revoked"}})).await;
    wait("nothing is left", async || sandbox.live_keys(&t.project).is_empty().then_some(())).await;
}

/// IAM has made the key, and the operator ends before it hears of it: the next one ends that key, and delivers another.
#[tokio::test]
async fn an_operator_that_is_killed_after_the_commit_ends_the_key_that_nobody_has() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = tenant(stage, "bedrock-kill").await;
    let person = t.person_key("one");
    let hang = FaultRule::on(Operation::CreateCredential, Fault::after_effect(Answer::Hang));
    let fault = t.sandbox().add_fault(hang.project(&t.project));
    t.minted("bedrock", json!({})).await;
    wait("the key is made", async || (t.sandbox().live_keys(&t.project).len() == 2).then_some(())).await;
    kill(stage, operator).await;
    assert!(stage.sandbox.remove_fault(fault));
    let lost = t.calls(Operation::CreateCredential)[0].object_id.clone().unwrap();
    let _operator = start(stage);
    let key = t.ready("bedrock").await;
    let delivered = t.delivered("bedrock", "AWS_BEARER_TOKEN_BEDROCK").await.unwrap();
    assert!(t.sandbox().accepts(&delivered) && t.sandbox().accepts(&person));
    let live: Vec<String> = t.sandbox().live_keys(&t.project).into_iter().map(|key| key.id).collect();
    assert!(live.len() == 2 && !live.contains(&lost), "{live:?}");
    assert!(live.contains(version(&key, 1).provider_key_id.as_ref().unwrap()));
}
