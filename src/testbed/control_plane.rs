//! etcd, kube-apiserver and kube-controller-manager, and a scheduler where nodes may join, started for one process.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Config};
use serde_json::Value;

use super::components::{self, spawn};
use super::kubeconfig::{self, User};
use super::pki::Pki;
use super::process::{Process, Workspace, random_suffix};
use super::tools::{self, Binaries};
use super::{Error, etcd};

/// How long a component may take to become ready. On an idle machine all of them take 4 s.
const READY_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
/// Where pods look for the API server: the first address of the range of Services.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The lifetime of service account tokens: longer than any test, demo or benchmark.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// What a control plane is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Flags for kube-apiserver behind our own; a repeated flag wins over ours.
    pub extra_apiserver_args: Vec<String>,
    /// Let etcd sync every write to disk. Off by default: tests need speed, not durability.
    pub fsync: bool,
    /// Leave the directory (logs, audit log, data) after the end.
    pub keep: bool,
    /// Let nodes join, and pods reach the API server: it serves at port 443 of every address of this network namespace, which
    /// must be the caller's own and have this one and [`SERVICE_ADDRESS`]. None: no node runs.
    pub node_address: Option<Ipv4Addr>,
}

/// A running control plane. Dropping it kills the components and removes the directory.
#[derive(Debug)]
pub struct ControlPlane {
    // Fields are dropped in this order: clients of a component before the component.
    scheduler: Option<Process>,
    controllers: Process,
    apiserver: Mutex<Process>,
    etcd: Process,
    apiserver_args: Vec<String>,
    binaries: Binaries,
    workspace: Workspace,
    url: String,
    etcd_endpoint: String,
    ca_pem: String,
    admin: Config,
    version: String,
}

impl ControlPlane {
    /// Starts the components (building them first if need be, see [`tools`]) and waits until the API
    /// server is ready and a service account exists in the namespace `default`.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let binaries = tokio::task::spawn_blocking(tools::binaries)
            .await
            .map_err(Error::format("the tools' build"))??;
        // Only the first call in a process can succeed; any later one finds the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let workspace = Workspace::create(options.keep)?;
        let dir = workspace.path().to_owned();
        let pki = Pki::generate(options.node_address)?;
        components::write_files(&dir, &pki)?;

        let (etcd, etcd_endpoint) = components::start_etcd(&binaries, &dir, &options).await?;
        let (apiserver, url, apiserver_args) =
            components::start_apiserver(&binaries, &dir, &pki, &etcd_endpoint, &options).await?;
        let mut controllers = components::start_controllers(&binaries, &dir, &url, &pki, &options)?;
        let scheduler = components::start_scheduler(&dir, &url, &pki, &options).await?;

