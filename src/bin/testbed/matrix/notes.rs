//! Notes on one cell's requests for its trace, and the names by which keys are told there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use llmkey_operator::domain::names::MintName;
use llmkey_operator::trace::{Entry, Event, Request, Trace};
use serde_json::Value;

use super::Failure;
use super::effect::{Effect, Kind, delivered, of_provider};
use super::probe::{ENTRY, fingerprint};
use super::upstream::{Asked, Got};

/// What was seen of one cell.
#[derive(Default)]
pub struct Notes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    begun: bool,
    entries: Vec<Entry>,
    /// `version/attempt` of a key, by its account's id and by its fingerprint.
    names: HashMap<String, String>,
}

impl Notes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The story begins: from here on things are noted.
    pub fn begin(&self) {
        self.inner().begun = true;
    }

    /// Notes that something befell the operators, or that a person acted.
    pub fn happens(&self, event: Event) {
        let mut inner = self.inner();
        if inner.begun {
            inner.entries.push(Entry::Event { event });
        }
    }

    /// What was noted so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// Learns the name of a key from the answer to the request that made it.
    pub fn learn(&self, asked: &Asked, got: &Got) {
        let mints = of_provider(&asked.method, asked.path()).is_some_and(|effect| effect.kind == Kind::Mint);
        if !mints || !got.status.is_success() {
            return;
        }
        let Some(name) = name_of(asked) else { return };
        let made: Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let mut inner = self.inner();
        if let Some(id) = made["id"].as_str() {
            inner.names.insert(id.to_owned(), name.clone());
        }
        if let Some(key) = made["api_key"]["value"].as_str() {
            inner.names.insert(fingerprint(key.as_bytes()), name);
        }
    }

    fn key_of(&self, effect: &Effect, asked: &Asked) -> Option<String> {
        let known = |by: &str| self.inner().names.get(by).cloned();
        match effect.kind {
            Kind::Mint => name_of(asked),
            Kind::Revoke => known(asked.path().rsplit('/').next()?),
            Kind::Validate => {
                let header = asked.headers.get(AUTHORIZATION)?.to_str().ok()?;
                known(&fingerprint(header.strip_prefix("Bearer ")?.as_bytes()))
            }
            Kind::TargetCreate | Kind::TargetUpdate => known(&fingerprint(&delivered(&asked.body, ENTRY)?)),
            _ => None,
        }
    }
}

/// The file that traces are written to.
pub struct Traces(File);

impl Traces {
    /// A new file, in place of an older one.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        Ok(Self(File::create(path)?))
    }

    /// Writes one line.
    pub fn keep(&mut self, trace: &Trace) -> Result<(), Failure> {
        Ok(writeln!(self.0, "{}", serde_json::to_string(trace)?)?)
    }
}

/// `version/attempt` of the key that a request asks for.
fn name_of(asked: &Asked) -> Option<String> {
    let body: Value = serde_json::from_slice(&asked.body).ok()?;
    let name: MintName = body["name"].as_str()?.parse().ok()?;
    Some(format!("{}/{}", name.version, name.attempt_number()))
}

/// One request while it is under way. It has its place in the trace from when it is sent on, or else from when that is certain not
/// to happen.
pub struct Noted<'a> {
    notes: &'a Arc<Notes>,
    request: Mutex<Option<Request>>,
    place: Mutex<Option<usize>>,
}

impl<'a> Noted<'a> {
    /// A request that has arrived.
    pub fn new(notes: &'a Arc<Notes>, effect: &Effect, asked: &Asked) -> Self {
        let request = Request {
            effect: effect.kind.as_str().to_owned(),
            says: effect.detail.clone(),
            key: notes.key_of(effect, asked),
            ..Request::default()
        };
        Self { notes, request: Mutex::new(Some(request)), place: Mutex::default() }
    }

    /// The same request, which arrives when nobody waits for it any more.
    pub fn late(notes: &'a Arc<Notes>, effect: &Effect, asked: &Asked) -> Self {
        let late = Self::new(notes, effect, asked);
        late.change(|request| request.late = true);
        late
    }

    /// It has its place now, if it had none.
    pub fn takes_place(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.notes.inner();
        if place.is_none() && inner.begun {
            let request = self.request.lock().unwrap_or_else(PoisonError::into_inner).take();
            *place = request.map(|request| {
                inner.entries.push(Entry::Request(request));
                inner.entries.len() - 1
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut Request)) {
        let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(request) = self.request.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            change(request);
            return;
        }
        let mut inner = self.notes.inner();
        if let Some(Entry::Request(request)) = place.and_then(|place| inner.entries.get_mut(place)) {
            change(request);
        }
    }

    /// The server answered.
    pub fn answered(&self, status: u16) {
        self.change(|request| request.server.push(status));
    }

    /// The operator heard this, or nothing.
    pub fn heard(&self, status: Option<u16>) {
        self.takes_place();
        self.change(|request| request.heard = status);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use http::{HeaderMap, HeaderValue, Method, StatusCode};
    use llmkey_operator::domain::names::AttemptId;
    use serde_json::json;

    use super::*;

    const KEY: &str = "sk-svcacct-secret";

    fn asked(method: Method, path: &str, body: &Value) -> Asked {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
        Asked { method, target: path.to_owned(), headers, body: Bytes::from(body.to_string()) }
    }

    fn effect(kind: Kind) -> Effect {
        Effect { kind, detail: String::new() }
    }

    #[test]
    fn keys_are_told_by_version_and_attempt_and_by_nothing_else() {
        let notes = Arc::new(Notes::default());
        let name = MintName::new("install", "lineage", 2, AttemptId::new(3, 7).unwrap()).unwrap();
        let mint = asked(
            Method::POST,
            "/v1/organization/projects/p/service_accounts",
            &json!({"name": name.to_string()}),
        );
        let body = json!({"id": "svc_1", "api_key": {"value": KEY, "id": "key_1"}}).to_string();
        // Before the story begins, names are learned and nothing is noted.
        Noted::new(&notes, &effect(Kind::Mint), &mint).heard(Some(200));
        notes.learn(
            &mint,
            &Got { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::from(body) },
        );
        notes.begin();
        let ask = asked(Method::GET, "/v1/models", &Value::Null);
        let question = Noted::new(&notes, &effect(Kind::Validate), &ask);
        question.takes_place();
        notes.happens(Event::Killed);
        question.answered(200);
        question.heard(None);
        let revoke =
            asked(Method::DELETE, "/v1/organization/projects/p/service_accounts/svc_1", &Value::Null);
        Noted::late(&notes, &effect(Kind::Revoke), &revoke).heard(Some(404));
        let told = serde_json::to_string(&notes.entries()).unwrap();
        assert_eq!(
            told,
            concat!(
                r#"[{"effect":"provider:validate","key":"2/3","server":[200],"heard":null},{"event":"killed"},"#,
                r#"{"effect":"provider:revoke","key":"2/3","server":[],"heard":404,"late":true}]"#
            )
        );
    }
}
