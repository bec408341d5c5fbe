//! Keys at a LiteLLM proxy: the client against the sandbox, and the life of a key whose value the operator chose.

use std::sync::Arc;

use chrono::DateTime;
use llmkey_operator::api::{LiteLLMAccount, ProviderType};
use llmkey_operator::crypto::SystemEntropy;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::domain::names::{AttemptId, MintName};
use llmkey_operator::provider::{
    Account, ErrorClass, MintError, Minted, NO_TEAM, Providers, ProvidersConfig, Revocation, choose,
};
use llmkey_operator::sandbox::{
    Answer, Effect, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::openrouter::switched_off_and_on;
use super::provider::account_at;
use super::restart::{kill, leads, start};
use super::stage::{Stage, Tenant, because, empty_stage, is, stage, state, wait};
use super::workload::{client, version};

/// A namespace with a team.
pub(crate) async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    let team = t.sandbox().create_team(&t.namespace);
    let spec = json!({
        "type": "LiteLLM", "baseURL": t.sandbox().proxy_url(), "openAI": null, "liteLLM": {"teamID": team},
    });
    let credential = t.sandbox().master_key();
    t.moved(team, credential, spec).await
}

fn account(sandbox: &Sandbox, credential: &str, team: &str) -> Account {
    account_at(sandbox, "LiteLLM", &sandbox.proxy_url(), credential, team)
}

/// A call of the proxy's API as a person makes it.
async fn by_hand(sandbox: &Sandbox, path: &str, body: Value) -> (u16, Value) {
    let request = client(sandbox).request(Method::POST, format!("{}{path}", sandbox.proxy_url()));
    let reply = request.bearer_auth(sandbox.master_key()).json(&body).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

async fn names(providers: &Providers, account: &Account) -> Vec<String> {
    let mut names: Vec<String> =
        providers.list(account).await.unwrap().into_iter().map(|key| key.name).collect();
    names.sort();
    names
}

fn chosen() -> Minted {
    choose(ProviderType::LiteLLM, &mut SystemEntropy).unwrap().unwrap()
}

struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
    team: String,
}

async fn rig() -> Rig {
    let clock = Arc::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let sandbox = Sandbox::start(SandboxOptions::new(clock)).await.unwrap();
    let team = sandbox.create_team("team");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let account = account(&sandbox, sandbox.master_key(), &team);
    Rig { sandbox, providers, account, team }
}

