//! `kubectl llmkey describe`: one key's story: what it waits for, who holds what, and what happened when.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::story::{State, condition, said, story};
use super::table::{notes, span, table};
use super::{usage, who};
use crate::api::{ConditionType, LLMKey, LLMKeyStatus, RotationStatus, parse_rfc3339};

/// Conditions that say what is waited for, in the order in which they are told.
const TELLING: [(ConditionType, &str); 7] = [
    (ConditionType::Ready, "False"),
    (ConditionType::Stalled, "True"),
    (ConditionType::Healthy, "False"),
    (ConditionType::Reconciling, "True"),
    (ConditionType::RotationDue, "True"),
    (ConditionType::OverlapActive, "True"),
    (ConditionType::ConsumersCurrent, "False"),
];

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Namespace of the `LLMKey`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Ready, Waiting (for a person), Working, `NotReady`, Deleting or Unseen.
    pub state: State,
    /// Why, or what comes next.
    pub why: String,
    /// What is known of it, by name.
    pub facts: Vec<(&'static str, String)>,
    /// What is not as it should be, or is under way: condition, reason and message.
    pub waits_for: Vec<Waits>,
    /// Versions, newest first.
    pub versions: Vec<Version>,
    /// What happened, and what is planned, in order.
    pub timeline: Vec<Moment>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// A condition that tells of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// Its type.
    pub condition: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its number.
    pub number: i32,
    /// Pending, Current, Overlap, Revoked, ...
    pub state: String,
    /// Last four characters of its key.
    pub last_four: Option<String>,
    /// Why it was made.
    pub reason: String,
    /// When it was delivered, RFC 3339.
    pub published: Option<String>,
    /// When its revocation was confirmed, RFC 3339.
    pub revoked: Option<String>,
    /// What that rests on.
    pub basis: Option<String>,
    /// Workloads whose pods have it.
    pub held_by: Vec<String>,
}

/// Something that happened, or is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// When, RFC 3339.
    pub time: String,
    /// What.
    pub what: String,
}

/// Tells. `holders`: what [`who`] found, if it may be known.
pub fn report(key: &LLMKey, holders: Option<&who::Report>, now: DateTime<Utc>) -> Report {
    let status = key.status.clone().unwrap_or_default();
    let (state, why) = story(key, now);
    let mut held: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for row in holders.iter().flat_map(|report| &report.workloads) {
        if let Some(version) = row.version {
            let pods =
                if row.pods.len() == 1 { "1 pod".to_owned() } else { format!("{} pods", row.pods.len()) };
            held.entry(version).or_default().push(format!("{}/{} ({pods})", row.kind, row.name));
        }
    }
    let waits_for = TELLING.iter().filter_map(|(kind, wrong)| condition(key, *kind, wrong)).map(|c| Waits {
        condition: c.type_.clone(),
        reason: c.reason.clone(),
        message: said(c),
    });
    let mut versions: Vec<Version> = status
        .versions
        .iter()
        .map(|v| Version {
            number: v.version,
            state: v.state.clone(),
            last_four: v.last_four.clone(),
            reason: v.reason.clone(),
            published: v.published_at.clone(),
            revoked: v.revoked_at.clone(),
            basis: v.revocation_basis.clone(),
            held_by: held.remove(&v.version).unwrap_or_default(),
        })
        .collect();
    versions.sort_by_key(|version| std::cmp::Reverse(version.number));
    Report {
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        state,
        why,
        facts: facts(key, &status, now),
        waits_for: waits_for.collect(),
        versions,
        timeline: timeline(&status),
        notes: Vec::new(),
    }
}

