//! The cluster with its node and the provider, and how one looks at them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node as KubeNode, Pod};
use kube::api::{Api, ListParams, LogParams, Patch, PatchParams};
use kube::{Client, Resource};
use llmkey_operator::api::{LLMKey, ROTATE, VersionStatus};
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::{Sandbox, SandboxOptions};
use llmkey_operator::testbed::{ControlPlane, NODE, Options, source_dir, tools};
use serde_json::{Value, json};
use tokio::process::Command;

use super::checks::Report;
use super::node::{self, Node};
use super::workloads::{OPERATOR, PROBER, RELEASE, SDK, TENANT, Way};
use super::{Failure, image, line, sdk};

/// Image of the operator, under two tags: an upgrade goes from one to the other.
pub const IMAGE: &str = "localhost/llmkey-operator";
pub const TAGS: [&str; 2] = ["one", "two"];
const PAUSE: &str = "localhost/pause:e2e";
const POLL: Duration = Duration::from_millis(200);
/// Of each replica's log, what a failure shows.
const LOG_LINES: i64 = 15;
const LOG_WIDTH: usize = 300;

/// Everything that runs.
pub struct Stage {
    /// The node, before the control plane that it talks to.
    pub node: Node,
    pub cluster: ControlPlane,
    pub sandbox: Sandbox,
    pub client: Client,
    /// Where probers write.
    pub lines: PathBuf,
    /// The workloads that there are.
    pub ways: Vec<Way>,
    dir: PathBuf,
}

impl Stage {
    /// From empty namespaces to a node that is ready.
    pub async fn set(dir: &Path, cgroup: &str, report: &Report) -> Result<Self, Failure> {
        report.say("a control plane, containerd and a kubelet, in namespaces of their own")?;
        node::prepare()?;
        let options = Options { node_address: Some(node::ADDRESS), ..Options::default() };
        let cluster = ControlPlane::start(options).await?;
        let client = cluster.admin()?;
        let lines = dir.join("lines");
        fs::create_dir(&lines)?;
        fs::set_permissions(&lines, fs::Permissions::from_mode(0o777))?;
        let (operator, prober) = (image::binary("llmkey-operator")?, image::binary("prober")?);
        let names = TAGS.map(|tag| format!("{IMAGE}:{tag}"));
        let mut images = vec![
            image::pack(dir, &prober, &["pause"], &[PAUSE])?,
            image::pack(dir, &prober, &["use"], &[PROBER])?,
            image::pack(dir, &operator, &["run"], &[&names[0], &names[1]])?,
        ];
        report.say(&format!(
            "the operator's image: {:.1} MB, one static binary and the certificate authorities",
            f64::from(u32::try_from(fs::metadata(&images[2])?.len())?) / 1e6
        ))?;
        let mut ways = Way::ALL.to_vec();
        match sdk::version(dir) {
            Some(version) => {
                images.push(sdk::pack(dir, SDK)?);
                report.say(&format!("a workload with OpenAI's SDK for Python, version {version}"))?;
            }
            None => ways.retain(|way| *way != Way::Sdk),
        }
        let node = Node::start(dir, cgroup, &cluster, PAUSE, &images).await?;
        let clock = Clock::start();
        let mut options = SandboxOptions::new(Arc::new(move || clock.now_precise()));
        options.listen = SocketAddr::from((node::ADDRESS, 0));
        options.names = vec![node::ADDRESS.to_string()];
        let sandbox = Sandbox::start(options).await?;
        let stage = Self { node, cluster, sandbox, client, lines, ways, dir: dir.to_owned() };
        stage.node_ready().await?;
        report.say(&format!("Kubernetes {} has a node that is ready", stage.cluster.version()))?;
        Ok(stage)
    }

    /// Waits until the node is ready.
    pub async fn node_ready(&self) -> Result<(), Failure> {
        let nodes: Api<KubeNode> = Api::all(self.client.clone());
        until(Duration::from_secs(240), "the node is ready", async || {
            let status = nodes.get(NODE).await?.status.unwrap_or_default();
            let ready = |kind: &str| {
                status.conditions.iter().flatten().any(|found| found.type_ == kind && found.status == "True")
            };
            Ok(ready("Ready").then_some(()))
        })
        .await
    }

    /// Workloads that have an older key until they are restarted.
    pub fn restarted(&self) -> Vec<Way> {
        self.ways.iter().copied().filter(|way| *way != Way::Reload).collect()
    }

