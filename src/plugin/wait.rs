//! Waiting for what was asked for, with a line for each change.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;

use super::PluginError;
use super::story::story;
use super::table::{printable, span};
use crate::api::{LLMKey, LLMKeyStatus, VersionStatus};
use crate::kube_ext::clock::Clock;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The rotation that the token asks for has delivered another version.
    Rotated {
        /// The annotation's value.
        token: String,
        /// The version that was delivered before.
        from: Option<i32>,
    },
    /// The versions are revoked.
    Revoked(BTreeSet<i32>),
    /// The version's key is delivered.
    Pinned(i32),
    /// The operator has looked at the spec.
    Seen,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done: a sentence.
    Done(String),
    /// It will not be done: a sentence.
    Failed(String),
    /// Not yet.
    Going,
}

/// How far the goal is, as status tells it.
pub fn progress(key: &LLMKey, goal: &Goal) -> Progress {
    let empty = LLMKeyStatus::default();
    let status = key.status.as_ref().unwrap_or(&empty);
    let seen = status.observed_generation.is_some_and(|seen| Some(seen) >= key.metadata.generation);
    let version = |number: i32| status.versions.iter().find(|v| v.version == number);
    let current = status.current_version.and_then(version);
    match goal {
        Goal::Rotated { token, from } => rotated(status, current, token, *from),
        Goal::Revoked(wanted) => {
            // What is on record no more was revoked before that.
            let over = |number: &i32| version(*number).is_none_or(|v| key_is_revoked(status, v));
            if seen && wanted.iter().all(over) {
                let told: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                return Progress::Done(format!("revoked: version {}", told.join(", ")));
            }
            Progress::Going
        }
        Goal::Pinned(number) => match (current, version(*number)) {
            (Some(current), Some(pinned))
                if seen
                    && (current.version == *number
                        || current.fingerprint.is_some() && current.fingerprint == pinned.fingerprint) =>
            {
                Progress::Done(format!("version {}{} is delivered", current.version, four(current)))
            }
            _ => Progress::Going,
        },
        Goal::Seen if seen => Progress::Done("the operator has seen it".to_owned()),
        Goal::Seen => Progress::Going,
    }
}

/// Whether the version's key is revoked; a later version that was made with it answers for it.
fn key_is_revoked(status: &LLMKeyStatus, version: &VersionStatus) -> bool {
    let same = |other: &&VersionStatus| {
        other.fingerprint == version.fingerprint
            && !["Republished", "Abandoned"].contains(&other.state.as_str())
    };
    match version.state.as_str() {
        "Revoked" | "Abandoned" => true,
        "Republished" => status.versions.iter().filter(same).all(|other| other.state == "Revoked"),
        _ => false,
    }
}

fn rotated(
    status: &LLMKeyStatus,
    current: Option<&VersionStatus>,
    token: &str,
    from: Option<i32>,
) -> Progress {
    if status.last_handled_rotate.as_deref() != Some(token) {
        return Progress::Going;
    }
    if let Some(current) = current.filter(|current| from.is_none_or(|from| current.version > from)) {
        return Progress::Done(format!("version {}{} is delivered", current.version, four(current)));
    }
    let newest = status.rotations.iter().find(|rotation| from.is_none_or(|from| rotation.version > from));
    match newest {
        Some(rotation) if rotation.outcome == "GivenUp" || rotation.outcome == "Failed" => {
            let why = rotation.last_error.as_ref().map(|error| format!(": {}", error.reason));
            let goes_on = if rotation.outcome == "Failed" { ", and it goes on being tried" } else { "" };
            Progress::Failed(format!("{}{}{goes_on}", rotation.outcome, why.unwrap_or_default()))
        }
        _ => Progress::Going,
    }
}

fn four(version: &VersionStatus) -> String {
    version.last_four.as_ref().map_or_else(String::new, |four| format!(" (...{four})"))
}

/// One line of what is going on: the state, the versions that are not over, and why.
pub fn line(key: &LLMKey, now: DateTime<Utc>) -> String {
    let (state, why) = story(key, now);
    let over = ["Revoked", "Retained", "Abandoned", "Republished"];
    let versions = key.status.iter().flat_map(|status| &status.versions);
    let mut shown: Vec<(i32, String)> = versions
        .filter(|v| !over.contains(&v.state.as_str()))
        .map(|v| (v.version, format!("{} {}", v.version, v.state)))
        .collect();
    shown.sort_unstable();
    let versions: Vec<String> = shown.into_iter().map(|(_, shown)| shown).collect();
    format!("{:8} {}: {why}", state.as_str(), versions.join(", "))
}

