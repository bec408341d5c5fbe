//! The one state behind all connections, and the way of a call through it: fault, effect, log, answer.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    anthropic, azure, bedrock,
    call::{Call, Outcome, Subject},
    credential::{Credential, fingerprint, last_four},
    fault::{Answer, Fault, FaultTable},
    google, litellm,
    log::{CallerMark, Effect, Log, LogEntry},
    mistral, openrouter,
    operation::{Dialect, Operation},
    wire::{self, ApiError},
    world::World,
    xai,
};

/// Where the sandbox reads the time.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// Marks a response that must not be sent: the listener resets the connection instead.
#[derive(Clone, Copy)]
pub(super) struct ReplyDropped;

/// What one lock guards. Sections are short and never wait.
pub(super) struct State {
    pub(super) world: World,
    pub(super) faults: FaultTable,
    pub(super) log: Log,
}

/// The state with its clock and its signals.
pub(super) struct Backend {
    state: Mutex<State>,
    clock: Clock,
    models: Bytes,
    log_end: watch::Sender<u64>,
    fault_changes: watch::Sender<()>,
}

impl Backend {
    /// A backend over a state.
    pub(super) fn new(world: World, log: Log, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State { world, faults: FaultTable::default(), log }),
            clock,
            models: Bytes::from(wire::models().to_string()),
            log_end: watch::Sender::new(0),
            fault_changes: watch::Sender::new(()),
        }
    }

    /// The sandbox clock.
    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// The state. A panic elsewhere leaves it usable: every section changes it completely or not at all.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the log's newest entry, as it grows.
    pub(super) fn log_end(&self) -> watch::Receiver<u64> {
        self.log_end.subscribe()
    }

    /// Wakes calls that hang, so that they look whether their rule is gone.
    pub(super) fn faults_changed(&self) {
        self.fault_changes.send_replace(());
    }

    /// Answers a call. A call that a fault holds back goes on when the client gives up, as at a real server.
    pub(super) async fn answer(self: Arc<Self>, call: Call, credential: Credential) -> Response {
        let (subject, fault) = {
            let mut state = self.state();
            let subject = state.world.subject(&call, &credential);
            let fault =
                state.faults.take(call.operation, subject.project.as_deref(), subject.name.as_deref());
            (subject, fault)
        };
        match fault {
            None => self.commit(&call, &credential, subject, None),
            Some(fault) => {
                let handle = tokio::spawn(self.answer_with_fault(call, credential, subject, fault));
                handle.await.unwrap_or_else(|_| dropped())
            }
        }
    }

    async fn answer_with_fault(
        self: Arc<Self>,
        call: Call,
        credential: Credential,
        subject: Subject,
        (rule, fault): (u64, Fault),
    ) -> Response {
        if fault.delay_millis > 0 {
            tokio::time::sleep(Duration::from_millis(fault.delay_millis)).await;
        }
        let presented = match &credential {
            Credential::Missing => "",
            Credential::Bearer(presented) => presented.value.as_str(),
        };
        let substitute = substitute(fault.answer, call.operation, presented);
        let status = substitute.as_ref().map(Response::status);
        let genuine = if fault.takes_effect() {
            self.commit(&call, &credential, subject, Some((&fault, status)))
        } else {
            self.record(&mut self.state(), &call, &credential, subject, None, Some((&fault, status)));
            dropped()
        };
        match fault.answer {
            Answer::Genuine => genuine,
            Answer::CutBody => halved(genuine, true).await,
            Answer::HalfBody => halved(genuine, false).await,
            Answer::Hang => {
                self.cleared(rule).await;
                dropped()
            }
            _ => substitute.unwrap_or_else(dropped),
        }
    }

    /// Takes the effect and logs it under one lock, so that the log's order is the order of effects.
    fn commit(
        &self,
        call: &Call,
        credential: &Credential,
        subject: Subject,
        fault: Option<(&Fault, Option<StatusCode>)>,
    ) -> Response {
        let mut state = self.state();
        let outcome = state.world.execute(call, credential, self.now());
        let sequence = self.record(&mut state, call, credential, subject, Some(&outcome), fault);
        drop(state);
        let mut response = match outcome.answer {
            Ok(None) => json_bytes(StatusCode::OK, self.models.clone()),
            Ok(Some(body)) => json(call.operation.success(), &body),
            Err(error) => error_response(&error),
        };
        if let Ok(id) = HeaderValue::from_str(&format!("req_{sequence:024x}")) {
            response.headers_mut().insert("x-request-id", id);
        }
        response
    }

    fn record(
        &self,
        state: &mut State,
        call: &Call,
        credential: &Credential,
        subject: Subject,
        outcome: Option<&Outcome>,
        fault: Option<(&Fault, Option<StatusCode>)>,
    ) -> u64 {
        let genuine = outcome.map(|outcome| match &outcome.answer {
            Ok(_) => call.operation.success(),
            Err(error) => error.status,
        });
        let status = match fault {
            Some((Fault { answer: Answer::Drop | Answer::Hang, .. }, _)) => None,
            Some((_, Some(substitute))) => Some(substitute),
            _ => genuine,
        };
        let caller = match credential {
            Credential::Missing => None,
            Credential::Bearer(presented) => Some(CallerMark {
                fingerprint: fingerprint(&presented.digest),
                last_four: last_four(&presented.value),
            }),
        };
        let entry = LogEntry {
            sequence: 0,
            time: self.now(),
            operation: call.operation,
            project: subject.project,
            name: subject.name,
            object_id: outcome.and_then(|outcome| outcome.created.clone()).or(subject.object),
            key_ids: outcome.map(|outcome| outcome.keys.clone()).unwrap_or_default(),
            effect: outcome.map_or(Effect::Refused, |outcome| outcome.effect),
            status: status.map(|status| status.as_u16()),
            fault: fault.map(|(fault, _)| fault.label().to_owned()),
            caller,
        };
        if let Err(error) = state.log.append(entry) {
            tracing::error!(%error, "the sandbox cannot write its log file");
        }
        self.log_end.send_replace(state.log.last());
        state.log.last()
    }

    async fn cleared(&self, rule: u64) {
        let mut changes = self.fault_changes.subscribe();
        while self.state().faults.contains(rule) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The answer that a fault puts in place of the genuine one.
fn substitute(answer: Answer, operation: Operation, presented: &str) -> Option<Response> {
    if let Answer::Html { status } = answer {
        let status = wire::status_of(status);
        return Some(with_type(status, "text/html", Bytes::from(wire::html_page(status))));
    }
    let error = match operation.dialect() {
        Dialect::OpenAI => ApiError::of_fault(answer, presented),
        Dialect::OpenRouter => openrouter::of_fault(answer),
        Dialect::LiteLLM => litellm::of_fault(answer),
        Dialect::Azure => azure::of_fault(answer),
        Dialect::Google => google::of_fault(answer),
        Dialect::Bedrock => bedrock::of_fault(answer, operation),
        Dialect::Anthropic => anthropic::of_fault(answer),
        Dialect::Xai => xai::of_fault(answer, presented),
        Dialect::Mistral => mistral::of_fault(answer),
    };
    error.map(|error| error_response(&error))
}

/// A response that the listener turns into a reset.
fn dropped() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(ReplyDropped);
    response
}

/// The first half of a response's body: as a whole answer, or cut off by a reset.
async fn halved(response: Response, cut: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return dropped();
    };
    let half = bytes.slice(..bytes.len() / 2);
    if !cut {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(half.len()));
        return Response::from_parts(parts, Body::from(half));
    }
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
    // One pending turn between the half and the break lets the half out of the server's buffer.
    let chunks = stream::iter([Ok(half)]).chain(stream::once(async move {
        tokio::task::yield_now().await;
        Err(broken)
    }));
    Response::from_parts(parts, Body::from_stream(chunks))
}

/// A refusal with its documented body.
pub(super) fn error_response(error: &ApiError) -> Response {
    let mut response = json(error.status, &error.body());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A JSON response; a text is a document of XML.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    if let Value::String(document) = body {
        return with_type(status, "text/xml", Bytes::from(document.clone()));
    }
    json_bytes(status, Bytes::from(body.to_string()))
}

fn json_bytes(status: StatusCode, body: Bytes) -> Response {
    with_type(status, "application/json", body)
}

/// A response of a media type.
pub(super) fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
