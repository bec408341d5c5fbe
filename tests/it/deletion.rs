//! Deletion: nothing hangs, the grace keeps what comes back, and no key stays behind.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use llmkey_operator::api::{FINALIZER, LLMKey};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use serde_json::{Value, json};

use super::stage::{Tenant, because, is, now, state, wait};
use super::workload::version;

fn no_overlap() -> Value {
    json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})
}

/// 12 minutes are 2.4 s here, 10 hours are 2 minutes.
async fn minted(t: &Tenant, grace: &str) {
    t.policy("policy", no_overlap()).await;
    t.minted("chat", json!({"deletionGracePeriod": grace, "rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
}

async fn delete(t: &Tenant) {
    t.delete("chat").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("chat").await.unwrap().is_none().then_some(()))
        .await;
}

async fn no_key_is_left(t: &Tenant) {
    wait("all keys are revoked", async || t.sandbox().live_keys(&t.project).is_empty().then_some(())).await;
}

async fn ledger(t: &Tenant, name: &str) -> Option<Secret> {
    let api: Api<Secret> = Api::namespaced(t.client.clone(), &t.stage.installation.namespace);
    api.get_opt(&ledger_name(&t.namespace, name)).await.unwrap()
}

async fn ledger_goes(t: &Tenant, name: &str) {
    wait("the empty ledger goes", async || ledger(t, name).await.is_none().then_some(())).await;
}

fn current(key: &LLMKey) -> Option<i32> {
    key.status.as_ref()?.current_version
}

#[tokio::test]
async fn a_key_that_comes_back_within_the_grace_goes_on_as_it_was() {
    let t = Tenant::new("comes-back").await;
    minted(&t, "10h").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let before = t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await;
    delete(&t).await;
    let spec = json!({"deletionGracePeriod": "10h", "rotationPolicyRef": {"name": "policy"}});
    t.minted_with("chat", json!({"llmkeys.dev/rotate": "1"}), spec).await;
    let after = t.ready("chat").await;
    assert_ne!(before.uid(), after.uid());
    assert_eq!(current(&after), Some(2));
    assert_eq!(version(&after, 2).provider_key_id, version(&before, 2).provider_key_id);
    assert_eq!(after.status.as_ref().unwrap().last_handled_rotate.as_deref(), Some("1"));
    let back = async || {
        let secret = t.secrets().get_opt("chat").await.unwrap()?;
        let owned = secret.owner_references().iter().any(|owner| Some(&owner.uid) == after.uid().as_ref());
        (owned && secret.metadata.deletion_timestamp.is_none()).then_some(())
    };
    wait("the target is the new LLMKey's", back).await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, value);
    t.settled("chat").await;
    assert_eq!((t.mints(), t.revocations()), (2, 1), "as before the deletion");

    // The collector of garbage must not take the new owner's Secret for the old one's.
    t.annotate("chat", "llmkeys.dev/rotate", Some("2")).await;
    t.until("chat", "version 3", |k| current(k) == Some(3) && is(k, "Ready", "True")).await;
    assert!(t.sandbox().accepts(&t.delivered("chat", "OPENAI_API_KEY").await.unwrap()));
}

#[tokio::test]
async fn a_key_that_comes_back_late_gets_another_key_and_the_next_number() {
    let t = Tenant::new("late").await;
    minted(&t, "12m").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    // The revocation does not get through, so the ledger is still there.
    let outage = Fault::refuse(Answer::Unavailable { retry_after_seconds: None });
    let fault =
        t.sandbox().add_fault(FaultRule::on(Operation::DeleteServiceAccount, outage).project(&t.project));
    delete(&t).await;
    wait("a revocation is tried", async || (t.revocations() > 0).then_some(())).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let key = t.until("chat", "version 2", |k| current(k) == Some(2) && is(k, "Ready", "True")).await;
    assert_eq!(state(&key, 1).as_deref(), Some("Retiring"));
    t.sandbox().remove_fault(fault);
    t.until("chat", "the first is revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    let second = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&second) && !t.sandbox().accepts(&first));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_namespace_goes_at_once_and_its_keys_after_it() {
    let t = Tenant::new("namespace").await;
    minted(&t, "12m").await;
    t.source("other", &t.person_key("one")).await;
    t.supplied("other", json!({})).await;
    t.ready("other").await;
    // The provider is down all the while.
    let fault = t.sandbox().add_fault(FaultRule::on_all(Fault::drop_before()).project(&t.project));
    let begin = now();
    let namespaces: Api<Namespace> = Api::all(t.client.clone());
    namespaces.delete(&t.namespace, &DeleteParams::default()).await.unwrap();
    wait("the namespace is gone", async || {
        namespaces.get_opt(&t.namespace).await.unwrap().is_none().then_some(())
    })
    .await;
    let took = (now() - begin).num_seconds();
    assert!(took < 45, "{took} s");
    let minted = |t: &Tenant| {
        t.sandbox().live_keys(&t.project).iter().filter(|k| k.service_account_id.is_some()).count()
    };
    assert_eq!(minted(&t), 1);
    t.sandbox().remove_fault(fault);
    wait("its key is revoked", async || (minted(&t) == 0).then_some(())).await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1, "the person's key stays");
    ledger_goes(&t, "chat").await;
    ledger_goes(&t, "other").await;
}

#[tokio::test]
async fn retain_leaves_the_key_and_needs_no_finalizer() {
    let t = Tenant::new("retain").await;
    t.minted("chat", json!({"deletionPolicy": "Retain", "deletionGracePeriod": "0s"})).await;
    let key = t.ready("chat").await;
    assert!(key.finalizers().is_empty());
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    delete(&t).await;
    // Its ledger stays: it is all that keeps the key from being nobody's, which a sweep would end.
    let lists = || t.calls(Operation::ListServiceAccounts).len();
    let before = lists();
    wait("many sweeps", async || (lists() >= before + 10).then_some(())).await;
    assert!(ledger(&t, "chat").await.is_some());
    assert!(t.sandbox().accepts(&value));
    assert_eq!(t.revocations(), 0);
}

#[tokio::test]
async fn the_finalizer_follows_the_deletion_policy() {
    let t = Tenant::new("finalizer").await;
    minted(&t, "12m").await;
    assert_eq!(t.get("chat").await.finalizers(), [FINALIZER]);
    t.patch("chat", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    t.until("chat", "no finalizer", |k| k.finalizers().is_empty()).await;
    // Somebody else's is left alone.
    t.patch("chat", json!({"metadata": {"finalizers": ["example.com/theirs"]}})).await;
    t.patch("chat", json!({"spec": {"deletionPolicy": "Revoke"}})).await;
    let both = |k: &LLMKey| k.finalizers().len() == 2;
    t.until("chat", "both finalizers", both).await;
    t.delete("chat").await;
    t.until("chat", "ours is gone", |k| k.finalizers() == ["example.com/theirs"]).await;
    t.patch("chat", json!({"metadata": {"finalizers": []}})).await;
    no_key_is_left(&t).await;
}

#[tokio::test]
async fn a_supplied_key_needs_no_finalizer_and_stays_with_its_owner() {
    let t = Tenant::new("supplied-gone").await;
    let value = t.person_key("one");
    t.source("chat", &value).await;
    t.supplied("chat", json!({})).await;
    assert!(t.ready("chat").await.finalizers().is_empty());
    delete(&t).await;
    // It comes back: the same version goes on.
    t.supplied("chat", json!({})).await;
    let key = t.ready("chat").await;
    assert_eq!(current(&key), Some(1));
    assert!(key.finalizers().is_empty());
    delete(&t).await;
    ledger_goes(&t, "chat").await;
    assert!(t.sandbox().accepts(&value));
    assert_eq!((t.mints(), t.revocations()), (0, 0));
}

#[tokio::test]
async fn a_provider_that_is_down_at_deletion_is_told_later() {
    let t = Tenant::new("down").await;
    minted(&t, "0s").await;
    let outage = Fault::refuse(Answer::Unavailable { retry_after_seconds: None });
    let fault =
        t.sandbox().add_fault(FaultRule::on(Operation::DeleteServiceAccount, outage).project(&t.project));
    delete(&t).await;
    wait("two tries", async || (t.revocations() >= 2).then_some(())).await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
    t.sandbox().remove_fault(fault);
    no_key_is_left(&t).await;
    ledger_goes(&t, "chat").await;
}

#[tokio::test]
async fn a_key_revoked_by_its_spec_is_not_handed_over() {
    let t = Tenant::new("not-handed").await;
    minted(&t, "10h").await;
    t.patch("chat", json!({"spec": {"desiredState": "Revoked"}})).await;
    t.until("chat", "Revoked", |k| because(k, "Ready", "Revoked")).await;
    let gauges = async || {
        let (_, text) = t.operator().get("/metrics").await;
        let about = format!(r#"namespace="{}""#, t.namespace);
        text.lines().filter(|l| l.contains(&about)).map(str::to_owned).collect::<Vec<_>>()
    };
    let left =
        wait("nothing is left to alert on", async || Some(gauges().await).filter(|g| g.len() <= 1)).await;
    assert!(left[0].starts_with("llmkey_key_state{") && left[0].contains(r#"state="Unknown""#), "{left:?}");
    delete(&t).await;
    no_key_is_left(&t).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    assert!(t.sandbox().accepts(&t.delivered("chat", "OPENAI_API_KEY").await.unwrap()));
    assert_eq!(t.mints(), 2);
}
