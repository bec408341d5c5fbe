//! Keys at xAI: the client against the sandbox, and the life of a key on a real API server.

use std::sync::Arc;

use chrono::DateTime;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::domain::names::{AttemptId, MintName};
use llmkey_operator::provider::{
    Account, AdminCredential, ErrorClass, MintError, Providers, ProvidersConfig, Revocation,
};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::openrouter::switched_off_and_on;
use super::provider::endpoint_at;
use super::stage::{Tenant, because, is, state, wait};
use super::workload::{client, version};

fn account(sandbox: &Sandbox, credential: &str, team: &str) -> Account {
    let endpoint = endpoint_at(sandbox, "XAI", &sandbox.url_of("xai/data/v1"), true);
    let host = sandbox.addr().to_string();
    let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
    Account::managed_at(endpoint, &sandbox.url_of("xai/management"), team, credential).unwrap()
}

/// A call of the management API as a person makes it.
async fn by_hand(sandbox: &Sandbox, method: Method, path: &str, body: Value) -> (u16, Value) {
    let url = sandbox.url_of(&format!("xai/management/auth{path}"));
    let reply = client(sandbox).request(method, url).bearer_auth(sandbox.team_manager()).json(&body);
    let reply = reply.send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

/// A namespace with a team.
pub(crate) async fn tenant(prefix: &str) -> Tenant {
    let t = Tenant::new(prefix).await;
    let team = t.sandbox().create_xai_team(&t.namespace);
    let spec = json!({
        "type": "XAI", "baseURL": t.sandbox().url_of("xai/data/v1"), "openAI": null,
        "xAI": {"team": team, "managementURL": t.sandbox().url_of("xai/management")},
    });
    let credential = t.sandbox().team_manager();
    t.moved(team, credential, spec).await
}

async fn names(providers: &Providers, account: &Account) -> Vec<String> {
    let mut names: Vec<String> =
        providers.list(account).await.unwrap().into_iter().map(|key| key.name).collect();
    names.sort();
    names
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
    sandbox.create_xai_team("other");
    let team = sandbox.create_xai_team("team");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let account = account(&sandbox, sandbox.team_manager(), &team);
    Rig { sandbox, providers, account, team }
}

#[tokio::test]
async fn a_key_is_made_checked_listed_and_ended_in_its_team() {
    let Rig { sandbox, providers, account: of, team } = rig().await;
    assert_eq!(providers.check_account(&of).await, Ok(()));
    let minted = providers.mint(&of, "lk1-a").await.ok().unwrap();
    assert_eq!(sandbox.live_keys(&team)[0].id, minted.id.as_str());
    let verdict = async || providers.validate(of.endpoint(), &minted.secret).await.verdict;
    assert_eq!(verdict().await, Verdict::Valid);
    assert_eq!(providers.has_spread(&of, &minted.id).await, Some(true));
    let lag = Settings { propagation_lag_millis: 1000, ..Settings::default() };
    sandbox.set_settings(Some(&team), lag);
    assert_eq!(providers.has_spread(&of, &minted.id).await, Some(false));
    sandbox.add_fault(FaultRule::on(Operation::GetPropagation, Fault::refuse(Answer::NotFound)).times(1));
    assert_eq!(providers.has_spread(&of, &minted.id).await, None, "what is not told holds nothing up");
    let listed = providers.list(&of).await.unwrap();
    assert!(listed.len() == 1 && listed[0].id == minted.id && listed[0].created_at.is_some());

    assert_eq!(providers.switch(&of, &minted.id, false).await, Ok(()));
    assert_eq!(verdict().await, Verdict::Disabled);
    assert_eq!(names(&providers, &of).await, ["lk1-a"], "one that is switched off is found too");
    assert_eq!(providers.switch(&of, &minted.id, true).await, Ok(()));
    assert_eq!(verdict().await, Verdict::Valid);

    sandbox.add_fault(FaultRule::on(Operation::DeleteTeamKey, Fault::drop_reply()).times(1));
    assert_eq!(providers.revoke(&of, &minted.id).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(providers.revoke(&of, &minted.id).await, Ok(Revocation::AlreadyGone));
    assert!(names(&providers, &of).await.is_empty());
    assert_eq!(verdict().await, Verdict::Rejected);

    let absent = account(&sandbox, sandbox.team_manager(), "0df9e665-d932-5740-b2c7-b52af166bc11");
    assert_eq!(providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);
    let wrong = account(&sandbox, sandbox.admin_key(), &team);
    assert_eq!(providers.check_account(&wrong).await.unwrap_err().class, ErrorClass::CredentialInvalid);
}

#[tokio::test]
async fn every_lost_answer_of_a_mint_leaves_the_outcome_unknown_and_the_stray_in_the_list() {
    let Rig { sandbox, providers, account, team } = rig().await;
    sandbox.set_settings(Some(&team), Settings { max_page_size: 2, ..Settings::default() });
    let lost = [
        Fault::drop_reply(),
        Fault::after_effect(Answer::CutBody),
        Fault::after_effect(Answer::HalfBody),
        Fault::after_effect(Answer::Html { status: 403 }),
        Fault::after_effect(Answer::InternalError),
        Fault::after_effect(Answer::Unavailable { retry_after_seconds: Some(1) }),
    ];
    for (made, fault) in (1..).zip(lost) {
        sandbox.add_fault(FaultRule::on(Operation::CreateTeamKey, fault.clone()).times(1));
        let failed = providers.mint(&account, "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
        assert_eq!(names(&providers, &account).await, vec!["lk1-a"; made], "{fault:?}");
    }
    for answer in
        [Answer::RateLimited { retry_after_seconds: Some(7) }, Answer::MissingScopes { status: 403 }]
    {
        sandbox.add_fault(FaultRule::on(Operation::CreateTeamKey, Fault::refuse(answer)).times(1));
        let failed = providers.mint(&account, "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::Refused(_)), "{answer:?}: {failed}");
    }
    sandbox.add_fault(FaultRule::on(Operation::ListTeamKeys, Fault::refuse(Answer::InternalError)).skip(1));
    assert_eq!(providers.list(&account).await.unwrap_err().class, ErrorClass::Server, "never a part");
}

#[tokio::test]
async fn mints_delivers_rotates_revokes_and_sweeps() {
    let t = tenant("xai").await;
    let lags = Settings {
        max_page_size: 2,
        deleted_key_lag_millis: 300,
        list_lag_millis: 300,
        unlist_lag_millis: 300,
        propagation_lag_millis: 300,
        ..Settings::default()
    };
    t.sandbox().set_settings(Some(&t.project), lags.clone());
    let lost = FaultRule::on(Operation::CreateTeamKey, Fault::drop_reply());
    let lost = t.sandbox().add_fault(lost.project(&t.project).times(1));
    t.policy("policy", json!({"overlap": {"minimum": "10m"}})).await;
    t.minted("grok", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("grok").await;
    assert!(t.sandbox().faults().iter().any(|fault| fault.id == lost && fault.fired == 1));
    let made = t.calls(Operation::CreateTeamKey);
    assert_eq!(made.len(), 2, "{made:?}");
    assert_ne!(made[0].name, made[1].name);
    assert!(!t.calls(Operation::GetPropagation).is_empty(), "it was delivered when all of xAI had it");
    let first = t.delivered("grok", "XAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&first));
    let live = t.sandbox().live_keys(&t.project);
    assert_eq!(live.iter().map(|key| &key.name).collect::<Vec<_>>(), [made[1].name.as_ref().unwrap()]);

    // No node runs: the pod keeps the key that it was made with.
    pod(&t, json!({}), using(&["grok"])).await;
    t.sandbox().set_settings(Some(&t.project), Settings { new_key_lag_millis: 300, ..lags });
    t.annotate("grok", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("grok", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(is(&key, "Ready", "True"));
    t.until("grok", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers")).await;
    assert!(t.sandbox().accepts(&first), "both work during the overlap");
    assert!(t.calls(Operation::DeleteTeamKey).iter().all(|call| call.name != made[1].name));
    remove_pod(&t).await;
    let key = t.until("grok", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    let second = t.delivered("grok", "XAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));

    // An earlier attempt that nobody knows of, and a person's own key.
    let ours: MintName = made[1].name.as_ref().unwrap().parse().unwrap();
    let orphan = MintName { attempt: AttemptId::new(0, 7).unwrap(), ..ours }.to_string();
    let sandbox = t.sandbox();
    let mut ids = Vec::new();
    for name in [&orphan, "a person's"] {
        let body = json!({"name": name, "acls": ["api-key:model:*", "api-key:endpoint:*"]});
        let (status, made) =
            by_hand(sandbox, Method::POST, &format!("/teams/{}/api-keys", t.project), body).await;
        assert_eq!(status, 200, "{made}");
        ids.push(made["apiKeyId"].as_str().unwrap().to_owned());
    }
    wait("the orphan is revoked", async || {
        sandbox.live_keys(&t.project).iter().all(|key| key.id != ids[0]).then_some(())
    })
    .await;
    assert!(sandbox.live_keys(&t.project).iter().any(|key| key.id == ids[1]));

    switched_off_and_on(&t, "grok", Operation::UpdateTeamKey, &second).await;
    t.patch("grok", json!({"spec": {"desiredState": "Revoked"}})).await;
    wait("only the person's key is left", async || {
        let live = sandbox.live_keys(&t.project);
        (live.len() == 1 && live[0].id == ids[1]).then_some(())
    })
    .await;
}
