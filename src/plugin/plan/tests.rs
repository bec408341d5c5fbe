use serde_json::{Value, json};

use super::*;

const NOW: &str = "2027-01-01T00:00:00Z";

fn key(name: &str, policy: &str, changes: Value) -> LLMKey {
    let mut key = json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
        "metadata": {"name": name, "namespace": "team", "uid": "00000000-0000-4000-8000-000000000001"},
        "spec": {"providerRef": {"name": "acme"}, "source": {"mint": {}}, "rotationPolicyRef": {"name": policy}},
        "status": {
            "currentVersion": 1,
            "versions": [{
                "version": 1, "state": "Current", "origin": "Minted", "reason": "Initial",
                "publishedAt": "2026-12-31T00:00:00Z",
            }],
        },
    });
    merge(&mut key, changes);
    serde_json::from_value(key).unwrap()
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (name, value) in changes {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

fn objects(keys: Vec<LLMKey>, policies: &[(&str, Value)]) -> Objects {
    let policies = policies.iter().map(|(name, spec)| {
        let policy = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": name, "namespace": "team"}, "spec": spec,
        });
        serde_json::from_value(policy).unwrap()
    });
    Objects {
        keys,
        policies: policies.collect(),
        cluster_policies: Some(Vec::new()),
        live: true,
        notes: Vec::new(),
    }
}

fn report(objects: &Objects) -> Report {
    plan(objects, parse_rfc3339(NOW).unwrap(), TimeDelta::days(30), &Timings::default())
}

fn weekly() -> Value {
    json!({"schedule": {"interval": "168h"}, "jitter": "0s"})
}

fn condition(kind: &str, reason: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": "why", "lastTransitionTime": NOW})
}

#[test]
fn rotations_of_all_keys_stand_in_order_with_who_and_why() {
    let keys = vec![
        key("weekly", "weekly", json!({})),
        key("reminded", "reminding", json!({})),
        key("paused", "weekly", json!({"metadata": {"annotations": {"llmkeys.dev/paused": "true"}}})),
        key("pinned", "weekly", json!({"spec": {"pinnedVersion": 1}})),
    ];
    let reminding = json!({
        "schedule": {"cron": {"expression": "0 12 10 * *"}}, "jitter": "1h", "mode": "RemindOnly",
    });
    let report = report(&objects(keys, &[("weekly", weekly()), ("reminding", reminding)]));
    let told: Vec<String> =
        report.rotations.iter().map(|r| format!("{} {} {}", &r.time[..10], r.name, r.by)).collect();
    let weeks = ["2027-01-07", "2027-01-14", "2027-01-21", "2027-01-28"];
    let mut wanted: Vec<String> = weeks
        .iter()
        .flat_map(|day| {
            [format!("{day} paused Person"), format!("{day} pinned Person"), format!("{day} weekly Operator")]
        })
        .collect();
    wanted.push("2027-01-10 reminded Person".into());
    wanted.sort();
    assert_eq!(told, wanted);
    let reminded = report.rotations.iter().find(|r| r.name == "reminded").unwrap();
    assert!(
        reminded.why.starts_with("RotationPolicy/reminding: 0 12 10 * * (UTC), jitter "),
        "{}",
        reminded.why
    );
    assert!(reminded.why.ends_with("the policy only reminds: set llmkeys.dev/rotate"), "{}", reminded.why);
    assert!(report.rotations.iter().all(|r| r.source == "Calculated"));
    let text = text(&report);
    assert!(text.starts_with("TIME ") && text.contains("6d      team"), "{text}");
}

#[test]
fn windows_are_waited_for_and_said() {
    let spec = json!({
        "schedule": {"interval": "168h"}, "jitter": "0s",
        "windows": [{"name": "saturdays", "cron": "0 6 * * 6", "duration": "2h"}],
    });
    let report = report(&objects(vec![key("chat", "p", json!({}))], &[("p", spec)]));
    let first = &report.rotations[0];
    assert_eq!((first.time.as_str(), first.reason), ("2027-01-09T06:00:00Z", "Window"));
    assert!(
        first.why.contains("due at 2027-01-07T00:00:00Z, then the policy's next window"),
        "{}",
        first.why
    );
}

