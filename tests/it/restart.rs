//! The operator ends, or another takes over, at the worst moments; and what people change behind its back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use llmkey_operator::api::{LLMKey, RotationPolicy};
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use serde_json::{Value, json};

use super::bad_input::ABOUT_THE_ACCOUNT;
use super::stage::{DIVISOR, Operator, Stage, Tenant, empty_stage, is, now, state, wait};
use super::workload::{Workload, version};

pub(crate) fn start(stage: &Stage) -> Operator {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("operator-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Operator::start(stage.cluster, &stage.installation, &name, DIVISOR, "debug")
}

pub(crate) async fn says(operator: &Operator, line: &str) -> bool {
    operator.get("/metrics").await.1.lines().any(|l| l == line)
}

pub(crate) async fn leads(operator: &Operator) {
    wait("the operator leads", async || says(operator, "llmkey_leader 1").await.then_some(())).await;
    operator.ready().await;
}

/// kill -9, and its Lease is taken away so that the next one need not wait for the end of it.
pub(crate) async fn kill(stage: &Stage, operator: Operator) {
    drop(operator);
    let leases: Api<Lease> = Api::namespaced(stage.cluster.admin().unwrap(), &stage.installation.namespace);
    leases.delete(&stage.installation.name, &DeleteParams::default()).await.unwrap();
}

async fn ended(operator: &mut Operator) -> std::process::ExitStatus {
    wait("the operator ends", async || operator.exited()).await
}

async fn tenant(stage: &'static Stage, prefix: &str) -> Tenant {
    let t = Tenant::on(stage, prefix).await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    t
}

async fn mint(t: &Tenant) {
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}, "deletionGracePeriod": "0s"})).await;
}

async fn rotate(t: &Tenant, token: &str) {
    t.annotate("chat", "llmkeys.dev/rotate", Some(token)).await;
}

fn at(number: i32, wanted: &'static str) -> impl Fn(&LLMKey) -> bool {
    move |key| state(key, number).as_deref() == Some(wanted)
}

