//! Keys at Anthropic, which people make: the client against the sandbox, and the life of supplied keys whose ids its Admin API tells.

use std::sync::Arc;

use chrono::DateTime;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::domain::health::Verdict;
use llmkey_operator::provider::{
    Account, ErrorClass, NoMatch, ProviderKeyId, Providers, ProvidersConfig, Revocation,
};
use llmkey_operator::sandbox::{
    Answer, Effect, Fault, FaultRule, KeyUse, Operation, OwnerAccess, Sandbox, SandboxOptions, Settings,
};
use serde_json::json;

use super::consumers::{pod, remove_pod, using};
use super::openrouter::switched_off_and_on;
use super::provider::account_at;
use super::stage::{Tenant, because, find, is, state};
use super::workload::version;

/// A namespace with a workspace.
pub(crate) async fn tenant(prefix: &str, ends: bool) -> Tenant {
    let t = Tenant::new(prefix).await;
    let workspace = t.sandbox().create_console_workspace(&t.namespace);
    let spec = json!({
        "type": "Anthropic", "baseURL": t.sandbox().url_of("anthropic"), "openAI": null,
        "anthropic": {"workspace": workspace, "endSuppliedKeys": ends},
    });
    let credential = t.sandbox().console_key();
    t.moved(workspace, credential, spec).await
}

/// A key as the console makes it: `head` is what the hint shows of its beginning.
fn value(head: &str, tail: &str) -> String {
    format!("sk-ant-api03-{head}-0123456789abcdef0123456789-{tail}")
}

/// A key that a person makes in the tenant's workspace: its value and its id.
pub(crate) fn person_key(t: &Tenant, name: &str) -> (String, String) {
    let value = value(&format!("{name}-{}", t.namespace), "igAA");
    let id = t.sandbox().register_key(&value, &t.project, name, OwnerAccess::Active).unwrap();
    (value, id)
}

struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
    workspace: String,
}

impl Rig {
    fn make(&self, value: &str) -> ProviderKeyId {
        let id =
            self.sandbox.register_key(value, &self.workspace, "a person's", OwnerAccess::Active).unwrap();
        ProviderKeyId::parse(&id).unwrap()
    }
}

async fn rig() -> Rig {
    let clock = Arc::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap());
    let sandbox = Sandbox::start(SandboxOptions::new(clock)).await.unwrap();
    let workspace = sandbox.create_console_workspace("team");
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let url = sandbox.url_of("anthropic");
    let account = account_at(&sandbox, "Anthropic", &url, sandbox.console_key(), &workspace);
    Rig { sandbox, providers, account, workspace }
}

#[tokio::test]
async fn a_key_is_told_by_its_hint_only_if_no_other_one_looks_like_it() {
    let rig = rig().await;
    let Rig { sandbox, providers, account, workspace } = &rig;
    assert_eq!(providers.check_account(account).await, Ok(()));
    let ids: Vec<ProviderKeyId> = (0..5).map(|n| rig.make(&value(&format!("R{n}D"), "igAA"))).collect();
    let find = async |value: &str| providers.find(account, &value.into()).await.unwrap();
    for max_page_size in [1, 2, 100] {
        sandbox.set_settings(Some(workspace), Settings { max_page_size, ..Settings::default() });
        assert_eq!(find(&value("R3D", "igAA")).await.as_ref(), Ok(&ids[3]));
        assert_eq!(find(&value("R9D", "igAA")).await, Err(NoMatch::Nothing));
    }
    let twin = rig.make("sk-ant-api03-R3D-another-key-with-both-ends-the-same-igAA");
    assert_eq!(find(&value("R3D", "igAA")).await, Err(NoMatch::Several));
    assert_eq!(providers.revoke(account, &twin).await, Ok(Revocation::Revoked));
    assert_eq!(find(&value("R3D", "igAA")).await, Err(NoMatch::Several), "it is switched off, and there");
    // The same ends in another workspace are another team's.
    let other = sandbox.create_console_workspace("other");
    sandbox.register_key(&value("R4D", "other-igAA"), &other, "n", OwnerAccess::Active).unwrap();
    assert_eq!(find(&value("R4D", "igAA")).await.as_ref(), Ok(&ids[4]));
    sandbox
        .add_fault(FaultRule::on(Operation::ListConsoleKeys, Fault::refuse(Answer::InternalError)).skip(1));
    sandbox.set_settings(Some(workspace), Settings { max_page_size: 2, ..Settings::default() });
    let failed = providers.find(account, &value("R4D", "igAA").as_str().into()).await;
    assert_eq!(failed.unwrap_err().class, ErrorClass::Server, "a part of the list tells nothing");
}

