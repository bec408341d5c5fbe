//! What goes wrong at the provider while keys are made and revoked: no key is lost, none is left, none dies early.

use std::collections::BTreeSet;

use llmkey_operator::api::LLMKey;
use llmkey_operator::sandbox::{
    Answer, Effect, Fault, FaultRule, KeyDelete, KeyRecord, KeyState, Operation, Phase, Settings,
};
use serde_json::json;

use super::stage::{Tenant, because, is, state, wait};
use super::workload::{Workload, client, version};

fn strikes(t: &Tenant, operation: Operation, fault: Fault, times: u32) -> u64 {
    t.sandbox().add_fault(FaultRule::on(operation, fault).project(&t.project).times(times))
}

fn has_struck(t: &Tenant, id: u64) -> bool {
    t.sandbox().faults().iter().any(|report| report.id == id && report.fired > 0)
}

async fn tenant(prefix: &str) -> Tenant {
    let t = Tenant::new(prefix).await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t
}

async fn mint(t: &Tenant) {
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
}

async fn rotate(t: &Tenant, token: &str) {
    t.annotate("chat", "llmkeys.dev/rotate", Some(token)).await;
}

fn at(number: i32, wanted: &'static str) -> impl Fn(&LLMKey) -> bool {
    move |key| state(key, number).as_deref() == Some(wanted)
}

/// The operator's keys in the project.
fn made(t: &Tenant) -> Vec<KeyRecord> {
    let mut keys = t.sandbox().live_keys(&t.project);
    keys.retain(|key| key.service_account_name.as_ref().is_some_and(|name| name.starts_with("lk1-")));
    keys
}

/// In the end there is one key, the delivered one, and each call to make one had a name of its own.
async fn one_key_is_left(t: &Tenant) {
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value));
    wait("one key is left", async || (made(t).len() == 1).then_some(())).await;
    let key = t.settled("chat").await;
    let current = key.status.as_ref().unwrap().current_version.unwrap();
    let live = made(t).remove(0);
    assert!(version(&key, current).provider_key_id.unwrap().contains(&live.id));
    assert!(t.sandbox().accepts(&value) && is(&key, "Ready", "True"));
    let names: Vec<_> = t.calls(Operation::CreateServiceAccount).into_iter().filter_map(|e| e.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

/// The fault strikes the first mint, and the mint of a rotation.
async fn a_mint_survives(prefix: &str, fault: Fault) {
    let t = tenant(prefix).await;
    let first = strikes(&t, Operation::CreateServiceAccount, fault.clone(), 1);
    mint(&t).await;
    t.ready("chat").await;
    assert!(has_struck(&t, first));
    one_key_is_left(&t).await;

    let workload = Workload::of_secret(&t, "chat");
    workload.goes_on(1).await;
    let second = strikes(&t, Operation::CreateServiceAccount, fault, 1);
    rotate(&t, "1").await;
    t.until("chat", "version 2", at(2, "Current")).await;
    assert!(has_struck(&t, second));
    t.until("chat", "the first is revoked", at(1, "Revoked")).await;
    one_key_is_left(&t).await;
    assert_eq!(t.get("chat").await.status.unwrap().versions.len(), 2, "no version was given up");
}

#[tokio::test]
async fn a_mint_whose_reply_is_lost() {
    a_mint_survives("mint-lost", Fault::drop_reply()).await;
}

#[tokio::test]
async fn a_mint_that_does_not_arrive() {
    a_mint_survives("mint-drop", Fault::drop_before()).await;
}

#[tokio::test]
async fn a_mint_answered_500_after_its_effect() {
    a_mint_survives("mint-500", Fault::after_effect(Answer::InternalError)).await;
}

#[tokio::test]
async fn a_mint_that_is_throttled() {
    a_mint_survives("mint-429", Fault::refuse(Answer::RateLimited { retry_after_seconds: Some(1) })).await;
}

#[tokio::test]
async fn a_mint_whose_body_is_cut() {
    a_mint_survives("mint-cut", Fault::after_effect(Answer::CutBody)).await;
}

#[tokio::test]
async fn a_mint_whose_json_ends_in_the_middle() {
    a_mint_survives("mint-half", Fault::after_effect(Answer::HalfBody)).await;
}

#[tokio::test]
async fn a_mint_answered_by_a_proxys_page() {
    a_mint_survives("mint-html", Fault::after_effect(Answer::Html { status: 502 })).await;
}

/// The provider goes on after the client has given up: the key comes into being later.
#[tokio::test]
async fn a_mint_that_is_slower_than_the_client_waits() {
    let t = tenant("mint-slow").await;
    let fault = strikes(&t, Operation::CreateServiceAccount, Fault::slow(11_000), 1);
    mint(&t).await;
    t.ready("chat").await;
    assert!(has_struck(&t, fault));
    one_key_is_left(&t).await;
}

#[tokio::test]
async fn mints_fail_often_and_one_key_is_left() {
    let t = tenant("mint-often").await;
    let faults = [Fault::drop_reply(), Fault::after_effect(Answer::InternalError), Fault::drop_before()];
    for fault in faults {
        strikes(&t, Operation::CreateServiceAccount, fault, 2);
    }
    strikes(&t, Operation::ListServiceAccounts, Fault::refuse(Answer::InternalError), 1);
    strikes(&t, Operation::DeleteServiceAccount, Fault::drop_reply(), 1);
    mint(&t).await;
    t.ready("chat").await;
    one_key_is_left(&t).await;
}

/// A key that was made and is not listed yet is found all the same.
#[tokio::test]
async fn a_lost_mint_that_is_listed_late() {
    let t = tenant("list-lag").await;
    let lag = Settings { list_lag_millis: 1000, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), lag);
    strikes(&t, Operation::CreateServiceAccount, Fault::drop_reply(), 1);
    mint(&t).await;
    t.ready("chat").await;
    one_key_is_left(&t).await;
}

