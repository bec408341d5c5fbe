//! The commands of docs/operations.md, run in the page's order on a release that Helm installed. No node runs: the operator is a process
//! with the arguments and the account of its Deployment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PostParams};
use llmkey_operator::api::LLMProvider;
use llmkey_operator::testbed::{ControlPlane, Installation, Options, source_dir, tools};
use serde_json::json;

use super::helm::run_as_a_node;
use super::stage::{DIVISOR, Operator, Stage, Tenant, wait};

const HOME: &str = "llmkey-system";
const RELEASE: &str = "llmkey-operator";

/// The commands of the page's `console` blocks, those in lists included, and of its text, where a sentence has one between backticks.
fn commands() -> (Vec<String>, Vec<String>) {
    let page = fs::read_to_string(source_dir().join("docs/operations.md")).unwrap();
    let (mut blocks, mut inline): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut fenced = false;
    let mut continued = false;
    for line in page.lines() {
        let text = line.trim();
        if let Some(language) = text.strip_prefix("```") {
            fenced = !fenced;
            assert!(!fenced || language == "console", "a block of the kind {language:?} is not run");
        } else if fenced {
            let begun = text.strip_prefix("$ ");
            match (begun, blocks.last_mut()) {
                (Some(command), _) => blocks.push(command.to_owned()),
                (None, Some(command)) if continued => {
                    command.push('\n');
                    command.push_str(text);
                }
                _ => panic!("neither a command nor the rest of one: {line}"),
            }
            continued = text.ends_with('\\');
        } else {
            let words = text.split('`').skip(1).step_by(2);
            inline.extend(words.filter(|word| word.starts_with("kubectl ")).map(str::to_owned));
        }
    }
    (blocks, inline)
}

/// A person's desk.
struct Desk {
    kubeconfig: PathBuf,
    dir: PathBuf,
}

