//! The stage that lifecycle tests share: control plane, chart, sandbox provider and the operator as a process.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use llmkey_operator::api::{LLMKey, LLMProvider, RotationPolicy};
use llmkey_operator::sandbox::{Sandbox, SandboxOptions};
use llmkey_operator::testbed::process::Process;
use llmkey_operator::testbed::{ControlPlane, Installation, Options, install_chart, shared};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) use super::common::wait;
use super::common::{PATIENCE, poll};

/// All durations of the operator under test are divided by this; admission's bounds are real.
pub(crate) const DIVISOR: u32 = 300;

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) cluster: &'static ControlPlane,
    pub(crate) installation: Installation,
    pub(crate) sandbox: &'static Sandbox,
    /// None on a stage whose tests start and stop operators themselves.
    operator: Option<Operator>,
}

impl Stage {
    /// A release that is there already.
    pub(crate) fn around(cluster: &'static ControlPlane, installation: Installation) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        Self { cluster, installation, sandbox: sandbox(), operator: None }
    }

    /// The last lines of the operator that wrote last.
    pub(crate) fn last_words(&self, about: &str) -> String {
        let newest = std::fs::read_dir(self.cluster.dir())
            .unwrap()
            .filter_map(Result::ok)
            .filter(|file| file.file_name().to_string_lossy().starts_with("operator"))
            .max_by_key(|file| file.metadata().and_then(|m| m.modified()).ok());
        let log = newest.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
        let log = log.unwrap_or_default();
        let telling = |line: &&str| line.contains(about) || line.contains(r#""level":"WARN""#);
        let tail: Vec<&str> = log.lines().rev().filter(telling).take(40).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// An operator process.
pub(crate) struct Operator {
    process: Process,
    pub(crate) port: u16,
}

impl Operator {
    /// Starts the binary as the installation's service account.
    pub(crate) fn start(
        cluster: &ControlPlane,
        installation: &Installation,
        name: &str,
        divisor: u32,
        level: &str,
    ) -> Self {
        Self::start_with(cluster, installation, name, divisor, level, &[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(
        cluster: &ControlPlane,
        installation: &Installation,
        name: &str,
        divisor: u32,
        level: &str,
        further: &[&str],
    ) -> Self {
        let port = free_port();
        let log = cluster.dir().join(format!("{name}.log"));
        let mut args = vec![
            "run".to_owned(),
            format!("--operator-namespace={}", installation.namespace),
            format!("--kubeconfig={}", installation.kubeconfig.display()),
            format!("--lease-name={}", installation.name),
            format!("--identity={name}"),
            format!("--metrics-listen=127.0.0.1:{port}"),
            format!("--test-time-divisor={divisor}"),
            format!("--log-level={level}"),
        ];
        args.extend(further.iter().map(ToString::to_string));
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_llmkey-operator"));
        let process = Process::spawn(name, &binary, args, &[], &log).unwrap();
        Self { process, port }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    pub(crate) fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.process.exited().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal).unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port)).await;
        match answer {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    }

    pub(crate) async fn ready(&self) {
        wait("the operator is ready", async || (self.get("/readyz").await.0 == 200).then_some(())).await;
    }
}

/// A test that fails shows what its own operator did last.
impl Drop for Operator {
    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the operator's last lines:\n{}", lines[lines.len().saturating_sub(400)..].join("\n"));
        }
    }
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The one stage of this test process.
pub(crate) async fn stage() -> &'static Stage {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE.get_or_init(build).await
}

/// The sandbox serves tests on many runtimes: it has a thread and a runtime of its own.
fn sandbox() -> &'static Sandbox {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let sandbox = Sandbox::start(SandboxOptions::new(Arc::new(now))).await.unwrap();
            send.send(&*Box::leak(Box::new(sandbox))).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receive.recv().unwrap()
}

/// Real time: the sandbox's clock.
#[expect(clippy::disallowed_methods, reason = "a server of its own, outside the operator")]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

async fn build() -> Stage {
    with_operator("debug", shared().await.unwrap()).await
}

async fn with_operator(level: &str, cluster: &'static ControlPlane) -> Stage {
    let stage = without_operator(cluster).await;
    let further = ["--rollout=true"];
    let operator =
        Operator::start_with(stage.cluster, &stage.installation, "operator", DIVISOR, level, &further);
    operator.ready().await;
    Stage { operator: Some(operator), ..stage }
}

async fn without_operator(cluster: &'static ControlPlane) -> Stage {
    installed(cluster, &json!({"rollout": {"enabled": true}})).await
}

/// The chart with these values, and no operator.
pub(crate) async fn installed(cluster: &'static ControlPlane, values: &Value) -> Stage {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let installation = install_chart(cluster, "llmkey-system", values).await.unwrap();
    Stage { cluster, installation, sandbox: sandbox(), operator: None }
}

/// A stage on a control plane beside the shared one, on which no operator runs, for one test at a time.
pub(crate) async fn empty_stage() -> (tokio::sync::MutexGuard<'static, ()>, &'static Stage) {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let guard = ONE.lock().await;
    let build = async {
        let cluster = ControlPlane::start(Options::default()).await.unwrap();
        without_operator(Box::leak(Box::new(cluster))).await
    };
    (guard, Box::pin(STAGE.get_or_init(async || build.await)).await)
}

/// A control plane of its own for one test, on which no operator runs: what is changed there concerns everybody.
pub(crate) async fn own_stage() -> &'static Stage {
    let cluster = ControlPlane::start(Options::default()).await.unwrap();
    Box::leak(Box::new(without_operator(Box::leak(Box::new(cluster))).await))
}