async fn one_key_is_left(t: &Tenant) {
    wait("one key is left", async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(())).await;
    let key = t.ready("chat").await;
    let live = t.sandbox().live_keys(&t.project).remove(0);
    let current = key.status.as_ref().unwrap().current_version.unwrap();
    assert!(version(&key, current).provider_key_id.unwrap().contains(&live.id));
    assert!(t.sandbox().accepts(&t.delivered("chat", "OPENAI_API_KEY").await.unwrap()));
    let names: Vec<_> = t.calls(Operation::CreateServiceAccount).into_iter().filter_map(|e| e.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

/// Calls of the operation hang in this project until the fault is removed.
fn hang(t: &Tenant, operation: Operation, after: bool) -> u64 {
    let fault = if after { Fault::after_effect(Answer::Hang) } else { Fault::refuse(Answer::Hang) };
    t.sandbox().add_fault(FaultRule::on(operation, fault).project(&t.project))
}

async fn all_struck(stage: &Stage, faults: &[u64]) {
    for fault in faults {
        let report = || stage.sandbox.faults().into_iter().find(|report| report.id == *fault);
        wait(&format!("{:?} is struck", report()), async || report().filter(|r| r.fired > 0).map(drop)).await;
    }
}

/// Where the operator is killed: while this call hangs, after its effect or before.
const POINTS: [(&str, Operation, bool); 6] = [
    ("mint-after", Operation::CreateServiceAccount, true),
    ("mint-before", Operation::CreateServiceAccount, false),
    ("check", Operation::ListModels, false),
    ("revoke-after", Operation::DeleteServiceAccount, true),
    ("revoke-before", Operation::DeleteServiceAccount, false),
    ("confirm", Operation::ListServiceAccounts, false),
];

#[tokio::test]
async fn killed_at_any_call_it_goes_on_and_loses_no_key() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let mut cases = Vec::new();
    let mut faults = Vec::new();
    for (name, operation, after) in POINTS {
        if !name.starts_with("revoke") && name != "confirm" {
            let t = tenant(stage, &format!("first-{name}")).await;
            faults.push(hang(&t, operation, after));
            mint(&t).await;
            cases.push((t, 1, operation));
        }
        let t = tenant(stage, &format!("next-{name}")).await;
        mint(&t).await;
        cases.push((t, 2, operation));
    }
    for ((t, versions, operation), after) in
        cases.iter().zip(cases.iter().map(|(t, ..)| t.namespace.contains("-after")))
    {
        if *versions == 2 {
            t.ready("chat").await;
            faults.push(hang(t, *operation, after));
            rotate(t, "1").await;
        }
    }
    all_struck(stage, &faults).await;
    // The sweep lists as well, and hangs: one of two lists is the LLMKey's.
    let lists = || stage.sandbox.faults().into_iter().find(|report| Some(&report.id) == faults.last());
    wait("the list is struck twice", async || lists().filter(|report| report.fired > 1).map(drop)).await;
    kill(stage, operator).await;
    for fault in &faults {
        assert!(stage.sandbox.remove_fault(*fault));
    }

    let operator = start(stage);
    for (t, versions, operation) in &cases {
        let context = &t.namespace;
        let key = t.until("chat", context, at(*versions, "Current")).await;
        if *versions == 2 {
            t.until("chat", context, at(1, "Revoked")).await;
        }
        one_key_is_left(t).await;
        assert_eq!(key.status.unwrap().versions.len(), usize::try_from(*versions).unwrap(), "{context}");
        if *operation != Operation::CreateServiceAccount {
            assert_eq!(t.mints(), usize::try_from(*versions).unwrap(), "{context}: the sealed key is used");
        }
    }

    // The same for a key whose LLMKey is gone.
    let t = &cases[0].0;
    let fault = hang(t, Operation::DeleteServiceAccount, false);
    t.delete("chat").await;
    all_struck(stage, &[fault]).await;
    kill(stage, operator).await;
    stage.sandbox.remove_fault(fault);
    let _operator = start(stage);
    wait("no key is left", async || t.sandbox().live_keys(&t.project).is_empty().then_some(())).await;
}

/// What the operator asked the API server for about this tenant, from an index of the audit log on.
pub(crate) fn requests(t: &Tenant, names: &[String], from: usize) -> Vec<String> {
    let ledgers: BTreeSet<String> = names.iter().map(|name| ledger_name(&t.namespace, name)).collect();
    let installation = &t.stage.installation;
    let account =
        format!("system:serviceaccount:{}:{}", installation.namespace, installation.service_account);
    let events = t.stage.cluster.audit_events().unwrap();
    let about = |event: &Value| {
        let object = &event["objectRef"];
        object["namespace"] == *t.namespace || object["name"].as_str().is_some_and(|n| ledgers.contains(n))
    };
    let text = |event: &Value| format!("{} {}", event["verb"], event["requestURI"]);
    events[from..].iter().filter(|e| e["user"]["username"] == *account && about(e)).map(text).collect()
}

#[tokio::test]
async fn a_restart_writes_nothing_and_reads_no_key() {
    let (_alone, stage) = empty_stage().await;
    let mut operator = start(stage);
    let t = tenant(stage, "restart").await;
    let seldom = json!({
        "validation": {"interval": "168h"}, "rotationPolicyRef": {"name": "policy"},
    });
    let mut names = Vec::new();
    for number in 0..10 {
        let name = format!("chat-{number}");
        t.source(&name, &t.person_key(&number.to_string())).await;
        t.supplied(&name, seldom.clone()).await;
        names.push(name);
        let name = format!("minted-{number}");
        t.minted(&name, seldom.clone()).await;
        names.push(name);
    }
    for name in &names {
        t.ready(name).await;
    }
    let policies: Api<RotationPolicy> = Api::namespaced(t.client.clone(), &t.namespace);
    wait("the policy's status counts all keys, and none on its way", async || {
        let told = policies.get("policy").await.unwrap().status.unwrap_or_default();
        (told.keys == Some(20) && told.in_flight.unwrap_or_default() == 0).then_some(())
    })
    .await;
    operator.signal("TERM");
    assert!(ended(&mut operator).await.success());
    let from = stage.cluster.audit_events().unwrap().len();
    let calls = t.sandbox().log_of(&t.project).len();

    let operator = start(stage);
    leads(&operator).await;
    wait("every key was looked at", async || {
        let metrics = operator.get("/metrics").await.1;
        let passes =
            metrics.lines().filter(|l| l.starts_with("llmkey_reconcile_total{controller=\"llm_key\""));
        let count: usize = passes.filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        (count >= names.len()).then_some(())
    })
    .await;
    assert_eq!(requests(&t, &names, from), Vec::<String>::new());
    let since = t.sandbox().log_of(&t.project).split_off(calls);
    let about_keys: Vec<_> =
        since.iter().filter(|entry| !ABOUT_THE_ACCOUNT.contains(&entry.operation)).collect();
    assert!(about_keys.is_empty(), "{about_keys:?}");
}

#[tokio::test]
async fn a_check_of_a_delivered_key_reads_its_ledger_alone() {
    let t = Tenant::new("check").await;
    let often = json!({"validation": {"interval": "1m"}});
    t.source("supplied", &t.person_key("1")).await;
    t.supplied("supplied", often.clone()).await;
    t.minted("minted", often).await;
    let names = ["supplied".to_owned(), "minted".to_owned()];
    for name in &names {
        t.ready(name).await;
    }
    let checked_again = async || {
        let since = t.calls(Operation::ListModels).len();
        wait("the keys were checked again", async || {
            (t.calls(Operation::ListModels).len() >= since + 6).then_some(())
        })
        .await;
    };
    // By then the watches have shown all that was written.
    checked_again().await;
    let from = t.stage.cluster.audit_events().unwrap().len();
    checked_again().await;
    let namespace = &t.stage.installation.namespace;
    let ledger = |name: &String| {
        let ledger = ledger_name(&t.namespace, name);
        format!("\"get\" \"/api/v1/namespaces/{namespace}/secrets/{ledger}\"")
    };
    let allowed = names.each_ref().map(ledger);
    let requests = requests(&t, &names, from);
    assert!(requests.len() >= 4, "{requests:?}");
    assert!(requests.iter().all(|request| allowed.contains(request)), "{requests:?}");
}

#[tokio::test]
async fn of_two_replicas_one_works_and_the_other_takes_over() {
    let (_alone, stage) = empty_stage().await;
    let t = tenant(stage, "replicas").await;
    let mut first = start(stage);
    leads(&first).await;
    let mut second = start(stage);
    second.ready().await;
    mint(&t).await;
    t.ready("chat").await;
    assert!(says(&second, "llmkey_leader 0").await);
    assert!(!second.get("/metrics").await.1.contains("\nllmkey_reconcile_total{"));

    // An orderly end hands over at once.
    let begin = now();
    first.signal("TERM");
    assert!(ended(&mut first).await.success());
    leads(&second).await;
    let took = (now() - begin).num_seconds();
    assert!(took < 12, "{took} s, as long as a Lease that runs out");

    // Stopped in the middle of a mint for longer than its Lease lasts; the provider answers meanwhile.
    let third = start(stage);
    third.ready().await;
    let workload = Workload::of_secret(&t, "chat");
    let slow = FaultRule::on(Operation::CreateServiceAccount, Fault::slow(2000)).project(&t.project).times(1);
    let fault = t.sandbox().add_fault(slow);
    rotate(&t, "1").await;
    all_struck(stage, &[fault]).await;
    second.signal("STOP");
    leads(&third).await;
    t.until("chat", "version 2", at(2, "Current")).await;
    second.signal("CONT");
    assert!(!ended(&mut second).await.success(), "what was not the leader any more ends with an error");
    let key = t.until("chat", "the first is revoked", at(1, "Revoked")).await;
    one_key_is_left(&t).await;
    assert_eq!(key.status.unwrap().versions.len(), 2);
    assert!(t.mints() >= 2);
    let answers = workload.answers();
    assert!(answers.refused.is_empty(), "{answers:?}");
}

#[tokio::test]
async fn a_lost_status_is_rebuilt_from_the_ledger() {
    let t = Tenant::new("status").await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    let often = json!({"validation": {"interval": "1m"}, "rotationPolicyRef": {"name": "policy"}});
    t.minted("chat", often).await;
    t.ready("chat").await;
    rotate(&t, "1").await;
    let before = t.until("chat", "rotated", at(1, "Revoked")).await;
    t.keys()
        .patch_status("chat", &PatchParams::default(), &Patch::Merge(json!({"status": null})))
        .await
        .unwrap();
    let rebuilt = |k: &LLMKey| at(1, "Revoked")(k) && is(k, "Ready", "True");
    let after = t.until("chat", "the status is back", rebuilt).await;
    let (before, after) = (before.status.unwrap(), after.status.unwrap());
    assert_eq!((&after.versions, after.current_version), (&before.versions, Some(2)));
    assert_eq!(after.last_handled_rotate, before.last_handled_rotate);
    assert_eq!((t.mints(), t.revocations()), (2, 1));
}

#[tokio::test]
async fn a_target_changed_by_hand_is_put_right() {
    let t = Tenant::new("target").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    let good = t.secrets().get("chat").await.unwrap();
    let right = async |what: &str| {
        wait(what, async || {
            let found = t.secrets().get_opt("chat").await.unwrap()?;
            let same = found.data == good.data && found.metadata.labels == good.metadata.labels;
            (same && found.metadata.owner_references == good.metadata.owner_references).then_some(())
        })
        .await;
    };
    let change = async |patch: Value| {
        t.secrets().patch("chat", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    change(json!({"data": {"OPENAI_API_KEY": "d3Jvbmc="}})).await;
    right("another value is put right").await;
    change(json!({"data": {"OPENAI_API_KEY": null, "OTHER": "b3RoZXI="}})).await;
    right("a lost and an extra entry are put right").await;
    change(json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}})).await;
    right("a lost label is put right").await;
    t.secrets().delete("chat", &DeleteParams::default()).await.unwrap();
    right("a deleted Secret comes back").await;
    let key = t.settled("chat").await;
    assert!(is(&key, "Ready", "True") && at(1, "Current")(&key));
    assert_eq!(t.mints(), 1);
    let ledgers: Api<Secret> = Api::namespaced(t.client.clone(), &t.stage.installation.namespace);
    let ledger = ledgers.get(&ledger_name(&t.namespace, "chat")).await.unwrap();
    let key = good.data.unwrap().remove("OPENAI_API_KEY").unwrap();
    let holds = |ByteString(bytes): &ByteString| bytes.windows(key.0.len()).any(|part| part == key.0);
    assert!(!ledger.data.unwrap().values().any(holds), "the ledger holds it sealed only");
}
