//! `kubectl llmkey`, as a person runs it, against the real API server.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, PostParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::plugin::args::examples;
use llmkey_operator::testbed::{source_dir, tools};
use serde_json::{Value, json};

use super::stage::{DIVISOR, Tenant, because, now, state, wait};
use super::workload::time;

/// What a command answered.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A directory to run commands in.
fn desk(t: &Tenant) -> PathBuf {
    let dir = t.stage.cluster.dir().join(format!("desk-{}", t.namespace));
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn run(t: &Tenant, args: &[&str], input: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-llmkey"))
        .args(args)
        .current_dir(desk(t))
        .env("KUBECONFIG", t.stage.cluster.admin_kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads nothing has closed its end.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn rotations<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    report["rotations"].as_array().unwrap().iter().filter(|r| r["name"] == name).collect()
}

#[tokio::test]
async fn the_plan_is_what_the_operator_goes_by() {
    let t = Tenant::new("plan").await;
    let nights =
        json!([{"name": "nights", "cron": "0 22 * * *", "duration": "6h", "timeZone": "Europe/Berlin"}]);
    let policies = [
        ("interval", json!({"schedule": {"interval": "2160h"}})),
        // Whatever its share of the jitter, no window is open then.
        (
            "cron",
            json!({"schedule": {"cron": {"expression": "30 12 * * 1"}}, "jitter": "1h", "windows": nights}),
        ),
        (
            "calendar",
            json!({"schedule": {"calendar": {"period": "Daily", "timeZone": "Asia/Tokyo"}}, "jitter": "20m"}),
        ),
    ];
    for (name, spec) in policies {
        t.policy(name, spec).await;
        t.minted(name, json!({"rotationPolicyRef": {"name": name}})).await;
    }
    t.minted("by-hand", json!({})).await;
    for name in ["interval", "cron", "calendar", "by-hand"] {
        t.ready(name).await;
    }
    let divisor = format!("--test-time-divisor={DIVISOR}");
    let args = ["plan", "-n", &t.namespace, "-o", "json", &divisor];
    let report = run(&t, &args, "").json();
    for name in ["interval", "cron", "calendar"] {
        let key = t.get(name).await;
        let status = key.status.unwrap();
        let found = rotations(&report, name);
        assert!(found.len() >= 3, "{name}: {found:?}");
        assert_eq!(found[0]["time"], json!(status.next_rotation_time), "{name}");
        for (found, told) in found.iter().zip(&status.upcoming) {
            assert_eq!(
                (&found["time"], &found["reason"]),
                (&json!(told.time), &json!(told.reason)),
                "{name}"
            );
            assert_eq!(
                (&found["source"], &found["by"]),
                (&json!("Calculated"), &json!("Operator")),
                "{name}"
            );
        }
    }
    assert!(rotations(&report, "cron").iter().any(|r| r["reason"] == "Window"));
    assert_eq!(report["none"][0]["name"], json!("by-hand"));

    // Whoever calculates otherwise than the operator shows the operator's times.
    let report = run(&t, &["plan", "-n", &t.namespace, "-o", "json"], "").json();
    let key = t.get("interval").await;
    let found = rotations(&report, "interval");
    assert_eq!(found[0]["time"], json!(key.status.unwrap().next_rotation_time));
    assert_eq!(found[0]["source"], json!("Status"));

    let table = run(&t, &["plan", "-n", &t.namespace, &divisor], "");
    assert!(
        table.code == 0 && table.out.starts_with("TIME ") && !table.out.contains('\u{1b}'),
        "{}",
        table.out
    );
    assert!(table.out.contains("RotationPolicy/cron: 30 12 * * 1 (UTC), in a window"), "{}", table.out);
}

#[tokio::test]
async fn examples_are_planned_offline() {
    let t = Tenant::new("offline").await;
    for entry in fs::read_dir(source_dir().join("examples")).unwrap() {
        let file = entry.unwrap().path();
        let manifests = tools::manifests(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut said = run(&t, &["plan", "-o", "json", "--days", "366", "-f", file.to_str().unwrap()], "");
        let keys: Vec<&Value> = manifests.iter().filter(|m| m["kind"] == "LLMKey").collect();
        if keys.is_empty() {
            assert!(said.code == 2 && said.err.contains("no LLMKey"), "{}: {}", file.display(), said.err);
            continue;
        }
        let report = said.json();
        for key in keys {
            let told = ["rotations", "due", "none"].iter().any(|part| {
                report[part].as_array().unwrap().iter().any(|row| row["name"] == key["metadata"]["name"])
            });
            assert!(told, "{}: {report}", file.display());
        }
        said.out.clear();
        if file.ends_with("01-quickstart.yaml") {
            let chat = rotations(&report, "chat");
            let first = time(chat[0]["time"].as_str().map(ToOwned::to_owned).as_ref());
            assert!((29..=30).contains(&(first - now()).num_days()), "{report}");
            let notes = report["notes"].to_string();
            assert!(notes.contains("counted from now") && notes.contains("no cluster was asked"), "{notes}");
        }
    }
}

#[tokio::test]
async fn who_names_a_deployment_that_still_has_the_old_version() {
    let t = Tenant::new("who").await;
    t.policy("policy", json!({"overlap": {"minimum": "24h"}})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    let key = t.ready("chat").await;
    let published = time(key.status.unwrap().versions[0].published_at.as_ref());
    let divisor = format!("--test-time-divisor={DIVISOR}");
    let who = || run(&t, &["who", "chat", "-n", &t.namespace, "-o", "json", &divisor], "").json();
    assert_eq!(who()["workloads"], json!([]));

    // A pod that is created 2 s after the publishing has that version.
    let later = published + chrono::TimeDelta::seconds(3);
    wait("a pod would have version 1", async || (now() >= later).then_some(())).await;
    let deployment: Deployment = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "annotations": {"llmkeys.dev/restart": "false"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "app", "envFrom": [{"secretRef": {"name": "chat"}}]}]},
        }},
    }))
    .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(t.client.clone(), &t.namespace);
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(t.client.clone(), &t.namespace);
    wait("both pods are there", async || {
        (pods.list(&ListParams::default()).await.unwrap().items.len() == 2).then_some(())
    })
    .await;
    let report = who();
    let web = &report["workloads"][0];
    assert_eq!((&web["name"], &web["version"], &web["state"]), (&json!("web"), &json!(1), &json!("Current")));

    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |k| state(k, 2).as_deref() == Some("Current")).await;
    let report = who();
    let rows = report["workloads"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{report}");
    assert_eq!(rows[0]["pods"].as_array().unwrap().len(), 2);
    assert_eq!((&rows[0]["version"], &rows[0]["versionState"]), (&json!(1), &json!("Overlap")));
    assert_eq!((&rows[0]["state"], &rows[0]["reason"]), (&json!("Straggler"), &json!("OptedOut")));
    let table = run(&t, &["who", "chat", "-n", &t.namespace, &divisor], "");
    assert!(table.out.contains("Deployment/web   2      1 (Overlap)"), "{}", table.out);
    assert!(table.out.contains("Note: copies of the key"), "{}", table.out);
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(!table.out.contains(&value) && !report.to_string().contains(&value));
}

