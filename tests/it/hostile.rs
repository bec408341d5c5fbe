//! A provider that means harm: one account's server never ends what it sends, sends redirects, echoes and control characters. Other accounts'
//! keys rotate on time meanwhile, the process stays small, and nothing of what the server says is repeated.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use llmkey_operator::api::{LLMKey, LLMProvider};
use llmkey_operator::sandbox::{Operation, server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::restart::leads;
use super::stage::{Operator, Tenant, empty_stage, wait};

/// How slow a slow server is: a byte each. It is the fault itself, and no test waits for it.
const BYTE: Duration = Duration::from_secs(1);

/// What only the hostile server writes.
const MARK: &str = "hostile-marker-7c1e";
/// As long as a body is announced to be, or is.
const TEN_GIB: u64 = 10 * 1024 * 1024 * 1024;
/// Slower than elsewhere: this is about being on time.
const DIVISOR: u32 = 200;
/// An hour so divided, and how late a rotation may be on a busy machine, in seconds.
const HOUR: i64 = 18;
const LATE: i64 = 12;
/// What the operator may grow by while the server is at it.
const MEMORY_KIB: u64 = 64 * 1024;
/// What a connection may take before its reader gives up: the caps, and what lies in the buffers of sockets.
const TAKEN: u64 = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Headers without end.
    Headers,
    /// One header without end.
    Header,
    /// 10 GiB, as announced.
    Announced,
    /// 10 GiB in chunks.
    Chunked,
    /// A byte a second, of the headers.
    SlowHead,
    /// A byte a second, of the body.
    SlowBody,
    /// JSON as deep as it may be long.
    Deep,
    /// To another server, with the method kept.
    Redirect,
    /// What it was sent, with line ends and colours.
    Echo,
}

const MODES: [Mode; 9] = [
    Mode::Headers,
    Mode::Header,
    Mode::Announced,
    Mode::Chunked,
    Mode::SlowHead,
    Mode::SlowBody,
    Mode::Deep,
    Mode::Redirect,
    Mode::Echo,
];

/// What the server saw of its clients.
#[derive(Default)]
struct Seen {
    served: [AtomicUsize; MODES.len()],
    /// Most bytes that one connection took.
    taken: AtomicU64,
    /// Connections to where the redirects lead.
    sink: AtomicUsize,
}

struct Hostile {
    address: String,
    ca: String,
    seen: Arc<Seen>,
}