    /// Runs helm on the operator's release.
    pub async fn helm(&self, arguments: &[&str], values: &Value) -> Result<(), Failure> {
        let file = self.dir.join("values.json");
        fs::write(&file, values.to_string())?;
        let chart = source_dir().join("charts/llmkey-operator");
        let mut helm = Command::new(tools::helm()?);
        helm.args(&arguments[..1]).arg(RELEASE);
        if arguments[0] != "uninstall" {
            helm.arg(chart).arg("--values").arg(file);
        }
        let home = self.dir.join("helm");
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(name, &home);
        }
        helm.args(&arguments[1..]).args(["--namespace", OPERATOR, "--wait", "--timeout", "5m"]);
        let output = helm.env("KUBECONFIG", self.cluster.admin_kubeconfig()).output().await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    /// The tenant's objects of a kind.
    pub fn tenant<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), TENANT)
    }

    /// Pods of a namespace that are not on their way out.
    pub async fn pods(&self, namespace: &str, label: &str) -> Result<Vec<Pod>, Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut pods = api.list(&ListParams::default().labels(label)).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Waits until a Deployment of the tenant has nothing but new and available pods; old ones are gone.
    pub async fn rolled_out(&self, name: &str, replicas: usize) -> Result<Deployment, Failure> {
        let deployments: Api<Deployment> = self.tenant();
        until(Duration::from_secs(300), &format!("{name} is rolled out"), async || {
            let deployment = deployments.get(name).await?;
            let status = deployment.status.clone().unwrap_or_default();
            let all =
                |count: Option<i32>| count.and_then(|count| usize::try_from(count).ok()) == Some(replicas);
            let seen = status.observed_generation == deployment.metadata.generation;
            let done = seen
                && [status.replicas, status.updated_replicas, status.available_replicas].into_iter().all(all);
            Ok(done.then_some(deployment))
        })
        .await
    }

    /// Waits for a state of a key.
    pub async fn key_when(
        &self,
        name: &str,
        within: Duration,
        what: &str,
        wanted: impl Fn(&LLMKey) -> bool,
    ) -> Result<LLMKey, Failure> {
        let keys: Api<LLMKey> = self.tenant();
        until(within, &format!("{name}: {what}"), async || {
            Ok(Some(keys.get(name).await?).filter(|key| wanted(key)))
        })
        .await
    }

    /// Changes a key as `kubectl patch` does.
    pub async fn patch_key(&self, name: &str, patch: Value) -> Result<(), Failure> {
        let keys: Api<LLMKey> = self.tenant();
        keys.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Asks for a rotation.
    pub async fn rotate(&self, name: &str, token: &str) -> Result<(), Failure> {
        self.patch_key(name, json!({"metadata": {"annotations": {ROTATE: token}}})).await
    }

    /// Waits until a namespace is gone.
    pub async fn gone(&self, name: &str) -> Result<(), Failure> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        until(Duration::from_secs(300), &format!("the namespace {name} is gone"), async || {
            Ok(namespaces.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// What helps to find out why something did not come.
    pub async fn explain(&self) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), OPERATOR);
        for pod in self.pods(OPERATOR, &format!("app.kubernetes.io/instance={RELEASE}")).await? {
            let name = pod.metadata.name.unwrap_or_default();
            let asked = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
            let text = api.logs(&name, &asked).await.unwrap_or_else(|error| error.to_string());
            line(&format!("\nThe end of {name}'s log:"))?;
            for entry in text.lines() {
                line(&format!("  {}", entry.chars().take(LOG_WIDTH).collect::<String>()))?;
            }
        }
        if let Some(kubectl) = &self.cluster.binaries().kubectl {
            let shown = Command::new(kubectl)
                .args(["get", "llmkeys,llmproviders,deployments,pods", "--all-namespaces", "--output=wide"])
                .env("KUBECONFIG", self.cluster.admin_kubeconfig())
                .output()
                .await?;
            line(&format!(
                "\nThe resources (--keep leaves all logs):\n{}",
                String::from_utf8_lossy(&shown.stdout)
            ))?;
        }
        Ok(())
    }
}

/// Waits for something to be seen. What goes wrong meanwhile is tried again: the API server may be starting.
pub async fn until<T>(
    within: Duration,
    what: &str,
    seen: impl AsyncFn() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let mut last = String::new();
    let wait = async {
        loop {
            match seen().await {
                Ok(Some(found)) => return found,
                Ok(None) => last.clear(),
                Err(error) => last = format!(" ({error})"),
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(within, wait).await {
        Ok(found) => Ok(found),
        Err(_) => Err(format!("not seen within {} s: {what}{last}", within.as_secs()).into()),
    }
}

/// The published version of a key.
pub fn current(key: &LLMKey) -> Option<i32> {
    key.status.as_ref()?.current_version
}

/// One version of a key.
pub fn version(key: &LLMKey, number: i32) -> Option<&VersionStatus> {
    key.status.as_ref()?.versions.iter().find(|version| version.version == number)
}

/// The provider's id of a version's key. The operator's own names the service account before it.
pub fn provider_id(key: &LLMKey, number: i32) -> Option<String> {
    let id = version(key, number)?.provider_key_id.as_ref()?;
    Some(id.rsplit('/').next()?.to_owned())
}

/// Whether the provider has confirmed the end of a version's key.
pub fn revoked(key: &LLMKey, number: i32) -> bool {
    version(key, number).is_some_and(|version| version.state == "Revoked")
}

/// Whether a condition is true, said of the present spec.
pub fn is(key: &LLMKey, condition: &str) -> bool {
    key.status.as_ref().is_some_and(|status| {
        status.observed_generation == key.metadata.generation
            && status.conditions.iter().any(|found| found.type_ == condition && found.status == "True")
    })
}