#[tokio::test]
async fn every_example_of_the_help_runs() {
    let t = Tenant::new("help").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    let manifests = |kind: &str, name: &str, spec: &Value| {
        json!({"apiVersion": "llmkeys.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": t.namespace}, "spec": spec})
            .to_string()
    };
    let policy = manifests("RotationPolicy", "policy", &json!({"schedule": {"interval": "168h"}}));
    let keys = json!({"provider": "OpenAI", "source": {"secretRef": {"name": "s", "key": "k"}}, "rotationPolicyRef": {"name": "policy"}});
    let keys = manifests("LLMKey", "chat", &keys);
    let line = t.operator().log().lines().find(|l| l.contains("llmkey_operator::audit")).unwrap().to_owned();
    let files =
        [("policy.yaml", &policy), ("keys.yaml", &keys), ("monday.log", &line), ("tuesday.log", &line)];
    for (file, text) in files {
        fs::write(desk(&t).join(file), text).unwrap();
    }
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": [serde_json::from_str::<Value>(&keys).unwrap()]});
    let changes = |words: &str| CHANGES.contains(&words) || words == "import";
    for example in examples().into_iter().filter(|example| !changes(example[0])) {
        let mut words = example.clone();
        for word in &mut words {
            if *word == "team-a" {
                *word = &t.namespace;
            }
        }
        // The context of a person names a namespace.
        if !["audit", "completion"].contains(&words[0])
            && !words.iter().any(|word| ["-n", "-A", "-f"].contains(word))
        {
            words.extend(["-n", &t.namespace]);
        }
        let audit = words[0] == "audit";
        let input = if audit { line.clone() } else { list.to_string() };
        let said = run(&t, &words, &input);
        // One line is not the whole trail, and no kubelet runs the operator's pods here.
        let codes = if audit || words[0] == "doctor" { &[0, 1][..] } else { &[0] };
        assert!(codes.contains(&said.code) && !said.out.is_empty(), "{words:?}: {} {}", said.out, said.err);
    }
}

