//! The client against small servers on this machine that answer in every bad way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{api::ProviderType, provider::AdminCredential};

pub(super) const KEY: &str = "sk-proj-0123456789abcdef";

/// What the server does with a request once it has read it.
#[derive(Clone)]
pub(super) enum Answer {
    /// Sends the bytes and closes.
    Bytes(Vec<u8>),
    /// Resets the connection.
    Reset,
    /// Says nothing.
    Silence,
    /// Sends without end.
    Endless,
    /// Sends a byte from time to time.
    Drip,
    /// Sends the first bytes, then the others again and again, without end.
    Again(Vec<u8>, Vec<u8>),
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Server {
    /// Answers the n-th request with the n-th answer, further ones with the last.
    pub(super) async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (connections, sent): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let (count, opened, bytes) = (requests.clone(), Arc::clone(&connections), Arc::clone(&sent));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                let answers = answers.clone();
                let (count, bytes) = (count.clone(), Arc::clone(&bytes));
                tokio::spawn(async move { serve(stream, &answers, &count, &bytes).await });
            }
        });
        Self { address, requests, connections, sent }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::local(ProviderType::OpenAI, &self.url())
    }

    pub(super) fn account(&self) -> Account {
        let host = self.address.to_string();
        let credential =
            AdminCredential::from_secret_data(host.as_bytes(), &"sk-admin-0123456789".into()).unwrap();
        Account::new(self.endpoint(), "proj_1", credential).unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Connections that were opened, whether or not anything was asked.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Bytes of answers without end that the client took.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, answers: &[Answer], count: &AtomicUsize, sent: &AtomicUsize) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let turn = count.fetch_add(1, Ordering::SeqCst);
    match &answers[turn.min(answers.len() - 1)] {
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Reset => drop(stream),
        Answer::Silence => std::future::pending().await,
        Answer::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&buffer).await.is_ok() {}
        }
        Answer::Again(first, others) => {
            let mut written = stream.write_all(first).await;
            while written.is_ok() {
                written = stream.write_all(others).await;
                sent.fetch_add(others.len(), Ordering::SeqCst);
            }
        }
        Answer::Drip => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
            let mut turn = tokio::time::interval(Duration::from_millis(50));
            while stream.write_all(b" ").await.is_ok() {
                turn.tick().await;
            }
        }
    }
}

pub(super) fn http(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
            .into(),
    )
}