/// A second stage, with a control plane of its own: its operator logs all it can, and its CRDs may be changed.
pub(crate) async fn traced() -> &'static Stage {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE
        .get_or_init(async || {
            let cluster = ControlPlane::start(Options::default()).await.unwrap();
            with_operator("trace", Box::leak(Box::new(cluster))).await
        })
        .await
}

/// One test's namespace, with an account of its own at the sandbox.
pub(crate) struct Tenant {
    pub(crate) stage: &'static Stage,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) project: String,
    pub(crate) provider: String,
    /// The account's admin credential.
    pub(crate) admin_key: &'static str,
}

impl Tenant {
    /// A namespace, a project, an admin credential and an LLMProvider that lets the namespace in.
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::on(stage().await, prefix).await
    }

    /// The same on another stage.
    pub(crate) async fn on(stage: &'static Stage, prefix: &str) -> Self {
        Self::of(stage, stage.cluster.namespace(prefix).await.unwrap()).await
    }

    /// The same in a namespace that exists.
    pub(crate) async fn of(stage: &'static Stage, namespace: String) -> Self {
        let client = stage.cluster.admin().unwrap();
        let project = stage.sandbox.create_project(&namespace);
        let admin_key = stage.sandbox.admin_key();
        let tenant = Self { stage, client, provider: namespace.clone(), namespace, project, admin_key };
        let host = tenant.sandbox().addr().to_string();
        tenant.credential(&tenant.provider, admin_key, &host).await;
        tenant.llm_provider(&tenant.provider, json!({})).await;
        tenant
    }

    /// The same at another provider, which `spec` tells of; `project` is a workspace or a team there.
    pub(crate) async fn moved(self, project: String, admin_key: &'static str, spec: Value) -> Self {
        let t = Self { provider: format!("{}-moved", self.namespace), project, admin_key, ..self };
        t.credential(&t.provider, admin_key, &t.sandbox().addr().to_string()).await;
        t.llm_provider(&t.provider, spec).await;
        t
    }

    /// The same where the credential has entries of its own.
    pub(crate) async fn with_entries(
        self,
        project: String,
        admin_key: &'static str,
        credential: Value,
        spec: Value,
    ) -> Self {
        let t = Self { provider: format!("{}-moved", self.namespace), project, admin_key, ..self };
        t.credential_of(&t.provider, credential).await;
        t.llm_provider(&t.provider, spec).await;
        t
    }

    pub(crate) fn sandbox(&self) -> &'static Sandbox {
        self.stage.sandbox
    }

    pub(crate) fn operator(&self) -> &Operator {
        self.stage.operator.as_ref().unwrap()
    }

    /// An admin credential in the operator's namespace.
    pub(crate) async fn credential(&self, name: &str, credential: &str, host: &str) {
        self.credential_of(name, json!({"credential": credential, "host": host})).await;
    }

    async fn credential_of(&self, name: &str, entries: Value) {
        let secret: Secret = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "labels": {"llmkeys.dev/admin-credential": "true"}},
            "stringData": entries,
        }))
        .unwrap();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.stage.installation.namespace);
        apply(&api, name, &serde_json::to_value(secret).unwrap()).await;
    }

    /// An LLMProvider at the sandbox; `changes` are merged into its spec.
    pub(crate) async fn llm_provider(&self, name: &str, changes: Value) {
        let mut spec = json!({
            "type": "OpenAI",
            "baseURL": self.sandbox().base_url(),
            "caBundle": self.sandbox().ca_pem(),
            "addresses": "AllowPrivate",
            "openAI": {"project": self.project},
            "adminCredentialRef": {"name": self.provider},
            "allowedNamespaces": [self.namespace],
        });
        merge(&mut spec, changes);
        let object = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": name}, "spec": spec,
        });
        apply(&Api::<LLMProvider>::all(self.client.clone()), name, &object).await;
    }

    /// A RotationPolicy.
    pub(crate) async fn policy(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        });
        apply(&Api::<RotationPolicy>::namespaced(self.client.clone(), &self.namespace), name, &object).await;
    }

    pub(crate) fn keys(&self) -> Api<LLMKey> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A minted LLMKey; `changes` are merged into its spec.
    pub(crate) async fn minted(&self, name: &str, changes: Value) {
        self.minted_with(name, json!({}), changes).await;
    }

    /// The same with annotations from the beginning.
    pub(crate) async fn minted_with(&self, name: &str, annotations: Value, changes: Value) {
        let mut spec = json!({"providerRef": {"name": self.provider}, "source": {"mint": {}}});
        merge(&mut spec, changes);
        self.key(name, annotations, spec).await;
    }

    /// A supplied LLMKey whose source Secret is `<name>-source`; `changes` are merged into its spec.
    pub(crate) async fn supplied(&self, name: &str, changes: Value) {
        let source = format!("{name}-source");
        let mut spec = json!({
            "providerRef": {"name": self.provider},
            "source": {"secretRef": {"name": source, "key": "key"}},
        });
        merge(&mut spec, changes);
        self.key(name, json!({}), spec).await;
    }

    pub(crate) async fn key(&self, name: &str, annotations: Value, spec: Value) {
        let key: LLMKey = serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": annotations}, "spec": spec,
        }))
        .unwrap();
        self.keys().create(&PostParams::default(), &key).await.unwrap();
    }

    /// Writes `<name>-source`.
    pub(crate) async fn source(&self, name: &str, value: &str) {
        let name = format!("{name}-source");
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value},
        });
        apply(&self.secrets(), &name, &object).await;
    }

    /// A key that the sandbox accepts, as a person would have made it.
    pub(crate) fn person_key(&self, tail: &str) -> String {
        let value = format!("sk-proj-{tail}-{}T3BlbkFJperson", self.namespace.replace('-', ""));
        let owner = llmkey_operator::sandbox::OwnerAccess::Active;
        self.sandbox().register_key(&value, &self.project, tail, owner).unwrap();
        value
    }

    pub(crate) async fn annotate(&self, name: &str, key: &str, value: Option<&str>) {
        self.patch(name, json!({"metadata": {"annotations": {key: value}}})).await;
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        self.keys().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.keys().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn get(&self, name: &str) -> LLMKey {
        self.keys().get(name).await.unwrap()
    }

    /// Waits until the LLMKey is as wanted; a failure shows it as it is, and the operator's last words.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&LLMKey) -> bool) -> LLMKey {
        let found = poll(async || self.keys().get(name).await.ok().filter(|key| wanted(key))).await;
        if let Some(key) = found {
            return key;
        }
        let status = self.keys().get(name).await.ok().and_then(|k| k.status);
        panic!(
            "{name}: not within {PATIENCE:?}: {what}\nstatus: {}\noperator:\n{}",
            serde_json::to_string_pretty(&status).unwrap(),
            self.stage.last_words(&self.namespace)
        );
    }

    pub(crate) async fn ready(&self, name: &str) -> LLMKey {
        self.until(name, "Ready", |key| is(key, "Ready", "True") && is(key, "Stalled", "False")).await
    }

    /// One entry of a Secret, as text.
    pub(crate) async fn delivered(&self, secret: &str, entry: &str) -> Option<String> {
        let found = self.secrets().get_opt(secret).await.unwrap()?;
        let ByteString(bytes) = found.data.unwrap_or_default().remove(entry)?;
        Some(String::from_utf8(bytes).unwrap())
    }
}

/// Whether the condition has the status.
pub(crate) fn is(key: &LLMKey, condition: &str, status: &str) -> bool {
    find(key, condition).is_some_and(|(found, _, _)| found == status)
}

/// Whether the condition has the reason.
pub(crate) fn because(key: &LLMKey, condition: &str, reason: &str) -> bool {
    find(key, condition).is_some_and(|(_, found, _)| found == reason)
}

/// A condition's status, reason and message.
pub(crate) fn find(key: &LLMKey, condition: &str) -> Option<(String, String, String)> {
    let conditions = &key.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == condition)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

/// The state of a version in status.
pub(crate) fn state(key: &LLMKey, version: i32) -> Option<String> {
    let versions = &key.status.as_ref()?.versions;
    Some(versions.iter().find(|v| v.version == version)?.state.clone())
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(object)).await.unwrap();
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, changes) => *into = changes,
    }
}
