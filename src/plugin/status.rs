//! `kubectl llmkey status`: all keys in one table: what works, what does not, and what is next. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::objects::Objects;
use super::story::{State, story};
use super::table::{notes, table};
use crate::api::LLMKey;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each LLMKey, by namespace and name.
    pub keys: Vec<Row>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// An `LLMKey`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Ready, Waiting (for a person), Working, `NotReady`, Deleting or Unseen.
    pub state: State,
    /// The provider in words.
    pub provider: Option<String>,
    /// What the provider says of the published key.
    pub health: Option<String>,
    /// The published version.
    pub version: Option<i32>,
    /// Last four characters of its key.
    pub last_four: Option<String>,
    /// The Secret that workloads mount.
    pub secret: String,
    /// The policy in force.
    pub policy: Option<String>,
    /// When the next rotation may begin, RFC 3339.
    pub next: Option<String>,
    /// Why it is in this state, or what comes next.
    pub why: String,
}

/// Tells of each key.
pub fn report(objects: &Objects, now: DateTime<Utc>) -> Report {
    Report { keys: objects.keys.iter().map(|key| row(key, now)).collect(), notes: objects.notes.clone() }
}

fn row(key: &LLMKey, now: DateTime<Utc>) -> Row {
    let status = key.status.clone().unwrap_or_default();
    let (state, why) = story(key, now);
    Row {
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        state,
        provider: status.provider,
        health: status.health.map(|health| health.state),
        version: status.current_version,
        last_four: status.last_four,
        secret: key.spec.target.secret_name.clone().unwrap_or_else(|| key.name_any()),
        policy: status.rotation_policy,
        next: status.next_rotation_time,
        why,
    }
}

/// The answer for people; `wide` has more columns.
pub fn text(report: &Report, wide: bool) -> String {
    let mut blocks = Vec::new();
    if !report.keys.is_empty() {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let narrow = |row: &Row| {
            let version = row.version.map(|version| version.to_string());
            [
                row.namespace.clone(),
                row.name.clone(),
                row.state.as_str().to_owned(),
                or_dash(&row.health),
                or_dash(&version),
                or_dash(&row.last_four.as_ref().map(|four| format!("...{four}"))),
            ]
        };
        blocks.push(if wide {
            let rows: Vec<[String; 11]> = report
                .keys
                .iter()
                .map(|row| {
                    let [namespace, name, state, health, version, key] = narrow(row);
                    let (provider, policy) = (or_dash(&row.provider), or_dash(&row.policy));
                    let (secret, next) = (row.secret.clone(), or_dash(&row.next));
                    let why = row.why.clone();
                    [namespace, name, state, health, version, key, provider, policy, secret, next, why]
                })
                .collect();
            let heads = [
                "NAMESPACE",
                "NAME",
                "STATE",
                "HEALTH",
                "VERSION",
                "KEY",
                "PROVIDER",
                "POLICY",
                "SECRET",
                "NEXT",
                "WHY",
            ];
            table(heads, &rows)
        } else {
            let rows: Vec<[String; 7]> = report
                .keys
                .iter()
                .map(|row| {
                    let [namespace, name, state, health, version, key] = narrow(row);
                    [namespace, name, state, health, version, key, row.why.clone()]
                })
                .collect();
            table(["NAMESPACE", "NAME", "STATE", "HEALTH", "VERSION", "KEY", "WHY"], &rows)
        });
    }
    blocks.extend(notes(&report.notes));
    blocks.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_a_line_and_a_wide_one_tells_where_it_belongs() {
        let key = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": "chat", "namespace": "team-a", "generation": 1},
            "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "s", "key": "k"}}},
            "status": {
                "observedGeneration": 1, "currentVersion": 4, "lastFour": "GafQ", "provider": "OpenAI",
                "health": {"state": "Valid", "since": "2027-01-01T00:00:00Z"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Published", "message": "",
                                "lastTransitionTime": "2027-01-01T00:00:00Z"}],
            },
        });
        let objects = Objects { keys: vec![serde_json::from_value(key).unwrap()], ..Objects::default() };
        let report = report(&objects, DateTime::UNIX_EPOCH);
        let narrow = "NAMESPACE   NAME   STATE   HEALTH   VERSION   KEY       WHY\n\
                      team-a      chat   Ready   Valid    4         ...GafQ   no rotation is planned\n";
        assert_eq!(text(&report, false), narrow);
        assert!(text(&report, true).contains("OpenAI     -        chat     -      no rotation is planned"));
        let none = Report { keys: Vec::new(), notes: vec!["nothing".to_owned()] };
        assert_eq!(text(&none, false), "Note: nothing.\n");
    }
}
