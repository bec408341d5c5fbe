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
/// And goes on with it: a watch on which nothing happens brings a bookmark once a minute. A body that breaks off without an
/// end of its connection would hold an object for ever as well.
const GOES_ON_WITHIN: Duration = Duration::from_secs(150);

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
    client(config, GOES_ON_WITHIN, clock)
}

fn client(mut config: Config, goes_on_within: Duration, clock: Clock) -> Result<Client, ConnectError> {
    config.read_timeout = Some(goes_on_within);
    // Counted from a request, not from the end of the one before on the same connection.
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config).map_err(|e| ConnectError::Client(e.to_string()))?;
    let follow = MapResponseLayer::new(move |response: http::Response<Box<DynBody>>| {
        clock.follow(response.headers());
        response
    });
    Ok(builder.with_layer(&follow).with_layer(&TimeoutLayer::new(ANSWER_WITHIN)).build())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::Api;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error_although_its_connection_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let asked = connection.read(&mut [0; 1024]).await.unwrap();
            assert!(asked > 0);
            let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
            connection.write_all(half.as_bytes()).await.unwrap();
            // Ends when the other side gives up.
            assert_eq!(connection.read(&mut [0; 16]).await.unwrap(), 0);
        };
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = client(config, Duration::from_millis(200), Clock::start()).unwrap();
        let secrets: Api<Secret> = Api::default_namespaced(client);
        let (answer, ()) = tokio::join!(secrets.get("one"), server);
        assert!(answer.is_err());
    }
}
