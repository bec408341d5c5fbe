//! What a run of the crash matrix shows from outside, one line of JSON for each: the operator's requests in the order in which
//! they took effect, what was answered, and what befell the processes. Keys are told by version and attempt, never by their
//! bytes or their ids.

use serde::{Deserialize, Serialize};

/// One run of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The cell's name, for example `S2:7:CA`; a scenario's name alone if nothing struck.
    pub cell: String,
    /// The scenario's code, for example `S2`.
    pub scenario: String,
    /// The codes of the faults that struck, in order.
    pub faults: Vec<String>,
    /// What was seen, from the story's beginning to its end.
    pub entries: Vec<Entry>,
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A request of an operator.
    Request(Request),
    /// What befell the operators, or a person did.
    Event {
        /// Which.
        event: Event,
    },
}

/// A request of an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What it is for, for example `ledger:swap` or `provider:mint`.
    pub effect: String,
    /// What it says: the states of a ledger's versions, `on` or `off` of a finalizer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub says: String,
    /// The key that it makes, revokes, asks about or delivers: `version/attempt`. None where it is about no key, or about one that
    /// the operator did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The status that the server answered to each delivery; empty if it was not sent on.
    pub server: Vec<u16>,
    /// The status that the operator heard; none if no whole answer came in time.
    pub heard: Option<u16>,
    /// The operator had given it up long before it reached the server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

impl Request {
    /// Whether it took effect.
    pub fn done(&self) -> bool {
        self.server.iter().any(|status| is_success(*status))
    }

    /// Whether the operator heard that it took effect.
    pub fn told(&self) -> bool {
        self.heard.is_some_and(is_success)
    }
}

/// Whether a status says that it was done.
pub const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}

/// What befell the operators, or a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The operator was killed, and another one starts.
    Killed,
    /// A second operator begins to work beside the first.
    SecondWorks,
    /// The operator that lost its Lease has ended, or will do nothing more.
    Ended,
    /// A person overwrote the target Secret.
    TargetOverwritten,
    /// A person deleted the target Secret.
    TargetDeleted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let trace = Trace {
            cell: "S2:2:CA".to_owned(),
            scenario: "S2".to_owned(),
            faults: vec!["CA".to_owned()],
            entries: vec![
                Entry::Request(Request {
                    effect: "provider:mint".to_owned(),
                    key: Some("2/2".to_owned()),
                    server: vec![200],
                    ..Request::default()
                }),
                Entry::Event { event: Event::Killed },
            ],
        };
        let line = serde_json::to_string(&trace).unwrap();
        assert!(line.ends_with(
            r#"[{"effect":"provider:mint","key":"2/2","server":[200],"heard":null},{"event":"killed"}]}"#
        ));
        assert_eq!(serde_json::from_str::<Trace>(&line).unwrap(), trace);
    }
}
