//! Every panel of the dashboard and every alert is asked of a real Prometheus that reads a running operator.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use kube::api::{Api, DeleteParams};
use llmkey_operator::api::LLMProvider;
use llmkey_operator::testbed::process::{Process, Workspace};
use llmkey_operator::testbed::{source_dir, tools};
use reqwest::Url;
use serde_json::{Value, json};

use super::stage::{Tenant, because, free_port, state, wait};

struct Prometheus {
    _process: Process,
    _data: Workspace,
    url: Url,
}

impl Prometheus {
    /// Reads the operator every half second, and has the alerts.
    async fn start(t: &Tenant) -> Self {
        let data = Workspace::create(false).unwrap();
        let port = free_port();
        let config = json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [source_dir().join("charts/llmkey-operator/files/alerts.yaml")],
            "scrape_configs": [{
                "job_name": "llmkey-operator", "honor_labels": true,
                "static_configs": [{"targets": [format!("127.0.0.1:{}", t.operator().port)]}],
            }],
        });
        let file = data.path().join("prometheus.json");
        fs::write(&file, config.to_string()).unwrap();
        let binary = tokio::task::spawn_blocking(|| tools::prometheus().unwrap()).await.unwrap();
        let args = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", data.path().join("tsdb").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let log = t.stage.cluster.dir().join("prometheus.log");
        let process = Process::spawn("prometheus", &binary, args, &[], &log).unwrap();
        let url = Url::parse(&format!("http://127.0.0.1:{port}/api/v1/")).unwrap();
        Self { _process: process, _data: data, url }
    }

    /// The `data` of an answer; none while it is not there yet.
    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut url = self.url.join(path).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        Some(answer["data"].clone())
    }

    async fn samples(&self, query: &str) -> Vec<Value> {
        let answer = self.ask("query", &[("query", query)]).await;
        answer.and_then(|data| data["result"].as_array().cloned()).unwrap_or_default()
    }
}

fn dashboard() -> Value {
    let file = source_dir().join("charts/llmkey-operator/files/dashboard.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// A key that was rotated and used, one that the provider refuses, one that was deleted and waits, and a provider without a credential.
async fn busy(t: &Tenant) {
    let policy = json!({"schedule": {"interval": "24h"}, "overlap": {"minimum": "15m", "evidence": {"quietFor": "0s"}}});
    t.policy("policy", policy).await;
    t.minted("chat", json!({"rotationPolicyRef": {"name": "policy"}})).await;
    t.ready("chat").await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "rotated", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert_eq!(super::usage::call(t.sandbox(), &t.sandbox().base_url(), &value, "one two").await.0, 200);

    let value = t.person_key("refused");
    t.source("refused", &value).await;
    t.supplied("refused", json!({"validation": {"interval": "1m"}})).await;
    t.ready("refused").await;
    t.sandbox().withdraw_key(&value);
    t.until("refused", "refused", |key| because(key, "Ready", "KeyInvalid")).await;

    let without = format!("{}-bare", t.namespace);
    t.llm_provider(&without, json!({})).await;
    t.minted("deleted", json!({"providerRef": {"name": without}, "deletionGracePeriod": "0s"})).await;
    t.ready("deleted").await;
    t.llm_provider(&without, json!({"adminCredentialRef": {"name": "missing"}})).await;
    t.delete("deleted").await;
}

/// Names, units, types and help of every metric as Prometheus wants them.
fn promtool_finds_nothing(metrics: &str) {
    let mut promtool = Command::new(tools::promtool().unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && text.is_empty(), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn every_panel_and_every_alert_is_answered_by_a_running_operator() {
    let t = Tenant::new("dashboard").await;
    let prometheus = Prometheus::start(&t).await;
    busy(&t).await;

    let dashboard = dashboard();
    let [variable] = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|variable| variable["type"] == "query")
        .collect::<Vec<_>>()[..]
    else {
        panic!("one variable is asked for");
    };
    let (metric, label) = variable["query"]["query"]
        .as_str()
        .and_then(|query| query.strip_prefix("label_values(")?.strip_suffix(')')?.split_once(", "))
        .unwrap();
    wait("the namespace can be chosen", async || {
        let values = prometheus.ask(&format!("label/{label}/values"), &[("match[]", metric)]).await?;
        values.as_array()?.iter().any(|value| *value == t.namespace).then_some(())
    })
    .await;

    let panels = dashboard["panels"].as_array().unwrap();
    let mut asked = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap().replace("$namespace", &t.namespace);
            assert!(!query.contains('$'), "{title}: {query}");
            wait(&format!("{title} shows something: {query}"), async || {
                (!prometheus.samples(&query).await.is_empty()).then_some(())
            })
            .await;
            asked += 1;
        }
    }
    assert!(asked >= panels.len() / 2, "{asked} of {}", panels.len());

    let rules = prometheus.ask("rules", &[]).await.unwrap();
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        assert_eq!((&rule["health"], &rule["lastError"]), (&json!("ok"), &Value::Null), "{rule}");
    }
    let here = format!("ALERTS{{alertname=\"LLMKeyInvalid\",namespace=\"{}\"}}", t.namespace);
    wait("an alert for the refused key is on its way", async || {
        let alerts = prometheus.samples(&here).await;
        alerts.iter().any(|alert| alert["metric"]["name"] == "refused").then_some(())
    })
    .await;

    promtool_finds_nothing(&t.operator().get("/metrics").await.1);

    // The series of a deleted resource vanish with it.
    let of_chat = format!("{{__name__=~\"llmkey_key_.+\",namespace=\"{}\",name=\"chat\"}}", t.namespace);
    assert!(!prometheus.samples(&of_chat).await.is_empty());
    t.delete("chat").await;
    wait("no series of a deleted key", async || prometheus.samples(&of_chat).await.is_empty().then_some(()))
        .await;
    let providers: Api<LLMProvider> = Api::all(t.client.clone());
    providers.delete(&format!("{}-bare", t.namespace), &DeleteParams::default()).await.unwrap();
}
