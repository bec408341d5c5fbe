//! Connections: TLS, HTTP/1.1 or HTTP/2, and resets in place of answers.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::backend::ReplyDropped;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Pause after a failed accept (no free descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until the task is aborted; its connections end with it. Without TLS: plain HTTP.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, tls.clone(), router.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the sandbox cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection. How it ends is the client's business or a fault's: there is nobody to tell.
async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable { stream, reset: Arc::clone(&reset) };
    let Some(tls) = tls else {
        return speak_http1(stream, router, reset).await;
    };
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let service = service_fn(move |request| respond(router.clone(), request, None));
        let _ = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    } else {
        speak_http1(stream, router, reset).await;
    }
}

async fn speak_http1<S>(stream: S, router: Router, reset: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| respond(router.clone(), request, Some(Arc::clone(&reset))));
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// The router's response, or an error where it must not be sent. HTTP/1.1 then closes the connection, which
/// `reset` turns into a TCP reset; HTTP/2 resets the one stream and leaves its neighbours alone.
async fn respond(
    mut router: Router,
    request: Request<Incoming>,
    reset: Option<Arc<AtomicBool>>,
) -> Result<axum::response::Response, Dropped> {
    let response = match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.extensions().get::<ReplyDropped>().is_none() {
        return Ok(response);
    }
    if let Some(reset) = reset {
        reset.store(true, Ordering::Relaxed);
    }
    Err(Dropped)
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
            let _ = self.stream.set_zero_linger();
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
