//! The ground of a real node: what this machine must have, and namespaces and cgroups of its own.
//!
//! The node, all its containers and this program's inner half live in one PID, mount and network namespace. The kernel ends
//! all of it, with every mount and every interface, when its first process ends; that ends when the outer half does, however
//! it does. What is left then are a directory and empty cgroups.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use llmkey_operator::testbed::process::Workspace;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

const CGROUPS: &str = "/sys/fs/cgroup";
/// A cgroup of ours is named so, and after the process that made it.
const PREFIX: &str = "llmkey-e2e-";
/// Programs that a node needs, and the Debian package of each.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
];
/// Where distributions keep the CNI plugins.
const PLUGIN_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
/// The first process of the namespace: it reaps what loses its parent.
const FIRST: &str = r#""$@"; exit $?"#;
/// After its last process was killed, a cgroup can be removed within moments.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// The directory with the plugins of the container network.
pub fn plugins() -> Option<PathBuf> {
    let complete = |dir: &&&str| PLUGINS.iter().all(|plugin| Path::new(dir).join(plugin).is_file());
    PLUGIN_DIRS.iter().find(complete).map(PathBuf::from)
}

/// Why this machine cannot do it, a sentence each; empty if it can.
pub async fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !cfg!(target_os = "linux") {
        return vec!["a node needs Linux".to_owned()];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    for (program, package) in PROGRAMS {
        if !env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            missing.push(format!("there is no {program} on the PATH (Debian: {package})"));
        }
    }
    if plugins().is_none() {
        missing.push(format!(
            "none of {} has the CNI plugins {} (Debian: containernetworking-plugins)",
            PLUGIN_DIRS.join(", "),
            PLUGINS.join(", ")
        ));
    }
    let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("overlay"));
    if !overlay {
        missing.push("this kernel has no overlayfs".to_owned());
    }
    let mut try_out = Command::new("unshare");
    try_out.args([
        "--fork",
        "--pid",
        "--mount-proc",
        "--net",
        "--",
        "ip",
        "link",
        "add",
        "try",
        "type",
        "bridge",
    ]);
    match try_out.stdin(Stdio::null()).output().await {
        Ok(output) if output.status.success() => {}
        Ok(output) => missing.push(format!(
            "namespaces and a bridge in them cannot be made (are you root?): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        // Told above.
        Err(_) => {}
    }
    let name = format!("llmkey-try-{}", std::process::id());
    match hierarchies() {
        Ok(roots) if roots.is_empty() => missing.push(format!("no cgroups are mounted below {CGROUPS}")),
        Ok(roots) => {
            let made: io::Result<()> = roots.iter().try_for_each(|root| fs::create_dir(root.join(&name)));
            if let Err(error) = made {
                missing.push(format!("cgroups cannot be made below {CGROUPS} (are you root?): {error}"));
            }
            for root in roots {
                let _ = fs::remove_dir(root.join(&name));
            }
        }
        Err(error) => missing.push(format!("{CGROUPS} cannot be read: {error}")),
    }
    missing
}

/// Roots of the cgroup hierarchies: one of version 2, or one for each controller of version 1.
fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").is_file() {
        return Ok(vec![root]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        // Symbolic links are other names of the same hierarchy.
        if path.join("cgroup.procs").is_file() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// A directory and cgroups for one run; both go with this value.
pub struct Ground {
    workspace: Workspace,
    cgroup: String,
}

impl Ground {
    /// `keep` leaves the directory there for reading.
    pub fn lay(keep: bool) -> Result<Self, Failure> {
        let workspace = Workspace::create(keep)?;
        fs::create_dir(workspace.path().join("tmp"))?;
        let ground = Self { workspace, cgroup: format!("{PREFIX}{}", std::process::id()) };
        for root in hierarchies()? {
            // Left by a run that was killed. One that lives may have empty groups, too.
            for entry in fs::read_dir(&root)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.strip_prefix(PREFIX).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                    let _ = remove_cgroup(&entry.path());
                }
            }
            let own = root.join(&ground.cgroup);
            fs::create_dir(&own)?;
            // Version 1 gives a new group neither processors nor memory nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if own.join("cgroup.clone_children").is_file() && own.join(file).is_file() {
                    fs::write(own.join(file), fs::read_to_string(root.join(file))?)?;
                }
            }
        }
        Ok(ground)
    }

    /// Where everything of this run lies.
    pub fn dir(&self) -> &Path {
        self.workspace.path()
    }

    /// Runs the inner half with `arguments` until it ends or a signal comes; whether it was left to its end, and its exit code.
    pub async fn run(&self, arguments: &[String]) -> Result<Option<i32>, Failure> {
        let mut inner = Command::new("unshare")
            .args(["--fork", "--pid", "--kill-child", "--mount-proc", "--net", "--", "sh", "-c", FIRST, "sh"])
            .arg(env::current_exe()?)
            .args(arguments)
            .args([Path::new("--dir"), self.dir(), Path::new("--cgroup"), Path::new(&self.cgroup)])
            .env("TMPDIR", self.dir().join("tmp"))
            // The inner half ends when this end of it closes.
            .stdin(Stdio::piped())
            // Ctrl-C is for us.
            .process_group(0)
            .spawn()?;
        let lifeline = inner.stdin.take();
        let mut terminated = signal(SignalKind::terminate())?;
        let ended = tokio::select! {
            status = inner.wait() => Some(status?.code().unwrap_or(1)),
            _ = terminated.recv() => None,
            interrupted = tokio::signal::ctrl_c() => { interrupted?; None }
        };
        drop(lifeline);
        if ended.is_none() {
            end(&mut inner).await?;
        }
        Ok(ended)
    }

    /// Removes the cgroups, as soon as the kernel has taken the last process out of them.
    pub async fn clear(self) -> Result<(), Failure> {
        let cleared = async {
            for root in hierarchies()? {
                while let Err(error) = remove_cgroup(&root.join(&self.cgroup)) {
                    if error.kind() == io::ErrorKind::NotFound {
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok(())
        };
        let late = |_| Err(Failure::from(format!("the cgroup {} still has processes", self.cgroup)));
        tokio::time::timeout(EMPTY_WITHIN, cleared).await.unwrap_or_else(late)
    }
}

/// It ends by itself, since its lifeline is cut; if it does not, the kernel ends it with its parent.
async fn end(inner: &mut Child) -> io::Result<()> {
    match tokio::time::timeout(EMPTY_WITHIN, inner.wait()).await {
        Ok(status) => status.map(drop),
        Err(_) => inner.kill().await,
    }
}

/// Removes a cgroup and those below it; the files in them are not removed, they go along.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
