//! What Flux and Argo CD say of an `LLMKey`: Flux's own library and Argo CD's Lua judge it at every moment of its life.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use kube::api::{Api, Patch, PatchParams, PostParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::sandbox::{Answer, Fault, FaultRule, Operation};
use llmkey_operator::testbed::{source_dir, tools};
use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaSerdeExt, Table};
use serde_json::{Value, json};

use super::stage::{Tenant, because, is, state};

/// A hold on the object that is not ours, so that its deletion can be looked at.
const HELD: &str = "example.com/held";

fn lua(object: &Value) -> Lua {
    let lua = Lua::new();
    let plain = SerializeOptions::new()
        .set_array_metatable(false)
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.globals().set("obj", lua.to_value_with(object, plain).unwrap()).unwrap();
    lua
}

fn script(name: &str) -> String {
    fs::read_to_string(source_dir().join("gitops/argocd").join(name)).unwrap()
}

fn argo(object: &Value) -> String {
    let lua = lua(object);
    let health: Table = lua.load(script("health.lua")).eval().unwrap();
    assert!(health.get::<String>("message").is_ok());
    health.get("status").unwrap()
}

fn flux(object: &Value) -> String {
    let mut judge = Command::new(tools::kstatus().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    judge.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn judged(moment: &str, key: &LLMKey, by_flux: &str, by_argo: &str) {
    let object = serde_json::to_value(key).unwrap();
    assert_eq!((flux(&object).as_str(), argo(&object).as_str()), (by_flux, by_argo), "{moment}: {object:#}");
}

#[tokio::test]
async fn a_key_is_judged_right_at_every_moment_of_its_life() {
    let t = Tenant::new("gitops").await;
    let mints = || {
        let broken = Fault::refuse(Answer::InternalError);
        t.sandbox().add_fault(FaultRule::on(Operation::CreateServiceAccount, broken).project(&t.project))
    };
    let fault = mints();
    let manifest = json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat", "finalizers": [HELD]},
        "spec": {"providerRef": {"name": t.provider}, "source": {"mint": {}}, "deletionGracePeriod": "0s"},
    });
    let key = serde_json::from_value(manifest).unwrap();
    let created = t.keys().create(&PostParams::default(), &key).await.unwrap();
    judged("just applied", &created, "InProgress", "Progressing");
    let key = t.until("chat", "works on it", |key| is(key, "Reconciling", "True")).await;
    judged("working", &key, "InProgress", "Progressing");
    t.sandbox().remove_fault(fault);
    judged("ready", &t.ready("chat").await, "Current", "Healthy");

    let fault = mints();
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    let key = t.until("chat", "rotating", |key| state(key, 2).is_some()).await;
    judged("rotating, while the older key works", &key, "Current", "Healthy");
    t.sandbox().remove_fault(fault);
    t.until("chat", "rotated", |key| state(key, 2).as_deref() == Some("Current")).await;

    let spec = Patch::Merge(json!({"spec": {"deletionGracePeriod": "1s"}}));
    let edited = t.keys().patch("chat", &PatchParams::default(), &spec).await.unwrap();
    judged("edited", &edited, "InProgress", "Progressing");
    t.annotate("chat", "llmkeys.dev/paused", Some("true")).await;
    let generation = edited.metadata.generation;
    let seen = |key: &LLMKey| key.status.as_ref().unwrap().observed_generation == generation;
    judged("paused", &t.until("chat", "seen", seen).await, "Current", "Suspended");
    t.annotate("chat", "llmkeys.dev/paused", None).await;

    t.supplied("supplied", json!({"validation": {"interval": "1m"}})).await;
    let key = t.until("supplied", "waits for a person", |key| is(key, "Stalled", "True")).await;
    judged("waiting for a person", &key, "Failed", "Degraded");
    let value = t.person_key("supplied");
    t.source("supplied", &value).await;
    judged("supplied", &t.ready("supplied").await, "Current", "Healthy");
    t.sandbox().withdraw_key(&value);
    let key = t.until("supplied", "failed", |key| because(key, "Stalled", "KeyInvalid")).await;
    judged("failed", &key, "Failed", "Degraded");

    t.delete("chat").await;
    judged("deleted", &t.get("chat").await, "Terminating", "Progressing");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    t.until("chat", "let go", |key| key.metadata.finalizers.as_deref() == Some(&[HELD.to_owned()])).await;
    t.keys().patch("chat", &PatchParams::default(), &free).await.unwrap();
}

