//! The client against servers that mean harm: what never ends, what is as deep as it may be long, and what leads elsewhere.
//! What becomes of the process's memory, and of everybody else, is in `tests/it/hostile.rs`.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use super::tests::{Answer, KEY, Server, http, providers};
use super::*;
use crate::provider::MintError;

/// What one call may take of an answer without end: the cap on bodies, and what lies in the buffers of sockets.
const TAKEN: usize = 16 * 1024 * 1024;

/// What each kind of call came to, with what it says of itself.
struct Came {
    validation: Validation,
    mint: MintError,
    others: Vec<(&'static str, CallError)>,
}

/// One call of each kind, to a server that answers none of them as it should. So many of the first four fail.
async fn call(server: &Server, failing: usize) -> Came {
    let (providers, account) = (providers(), server.account());
    let id = ProviderKeyId::parse("svc_acct_1/key_1").unwrap();
    let mut others = Vec::new();
    others.extend(providers.check_account(&account).await.err().map(|error| ("account", error)));
    others.extend(providers.list(&account).await.err().map(|error| ("list", error)));
    others.extend(providers.last_used(&account, &id).await.err().map(|error| ("last use", error)));
    others.extend(providers.revoke(&account, &id).await.err().map(|error| ("revoke", error)));
    let validation = providers.validate(&server.endpoint(), &KEY.into()).await;
    let mint = providers.mint(&account, "lk1-a").await.err().unwrap();
    assert_eq!(others.len(), failing, "so many calls fail");
    Came { validation, mint, others }
}

fn again(first: &str, others: &[u8]) -> Answer {
    Answer::Again(first.as_bytes().to_vec(), others.to_vec())
}

#[tokio::test]
async fn what_never_ends_is_given_up_early() {
    const TEN_GIB: u64 = 10 * 1024 * 1024 * 1024;
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 16 * 1024], b"\r\n"].concat();
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {TEN_GIB}\r\n\r\n");
    for (what, answer) in [
        ("headers", again("HTTP/1.1 200 OK\r\n", format!("x-a: {}\r\n", "a".repeat(200)).as_bytes())),
        ("one header", again("HTTP/1.1 200 OK\r\nx-a: ", &[b'a'; 4096])),
        ("the status line", again("HTTP/1.1 200 ", &[b'a'; 4096])),
        ("interim answers", again("", b"HTTP/1.1 103 Early\r\nx-a: a\r\n\r\n")),
        ("chunks", again("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &chunk)),
        ("a chunk's head", again("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1", &[b'0'; 4096])),
        (
            "a chunk's extension",
            again("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", &[b'a'; 4096]),
        ),
        ("10 GiB as announced", again(&announced, &[b' '; 16 * 1024])),
    ] {
        let server = Server::start(vec![answer]).await;
        let came = call(&server, 4).await;
        assert!(!came.validation.verdict.refuses() && !came.validation.verdict.accepts(), "{what}");
        assert!(matches!(came.mint, MintError::UnknownOutcome(_)), "{what}: {}", came.mint);
        let taken = server.sent();
        assert!(taken < 6 * TAKEN, "{what}: six calls took {taken} bytes");
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_ends_with_the_time_of_the_call() {
    let server = Server::start(vec![Answer::Drip]).await;
    let came = tokio::time::timeout(std::time::Duration::from_secs(30), call(&server, 4)).await.unwrap();
    assert!(matches!(came.mint, MintError::UnknownOutcome(_)));
}

#[tokio::test]
async fn json_as_deep_as_it_may_be_long_is_unreadable() {
    for (open, length) in [("[", 1_000_000), (r#"{"a":"#, 200_000), (r#"{"data":["#, 100_000)] {
        for status in ["200 OK", "401 X", "404 X"] {
            let server = Server::start(vec![http(status, "", &open.repeat(length))]).await;
            let came = call(&server, 4).await;
            assert_eq!(
                (came.validation.verdict, came.validation.code),
                (Verdict::Unknown, "UnreadableReply")
            );
            assert!(matches!(came.mint, MintError::UnknownOutcome(_)), "{}", came.mint);
            for (what, error) in came.others {
                assert_eq!(error.class, ErrorClass::Garbled, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn no_call_opens_a_connection_to_where_a_redirect_leads() {
    let sink = Server::start(vec![http("200 OK", "", "{}")]).await;
    for status in ["300 X", "301 X", "302 X", "303 X", "307 X", "308 X"] {
        for location in [sink.url(), sink.url().replace("http://", "//"), format!("{}#{KEY}", sink.url())] {
            for header in ["location", "refresh", "content-location"] {
                let headers = format!("{header}: {location}\r\n");
                let server = Server::start(vec![http(status, &headers, "")]).await;
                let came = call(&server, 4).await;
                assert_eq!(came.validation.code, "UnexpectedRedirect");
                assert!(matches!(came.mint, MintError::UnknownOutcome(_)));
                for (what, error) in came.others {
                    assert_eq!(error.class, ErrorClass::UnexpectedRedirect, "{what}");
                }
            }
        }
    }
    assert_eq!(sink.connections(), 0);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_of_an_echo_is_kept_or_logged() {
    const ADMIN: &str = "sk-admin-0123456789";
    let words = format!(r"\u001b[31mred\r\nX-Evil: 1\u0000 {ADMIN} {KEY}");
    let errors =
        format!(r#"{{"error":{{"message":"{words}","type":"{words}","param":"{words}","code":"{words}"}}}}"#);
    let sink = Captured::default();
    let writer = sink.clone();
    let (subscriber, _handle) =
        crate::telemetry::log::subscriber("trace", crate::telemetry::log::LogFormat::Json, move || {
            writer.clone()
        })
        .unwrap();
    let _guard = tracing::dispatcher::set_default(&tracing::dispatcher::Dispatch::new(subscriber));
    for status in ["200 OK", "400 X", "401 X", "403 X", "404 X", "409 X", "429 X", "500 X"] {
        for headers in [
            format!("x-request-id: {ADMIN}{KEY}\r\nretry-after: {KEY}\r\n"),
            format!("x-request-id: \u{1b}[31m{KEY}\r\nx-evil: \u{7}\r\n"),
        ] {
            let server = Server::start(vec![http(status, &headers, &errors)]).await;
            // A key that is not found has no last use, and is gone; an answer with such a header is none.
            let read = status == "404 X" && !headers.contains('\u{1b}');
            let came = call(&server, if read { 2 } else { 4 }).await;
            let mut told = vec![format!("{:?}", came.validation), format!("{:?} {}", came.mint, came.mint)];
            came.mint.call().log();
            for (_, error) in &came.others {
                error.log();
                told.push(format!("{error:?} {error}"));
            }
            let log =
                String::from_utf8(sink.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap();
            assert!(log.contains("the provider did not do what it was asked"));
            told.push(log);
            for text in told {
                for secret in [ADMIN, KEY] {
                    let mut parts = secret.as_bytes().windows(10).filter_map(|p| std::str::from_utf8(p).ok());
                    assert!(parts.all(|part| !text.contains(part)), "{status}: {text}");
                }
                let obeyed = text.chars().any(|c| c.is_control() && c != '\n');
                assert!(!obeyed && !text.contains("u001b") && !text.contains("X-Evil"), "{status}: {text}");
            }
        }
    }
}