fn facts(key: &LLMKey, status: &LLMKeyStatus, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let source = match (&key.spec.source.secret_ref, &key.spec.source.pool) {
        (Some(secret), _) => format!("Secret {}, key {}", secret.name, secret.key),
        (None, Some(pool)) => format!("a pool of {}", pool.members.len()),
        (None, None) => "made at the provider".to_owned(),
    };
    let since =
        |text: &str| parse_rfc3339(text).map_or_else(String::new, |at| format!(" for {}", span(now - at)));
    let health = status.health.as_ref().map(|health| format!("{}{}", health.state, since(&health.since)));
    let secret = key.spec.target.secret_name.clone().unwrap_or_else(|| key.name_any());
    let next = status.next_rotation_time.as_deref().map(|time| {
        let left = parse_rfc3339(time).filter(|at| *at > now);
        left.map_or_else(|| time.to_owned(), |at| format!("{time} (in {})", span(at - now)))
    });
    let pinned = key.spec.pinned_version.map(|version| format!("version {version}"));
    let known = [
        ("Provider", status.provider.clone()),
        ("Source", Some(source)),
        ("Secret", Some(secret)),
        ("Health", health),
        ("Used", usage::words(status)),
        ("Policy", status.rotation_policy.clone()),
        ("Next rotation", next),
        ("Pinned", pinned),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// What status remembers and foresees.
fn timeline(status: &LLMKeyStatus) -> Vec<Moment> {
    let mut moments: Vec<(i32, Moment)> = Vec::new();
    let mut tell = |order: i32, time: Option<&String>, what: String| {
        if let Some(time) = time {
            moments.push((order, Moment { time: time.clone(), what }));
        }
    };
    for rotation in &status.rotations {
        let RotationStatus { version, reason, requested_by, .. } = rotation;
        tell(0, rotation.requested_at.as_ref(), format!("{requested_by} asks for a rotation"));
        tell(1, Some(&rotation.started_at), format!("version {version} is begun: {reason}"));
        if let Some(error) = &rotation.last_error {
            tell(2, Some(&error.time), format!("version {version}: {} ({})", error.reason, error.class));
        }
        if !["InProgress", "Succeeded"].contains(&rotation.outcome.as_str()) {
            tell(3, rotation.ended_at.as_ref(), format!("version {version}: {}", rotation.outcome));
        }
    }
    for version in &status.versions {
        let four = version.last_four.as_ref().map_or_else(String::new, |four| format!(" (...{four})"));
        tell(4, version.published_at.as_ref(), format!("version {}{four} is delivered", version.version));
        let basis = version.revocation_basis.as_ref().map_or_else(String::new, |basis| format!(": {basis}"));
        tell(5, version.revoked_at.as_ref(), format!("version {} is revoked{basis}", version.version));
    }
    if let Some(health) = &status.health {
        for past in &health.history {
            tell(6, Some(&past.since), format!("the provider says {}", past.state));
        }
        tell(6, Some(&health.since), format!("the provider says {}", health.state));
    }
    for next in &status.upcoming {
        tell(7, Some(&next.time), format!("a rotation may begin: {}", next.reason));
    }
    moments
        .sort_by(|(a, one), (b, other)| (parse_rfc3339(&one.time), a).cmp(&(parse_rfc3339(&other.time), b)));
    moments.into_iter().map(|(_, moment)| moment).collect()
}

/// The answer for people.
pub fn text(report: &Report) -> String {
    let Report { namespace, name, state, why, .. } = report;
    let colon = if why.is_empty() { "" } else { ": " };
    let width = report.facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let facts = report.facts.iter().map(|(name, value)| format!("  {name:width$}   {value}\n"));
    let head = format!("LLMKey {name} of namespace {namespace} is {}{colon}{why}\n", state.as_str());
    let mut blocks = vec![std::iter::once(head).chain(facts).collect::<String>()];
    if !report.waits_for.is_empty() {
        let rows: Vec<[String; 3]> = report
            .waits_for
            .iter()
            .map(|w| [w.condition.clone(), w.reason.clone(), w.message.clone()])
            .collect();
        blocks.push(table(["CONDITION", "REASON", "WHAT IT SAYS"], &rows));
    }
    if !report.versions.is_empty() {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let rows: Vec<[String; 7]> = report
            .versions
            .iter()
            .map(|v| {
                let four = v.last_four.as_ref().map(|four| format!("...{four}"));
                let revoked = v.revoked.as_ref().map(|at| match &v.basis {
                    Some(basis) => format!("{at} {basis}"),
                    None => at.clone(),
                });
                [
                    v.number.to_string(),
                    v.state.clone(),
                    or_dash(&four),
                    v.reason.clone(),
                    or_dash(&v.published),
                    or_dash(&revoked),
                    if v.held_by.is_empty() { "-".to_owned() } else { v.held_by.join(", ") },
                ]
            })
            .collect();
        blocks.push(table(["VERSION", "STATE", "KEY", "WHY", "DELIVERED", "REVOKED", "HELD BY"], &rows));
    }
    if !report.timeline.is_empty() {
        let rows: Vec<[String; 2]> =
            report.timeline.iter().map(|m| [m.time.clone(), m.what.clone()]).collect();
        blocks.push(table(["TIME", "WHAT HAPPENS"], &rows));
    }
    blocks.extend(notes(&report.notes));
    blocks.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> LLMKey {
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": "chat", "namespace": "team-a", "generation": 1},
            "spec": {"providerRef": {"name": "p"}, "source": {"mint": {}}},
            "status": {
                "observedGeneration": 1, "currentVersion": 2, "provider": "OpenAI (p)",
                "health": {"state": "Valid", "since": "2027-01-01T00:00:00Z"},
                "nextRotationTime": "2027-01-03T00:00:00Z",
                "upcoming": [{"time": "2027-01-03T00:00:00Z", "reason": "Schedule"}],
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "Published", "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z"},
                    {"type": "OverlapActive", "status": "True", "reason": "WaitingForConsumers", "message": "web has version 1",
                     "lastTransitionTime": "2027-01-01T00:00:00Z"},
                ],
                "rotations": [{
                    "version": 2, "reason": "Requested", "method": "Minted", "requestedBy": "kubectl-annotate (unverified)",
                    "requestedAt": "2027-01-02T00:00:00Z", "startedAt": "2027-01-02T00:00:01Z", "outcome": "Succeeded",
                    "endedAt": "2027-01-02T00:00:04Z",
                }],
                "versions": [
                    {"version": 1, "state": "Overlap", "origin": "Minted", "reason": "Initial", "lastFour": "aaaa",
                     "publishedAt": "2027-01-01T00:00:00Z"},
                    {"version": 2, "state": "Current", "origin": "Minted", "reason": "Requested", "lastFour": "bbbb",
                     "publishedAt": "2027-01-02T00:00:04Z"},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_story_of_a_key_is_told_in_order() {
        let row = who::Row {
            kind: "Deployment".to_owned(),
            name: "web".to_owned(),
            version: Some(1),
            version_state: Some("Overlap".to_owned()),
            last_four: None,
            state: "Straggler".to_owned(),
            reason: None,
            reads: "Once",
            pods: vec!["web-1".to_owned(), "web-2".to_owned()],
        };
        let holders = who::Report {
            namespace: "team-a".to_owned(),
            name: "chat".to_owned(),
            secret: "chat".to_owned(),
            current_version: Some(2),
            since: None,
            workloads: vec![row],
            notes: Vec::new(),
        };
        let told = text(&report(&key(), Some(&holders), parse_rfc3339("2027-01-02T12:00:00Z").unwrap()));
        let expected = "\
LLMKey chat of namespace team-a is Working: web has version 1
  Provider        OpenAI (p)
  Source          made at the provider
  Secret          chat
  Health          Valid for 1d12h
  Next rotation   2027-01-03T00:00:00Z (in 12h)

CONDITION       REASON                WHAT IT SAYS
OverlapActive   WaitingForConsumers   web has version 1

VERSION   STATE     KEY       WHY         DELIVERED              REVOKED   HELD BY
2         Current   ...bbbb   Requested   2027-01-02T00:00:04Z   -         -
1         Overlap   ...aaaa   Initial     2027-01-01T00:00:00Z   -         Deployment/web (2 pods)

TIME                   WHAT HAPPENS
2027-01-01T00:00:00Z   version 1 (...aaaa) is delivered
2027-01-01T00:00:00Z   the provider says Valid
2027-01-02T00:00:00Z   kubectl-annotate (unverified) asks for a rotation
2027-01-02T00:00:01Z   version 2 is begun: Requested
2027-01-02T00:00:04Z   version 2 (...bbbb) is delivered
2027-01-03T00:00:00Z   a rotation may begin: Schedule
";
        assert_eq!(told, expected);
    }
}
