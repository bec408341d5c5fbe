//! The command lines of etcd, kube-apiserver, kube-controller-manager and kube-scheduler, and the files that they read.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use kube::Client;

use super::control_plane::{Options, until_ready, wait_ready};
use super::kubeconfig::{self, User, write_private};
use super::pki::{Identity, Pki};
use super::process::{Process, random_suffix};
use super::tools::{self, Binaries};
use super::{Error, etcd};

/// Somebody else may take a free port between our look and our bind.
const PORT_ATTEMPTS: u32 = 5;

/// Every request, without its body: bodies hold Secrets.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

pub(super) fn write_files(dir: &Path, pki: &Pki) -> Result<(), Error> {
    for (name, text) in [
        ("ca.crt", &pki.authority),
        ("apiserver.crt", &pki.server.certificate),
        ("apiserver.key", &pki.server.key),
        ("service-account.key", &pki.service_account_key),
        ("service-account.pub", &pki.service_account_public_key),
        ("audit-policy.yaml", &AUDIT_POLICY.to_owned()),
        ("admin.crt", &pki.admin.certificate),
        ("admin.key", &pki.admin.key),
    ] {
        write_private(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

pub(super) async fn start_etcd(
    binaries: &Binaries,
    dir: &Path,
    options: &Options,
) -> Result<(Process, String), Error> {
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

pub(super) async fn start_apiserver(
    binaries: &Binaries,
    dir: &Path,
    pki: &Pki,
    etcd_endpoint: &str,
    options: &Options,
) -> Result<(Process, String, Vec<String>), Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let port = if options.node_address.is_some() { 443 } else { free_port()? };
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
        if let Some(address) = options.node_address {
            args.extend([
                "--bind-address=0.0.0.0".to_owned(),
                format!("--advertise-address={address}"),
                // Besides RBAC above: lists add up.
                "--authorization-mode=Node".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                // For logs and exec; the kubelet trusts our authority.
                format!("--kubelet-client-certificate={}", file("admin.crt")),
                format!("--kubelet-client-key={}", file("admin.key")),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ]);
        }
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

pub(super) fn start_controllers(
    binaries: &Binaries,
    dir: &Path,
    url: &str,
    pki: &Pki,
    options: &Options,
) -> Result<Process, Error> {
    let name = "kube-controller-manager";
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig_of(dir, name, url, pki, &pki.controllers)?),
        format!("--root-ca-file={}", dir.join("ca.crt").display()),
        format!("--service-account-private-key-file={}", dir.join("service-account.key").display()),
        // Each controller under its own account and RBAC role, as in a real cluster.
        "--use-service-account-credentials=true".to_owned(),
        // The default of 20 requests a second makes the start 4 s longer.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    if options.node_address.is_none() {
        // No node runs here: a pod that a test binds to an invented one must not be collected.
        args.push("--controllers=*,-pod-garbage-collector-controller".to_owned());
    }
    spawn(&binaries.kube_controller_manager, name, &args, dir)
}

/// Starts the scheduler and writes the node's own kubeconfig, if nodes may join.
pub(super) async fn start_scheduler(
    dir: &Path,
    url: &str,
    pki: &Pki,
    options: &Options,
) -> Result<Option<Process>, Error> {
    if options.node_address.is_none() {
        return Ok(None);
    }
    let program = tokio::task::spawn_blocking(tools::kube_scheduler)
        .await
        .map_err(Error::format("the scheduler's build"))??;
    kubeconfig_of(dir, "kubelet", url, pki, &pki.kubelet)?;
    let name = "kube-scheduler";
    let args = [
        format!("--kubeconfig={}", kubeconfig_of(dir, name, url, pki, &pki.scheduler)?),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    spawn(&program, name, &args, dir).map(Some)
}

/// Writes `<name>.kubeconfig` and gives its path.
fn kubeconfig_of(dir: &Path, name: &str, url: &str, pki: &Pki, user: &Identity) -> Result<String, Error> {
    let path = dir.join(format!("{name}.kubeconfig"));
    let document = kubeconfig::document(url, &pki.authority, &User::Certificate(user), "default");
    kubeconfig::write(&path, &document)?;
    Ok(path.display().to_string())
}

pub(super) fn spawn(program: &Path, name: &str, args: &[String], dir: &Path) -> Result<Process, Error> {
    Process::spawn(name, program, args, &[], &dir.join(format!("{name}.log")))
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
