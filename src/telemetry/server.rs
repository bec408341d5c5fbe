//! The HTTP endpoints: `/metrics`, `/healthz`, `/readyz`, `/log-level`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::exposition;
use super::health::Health;
use super::log::LogHandle;
use super::metrics::Metrics;

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

async fn metrics(State(endpoints): State<Endpoints>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    match endpoints.metrics.encode() {
        Ok(text) if exposition::wants_open_metrics(accept) => {
            ([(header::CONTENT_TYPE, exposition::OPEN_METRICS)], text).into_response()
        }
        Ok(text) => ([(header::CONTENT_TYPE, exposition::PLAIN)], exposition::plain(&text)).into_response(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::clock::Clock;
    use crate::telemetry::log::{LogFormat, subscriber};
    use std::net::Ipv4Addr;

    struct Served {
        url: String,
        endpoints: Endpoints,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<io::Result<()>>,
        _subscriber: Box<dyn tracing::Subscriber + Send + Sync>,
    }

    async fn served() -> Served {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (subscriber, log) = subscriber("info", LogFormat::Json, io::sink).unwrap();
        let endpoints =
            Endpoints { metrics: Metrics::new("1.2.3", true), health: Health::new(Clock::start()), log };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve(listener, endpoints.clone(), stopping));
        Served { url, endpoints, stop, task, _subscriber: Box::new(subscriber) }
    }

    async fn fetch(served: &Served, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", served.url)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn serves_metrics_as_openmetrics_to_whom_asks_for_it() {
        let served = served().await;
        let url = format!("{}/metrics", served.url);
        let ask = |accept: &'static str| reqwest::Client::new().get(&url).header("accept", accept).send();
        for (accept, content_type, ends) in [
            ("application/openmetrics-text;version=1.0.0,*/*;q=0.1", exposition::OPEN_METRICS, true),
            ("*/*", exposition::PLAIN, false),
        ] {
            let answer = ask(accept).await.unwrap();
            assert_eq!(answer.headers()["content-type"], content_type);
            let text = answer.text().await.unwrap();
            assert!(text.contains(r#"llmkey_build_info{version="1.2.3"} 1"#), "{text}");
            assert_eq!(text.ends_with("# EOF\n"), ends, "{text}");
        }
    }

    #[tokio::test]
    async fn is_ready_when_the_gates_are_open_and_alive_meanwhile() {
        let served = served().await;
        let gate = served.endpoints.health.gate("keys");
        assert_eq!(fetch(&served, "/readyz").await, (503, "waiting for: keys\n".to_owned()));
        assert_eq!(fetch(&served, "/healthz").await, (200, "ok\n".to_owned()));
        gate.open();
        assert_eq!(fetch(&served, "/readyz").await.0, 200);
        let _stuck = served.endpoints.health.pulse("keys", Duration::ZERO);
        assert_eq!(fetch(&served, "/healthz").await, (503, "stuck: keys\n".to_owned()));
    }

    #[tokio::test]
    async fn the_level_is_changed_from_loopback_alone() {
        let served = served().await;
        let client = reqwest::Client::new();
        let put = |body: &'static str| client.put(format!("{}/log-level", served.url)).body(body).send();
        assert_eq!(put("debug").await.unwrap().status(), 200);
        assert_eq!(fetch(&served, "/log-level").await, (200, "debug\n".to_owned()));
        assert_eq!(put("llmkey=loud").await.unwrap().status(), 400);
        assert_eq!(served.endpoints.log.current(), "debug");

        let state = State(served.endpoints.clone());
        for (address, expected) in
            [("10.0.0.7:9", 403), ("[2001:db8::1]:9", 403), ("[::ffff:127.0.0.1]:9", 200), ("[::1]:9", 200)]
        {
            let from = ConnectInfo(address.parse().unwrap());
            let answer = set_log_level(state.clone(), from, "info".to_owned()).await;
            assert_eq!(answer.status().as_u16(), expected, "{address}");
        }
    }

    #[tokio::test]
    async fn stops_when_asked_even_with_a_connection_open() {
        let served = served().await;
        let address = served.url.trim_start_matches("http://").to_owned();
        let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
        served.stop.send_replace(true);
        tokio::time::timeout(DRAIN * 5, served.task).await.unwrap().unwrap().unwrap();
    }
}
