//! The chart's `ServiceMonitor` and `PrometheusRule` as the Prometheus operator's own CRDs take them: strictly, by a real API server.

use std::fs;

use llmkey_operator::testbed::{apply, render_chart, shared, source_dir, tools};
use serde_json::{Value, json};

use super::examples::apply as applied;

const KINDS: [&str; 2] = ["ServiceMonitor", "PrometheusRule"];

fn definitions() -> Vec<Value> {
    let dir = source_dir().join("tests/monitoring-crds");
    let files = ["servicemonitors", "prometheusrules"].map(|plural| dir.join(format!("{plural}.yaml")));
    files.iter().flat_map(|file| tools::manifests(&fs::read_to_string(file).unwrap()).unwrap()).collect()
}

/// What the chart renders of both kinds.
fn rendered(values: &Value) -> Vec<Value> {
    let chart = source_dir().join("charts/llmkey-operator");
    let manifests = render_chart(&chart, "llmkey-operator", "default", values).unwrap();
    let ours = |manifest: &Value| KINDS.iter().any(|kind| manifest["kind"] == *kind);
    manifests.into_iter().filter(ours).collect()
}

#[tokio::test]
async fn the_prometheus_operators_own_definitions_take_what_the_chart_renders() {
    let client = shared().await.unwrap().admin().unwrap();
    apply(&client, &definitions()).await.unwrap();
    let on = json!({"enabled": true});
    let labels = json!({"release": "prometheus"});
    for values in [
        json!({"serviceMonitor": on, "prometheusRule": on}),
        json!({
            "serviceMonitor": {"enabled": true, "interval": "1m", "scrapeTimeout": "20s", "labels": labels},
            "prometheusRule": {"enabled": true, "labels": labels, "ruleLabels": {"team": "platform"},
                               "disabled": ["LLMKeyInvalid"], "runbookUrl": "https://runbooks.example.com/llmkey"},
        }),
    ] {
        let manifests = rendered(&values);
        assert_eq!(manifests.len(), KINDS.len());
        for manifest in &manifests {
            let answer = applied(&client, manifest, true).await;
            assert!(answer.is_ok(), "{}: {}", manifest["kind"], answer.unwrap_err());
        }
        // They would be refused if they were wrong: a field that is not known, a value that is none.
        for (kind, pointer, wrong) in [
            ("ServiceMonitor", "/spec/endpoints/0", json!({"port": "metrics", "intervall": "30s"})),
            ("ServiceMonitor", "/spec/endpoints/0/interval", json!("often")),
            ("PrometheusRule", "/spec/groups/0/rules/0", json!({"alert": "x", "expression": "1"})),
            ("PrometheusRule", "/spec/groups/0/rules/0/for", json!("a while")),
        ] {
            let mut manifest = manifests.iter().find(|manifest| manifest["kind"] == kind).unwrap().clone();
            *manifest.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} has no {pointer}")) = wrong;
            let refused = applied(&client, &manifest, true).await;
            assert!(refused.is_err(), "{kind}: {pointer}");
        }
    }
}
