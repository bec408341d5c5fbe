//! The append-only log of what happened: the truth that tests read.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::operation::Operation;

/// What a call did to the provider's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// State changed: something was created or deleted, or an accepted data call moved `last_used_at`.
    Committed,
    /// Turned away, by the provider's rules or by a fault: nothing changed.
    Refused,
    /// A read was served.
    None,
}

/// Who called, without the credential itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallerMark {
    /// First twelve hexadecimal digits of the SHA-256 of the presented token.
    pub fingerprint: String,
    /// Its last four characters.
    pub last_four: String,
}

/// One call, written at the moment of its effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// 1, 2, 3, … without gaps, in the order of effects.
    pub sequence: u64,
    /// The sandbox clock at the effect.
    pub time: DateTime<Utc>,
    /// Which operation.
    pub operation: Operation,
    /// The project's id; of a data call, the project of the key.
    pub project: Option<String>,
    /// Name of the service account that the call, or its key, is about; of a person's key, its own name.
    pub name: Option<String>,
    /// Id of the project, service account or key that the call is about.
    pub object_id: Option<String>,
    /// Ids of the keys that the call created, killed or used.
    pub key_ids: Vec<String>,
    /// What the call did.
    pub effect: Effect,
    /// HTTP status sent, or none when no answer went out.
    pub status: Option<u16>,
    /// Name of the fault that struck, if any.
    pub fault: Option<String>,
    /// Who called.
    pub caller: Option<CallerMark>,
}

/// Entries in memory up to a bound, and all of them in a file if one is given.
pub(super) struct Log {
    entries: VecDeque<LogEntry>,
    capacity: usize,
    last: u64,
    file: Option<File>,
}

impl Log {
    /// An empty log that keeps at most `capacity` entries in memory.
    pub(super) fn new(capacity: usize, file: Option<File>) -> Self {
        Self { entries: VecDeque::new(), capacity: capacity.max(1), last: 0, file }
    }

    /// Number of the newest entry, 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Numbers the entry, keeps it and writes it to the file as one line of JSON.
    pub(super) fn append(&mut self, mut entry: LogEntry) -> io::Result<()> {
        self.last += 1;
        entry.sequence = self.last;
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&entry)?;
            line.push(b'\n');
            file.write_all(&line)?;
        }
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// Entries in memory with a number above `after`, oldest first.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = &LogEntry> {
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        self.entries.range(start..)
    }

    /// The newest entries, newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        LogEntry {
            sequence: 0,
            time: DateTime::UNIX_EPOCH,
            operation: Operation::ListModels,
            project: None,
            name: None,
            object_id: None,
            key_ids: Vec::new(),
            effect: Effect::Committed,
            status: Some(200),
            fault: None,
            caller: None,
        }
    }

    #[test]
    fn numbers_have_no_gaps_and_memory_is_bounded() {
        let mut log = Log::new(3, None);
        for _ in 0..5 {
            log.append(entry()).unwrap();
        }
        assert_eq!(log.last(), 5);
        assert_eq!(log.after(0).map(|entry| entry.sequence).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(log.after(4).map(|entry| entry.sequence).collect::<Vec<_>>(), [5]);
        assert_eq!(log.newest().next().unwrap().sequence, 5);
    }
}