/// Two MiB of zeros as gzip, by hand: one literal, then 258-byte repetitions in fixed Huffman codes.
fn gzip_bomb() -> Answer {
    let mut bits = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..2 * 1024 * 1024 / 258 {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    bits.extend([false; 7]);
    let deflated = bits.chunks(8).map(|byte| {
        byte.iter().enumerate().fold(0_u8, |byte, (place, bit)| byte | (u8::from(*bit) << place))
    });
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    body.extend(deflated);
    body.extend([0; 8]);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
    Answer::Bytes([head.into_bytes(), body].concat())
}

pub(super) fn providers() -> Providers {
    Providers::new(ProvidersConfig {
        read_timeout: Duration::from_millis(300),
        total_timeout: Duration::from_millis(900),
        loopback_only: true,
        ..ProvidersConfig::default()
    })
}

const CREATED: &str =
    r#"{"id":"svc_acct_1","name":"lk1-a","api_key":{"id":"key_1","value":"sk-svcacct-0123456789abcdef"}}"#;

#[tokio::test]
async fn a_lost_answer_of_a_mint_is_an_unknown_outcome_and_sent_once() {
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{CREATED}", CREATED.len() + 1);
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * 1024 * 1024);
    for (answer, class, code) in [
        (Answer::Reset, ErrorClass::Garbled, "ConnectionLost"),
        (Answer::Silence, ErrorClass::TimedOut, "TimedOut"),
        (Answer::Endless, ErrorClass::Garbled, "ReplyTooLong"),
        (Answer::Bytes(cut.into()), ErrorClass::Garbled, "TruncatedReply"),
        (Answer::Bytes(long.into()), ErrorClass::Garbled, "ReplyTooLong"),
        (http("200 OK", "", "<html>"), ErrorClass::Garbled, "UnreadableReply"),
        (http("502 Bad Gateway", "", "<html>"), ErrorClass::Server, "ServerError"),
    ] {
        let server = Server::start(vec![answer]).await;
        let failed = providers().mint(&server.account(), "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{failed:?}");
        assert_eq!((failed.call().class, failed.call().code), (class, code));
        assert_eq!(server.requests(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_mint_that_never_left_is_known_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = Server {
        address: listener.local_addr().unwrap(),
        requests: Arc::default(),
        connections: Arc::default(),
        sent: Arc::default(),
    };
    drop(listener);
    let failed = providers().mint(&closed.account(), "lk1-a").await.err().unwrap();
    assert!(matches!(failed, MintError::NotSent(_)), "{failed:?}");
    assert_eq!(failed.call().class, ErrorClass::NotReached);

    let server = Server::start(vec![http("200 OK", "", CREATED)]).await;
    let failed = providers().mint(&server.account(), "a name\n").await.err().unwrap();
    assert!(matches!(failed, MintError::NotSent(_)), "{failed:?}");
    assert_eq!(server.requests(), 0);
    let minted = providers().mint(&server.account(), "lk1-a").await.ok().unwrap();
    assert_eq!(minted.id.as_str(), "svc_acct_1/key_1");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_not_sent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let endpoint = Endpoint::local(ProviderType::OpenAI, &format!("https://{address}/v1"));
    let host = address.to_string();
    let credential =
        AdminCredential::from_secret_data(host.as_bytes(), &"sk-admin-0123456789".into()).unwrap();
    let account = Account::new(endpoint, "proj_1", credential).unwrap();
    let providers = Providers::new(ProvidersConfig {
        connect_timeout: Duration::from_millis(200),
        loopback_only: true,
        ..ProvidersConfig::default()
    });
    let failed = providers.mint(&account, "lk1-a").await.err().unwrap();
    assert!(matches!(failed, MintError::NotSent(_)), "{failed:?}");
    assert_eq!((failed.call().class, failed.call().code), (ErrorClass::NotReached, "ConnectTimedOut"));
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let sink = Server::start(vec![http("200 OK", "", CREATED)]).await;
    for status in ["301 X", "302 X", "303 X", "307 X", "308 X"] {
        let location = format!("location: {}/models\r\n", sink.url());
        let server = Server::start(vec![http(status, &location, "")]).await;
        let failed = providers().mint(&server.account(), "lk1-a").await.err().unwrap();
        assert!(matches!(failed, MintError::UnknownOutcome(_)), "{failed:?}");
        assert_eq!(failed.call().class, ErrorClass::UnexpectedRedirect);
        let listed = providers().list(&server.account()).await.unwrap_err();
        assert_eq!(listed.class, ErrorClass::UnexpectedRedirect);
        let validation = providers().validate(&server.endpoint(), &KEY.into()).await;
        assert_eq!((validation.verdict, validation.code), (Verdict::Unknown, "UnexpectedRedirect"));
    }
    assert_eq!(sink.requests(), 0);
}

#[tokio::test]
async fn lost_validations_say_nothing_of_the_key() {
    let body = r#"{"error":{"message":"x","type":"x","param":null,"code":"invalid_api_key"}}"#;
    let cut = format!("HTTP/1.1 401 X\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 1);
    for (answer, verdict) in [
        (Answer::Reset, Verdict::ProviderDown),
        (Answer::Silence, Verdict::ProviderDown),
        (Answer::Endless, Verdict::Unknown),
        (Answer::Drip, Verdict::ProviderDown),
        (gzip_bomb(), Verdict::Unknown),
        (http("401 X", &"x-filler: 1\r\n".repeat(70), body), Verdict::ProviderDown),
        (Answer::Bytes(cut.into()), Verdict::Unknown),
        (http("401 X", "", body), Verdict::Rejected),
    ] {
        let server = Server::start(vec![answer]).await;
        assert_eq!(providers().validate(&server.endpoint(), &KEY.into()).await.verdict, verdict);
    }
}

#[tokio::test]
async fn silence_ends_a_call_long_before_its_total_time() {
    let silent = Server::start(vec![Answer::Silence]).await;
    let providers = Providers::new(ProvidersConfig {
        read_timeout: Duration::from_millis(200),
        total_timeout: Duration::from_secs(600),
        loopback_only: true,
        ..ProvidersConfig::default()
    });
    let (endpoint, key) = (silent.endpoint(), KEY.into());
    let validation = tokio::time::timeout(Duration::from_secs(20), providers.validate(&endpoint, &key)).await;
    assert_eq!(validation.unwrap().code, "TimedOut");
}

#[tokio::test]
async fn a_bomb_is_cut_at_the_cap() {
    let server = Server::start(vec![gzip_bomb()]).await;
    let validation = providers().validate(&server.endpoint(), &KEY.into()).await;
    assert_eq!((validation.code, validation.http_status), ("ReplyTooLong", Some(200)));
}

#[tokio::test]
async fn a_silent_provider_does_not_hold_up_another() {
    let silent = Server::start(vec![Answer::Silence]).await;
    let good = Server::start(vec![http("200 OK", "", r#"{"data":[]}"#)]).await;
    let providers = Providers::new(ProvidersConfig { loopback_only: true, ..ProvidersConfig::default() });
    let stuck: Vec<_> = (0..64)
        .map(|_| {
            let (providers, endpoint) = (providers.clone(), silent.endpoint());
            tokio::spawn(async move { providers.validate(&endpoint, &KEY.into()).await })
        })
        .collect();
    let reached = async {
        while silent.requests() < 32 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
    let validation = providers.validate(&good.endpoint(), &KEY.into()).await;
    assert_eq!(validation.verdict, Verdict::Valid);
    assert_eq!(silent.requests(), 32);
    for task in stuck {
        task.abort();
    }
}

#[tokio::test]
async fn a_request_id_that_echoes_the_key_is_dropped() {
    let server = Server::start(vec![
        http("200 OK", "x-request-id: req_1\r\n", r#"{"data":[]}"#),
        http("200 OK", "x-request-id: req-56789abc\r\n", r#"{"data":[]}"#),
    ])
    .await;
    let first = providers().validate(&server.endpoint(), &KEY.into()).await;
    assert_eq!(first.request_id.as_deref(), Some("req_1"));
    assert_eq!(providers().validate(&server.endpoint(), &KEY.into()).await.request_id, None);
}

#[tokio::test]
async fn a_server_that_accepts_anybody_is_told_as_such() {
    let open = Server::start(vec![http("200 OK", "", r#"{"data":[]}"#)]).await;
    let endpoint = Endpoint::local(ProviderType::OpenAICompatible, &open.url());
    let validation = providers().validate(&endpoint, &KEY.into()).await;
    assert_eq!((validation.verdict, validation.code), (Verdict::Valid, "AuthenticationNotEnforced"));
    let closed = Server::start(vec![
        http("200 OK", "", r#"{"data":[]}"#),
        http("401 X", "", r#"{"error":"Unauthorized"}"#),
    ])
    .await;
    let endpoint = Endpoint::local(ProviderType::OpenAICompatible, &closed.url());
    assert_eq!(providers().validate(&endpoint, &KEY.into()).await.code, "Accepted");
}

fn page(ids: &[&str], more: bool) -> Answer {
    let data: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":"{id}","name":"lk1-{id}"}}"#)).collect();
    http("200 OK", "", &format!(r#"{{"object":"list","data":[{}],"has_more":{more}}}"#, data.join(",")))
}

#[tokio::test]
async fn a_list_is_whole_or_an_error() {
    let server = Server::start(vec![page(&["a", "b"], true), page(&["c"], false)]).await;
    let names: Vec<_> = providers().list(&server.account()).await.unwrap();
    assert_eq!(names.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);

    let broken = Server::start(vec![page(&["a"], true), http("500 X", "", "")]).await;
    assert_eq!(providers().list(&broken.account()).await.unwrap_err().class, ErrorClass::Server);

    let endless = Server::start(vec![page(&["a"], true)]).await;
    assert_eq!(providers().list(&endless.account()).await.unwrap_err().code, "EndlessList");
    assert_eq!(endless.requests(), 2);
}

#[tokio::test]
async fn refused_addresses_get_no_connection() {
    let sink = Server::start(vec![http("200 OK", "", r#"{"data":[]}"#)]).await;
    let port = sink.address.port();
    // Not loopback-only: here `PublicOnly` alone must refuse, by literal and by name.
    let providers = Providers::new(ProvidersConfig::default());
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let spec = json!({"type": "OpenAI", "baseURL": format!("https://{host}:{port}/v1"), "allowedNamespaces": []});
        let endpoint = Endpoint::from_spec(&serde_json::from_value(spec).unwrap()).unwrap();
        let validation = providers.validate(&endpoint, &KEY.into()).await;
        assert_eq!(
            (validation.verdict, validation.code),
            (Verdict::AddressRefused, "RefusedAddress"),
            "{host}"
        );
    }
    assert_eq!(sink.requests(), 0);
}

#[tokio::test]
async fn test_time_calls_nothing_but_loopback() {
    let endpoint = Endpoint::local(ProviderType::OpenAI, "http://192.0.2.1/v1");
    let validation = providers().validate(&endpoint, &KEY.into()).await;
    assert_eq!((validation.verdict, validation.code), (Verdict::AddressRefused, "RefusedAddress"));
}

#[tokio::test]
async fn a_key_that_cannot_be_a_header_is_not_sent() {
    let server = Server::start(vec![http("200 OK", "", r#"{"data":[]}"#)]).await;
    let validation = providers().validate(&server.endpoint(), &"sk-\r\nx-evil: 1".into()).await;
    assert_eq!((validation.verdict, validation.code), (Verdict::Unknown, "Unsendable"));
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_bad_ca_bundle_is_told_before_sending() {
    let spec = json!({"type": "OpenAI", "caBundle": "no certificate", "allowedNamespaces": []});
    let endpoint = Endpoint::from_spec(&serde_json::from_value(spec).unwrap()).unwrap();
    let validation = Providers::new(ProvidersConfig::default()).validate(&endpoint, &KEY.into()).await;
    assert_eq!(validation.code, "BadCaBundle");
}
