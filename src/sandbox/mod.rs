//! The sandbox provider: the admin and data APIs for keys of OpenAI, OpenRouter, a LiteLLM proxy, Azure, Google and
//! AWS Bedrock, with switchable faults.
//!
//! It exists for tests, the demo and the benchmark, and is never part of the operator's image. Clients talk to
//! it with their ordinary client over TLS; tests switch faults and read the truth through [`Sandbox`] in
//! the same process, or through the control API under `/sandbox/` from another one.
//! `docs/sandbox-provider.md` is its manual.

mod anthropic;
mod aws;
mod azure;
mod backend;
mod bedrock;
mod call;
mod control;
mod credential;
mod doors;
mod fault;
mod google;
mod google_office;
mod google_routes;
mod keyed;
mod listener;
mod litellm;
mod litellm_routes;
mod log;
mod mistral;
mod openai;
mod openrouter;
mod operation;
mod page;
mod records;
mod routes;
mod settings;
mod tls;
mod usage;
mod view;
mod wire;
mod world;
mod xai;

use std::{
    fs::OpenOptions,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use axum::{Router, extract::Request, response::Response};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;
use zeroize::Zeroizing;

pub use self::{
    aws::Aws,
    azure::Azure,
    backend::Clock,
    fault::{Answer, Fault, FaultReport, FaultRule, Phase},
    listener::serve,
    log::{CallerMark, Effect, LogEntry},
    operation::Operation,
    settings::{KeyDelete, OwnerAccess, Settings},
    tls::server,
    usage::KeyUse,
    view::{AccountRecord, KeyRecord, KeyState, ProjectRecord},
};
use self::{
    backend::{Backend, ReplyDropped},
    credential::{Mint, digest},
    log::Log,
    view::Handle,
    world::World,
};

/// How to start a sandbox.
pub struct SandboxOptions {
    /// Address of the API and of the control API, over TLS; loopback, or one of `names`. Port 0: any free one.
    pub listen: SocketAddr,
    /// Address of the status page over plain HTTP, for browsers; loopback only. None: over TLS only.
    pub status_listen: Option<SocketAddr>,
    /// Names of the API besides those of loopback, for its certificate. An address among them may be listened on: the caller
    /// knows who reaches it.
    pub names: Vec<String>,
    /// Whether HTTP/2 is offered besides HTTP/1.1.
    pub http2: bool,
    /// Where the time comes from: stamps, lags and expiry. Delays of faults are real time.
    pub clock: Clock,
    /// Name of the first project.
    pub project_name: String,
    /// Entries of the log kept in memory; older ones are forgotten.
    pub log_capacity: usize,
    /// File to which every entry of the log is appended as a line of JSON.
    pub log_file: Option<PathBuf>,
}

impl SandboxOptions {
    /// A sandbox on a free port of 127.0.0.1, with HTTP/2, without a status page of its own.
    pub fn new(clock: Clock) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            status_listen: None,
            names: Vec::new(),
            http2: true,
            clock,
            project_name: "sandbox".to_owned(),
            log_capacity: 500_000,
            log_file: None,
        }
    }
}

/// Why a sandbox could not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// An address that other machines could reach: the sandbox has no defence against them.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// No address to listen on, or no log file.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// No randomness for keys.
    #[error("no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// No certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// No TLS configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A running sandbox provider. Stops when dropped.
