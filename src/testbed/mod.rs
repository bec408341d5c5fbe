//! The embedded control plane and what tests, demo and benchmark share.
//!
//! It starts the real etcd, kube-apiserver and kube-controller-manager on random loopback ports and
//! a temporary directory, and never touches the cluster of the user's own kubeconfig. No node runs, unless
//! the caller brings one ([`Options::node_address`]): pods are created and stay Pending.
//!
//! ```no_run
//! # async fn example() -> Result<(), llmkey_operator::testbed::Error> {
//! let cluster = llmkey_operator::testbed::shared().await?;
//! let namespace = cluster.namespace("mint").await?;
//! let client = cluster.admin()?;
//! # Ok(()) }
//! ```

pub mod apply;
mod components;
pub mod control_plane;
pub mod etcd;
pub mod install;
mod kubeconfig;
pub mod needles;
mod pki;
pub mod process;
pub mod tools;

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

pub use apply::apply;
pub use control_plane::{ControlPlane, Options, SERVICE_ADDRESS};
pub use install::{Installation, install_chart};
pub use pki::NODE;
pub use tools::render_chart;

/// What can go wrong between an empty directory and a running cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is missing and could not be built; the text is one sentence for the person at the terminal.
    #[error("{0}")]
    Tool(String),
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or program.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A certificate or key could not be made.
    #[error("certificate for {0}: {1}")]
    Certificate(&'static str, rcgen::Error),
    /// A component ended or did not become ready; with the end of its log.
    #[error("{component} {problem}; the end of its log:\n{log}")]
    Component {
        /// The component's name.
        component: String,
        /// What it did or failed to do.
        problem: String,
        /// The last lines of its log.
        log: String,
    },
    /// The API server refused or could not be reached.
    #[error("{what}: {source}")]
    Kube {
        /// What was being done.
        what: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// etcd refused or could not be reached.
    #[error("etcd: {0}")]
    Etcd(String),
    /// A manifest, a values file or a kubeconfig could not be read or written.
    #[error("{what}: {problem}")]
    Format {
        /// What was being read or written.
        what: String,
        /// Why it failed.
        problem: String,
    },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn path(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} {}", path.display()))
    }

    fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kube { what, source: Box::new(source) }
    }

    fn format<E: ToString>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |problem| Self::Format { what, problem: problem.to_string() }
    }
}

/// The one control plane of this test process, started by whoever asks first.
///
/// Tests run on different runtimes, and a `kube::Client` belongs to the runtime that made it: ask
/// for a client in each test. The processes and their directory go when this process ends, however
/// it ends (see [`process`]).
pub async fn shared() -> Result<&'static ControlPlane, Error> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(|| ControlPlane::start(Options::default())).await
}

/// Where this package's sources are: charts, CRDs and the build scripts lie there.
pub fn source_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