impl Hostile {
    async fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink_url = format!("https://{}/v1/{MARK}", sink.local_addr().unwrap());
        let of_sink = Arc::clone(&seen);
        tokio::spawn(async move {
            while sink.accept().await.is_ok() {
                of_sink.sink.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (ca, config) = server(&[], false).unwrap();
        let acceptor = TlsAcceptor::from(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let of_server = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, sink) = (acceptor.clone(), Arc::clone(&of_server), sink_url.clone());
                let number = turn % MODES.len();
                turn += 1;
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let mut harm = Harm { stream, sent: 0 };
                        // The client ends it, in one way or another.
                        let asked = harm.act(MODES[number], &sink, &seen.served[number]).await;
                        drop(asked);
                        seen.taken.fetch_max(harm.sent, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, ca, seen }
    }

    fn all_were_met(&self) -> bool {
        self.seen.served.iter().all(|served| served.load(Ordering::SeqCst) > 0)
    }
}

struct Harm<S> {
    stream: S,
    sent: u64,
}

impl<S: AsyncReadExt + AsyncWriteExt + Unpin> Harm<S> {
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    async fn act(&mut self, mode: Mode, sink: &str, served: &AtomicUsize) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if self.stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        served.fetch_add(1, Ordering::SeqCst);
        match mode {
            Mode::Headers => {
                self.send(b"HTTP/1.1 200 OK\r\n").await?;
                for number in 0_u64.. {
                    self.send(format!("x-{MARK}-{number}: {}\r\n", "a".repeat(200)).as_bytes()).await?;
                }
            }
            Mode::Header => {
                self.send(format!("HTTP/1.1 200 OK\r\nx-{MARK}: ").as_bytes()).await?;
                while self.sent < TEN_GIB {
                    self.send(&[b'a'; 16 * 1024]).await?;
                }
            }
            Mode::Announced => {
                self.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {TEN_GIB}\r\n\r\n").as_bytes()).await?;
                while self.sent < TEN_GIB {
                    self.send(&[b' '; 16 * 1024]).await?;
                }
            }
            Mode::Chunked => {
                self.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let piece = [b"4000\r\n".as_slice(), &[b' '; 16 * 1024], b"\r\n"].concat();
                while self.sent < TEN_GIB {
                    self.send(&piece).await?;
                }
            }
            Mode::SlowHead => self.drip(&format!("HTTP/1.1 200 OK\r\nx-{MARK}: {}", "a".repeat(600))).await?,
            Mode::SlowBody => {
                self.send(b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n").await?;
                self.drip(&" ".repeat(600)).await?;
            }
            Mode::Deep => {
                let body = r#"{"data":["#.repeat(100_000);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                self.send((head + &body).as_bytes()).await?;
            }
            Mode::Redirect => {
                let head = format!("HTTP/1.1 307 X\r\nlocation: {sink}\r\ncontent-length: 0\r\n\r\n");
                self.send(head.as_bytes()).await?;
            }
            Mode::Echo => self.echo(&String::from_utf8_lossy(&request)).await?,
        }
        self.stream.shutdown().await
    }

    async fn drip(&mut self, text: &str) -> io::Result<()> {
        for byte in text.bytes() {
            self.send(&[byte]).await?;
            tokio::time::sleep(BYTE).await;
        }
        Ok(())
    }

    async fn echo(&mut self, request: &str) -> io::Result<()> {
        let credential = request
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map_or("", |(_, value)| value.trim_start_matches("Bearer "));
        let words = format!("\u{1b}[31m{MARK}\r\nX-Evil: 1\u{7}\u{0} {credential}");
        let body =
            json!({"error": {"message": words, "type": words, "param": words, "code": "invalid_api_key"}});
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 401 \u{1b}[31m{MARK}\r\nx-request-id: {credential}\r\nx-{MARK}: \u{1b}[2J\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.send((head + &body).as_bytes()).await
    }
}

/// A line of the process's status, in KiB.
fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    found.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// What must be nowhere: the server's own words, a part of what it was sent, and what terminals obey.
fn is_clean(place: &str, text: &str, secrets: &[&str]) {
    assert!(!text.contains(MARK), "{place} repeats the server");
    for secret in secrets {
        let parts = secret.as_bytes().windows(12).filter_map(|part| std::str::from_utf8(part).ok());
        assert!(parts.clone().count() > 0);
        for part in parts {
            assert!(!text.contains(part), "{place} has a part of a credential");
        }
    }
    let control = text.chars().find(|c| c.is_control() && !['\n', '\t'].contains(c));
    assert_eq!(control, None, "{place} has a control character");
    for escaped in ["\\u001b", "\\u0007", "\\u0000", "\\r\\n", "X-Evil"] {
        assert!(!text.contains(escaped), "{place} has {escaped}");
    }
}

#[tokio::test]
async fn a_hostile_provider_harms_nobody_else() {
    let (_alone, stage) = empty_stage().await;
    let operator = Operator::start(stage.cluster, &stage.installation, "beset", DIVISOR, "debug");
    leads(&operator).await;
    let pid = operator.pid();

    // Two neighbours, each with an account of its own, and a key that rotates each hour.
    let mut neighbours = Vec::new();
    for prefix in ["neighbour-a", "neighbour-b"] {
        let t = Tenant::on(stage, prefix).await;
        let overlap = json!({"minimum": "0s", "evidence": {"quietFor": "0s"}});
        t.policy("hourly", json!({"schedule": {"interval": "1h"}, "overlap": overlap})).await;
        t.minted("chat", json!({"rotationPolicyRef": {"name": "hourly"}})).await;
        t.ready("chat").await;
        neighbours.push(t);
    }
    let before = memory(pid, "VmRSS");

    let hostile = Hostile::start().await;
    let t = Tenant::on(stage, "hostile").await;
    let (credential, supplied) = ("sk-admin-H0stileCredential4f2b", "sk-proj-H0stileSupplied9d3c7a5e");
    let account = format!("{}-harm", t.namespace);
    t.credential(&account, credential, &hostile.address).await;
    let spec = json!({
        "baseURL": format!("https://{}/v1", hostile.address), "caBundle": hostile.ca,
        "adminCredentialRef": {"name": account},
    });
    t.llm_provider(&account, spec).await;
    for number in 0..4 {
        let reference = json!({"providerRef": {"name": account}});
        t.source(&format!("given-{number}"), supplied).await;
        t.supplied(&format!("given-{number}"), reference.clone()).await;
        t.minted(&format!("made-{number}"), reference).await;
    }
    wait("every kind of harm was tried", async || hostile.all_were_met().then_some(())).await;

    // Rotated on time, again and again, while that goes on.
    for t in &neighbours {
        let rotations = || t.calls(Operation::CreateServiceAccount);
        let begun = rotations().len();
        for more in 1..=2 {
            wait("one more rotation", async || (rotations().len() >= begun + more).then_some(())).await;
        }
        let times: Vec<_> = rotations().into_iter().map(|call| call.time).collect();
        for pair in times.windows(2) {
            let seconds = (pair[1] - pair[0]).num_seconds();
            let on_time = (HOUR - 2..=HOUR + LATE).contains(&seconds);
            assert!(on_time, "{}: rotated after {seconds} s, not {HOUR}: {times:?}", t.namespace);
        }
    }

    let (peak, now) = (memory(pid, "VmHWM"), memory(pid, "VmRSS"));
    let grown = peak.saturating_sub(before);
    assert!(
        grown < MEMORY_KIB,
        "{grown} KiB more at the peak: {before} KiB before, {peak} at most, {now} now"
    );
    assert_eq!(hostile.seen.sink.load(Ordering::SeqCst), 0, "a redirect was followed");
    let taken = hostile.seen.taken.load(Ordering::SeqCst);
    assert!(taken > 0 && taken < TAKEN, "a connection took {taken} bytes");

    let secrets = [credential, supplied];
    let log = operator.log();
    assert!(log.len() > 1_000);
    is_clean("the log", &log, &secrets);
    let keys = t.keys().list(&ListParams::default()).await.unwrap();
    assert_eq!(keys.items.len(), 8);
    for key in &keys.items {
        is_clean("a status", &status_of(key), &secrets);
    }
    let provider = Api::<LLMProvider>::all(t.client.clone()).get(&account).await.unwrap();
    is_clean("the provider's status", &serde_json::to_string(&provider.status).unwrap(), &secrets);
    let events: Api<Event> = Api::namespaced(t.client.clone(), &t.namespace);
    let events = events.list(&ListParams::default()).await.unwrap();
    for event in &events.items {
        is_clean("an event", &serde_json::to_string(event).unwrap(), &secrets);
    }
    is_clean("the metrics", &operator.get("/metrics").await.1, &secrets);
}

fn status_of(key: &LLMKey) -> String {
    serde_json::to_string(&key.status).unwrap()
}