pub struct Sandbox {
    handle: Arc<Handle>,
    address: SocketAddr,
    status_address: Option<SocketAddr>,
    ca_pem: String,
    admin_key: Zeroizing<String>,
    management_key: Zeroizing<String>,
    master_key: Zeroizing<String>,
    azure_secret: Zeroizing<String>,
    aws_secret: Zeroizing<String>,
    officers: keyed::Officers,
    control_token: Zeroizing<String>,
    project: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a sandbox with one project.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        for address in [Some(options.listen), options.status_listen].into_iter().flatten() {
            if !address.ip().is_loopback() && !options.names.contains(&address.ip().to_string()) {
                return Err(SandboxError::NotLoopback(address));
            }
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let mut mint = Mint::new(*seed);
        let (admin_key, control_token) = (mint.key("sk-admin-"), mint.key("sandbox-control-"));
        let (management_key, master_key) = (mint.router_key(), mint.proxy_key());
        let (azure_secret, aws_secret) = (mint.azure_key(), mint.proxy_key());
        let officers = keyed::Officers::new(&mut mint);
        let file = match &options.log_file {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        let (ca_pem, tls) = server(&options.names, options.http2)?;
        let mut world =
            World::new(mint, &admin_key, &management_key, &master_key, &azure_secret, &aws_secret);
        world.appoint(&officers);
        let backend = Arc::new(Backend::new(world, Log::new(options.log_capacity, file), options.clock));
        let handle = Arc::new(Handle { backend: Arc::clone(&backend) });
        let project = handle.create_project(&options.project_name);

        let status = page::status(Arc::clone(&handle));
        let router = routes::api()
            .with_state(backend)
            .merge(control::control(Arc::clone(&handle), digest(&control_token)))
            .merge(status.clone());
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let mut tasks = vec![tokio::spawn(serve(listener, Some(TlsAcceptor::from(tls)), answers(router)))];
        let mut status_address = None;
        if let Some(wanted) = options.status_listen {
            let listener = TcpListener::bind(wanted).await?;
            status_address = Some(listener.local_addr()?);
            tasks.push(tokio::spawn(serve(listener, None, answers(status))));
        }
        Ok(Self {
            handle,
            address,
            status_address,
            ca_pem,
            admin_key,
            management_key,
            master_key,
            azure_secret,
            aws_secret,
            officers,
            control_token,
            project,
            tasks,
        })
    }

    /// Address of the API.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Base URL of the API, as `https://api.openai.com/v1` is OpenAI's.
    pub fn base_url(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// Base URL of the control API; needs [`Sandbox::control_token`] as a bearer token.
    pub fn control_url(&self) -> String {
        format!("https://{}/sandbox", self.address)
    }

    /// URL of the status page for browsers, if it has an address of its own.
    pub fn status_url(&self) -> Option<String> {
        self.status_address.map(|address| format!("http://{address}/"))
    }

    /// Certificate in PEM of the authority that signed the server's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The organization's admin key.
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// The control API's bearer token.
    pub fn control_token(&self) -> &str {
        &self.control_token
    }

    /// Id of the first project.
    pub fn project_id(&self) -> &str {
        &self.project
    }

    /// Makes a project and returns its id. Tests that run side by side take one each.
    pub fn create_project(&self, name: &str) -> String {
        self.handle.create_project(name)
    }

    /// Archives a project: nothing can be created in it and its keys stop working. False: no such project.
    pub fn archive_project(&self, id: &str) -> bool {
        self.handle.archive_project(id)
    }

    /// Sets the switches of one project, or of all that have no own ones. False: no such project.
    pub fn set_settings(&self, project: Option<&str>, settings: Settings) -> bool {
        self.handle.set_settings(project, settings)
    }

    /// Makes `value` a key that a person owns, as if made by hand on the provider's site; returns its id, or
    /// none if there is no such project. A value that was withdrawn becomes valid again.
    pub fn register_key(
        &self,
        value: &str,
        project: &str,
        name: &str,
        access: OwnerAccess,
    ) -> Option<String> {
        self.handle.register_key(value, project, name, access)
    }

    /// Notes use of a key, as if models had been called with it. False: there is no such key in the project.
    pub fn note_use(&self, project: &str, key: &str, used: KeyUse) -> bool {
        self.handle.note_use(project, key, used)
    }

    /// Makes a value invalid: a known key is deleted, any other value is refused even where a pattern takes it.
    pub fn withdraw_key(&self, value: &str) {
        self.handle.withdraw_key(value);
    }

    /// Accepts every value that begins with `prefix` as a key of the project. False: no such project.
    pub fn accept_pattern(&self, prefix: &str, project: &str) -> bool {
        self.handle.accept_pattern(prefix, project)
    }

    /// Whether a data call with this value would be accepted now. Does not count as a use.
    pub fn accepts(&self, value: &str) -> bool {
        self.handle.accepts(value)
    }

    /// Adds a fault and returns its number.
    pub fn add_fault(&self, rule: FaultRule) -> u64 {
        self.handle.add_fault(rule)
    }

    /// Removes one fault; calls that hang on it are reset. False: no such fault.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.handle.remove_fault(id)
    }

    /// Removes the faults limited to one project, or all.
    pub fn clear_faults(&self, project: Option<&str>) {
        self.handle.clear_faults(project);
    }

    /// All faults and how often each struck.
    pub fn faults(&self) -> Vec<FaultReport> {
        self.handle.faults()
    }

    /// Everything that happened, oldest first, as far as memory goes.
    pub fn log(&self) -> Vec<LogEntry> {
        self.handle.log()
    }

    /// The log of one project.
    pub fn log_of(&self, project: &str) -> Vec<LogEntry> {
        let mut log = self.handle.log();
        log.retain(|entry| entry.project.as_deref() == Some(project));
        log
    }

    /// Waits for an entry, past or future, that `wanted` accepts. The caller sets the deadline.
    pub async fn wait_for_entry(&self, wanted: impl Fn(&LogEntry) -> bool) -> LogEntry {
        let mut end = self.handle.backend.log_end();
        let mut seen = 0;
        loop {
            // Marked as seen before reading, so that an entry written meanwhile wakes the next turn.
            let _ = *end.borrow_and_update();
            {
                let state = self.handle.backend.state();
                if let Some(entry) = state.log.after(seen).find(|entry| wanted(entry)) {
                    return entry.clone();
                }
                seen = state.log.last();
            }
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Every key that ever was in the project, oldest first.
    pub fn keys(&self, project: &str) -> Vec<KeyRecord> {
        self.handle.keys(project)
    }

    /// The project's keys that nobody deleted and that have not expired, oldest first.
    pub fn live_keys(&self, project: &str) -> Vec<KeyRecord> {
        let mut keys = self.handle.keys(project);
        keys.retain(|key| key.state.exists());
        keys
    }

    /// All projects with all that ever was in them.
    pub fn projects(&self) -> Vec<ProjectRecord> {
        self.handle.projects()
    }

    /// Breaks all connections and stops listening: when this returns, the port is free.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // The only possible outcome is the cancellation just asked for.
            let _ = task.await;
        }
    }
}

/// The router's response, or none where it must not be sent.
fn answers(
    router: Router,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Option<Response>> + Clone + Send + Sync + 'static {
    move |request| {
        let mut router = router.clone();
        Box::pin(async move {
            let response = match router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            response.extensions().get::<ReplyDropped>().is_none().then_some(response)
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
