//! Listeners: plain HTTP for the API server's leg, TLS for the provider's; HTTP/1.1, and resets in place of answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
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
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.distinguished_name.push(DnType::CommonName, "crash matrix CA");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let mut leaf = CertificateParams::new(["127.0.0.1".to_owned()])?;
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { authority: pem, acceptor: TlsAcceptor::from(Arc::new(config)) })
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
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&proxy), leg.clone()));
            }
        }
    });
    Ok(Listening { address, task })
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, proxy: Arc<Proxy>, leg: Leg) {
    // A delayed segment is no error.
    drop(stream.set_nodelay(true));
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable { stream, reset: Arc::clone(&reset) };
    match acceptor {
        None => serve(stream, proxy, leg, reset).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, proxy, leg, reset).await;
            }
        }
    }
}

async fn serve<S>(stream: S, proxy: Arc<Proxy>, leg: Leg, reset: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, leg, reset) = (Arc::clone(&proxy), leg.clone(), Arc::clone(&reset));
        async move {
            match answer(proxy, leg, request).await {
                Answer::Reply(response) => Ok(response),
                Answer::Reset => {
                    reset.store(true, Ordering::Relaxed);
                    Err(Dropped)
                }
            }
        }
    });
    // How it ends is the operator's business, or a fault's.
    drop(
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await,
    );
}

async fn answer(proxy: Arc<Proxy>, leg: Leg, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(Body::new(body), usize::MAX).await else { return Answer::Reset };
    let target = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let asked = Asked { method: parts.method, target, headers: parts.headers, body };
    // A task of its own: an operator that hangs up or dies takes back nothing that is on its way.
    tokio::spawn(proxy.exchange(leg, asked)).await.unwrap_or(Answer::Reset)
}

/// The reply was dropped on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the reply was dropped on purpose")]
struct Dropped;

/// A TCP stream that can be closed by a reset instead of an orderly end.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            drop(self.stream.set_zero_linger());
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
