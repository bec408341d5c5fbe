//! The way on: to the API server and to the provider, one request one exchange, over HTTP/1.1.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use reqwest::Certificate;

use super::Failure;

/// Headers that belong to one connection. Compressed answers could be neither cut nor read in parts.
const OWN: [http::HeaderName; 5] = [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, ACCEPT_ENCODING];

/// A request as it arrived.
#[derive(Clone)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its headers, with the operator's own credential.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Asked {
    /// The path alone.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether it asks for a stream of changes.
    pub fn watches(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
    }
}

/// A whole answer.
#[derive(Clone)]
pub struct Got {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl From<Got> for Response {
    fn from(got: Got) -> Self {
        let mut response = Self::new(Body::from(got.body));
        *response.status_mut() = got.status;
        *response.headers_mut() = got.headers;
        response
    }
}

/// A server behind the proxy.
pub struct Upstream {
    client: reqwest::Client,
    base: String,
}

impl Upstream {
    /// The server at `base` (no slash at its end), whose certificate the authority signed.
    pub fn new(base: String, authority: &str) -> Result<Self, Failure> {
        let client = reqwest::Client::builder()
            .tls_certs_only([Certificate::from_pem(authority.as_bytes())?])
            .http1_only()
            .no_proxy()
            .no_gzip()
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { client, base })
    }

    /// Sends it on; the answer's head is here, its body still comes.
    pub async fn open(&self, asked: &Asked) -> Result<reqwest::Response, reqwest::Error> {
        self.client
            .request(asked.method.clone(), format!("{}{}", self.base, asked.target))
            .headers(without(&asked.headers))
            .body(asked.body.clone())
            .send()
            .await
    }

    /// Sends it on and reads the whole answer.
    pub async fn send(&self, asked: &Asked) -> Result<Got, reqwest::Error> {
        let response = self.open(asked).await?;
        let (status, headers) = (response.status(), without(response.headers()));
        Ok(Got { status, headers, body: response.bytes().await? })
    }
}

/// The headers that are passed on.
pub fn without(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in OWN {
        kept.remove(name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_told_by_their_query() {
        let watches = |target: &str| {
            let (method, headers) = (Method::GET, HeaderMap::new());
            Asked { method, target: target.to_owned(), headers, body: Bytes::new() }.watches()
        };
        assert!(watches("/api/v1/secrets?limit=1&watch=true&x=y"));
        assert!(!watches("/api/v1/secrets?limit=500"));
        assert!(!watches("/api/v1/namespaces/watch=true/secrets"));
    }
}