        let admin = kubeconfig::config(&dir.join("admin.kubeconfig")).await?;
        let client = Client::try_from(admin.clone()).map_err(Error::kube("make a client"))?;
        until_ready(&mut controllers, || has_default_account(&client, "default")).await?;
        let version = client.apiserver_version().await.map_err(Error::kube("GET /version"))?.git_version;
        tracing::info!(%url, %version, dir = %dir.display(), "control plane is ready");
        Ok(Self {
            scheduler,
            controllers,
            apiserver: Mutex::new(apiserver),
            etcd,
            apiserver_args,
            binaries,
            workspace,
            url,
            etcd_endpoint,
            ca_pem: pki.authority,
            admin,
            version,
        })
    }

    /// The directory with logs (`<component>.log`), keys, data and the audit log.
    pub fn dir(&self) -> &Path {
        self.workspace.path()
    }

    /// The API server's address, `https://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The authority that signed the API server's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The server's version as `/version` gives it, for example `v1.36.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// etcd's address, plain HTTP on loopback.
    pub fn etcd_endpoint(&self) -> &str {
        &self.etcd_endpoint
    }

    /// The programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The configuration of a member of `system:masters`.
    pub fn admin_config(&self) -> Config {
        self.admin.clone()
    }

    /// The same as a kubeconfig file, mode 0600.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// A new client for a member of `system:masters`. It belongs to the calling runtime.
    pub fn admin(&self) -> Result<Client, Error> {
        Client::try_from(self.admin_config()).map_err(Error::kube("make a client"))
    }

    /// Creates a namespace `<prefix>-<random>` in which pods can be created at once, and gives its name.
    pub async fn namespace(&self, prefix: &str) -> Result<String, Error> {
        let name = format!("{prefix}-{}", random_suffix()?);
        let client = self.admin()?;
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .map_err(Error::kube(format!("create the namespace {name}")))?;
        if until(|| has_default_account(&client, &name)).await? {
            Ok(name)
        } else {
            Err(self.controllers.failure(format!("made no service account in {name}")))
        }
    }

    /// Writes a kubeconfig (mode 0600) with a fresh token of an existing service account.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf, Error> {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let token = Api::<ServiceAccount>::namespaced(self.admin()?, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(Error::kube(format!("get a token for {namespace}/{name}")))?
            .status
            .map(|status| status.token)
            .unwrap_or_default();
        let path = self.dir().join(format!("{namespace}.{name}.kubeconfig"));
        let document = kubeconfig::document(&self.url, &self.ca_pem, &User::Token(&token), namespace);
        kubeconfig::write(&path, &document)?;
        Ok(path)
    }

    /// A client that acts as a service account, with exactly its rights.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> Result<Client, Error> {
        let path = self.service_account_kubeconfig(namespace, name).await?;
        Client::try_from(kubeconfig::config(&path).await?).map_err(Error::kube("make a client"))
    }

    /// The audit log: one JSON event a line at level Metadata, written before the response is sent.
    pub fn audit_log(&self) -> PathBuf {
        self.dir().join("audit.log")
    }

    /// The events of the audit log in order. A last line that is still being written is left out.
    pub fn audit_events(&self) -> Result<Vec<Value>, Error> {
        let path = self.audit_log();
        let text = fs::read_to_string(&path).map_err(Error::path("read", &path))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).map_err(Error::format(path.display().to_string())))
            .collect()
    }

    /// Every write that etcd has seen, as stored, deleted and overwritten values included.
    pub async fn etcd_get_all(&self) -> Result<Vec<etcd::Entry>, Error> {
        etcd::history(&self.etcd_endpoint).await
    }

    /// The API server's process id; it changes with [`Self::restart_apiserver`].
    pub fn apiserver_pid(&self) -> u32 {
        self.apiserver.lock().unwrap_or_else(PoisonError::into_inner).pid()
    }

    /// etcd's process id.
    pub fn etcd_pid(&self) -> u32 {
        self.etcd.pid()
    }

    /// The controller manager's process id.
    pub fn controllers_pid(&self) -> u32 {
        self.controllers.pid()
    }

    /// The scheduler's process id, if nodes may join.
    pub fn scheduler_pid(&self) -> Option<u32> {
        self.scheduler.as_ref().map(Process::pid)
    }

    /// Sends the API server a signal, for example `STOP` and `CONT`: silent, but connected.
    pub fn signal_apiserver(&self, signal: &str) -> Result<(), Error> {
        self.apiserver.lock().unwrap_or_else(PoisonError::into_inner).signal(signal)
    }

    /// Kills the API server (SIGKILL) and starts it again at the same address.
    pub async fn restart_apiserver(&self) -> Result<(), Error> {
        self.signal_apiserver("KILL")?;
        // The address must be free before the successor asks for it.
        until(|| async {
            Ok(self.apiserver.lock().unwrap_or_else(PoisonError::into_inner).exited()?.is_some())
        })
        .await?;
        let mut process =
            spawn(&self.binaries.kube_apiserver, "kube-apiserver", &self.apiserver_args, self.dir())?;
        wait_ready(&self.admin()?, &mut process).await?;
        *self.apiserver.lock().unwrap_or_else(PoisonError::into_inner) = process;
        Ok(())
    }
}

/// Waits until the API server answers `/readyz` with the certificate that we gave it.
pub(super) async fn wait_ready(client: &Client, process: &mut Process) -> Result<(), Error> {
    until_ready(process, || async {
        let request = Request::get("/readyz").body(Vec::new()).map_err(Error::format("GET /readyz"))?;
        Ok(client.request_text(request).await.is_ok_and(|answer| answer == "ok"))
    })
    .await
}

/// Waits for a component; fails early, with the end of its log, if it ends instead.
pub(super) async fn until_ready<F>(process: &mut Process, ready: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<bool, Error>>,
{
    let wait = async {
        loop {
            process.alive()?;
            if ready().await? {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(READY_WITHIN, wait).await {
        Ok(result) => result,
        Err(_) => Err(process.failure("did not become ready in time")),
    }
}

/// Asks until the answer is yes; `false` when [`READY_WITHIN`] has passed.
async fn until<F>(condition: impl Fn() -> F) -> Result<bool, Error>
where
    F: Future<Output = Result<bool, Error>>,
{
    let wait = async {
        while !condition().await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    };
    tokio::time::timeout(READY_WITHIN, wait).await.unwrap_or(Ok(false))
}

async fn has_default_account(client: &Client, namespace: &str) -> Result<bool, Error> {
    let account = Api::<ServiceAccount>::namespaced(client.clone(), namespace)
        .get_opt("default")
        .await
        .map_err(Error::kube(format!("get the service account of {namespace}")))?;
    Ok(account.is_some())
}
