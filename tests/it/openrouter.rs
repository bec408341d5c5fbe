//! Keys at OpenRouter: the client against the sandbox, and the life of a key on a real API server.

use std::sync::Arc;

use chrono::DateTime;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::domain::names::{AttemptId, MintName};
use llmkey_operator::provider::{Account, ErrorClass, MintError, Providers, ProvidersConfig, Revocation};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::consumers::{pod, remove_pod, using};
use super::provider::account_at;
use super::stage::{Tenant, because, is, state, wait};
use super::workload::{client, version};

fn account(sandbox: &Sandbox, credential: &str, workspace: &str) -> Account {
    account_at(sandbox, "OpenRouter", &sandbox.router_url(), credential, workspace)
}

/// A call of the management API as a person makes it.
async fn by_hand(sandbox: &Sandbox, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = client(sandbox).request(method, format!("{}{path}", sandbox.router_url()));
    let reply = request.bearer_auth(sandbox.management_key()).json(&body).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

/// A namespace with a workspace.
pub(crate) async fn tenant(prefix: &str) -> Tenant {
    let t = Tenant::new(prefix).await;
    let workspace = t.sandbox().create_workspace(&t.namespace);
    let spec = json!({
        "type": "OpenRouter", "baseURL": t.sandbox().router_url(), "openAI": null,
        "openRouter": {"workspace": workspace},
    });
    let credential = t.sandbox().management_key();
    t.moved(workspace, credential, spec).await
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
    workspace: String,
}

async fn rig() -> Rig {
    let clock = Arc::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let sandbox = Sandbox::start(SandboxOptions::new(clock)).await.unwrap();
    // The default one: what forgets to name a workspace comes here.
    sandbox.create_workspace("default");
    let workspace = sandbox.create_workspace("team");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let account = account(&sandbox, sandbox.management_key(), &workspace);
    Rig { sandbox, providers, account, workspace }
}

#[tokio::test]
async fn a_key_is_made_checked_listed_and_ended_in_its_workspace() {
    let Rig { sandbox, providers, account: team, workspace } = rig().await;
    assert_eq!(providers.check_account(&team).await, Ok(()));
    let minted = providers.mint(&team, "lk1-a").await.ok().unwrap();
    assert_eq!(sandbox.live_keys(&workspace)[0].id, minted.id.as_str());
    assert_eq!(providers.validate(team.endpoint(), &minted.secret).await.verdict, Verdict::Valid);
    let management = sandbox.management_key().into();
    let told = providers.validate(team.endpoint(), &management).await;
    assert_eq!((told.verdict, told.code), (Verdict::Rejected, "ManagementKey"));
    let listed = providers.list(&team).await.unwrap();
    assert!(listed.len() == 1 && listed[0].id == minted.id && listed[0].created_at.is_some());

    let off = json!({"disabled": true});
    let path = format!("/keys/{}", minted.id.handle());
    assert_eq!(by_hand(&sandbox, Method::PATCH, &path, off).await.0, 200);
    // What OpenRouter says of such a key is not known: nothing follows from it.
    assert_eq!(providers.validate(team.endpoint(), &minted.secret).await.verdict, Verdict::Unknown);
    assert_eq!(names(&providers, &team).await, ["lk1-a"], "one that is switched off is found too");

    sandbox.add_fault(FaultRule::on(Operation::DeleteRouterKey, Fault::drop_reply()).times(1));
    assert_eq!(providers.revoke(&team, &minted.id).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(providers.revoke(&team, &minted.id).await, Ok(Revocation::AlreadyGone));
    assert!(names(&providers, &team).await.is_empty());
    assert_eq!(providers.validate(team.endpoint(), &minted.secret).await.verdict, Verdict::Rejected);

    let absent = account(&sandbox, sandbox.management_key(), "0df9e665-d932-5740-b2c7-b52af166bc11");
    assert_eq!(providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);
    let wrong = account(&sandbox, sandbox.admin_key(), &workspace);
    assert_eq!(providers.check_account(&wrong).await.unwrap_err().class, ErrorClass::CredentialInvalid);
    // A key for models instead of a management key.
    let key = providers.mint(&team, "lk1-b").await.ok().unwrap();
    let key = std::str::from_utf8(key.secret.expose()).unwrap().to_owned();
    let forbidden = account(&sandbox, &key, &workspace);
    assert_eq!(providers.check_account(&forbidden).await.unwrap_err().class, ErrorClass::Forbidden);
}

#[tokio::test]
async fn every_lost_answer_of_a_mint_leaves_the_outcome_unknown_and_the_stray_in_the_list() {
    let Rig { sandbox, providers, account, .. } = rig().await;
    let lost = [
        Fault::drop_reply(),
        Fault::after_effect(Answer::CutBody),
        Fault::after_effect(Answer::HalfBody),
        Fault::after_effect(Answer::Html { status: 403 }),
        Fault::after_effect(Answer::InternalError),
        Fault::after_effect(Answer::Unavailable { retry_after_seconds: Some(1) }),
    ];
    // The same name each time: OpenRouter does not mind.
    for (made, fault) in (1..).zip(lost) {
        sandbox.add_fault(FaultRule::on(Operation::CreateRouterKey, fault.clone()).times(1));
        let failed = providers.mint(&account, "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
        assert_eq!(names(&providers, &account).await, vec!["lk1-a"; made], "{fault:?}");
    }
    for answer in
        [Answer::RateLimited { retry_after_seconds: Some(7) }, Answer::MissingScopes { status: 403 }]
    {
        sandbox.add_fault(FaultRule::on(Operation::CreateRouterKey, Fault::refuse(answer)).times(1));
        let failed = providers.mint(&account, "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::Refused(_)), "{answer:?}: {failed}");
    }
}

#[tokio::test]
async fn a_list_spans_pages_of_any_size_and_fails_as_a_whole() {
    let Rig { sandbox, providers, account, workspace } = rig().await;
    for number in 0..5 {
        providers.mint(&account, &format!("lk1-{number}")).await.ok().unwrap();
    }
    for max_page_size in 2..=6 {
        sandbox.set_settings(Some(&workspace), Settings { max_page_size, ..Settings::default() });
        assert_eq!(names(&providers, &account).await, ["lk1-0", "lk1-1", "lk1-2", "lk1-3", "lk1-4"]);
    }
    sandbox.set_settings(Some(&workspace), Settings { max_page_size: 2, ..Settings::default() });
    let broken = FaultRule::on(Operation::ListRouterKeys, Fault::refuse(Answer::InternalError)).skip(1);
    sandbox.add_fault(broken);
    assert_eq!(providers.list(&account).await.unwrap_err().class, ErrorClass::Server);
}

/// The same key, off and on again; the first answer to each call is lost.
pub(crate) async fn switched_off_and_on(t: &Tenant, name: &str, operation: Operation, value: &str) {
    for (wish, reason, works) in [("Disabled", "SwitchedOff", false), ("Active", "KeyValid", true)] {
        let lost = FaultRule::on(operation, Fault::drop_reply()).project(&t.project).times(1);
        t.sandbox().add_fault(lost);
        t.patch(name, json!({"spec": {"desiredState": wish}})).await;
        let key = t.until(name, wish, |k| because(k, "Ready", reason)).await;
        assert!(is(&key, "Stalled", "False"));
        assert_eq!(t.sandbox().accepts(value), works, "{wish}");
        assert_eq!(
            t.delivered(name, &entry(t, name).await).await.as_deref(),
            Some(value),
            "the Secret stays"
        );
    }
}

async fn entry(t: &Tenant, name: &str) -> String {
    let secret = t.secrets().get(name).await.unwrap();
    secret.data.unwrap().into_keys().find(|key| key.ends_with("_API_KEY")).unwrap()
}

#[tokio::test]
async fn mints_delivers_rotates_revokes_and_sweeps() {
    let t = tenant("router").await;
    let lags = Settings {
        max_page_size: 2,
        deleted_key_lag_millis: 300,
        list_lag_millis: 300,
        unlist_lag_millis: 300,
        ..Settings::default()
    };
    t.sandbox().set_settings(Some(&t.project), lags.clone());
    let lost = FaultRule::on(Operation::CreateRouterKey, Fault::drop_reply());
    let lost = t.sandbox().add_fault(lost.project(&t.project).times(1));
    t.policy("policy", json!({"overlap": {"minimum": "10m", "evidence": {"quietFor": "1h"}}})).await;
    t.minted("router", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("router").await;
    assert!(t.sandbox().faults().iter().any(|fault| fault.id == lost && fault.fired == 1));
    let made = t.calls(Operation::CreateRouterKey);
    assert_eq!(made.len(), 2, "{made:?}");
    assert_ne!(made[0].name, made[1].name);
    let first = t.delivered("router", "OPENROUTER_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&first));
    let live = t.sandbox().live_keys(&t.project);
    assert_eq!(live.iter().map(|key| &key.name).collect::<Vec<_>>(), [made[1].name.as_ref().unwrap()]);

    // No node runs: the pod keeps the key that it was made with.
    pod(&t, json!({}), using(&["router"])).await;
    t.sandbox().set_settings(Some(&t.project), Settings { new_key_lag_millis: 300, ..lags });
    t.annotate("router", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("router", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    assert!(is(&key, "Ready", "True"));
    t.until("router", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers"))
        .await;
    assert!(t.sandbox().accepts(&first), "both work during the overlap");
    assert!(t.calls(Operation::DeleteRouterKey).iter().all(|call| call.name != made[1].name));
    remove_pod(&t).await;
    let key = t.until("router", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    // OpenRouter tells of no last use: the basis claims none.
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    let second = t.delivered("router", "OPENROUTER_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));

    // An earlier attempt that nobody knows of, switched off by a person, and a person's own key.
    let ours: MintName = made[1].name.as_ref().unwrap().parse().unwrap();
    let orphan = MintName { attempt: AttemptId::new(0, 7).unwrap(), ..ours }.to_string();
    let sandbox = t.sandbox();
    let mut hashes = Vec::new();
    for name in [&orphan, "a person's"] {
        let body = json!({"name": name, "workspace_id": t.project});
        let (status, made) = by_hand(sandbox, Method::POST, "/keys", body).await;
        assert_eq!(status, 201, "{made}");
        hashes.push(made["data"]["hash"].as_str().unwrap().to_owned());
    }
    let path = format!("/keys/{}", hashes[0]);
    assert_eq!(by_hand(sandbox, Method::PATCH, &path, json!({"disabled": true})).await.0, 200);
    wait("the orphan is revoked", async || {
        sandbox.live_keys(&t.project).iter().all(|key| key.id != hashes[0]).then_some(())
    })
    .await;
    assert!(sandbox.live_keys(&t.project).iter().any(|key| key.id == hashes[1]));
    assert!(sandbox.accepts(&second));

    switched_off_and_on(&t, "router", Operation::UpdateRouterKey, &second).await;
    t.patch("router", json!({"spec": {"desiredState": "Revoked"}})).await;
    wait("only the person's key is left", async || {
        let live = sandbox.live_keys(&t.project);
        (live.len() == 1 && live[0].id == hashes[1]).then_some(())
    })
    .await;
}
