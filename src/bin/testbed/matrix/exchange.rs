//! What the proxy does with one request: count it, strike it, send it on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use llmkey_operator::trace::Event;
use serde_json::json;

use super::cell::Cell;
use super::effect::{Effect, Kind, Whose, delivered, of_cluster, of_provider};
use super::fault::Fault;
use super::notes::Noted;
use super::probe::{ENTRY, Prober, fingerprint};
use super::story;
use super::stream::pump;
use super::upstream::{Asked, Got, Upstream};

/// The operator waits so long for the API server …
const CLUSTER_DEADLINE: Duration = Duration::from_secs(30);
/// … and so long for a provider.
const PROVIDER_DEADLINE: Duration = Duration::from_secs(10);
/// A late reply comes so long after the deadline.
const SLOW_BY: Duration = Duration::from_secs(1);
/// A late request has its effect so long after the deadline: later than a key may be missing from the provider's list.
const LATE_BY: Duration = Duration::from_secs(4);

/// How far the API server's clock goes wrong: more than what the operator takes for the network, and not so long that what
/// waits for it waits for ever.
const CLUSTER_SKEW: i64 = 4;
/// How far the provider's clock goes wrong.
const PROVIDER_SKEW: i64 = 3600;

/// One operator's way to the API server.
#[derive(Default)]
pub struct Wire {
    cut: AtomicBool,
}

impl Wire {
    /// Nothing gets through, or everything does.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Whether nothing gets through.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

/// Whose requests a listener takes.
#[derive(Clone)]
pub enum Leg {
    /// To the API server, of one operator.
    Cluster(Arc<Wire>),
    /// To the provider, of one cell.
    Provider(Arc<Cell>),
}

/// What the operator gets.
pub enum Answer {
    /// A reply.
    Reply(Response),
    /// The connection is reset.
    Reset,
}

/// Everything that exchanges need.
pub struct Proxy {
    /// The API server.
    pub cluster: Upstream,
    /// The provider.
    pub provider: Upstream,
    /// The operator's namespace.
    pub operator_namespace: String,
    /// Workloads.
    pub prober: Prober,
    cells: RwLock<Cells>,
    /// Which way the API server's clock is wrong.
    skew: AtomicI64,
}

#[derive(Default)]
struct Cells {
    by_namespace: HashMap<String, Arc<Cell>>,
    by_ledger: HashMap<String, Arc<Cell>>,
}

impl Proxy {
    /// A proxy without cells.
    pub fn new(cluster: Upstream, provider: Upstream, operator_namespace: String, prober: Prober) -> Self {
        let (cells, skew) = (RwLock::default(), AtomicI64::new(0));
        Self { cluster, provider, operator_namespace, prober, cells, skew }
    }

    /// The API server's clock is right again.
    pub fn set_clock_right(&self) {
        self.skew.store(0, Ordering::Relaxed);
    }

    /// From here on the cell's requests are its own.
    pub fn add(&self, cell: &Arc<Cell>) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells.by_namespace.insert(cell.namespace.clone(), Arc::clone(cell));
        cells.by_ledger.insert(cell.ledger.clone(), Arc::clone(cell));
    }

