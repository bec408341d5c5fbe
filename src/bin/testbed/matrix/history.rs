//! What the provider's log and the API server's audit log must say together.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use llmkey_operator::sandbox::{Effect, LogEntry, Operation};
use serde::Deserialize;

use super::Failure;
use super::fault::Fault;
use super::probe::TARGET;

/// Keys are made by these …
const MINTS: [Operation; 2] = [Operation::CreateServiceAccount, Operation::GenerateProxyKey];
/// … and revoked by these.
const REVOCATIONS: [Operation; 2] = [Operation::DeleteServiceAccount, Operation::DeleteProxyKeys];

/// A write that the API server has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Namespace and name of the Secret.
    pub object: (String, String),
    /// When it arrived.
    pub began: DateTime<Utc>,
    /// When it was answered: it is durable by then.
    pub ended: DateTime<Utc>,
}

/// The audit log, read as it grows.
pub struct Audit {
    path: PathBuf,
    username: String,
    offset: u64,
    rest: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: DateTime<Utc>,
    stage_timestamp: DateTime<Utc>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

impl Audit {
    /// What one user wrote, from the log's beginning.
    pub fn new(path: PathBuf, username: String) -> Self {
        Self { path, username, offset: 0, rest: Vec::new() }
    }

    /// The writes of Secrets since the last time.
    pub fn news(&mut self) -> Result<Vec<Write>, Failure> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += u64::try_from(file.read_to_end(&mut self.rest)?)?;
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text: Vec<u8> = self.rest.drain(..complete).collect();
        Ok(text.split(|byte| *byte == b'\n').filter_map(|line| write(line, &self.username)).collect())
    }
}

/// The user's write that a line tells of, if any.
fn write(line: &[u8], username: &str) -> Option<Write> {
    let event: Event = serde_json::from_slice(line).ok()?;
    let object = event.object_ref?;
    let done = event.response_status.is_some_and(|status| (200..300).contains(&status.code));
    let writes = ["create", "update", "patch"].contains(&event.verb.as_str());
    if !done || !writes || object.resource != "secrets" || event.user.username != username {
        return None;
    }
    Some(Write {
        object: (object.namespace, object.name),
        began: event.request_received_timestamp,
        ended: event.stage_timestamp,
    })
}

/// What one cell's logs say.
pub struct History<'a> {
    /// The provider's log of its project.
    pub provider: &'a [LogEntry],
    /// When its ledger was written.
    pub ledger: Vec<&'a Write>,
    /// When the operator wrote its target.
    pub target: Vec<&'a Write>,
    /// Keys beyond three that its fault excuses at one time.
    pub extra_keys: usize,
    /// Its fault delivers a request twice.
    pub doubled: bool,
    /// Its fault lets a mint come after the fence that gave it up.
    pub overtaken: bool,
    /// When the first write that carried a key to its target was sent, by the key's id.
    pub published: HashMap<String, DateTime<Utc>>,
}

impl<'a> History<'a> {
    /// The cell's part of all.
    pub fn new(
        provider: &'a [LogEntry],
        writes: &'a [Write],
        ledger: &(String, String),
        namespace: &str,
        faults: &[Fault],
        published: HashMap<String, DateTime<Utc>>,
    ) -> Self {
        let target = (namespace.to_owned(), TARGET.to_owned());
        Self {
            provider,
            ledger: writes.iter().filter(|write| write.object == *ledger).collect(),
            target: writes.iter().filter(|write| write.object == target).collect(),
            extra_keys: faults.iter().map(|fault| fault.extra_keys()).sum(),
            doubled: faults.contains(&Fault::Duplicate),
            overtaken: faults.iter().any(|fault| fault.overtakes()),
            published,
        }
    }

    /// What it breaks.
    pub fn violations(&self) -> Vec<String> {
        let mut told = self.order();
        told.extend(self.bound());
        told
    }

    fn done(&self, operations: &'static [Operation]) -> impl Iterator<Item = &LogEntry> {
        let done = move |entry: &&LogEntry| {
            operations.contains(&entry.operation)
                && entry.effect == Effect::Committed
                && !entry.key_ids.is_empty()
        };
        self.provider.iter().filter(done)
    }

    fn were_published(&self, call: &LogEntry) -> bool {
        call.key_ids.iter().any(|id| self.published.contains_key(id))
    }

    fn ledger_written(&self, after: Option<DateTime<Utc>>, before: DateTime<Utc>) -> usize {
        let within = |write: &&&Write| after.is_none_or(|after| write.ended > after) && write.ended <= before;
        self.ledger.iter().filter(within).count()
    }

