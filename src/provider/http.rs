//! The one way to a provider: no redirects, no proxy, checked addresses, bounded time, bounded bodies, bounded concurrency.

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::{Certificate, Client, redirect, tls};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{
    CallError, Endpoint, ErrorClass, MintError, ProvidersConfig,
    address::{AddressPolicy, AddressRefused, CheckedResolver},
    exchange::{Reply, Request, Unsendable},
};

/// Longest body that is read, after decompression.
const BODY_CAP: usize = 1024 * 1024;
/// Requests in flight at one host: a slow provider holds no more tasks than that.
const IN_FLIGHT_PER_HOST: usize = 32;
/// Clients and hosts kept; edits of CA bundles and URLs would pile them up otherwise.
const KEPT: usize = 64;

/// A call without a usable reply.
pub(super) struct Lost {
    pub(super) error: CallError,
    /// Whether the request may have reached the provider.
    pub(super) maybe_sent: bool,
}

/// What failed before there was a request.
impl From<CallError> for Lost {
    fn from(error: CallError) -> Self {
        Self { error, maybe_sent: false }
    }
}

impl From<Unsendable> for Lost {
    fn from(unsendable: Unsendable) -> Self {
        CallError::from(unsendable).into()
    }
}

/// Of a call that makes a key.
impl From<Lost> for MintError {
    fn from(Lost { error, maybe_sent }: Lost) -> Self {
        if maybe_sent { Self::UnknownOutcome(error) } else { Self::NotSent(error) }
    }
}

impl Lost {
    fn unsent(class: ErrorClass, code: &'static str) -> Self {
        CallError::local(class, code).into()
    }

    fn sent(class: ErrorClass, code: &'static str, status: Option<u16>) -> Self {
        Self { error: CallError { status, ..CallError::local(class, code) }, maybe_sent: true }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    ca_bundle: Option<String>,
    policy: AddressPolicy,
}

/// Clients by what they trust and may call, so that connections are pooled, and a semaphore for each host.
pub(super) struct Transport {
    pub(super) config: ProvidersConfig,
    clients: Mutex<HashMap<ClientKey, Client>>,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Transport {
    pub(super) fn new(config: ProvidersConfig) -> Self {
        Self { config, clients: Mutex::default(), hosts: Mutex::default() }
    }

    /// Sends one request once and reads the whole reply. Any status is a reply, 3xx too.
    pub(super) async fn send(&self, endpoint: &Endpoint, request: Request) -> Result<Reply, Lost> {
        let policy =
            AddressPolicy { addresses: endpoint.addresses(), loopback_only: self.config.loopback_only };
        if !policy.allows_literal(&request.url) {
            return Err(Lost::unsent(ErrorClass::RefusedAddress, "RefusedAddress"));
        }
        let client = self.client(endpoint, policy)?;
        let host = self.host(&endpoint.authority());
        let permit = tokio::time::timeout(self.config.total_timeout, host.acquire_owned()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Lost::unsent(ErrorClass::TimedOut, "NoFreeSlot"));
        };
        let mut builder = client.request(request.method, request.url).headers(request.headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let response = builder.send().await.map_err(lost_before_reply)?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let declared = response.content_length();
        if declared.is_some_and(|length| length > BODY_CAP as u64) {
            return Err(Lost::sent(ErrorClass::Garbled, "ReplyTooLong", Some(status)));
        }
        let mut body = Zeroizing::new(Vec::new());
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| lost_in_reply(&error, status))?;
            if body.len() + chunk.len() > BODY_CAP {
                return Err(Lost::sent(ErrorClass::Garbled, "ReplyTooLong", Some(status)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, headers, body })
    }

    fn host(&self, authority: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= KEPT {
            hosts.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        hosts
            .entry(authority.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(IN_FLIGHT_PER_HOST)))
            .clone()
    }

    fn client(&self, endpoint: &Endpoint, policy: AddressPolicy) -> Result<Client, Lost> {
        let key = ClientKey { ca_bundle: endpoint.ca_bundle().map(str::to_owned), policy };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(&self.config, &key)?;
        if clients.len() >= KEPT {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build(config: &ProvidersConfig, key: &ClientKey) -> Result<Client, Lost> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .https_only(cfg!(not(test)))
        .tls_backend_rustls()
        .tls_version_min(tls::Version::TLS_1_2)
        .referer(false)
        .user_agent(&config.user_agent)
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.read_timeout)
        .timeout(config.total_timeout)
        .pool_max_idle_per_host(8)
        .pool_idle_timeout(Duration::from_secs(60))
        // A connection that lost its other side is noticed between calls, not by the time-outs of all that share it.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .http1_max_headers(64)
        .http2_max_header_list_size(32 * 1024)
        .dns_resolver(CheckedResolver(key.policy));
    if let Some(pem) = &key.ca_bundle {
        let bundle = Certificate::from_pem_bundle(pem.as_bytes());
        let bundle = bundle.ok().filter(|bundle| !bundle.is_empty());
        let bundle = bundle.ok_or_else(|| Lost::unsent(ErrorClass::NotReached, "BadCaBundle"))?;
        builder = builder.tls_certs_merge(bundle);
    }
    builder.build().map_err(|_| Lost::unsent(ErrorClass::NotReached, "NoTlsClient"))
}

/// `is_connect` comes first: a connect time-out is both, and it alone proves that nothing was sent.
#[allow(clippy::needless_pass_by_value, reason = "the error's URL ends here")]
fn lost_before_reply(error: reqwest::Error) -> Lost {
    if refused_address(&error) {
        Lost::unsent(ErrorClass::RefusedAddress, "RefusedAddress")
    } else if error.is_builder() {
        Lost::unsent(ErrorClass::BadRequest, "Unsendable")
    } else if error.is_connect() {
        let code = if error.is_dns() {
            "NameNotResolved"
        } else if error.is_timeout() {
            "ConnectTimedOut"
        } else {
            "NotReached"
        };
        Lost::unsent(ErrorClass::NotReached, code)
    } else if error.is_timeout() {
        Lost::sent(ErrorClass::TimedOut, "TimedOut", None)
    } else {
        Lost::sent(ErrorClass::Garbled, "ConnectionLost", None)
    }
}

fn lost_in_reply(error: &reqwest::Error, status: u16) -> Lost {
    if error.is_timeout() {
        Lost::sent(ErrorClass::TimedOut, "TimedOut", Some(status))
    } else {
        Lost::sent(ErrorClass::Garbled, "TruncatedReply", Some(status))
    }
}

fn refused_address(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<AddressRefused>() {
            return true;
        }
        cause = error.source();
    }
    false
}
