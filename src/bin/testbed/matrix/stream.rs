//! Watches: passed through line by line, so that what they show of one cell can be held back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use serde::Deserialize;

use super::cell::Cell;
use super::exchange::{Proxy, Wire};
use super::upstream::without;

/// How often what was held back is looked at.
const TICK: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Line {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

/// A line that waits.
struct Held {
    cell: Arc<Cell>,
    object: String,
    line: Bytes,
}

/// The answer to a watch.
pub fn pump(proxy: Arc<Proxy>, wire: Arc<Wire>, upstream: reqwest::Response) -> Response {
    let (sender, receiver) = unbounded::<Bytes>();
    let (status, headers) = (upstream.status(), without(upstream.headers()));
    tokio::spawn(run(proxy, wire, upstream, sender));
    let mut response = Response::new(Body::from_stream(receiver.map(Ok::<_, io::Error>)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

async fn run(
    proxy: Arc<Proxy>,
    wire: Arc<Wire>,
    upstream: reqwest::Response,
    sender: UnboundedSender<Bytes>,
) {
    let mut chunks = upstream.bytes_stream();
    let mut rest: Vec<u8> = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    loop {
        tokio::select! {
            chunk = chunks.next() => {
                let Some(Ok(chunk)) = chunk else { return };
                rest.extend_from_slice(&chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Bytes = rest.drain(..=end).collect::<Vec<u8>>().into();
                    pass(&proxy, line, &mut held, &sender);
                }
            }
            () = tokio::time::sleep(TICK) => {}
        }
        if wire.is_cut() {
            return;
        }
        held = show(held, &sender);
        if sender.is_closed() {
            return;
        }
    }
}

/// Shows a line, unless its cell is frozen or has lines that wait before it.
fn pass(proxy: &Proxy, line: Bytes, held: &mut Vec<Held>, sender: &UnboundedSender<Bytes>) {
    if let Ok(Line { object: Object { metadata } }) = serde_json::from_slice::<Line>(&line)
        && let Some(cell) = proxy.cell_of(&metadata.namespace, &metadata.name)
        && (cell.frozen() || held.iter().any(|held| Arc::ptr_eq(&held.cell, &cell)))
    {
        held.push(Held { cell, object: metadata.name, line });
        return;
    }
    // A receiver that is gone is noticed in the loop.
    drop(sender.unbounded_send(line));
}

/// Shows what waits no more, and returns the rest.
fn show(held: Vec<Held>, sender: &UnboundedSender<Bytes>) -> Vec<Held> {
    let (waits, shown): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|held| held.cell.frozen());
    for (index, line) in shown.iter().enumerate() {
        let newer = |later: &Held| Arc::ptr_eq(&later.cell, &line.cell) && later.object == line.object;
        if line.cell.forgets() && shown[index + 1..].iter().any(newer) {
            continue;
        }
        drop(sender.unbounded_send(line.line.clone()));
    }
    waits
}
