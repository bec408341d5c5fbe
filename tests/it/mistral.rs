//! Keys at Mistral, whose API documents no end of a key: none is made without consent, and with it no end is believed but the list's.

use std::sync::Arc;

use chrono::DateTime;
use llmkey_operator::api::LLMProvider;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::provider::{
    Account, AdminCredential, ErrorClass, MintError, Providers, ProvidersConfig, Revocation,
};
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings};
use serde_json::json;

use super::provider::endpoint_at;
use super::stage::{Tenant, because, find, is, state, wait};

fn account(sandbox: &Sandbox, credential: &str, workspace: &str) -> Account {
    let endpoint = endpoint_at(sandbox, "Mistral", &sandbox.url_of("mistral/data"), true);
    let host = sandbox.addr().to_string();
    let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
    Account::managed_at(endpoint, &sandbox.url_of("mistral/admin"), workspace, credential).unwrap()
}

/// A namespace with a workspace.
pub(crate) async fn tenant(prefix: &str, allows: bool) -> Tenant {
    let t = Tenant::new(prefix).await;
    let workspace = t.sandbox().create_mistral_workspace(&t.namespace);
    let spec = json!({
        "type": "Mistral", "baseURL": t.sandbox().url_of("mistral/data"), "openAI": null,
        "mistral": {
            "workspace": workspace, "adminURL": t.sandbox().url_of("mistral/admin"), "allowUnrecoverableMint": allows,
        },
    });
    let credential = t.sandbox().workspace_admin();
    t.moved(workspace, credential, spec).await
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
    let workspace = sandbox.create_mistral_workspace("team");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let account = account(&sandbox, sandbox.workspace_admin(), &workspace);
    Rig { sandbox, providers, account, workspace }
}

#[tokio::test]
async fn a_key_is_made_checked_and_listed_and_its_end_is_what_the_list_says() {
    let Rig { sandbox, providers, account: of, workspace } = rig().await;
    assert_eq!(providers.check_account(&of).await, Ok(()));
    let other = account(&sandbox, sandbox.workspace_admin(), &sandbox.create_mistral_workspace("other"));
    providers.mint(&other, "lk1-other").await.ok().unwrap();
    let minted = providers.mint(&of, "lk1-a").await.ok().unwrap();
    let verdict = async || providers.validate(of.endpoint(), &minted.secret).await.verdict;
    assert_eq!(verdict().await, Verdict::Valid);
    for max_page_size in [2, 3, 100] {
        sandbox.set_settings(None, Settings { max_page_size, ..Settings::default() });
        let listed = providers.list(&of).await.unwrap();
        assert!(listed.len() == 1 && listed[0].id == minted.id, "those of other workspaces are left out");
    }
    sandbox.set_settings(Some(&workspace), Settings { deletion_is_missing: true, ..Settings::default() });
    assert_eq!(providers.revoke(&of, &minted.id).await.unwrap_err().class, ErrorClass::NotFound);
    assert_eq!(verdict().await, Verdict::Valid);
    sandbox.set_settings(Some(&workspace), Settings { unlist_lag_millis: 1000, ..Settings::default() });
    assert_eq!(providers.revoke(&of, &minted.id).await.unwrap_err().code, "StillListed");
    let second = providers.mint(&of, "lk1-b").await.ok().unwrap();
    sandbox.set_settings(Some(&workspace), Settings::default());
    assert_eq!(providers.revoke(&of, &second.id).await, Ok(Revocation::Revoked));
    assert_eq!(providers.revoke(&of, &second.id).await, Ok(Revocation::AlreadyGone));
    assert_eq!(verdict().await, Verdict::Rejected);

    sandbox.add_fault(FaultRule::on(Operation::CreateWorkspaceKey, Fault::drop_reply()).times(1));
    let failed = providers.mint(&of, "lk1-c").await.err().unwrap();
    assert!(matches!(failed, MintError::UnknownOutcome(_)), "{failed}");
    let refuses = Fault::refuse(Answer::MissingScopes { status: 403 });
    sandbox.add_fault(FaultRule::on(Operation::CreateWorkspaceKey, refuses).times(1));
    assert!(matches!(providers.mint(&of, "lk1-d").await.err().unwrap(), MintError::Refused(_)));
    let wrong = account(&sandbox, sandbox.admin_key(), &workspace);
    assert_eq!(providers.check_account(&wrong).await.unwrap_err().class, ErrorClass::CredentialInvalid);
}

#[tokio::test]
async fn without_consent_no_key_is_made_and_the_way_out_is_told() {
    let t = tenant("mistral-refused", false).await;
    t.minted("small", json!({})).await;
    let key = t.until("small", "it is told", |k| because(k, "Stalled", "UnrecoverableMint")).await;
    let (_, _, message) = find(&key, "Stalled").unwrap();
    for told in ["source.secretRef", "source.pool", "allowUnrecoverableMint"] {
        assert!(message.contains(told), "{message}");
    }
    assert!(t.calls(Operation::CreateWorkspaceKey).is_empty());
    let providers = kube::Api::<LLMProvider>::all(t.client.clone());
    let capabilities = providers.get(&t.provider).await.unwrap().status.unwrap().capabilities;
    assert_eq!(capabilities, ["List", "Validate"]);
}

#[tokio::test]
async fn with_consent_a_key_is_made_and_followed_and_the_stray_of_a_lost_answer_goes() {
    let t = tenant("mistral", true).await;
    let lost = FaultRule::on(Operation::CreateWorkspaceKey, Fault::drop_reply());
    let lost = t.sandbox().add_fault(lost.project(&t.project).times(1));
    t.policy("policy", json!({"overlap": {"minimum": "0s"}})).await;
    t.minted("small", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("small").await;
    assert!(t.sandbox().faults().iter().any(|fault| fault.id == lost && fault.fired == 1));
    let first = t.delivered("small", "MISTRAL_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&first));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1, "the stray is gone");
    t.annotate("small", "llmkeys.dev/rotate", Some("now")).await;
    t.until("small", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    let second = t.delivered("small", "MISTRAL_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));
}

#[tokio::test]
async fn where_nothing_ends_a_key_a_person_does_and_until_then_it_is_not_called_revoked() {
    let t = tenant("mistral-by-hand", true).await;
    t.sandbox().set_settings(Some(&t.project), Settings { deletion_is_missing: true, ..Settings::default() });
    t.policy("policy", json!({"overlap": {"minimum": "0s"}})).await;
    t.minted("small", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("small").await;
    let first = t.delivered("small", "MISTRAL_API_KEY").await.unwrap();
    t.annotate("small", "llmkeys.dev/rotate", Some("now")).await;
    let key = t.until("small", "it is told", |k| because(k, "OverlapActive", "RevokeFailed")).await;
    assert!(is(&key, "Ready", "True"));
    assert_eq!(state(&key, 1).as_deref(), Some("Retiring"));
    assert!(t.sandbox().accepts(&first));
    t.sandbox().withdraw_key(&first);
    t.until("small", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    wait("one key is left", async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(())).await;
}