#[tokio::test]
async fn the_doctor_finds_what_is_there_and_what_is_not() {
    let t = Tenant::new("doctor").await;
    t.minted("chat", json!({})).await;
    t.ready("chat").await;
    let examine = |home: &str| {
        let said = run(&t, &["doctor", "-n", &t.namespace, "--operator-namespace", home, "-o", "json"], "");
        assert_eq!(said.code, 1, "no kubelet runs the operator's pods here: {}", said.err);
        let report: Value = serde_json::from_str(&said.out).unwrap();
        move |check: &str| {
            let found = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == check).unwrap();
            found["verdict"].as_str().unwrap().to_owned()
        }
    };
    let found = examine("llmkey-system");
    for check in ["cluster", "clock", "kinds", "leader", "keyring", "leash", "keys"] {
        assert_eq!(found(check), "Ok", "{check}");
    }
    assert_eq!(found("operator"), "Failed");
    let elsewhere = examine(&t.namespace);
    assert_eq!([elsewhere("leader"), elsewhere("keyring")], ["Failed", "Failed"]);
}

/// Commands that change something.
const CHANGES: [&str; 4] = ["rotate", "approve", "burn", "pin"];

/// Every example that changes something, in an order in which each has something to do.
#[tokio::test]
async fn a_key_is_rotated_approved_pinned_and_burnt_from_a_desk() {
    let t = Tenant::new("desk").await;
    let overlap = json!({"minimum": "15m", "evidence": {"quietFor": "0s"}, "approval": "Manual"});
    t.policy("careful", json!({"overlap": overlap})).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "careful"}})).await;
    t.ready("chat").await;
    let mut typed: Vec<String> = Vec::new();
    let mut desk = |words: &str| {
        typed.push(words.to_owned());
        let args: Vec<&str> = words.split(' ').chain(["-n", &t.namespace]).collect();
        run(&t, &args, "")
    };
    let current = |number: i32| move |key: &LLMKey| state(key, number).as_deref() == Some("Current");
    let revoked = |number: i32| move |key: &LLMKey| state(key, number).as_deref() == Some("Revoked");

    let said = desk("rotate chat");
    assert!(said.code == 0 && said.out.contains("the key of version 1 is to be replaced"), "{}", said.out);
    t.until("chat", "rotated", current(2)).await;
    t.until("chat", "asks", |key| because(key, "OverlapActive", "WaitingForApproval")).await;
    let said = desk("describe chat");
    for part in ["is Waiting: version 1 is kept", "WaitingForApproval", "kubectl-llmkey", "version 2 (..."] {
        assert!(said.code == 0 && said.out.contains(part), "{part}: {} {}", said.out, said.err);
    }
    let said = desk("approve chat");
    assert!(said.code == 0 && said.out.contains("version 1 (..."), "{} {}", said.out, said.err);
    t.until("chat", "approved", revoked(1)).await;
    assert_eq!(desk("approve chat").code, 2, "nothing waits any more");

    let said = desk("rotate chat --wait");
    assert!(said.code == 0 && said.out.contains("version 3 (..."), "{} {}", said.out, said.err);
    let said = desk("pin chat 2 --wait");
    assert!(said.code == 0 && said.out.trim_end().ends_with("is delivered"), "{} {}", said.out, said.err);
    t.until("chat", "pinned", current(4)).await;
    let said = desk("pin chat 1");
    assert!(
        said.code == 2 && said.err.contains("version 1 cannot be pinned: its key is revoked"),
        "{}",
        said.err
    );
    assert_eq!(desk("pin chat 3").code, 0);
    assert_eq!(desk("pin chat --off").code, 0);
    t.until("chat", "seen", |key| {
        key.status.as_ref().unwrap().observed_generation == key.metadata.generation
    })
    .await;

    let said = desk("burn chat");
    assert!(said.code == 2 && said.err.contains("use --yes"), "{} {}", said.out, said.err);
    assert_eq!(t.get("chat").await.spec.revoked_versions, Vec::<i32>::new());
    let newest = t.get("chat").await.status.unwrap().current_version.unwrap();
    let said = desk("burn chat 3 4 --yes --wait");
    assert!(said.code == 0 && said.out.contains("revoked: version 3, 4"), "{} {}", said.out, said.err);
    let status = t.get("chat").await.status.unwrap();
    assert!(status.current_version.unwrap() > newest);
    // Of all keys that were made, the one in use is left.
    wait("one key lives", async || (t.sandbox().live_keys(&t.project).len() == 1).then_some(())).await;
    let said = desk("rotate chat --wait --timeout 1h");
    assert_eq!(said.code, 0, "{} {}", said.out, said.err);

    let report = desk("status -o json").json();
    assert_eq!((&report["keys"][0]["name"], &report["keys"][0]["health"]), (&json!("chat"), &json!("Valid")));
    let completed = |words: &[&str]| run(&t, &[&["__complete", "--"], words].concat(), "").out;
    assert_eq!(completed(&["desc"]), "describe\n:4\n");
    assert_eq!(completed(&["who", "-n", &t.namespace, "ch"]), "chat\n:4\n");
    let told = examples().into_iter().filter(|example| CHANGES.contains(&example[0]));
    for example in told.map(|words| words.join(" ")) {
        assert!(typed.contains(&example), "nobody tried {example}");
    }
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2, "the older one waits for an approval");
}

