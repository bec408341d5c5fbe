//! Wiring: the only place that spawns.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cli::Config;
use crate::kube_ext::clock::Clock;
use crate::telemetry::health::Health;
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::server::{self, Endpoints};

/// Why the operator could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for metrics and probes is not free, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The endpoints ended with an error.
    #[error("the metrics endpoint failed: {0}")]
    Serve(std::io::Error),
}

/// Runs until `shutdown` is true, then ends in order.
pub async fn run(config: Config, log: LogHandle, shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
    let clock = Clock::start();
    let address = config.metrics_listen;
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), config.per_key_metrics);
    let endpoints = Endpoints { metrics, health: Health::new(clock), log };
    server::serve(listener, endpoints, shutdown).await.map_err(RunError::Serve)
}