/// Waits. False: it was not done, or not in time.
///
/// # Errors
/// The cluster does not show the `LLMKey`, or it is gone.
pub async fn wait(
    api: Api<LLMKey>,
    name: &str,
    goal: &Goal,
    timeout: Duration,
    out: &mut (impl Write + Send),
) -> Result<bool, PluginError> {
    let clock = Clock::start();
    let mut last = String::new();
    let waiting = async {
        let mut changes = std::pin::pin!(watch_object(api, name).default_backoff());
        while let Some(change) = changes.next().await {
            // What fails is tried again by the stream, until the time is over.
            let Ok(change) = change else { continue };
            let Some(key) = change else {
                return Err(PluginError::Refused(format!("LLMKey {name} is gone")));
            };
            let passed = TimeDelta::from_std(clock.monotonic()).unwrap_or_default();
            let told = printable(&line(&key, clock.now()));
            if told != last {
                writeln!(out, "{:>6}  {told}", span(passed))?;
                last = told;
            }
            match progress(&key, goal) {
                Progress::Done(sentence) => {
                    writeln!(out, "{:>6}  {sentence}", span(passed))?;
                    return Ok(true);
                }
                Progress::Failed(sentence) => {
                    writeln!(out, "{:>6}  {sentence}", span(passed))?;
                    return Ok(false);
                }
                Progress::Going => {}
            }
        }
        Ok(false)
    };
    if let Ok(result) = tokio::time::timeout(timeout, waiting).await {
        return result;
    }
    let timeout = TimeDelta::from_std(timeout).unwrap_or_default();
    writeln!(out, "not within {}: it goes on without you", span(timeout))?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(status: &Value) -> LLMKey {
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat", "generation": 2},
            "spec": {"providerRef": {"name": "p"}, "source": {"mint": {}}}, "status": status,
        }))
        .unwrap()
    }

    fn version(number: i32, state: &str, fingerprint: &str) -> Value {
        json!({"version": number, "state": state, "origin": "Minted", "reason": "Schedule", "fingerprint": fingerprint})
    }

    #[test]
    fn a_rotation_is_done_when_another_version_is_delivered_for_the_token() {
        let goal = Goal::Rotated { token: "t".to_owned(), from: Some(1) };
        let mut status = json!({"currentVersion": 1, "versions": [version(1, "Current", "a"), version(2, "Pending", "b")]});
        assert_eq!(progress(&key(&status), &goal), Progress::Going);
        status["lastHandledRotate"] = json!("t");
        assert_eq!(progress(&key(&status), &goal), Progress::Going);
        status["rotations"] = json!([{
            "version": 2, "reason": "Requested", "method": "Minted", "requestedBy": "x", "startedAt": "2027-01-01T00:00:00Z",
            "outcome": "Failed", "lastError": {"reason": "MintFailed", "class": "User", "time": "2027-01-01T00:00:00Z"},
        }]);
        assert!(
            matches!(progress(&key(&status), &goal), Progress::Failed(why) if why.contains("MintFailed"))
        );
        status["currentVersion"] = json!(2);
        assert!(matches!(progress(&key(&status), &goal), Progress::Done(_)));
        status["lastHandledRotate"] = json!("another");
        assert_eq!(progress(&key(&status), &goal), Progress::Going, "a rotation that was under way already");
    }

    #[test]
    fn a_revocation_is_done_when_the_spec_was_seen_and_all_are_revoked() {
        let goal = Goal::Revoked(BTreeSet::from([1, 2]));
        let status = |seen: i64, first: &str| json!({"observedGeneration": seen, "versions": [version(1, first, "a"), version(2, "Revoked", "b")]});
        assert_eq!(progress(&key(&status(1, "Revoked")), &goal), Progress::Going);
        assert_eq!(progress(&key(&status(2, "Retiring")), &goal), Progress::Going);
        assert!(matches!(progress(&key(&status(2, "Revoked")), &goal), Progress::Done(_)));
        let republished = |last: &str| {
            let versions =
                [version(1, "Republished", "a"), version(2, "Revoked", "b"), version(3, last, "a")];
            json!({"observedGeneration": 2, "versions": versions})
        };
        assert_eq!(progress(&key(&republished("Retiring")), &goal), Progress::Going);
        assert!(matches!(progress(&key(&republished("Revoked")), &goal), Progress::Done(_)));
    }

    #[test]
    fn a_pin_is_done_when_the_key_is_delivered_under_whatever_number() {
        let status = |current: i32, last: &str| {
            json!({"observedGeneration": 2, "currentVersion": current,
                   "versions": [version(1, "Republished", "a"), version(2, "Overlap", "b"), version(3, "Current", last)]})
        };
        assert!(matches!(progress(&key(&status(3, "a")), &Goal::Pinned(1)), Progress::Done(_)));
        assert_eq!(progress(&key(&status(3, "c")), &Goal::Pinned(1)), Progress::Going);
        assert!(matches!(progress(&key(&status(2, "c")), &Goal::Pinned(2)), Progress::Done(_)));
    }

    #[test]
    fn a_line_tells_of_versions_that_are_not_over() {
        let status = json!({"observedGeneration": 2, "currentVersion": 2, "versions": [
            version(3, "Pending", "c"), version(2, "Current", "b"), version(1, "Revoked", "a"),
        ]});
        let told = line(&key(&status), DateTime::UNIX_EPOCH);
        assert_eq!(told, "Ready    2 Current, 3 Pending: no rotation is planned");
    }
}
