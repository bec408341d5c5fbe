//! The audit trail of a real life, and the command that checks it.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::restart::{kill, leads, start};
use super::stage::{Stage, Tenant, empty_stage, state, wait};

/// What all operators of this stage wrote.
pub(crate) fn logs(stage: &Stage) -> String {
    let files = fs::read_dir(stage.cluster.dir()).unwrap().filter_map(Result::ok);
    let logs = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("operator") || name.starts_with("loaded")
    });
    logs.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
}

pub(crate) fn verify(stage: &Stage, trail: &str) -> (bool, String) {
    let file = stage.cluster.dir().join("trail.jsonl");
    fs::write(&file, trail).unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
        .args(["audit", "verify", "--ledgers"])
        .arg(format!("--operator-namespace={}", stage.installation.namespace))
        .arg(format!("--kubeconfig={}", stage.cluster.admin_kubeconfig().display()))
        .arg(&file)
        .output()
        .unwrap();
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.success(), text)
}

#[tokio::test]
async fn every_write_of_a_ledger_has_its_line_and_a_missing_one_shows() {
    let (_alone, stage) = empty_stage().await;
    let operator = start(stage);
    leads(&operator).await;
    let t = Tenant::on(stage, "audited").await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    let spec = json!({"rotationPolicyRef": {"name": "policy"}, "deletionGracePeriod": "0s"});
    t.minted("chat", spec.clone()).await;
    t.minted("gone", spec).await;
    t.ready("chat").await;
    t.ready("gone").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    kill(stage, operator).await;
    let operator = start(stage);
    t.until("chat", "rotated", |k| state(k, 1).as_deref() == Some("Revoked")).await;
    t.delete("gone").await;
    wait("the key of what was deleted is gone", async || {
        (t.sandbox().live_keys(&t.project).len() == 1).then_some(())
    })
    .await;
    operator.signal("TERM");
    let mut operator = operator;
    wait("the operator ends", async || operator.exited()).await;

    let trail = logs(stage);
    let (whole, said) = verify(stage, &trail);
    assert!(whole && said.contains(" 0 problems"), "{said}");
    let mine = |line: &&str| line.contains("llmkey_operator::audit") && line.contains(&t.namespace);
    let lines: Vec<&str> = trail.lines().filter(mine).collect();
    assert!(lines.len() >= 12, "{lines:#?}");
    let key = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(!trail.contains(&key));
    let one = lines.iter().find(|line| line.contains(r#""to":"Retiring""#)).unwrap();
    let (whole, said) = verify(stage, &trail.replace(one, ""));
    assert!(!whole && said.contains("/chat: line ") && said.contains("missing"), "{said}");
    let (whole, said) = verify(stage, &trail.replace(one, &one.replace("MinimumElapsed", "Explicit")));
    assert!(!whole && said.contains("it was edited"), "{said}");
}
