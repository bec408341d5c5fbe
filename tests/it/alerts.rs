//! Alerts: tested by promtool, each with a page that says what to do, and the same in the chart.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use llmkey_operator::testbed::{render_chart, source_dir, tools};
use serde_json::{Value, json};

fn file() -> PathBuf {
    source_dir().join("charts/llmkey-operator/files/alerts.yaml")
}

fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect()
}

fn names(rules: &[Value]) -> BTreeSet<String> {
    rules.iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
}

fn promtool(args: &[&str]) -> String {
    let output = Command::new(tools::promtool().unwrap())
        .args(args)
        .current_dir(source_dir().join("tests/alerts"))
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {text}");
    text
}

#[test]
fn each_fires_when_it_should_and_not_before() {
    let checked = promtool(&["check", "rules", "--lint=all", "--lint-fatal", file().to_str().unwrap()]);
    assert!(checked.contains(&format!("{} rules found", rules().len())), "{checked}");
    promtool(&["test", "rules", "alerts.yaml"]);

    let tests = fs::read_to_string(source_dir().join("tests/alerts/alerts.yaml")).unwrap();
    for name in names(&rules()) {
        let fires = tests.split("alertname: ").any(|test| {
            test.strip_prefix(&name)
                .is_some_and(|rest| rest.trim_start().starts_with("eval_time") && rest.contains("exp_labels"))
        });
        assert!(fires, "no test sees that {name} fires");
    }
}

#[test]
fn each_has_a_runbook() {
    let page = fs::read_to_string(source_dir().join("docs/runbooks.md")).unwrap();
    let told: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(told, names(&rules()));
}

/// Every metric that an expression names is one that the program has.
#[test]
fn each_asks_for_metrics_that_exist() {
    let known = fs::read_to_string(source_dir().join("docs/metrics.md")).unwrap();
    for rule in rules() {
        let expression = rule["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("llmkey_")).collect();
        assert!(!metrics.is_empty(), "{expression}");
        for metric in metrics {
            assert!(known.contains(&format!("\n| `{metric}` |")), "{}: {metric}", rule["alert"]);
        }
    }
}

fn rendered(values: &Value) -> Vec<Value> {
    let chart = source_dir().join("charts/llmkey-operator");
    let values = json!({"prometheusRule": values});
    let manifests = render_chart(&chart, "llmkey-operator", "llmkey-system", &values).unwrap();
    let rule = manifests.into_iter().find(|manifest| manifest["kind"] == "PrometheusRule").unwrap();
    rule["spec"]["groups"][0]["rules"].as_array().unwrap().clone()
}

#[test]
fn the_chart_installs_them_as_they_are() {
    assert_eq!(rendered(&json!({"enabled": true})), rules());
}

#[test]
fn an_installation_can_link_label_and_leave_out() {
    let rules = rendered(&json!({
        "enabled": true, "disabled": ["LLMKeyUnchecked"], "runbookUrl": "https://docs.example/runbooks",
        "ruleLabels": {"team": "platform", "severity": "none"},
    }));
    assert!(!names(&rules).contains("LLMKeyUnchecked"));
    let invalid = rules.iter().find(|rule| rule["alert"] == "LLMKeyInvalid").unwrap();
    assert_eq!(invalid["annotations"]["runbook_url"], "https://docs.example/runbooks#llmkeyinvalid");
    assert_eq!(invalid["labels"], json!({"severity": "critical", "team": "platform"}));
}
