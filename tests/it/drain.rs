//! `llmkey-operator drain` with the operator's own rights, beside an operator that works.

use std::process::{Command, Output};

use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use serde_json::json;

use super::stage::{DIVISOR, Operator, Tenant, own_stage, state, wait};

fn drain(t: &Tenant, timeout: &str) -> Output {
    let installation = &t.stage.installation;
    Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
        .args(["drain", &format!("--timeout={timeout}")])
        .arg(format!("--operator-namespace={}", installation.namespace))
        .arg(format!("--kubeconfig={}", installation.kubeconfig.display()))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn what_can_be_revoked_is_waited_for_and_the_rest_is_named() {
    let stage = own_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "operator", DIVISOR, "debug");
    operator.ready().await;
    let t = Tenant::on(stage, "drain").await;
    t.minted("chat", json!({})).await;
    t.minted("later", json!({"deletionGracePeriod": "168h"})).await;
    for name in ["chat", "later"] {
        t.ready(name).await;
    }

    let outage = Fault::refuse(Answer::Unavailable { retry_after_seconds: None });
    let fault =
        t.sandbox().add_fault(FaultRule::on(Operation::DeleteServiceAccount, outage).project(&t.project));
    t.patch("chat", json!({"spec": {"desiredState": "Revoked"}})).await;
    t.until("chat", "Retiring", |k| state(k, 1).as_deref() == Some("Retiring")).await;
    let text = said(&drain(&t, "1s"));
    assert!(text.contains("1 keys are being made or revoked; waiting until "), "{text}");
    let (line, at) = (format!("{}/chat version 1: its key is being revoked", t.namespace), &t.provider);
    assert!(text.contains(&line) && text.contains(&format!("LLMProvider {at} (OpenAI)")), "{text}");
    assert!(text.contains("2 LLMKeys stay"), "{text}");

    // The provider is there again while the drain waits.
    t.sandbox().remove_fault(fault);
    let text = said(&drain(&t, "2m"));
    assert!(text.contains("nothing is left to make or to revoke"), "{text}");
    t.until("chat", "Revoked", |k| state(k, 1).as_deref() == Some("Revoked")).await;

    // A grace of half an hour, as tests count, is longer than anyone waits.
    t.delete("later").await;
    wait("the LLMKey is gone", async || t.keys().get_opt("later").await.unwrap().is_none().then_some(()))
        .await;
    let text = said(&drain(&t, "2s"));
    let line = format!("{}/later version 1: its LLMKey is gone, its key is to be revoked from ", t.namespace);
    assert!(text.contains(&line) && !text.contains("waiting until"), "{text}");
}

#[test]
fn an_api_server_that_is_not_there_holds_nothing_up() {
    let kubeconfig = std::env::temp_dir().join(format!("nobody-{}.kubeconfig", std::process::id()));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "none", "user": {"token": "none"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let run = |further: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
            .args(["drain", "--timeout=1s"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args(further)
            .output()
            .unwrap()
    };
    let text = said(&run(&[]));
    assert!(text.contains("what is left is not known"), "{text}");
    // What cannot be undone is not done on a guess.
    assert!(!run(&["--refuse-while-keys-exist"]).status.success());
    std::fs::remove_file(kubeconfig).unwrap();
}
