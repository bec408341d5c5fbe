//! The operator's connection to its API server.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::client::{ClientBuilder, DynBody};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tower::timeout::TimeoutLayer;
use tower::util::MapResponseLayer;

use super::clock::Clock;

/// The API server begins every answer within this time, that of a watch too. Without an end a connection that lost its
/// other side would hold an object for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No kubeconfig and no service account, or a broken one.
    #[error("no connection to a cluster is configured: {0}")]
    Kubeconfig(String),
    /// The client could not be built.
    #[error("the Kubernetes client could not be built: {0}")]
    Client(String),
}

/// A client of the kubeconfig file's cluster, or of the cluster that the process runs in or the usual kubeconfig names. The clock
/// follows the API server's.
pub async fn connect(kubeconfig: Option<&Path>, clock: Clock) -> Result<Client, ConnectError> {
    let wrong = |error: &dyn std::error::Error| ConnectError::Kubeconfig(error.to_string());
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| wrong(&e))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| wrong(&e))?
        }
        None => Config::infer().await.map_err(|e| wrong(&e))?,
    };
    // HTTPS_PROXY is for the world outside; the API server is always spoken to directly.
    config.proxy_url = None;
    let builder = ClientBuilder::try_from(config).map_err(|e| ConnectError::Client(e.to_string()))?;
    let follow = MapResponseLayer::new(move |response: http::Response<Box<DynBody>>| {
        clock.follow(response.headers());
        response
    });
    Ok(builder.with_layer(&follow).with_layer(&TimeoutLayer::new(ANSWER_WITHIN)).build())
}
