//! etcd, kube-apiserver and kube-controller-manager, started for one test process.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Config};
use serde_json::Value;

use super::kubeconfig::{self, User, write_private};
use super::pki::Pki;
use super::process::{Process, Workspace, random_suffix};
use super::tools::{self, Binaries};
use super::{Error, etcd};

/// How long a component may take to become ready. On an idle machine all of them take 4 s.
const READY_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
/// Somebody else may take a free port between our look and our bind.
const PORT_ATTEMPTS: u32 = 5;
/// The lifetime of service account tokens: longer than any test, demo or benchmark.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// Every request, without its body: bodies hold Secrets.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// What a control plane is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Flags for kube-apiserver behind our own; a repeated flag wins over ours.
    pub extra_apiserver_args: Vec<String>,
    /// Let etcd sync every write to disk. Off by default: tests need speed, not durability.
    pub fsync: bool,
    /// Leave the directory (logs, audit log, data) after the end.
    pub keep: bool,
}

/// A running control plane. Dropping it kills the components and removes the directory.
#[derive(Debug)]
pub struct ControlPlane {
    // Fields are dropped in this order: clients of a component before the component.
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
        let pki = Pki::generate()?;
        write_files(&dir, &pki)?;

        let (etcd, etcd_endpoint) = start_etcd(&binaries, &dir, &options).await?;
        let (apiserver, url, apiserver_args) =
            start_apiserver(&binaries, &dir, &pki, &etcd_endpoint, &options).await?;
        let mut controllers = start_controllers(&binaries, &dir, &url, &pki)?;

        let admin = kubeconfig::config(&dir.join("admin.kubeconfig")).await?;
        let client = Client::try_from(admin.clone()).map_err(Error::kube("make a client"))?;
        until_ready(&mut controllers, || has_default_account(&client, "default")).await?;
        let version = client.apiserver_version().await.map_err(Error::kube("GET /version"))?.git_version;
        tracing::info!(%url, %version, dir = %dir.display(), "control plane is ready");
        Ok(Self {
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

fn write_files(dir: &Path, pki: &Pki) -> Result<(), Error> {
    for (name, text) in [
        ("ca.crt", &pki.authority),
        ("apiserver.crt", &pki.server.certificate),
        ("apiserver.key", &pki.server.key),
        ("service-account.key", &pki.service_account_key),
        ("service-account.pub", &pki.service_account_public_key),
        ("audit-policy.yaml", &AUDIT_POLICY.to_owned()),
    ] {
        write_private(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

async fn start_etcd(binaries: &Binaries, dir: &Path, options: &Options) -> Result<(Process, String), Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        // The name tells our member from that of a neighbour who took the port first: writing into
        // a neighbour's etcd would break both clusters.
        let name = format!("testbed-{}", random_suffix()?);
        let endpoint = format!("http://127.0.0.1:{}", free_port()?);
        let mut args = vec![
            format!("--name={name}"),
            format!("--data-dir={}", dir.join(&name).display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
            "--log-level=warn".to_owned(),
            // History is not compacted; the benchmark writes more than the default 2 GiB.
            "--quota-backend-bytes=8589934592".to_owned(),
        ];
        if !options.fsync {
            args.push("--unsafe-no-fsync".to_owned());
        }
        let mut process = spawn(&binaries.etcd, "etcd", &args, dir)?;
        let ready = until_ready(&mut process, || async {
            Ok(etcd::member_name(&endpoint).await.is_ok_and(|found| found == name))
        })
        .await;
        match ready {
            Ok(()) => return Ok((process, endpoint)),
            Err(error) if attempt == PORT_ATTEMPTS => return Err(error),
            Err(error) => retry_if_port_taken(&process, error)?,
        }
    }
}

async fn start_apiserver(
    binaries: &Binaries,
    dir: &Path,
    pki: &Pki,
    etcd_endpoint: &str,
    options: &Options,
) -> Result<(Process, String, Vec<String>), Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let file = |name: &str| dir.join(name).display().to_string();
        let mut args = vec![
            format!("--etcd-servers={etcd_endpoint}"),
            "--etcd-compaction-interval=0".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!("--service-account-signing-key-file={}", file("service-account.key")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
            // One file, whatever its size (MiB): a reader must see every event.
            "--audit-log-maxsize=1000000".to_owned(),
        ];
        args.extend(options.extra_apiserver_args.iter().cloned());

        let admin = kubeconfig::document(&url, &pki.authority, &User::Certificate(&pki.admin), "default");
        let path = dir.join("admin.kubeconfig");
        kubeconfig::write(&path, &admin)?;
        let client =
            Client::try_from(kubeconfig::config(&path).await?).map_err(Error::kube("make a client"))?;

        let mut process = spawn(&binaries.kube_apiserver, "kube-apiserver", &args, dir)?;
        match wait_ready(&client, &mut process).await {
            Ok(()) => return Ok((process, url, args)),
            Err(error) if attempt == PORT_ATTEMPTS => return Err(error),
            Err(error) => retry_if_port_taken(&process, error)?,
        }
    }
}

fn start_controllers(binaries: &Binaries, dir: &Path, url: &str, pki: &Pki) -> Result<Process, Error> {
    let path = dir.join("kube-controller-manager.kubeconfig");
    let document = kubeconfig::document(url, &pki.authority, &User::Certificate(&pki.controllers), "default");
    kubeconfig::write(&path, &document)?;
    let args = [
        format!("--kubeconfig={}", path.display()),
        format!("--root-ca-file={}", dir.join("ca.crt").display()),
        format!("--service-account-private-key-file={}", dir.join("service-account.key").display()),
        // Each controller under its own account and RBAC role, as in a real cluster.
        "--use-service-account-credentials=true".to_owned(),
        // No node runs here: a pod that a test binds to an invented one must not be collected.
        "--controllers=*,-pod-garbage-collector-controller".to_owned(),
        // The default of 20 requests a second makes the start 4 s longer.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    spawn(&binaries.kube_controller_manager, "kube-controller-manager", &args, dir)
}

fn spawn(program: &Path, name: &str, args: &[String], dir: &Path) -> Result<Process, Error> {
    Process::spawn(name, program, args, &[], &dir.join(format!("{name}.log")))
}

/// Waits until the API server answers `/readyz` with the certificate that we gave it.
async fn wait_ready(client: &Client, process: &mut Process) -> Result<(), Error> {
    until_ready(process, || async {
        let request = Request::get("/readyz").body(Vec::new()).map_err(Error::format("GET /readyz"))?;
        Ok(client.request_text(request).await.is_ok_and(|answer| answer == "ok"))
    })
    .await
}

/// Waits for a component; fails early, with the end of its log, if it ends instead.
async fn until_ready<F>(process: &mut Process, ready: impl Fn() -> F) -> Result<(), Error>
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

/// Lets the caller try another port if the component's log says that ours was taken.
fn retry_if_port_taken(process: &Process, error: Error) -> Result<(), Error> {
    let taken = fs::read_to_string(process.log()).is_ok_and(|log| log.contains("address already in use"));
    if taken { Ok(()) } else { Err(error) }
}

fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::io("find a free port"))
}
