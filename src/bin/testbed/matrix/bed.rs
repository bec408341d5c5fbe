//! What all cells share: a control plane, a provider, the proxy before both, and operators to start and kill.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DeleteParams};
use kube::config::Kubeconfig;
use llmkey_operator::domain::names::ledger_name;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::{Sandbox, SandboxOptions};
use llmkey_operator::testbed::install::{Installation, install_chart};
use llmkey_operator::testbed::process::{Process, random_suffix};
use llmkey_operator::testbed::{ControlPlane, Options};
use serde_json::json;

use super::Failure;
use super::cell::{Cell, Name};
use super::exchange::{Leg, Proxy, Wire};
use super::listen::{Identity, Listening, listen};
use super::probe::Prober;
use super::story;
use super::upstream::Upstream;

/// All durations of the operator are divided by this, as in the integration tests.
pub const DIVISOR: u32 = 300;
/// Keys at the same time: a request that is held must hold up no other cell.
const CONCURRENCY: u32 = 256;
const OPERATOR_NAMESPACE: &str = "llmkey-system";
/// A Lease that another process held runs out after 15 s.
const LEADS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Everything that runs for the whole campaign.
pub struct Bed {
    /// The control plane.
    pub cluster: ControlPlane,
    /// The provider.
    pub sandbox: Arc<Sandbox>,
    /// An administrator, past the proxy.
    pub admin: Client,
    /// The process's clock.
    pub clock: Clock,
    /// The proxy.
    pub proxy: Arc<Proxy>,
    /// The chart.
    pub installation: Installation,
    identity: Identity,
    program: PathBuf,
    http: reqwest::Client,
    started: AtomicU32,
}

/// A cell with the address that its provider has for the operator.
pub struct Placed {
    /// The cell.
    pub cell: Arc<Cell>,
    /// Those of its cell's others.
    pub others: Vec<Self>,
    leg: Listening,
}

impl Bed {
    /// Starts it, with the operator's program to be tested.
    pub async fn make(program: PathBuf, keep: bool) -> Result<Self, Failure> {
        let clock = Clock::start();
        let cluster = ControlPlane::start(Options { keep, ..Options::default() }).await?;
        let installation = install_chart(&cluster, OPERATOR_NAMESPACE, &json!({})).await?;
        let mut options = SandboxOptions::new(Arc::new(move || clock.now_precise()));
        options.http2 = false;
        let sandbox = Arc::new(Sandbox::start(options).await?);
        let admin = cluster.admin()?;
        let proxy = Arc::new(Proxy::new(
            Upstream::new(cluster.url().to_owned(), cluster.ca_pem())?,
            Upstream::new(format!("https://{}", sandbox.addr()), sandbox.ca_pem())?,
            installation.namespace.clone(),
            Prober::new(admin.clone(), Arc::clone(&sandbox)),
        ));
        Ok(Self {
            identity: Identity::generate()?,
            http: reqwest::Client::builder().no_proxy().build()?,
            started: AtomicU32::new(0),
            cluster,
            sandbox,
            admin,
            clock,
            proxy,
            installation,
            program,
        })
    }

    /// Who the operator is for the API server.
    pub fn username(&self) -> String {
        let Installation { namespace, service_account, .. } = &self.installation;
        format!("system:serviceaccount:{namespace}:{service_account}")
    }

    /// A new cell: a namespace's name, a project and an address of the provider of its own.
    pub async fn place(&self, name: Name) -> Result<Placed, Failure> {
        let count = name.scenario.others();
        let namespace = Self::named(&name)?;
        if count == 0 {
            return self.placed(name, namespace, None, Vec::new()).await;
        }
        let (mut others, policy) = (Vec::new(), Some(namespace.clone()));
        for _ in 0..count {
            let name = Name { aim: None, then: None, ..name.clone() };
            let namespace = Self::named(&name)?;
            others.push(self.placed(name, namespace, policy.clone(), Vec::new()).await?);
        }
        self.placed(name, namespace, policy, others).await
    }

    fn named(name: &Name) -> Result<String, Failure> {
        let told: String = name.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        Ok(format!("{told}-{}", random_suffix()?).to_lowercase())
    }

    async fn placed(
        &self,
        name: Name,
        namespace: String,
        policy: Option<String>,
        others: Vec<Placed>,
    ) -> Result<Placed, Failure> {
        let ledger = ledger_name(&namespace, super::probe::TARGET);
        let projects = ["", "-other"].map(|end| format!("{namespace}{end}"));
        let projects = if name.scenario.at_litellm() {
            projects.map(|project| self.sandbox.create_team(&project))
        } else {
            projects.map(|project| self.sandbox.create_project(&project))
        };
        let mut cell = Cell::new(name, namespace, ledger, projects, self.clock);
        cell.policy = policy;
        cell.others = others.iter().map(|other| Arc::clone(&other.cell)).collect();
        let cell = Arc::new(cell);
        let leg =
            listen(Arc::clone(&self.proxy), Leg::Provider(Arc::clone(&cell)), Some(&self.identity)).await?;
        self.proxy.add(&cell);
        Ok(Placed { cell, others, leg })
    }