#[tokio::test]
async fn a_key_is_switched_off_and_on_and_ended_in_two_steps_that_can_be_repeated() {
    let rig = rig().await;
    let Rig { sandbox, providers, account, workspace } = &rig;
    let key = value("R2D", "igAA");
    let id = rig.make(&key);
    let verdict = async || providers.validate(account.endpoint(), &key.as_str().into()).await.verdict;
    assert_eq!(verdict().await, Verdict::Valid);
    for (on, seen) in [(false, Verdict::Rejected), (false, Verdict::Rejected), (true, Verdict::Valid)] {
        assert_eq!(providers.switch(account, &id, on).await, Ok(()));
        assert_eq!(verdict().await, seen);
    }
    let lost = || FaultRule::on(Operation::UpdateConsoleKey, Fault::drop_reply()).times(1);
    sandbox.add_fault(lost());
    assert!(providers.revoke(account, &id).await.is_err());
    assert_eq!(providers.revoke(account, &id).await, Ok(Revocation::Revoked));
    assert_eq!(verdict().await, Verdict::Rejected);
    assert_eq!(providers.exists(account, &id).await, Ok(Some(false)));
    assert!(providers.list(account).await.unwrap().is_empty(), "what does not work is not listed as a key");
    // So far it can be taken back.
    assert_eq!(providers.switch(account, &id, true).await, Ok(()));
    assert_eq!(providers.revoke(account, &id).await, Ok(Revocation::Revoked));
    sandbox.add_fault(lost());
    assert!(providers.close(account, &id).await.is_err());
    for _ in 0..2 {
        assert_eq!(providers.close(account, &id).await, Ok(()));
        assert_eq!(providers.revoke(account, &id).await, Ok(Revocation::AlreadyGone));
    }
    assert_eq!(providers.switch(account, &id, true).await.unwrap_err().class, ErrorClass::BadRequest);

    let absent = ProviderKeyId::parse("apikey_absent").unwrap();
    assert_eq!(providers.revoke(account, &absent).await, Ok(Revocation::AlreadyGone));
    let url = sandbox.url_of("anthropic");
    let wrong = account_at(sandbox, "Anthropic", &url, "sk-ant-admin01-0123456789", workspace);
    assert_eq!(providers.check_account(&wrong).await.unwrap_err().class, ErrorClass::CredentialInvalid);
    let nowhere = account_at(sandbox, "Anthropic", &url, sandbox.console_key(), "wrkspc_absent");
    assert_eq!(providers.check_account(&nowhere).await.unwrap_err().class, ErrorClass::NotFound);
}

async fn supply(t: &Tenant, name: &str, value: &str) {
    let next = json!({"stringData": {"key": value}});
    let secrets: kube::Api<Secret> = t.secrets();
    secrets.patch(&format!("{name}-source"), &PatchParams::default(), &Patch::Merge(next)).await.unwrap();
}

fn id_of(key: &LLMKey, number: i32) -> Option<String> {
    version(key, number).provider_key_id.clone()
}

