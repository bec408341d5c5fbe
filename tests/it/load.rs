//! Many keys that never rest, and keys whose provider hangs: each has its turn.

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::ResourceExt;
use kube::api::ListParams;
use llmkey_operator::sandbox::{Fault, FaultRule, Operation};
use serde_json::json;

use super::stage::{DIVISOR, Operator, Tenant, empty_stage, state, wait};

const KEYS: usize = 40;
/// Rotations that each key has to make before the slowest of them ends the test.
const ROTATIONS: i32 = 4;

/// Each key is asked to rotate again as soon as its last rotation is done, so there is always more work than workers.
/// If the keys are not taken in their order, a few rotate again and again while others wait for as long as the load
/// lasts.
#[tokio::test]
async fn a_key_is_not_left_out_while_others_never_rest() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start_with(
        stage.cluster,
        &stage.installation,
        "loaded",
        DIVISOR,
        "debug",
        &["--concurrency=2"],
    );
    operator.ready().await;
    let t = Tenant::on(stage, "load").await;
    // The workers are to be what there is too little of, not the policy's turns.
    let overlap = json!({"minimum": "0s", "evidence": {"quietFor": "0s"}});
    t.policy("policy", json!({"maxConcurrent": 1000, "overlap": overlap})).await;
    let spec = json!({"rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "15m"}});
    let names: Vec<String> = (0..KEYS).map(|i| format!("chat-{i}")).collect();
    join_all(names.iter().map(|name| t.minted(name, spec.clone()))).await;

    // Rotations done, by key.
    let mut done: BTreeMap<String, i32> = BTreeMap::new();
    let slowest =
        |done: &BTreeMap<_, _>| names.iter().map(|name| done.get(name).copied().unwrap_or(-1)).min();
    let steps = |done: &BTreeMap<_, i32>| done.values().map(|rotations| rotations + 1).sum::<i32>();
    while slowest(&done) < Some(ROTATIONS) {
        // How long all of it takes is the machine's business; that it goes on, and whose turn it is, is ours.
        wait("another key is ready or has rotated", async || {
            let before = steps(&done);
            for key in t.keys().list(&ListParams::default()).await.unwrap() {
                let name = key.name_any();
                let current = key.status.as_ref().and_then(|s| s.current_version).unwrap_or_default();
                let asked = done.get(&name).map_or(1, |done| done + 2);
                let retired = current == 1 || state(&key, current - 1).as_deref() == Some("Revoked");
                if current >= asked && retired {
                    done.insert(name.clone(), current - 1);
                    t.annotate(&name, "llmkeys.dev/rotate", Some(&current.to_string())).await;
                }
            }
            (steps(&done) > before).then_some(())
        })
        .await;
        let most = done.values().copied().max().unwrap_or_default();
        assert!(most <= 2 * ROTATIONS, "some waited while others had their turn again and again: {done:?}");
    }
}

/// Every worker that looks at a key of the account waits for it, again and again.
#[tokio::test]
async fn a_provider_that_hangs_holds_up_no_other_providers_keys() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start_with(
        stage.cluster,
        &stage.installation,
        "hanging",
        DIVISOR,
        "debug",
        &["--concurrency=2"],
    );
    operator.ready().await;
    let (hangs, other) = (Tenant::on(stage, "hangs").await, Tenant::on(stage, "other").await);
    let fault = FaultRule::on(Operation::CreateServiceAccount, Fault::slow(60_000)).project(&hangs.project);
    let fault = hangs.sandbox().add_fault(fault);
    let names: Vec<String> = (0..KEYS).map(|i| format!("chat-{i}")).collect();
    join_all(names.iter().map(|name| hangs.minted(name, json!({})))).await;
    wait("both workers wait for the provider", async || {
        let reports = hangs.sandbox().faults();
        reports.iter().any(|report| report.id == fault && report.fired >= 2).then_some(())
    })
    .await;
    other.minted("chat", json!({})).await;
    other.ready("chat").await;
}
