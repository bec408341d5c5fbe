//! The same cases over a connection: the real client, against a server that plays one answer and writes down what it was sent.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::rig::Rig;
use crate::provider::{
    Endpoint, Providers, ProvidersConfig,
    exchange::{Reply, Request},
    http::Lost,
};

/// What the server does once it has read a request.
#[derive(Clone)]
pub(super) enum Script {
    /// Sends an answer, in small pieces without a length, or whole with one.
    Answer { head: String, body: Vec<u8>, in_pieces: bool },
    /// Closes the connection: what was asked for is done, and nobody hears of it.
    Drop,
    /// Says nothing.
    Silence,
    /// Sends a byte from time to time.
    Drip,
    /// Promises more than it sends.
    Cut,
}

/// Headers that the client adds to every request.
const ADDED: [&str; 5] = ["host", "user-agent", "accept-encoding", "content-length", "connection"];

/// What came of a call.
pub(super) struct Played {
    pub(super) reply: Result<Reply, Lost>,
    /// Each request as the server read it, in the form of [`super::letter`].
    pub(super) seen: Vec<String>,
}

pub(super) struct Wire {
    patient: Providers,
    hasty: Providers,
}

impl Wire {
    pub(super) fn new() -> Self {
        let with = |read, total| {
            Providers::new(ProvidersConfig {
                read_timeout: read,
                total_timeout: total,
                loopback_only: true,
                ..ProvidersConfig::default()
            })
        };
        let seconds = Duration::from_secs;
        Self { patient: with(seconds(20), seconds(30)), hasty: with(seconds(5), seconds(8)) }
    }

    /// Sends the request, which was built for another host, to a server of this one.
    pub(super) async fn play(
        &self,
        rig: &Rig,
        mut request: Request,
        script: Script,
    ) -> std::io::Result<Played> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let providers = match script {
            Script::Answer { .. } | Script::Drop | Script::Cut => &self.patient,
            Script::Silence | Script::Drip => &self.hasty,
        };
        let server = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, script.clone(), Arc::clone(&seen)));
                }
            }
        });
        let there = request.url.set_scheme("http").is_ok()
            && request.url.set_host(Some("127.0.0.1")).is_ok()
            && request.url.set_port(Some(address.port())).is_ok();
        assert!(there, "the URL can be moved");
        let endpoint = Endpoint::local(rig.provider, &format!("http://{address}"));
        let reply = providers.send("contract", &endpoint, request).await;
        server.abort();
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Played { reply, seen })
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) {
    let Some(request) = read(&mut stream).await else { return };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    // The client may have had enough at any time.
    let _ = match script {
        Script::Answer { head, body, in_pieces } => answer(&mut stream, &head, &body, in_pieces).await,
        Script::Drop => Ok(()),
        Script::Silence => std::future::pending().await,
        Script::Drip => {
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
            while written.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                written = stream.write_all(b" ").await;
            }
            Ok(())
        }
        Script::Cut => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":").await,
    };
}

async fn answer(stream: &mut TcpStream, head: &str, body: &[u8], in_pieces: bool) -> std::io::Result<()> {
    if in_pieces {
        stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
        for piece in body.chunks(7) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
    } else {
        stream.write_all(format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

/// Reads a request; none if it never ends.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let line = lines.next()?.strip_suffix(" HTTP/1.1")?.to_owned();
    let all: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let length = all.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(Some(0), |(_, length)| length.parse().ok())?;
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&buffer[..read]);
    }
    let mut headers: Vec<String> = all
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| !ADDED.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort();
    Some(format!("{line} | {} | {}", headers.join(" | "), String::from_utf8_lossy(&body)))
}
