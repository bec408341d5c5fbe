//! Many keys that never rest: each has its turn.

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::ResourceExt;
use kube::api::ListParams;
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
    wait("every key has rotated", async || {
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
        let slowest = names.iter().map(|name| done.get(name).copied().unwrap_or(-1)).min();
        slowest.filter(|slowest| *slowest >= ROTATIONS)
    })
    .await;
    let most = done.values().copied().max().unwrap();
    assert!(most <= 2 * ROTATIONS, "some waited while others had their turn again and again: {done:?}");
}
