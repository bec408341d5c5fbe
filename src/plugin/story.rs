//! What an `LLMKey` does, or waits for, in a word and a sentence, from what its status says. Pure.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::table::span;
use crate::api::{ConditionType, LLMKey, PAUSED, parse_rfc3339};

/// What a person wants to know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// The delivered key works, and nothing is under way.
    Ready,
    /// The delivered key works, and a person has to do something before it goes on.
    Waiting,
    /// Something is under way.
    Working,
    /// No working key is delivered.
    NotReady,
    /// It is being deleted.
    Deleting,
    /// The operator has not looked at what the spec says now.
    Unseen,
}

impl State {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Waiting => "Waiting",
            Self::Working => "Working",
            Self::NotReady => "NotReady",
            Self::Deleting => "Deleting",
            Self::Unseen => "Unseen",
        }
    }
}

/// Reasons of `RotationDue` that nobody has to do anything about.
const BY_ITSELF: [&str; 6] =
    ["MintBudget", "OverlapActive", "Rotating", "WaitingForProvider", "WaitingForTurn", "WaitingForWindow"];

/// A condition, if it has this status.
pub fn condition<'a>(key: &'a LLMKey, kind: ConditionType, status: &str) -> Option<&'a Condition> {
    let conditions = &key.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == kind.as_str() && c.status == status)
}

/// The state and the sentence that belongs to it.
pub fn story(key: &LLMKey, now: DateTime<Utc>) -> (State, String) {
    let seen = key.status.as_ref().and_then(|status| status.observed_generation);
    let told = |kind, status| condition(key, kind, status).map(said);
    if key.metadata.deletion_timestamp.is_some() {
        return (State::Deleting, told(ConditionType::Stalled, "True").unwrap_or_default());
    }
    if seen.is_none_or(|seen| seen < key.metadata.generation.unwrap_or_default()) {
        let why = "the operator has not looked at this spec yet; if that lasts: kubectl llmkey doctor";
        return (State::Unseen, why.to_owned());
    }
    let stalled = told(ConditionType::Stalled, "True");
    // A key that works is told of as one, whatever keeps its next one from coming.
    let works = key.status.as_ref().and_then(|status| status.health.as_ref());
    let works = works.is_some_and(|health| ["Valid", "RestrictedScope"].contains(&health.state.as_str()));
    if let Some(why) = told(ConditionType::Ready, "False")
        && !(works && stalled.is_some())
    {
        return (State::NotReady, stalled.unwrap_or(why));
    }
    if let Some(why) = stalled {
        return (State::Waiting, why);
    }
    if key.annotations().get(PAUSED).is_some_and(|paused| paused == "true") {
        return (State::Waiting, format!("paused by the annotation {PAUSED}"));
    }
    if let Some(approval) = condition(key, ConditionType::OverlapActive, "True")
        && approval.reason == "WaitingForApproval"
    {
        return (State::Waiting, said(approval));
    }
    if let Some(due) = condition(key, ConditionType::RotationDue, "True") {
        let state = if BY_ITSELF.contains(&due.reason.as_str()) { State::Working } else { State::Waiting };
        return (state, said(due));
    }
    for kind in [ConditionType::Reconciling, ConditionType::OverlapActive] {
        if let Some(why) = told(kind, "True") {
            return (State::Working, why);
        }
    }
    (State::Ready, upcoming(key, now))
}

/// The next rotation, in words.
fn upcoming(key: &LLMKey, now: DateTime<Utc>) -> String {
    let next = key.status.as_ref().and_then(|status| status.next_rotation_time.as_deref());
    match next.and_then(parse_rfc3339) {
        Some(at) if at > now => format!("rotates in {}", span(at - now)),
        Some(_) => "a rotation is due".to_owned(),
        None => "no rotation is planned".to_owned(),
    }
}