    /// I9 and I4: L1 before each P1, L2 before S1, L4 before P3.
    fn order(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut made: HashMap<&str, DateTime<Utc>> = HashMap::new();
        let mut last: Option<(DateTime<Utc>, Option<&String>)> = None;
        for mint in self.done(&MINTS) {
            let again = last.is_some_and(|(_, name)| name == mint.name.as_ref());
            if again && !self.doubled {
                told.push("I9: one attempt made two keys".to_owned());
            } else if !again && self.ledger_written(last.map(|(at, _)| at), mint.time) == 0 {
                told.push("I9: a key was made without an intent in the ledger (L1 before P1)".to_owned());
            }
            last = Some((mint.time, mint.name.as_ref()));
            made.extend(mint.key_ids.iter().map(|id| (id.as_str(), mint.time)));
        }
        for (id, sent) in &self.published {
            if made.get(id.as_str()).is_some_and(|mint| self.ledger_written(Some(*mint), *sent) == 0) {
                told.push("I9: a key was published before the ledger held it (L2 before S1)".to_owned());
            }
        }
        for revoke in self.done(&REVOCATIONS) {
            // A key that was never published may be one whose attempt was given up before it was made.
            if self.overtaken && !self.were_published(revoke) {
                continue;
            }
            // Since the newest key was published: L3, then L4.
            let mints = self.done(&MINTS);
            let newest = mints.filter(|mint| mint.time <= revoke.time && self.were_published(mint));
            let newest = newest.map(|mint| mint.time).max();
            let published = self.target.iter().map(|write| write.ended);
            let published = published.filter(|at| *at <= revoke.time && Some(*at) > newest).min();
            let announced = published.is_none_or(|at| self.ledger_written(Some(at), revoke.time) >= 2);
            let fenced = revoke.key_ids.iter().all(|id| {
                let since = made.get(id.as_str()).copied();
                self.ledger_written(since, revoke.time) > 0
            });
            if !announced || !fenced {
                told.push("I9: a key was revoked before the ledger said so (L4 before P3)".to_owned());
            }
        }
        told
    }