#[tokio::test]
async fn a_supplied_key_is_matched_switched_counted_and_ended_on_evidence_after_the_next() {
    let t = tenant("anthropic", true).await;
    let lags = Settings { max_page_size: 1, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), lags);
    let (first, first_id) = person_key(&t, "one");
    let (_, bystander) = person_key(&t, "two");
    let lost = FaultRule::on(Operation::ListConsoleKeys, Fault::drop_reply());
    t.sandbox().add_fault(lost.project(&t.project).times(1));
    t.policy("policy", json!({"overlap": {"minimum": "10m", "evidence": {"quietFor": "1h"}}})).await;
    t.source("claude", &first).await;
    t.supplied("claude", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("claude").await;
    assert_eq!(t.delivered("claude", "ANTHROPIC_API_KEY").await.as_deref(), Some(first.as_str()));
    let key = t.until("claude", "its id", |k| id_of(k, 1).as_deref() == Some(&first_id)).await;
    assert!(is(&key, "Ready", "True"));

    switched_off_and_on(&t, "claude", Operation::UpdateConsoleKey, &first).await;

    let used = KeyUse { requests: 3, input_tokens: 500, output_tokens: 70, ..KeyUse::default() };
    assert!(t.sandbox().note_use(&t.project, &first_id, used));
    let tokens = |k: &LLMKey| {
        let total = k.status.as_ref()?.usage.as_ref()?.total.as_ref()?;
        Some((total.requests, total.input_tokens?, total.output_tokens?))
    };
    t.until("claude", "its tokens", |k| tokens(k) == Some((None, 500, 70))).await;

    // No node runs: the pod keeps the key that it was made with.
    pod(&t, json!({}), using(&["claude"])).await;
    let (second, second_id) = person_key(&t, "three");
    supply(&t, "claude", &second).await;
    t.until("claude", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    t.until("claude", "the pod holds the first", |k| because(k, "OverlapActive", "WaitingForConsumers"))
        .await;
    assert!(t.sandbox().accepts(&first), "both work during the overlap");
    let ends = |entry: &&llmkey_operator::sandbox::LogEntry| {
        entry.operation == Operation::UpdateConsoleKey && entry.effect == Effect::Committed
    };
    let before = t.sandbox().log_of(&t.project).iter().filter(ends).count();
    let lost = FaultRule::on(Operation::UpdateConsoleKey, Fault::drop_reply());
    t.sandbox().add_fault(lost.project(&t.project).times(3));
    remove_pod(&t).await;
    let key = t.until("claude", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(version(&key, 1).revocation_basis.as_deref(), Some("MinimumElapsed"));
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));
    let live: Vec<String> = t.sandbox().live_keys(&t.project).into_iter().map(|key| key.id).collect();
    assert_eq!(live, [bystander, second_id.clone()], "archived, and nothing else");
    let log = t.sandbox().log_of(&t.project);
    let ended: Vec<_> = log.iter().filter(ends).skip(before).collect();
    assert!(ended.iter().all(|entry| entry.object_id.as_deref() == Some(&first_id)), "{ended:?}");
    assert_eq!(id_of(&key, 2).as_deref(), Some(second_id.as_str()));
}

#[tokio::test]
async fn without_consent_or_a_hint_of_its_own_an_older_key_stays() {
    let t = tenant("anthropic-kept", false).await;
    let (first, _) = person_key(&t, "one");
    t.policy("policy", json!({"overlap": {"minimum": "0s"}})).await;
    t.source("kept", &first).await;
    t.supplied("kept", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.until("kept", "its id", |k| state(k, 1).is_some() && id_of(k, 1).is_some()).await;
    // Two keys whose hints are the same: which one it is, is not known.
    let twins = [value("two-alike", "igAA"), value("two-alike", "and-more-igAA")];
    for twin in &twins {
        t.sandbox().register_key(twin, &t.project, "twin", OwnerAccess::Active).unwrap();
    }
    supply(&t, "kept", &twins[0]).await;
    t.until("kept", "version 2", |k| state(k, 2).as_deref() == Some("Current")).await;
    t.until("kept", "version 1", |k| state(k, 1).as_deref() == Some("Retained")).await;
    t.patch("kept", json!({"spec": {"desiredState": "Disabled"}})).await;
    let key = t.until("kept", "it is told", |k| because(k, "Stalled", "NotMatched")).await;
    assert!(find(&key, "Stalled").unwrap().2.contains("more than one key"), "{key:?}");
    assert_eq!(id_of(&key, 2), None);
    assert!(t.sandbox().accepts(&twins[0]) && t.sandbox().accepts(&first));
    assert!(t.calls(Operation::UpdateConsoleKey).is_empty());
}

#[tokio::test]
async fn keys_are_not_made_at_anthropic() {
    let t = tenant("anthropic-mint", true).await;
    t.minted("made", json!({})).await;
    let key = t.until("made", "it is told", |k| because(k, "Stalled", "NotSupported")).await;
    assert!(find(&key, "Stalled").unwrap().2.contains("source.pool"));
}
