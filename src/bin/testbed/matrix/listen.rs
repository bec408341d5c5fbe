//! Listeners: plain HTTP for the API server's leg, TLS for the provider's; HTTP/1.1, and resets in place of answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use llmkey_operator::sandbox;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Failure;
use super::exchange::{Answer, Leg, Proxy};
use super::upstream::Asked;

/// An authority of the proxy's own, and what it serves with.
pub struct Identity {
    /// The authority's certificate, PEM.
    pub authority: String,
    acceptor: TlsAcceptor,
}

impl Identity {
    /// A new authority, whose key is dropped at once.
    pub fn generate() -> Result<Self, Failure> {
        let (authority, config) = sandbox::server(&[], false)?;
        Ok(Self { authority, acceptor: TlsAcceptor::from(config) })
    }
}

/// A listener; it ends with this value.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on a free port of loopback.
pub async fn listen(proxy: Arc<Proxy>, leg: Leg, identity: Option<&Identity>) -> Result<Listening, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let acceptor = identity.map(|identity| identity.acceptor.clone());
    let answers = move |request| answer(Arc::clone(&proxy), leg.clone(), request);
    let task = tokio::spawn(sandbox::serve(listener, acceptor, answers));
    Ok(Listening { address, task })
}

async fn answer(proxy: Arc<Proxy>, leg: Leg, request: Request<Incoming>) -> Option<Response> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.ok()?;
    let target = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let asked = Asked { method: parts.method, target, headers: parts.headers, body };
    // A task of its own: an operator that hangs up or dies takes back nothing that is on its way.
    match tokio::spawn(proxy.exchange(leg, asked)).await {
        Ok(Answer::Reply(response)) => Some(response),
        _ => None,
    }
}