    /// What lies there before a cell's story begins.
    pub fn ground(&self, placed: &Placed) -> Vec<serde_json::Value> {
        let provider = placed.leg.address.to_string();
        let authority = &self.identity.authority;
        let mut ground =
            story::ground(&placed.cell, &self.sandbox, &self.installation.namespace, &provider, authority);
        ground.extend(placed.others.iter().flat_map(|other| self.ground(other)));
        ground
    }

    /// Starts an operator behind the proxy.
    pub async fn spawn(&self, elects: bool) -> Result<Operator, Failure> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("operator-{number}");
        let wire = Arc::new(Wire::default());
        let leg = listen(Arc::clone(&self.proxy), Leg::Cluster(Arc::clone(&wire)), None).await?;
        let kubeconfig = self.cluster.dir().join(format!("{name}.kubeconfig"));
        redirect(&self.installation.kubeconfig, &format!("http://{}", leg.address), &kubeconfig)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let args = [
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--operator-namespace={}", self.installation.namespace),
            format!("--lease-name={}", self.installation.name),
            format!("--leader-elect={elects}"),
            format!("--identity={name}"),
            format!("--concurrency={CONCURRENCY}"),
            format!("--metrics-listen={address}"),
            format!("--test-time-divisor={DIVISOR}"),
            // All that can be logged is searched for keys in the end.
            "--log-level=trace".to_owned(),
        ];
        let log = self.cluster.dir().join(format!("{name}.log"));
        let process = Process::spawn(&name, &self.program, args, &[], &log)?;
        Ok(Operator { process, url: format!("http://{address}"), http: self.http.clone(), wire, _leg: leg })
    }

    /// Starts an operator that works at once.
    pub async fn start(&self) -> Result<Operator, Failure> {
        let mut operator = self.spawn(true).await?;
        self.leads(&mut operator).await?;
        Ok(operator)
    }

    /// Waits until an operator leads and its caches are full.
    pub async fn leads(&self, operator: &mut Operator) -> Result<(), Failure> {
        let begin = self.clock.monotonic();
        while !(operator.says("/metrics", "\nllmkey_leader 1\n").await && operator.says("/readyz", "").await)
        {
            operator.process.alive()?;
            if self.clock.monotonic().saturating_sub(begin) > LEADS_WITHIN {
                return Err(operator.process.failure("does not lead").into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills an operator (SIGKILL), and takes its Lease away.
    pub async fn kill(&self, operator: Operator) -> Result<(), Failure> {
        operator.signal("KILL")?;
        drop(operator);
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), &self.installation.namespace);
        match leases.delete(&self.installation.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other?),
        }
        Ok(())
    }
}

/// The same account's kubeconfig at another address, without TLS.
fn redirect(from: &Path, server: &str, to: &Path) -> Result<(), Failure> {
    let mut file = Kubeconfig::read_from(from)?;
    for cluster in file.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(server.to_owned());
        cluster.certificate_authority_data = None;
    }
    let bytes = serde_json::to_vec(&file)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?.write_all(&bytes)?;
    Ok(())
}

/// An operator process.
pub struct Operator {
    process: Process,
    url: String,
    http: reqwest::Client,
    wire: Arc<Wire>,
    _leg: Listening,
}

impl Operator {
    /// Sends it a signal by its name without `SIG`.
    pub fn signal(&self, signal: &str) -> Result<(), Failure> {
        Ok(self.process.signal(signal)?)
    }

    /// Cuts it off from the API server, or ends that.
    pub fn cut_off(&self, cut: bool) {
        self.wire.cut(cut);
    }

    /// Fails if it has ended.
    pub fn alive(&mut self) -> Result<(), Failure> {
        Ok(self.process.alive()?)
    }

    /// Whether it ends within the time, and with an error.
    pub async fn ends_with_an_error(&mut self, within: Duration) -> Result<bool, Failure> {
        let ended = async {
            loop {
                if let Some(status) = self.process.exited()? {
                    return Ok::<bool, Failure>(!status.success());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(within, ended).await.unwrap_or(Ok(false))
    }

    /// Whether an endpoint answers 200 with a text that has the words.
    pub async fn says(&self, path: &str, words: &str) -> bool {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => {
                answer.text().await.is_ok_and(|text| text.contains(words))
            }
            _ => false,
        }
    }
}