#[test]
fn the_operators_word_counts_where_it_differs_and_not_for_files() {
    let upcoming = json!([
        {"time": "2027-01-08T00:00:00Z", "reason": "Schedule"}, {"time": "2027-03-08T00:00:00Z", "reason": "Schedule"},
    ]);
    let status = json!({"status": {"nextRotationTime": "2027-01-08T00:00:00Z", "upcoming": upcoming}});
    let mut objects = objects(vec![key("chat", "p", status)], &[("p", weekly())]);
    let told = |objects: &Objects| -> Vec<String> {
        let report = report(objects);
        report.rotations.iter().map(|r| format!("{} {}", &r.time[..10], r.source)).collect()
    };
    assert_eq!(told(&objects), ["2027-01-08 Status"]);
    objects.live = false;
    assert_eq!(told(&objects)[0], "2027-01-07 Calculated");
    objects.live = true;
    objects.cluster_policies = None;
    objects.keys[0].spec.rotation_policy_ref = None;
    assert_eq!(told(&objects), ["2027-01-08 Status"], "its policy may not be read");
}

#[test]
fn what_is_due_stalled_or_never_comes_is_told_with_its_reason() {
    let due = json!({"status": {"conditions": [condition("RotationDue", "WaitingForTurn")]}});
    let stalled = json!({"status": {"conditions": [condition("Stalled", "ProjectNotFound")]}});
    let supplied = json!({
        "spec": {"source": {"mint": null, "secretRef": {"name": "s", "key": "k"}}, "expiresAt": "2027-01-15T00:00:00Z"},
    });
    let never = json!({"schedule": {"cron": {"expression": "0 0 30 2 *"}}});
    let keys = vec![
        key("due", "weekly", due),
        key("stalled", "weekly", stalled),
        key("expires", "hand", supplied),
        key("by-hand", "hand", json!({})),
        key("later", "yearly", json!({})),
        key("missing", "gone", json!({})),
        key("impossible", "never", json!({})),
        key("revoked", "weekly", json!({"spec": {"desiredState": "Revoked"}})),
    ];
    let policies = [
        ("weekly", weekly()),
        ("hand", json!({})),
        ("yearly", json!({"schedule": {"interval": "8760h"}})),
        ("never", never),
    ];
    let report = report(&objects(keys, &policies));
    let told = |rows: &[Told]| -> Vec<String> {
        rows.iter().map(|row| format!("{} {}", row.name, row.reason)).collect()
    };
    assert_eq!(told(&report.due), ["due WaitingForTurn"]);
    assert_eq!(told(&report.stalled), ["stalled ProjectNotFound"]);
    assert_eq!(
        told(&report.none),
        [
            "by-hand ByHand",
            "later Later",
            "missing PolicyNotFound",
            "impossible ScheduleImpossible",
            "revoked Revoked"
        ]
    );
    let expires = report.rotations.iter().find(|r| r.name == "expires").unwrap();
    assert_eq!(
        (expires.time.as_str(), expires.reason, expires.by),
        ("2027-01-08T00:00:00Z", "Expiry", "Person")
    );
    assert!(report.rotations.iter().any(|r| r.name == "stalled"), "its schedule goes on");
    let text = text(&report);
    for heading in ["Due now:", "Stalled, a person has to act:", "Without a rotation in that time:"] {
        assert!(text.contains(heading), "{text}");
    }
}

#[test]
fn what_is_not_known_of_a_key_that_is_not_there_yet_is_said() {
    let mut new = key("new", "p", json!({}));
    (new.status, new.metadata.uid) = (None, None);
    let spec = json!({"schedule": {"interval": "168h"}});
    let report = report(&Objects { live: false, ..objects(vec![new], &[("p", spec)]) });
    assert_eq!(report.rotations[0].time, "2027-01-08T00:00:00Z", "counted from now");
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    assert!(report.notes[0].contains("counted from now") && report.notes[1].contains("without jitter"));
}

#[test]
fn a_rotation_for_what_was_used_cannot_be_foreseen_and_the_answer_says_so() {
    let mut policy = weekly();
    policy["triggers"] = json!([{"type": "Usage", "usage": {"costUSD": "50"}}]);
    let supplied = json!({"source": {"mint": null, "secretRef": {"name": "s", "key": "k"}}});
    let keys = vec![key("made", "limited", json!({})), key("supplied", "limited", json!({"spec": supplied}))];
    let report = report(&objects(keys, &[("limited", policy)]));
    let note =
        "team/made: the policy's trigger Usage may make a rotation due at any time; that cannot be foreseen";
    assert_eq!(report.notes, [note]);
    assert_eq!(report.rotations.iter().filter(|r| r.name == "made").count(), 4, "the schedule's are told");
}