#[tokio::test]
async fn keys_that_are_there_are_imported_from_a_desk() {
    let t = Tenant::new("import").await;
    let secrets: Api<Secret> = Api::namespaced(t.client.clone(), &t.namespace);
    let [one, two, three] = ["one", "two", "three"].map(|name| t.person_key(name));
    for (name, data) in
        [("openai", json!({"OPENAI_API_KEY": one})), ("app", json!({"GROQ_API_KEY": two, "PASSWORD": "p"}))]
    {
        let secret = json!({"metadata": {"name": name}, "stringData": data});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    }
    fs::write(desk(&t).join(".env"), format!("# of a laptop\nexport OPENAI_API_KEY='{three}'\nDEBUG=1\n"))
        .unwrap();
    let mut typed: Vec<String> = Vec::new();
    let mut desk = |words: &str| {
        typed.push(words.to_owned());
        let args: Vec<&str> =
            words.split(' ').chain(["-n", &t.namespace, "--provider-ref", &t.provider]).collect();
        let said = run(&t, &args, "");
        assert!(
            ![&one, &two, &three].iter().any(|key| (said.out.clone() + &said.err).contains(*key)),
            "{words}"
        );
        said
    };

    let said = desk("import openai");
    assert!(said.code == 0 && said.out.contains("Nothing was changed"), "{} {}", said.out, said.err);
    assert!(tools::manifests(&said.out).unwrap().iter().any(|manifest| manifest["kind"] == "LLMKey"));
    assert!(t.keys().get_opt("openai").await.unwrap().is_none());
    assert!(secrets.get_opt("openai-source").await.unwrap().is_none());

    assert_eq!(desk("import openai --apply").code, 0);
    t.ready("openai").await;
    let adopted = secrets.get("openai").await.unwrap();
    assert_eq!(adopted.metadata.owner_references.unwrap()[0].name, "openai");
    assert_eq!(t.delivered("openai", "OPENAI_API_KEY").await, Some(one.clone()));
    let said = desk("import openai --apply");
    assert!(said.code == 2 && said.err.contains("by LLMKey openai already"), "{}", said.err);

    assert_eq!(desk("import app --entry GROQ_API_KEY --name groq --apply").code, 0);
    t.ready("groq").await;
    assert_eq!(t.delivered("groq", "GROQ_API_KEY").await, Some(two.clone()));
    assert_eq!(secrets.get("app").await.unwrap().data.unwrap().len(), 2, "it stays as it was");

    // An import that was interrupted after its first object.
    let half =
        json!({"metadata": {"name": "openai-api-key-source"}, "stringData": {"OPENAI_API_KEY": three}});
    secrets.create(&PostParams::default(), &serde_json::from_value(half).unwrap()).await.unwrap();
    let said = desk("import --env-file .env");
    assert!(said.code == 0 && said.out.contains("# Left alone: DEBUG."), "{} {}", said.out, said.err);
    assert_eq!(desk("import --env-file .env --apply").code, 0);
    t.ready("openai-api-key").await;
    let said = desk("import --env-file .env --apply --name groq");
    assert!(said.code == 2 && said.err.contains("with another spec"), "{}", said.err);
    for example in examples().into_iter().filter(|example| example[0] == "import") {
        assert!(typed.contains(&example.join(" ")), "nobody tried {example:?}");
    }
}

