use serde_json::json;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn deployment(available: i32, version: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "llmkey-operator", "labels": {"app.kubernetes.io/version": version}},
        "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"availableReplicas": available},
    }))
    .unwrap()
}

#[test]
fn an_operator_is_there_once_runs_and_is_of_this_version() {
    let here = env!("CARGO_PKG_VERSION");
    let verdicts = [
        running(&[], "n"),
        running(&[deployment(2, here), deployment(2, here)], "n"),
        running(&[deployment(0, here)], "n"),
        running(&[deployment(1, here)], "n"),
        running(&[deployment(2, "9.9.9")], "n"),
        running(&[deployment(2, here)], "n"),
    ]
    .map(|finding| finding.verdict);
    assert_eq!(
        verdicts,
        [Verdict::Failed, Verdict::Failed, Verdict::Failed, Verdict::Warning, Verdict::Warning, Verdict::Ok]
    );
}

#[test]
fn a_lease_that_nobody_renews_is_nobodys() {
    let lease = |name: &str, holder: &str, age: i64| -> Lease {
        let renewed = (now() - TimeDelta::seconds(age)).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"holderIdentity": holder, "renewTime": renewed}}),
        )
        .unwrap()
    };
    let verdict = |leases: &[Lease]| leads(leases, "n", now()).verdict;
    assert_eq!(verdict(&[lease("a", "pod", 5), lease("b", "", 5)]), Verdict::Ok);
    assert_eq!(verdict(&[lease("a", "pod", 61)]), Verdict::Failed);
    assert_eq!(verdict(&[lease("a", "pod", 5), lease("b", "other", 5)]), Verdict::Warning);
}

#[test]
fn clocks_may_differ_a_little() {
    assert_eq!(skew(now(), now() + SKEW).verdict, Verdict::Ok);
    assert_eq!(skew(now(), now() - SKEW - TimeDelta::seconds(1)).verdict, Verdict::Warning);
}

#[test]
fn accounts_tell_what_is_wrong_with_them() {
    let provider = |name: &str, status: serde_json::Value| -> LLMProvider {
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": name},
            "spec": {"type": "OpenAI", "allowedNamespaces": []}, "status": status,
        }))
        .unwrap()
    };
    let bad = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "AdminCredentialMissing",
        "message": "there is no Secret", "lastTransitionTime": "2027-01-01T00:00:00Z"}]});
    let frozen = json!({"frozen": {"reason": "MassDeletion", "token": "t", "since": "2027-01-01T00:00:00Z", "count": 3}});
    let found = accounts(&[provider("a", bad), provider("b", frozen), provider("c", json!({}))]);
    assert_eq!(found.found, "a: there is no Secret; b: frozen (MassDeletion)");
    assert_eq!(accounts(&[provider("c", json!({}))]).verdict, Verdict::Ok);
}

#[test]
fn the_first_few_are_named() {
    let told = ["a", "b", "c", "d"].map(str::to_owned);
    assert_eq!(few(&told), "a; b; c; and 1 more");
    let report = Report { findings: vec![Finding::ok("one", "x"), Finding::failed("two", "y", "z")] };
    assert!(!report.is_well());
    assert_eq!(
        text(&report),
        "CHECK   RESULT   WHAT IS THERE\none     Ok       x\ntwo     Failed   y\n\nWhat to do:\ntwo: z\n"
    );
}