    /// From here on they are nobody's.
    pub fn remove(&self, cell: &Cell) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells.by_namespace.remove(&cell.namespace);
        cells.by_ledger.remove(&cell.ledger);
    }

    /// The cell that an object belongs to.
    pub fn cell_of(&self, namespace: &str, name: &str) -> Option<Arc<Cell>> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        if namespace == self.operator_namespace {
            cells.by_ledger.get(name).cloned()
        } else {
            cells.by_namespace.get(namespace).cloned()
        }
    }

    fn recognised(&self, leg: &Leg, asked: &Asked) -> Option<(Arc<Cell>, Effect)> {
        match leg {
            Leg::Provider(cell) => Some((Arc::clone(cell), of_provider(&asked.method, &asked.target)?)),
            Leg::Cluster(_) => {
                let (whose, effect) =
                    of_cluster(&asked.method, asked.path(), &asked.body, &self.operator_namespace)?;
                let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
                let cell = match whose {
                    Whose::Namespace(namespace) => cells.by_namespace.get(&namespace),
                    Whose::Ledger(ledger) => cells.by_ledger.get(&ledger),
                };
                Some((Arc::clone(cell?), effect))
            }
        }
    }

    /// The cell that a request is about, also where it only reads.
    fn about(&self, leg: &Leg, asked: &Asked) -> Option<Arc<Cell>> {
        let Leg::Cluster(_) = leg else { return None };
        let mut parts = asked.path().split('/').skip_while(|part| *part != "namespaces").skip(1);
        let (namespace, name) = (parts.next()?, parts.nth(1).unwrap_or_default());
        self.cell_of(namespace, name)
    }

    /// One exchange. It goes on when the operator is gone: an effect that is on its way takes place.
    pub async fn exchange(self: Arc<Self>, leg: Leg, asked: Asked) -> Answer {
        if leg.is_cut() {
            return Answer::Reset;
        }
        let answer = Box::pin(Arc::clone(&self).uncut(leg.clone(), asked)).await;
        if leg.is_cut() { Answer::Reset } else { answer }
    }

    async fn uncut(self: Arc<Self>, leg: Leg, asked: Asked) -> Answer {
        if let Leg::Cluster(wire) = &leg
            && asked.method == Method::GET
            && asked.watches()
        {
            return match self.cluster.open(&asked).await {
                Ok(upstream) => Answer::Reply(pump(Arc::clone(&self), Arc::clone(wire), upstream)),
                Err(error) => unreachable(&error),
            };
        }
        let recognised = self.recognised(&leg, &asked);
        let cell = match (&recognised, &leg) {
            (Some((cell, _)), _) | (None, Leg::Provider(cell)) => Some(Arc::clone(cell)),
            (None, Leg::Cluster(_)) => self.about(&leg, &asked),
        };
        let provider = matches!(leg, Leg::Provider(_));
        if let Some(cell) = &cell {
            let noted = recognised.as_ref().map(|(cell, effect)| Noted::new(&cell.notes, effect, &asked));
            if provider && cell.is_out() {
                noted.inspect(|noted| noted.heard(Some(StatusCode::SERVICE_UNAVAILABLE.as_u16())));
                return refusal(&leg, StatusCode::SERVICE_UNAVAILABLE);
            }
            if cell.is_parted(provider) {
                noted.inspect(|noted| noted.heard(None));
                return Answer::Reset;
            }
        }
        let Some((cell, effect)) = recognised else {
            return self.pass(&leg, cell.as_deref(), &asked).await;
        };
        let noted = Noted::new(&cell.notes, &effect, &asked);
        let answer = match cell.arrives(&effect) {
            None => self.take_effect(&leg, &cell, &effect, &asked, &noted).await,
            Some(fault) => {
                tracing::debug!(cell = %cell.name, %effect, "strikes");
                if fault.skew() != 0 {
                    self.skew.store(fault.skew(), Ordering::Relaxed);
                }
                let answer = self.strike(fault, &leg, &cell, &effect, &asked, &noted).await;
                cell.ends_strike();
                if fault.is_heard_of() {
                    answer
                } else {
                    noted.heard(None);
                    return answer;
                }
            }
        };
        noted.heard(match &answer {
            Answer::Reply(response) if !leg.is_cut() => Some(response.status().as_u16()),
            _ => None,
        });
        answer
    }

    async fn pass(&self, leg: &Leg, cell: Option<&Cell>, asked: &Asked) -> Answer {
        let upstream = match leg {
            Leg::Cluster(_) => &self.cluster,
            Leg::Provider(_) => &self.provider,
        };
        let skew = match leg {
            Leg::Cluster(_) => self.skew.load(Ordering::Relaxed) * CLUSTER_SKEW,
            Leg::Provider(_) => cell.map_or(0, Cell::skew) * PROVIDER_SKEW,
        };
        match upstream.send(asked).await {
            Ok(mut got) => {
                if let Leg::Provider(cell) = leg {
                    cell.notes.learn(asked, &got);
                }
                misdate(&mut got.headers, skew);
                Answer::Reply(got.into())
            }
            Err(error) => unreachable(&error),
        }
    }

    /// Sends it on. Before the operator hears of it, a workload uses what stands in the target Secret by then.
    async fn take_effect(
        &self,
        leg: &Leg,
        cell: &Cell,
        effect: &Effect,
        asked: &Asked,
        noted: &Noted<'_>,
    ) -> Answer {
        let sent = cell.now();
        noted.takes_place();
        let answer = self.pass(leg, Some(cell), asked).await;
        if let Answer::Reply(response) = &answer {
            noted.answered(response.status().as_u16());
        }
        let done = matches!(&answer, Answer::Reply(response) if response.status().is_success());
        match effect.kind {
            Kind::TargetCreate | Kind::TargetUpdate if done => {
                if let Some(key) = delivered(&asked.body, ENTRY)
                    && cell.publishes(fingerprint(&key), sent)
                {
                    cell.watch(true);
                    story::published(self.prober.admin(), cell).await;
                }
                self.prober.probe(cell).await;
            }
            Kind::Revoke => self.prober.probe(cell).await,
            _ => {}
        }
        answer
    }

    async fn strike(
        &self,
        fault: Fault,
        leg: &Leg,
        cell: &Cell,
        effect: &Effect,
        asked: &Asked,
        noted: &Noted<'_>,
    ) -> Answer {
        let deadline = match leg {
            Leg::Cluster(_) => CLUSTER_DEADLINE,
            Leg::Provider(_) => PROVIDER_DEADLINE,
        };
        match fault {
            Fault::CrashBefore => {
                noted.takes_place();
                cell.hold().await;
                Answer::Reset
            }
            Fault::LostBefore => Answer::Reset,
            Fault::CrashAfter => {
                self.take_effect(leg, cell, effect, asked, noted).await;
                cell.hold().await;
                Answer::Reset
            }
            Fault::LostAfter => {
                self.take_effect(leg, cell, effect, asked, noted).await;
                Answer::Reset
            }
            Fault::Duplicate => {
                self.take_effect(leg, cell, effect, asked, noted).await;
                self.take_effect(leg, cell, effect, asked, noted).await
            }
            Fault::Conflict => refusal(leg, StatusCode::CONFLICT),
            Fault::Throttled => refusal(leg, StatusCode::TOO_MANY_REQUESTS),
            Fault::ServerError => refusal(leg, StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Unavailable => refusal(leg, StatusCode::SERVICE_UNAVAILABLE),
            Fault::ErrorAfter => {
                self.take_effect(leg, cell, effect, asked, noted).await;
                refusal(leg, StatusCode::INTERNAL_SERVER_ERROR)
            }
            Fault::Slow => {
                let answer = self.take_effect(leg, cell, effect, asked, noted).await;
                tokio::time::sleep(deadline + SLOW_BY).await;
                answer
            }
            Fault::Late => {
                noted.heard(None);
                tokio::time::sleep(deadline + LATE_BY).await;
                let late = Noted::late(&cell.notes, effect, asked);
                self.take_effect(leg, cell, effect, asked, &late).await
            }
            Fault::Truncated => cut(self.take_effect(leg, cell, effect, asked, noted).await).await,
            Fault::Two => {
                cell.hold().await;
                self.take_effect(leg, cell, effect, asked, noted).await
            }
            Fault::Pause | Fault::CutOff => {
                let answer = self.take_effect(leg, cell, effect, asked, noted).await;
                cell.hold().await;
                answer
            }
            Fault::NoCluster | Fault::NoProvider => {
                let provider = matches!(leg, Leg::Provider(_));
                if cell.is_parted(provider) {
                    Answer::Reset
                } else {
                    self.take_effect(leg, cell, effect, asked, noted).await
                }
            }
            Fault::Stale | Fault::Missed | Fault::Ahead | Fault::Behind => {
                self.take_effect(leg, cell, effect, asked, noted).await
            }
            Fault::Edited => {
                cell.notes.happens(Event::TargetOverwritten);
                self.prober.overwrite(cell).await;
                self.take_effect(leg, cell, effect, asked, noted).await
            }
            Fault::Deleted => {
                cell.notes.happens(Event::TargetDeleted);
                self.prober.delete(cell).await;
                self.take_effect(leg, cell, effect, asked, noted).await
            }
        }
    }
}