/// A condition's message, or its reason where there is none.
pub fn said(condition: &Condition) -> String {
    let message = condition.message.lines().next().unwrap_or_default();
    if message.is_empty() { condition.reason.clone() } else { message.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn told(metadata: &Value, status: &Value) -> (State, String) {
        let mut key = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat", "generation": 2},
            "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "s", "key": "k"}}}, "status": status,
        });
        key["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        story(&serde_json::from_value(key).unwrap(), now())
    }

    fn conditions(list: &[(&str, &str, &str)]) -> Value {
        let conditions = list.iter().map(|(kind, status, message)| {
            json!({"type": kind, "status": status, "reason": "Because", "message": message,
                   "lastTransitionTime": "2027-01-01T00:00:00Z"})
        });
        json!({"observedGeneration": 2, "conditions": conditions.collect::<Vec<_>>()})
    }

    #[test]
    fn what_hurts_most_is_told_first() {
        let cases = [
            (&[("Ready", "False", "a"), ("Stalled", "True", "b")][..], State::NotReady, "b"),
            (&[("Ready", "False", "a"), ("Reconciling", "True", "b")], State::NotReady, "a"),
            (
                &[("Ready", "True", ""), ("Stalled", "True", "b"), ("Reconciling", "True", "c")],
                State::Waiting,
                "b",
            ),
            (&[("Ready", "True", ""), ("Reconciling", "True", "c\nd")], State::Working, "c"),
            (&[("Ready", "True", ""), ("OverlapActive", "True", "")], State::Working, "Because"),
            (
                &[("Ready", "True", ""), ("RotationDue", "True", "e"), ("Reconciling", "True", "c")],
                State::Waiting,
                "e",
            ),
            (&[("Ready", "True", ""), ("RotationDue", "True", "e")], State::Waiting, "e"),
            (&[("Ready", "True", ""), ("Stalled", "False", "")], State::Ready, "no rotation is planned"),
        ];
        for (list, state, sentence) in cases {
            assert_eq!(told(&json!({}), &conditions(list)), (state, sentence.to_owned()), "{list:?}");
        }
    }

    #[test]
    fn a_person_is_called_for_what_only_a_person_can_do() {
        let because = |kind: &str, reason: &str| {
            let mut status = conditions(&[("Ready", "True", ""), (kind, "True", "x")]);
            status["conditions"][1]["reason"] = json!(reason);
            told(&json!({}), &status).0
        };
        assert_eq!(because("OverlapActive", "WaitingForApproval"), State::Waiting);
        assert_eq!(because("OverlapActive", "WaitingForConsumers"), State::Working);
        assert_eq!(because("RotationDue", "WaitingForWindow"), State::Working);
        assert_eq!(because("RotationDue", "SupplyNextKey"), State::Waiting);
        let mut works = conditions(&[("Ready", "False", "a"), ("Stalled", "True", "b")]);
        works["health"] = json!({"state": "Valid", "since": "2027-01-01T00:00:00Z"});
        assert_eq!(told(&json!({}), &works), (State::Waiting, "b".to_owned()));
    }

    #[test]
    fn a_spec_that_nobody_looked_at_says_nothing_of_itself() {
        assert_eq!(told(&json!({"generation": 3}), &conditions(&[("Ready", "True", "")])).0, State::Unseen);
        assert_eq!(told(&json!({}), &json!({})).0, State::Unseen);
    }

    #[test]
    fn the_next_rotation_a_pause_and_a_deletion_are_told() {
        let mut status = conditions(&[("Ready", "True", "")]);
        status["nextRotationTime"] = json!("2027-01-15T10:00:00Z");
        assert_eq!(told(&json!({}), &status), (State::Ready, "rotates in 2h".to_owned()));
        let paused = json!({"annotations": {PAUSED: "true"}});
        assert_eq!(told(&paused, &status).0, State::Waiting);
        let deleting = json!({"deletionTimestamp": "2027-01-15T08:00:00Z"});
        assert_eq!(told(&deleting, &status), (State::Deleting, String::new()));
    }
}