impl Desk {
    fn run(&self, command: &str) -> Output {
        let programs = [
            tools::binaries().unwrap().kubectl.expect("the tests need kubectl"),
            tools::helm().unwrap(),
            PathBuf::from(env!("CARGO_BIN_EXE_kubectl-llmkey")),
        ];
        let places = programs.iter().map(|program| program.parent().unwrap().to_owned());
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(places.chain(std::env::split_paths(&path))).unwrap();
        // The values are the reader's own; a token is what the command before has shown.
        let values = self.dir.join("your-values.yaml").display().to_string();
        let command = command.replace("your-values.yaml", &values).replace("<token>", "none");
        Command::new("sh")
            .args(["-c", &command])
            .current_dir(source_dir())
            .env("PATH", path)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.dir)
            .output()
            .unwrap()
    }

    /// To its end, which is a good one.
    fn done(&self, command: &str) -> String {
        let output = self.run(command);
        let said = [output.stdout.clone(), output.stderr].concat();
        // No kubelet runs the operator's pods here, and the doctor says so.
        let codes = if command.contains("llmkey doctor") { &[0, 1][..] } else { &[0] };
        let said = String::from_utf8_lossy(&said);
        assert!(codes.contains(&output.status.code().unwrap()), "{command}\n{said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What a node would do with the Deployment: starts its program, with its account and with what it says about where to work.
async fn deployed(cluster: &'static ControlPlane, name: &str) -> (Installation, Operator) {
    let api: Api<Deployment> = Api::namespaced(cluster.admin().unwrap(), HOME);
    let pod = api.get(RELEASE).await.unwrap().spec.unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap_or_default();
    let scope: Vec<String> = args
        .into_iter()
        .filter(|arg| ["--watch-", "--secrets=", "--rollout="].iter().any(|flag| arg.starts_with(flag)))
        .collect();
    let service_account = pod.service_account_name.unwrap();
    let kubeconfig = cluster.service_account_kubeconfig(HOME, &service_account).await.unwrap();
    let installation =
        Installation { namespace: HOME.into(), name: RELEASE.into(), service_account, kubeconfig, scope };
    let flags: Vec<&str> = installation.scope.iter().map(String::as_str).collect();
    let operator = Operator::start_with(cluster, &installation, name, DIVISOR, "debug", &flags);
    operator.ready().await;
    (installation, operator)
}

async fn account_is_ready(t: &Tenant) {
    let providers: Api<LLMProvider> = Api::all(t.client.clone());
    wait("the account answers", async || {
        let conditions = providers.get("openai").await.unwrap().status?.conditions;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
}

fn desk(cluster: &ControlPlane) -> Desk {
    let dir = cluster.dir().join("desk");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("your-values.yaml"), "replicaCount: 1\n").unwrap();
    Desk { kubeconfig: cluster.admin_kubeconfig(), dir }
}

async fn uninstalled(desk: &Desk, command: &str, t: &Tenant) {
    let (kubeconfig, dir): (PathBuf, PathBuf) = (desk.kubeconfig.clone(), desk.dir.clone());
    let words = command.to_owned();
    let helm = tokio::task::spawn_blocking(move || Desk { kubeconfig, dir }.done(&words));
    let config: &Path = &desk.kubeconfig;
    let said = run_as_a_node(&t.client, config).await;
    helm.await.unwrap();
    assert!(said.contains("left") || said.contains("are to be revoked"), "{said}");
}

#[tokio::test]
async fn the_commands_of_the_operations_page_do_what_it_says() {
    let cluster: &'static ControlPlane =
        Box::leak(Box::new(ControlPlane::start(Options::default()).await.unwrap()));
    let client = cluster.admin().unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["team-a", "team-b"] {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }
    let desk = desk(cluster);
    let install =
        format!("helm install {RELEASE} charts/llmkey-operator --namespace {HOME} --create-namespace");
    desk.done(&install);
    let (installation, operator) = deployed(cluster, "operator-page").await;
    let mut operator = Some(operator);
    let stage: &'static Stage = Box::leak(Box::new(Stage::around(cluster, installation)));
    let t = Tenant::of(stage, "team-a".into()).await;
    t.credential("openai-admin", t.admin_key, &t.sandbox().addr().to_string()).await;
    t.llm_provider("openai", json!({"adminCredentialRef": {"name": "openai-admin"}})).await;
    t.minted("chat", json!({"providerRef": {"name": "openai"}})).await;
    t.ready("chat").await;

    let (blocks, inline) = commands();
    let mut run: BTreeMap<&str, usize> = BTreeMap::new();
    for command in &blocks {
        let kind = match command {
            c if c.contains("helm uninstall") => {
                uninstalled(&desk, c, &t).await;
                drop(operator.take());
                "uninstall"
            }
            c if c.contains("helm upgrade") => {
                desk.done(c);
                // The pods are started anew with the rights and the arguments of the new revision.
                drop(operator.take());
                operator = Some(deployed(cluster, &format!("operator-page-{}", run.len())).await.1);
                t.minted(&format!("after-{}", run.len()), json!({"providerRef": {"name": "openai"}})).await;
                t.ready(&format!("after-{}", run.len())).await;
                "upgrade"
            }
            c if c.contains("patch secret openai-admin") => {
                desk.done(&c.replace("sk-admin-REPLACE-ME", t.admin_key));
                account_is_ready(&t).await;
                "credential"
            }
            c if c.contains("delete llmkeys") => {
                // What is on its way at this moment is finished by the operator that the Deployment would run.
                desk.done(c);
                "delete"
            }
            c => {
                desk.done(c);
                "other"
            }
        };
        *run.entry(kind).or_default() += 1;
    }
    drop(operator);
    let expected = [("credential", 1), ("delete", 1), ("other", 5), ("uninstall", 1), ("upgrade", 2)];
    assert_eq!(run, BTreeMap::from(expected), "{blocks:#?}");
    // What the text says by the way, last: the release is gone, but objects and kinds are there.
    for command in inline.iter().filter(|c| !c.contains("scale") && !c.ends_with('…')) {
        desk.done(command);
    }
    assert!(inline.len() >= 4, "{inline:?}");
}