#[tokio::test]
async fn applying_again_changes_nothing_and_an_action_rotates() {
    let t = Tenant::new("argo").await;
    let manifest = json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat"},
        "spec": {"providerRef": {"name": t.provider}, "source": {"mint": {}}},
    });
    let apply = async || {
        let by_flux = PatchParams::apply("kustomize-controller").force();
        t.keys().patch("chat", &by_flux, &Patch::Apply(&manifest)).await.unwrap();
    };
    apply().await;
    let first = t.ready("chat").await;
    for _ in 0..3 {
        apply().await;
    }
    assert_eq!(t.get("chat").await.metadata.resource_version, first.metadata.resource_version);

    let object = serde_json::to_value(&first).unwrap();
    let can = |object: &Value, action: &str| -> bool {
        let lua = lua(object);
        let actions: Table = lua.load(script("actions/discovery.lua")).eval().unwrap();
        !actions.get::<Table>(action).unwrap().get::<bool>("disabled").unwrap()
    };
    let actions = ["rotate", "refresh", "pause", "resume"];
    assert_eq!(actions.map(|action| can(&object, action)), [true, true, true, false]);
    let act = |object: &Value, action: &str| -> Value {
        let lua = lua(object);
        let changed = lua.load(script(&format!("actions/{action}.lua"))).eval().unwrap();
        lua.from_value(changed).unwrap()
    };
    let paused = act(&object, "pause");
    assert_eq!(actions.map(|action| can(&paused, action)), [false, true, false, true]);
    assert_eq!(act(&paused, "resume")["metadata"]["annotations"].get("llmkeys.dev/paused"), None);

    // Argo CD sends the difference as a patch.
    let rotated = act(&object, "rotate");
    let annotations = json!({"metadata": {"annotations": rotated["metadata"]["annotations"]}});
    let api: Api<LLMKey> = t.keys();
    api.patch("chat", &PatchParams::default(), &Patch::Merge(annotations)).await.unwrap();
    t.until("chat", "rotated", |key| state(key, 2).as_deref() == Some("Current")).await;
    assert_eq!(t.calls(Operation::CreateServiceAccount).len(), 2);
}

/// What was withdrawn at the provider is found out at once, and not when the next check is due, in weeks.
#[tokio::test]
async fn an_action_has_a_key_checked_now() {
    let t = Tenant::new("refresh").await;
    let value = t.person_key("refresh");
    t.source("chat", &value).await;
    t.supplied("chat", json!({"validation": {"interval": "168h"}})).await;
    let key = t.ready("chat").await;
    let checks = || t.calls(Operation::ListModels).len();
    let before = checks();
    let act = async |key: &LLMKey| {
        let lua = lua(&serde_json::to_value(key).unwrap());
        let changed = lua.load(script("actions/refresh.lua")).eval().unwrap();
        let changed: Value = lua.from_value(changed).unwrap();
        let annotations = json!({"metadata": {"annotations": changed["metadata"]["annotations"]}});
        t.keys().patch("chat", &PatchParams::default(), &Patch::Merge(annotations)).await.unwrap();
    };
    t.settled("chat").await;
    t.sandbox().withdraw_key(&value);
    assert_eq!(checks(), before);
    act(&key).await;
    t.until("chat", "found out", |key| {
        because(key, "Healthy", "KeyInvalid") || because(key, "Stalled", "KeyInvalid")
    })
    .await;
}

/// Who patches argocd-cm has the scripts that are tested here.
#[test]
fn the_config_map_has_the_scripts() {
    let map: Value = serde_saphyr::from_str(&script("argocd-cm.yaml")).unwrap();
    for kind in ["LLMKey", "RotationPolicy", "ClusterRotationPolicy", "LLMProvider"] {
        let entry = format!("resource.customizations.health.llmkeys.dev_{kind}");
        assert_eq!(map["data"][&entry].as_str().unwrap(), script("health.lua"), "{kind}");
    }
    let actions = map["data"]["resource.customizations.actions.llmkeys.dev_LLMKey"].as_str().unwrap();
    let actions: Value = serde_saphyr::from_str(actions).unwrap();
    assert_eq!(actions["discovery.lua"].as_str().unwrap(), script("actions/discovery.lua"));
    let definitions = actions["definitions"].as_array().unwrap();
    assert_eq!(definitions.len(), 4);
    for definition in definitions {
        let name = definition["name"].as_str().unwrap();
        assert_eq!(definition["action.lua"].as_str().unwrap(), script(&format!("actions/{name}.lua")));
    }
}