#[tokio::test]
async fn strays_behind_small_pages_are_found_and_others_accounts_left_alone() {
    let t = tenant("pages").await;
    let url = format!("{}/organization/projects/{}/service_accounts", t.sandbox().base_url(), t.project);
    for name in ["theirs", "lk1-theirs", "mine"] {
        let request = client(t.sandbox()).post(&url).bearer_auth(t.sandbox().admin_key());
        assert!(request.json(&json!({"name": name})).send().await.unwrap().status().is_success());
    }
    t.sandbox().set_settings(Some(&t.project), Settings { max_page_size: 1, ..Settings::default() });
    strikes(&t, Operation::CreateServiceAccount, Fault::drop_reply(), 2);
    mint(&t).await;
    t.ready("chat").await;
    rotate(&t, "1").await;
    t.until("chat", "the first is revoked", at(1, "Revoked")).await;
    wait("no stray is left", async || (made(&t).len() == 2).then_some(())).await;
    assert!(t.calls(Operation::ListServiceAccounts).len() >= 8);
    let live: Vec<_> =
        t.sandbox().live_keys(&t.project).into_iter().filter_map(|k| k.service_account_name).collect();
    assert_eq!(live[..3], ["theirs", "lk1-theirs", "mine"]);
    assert_eq!(live.len(), 4);
}

/// The fault strikes the revocation of the first version's key.
async fn a_revocation_survives(prefix: &str, operation: Operation, fault: Fault, times: u32) {
    let t = tenant(prefix).await;
    mint(&t).await;
    t.ready("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    let id = strikes(&t, operation, fault, times);
    rotate(&t, "1").await;
    let key = t.until("chat", "the first is revoked", at(1, "Revoked")).await;
    assert!(has_struck(&t, id));
    assert!(!t.sandbox().accepts(&first) && is(&key, "Ready", "True"));
    one_key_is_left(&t).await;
    assert_eq!(t.mints(), 2);
}

#[tokio::test]
async fn a_revocation_whose_reply_is_lost() {
    a_revocation_survives("revoke-lost", Operation::DeleteServiceAccount, Fault::drop_reply(), 1).await;
}

#[tokio::test]
async fn a_revocation_that_does_not_arrive() {
    a_revocation_survives("revoke-drop", Operation::DeleteServiceAccount, Fault::drop_before(), 2).await;
}

#[tokio::test]
async fn a_revocation_answered_by_a_proxys_404_is_not_believed() {
    let fault = Fault { phase: Phase::Before, delay_millis: 0, answer: Answer::Html { status: 404 } };
    a_revocation_survives("revoke-404", Operation::DeleteServiceAccount, fault, 2).await;
}

#[tokio::test]
async fn a_revocation_that_is_throttled() {
    let fault = Fault::refuse(Answer::RateLimited { retry_after_seconds: None });
    a_revocation_survives("revoke-429", Operation::DeleteServiceAccount, fault, 2).await;
}

#[tokio::test]
async fn a_revocation_that_cannot_be_confirmed_at_once() {
    let fault = Fault::refuse(Answer::InternalError);
    a_revocation_survives("confirm", Operation::ListServiceAccounts, fault, 2).await;
}

#[tokio::test]
async fn a_revoked_key_that_still_works_is_retiring_until_it_does_not() {
    let t = tenant("lingers").await;
    mint(&t).await;
    t.ready("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    let lag = Settings { deleted_key_lag_millis: 4000, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), lag);
    rotate(&t, "1").await;
    let lingers = || t.sandbox().keys(&t.project)[0].state == KeyState::Lingering;
    let key = t
        .until("chat", "Retiring", |k| at(1, "Retiring")(k) && because(k, "OverlapActive", "Revoking"))
        .await;
    assert!(is(&key, "Ready", "True"));
    wait("the key is deleted", async || lingers().then_some(())).await;
    let accepted = || t.calls(Operation::ListModels).iter().filter(|e| e.effect == Effect::Committed).count();
    let before = accepted();
    wait("two looks at it", async || (accepted() >= before + 2).then_some(())).await;
    if lingers() {
        assert!(at(1, "Retiring")(&t.get("chat").await));
    }
    t.until("chat", "Revoked", at(1, "Revoked")).await;
    assert!(!t.sandbox().accepts(&first));
    one_key_is_left(&t).await;
}

#[tokio::test]
async fn a_revoked_key_that_is_still_listed_is_retiring() {
    let t = tenant("listed").await;
    mint(&t).await;
    t.ready("chat").await;
    t.sandbox().set_settings(Some(&t.project), Settings { unlist_lag_millis: 2500, ..Settings::default() });
    rotate(&t, "1").await;
    t.until("chat", "Revoked", at(1, "Revoked")).await;
    let deleted = t.sandbox().keys(&t.project)[0].deleted_at.unwrap();
    let last = t.calls(Operation::ListServiceAccounts).pop().unwrap().time;
    assert!((last - deleted).num_milliseconds() >= 2500);
    one_key_is_left(&t).await;
}

#[tokio::test]
async fn the_older_behaviour_of_deleting_keys_makes_no_difference() {
    let t = tenant("older").await;
    let older = Settings { service_account_key_delete: KeyDelete::Refused, ..Settings::default() };
    t.sandbox().set_settings(Some(&t.project), older);
    mint(&t).await;
    t.ready("chat").await;
    rotate(&t, "1").await;
    t.until("chat", "Revoked", at(1, "Revoked")).await;
    one_key_is_left(&t).await;
    t.delete("chat").await;
}
