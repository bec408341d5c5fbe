//! The node: a bridge, containerd and the kubelet, inside of the namespaces that [`super::ground`] made.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use llmkey_operator::testbed::process::Process;
use llmkey_operator::testbed::{ControlPlane, NODE, SERVICE_ADDRESS, tools};
use serde_json::json;

use super::{Failure, ground};

/// The node's address on the bridge, and the gateway of all pods.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const PODS: &str = "10.244.0.0/16";
const BRIDGE: &str = "cni0";
/// Host directories that programs write to whatever they are told: each is an empty one of our own here.
const PRIVATE: [&str; 4] = ["/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet"];
const STARTED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Containerd and the kubelet; their containers live on when these end.
pub struct Node {
    dir: PathBuf,
    containerd: Process,
    kubelet: Process,
}

/// Gives the namespaces their network and their empty directories.
pub fn prepare() -> Result<(), Failure> {
    for dir in PRIVATE {
        fs::create_dir_all(dir)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", dir]))?;
    }
    fs::create_dir_all("/run/lock")?;
    let addresses = [format!("{ADDRESS}/16"), format!("{SERVICE_ADDRESS}/32")];
    for words in [
        vec!["link", "set", "lo", "up"],
        vec!["link", "add", BRIDGE, "type", "bridge"],
        vec!["address", "add", &addresses[0], "dev", BRIDGE],
        vec!["address", "add", &addresses[1], "dev", BRIDGE],
        vec!["link", "set", BRIDGE, "up"],
    ] {
        run(Command::new("ip").args(words))?;
    }
    Ok(())
}

impl Node {
    /// Starts containerd with the given images, the first of which holds a pod's namespaces, and then the kubelet.
    pub async fn start(
        dir: &Path,
        cgroup: &str,
        cluster: &ControlPlane,
        pause: &str,
        images: &[PathBuf],
    ) -> Result<Self, Failure> {
        let dir = dir.join("node");
        fs::create_dir_all(dir.join("cni"))?;
        write_files(&dir, cgroup, cluster, pause)?;
        let containerd = start_containerd(&dir)?;
        let mut node = Self { kubelet: start_kubelet(&dir, cluster)?, dir, containerd };
        node.until_containerd_answers().await?;
        for image in images {
            let mut import = node.ctr();
            run(import.args(["images", "import"]).arg(image))?;
        }
        Ok(node)
    }

    /// Kills containerd and the kubelet (SIGKILL) and starts both again. Containers run on meanwhile.
    pub async fn restart(&mut self, cluster: &ControlPlane) -> Result<(), Failure> {
        self.kubelet.signal("KILL")?;
        self.containerd.signal("KILL")?;
        while self.kubelet.exited()?.is_none() || self.containerd.exited()?.is_none() {
            tokio::time::sleep(POLL).await;
        }
        self.containerd = start_containerd(&self.dir)?;
        self.until_containerd_answers().await?;
        self.kubelet = start_kubelet(&self.dir, cluster)?;
        Ok(())
    }

    /// Kills the first process of a container (SIGKILL), as the node's kernel would when memory is short.
    pub fn kill(&self, container_id: &str) -> Result<(), Failure> {
        let id = container_id.trim_start_matches("containerd://");
        run(self.ctr().args(["tasks", "kill", "--signal", "SIGKILL", id]))
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(socket(&self.dir)).args(["--namespace", "k8s.io"]);
        ctr
    }

    async fn until_containerd_answers(&mut self) -> Result<(), Failure> {
        let answers = async {
            while !self.ctr().arg("version").output()?.status.success() {
                self.containerd.alive()?;
                tokio::time::sleep(POLL).await;
            }
            Ok::<(), Failure>(())
        };
        match tokio::time::timeout(STARTED_WITHIN, answers).await {
            Ok(answered) => answered,
            Err(_) => Err(self.containerd.failure("does not answer").into()),
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

fn start_containerd(dir: &Path) -> Result<Process, Failure> {
    let arguments = [Path::new("--config"), &dir.join("containerd.toml")];
    Ok(Process::spawn("containerd", Path::new("containerd"), arguments, &[], &dir.join("containerd.log"))?)
}

fn start_kubelet(dir: &Path, cluster: &ControlPlane) -> Result<Process, Failure> {
    let program = tools::kubelet()?;
    let arguments = [
        format!("--config={}", dir.join("kubelet.json").display()),
        format!("--kubeconfig={}", cluster.dir().join("kubelet.kubeconfig").display()),
        format!("--root-dir={}", dir.join("kubelet").display()),
        format!("--cert-dir={}", dir.join("pki").display()),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={ADDRESS}"),
    ];
    Ok(Process::spawn("kubelet", &program, arguments, &[], &dir.join("kubelet.log"))?)
}

fn write_files(dir: &Path, cgroup: &str, cluster: &ControlPlane, pause: &str) -> Result<(), Failure> {
    let plugins = ground::plugins().ok_or("no CNI plugins")?;
    let containerd = format!(
        r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A machine may lack CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/cni"
"#,
        dir = dir.display(),
        socket = socket(dir).display(),
        plugins = plugins.display(),
    );
    fs::write(dir.join("containerd.toml"), containerd)?;
    let network = json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": BRIDGE, "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": PODS, "rangeStart": "10.244.1.0"}]],
                "routes": [{"dst": "0.0.0.0/0"}], "dataDir": dir.join("addresses"),
            },
        }],
    });
    fs::write(dir.join("cni/10-pods.conflist"), network.to_string())?;
    // Nobody answers there: no name is needed, and none of the machine's is to be asked for.
    fs::write(dir.join("resolv.conf"), format!("nameserver {ADDRESS}\n"))?;
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", socket(dir).display()),
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": cluster.dir().join("ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{cgroup}"), "enforceNodeAllocatable": [],
        "failCgroupV1": false, "failSwapOn": false,
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        // A test must not wait for the disk of the machine that it runs on.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": dir.join("pods"),
        "volumePluginDir": dir.join("volume-plugins"),
        "resolvConf": dir.join("resolv.conf"),
        "registerWithTaints": [],
    });
    Ok(fs::write(dir.join("kubelet.json"), kubelet.to_string())?)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
