//! What etcd holds, byte for byte, through its JSON gateway.

use std::collections::VecDeque;

use data_encoding::BASE64;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;

/// One revision of one key. A deletion has an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, for example `/registry/secrets/default/api-key`.
    pub key: String,
    /// The stored bytes: protobuf for built-in kinds, JSON for custom resources.
    pub value: Vec<u8>,
    /// The store's revision that this write made.
    pub revision: i64,
}

/// The name that a running etcd member was given; a fresh name tells our etcd from another one that
/// took the port first.
pub(super) async fn member_name(endpoint: &str) -> Result<String, Error> {
    let body: Value = client()?
        .post(format!("{endpoint}/v3/cluster/member/list"))
        .json(&json!({}))
        .send()
        .await
        .map_err(failed)?
        .json()
        .await
        .map_err(failed)?;
    match body["members"][0]["name"].as_str() {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::Etcd("no member has a name yet".to_owned())),
    }
}

/// Every write that the store has seen since its start, deletions included, in order.
///
/// A watch from revision 1 replays history; that is all of it, because the control plane is started
/// without compaction.
pub(super) async fn history(endpoint: &str) -> Result<Vec<Entry>, Error> {
    // "AA==" is the zero byte: as a range from it to it, every key.
    let client = client()?;
    let head: Range = client
        .post(format!("{endpoint}/v3/kv/range"))
        .json(&json!({ "key": "AA==", "range_end": "AA==", "limit": "1" }))
        .send()
        .await
        .map_err(failed)?
        .json()
        .await
        .map_err(failed)?;
    let last = number(&head.header.revision)?;
    let watch = json!({ "create_request": { "key": "AA==", "range_end": "AA==", "start_revision": "1" } });
    let response = client.post(format!("{endpoint}/v3/watch")).json(&watch).send().await.map_err(failed)?;

    let mut entries = Vec::new();
    let mut stream = response.bytes_stream();
    let mut buffer = VecDeque::new();
    while let Some(bytes) = stream.next().await {
        let mut scanned = buffer.len();
        buffer.extend(bytes.map_err(failed)?);
        while let Some(end) = buffer.range(scanned..).position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=scanned + end).collect();
            scanned = 0;
            let message: Message = serde_json::from_slice(&line).map_err(failed)?;
            for event in message.result.events {
                entries.push(event.kv.decode()?);
            }
            if entries.last().is_some_and(|entry| entry.revision >= last) {
                return Ok(entries);
            }
        }
    }
    Err(Error::Etcd(format!("the watch ended before revision {last}")))
}

#[derive(Deserialize)]
struct Range {
    header: Header,
}

#[derive(Deserialize)]
struct Header {
    revision: String,
}

#[derive(Deserialize)]
struct Message {
    result: Changes,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    kv: KeyValue,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
}

impl KeyValue {
    fn decode(self) -> Result<Entry, Error> {
        let key = BASE64.decode(self.key.as_bytes()).map_err(failed)?;
        Ok(Entry {
            key: String::from_utf8_lossy(&key).into_owned(),
            value: BASE64.decode(self.value.as_bytes()).map_err(failed)?,
            revision: number(&self.mod_revision)?,
        })
    }
}

fn number(text: &str) -> Result<i64, Error> {
    text.parse().map_err(failed)
}

fn client() -> Result<reqwest::Client, Error> {
    reqwest::Client::builder().no_proxy().build().map_err(failed)
}

fn failed<E: std::fmt::Display>(error: E) -> Error {
    Error::Etcd(error.to_string())
}