#[tokio::test]
async fn a_chosen_key_is_made_checked_listed_and_ended_in_its_team() {
    let Rig { sandbox, providers, account: team_account, team } = rig().await;
    let terms =
        LiteLLMAccount { models: vec!["gpt-4o".into()], rpm_limit: Some(5), ..LiteLLMAccount::default() };
    let limited = team_account.clone().with_lite_llm(Some(&terms));
    assert_eq!(providers.check_account(&limited).await, Ok(()));
    let Minted { id, secret } = chosen();
    assert_eq!(providers.exists(&limited, &id).await, Ok(Some(false)));
    assert_eq!(providers.mint_chosen(&limited, "lk1-a", &secret).await.as_ref(), Ok(&id));
    assert_eq!(providers.exists(&limited, &id).await, Ok(Some(true)));
    // Once more under another name, it is the same key.
    assert_eq!(providers.mint_chosen(&limited, "lk1-b", &secret).await.as_ref(), Ok(&id));
    let live = sandbox.live_keys(&team);
    assert!(live.len() == 1 && live[0].id == id.as_str() && live[0].name == "lk1-a");
    let check = async || providers.validate(limited.endpoint(), &secret).await.verdict;
    assert_eq!(check().await, Verdict::Valid);
    let master = providers.validate(limited.endpoint(), &sandbox.master_key().into()).await;
    assert_eq!((master.verdict, master.code), (Verdict::Rejected, "NoVirtualKey"));
    let listed = providers.list(&limited).await.unwrap();
    assert!(listed.len() == 1 && listed[0].id == id && listed[0].created_at.is_some());

    let hash = json!({"key": id.handle()});
    assert_eq!(by_hand(&sandbox, "/key/block", hash.clone()).await.0, 200);
    assert_eq!(check().await, Verdict::Disabled);
    assert_eq!(by_hand(&sandbox, "/key/unblock", hash).await.0, 200);
    sandbox.add_fault(FaultRule::on(Operation::DeleteProxyKeys, Fault::drop_reply()).times(1));
    assert_eq!(providers.revoke(&limited, &id).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(providers.revoke(&limited, &id).await, Ok(Revocation::AlreadyGone));
    assert!(names(&providers, &limited).await.is_empty());
    assert_eq!(check().await, Verdict::Rejected);
    for shown in [false, true] {
        sandbox.set_settings(None, Settings { deleted_keys_shown: shown, ..Settings::default() });
        assert_eq!(providers.exists(&limited, &id).await, Ok(Some(false)), "shown: {shown}");
    }

    let absent = account(&sandbox, sandbox.master_key(), "team_that_is_not_there");
    assert_eq!(providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);
    let wrong = account(&sandbox, sandbox.admin_key(), &team);
    assert_eq!(providers.check_account(&wrong).await.unwrap_err().class, ErrorClass::CredentialInvalid);
    // A virtual key instead of an admin's.
    let own = chosen();
    providers.mint_chosen(&limited, "lk1-c", &own.secret).await.unwrap();
    let forbidden = account(&sandbox, std::str::from_utf8(own.secret.expose()).unwrap(), &team);
    assert_eq!(providers.check_account(&forbidden).await.unwrap_err().class, ErrorClass::Forbidden);
}

#[tokio::test]
async fn a_key_for_models_only_lists_them() {
    let Rig { sandbox, providers, account, team } = rig().await;
    let body = json!({"key_alias": "a person's", "team_id": team, "key_type": "llm_api"});
    let (status, made) = by_hand(&sandbox, "/key/generate", body).await;
    assert_eq!(status, 200, "{made}");
    let key = made["key"].as_str().unwrap().into();
    assert_eq!(providers.validate(account.endpoint(), &key).await.verdict, Verdict::Valid);
    let calls: Vec<Operation> = sandbox.log_of(&team).iter().map(|entry| entry.operation).collect();
    assert_eq!(calls, [Operation::GenerateProxyKey, Operation::CheckProxyKey, Operation::ListProxyModels]);
}

#[tokio::test]
async fn a_lost_answer_leaves_a_key_that_its_id_finds_and_that_is_made_no_second_time() {
    let Rig { sandbox, providers, account, team } = rig().await;
    let lost = [
        Fault::drop_reply(),
        Fault::after_effect(Answer::CutBody),
        Fault::after_effect(Answer::HalfBody),
        Fault::after_effect(Answer::Html { status: 403 }),
        Fault::after_effect(Answer::InternalError),
        Fault::after_effect(Answer::Unavailable { retry_after_seconds: Some(1) }),
    ];
    for (made, fault) in (1..).zip(lost) {
        let (name, Minted { id, secret }) = (format!("lk1-{made}"), chosen());
        sandbox.add_fault(FaultRule::on(Operation::GenerateProxyKey, fault.clone()).times(1));
        let failed = providers.mint_chosen(&account, &name, &secret).await.unwrap_err();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
        // The same request once more: the name is taken, which tells nothing of the key.
        let taken = providers.mint_chosen(&account, &name, &secret).await.unwrap_err();
        assert!(matches!(&taken, MintError::UnknownOutcome(error) if error.code == "NameTaken"), "{taken}");
        assert_eq!(providers.exists(&account, &id).await, Ok(Some(true)), "{fault:?}");
        assert_eq!(sandbox.live_keys(&team).len(), made, "{fault:?}");
    }
    for (answer, class) in [
        (Answer::RateLimited { retry_after_seconds: None }, ErrorClass::RateLimited { retry_after: None }),
        (Answer::MissingScopes { status: 403 }, ErrorClass::Forbidden),
        (Answer::InsufficientQuota, ErrorClass::BadRequest),
    ] {
        sandbox.add_fault(FaultRule::on(Operation::GenerateProxyKey, Fault::refuse(answer)).times(1));
        let failed = providers.mint_chosen(&account, "lk1-x", &chosen().secret).await.unwrap_err();
        assert!(matches!(&failed, MintError::Refused(error) if error.class == class), "{answer:?}: {failed}");
    }
    sandbox.set_settings(None, Settings { custom_keys_refused: true, ..Settings::default() });
    let failed = providers.mint_chosen(&account, "lk1-x", &chosen().secret).await.unwrap_err();
    assert!(matches!(&failed, MintError::Refused(error) if error.class == ErrorClass::CustomKeysDisabled));
}

#[tokio::test]
async fn a_list_spans_pages_of_any_size_and_fails_as_a_whole() {
    let Rig { sandbox, providers, account: of_team, team } = rig().await;
    for number in 0..5 {
        providers.mint_chosen(&of_team, &format!("lk1-{number}"), &chosen().secret).await.unwrap();
    }
    let none = account(&sandbox, sandbox.master_key(), NO_TEAM);
    providers.mint_chosen(&none, "lk1-none", &chosen().secret).await.unwrap();
    for max_page_size in 1..=6 {
        sandbox.set_settings(None, Settings { max_page_size, ..Settings::default() });
        assert_eq!(names(&providers, &of_team).await, ["lk1-0", "lk1-1", "lk1-2", "lk1-3", "lk1-4"]);
        assert_eq!(names(&providers, &none).await, ["lk1-none"], "those of teams are at other accounts");
    }
    sandbox.set_settings(Some(&team), Settings { max_page_size: 2, ..Settings::default() });
    sandbox.add_fault(FaultRule::on(Operation::ListProxyKeys, Fault::refuse(Answer::InternalError)).skip(1));
    assert_eq!(providers.list(&of_team).await.unwrap_err().class, ErrorClass::Server);
}

#[tokio::test]
async fn chooses_delivers_rotates_revokes_and_sweeps() {
    let t = tenant(stage().await, "litellm").await;
    let sandbox = t.sandbox();
    let lags = Settings {
        max_page_size: 2,
        deleted_key_lag_millis: 300,
        list_lag_millis: 300,
        unlist_lag_millis: 300,
        deleted_keys_shown: true,
        ..Settings::default()
    };
    sandbox.set_settings(Some(&t.project), lags.clone());
    let lost =
        || FaultRule::on(Operation::GenerateProxyKey, Fault::drop_reply()).project(&t.project).times(1);
    sandbox.add_fault(lost());
    t.policy("policy", json!({"overlap": {"minimum": "10m", "evidence": {"quietFor": "1h"}}})).await;
    t.minted("proxy", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let key = t.ready("proxy").await;
    let made = t.calls(Operation::GenerateProxyKey);
    assert_eq!(made.len(), 1, "the lost one is found: {made:?}");
    assert_eq!(made[0].fault.as_deref(), Some("dropReply"));
    let first = t.delivered("proxy", "OPENAI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&first));
    let all = sandbox.keys(&t.project);
    assert_eq!(all.iter().map(|key| Some(&key.name)).collect::<Vec<_>>(), [made[0].name.as_ref()]);
    assert_eq!(version(&key, 1).provider_key_id.as_ref(), Some(&all[0].id));

    // Lost again, and missing where it is looked for: it is made once more, and is the same one.
    pod(&t, json!({}), using(&["proxy"])).await;
    sandbox.set_settings(
        Some(&t.project),
        Settings { new_key_lag_millis: 300, lookup_lag_millis: 60_000, ..lags.clone() },
    );
    sandbox.add_fault(lost());
    t.annotate("proxy", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("proxy", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(is(&key, "Ready", "True"));
    let made = t.calls(Operation::GenerateProxyKey);
    assert_eq!(
        made.iter().map(|call| call.effect).collect::<Vec<_>>(),
        [Effect::Committed, Effect::Committed, Effect::None]
    );
    assert_ne!(made[1].name, made[2].name);
    assert_eq!(sandbox.keys(&t.project).len(), 2);
    sandbox.set_settings(Some(&t.project), lags.clone());
    t.until("proxy", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers")).await;
    assert!(sandbox.accepts(&first), "both work during the overlap");
    assert!(t.calls(Operation::DeleteProxyKeys).is_empty());
    remove_pod(&t).await;
    let key = t.until("proxy", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    let second = t.delivered("proxy", "OPENAI_API_KEY").await.unwrap();
    assert!(sandbox.accepts(&second) && !sandbox.accepts(&first));

    // An earlier attempt that nobody knows of, blocked by a person, and a person's own key.
    let ours: MintName = made[0].name.as_ref().unwrap().parse().unwrap();
    let orphan = MintName { attempt: AttemptId::new(0, 7).unwrap(), ..ours }.to_string();
    let mut hashes = Vec::new();
    for name in [&orphan, "a person's"] {
        let body = json!({"key_alias": name, "team_id": t.project});
        let (status, made) = by_hand(sandbox, "/key/generate", body).await;
        assert_eq!(status, 200, "{made}");
        hashes.push(made["token"].as_str().unwrap().to_owned());
    }
    assert_eq!(by_hand(sandbox, "/key/block", json!({"key": hashes[0]})).await.0, 200);
    wait("the orphan is revoked", async || {
        sandbox.live_keys(&t.project).iter().all(|key| key.id != hashes[0]).then_some(())
    })
    .await;
    assert!(sandbox.live_keys(&t.project).iter().any(|key| key.id == hashes[1]));
    assert!(sandbox.accepts(&second));

    switched_off_and_on(&t, "proxy", Operation::BlockProxyKey, &second).await;

    // A proxy that lets nobody choose is told of, and what is delivered stays.
    sandbox.set_settings(Some(&t.project), Settings { custom_keys_refused: true, ..lags });
    t.annotate("proxy", "llmkeys.dev/rotate", Some("again")).await;
    t.until("proxy", "no key is made", |k| because(k, "RotationDue", "CustomKeysDisabled")).await;
    assert!(sandbox.accepts(&second));
    t.patch("proxy", json!({"spec": {"desiredState": "Revoked"}})).await;
    wait("only the person's key is left", async || {
        let live = sandbox.live_keys(&t.project);
        (live.len() == 1 && live[0].id == hashes[1]).then_some(())
    })
    .await;
}

/// The proxy has made the key, and the operator ends before it hears of it: the next one delivers that very key.
#[tokio::test]
async fn an_operator_that_is_killed_after_the_commit_leaves_one_key_and_it_is_delivered() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let (kept, given_up) = (tenant(stage, "litellm-kill").await, tenant(stage, "litellm-gone").await);
    let mut faults = Vec::new();
    for t in [&kept, &given_up] {
        let hang = FaultRule::on(Operation::GenerateProxyKey, Fault::after_effect(Answer::Hang));
        faults.push(t.sandbox().add_fault(hang.project(&t.project)));
        t.minted("proxy", json!({"deletionGracePeriod": "0s"})).await;
        wait("the key is made", async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(())).await;
    }
    kill(stage, operator).await;
    for fault in faults {
        assert!(stage.sandbox.remove_fault(fault));
    }
    let ids = [&kept, &given_up].map(|t| t.sandbox().live_keys(&t.project).remove(0).id);
    given_up.keys().delete("proxy", &kube::api::DeleteParams::default()).await.unwrap();

    let _operator = start(stage);
    let key = kept.ready("proxy").await;
    assert_eq!(version(&key, 1).provider_key_id.as_ref(), Some(&ids[0]));
    let delivered = kept.delivered("proxy", "OPENAI_API_KEY").await.unwrap();
    assert!(kept.sandbox().accepts(&delivered));
    let all = kept.sandbox().keys(&kept.project);
    assert!(all.len() == 1 && delivered.ends_with(&all[0].last_four), "{all:?}");
    assert_eq!(kept.calls(Operation::GenerateProxyKey).len(), 1, "it is found, not made again");
    assert!(kept.calls(Operation::DeleteProxyKeys).is_empty());
    // Nobody wants the other one any more: it goes by its id.
    wait("the key of no LLMKey is gone", async || {
        given_up.sandbox().live_keys(&given_up.project).is_empty().then_some(())
    })
    .await;
    let deleted = given_up.calls(Operation::DeleteProxyKeys);
    assert!(deleted.iter().all(|call| call.object_id.as_ref() == Some(&ids[1])), "{deleted:?}");
    assert_eq!(given_up.calls(Operation::GenerateProxyKey).len(), 1);
}
