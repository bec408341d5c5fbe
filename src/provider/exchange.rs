//! A request and its reply as plain data, so that providers' code needs no network.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Method, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{CallError, ErrorClass};
use crate::crypto::SecretBytes;

/// A request ready to be sent. No `Debug`: its headers hold a credential.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
}

/// The key has bytes that no HTTP header may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsendable;

impl From<Unsendable> for CallError {
    fn from(Unsendable: Unsendable) -> Self {
        Self::local(ErrorClass::BadRequest, "Unsendable")
    }
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Self { method, url, headers, body: None }
    }

    pub(super) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// Adds `Authorization: Bearer <key>`.
    pub(super) fn bearer(self, key: &SecretBytes) -> Result<Self, Unsendable> {
        let mut value = Zeroizing::new(b"Bearer ".to_vec());
        value.extend_from_slice(key.expose());
        self.secret_header(AUTHORIZATION, &value)
    }

    /// Adds a header that must not show up in any trace of the HTTP library.
    pub(super) fn secret_header(mut self, name: HeaderName, value: &[u8]) -> Result<Self, Unsendable> {
        let mut value = HeaderValue::from_bytes(value).map_err(|_| Unsendable)?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    /// Sends pairs that are encoded as forms are.
    pub(super) fn form(mut self, body: Vec<u8>) -> Self {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        self.headers.insert(CONTENT_TYPE, kind);
        self.body = Some(body);
        self
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(body.to_string().into_bytes());
        self
    }
}

/// A complete reply, at most as long as the cap. No `Debug`: its body may hold a key.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The body, if it is a JSON object.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body as a known shape.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        // The parser's own message may quote the body.
        serde_json::from_slice(&self.body).map_err(|_| self.error(ErrorClass::Garbled, "UnreadableReply"))
    }

    pub(super) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The provider's own id of the request, if it is harmless text.
    pub(super) fn request_id(&self) -> Option<String> {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        ["x-request-id", "request-id", "x-ms-request-id", "apim-request-id", "x-amzn-requestid"]
            .into_iter()
            .filter_map(|name| self.headers.get(name)?.to_str().ok())
            .find(|id| (1..=128).contains(&id.len()) && id.bytes().all(harmless))
            .map(str::to_owned)
    }

    /// How long the provider asks us to wait: at most a day. Dates count from the reply's own `Date`, whose clock wrote them.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        let text = |name: &str| self.headers.get(name)?.to_str().ok().map(str::trim);
        if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse().ok()) {
            return Some(Duration::from_millis(millis).min(LONGEST));
        }
        let value = text(RETRY_AFTER.as_str())?;
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds).min(LONGEST));
        }
        let until = DateTime::parse_from_rfc2822(value).ok()?;
        let now = DateTime::parse_from_rfc2822(text(DATE.as_str())?).ok()?;
        Some((until - now).to_std().unwrap_or_default().min(LONGEST))
    }

    /// When the provider sent the reply, by its own clock.
    pub(super) fn date(&self) -> Option<DateTime<Utc>> {
        let text = self.headers.get(DATE)?.to_str().ok()?;
        DateTime::parse_from_rfc2822(text.trim()).ok().map(|date| date.with_timezone(&Utc))
    }

    /// A failure that this reply tells of.
    pub(super) fn error(&self, class: ErrorClass, code: &'static str) -> CallError {
        CallError { class, code, status: Some(self.status), request_id: self.request_id() }
    }
}

/// The text at a path of keys.
pub(super) fn text<'a>(body: &'a Map<String, Value>, path: &[&str]) -> Option<&'a str> {
    let (last, parents) = path.split_last()?;
    parents.iter().try_fold(body, |object, key| object.get(*key)?.as_object())?.get(*last)?.as_str()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A reply as a provider would send it.
    pub(in crate::provider) fn reply(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        Reply { status, headers, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    /// Method, URL and headers of a request, credentials included.
    pub(in crate::provider) fn shown(request: &Request) -> (String, Vec<String>) {
        let mut headers: Vec<String> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        (format!("{} {}", request.method, request.url), headers)
    }

    #[test]
    fn request_ids_are_harmless_text_or_nothing() {
        let id = |value: &str| reply(500, &[("x-request-id", value)], "").request_id();
        assert_eq!(id("req_0123-abc").as_deref(), Some("req_0123-abc"));
        for bad in ["", "a b", "<script>", &"a".repeat(129)] {
            assert_eq!(id(bad), None);
        }
    }

    #[test]
    fn waiting_times_are_read_in_every_form_and_bounded() {
        let date = ("date", "Sun, 22 Nov 2026 10:00:00 GMT");
        let wait = |headers: &[(&'static str, &str)]| {
            reply(429, headers, "").retry_after().map(|wait| wait.as_millis())
        };
        let at = |time| ("retry-after", time);
        assert_eq!(wait(&[("retry-after", "7")]), Some(7_000));
        assert_eq!(wait(&[("retry-after-ms", "250"), ("retry-after", "7")]), Some(250));
        assert_eq!(wait(&[at("Sun, 22 Nov 2026 10:01:00 GMT"), date]), Some(60_000));
        assert_eq!(wait(&[at("Sun, 22 Nov 2026 09:59:00 GMT"), date]), Some(0));
        assert_eq!(wait(&[at("Sun, 22 Nov 2026 10:01:00 GMT")]), None);
        assert_eq!(wait(&[("retry-after", "99999999999")]), Some(86_400_000));
        assert_eq!(wait(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn credentials_in_headers_are_marked() {
        let request = Request::get(Url::parse("https://a.example/").unwrap()).bearer(&"sk-x".into()).unwrap();
        assert!(request.headers[AUTHORIZATION].is_sensitive());
        assert!(Request::get(request.url).bearer(&"sk\nx".into()).is_err());
    }
}
