//! The HTTP endpoints: `/metrics`, `/healthz`, `/readyz`, `/log-level`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::health::Health;
use super::log::LogHandle;
use super::metrics::{CONTENT_TYPE, Metrics};

/// How long connections may go on after the process was told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// What the endpoints answer from.
#[derive(Clone)]
pub struct Endpoints {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/healthz` and `/readyz`.
    pub health: Health,
    /// `/log-level`.
    pub log: LogHandle,
}

/// Serves until `shutdown` is true or its sender gone.
///
/// The level is changed only from a loopback address, that is by `kubectl exec` or `kubectl port-forward`:
/// who may do that to the operator's pod can read its memory anyway.
pub async fn serve(
    listener: TcpListener,
    endpoints: Endpoints,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let service = router(endpoints).into_make_service_with_connect_info::<SocketAddr>();
    let mut asked = shutdown.clone();
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which ends the process as well.
        drop(asked.wait_for(|stop| *stop).await);
    });
    let overdue = async {
        drop(shutdown.wait_for(|stop| *stop).await);
        sleep(DRAIN).await;
    };
    tokio::select! {
        result = serving => result,
        () = overdue => Ok(()),
    }
}

fn router(endpoints: Endpoints) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/log-level", get(log_level).put(set_log_level))
        .with_state(endpoints)
}

async fn metrics(State(endpoints): State<Endpoints>) -> Response {
    match endpoints.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(endpoints): State<Endpoints>) -> Response {
    probe(&endpoints.health.stuck_loops(), "stuck")
}

async fn readyz(State(endpoints): State<Endpoints>) -> Response {
    probe(&endpoints.health.closed_gates(), "waiting for")
}

fn probe(missing: &[&'static str], what: &str) -> Response {
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{what}: {}\n", missing.join(", "))).into_response()
}

async fn log_level(State(endpoints): State<Endpoints>) -> String {
    endpoints.log.current() + "\n"
}

async fn set_log_level(
    State(endpoints): State<Endpoints>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    filter: String,
) -> Response {
    if !from.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "only from a loopback address: use kubectl port-forward\n")
            .into_response();
    }
    match endpoints.log.set(&filter) {
        Ok(()) => {
            let filter = endpoints.log.current();
            tracing::warn!(filter, "the log level was changed");
            (filter + "\n").into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