impl Leg {
    fn is_cut(&self) -> bool {
        matches!(self, Self::Cluster(wire) if wire.is_cut())
    }
}

/// The reply as a server whose clock is so many seconds ahead would date it.
fn misdate(headers: &mut HeaderMap, seconds: i64) {
    let date = headers.get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
    if let Some(date) = date.filter(|_| seconds != 0) {
        let date = date.with_timezone(&Utc) + chrono::Duration::seconds(seconds);
        let text = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(DATE, value);
        }
    }
}

fn unreachable(error: &reqwest::Error) -> Answer {
    tracing::debug!(%error, "the server behind the proxy cannot be reached");
    Answer::Reset
}

/// A refusal as the server itself would write it.
fn refusal(leg: &Leg, status: StatusCode) -> Answer {
    let body = match leg {
        Leg::Cluster(_) => {
            let reason = match status {
                StatusCode::CONFLICT => "Conflict",
                StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
                StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
                _ => "InternalError",
            };
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                   "message": "refused by the crash matrix", "reason": reason, "code": status.as_u16()})
        }
        Leg::Provider(_) => json!({"error": {
            "message": "refused by the crash matrix", "type": "server_error", "param": null, "code": null,
        }}),
    };
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Answer::Reply(Got { status, headers, body: Bytes::from(body.to_string()) }.into())
}

/// The first half of a reply, then the end of the connection.
async fn cut(answer: Answer) -> Answer {
    let Answer::Reply(response) = answer else { return answer };
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return Answer::Reset };
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let half = bytes.slice(..bytes.len() / 2);
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    // One pending turn between the half and the break lets the half out of the server's buffer.
    let chunks = stream::iter([Ok(half)]).chain(stream::once(async move {
        tokio::task::yield_now().await;
        Err(broken)
    }));
    Answer::Reply(Response::from_parts(parts, Body::from_stream(chunks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_dated_wrong_and_otherwise_left_alone() {
        let mut headers =
            HeaderMap::from_iter([(DATE, HeaderValue::from_static("Sun, 22 Nov 2026 23:30:00 GMT"))]);
        misdate(&mut headers, 0);
        assert_eq!(headers[DATE], "Sun, 22 Nov 2026 23:30:00 GMT");
        misdate(&mut headers, PROVIDER_SKEW);
        assert_eq!(headers[DATE], "Mon, 23 Nov 2026 00:30:00 GMT");
        assert_eq!(headers.get_all(DATE).iter().count(), 1);
        let mut bare = HeaderMap::new();
        misdate(&mut bare, PROVIDER_SKEW);
        assert!(bare.is_empty());
    }
}
