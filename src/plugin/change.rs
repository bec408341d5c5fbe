//! `kubectl llmkey rotate`, `approve`, `burn` and `pin`: what a person asks the operator for, as a change of the `LLMKey`. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::PluginError;
use super::wait::Goal;
use crate::api::{APPROVE_REVOKE, ConditionType, LLMKey, PAUSED, ROTATE, VersionStatus};

/// Versions that `spec.revokedVersions` holds at most.
const LISTED: usize = 16;
/// Who applies objects out of a repository, by the field managers that they write with: Flux, Argo CD and Helm.
const APPLIERS: [&str; 6] =
    ["argocd", "flux-client-side-apply", "gotk", "helm", "helm-controller", "kustomize-controller"];

/// A change of an `LLMKey`.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// A merge patch.
    pub patch: Value,
    /// What it asks for, as a sentence.
    pub asks: String,
    /// When it is done.
    pub goal: Goal,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// A token that no earlier request has, one of the same second included: that would ask for nothing.
pub fn token(now: DateTime<Utc>) -> String {
    now.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Asks for a rotation; the token tells it from every other one.
pub fn rotate(key: &LLMKey, token: &str) -> Change {
    let mut notes = Vec::new();
    if key.annotations().get(PAUSED).is_some_and(|paused| paused == "true") {
        notes.push(format!(
            "it is paused by the annotation {PAUSED}: nothing is done until that is taken away"
        ));
    }
    if let Some(pinned) = key.spec.pinned_version {
        notes.push(format!(
            "spec.pinnedVersion keeps version {pinned}: nothing is rotated until it is taken out"
        ));
    }
    if key.spec.source.secret_ref.is_some() {
        notes.push(
            "its key is supplied: it is rotated when somebody puts the next one into the source Secret"
                .to_owned(),
        );
    }
    let current = key.status.as_ref().and_then(|status| status.current_version);
    Change {
        patch: json!({"metadata": {"annotations": {ROTATE: token}}}),
        asks: match current {
            Some(version) => format!("the key of version {version} is to be replaced"),
            None => "a key is to be delivered".to_owned(),
        },
        goal: Goal::Rotated { token: token.to_owned(), from: current },
        notes,
    }
}

/// Approves the revocation that waits for it.
///
/// # Errors
/// None waits.
pub fn approve(key: &LLMKey) -> Result<Change, PluginError> {
    let waits = super::story::condition(key, ConditionType::OverlapActive, "True")
        .filter(|condition| condition.reason == "WaitingForApproval");
    let version = versions(key).filter(|v| v.state == "Overlap").map(|v| v.version).min();
    let (Some(_), Some(version)) = (waits, version) else {
        return Err(PluginError::Refused("no revocation waits for an approval".to_owned()));
    };
    Ok(Change {
        patch: json!({"metadata": {"annotations": {APPROVE_REVOKE: version.to_string()}}}),
        asks: format!("version {version}{} is to be revoked", four(key, version)),
        goal: Goal::Revoked(BTreeSet::from([version])),
        notes: Vec::new(),
    })
}

/// Asks for versions to be revoked at once; none named: the one in use.
///
/// # Errors
/// There is no such version, or it is revoked already.
pub fn burn(key: &LLMKey, named: &[i32]) -> Result<Change, PluginError> {
    let current = key.status.as_ref().and_then(|status| status.current_version);
    let wanted: BTreeSet<i32> = if named.is_empty() {
        BTreeSet::from([current.ok_or_else(|| PluginError::Refused("no version is in use".to_owned()))?])
    } else {
        named.iter().copied().collect()
    };
    for version in &wanted {
        match versions(key).find(|v| v.version == *version).map(|v| v.state.as_str()) {
            None => {
                return Err(PluginError::Refused(format!(
                    "status knows no version {version}; kubectl llmkey describe {} lists them",
                    key.name_any()
                )));
            }
            Some("Revoked") => {
                return Err(PluginError::Refused(format!("version {version} is revoked already")));
            }
            Some(_) => {}
        }
    }
    let supplied = versions(key).any(|v| wanted.contains(&v.version) && v.origin == "Supplied");
    if let (true, Some(source)) = (supplied, &key.spec.source.secret_ref) {
        return Err(PluginError::Refused(format!(
            "its key was supplied: delete it at the provider, and put the next one into Secret {}",
            source.name
        )));
    }
    let mut kept: BTreeSet<i32> = key.spec.revoked_versions.iter().chain(&wanted).copied().collect();
    // What is over need not be listed any more, the smallest first: no version gets a number up to the greatest again.
    let over = |version: i32| {
        let found = versions(key).find(|v| v.version == version);
        found.is_none_or(|v| ["Revoked", "Abandoned", "Republished"].contains(&v.state.as_str()))
    };
    while kept.len() > LISTED {
        let Some(first) = kept.iter().copied().find(|v| !wanted.contains(v) && over(*v)) else {
            return Err(PluginError::Refused(format!(
                "spec.revokedVersions holds {LISTED} versions at most, and none of those in it is revoked yet"
            )));
        };
        kept.remove(&first);
    }
    let told: Vec<String> =
        wanted.iter().map(|version| format!("{version}{}", four(key, *version))).collect();
    let fingerprint = |number: i32| versions(key).find(|v| v.version == number)?.fingerprint.as_ref();
    // A key is hit and not a number: the version in use may have that of an older one.
    let hit = |number: i32| {
        let of = fingerprint(number);
        wanted.contains(&number) || of.is_some() && wanted.iter().any(|wanted| fingerprint(*wanted) == of)
    };
    let in_use = current.filter(|current| hit(*current));
    let replaced = in_use.map_or_else(String::new, |current| {
        format!("; version {current} is in use and is replaced first, without an overlap: pods that do not get the next key at once are refused")
    });
    let listed: Vec<i32> = kept.iter().copied().collect();
    let mut notes = in_a_repository(key, &format!("revokedVersions: {listed:?}"));
    if supplied {
        let note = "its key comes from the pool: it is replaced, and whoever made it has to delete it at the provider";
        notes.push(note.to_owned());
    }
    let plural = if told.len() == 1 { "version" } else { "versions" };
    Ok(Change {
        patch: json!({
            "metadata": {"resourceVersion": key.resource_version()}, "spec": {"revokedVersions": listed},
        }),
        asks: format!(
            "{plural} {} revoked at once{replaced}",
            told.join(", ") + if told.len() == 1 { " is" } else { " are" }
        ),
        goal: if supplied { Goal::Seen } else { Goal::Revoked(wanted) },
        notes,
    })
}

/// Asks for a version to be kept, or for none.
///
/// # Errors
/// The version cannot be pinned.
pub fn pin(key: &LLMKey, version: Option<i32>) -> Result<Change, PluginError> {
    let Some(number) = version else {
        return Ok(Change {
            patch: json!({"spec": {"pinnedVersion": null}}),
            asks: "no version is pinned any more, and rotations go on".to_owned(),
            goal: Goal::Seen,
            notes: in_a_repository(key, "no pinnedVersion"),
        });
    };
    let Some(found) = versions(key).find(|v| v.version == number) else {
        return Err(PluginError::Refused(format!("status knows no version {number}")));
    };
    let why = match found.pin.as_deref() {
        Some("Possible") => None,
        Some("Revoked") => Some("its key is revoked, or is about to be"),
        Some("Listed") => Some("its key stands in spec.revokedVersions"),
        Some("Forgotten") => Some("its key is in the ledger no more (see retention of the policy)"),
        Some("NeverPublished") => Some("it was never published"),
        _ => Some("it is on its way"),
    };
    if let Some(why) = why {
        return Err(PluginError::Refused(format!("version {number} cannot be pinned: {why}")));
    }
    Ok(Change {
        patch: json!({"spec": {"pinnedVersion": number}}),
        asks: format!("the key of version {number}{} is to be delivered and kept", four(key, number)),
        goal: Goal::Pinned(number),
        notes: in_a_repository(key, &format!("pinnedVersion: {number}")),
    })
}

fn versions(key: &LLMKey) -> impl Iterator<Item = &VersionStatus> {
    key.status.iter().flat_map(|status| &status.versions)
}

fn four(key: &LLMKey, version: i32) -> String {
    let found = versions(key).find(|v| v.version == version).and_then(|v| v.last_four.as_deref());
    found.map_or_else(String::new, |four| format!(" (...{four})"))
}

/// A change of the spec is undone by who applies the `LLMKey` out of a repository.
fn in_a_repository(key: &LLMKey, change: &str) -> Vec<String> {
    appliers(key)
        .map(|who| {
            format!(
                "{who} applies this LLMKey: write {change} where it is kept as well, else it may be undone"
            )
        })
        .collect()
}

/// Who applies the object out of a repository, each once.
pub fn appliers(object: &impl ResourceExt) -> impl Iterator<Item = &str> {
    let managers = object.managed_fields().iter().filter_map(|entry| entry.manager.as_deref());
    let appliers: BTreeSet<&str> =
        managers.filter(|manager| APPLIERS.iter().any(|known| manager.starts_with(known))).collect();
    appliers.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(spec: &Value, status: &Value) -> LLMKey {
        let mut key = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {"name": "chat", "resourceVersion": "7", "managedFields": [
                {"manager": "kustomize-controller", "operation": "Apply"}, {"manager": "llmkey-operator", "operation": "Apply"},
            ]},
            "spec": {"providerRef": {"name": "p"}, "source": {"mint": {}}}, "status": status,
        });
        key["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(key).unwrap()
    }

    fn version(number: i32, state: &str, pin: &str) -> Value {
        json!({"version": number, "state": state, "origin": "Minted", "reason": "Schedule", "lastFour": "GafQ", "pin": pin})
    }

    fn status() -> Value {
        json!({"currentVersion": 3, "versions": [
            version(3, "Current", "Possible"), version(2, "Overlap", "Possible"), version(1, "Revoked", "Revoked"),
        ]})
    }

    #[test]
    fn a_rotation_is_a_token_and_says_what_stands_in_its_way() {
        let change = rotate(&key(&json!({}), &status()), "now");
        assert_eq!(change.patch, json!({"metadata": {"annotations": {"llmkeys.dev/rotate": "now"}}}));
        assert_eq!(change.goal, Goal::Rotated { token: "now".to_owned(), from: Some(3) });
        assert_eq!(change.notes, Vec::<String>::new());
        let held = rotate(&key(&json!({"pinnedVersion": 3}), &status()), "now");
        assert!(held.notes[0].contains("version 3"), "{:?}", held.notes);
    }

    #[test]
    fn a_key_in_use_is_told_of_whichever_of_its_versions_is_burnt() {
        let mut pinned = status();
        pinned["versions"][0]["fingerprint"] = json!("a");
        pinned["versions"][1]["fingerprint"] = json!("a");
        let told = |versions: &[i32]| burn(&key(&json!({}), &pinned), versions).unwrap().asks;
        assert!(told(&[2]).contains("version 3 is in use and is replaced first"), "{}", told(&[2]));
        pinned["versions"][1]["fingerprint"] = json!("b");
        let told = burn(&key(&json!({}), &pinned), &[2]).unwrap().asks;
        assert!(!told.contains("in use"), "{told}");
    }

    #[test]
    fn two_requests_within_a_second_have_two_tokens() {
        let at =
            |micros: i64| token(DateTime::from_timestamp_micros(1_800_000_000_000_000 + micros).unwrap());
        assert_eq!(at(0), "2027-01-15T08:00:00.000000Z");
        assert_ne!(at(1), at(0));
    }

    #[test]
    fn only_what_waits_is_approved() {
        let mut waiting = status();
        waiting["conditions"] = json!([{
            "type": "OverlapActive", "status": "True", "reason": "WaitingForApproval", "message": "",
            "lastTransitionTime": "2027-01-01T00:00:00Z",
        }]);
        let change = approve(&key(&json!({}), &waiting)).unwrap();
        assert_eq!(change.patch, json!({"metadata": {"annotations": {"llmkeys.dev/approve-revoke": "2"}}}));
        assert!(approve(&key(&json!({}), &status())).is_err());
    }

    #[test]
    fn what_was_burnt_stays_listed_and_the_list_stays_short() {
        let change = burn(&key(&json!({"revokedVersions": [1]}), &status()), &[]).unwrap();
        assert_eq!(change.patch["spec"]["revokedVersions"], json!([1, 3]));
        assert_eq!(
            change.patch["metadata"]["resourceVersion"], "7",
            "what another person lists meanwhile is not lost"
        );
        assert!(
            change.asks.contains("version 3 (...GafQ)") && change.asks.contains("in use"),
            "{}",
            change.asks
        );
        assert!(change.notes[0].contains("kustomize-controller"), "{:?}", change.notes);
        let full: Vec<i32> = (100..116).collect();
        let change = burn(&key(&json!({"revokedVersions": full}), &status()), &[2]).unwrap();
        let listed = change.patch["spec"]["revokedVersions"].as_array().unwrap().clone();
        assert!(
            listed.len() == 16 && listed[0] == 2 && listed[15] == 115 && !listed.contains(&json!(100)),
            "{listed:?}"
        );
        let waiting = (100..116).map(|number| version(number, "Retiring", "Listed"));
        let waiting: Vec<Value> = waiting.chain([version(2, "Overlap", "Possible")]).collect();
        let refused = burn(&key(&json!({"revokedVersions": full}), &json!({"versions": waiting})), &[2]);
        assert!(refused.is_err(), "what still has to be revoked stays listed");
        for wrong in [1, 9] {
            assert!(burn(&key(&json!({}), &status()), &[wrong]).is_err());
        }
    }

    #[test]
    fn a_key_that_a_person_made_is_deleted_by_that_person() {
        let mut supplied = status();
        supplied["versions"][0]["origin"] = json!("Supplied");
        let source = json!({"source": {"secretRef": {"name": "mine", "key": "k"}}});
        let refused = burn(&key(&source, &supplied), &[]).unwrap_err().to_string();
        assert!(refused.contains("Secret mine"), "{refused}");
        let pool =
            json!({"source": {"pool": {"members": [{"name": "a", "secretRef": {"name": "a", "key": "k"}}]}}});
        let change = burn(&key(&pool, &supplied), &[]).unwrap();
        assert_eq!(change.goal, Goal::Seen);
        assert!(
            change.notes.iter().any(|note| note.contains("delete it at the provider")),
            "{:?}",
            change.notes
        );
    }

    #[test]
    fn what_cannot_be_pinned_is_told_before_it_is_written() {
        let change = pin(&key(&json!({}), &status()), Some(2)).unwrap();
        assert_eq!((change.patch, change.goal), (json!({"spec": {"pinnedVersion": 2}}), Goal::Pinned(2)));
        let refused = pin(&key(&json!({}), &status()), Some(1)).unwrap_err().to_string();
        assert!(refused.contains("revoked"), "{refused}");
        assert_eq!(
            pin(&key(&json!({}), &status()), None).unwrap().patch,
            json!({"spec": {"pinnedVersion": null}})
        );
    }
}
