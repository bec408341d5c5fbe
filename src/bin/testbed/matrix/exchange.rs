//! What the proxy does with one request: count it, strike it, send it on.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::cell::Cell;
use super::effect::{Effect, Kind, Whose, delivered, of_cluster, of_provider};
use super::fault::Fault;
use super::probe::{ENTRY, Prober, fingerprint};
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

/// Whose requests a listener takes.
#[derive(Clone)]
pub enum Leg {
    /// To the API server.
    Cluster,
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
}

#[derive(Default)]
struct Cells {
    by_namespace: HashMap<String, Arc<Cell>>,
    by_ledger: HashMap<String, Arc<Cell>>,
}

impl Proxy {
    /// A proxy without cells.
    pub fn new(cluster: Upstream, provider: Upstream, operator_namespace: String, prober: Prober) -> Self {
        Self { cluster, provider, operator_namespace, prober, cells: RwLock::default() }
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
            Leg::Provider(cell) => Some((Arc::clone(cell), of_provider(&asked.method, asked.path())?)),
            Leg::Cluster => {
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

    /// One exchange. It goes on when the operator is gone: an effect that is on its way takes place.
    pub async fn exchange(self: Arc<Self>, leg: Leg, asked: Asked) -> Answer {
        if asked.method == Method::GET && asked.watches() {
            return match self.cluster.open(&asked).await {
                Ok(upstream) => Answer::Reply(pump(self, upstream)),
                Err(error) => unreachable(&error),
            };
        }
        let Some((cell, effect)) = self.recognised(&leg, &asked) else {
            return self.pass(&leg, &asked).await;
        };
        match cell.arrives(&effect) {
            None => self.take_effect(&leg, &cell, &effect, &asked).await,
            Some(fault) => {
                tracing::debug!(cell = %cell.name, %effect, "strikes");
                let answer = self.strike(fault, &leg, &cell, &effect, &asked).await;
                cell.ends_strike();
                answer
            }
        }
    }

    async fn pass(&self, leg: &Leg, asked: &Asked) -> Answer {
        let upstream = match leg {
            Leg::Cluster => &self.cluster,
            Leg::Provider(_) => &self.provider,
        };
        match upstream.send(asked).await {
            Ok(got) => Answer::Reply(got.into()),
            Err(error) => unreachable(&error),
        }
    }

    /// Sends it on. Before the operator hears of it, a workload uses what stands in the target Secret by then.
    async fn take_effect(&self, leg: &Leg, cell: &Cell, effect: &Effect, asked: &Asked) -> Answer {
        let answer = self.pass(leg, asked).await;
        let done = matches!(&answer, Answer::Reply(response) if response.status().is_success());
        match effect.kind {
            Kind::TargetCreate | Kind::TargetUpdate if done => {
                if let Some(key) = delivered(&asked.body, ENTRY) {
                    cell.publishes(fingerprint(&key));
                    cell.watch(true);
                }
                self.prober.probe(cell).await;
            }
            Kind::Revoke => self.prober.probe(cell).await,
            _ => {}
        }
        answer
    }

    async fn strike(&self, fault: Fault, leg: &Leg, cell: &Cell, effect: &Effect, asked: &Asked) -> Answer {
        let deadline = match leg {
            Leg::Cluster => CLUSTER_DEADLINE,
            Leg::Provider(_) => PROVIDER_DEADLINE,
        };
        match fault {
            Fault::CrashBefore => {
                cell.hold().await;
                Answer::Reset
            }
            Fault::LostBefore => Answer::Reset,
            Fault::CrashAfter => {
                self.take_effect(leg, cell, effect, asked).await;
                cell.hold().await;
                Answer::Reset
            }
            Fault::LostAfter => {
                self.take_effect(leg, cell, effect, asked).await;
                Answer::Reset
            }
            Fault::Duplicate => {
                self.take_effect(leg, cell, effect, asked).await;
                self.take_effect(leg, cell, effect, asked).await
            }
            Fault::Conflict => refusal(leg, StatusCode::CONFLICT),
            Fault::Throttled => refusal(leg, StatusCode::TOO_MANY_REQUESTS),
            Fault::ServerError => refusal(leg, StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Unavailable => refusal(leg, StatusCode::SERVICE_UNAVAILABLE),
            Fault::ErrorAfter => {
                self.take_effect(leg, cell, effect, asked).await;
                refusal(leg, StatusCode::INTERNAL_SERVER_ERROR)
            }
            Fault::Slow => {
                let answer = self.take_effect(leg, cell, effect, asked).await;
                tokio::time::sleep(deadline + SLOW_BY).await;
                answer
            }
            Fault::Late => {
                tokio::time::sleep(deadline + LATE_BY).await;
                self.take_effect(leg, cell, effect, asked).await
            }
            Fault::Truncated => cut(self.take_effect(leg, cell, effect, asked).await).await,
            Fault::Two => {
                cell.hold().await;
                self.take_effect(leg, cell, effect, asked).await
            }
            Fault::Pause => {
                let answer = self.take_effect(leg, cell, effect, asked).await;
                cell.hold().await;
                answer
            }
            Fault::Stale | Fault::Missed => self.take_effect(leg, cell, effect, asked).await,
            Fault::Edited => {
                self.prober.overwrite(cell).await;
                self.take_effect(leg, cell, effect, asked).await
            }
            Fault::Deleted => {
                self.prober.delete(cell).await;
                self.take_effect(leg, cell, effect, asked).await
            }
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
        Leg::Cluster => {
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