#[tokio::test]
async fn mistakes_are_told_in_a_sentence_with_exit_code_2() {
    let t = Tenant::new("mistakes").await;
    fs::write(desk(&t).join("wrong.yaml"), "kind: [").unwrap();
    fs::write(desk(&t).join("kubeconfig"), "apiVersion: v1\nkind: Config\n").unwrap();
    for (args, words) in [
        (&["who", "nobody", "-n", &t.namespace][..], "see kubectl get llmkeys -n"),
        (&["plan", "-f", "missing.yaml"], "missing.yaml: "),
        (&["plan", "-f", "wrong.yaml"], "wrong.yaml: is not YAML"),
        (&["plan", "--context", "nowhere"], "name another with --kubeconfig or --context"),
        (&["plan", "--kubeconfig", "kubeconfig"], "the kubeconfig cannot be used"),
        (&["audit", "verify", "missing.log"], "missing.log: "),
    ] {
        let said = run(&t, args, "");
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {}", said.err);
        assert!(
            said.err.starts_with("kubectl llmkey: ") && said.err.contains(words),
            "{args:?}: {}",
            said.err
        );
        assert_eq!(said.err.trim().lines().count(), 1, "{}", said.err);
    }
    let empty = run(&t, &["plan", "-n", &t.namespace], "");
    assert!(empty.code == 0 && empty.out.contains("there is no LLMKey in namespace"), "{}", empty.out);
    let garbled = run(&t, &["audit", "verify"], "{ llmkey_operator::audit");
    assert!(garbled.code == 1 && garbled.out.contains("line 1: cannot be read"), "{}", garbled.out);
}