    /// I3: how many keys there were at one time.
    fn bound(&self) -> Option<String> {
        let mut live: HashSet<&String> = HashSet::new();
        let mut most = 0;
        for entry in self.provider.iter().filter(|entry| entry.effect == Effect::Committed) {
            match entry.operation {
                operation if MINTS.contains(&operation) => live.extend(&entry.key_ids),
                operation if REVOCATIONS.contains(&operation) => {
                    live.retain(|id| !entry.key_ids.contains(id));
                }
                _ => {}
            }
            most = most.max(live.len());
        }
        let bound = 3 + self.extra_keys;
        (most > bound).then(|| format!("I3: {most} keys at one time, at most {bound} are right"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn call(seconds: i64, operation: Operation, name: &str, key: &str) -> LogEntry {
        LogEntry {
            sequence: 0,
            time: at(seconds),
            operation,
            project: None,
            name: Some(name.to_owned()),
            object_id: None,
            key_ids: vec![key.to_owned()],
            effect: Effect::Committed,
            status: Some(200),
            fault: None,
            caller: None,
        }
    }

    fn secret(namespace: &str, name: &str, seconds: i64) -> Write {
        let object = (namespace.to_owned(), name.to_owned());
        Write { object, began: at(seconds), ended: at(seconds) }
    }

    /// Ledger writes, target writes and provider calls at the given seconds.
    fn judged(ledger: &[i64], target: &[i64], provider: &[LogEntry], doubled: bool) -> Vec<String> {
        let ledgers = ledger.iter().map(|at| secret("ops", "ledger", *at));
        let writes: Vec<Write> = ledgers.chain(target.iter().map(|at| secret("n", TARGET, *at))).collect();
        let ledger = ("ops".to_owned(), "ledger".to_owned());
        let fault: &[Fault] = if doubled { &[Fault::Duplicate] } else { &[] };
        History { extra_keys: 0, ..History::new(provider, &writes, &ledger, "n", fault, published(target)) }
            .violations()
    }

    /// Keys 1 and 2, first written to the target at these seconds.
    fn published(target: &[i64]) -> HashMap<String, DateTime<Utc>> {
        ["1", "2"].map(str::to_owned).into_iter().zip(target.iter().map(|second| at(*second))).collect()
    }

    #[test]
    fn a_repair_while_the_next_key_is_made_publishes_nothing_new() {
        let provider = [call(2, MINT, "a", "1"), call(12, MINT, "b", "2")];
        let ledgers = [1, 3, 11, 15].map(|at| secret("ops", "ledger", at));
        let writes: Vec<Write> =
            ledgers.into_iter().chain([4, 13].map(|at| secret("n", TARGET, at))).collect();
        let ledger = ("ops".to_owned(), "ledger".to_owned());
        let told =
            |published| History::new(&provider, &writes, &ledger, "n", &[], published).violations().len();
        assert_eq!(told(published(&[4])), 0, "the second write repaired");
        assert_eq!(told(published(&[4, 13])), 1);
    }

    const MINT: Operation = Operation::CreateServiceAccount;
    const REVOKE: Operation = Operation::DeleteServiceAccount;

    #[test]
    fn the_right_order_passes() {
        let provider = [call(2, MINT, "a", "1"), call(12, MINT, "b", "2"), call(22, REVOKE, "a", "1")];
        assert_eq!(judged(&[1, 3, 11, 13, 15, 21], &[4, 14], &provider, false), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_order_is_told() {
        let mint = [call(2, MINT, "a", "1")];
        assert!(judged(&[3], &[4], &mint, false)[0].contains("L1 before P1"));
        assert!(judged(&[1, 5], &[4], &mint, false)[0].contains("L2 before S1"));
        let twice = [call(2, MINT, "a", "1"), call(3, MINT, "a", "2")];
        assert!(judged(&[1], &[], &twice, false)[0].contains("two keys"));
        assert_eq!(judged(&[1], &[], &twice, true), Vec::<String>::new());
        let unannounced = [call(2, MINT, "a", "1"), call(6, REVOKE, "a", "1")];
        assert!(judged(&[1], &[], &unannounced, false)[0].contains("L4 before P3"));
        assert_eq!(judged(&[1, 5], &[], &unannounced, false), Vec::<String>::new());
        let rotated = [call(2, MINT, "a", "1"), call(12, MINT, "b", "2"), call(22, REVOKE, "a", "1")];
        assert!(judged(&[1, 3, 11, 13, 15], &[4, 14], &rotated, false)[0].contains("L4 before P3"));
    }

    #[test]
    fn only_a_key_that_was_never_published_may_go_without_a_word_and_only_where_a_replica_is_overtaken() {
        let overtaken = |provider: &[LogEntry], faults: &[Fault]| {
            let ledgers = [1, 3, 11, 13, 15].map(|at| secret("ops", "ledger", at));
            let writes: Vec<Write> =
                ledgers.into_iter().chain([4, 14].map(|at| secret("n", TARGET, at))).collect();
            let ledger = ("ops".to_owned(), "ledger".to_owned());
            History::new(provider, &writes, &ledger, "n", faults, published(&[4, 14])).violations()
        };
        let begin = [call(2, MINT, "a", "1"), call(12, MINT, "b", "2")];
        let stray = [call(20, MINT, "c", "3"), call(21, REVOKE, "c", "3")];
        let stray = [&begin[..], &stray[..]].concat();
        assert!(overtaken(&stray, &[])[0].contains("L4 before P3"));
        assert_eq!(overtaken(&stray, &[Fault::Pause]), Vec::<String>::new());
        let current = [&begin[..], &[call(21, REVOKE, "a", "1")]].concat();
        assert!(overtaken(&current, &[Fault::Pause])[0].contains("L4 before P3"));
    }

    #[test]
    fn too_many_keys_are_told() {
        let provider: Vec<LogEntry> =
            (0..4).map(|n| call(2 * n + 2, MINT, &n.to_string(), &n.to_string())).collect();
        assert!(judged(&[1, 3, 5, 7], &[], &provider, false)[0].starts_with("I3: 4 keys"));
    }

    #[test]
    fn a_line_of_the_audit_log_is_read() {
        let line = |code: u16, verb: &str| {
            format!(
                r#"{{"verb":"{verb}","user":{{"username":"operator"}},"stage":"ResponseComplete","objectRef":{{"resource":"secrets","namespace":"n","name":"chat"}},"responseStatus":{{"code":{code}}},"requestReceivedTimestamp":"2027-01-15T08:00:00.000000Z","stageTimestamp":"2027-01-15T08:00:01.000000Z"}}"#
            )
        };
        let written = write(line(201, "create").as_bytes(), "operator").unwrap();
        assert_eq!((written.object.0.as_str(), written.object.1.as_str()), ("n", "chat"));
        assert!(written.began < written.ended);
        assert_eq!(write(line(409, "update").as_bytes(), "operator"), None);
        assert_eq!(write(line(200, "get").as_bytes(), "operator"), None);
        assert_eq!(write(line(200, "update").as_bytes(), "somebody"), None, "a person's write");
        assert_eq!(write(b"", "operator"), None);
    }
}
