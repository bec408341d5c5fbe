//! The programs that are not ours: where they come from, and helm.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Error, source_dir};

/// The programs of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// etcd 3.6.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kubectl, if there is one.
    pub kubectl: Option<PathBuf>,
}

/// Finds the programs. `KUBEBUILDER_ASSETS` is honoured when it names a directory with `etcd` and
/// `kube-apiserver`; what is missing there, and everything without it, comes from our own build
/// (`hack/build-tools.sh`), which takes minutes the first time. Blocks.
pub fn binaries() -> Result<Binaries, Error> {
    match env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
        Some(dir) => from_assets(Path::new(&dir), || build("control-plane")),
        None => Ok(from_build(&build("control-plane")?)),
    }
}

/// The pinned helm, built by us. Blocks.
pub fn helm() -> Result<PathBuf, Error> {
    Ok(build("helm")?.join("helm"))
}

/// The scheduler of our own build of the control plane. Blocks.
pub fn kube_scheduler() -> Result<PathBuf, Error> {
    Ok(build("control-plane")?.join("kube-scheduler"))
}

/// The kubelet of the same build. Blocks.
pub fn kubelet() -> Result<PathBuf, Error> {
    Ok(build("control-plane")?.join("kubelet"))
}

/// The pinned promtool, built by us. Blocks.
pub fn promtool() -> Result<PathBuf, Error> {
    Ok(build("promtool")?.join("promtool"))
}

/// The pinned Prometheus, built by us. Blocks.
pub fn prometheus() -> Result<PathBuf, Error> {
    Ok(build("prometheus")?.join("prometheus"))
}

/// Flux's judgement of objects, built by us. Blocks.
pub fn kstatus() -> Result<PathBuf, Error> {
    Ok(build("kstatus")?.join("kstatus"))
}

fn from_build(dir: &Path) -> Binaries {
    Binaries {
        etcd: dir.join("etcd"),
        kube_apiserver: dir.join("kube-apiserver"),
        kube_controller_manager: dir.join("kube-controller-manager"),
        kubectl: Some(dir.join("kubectl")),
    }
}

fn from_assets(dir: &Path, build: impl FnOnce() -> Result<PathBuf, Error>) -> Result<Binaries, Error> {
    let present = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    let (Some(etcd), Some(kube_apiserver)) = (present("etcd"), present("kube-apiserver")) else {
        return Err(Error::Tool(format!(
            "KUBEBUILDER_ASSETS is {}, which does not hold both etcd and kube-apiserver; correct it, or unset it to build them",
            dir.display()
        )));
    };
    let kube_controller_manager = if let Some(path) = present("kube-controller-manager") {
        path
    } else {
        tracing::info!(assets = %dir.display(), "no kube-controller-manager among the assets: using our own build");
        build()?.join("kube-controller-manager")
    };
    let kubectl = present("kubectl").or_else(|| on_path("kubectl"));
    Ok(Binaries { etcd, kube_apiserver, kube_controller_manager, kubectl })
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs the build script, whose progress goes to our standard error, and gives the directory it names.
fn build(tool: &str) -> Result<PathBuf, Error> {
    let script = source_dir().join("hack/build-tools.sh");
    let output = Command::new("bash")
        .arg(&script)
        .arg(tool)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::path("run", &script))?;
    let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && dir.is_dir() {
        Ok(dir)
    } else {
        Err(Error::Tool(format!("{tool} could not be built; {} says why above", script.display())))
    }
}

/// Renders a chart as `helm template` does, CRDs included and test hooks left out. No cluster is asked.
/// Blocks.
pub fn render_chart(
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &Value,
) -> Result<Vec<Value>, Error> {
    let mut helm = Command::new(helm()?)
        .args(["template", release])
        .arg(chart)
        .args(["--namespace", namespace, "--include-crds", "--skip-tests", "--kube-version", "v1.36.3"])
        .args(["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"])
        .args(["--values", "-"])
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("start helm"))?;
    if let Some(mut stdin) = helm.stdin.take() {
        // JSON is YAML.
        stdin.write_all(values.to_string().as_bytes()).map_err(Error::io("write helm's values"))?;
    }
    let output = helm.wait_with_output().map_err(Error::io("run helm"))?;
    let what = || format!("helm template {}", chart.display());
    if !output.status.success() {
        return Err(Error::Format {
            what: what(),
            problem: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    manifests(&String::from_utf8_lossy(&output.stdout)).map_err(Error::format(what()))
}

/// The documents of a YAML stream; empty ones are left out.
pub fn manifests(yaml: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::process::Workspace;
    use super::*;

    fn assets(names: &[&str]) -> Workspace {
        let workspace = Workspace::create(false).unwrap();
        for name in names {
            fs::write(workspace.path().join(name), "").unwrap();
        }
        workspace
    }

    #[test]
    fn complete_assets_need_no_build() {
        let dir = assets(&["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"]);
        let found = from_assets(dir.path(), || panic!("built")).unwrap();
        assert_eq!(found, from_build(dir.path()));
    }

    #[test]
    fn a_missing_controller_manager_is_built() {
        let dir = assets(&["etcd", "kube-apiserver"]);
        let found = from_assets(dir.path(), || Ok(PathBuf::from("/built"))).unwrap();
        assert_eq!(found.kube_controller_manager, Path::new("/built/kube-controller-manager"));
        assert_eq!(found.etcd, dir.path().join("etcd"));
    }

    #[test]
    fn assets_without_an_api_server_are_refused() {
        let dir = assets(&["etcd"]);
        let error = from_assets(dir.path(), || panic!("built")).unwrap_err().to_string();
        assert!(error.contains("KUBEBUILDER_ASSETS"), "{error}");
    }

    #[test]
    fn empty_documents_are_left_out() {
        let documents = manifests("---\na: 1\n---\n# only a comment\n---\nb: [2]\n").unwrap();
        assert_eq!(documents, [serde_json::json!({"a": 1}), serde_json::json!({"b": [2]})]);
    }
}
