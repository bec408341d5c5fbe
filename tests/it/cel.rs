//! One table of accepted and refused resources (`cel_cases/`), judged twice: by an offline evaluation of
//! the rules, in milliseconds, and by a real API server.

use std::collections::BTreeMap;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::core::cel::Validator;
use llmkey_operator::{api, testbed};
use serde::Deserialize;
use serde_json::{Value, json};

const TABLES: [&str; 3] = [
    include_str!("cel_cases/llmkey.yaml"),
    include_str!("cel_cases/policy.yaml"),
    include_str!("cel_cases/provider.yaml"),
];
/// Requests in flight at the server.
const AT_ONCE: usize = 8;

/// A file of cases.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: String,
    base: Value,
    cases: Vec<Case>,
}

/// One case; the head of `cel_cases/llmkey.yaml` explains the fields.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    object: Option<String>,
    before: Option<Value>,
    #[serde(default)]
    spec: Value,
    /// JSON pointers that are set to null in the end; a merge patch cannot say that.
    #[serde(default)]
    nulls: Vec<String>,
    /// JSON pointers to texts that are filled up to this length.
    #[serde(default)]
    repeat: BTreeMap<String, usize>,
    refused: Option<String>,
    #[serde(default)]
    server: bool,
}

/// A case made whole.
struct Trial {
    kind: String,
    name: String,
    old: Option<Value>,
    new: Value,
    refused: Option<String>,
    server: bool,
}

fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = TABLES.iter().map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let policies = tables.iter().find(|table| table.kind == "RotationPolicy").unwrap();
    let cluster = Table { kind: "ClusterRotationPolicy".to_owned(), ..policies.clone() };
    tables.push(cluster);
    tables
}

fn trials() -> Vec<Trial> {
    tables()
        .iter()
        .flat_map(|table| {
            table.cases.iter().map(|case| trial(&table.kind, &table.base, case)).collect::<Vec<_>>()
        })
        .collect()
}

fn trial(kind: &str, base: &Value, case: &Case) -> Trial {
    let name = case.object.clone().unwrap_or_else(|| case.name.replace('_', "-"));
    let object = |patch: &Value| {
        let mut spec = base.clone();
        merge(&mut spec, patch);
        json!({"apiVersion": "llmkeys.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    let mut new = object(&case.spec);
    for (pointer, length) in &case.repeat {
        let text = new.pointer_mut(pointer).unwrap();
        *text = json!(format!("{}{}", text.as_str().unwrap(), "x".repeat(*length))[..*length]);
    }
    for pointer in &case.nulls {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[field] = Value::Null;
    }
    let old = case.before.as_ref().map(object);
    let refused = case.refused.clone();
    Trial { kind: kind.to_owned(), name: case.name.clone(), old, new, refused, server: case.server }
}

/// RFC 7396, without removing nulls that stand in a new object.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    for (field, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|map| map.remove(field))),
            Value::Object(_) => {
                if !target[field].is_object() {
                    target[field] = json!({});
                }
                merge(&mut target[field], value);
            }
            _ => target[field] = value.clone(),
        }
    }
}

fn schemas() -> BTreeMap<String, Value> {
    api::crds()
        .into_iter()
        .map(|crd| {
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            (kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// What the answer should have been, if it was another.
fn verdict(trial: &Trial, answer: &Result<(), String>) -> Option<String> {
    let problem = match (&trial.refused, answer) {
        (None, Ok(())) => return None,
        (Some(part), Err(text)) if text.contains(part) => return None,
        (None, Err(text)) => format!("refused: {text}"),
        (Some(_), Ok(())) => "accepted".to_owned(),
        (Some(part), Err(text)) => format!("refused, but without {part:?}: {text}"),
    };
    Some(format!("{} {}: {problem}", trial.kind, trial.name))
}

fn report(count: usize, problems: &[String]) {
    assert!(problems.is_empty(), "{} of {count} cases:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn names_say_what_is_expected() {
    for trial in trials() {
        let prefix = if trial.refused.is_some() { "rejects_" } else { "accepts_" };
        assert!(trial.name.starts_with(prefix), "{}", trial.name);
    }
}

#[test]
fn the_rules_judge_every_case_offline() {
    let schemas = schemas();
    let trials: Vec<Trial> = trials().into_iter().filter(|trial| !trial.server).collect();
    let problems: Vec<String> = trials
        .iter()
        .filter_map(|trial| {
            let answer = Validator::new()
                .validate_with_defaults(&schemas[&trial.kind], &trial.new, trial.old.as_ref())
                .map_err(|errors| errors.to_string());
            verdict(trial, &answer)
        })
        .collect();
    report(trials.len(), &problems);
}

/// A rule without a case that it refuses could be deleted, or never have worked, without a test noticing.
#[test]
fn every_rule_refuses_a_case() {
    let trials = trials();
    for (kind, schema) in schemas() {
        let mut messages = Vec::new();
        rules(&schema, &mut messages);
        assert!(!messages.is_empty());
        for message in messages {
            let refused = trials
                .iter()
                .filter(|trial| trial.kind == kind)
                .filter_map(|trial| trial.refused.as_deref())
                .any(|part| message.contains(part));
            assert!(refused, "{kind}: no case for {message:?}");
        }
    }
}

fn rules(schema: &Value, messages: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                messages.push(rule["message"].as_str().unwrap().to_owned());
            }
            map.values().for_each(|value| rules(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|value| rules(value, messages)),
        _ => {}
    }
}

#[tokio::test]
async fn the_server_judges_every_case() {
    let cluster = testbed::shared().await.unwrap();
    let client = cluster.admin().unwrap();
    testbed::apply(&client, &api::crds()).await.unwrap();
    let namespace = cluster.namespace("cel").await.unwrap();
    let trials = trials();
    let problems: Vec<String> = futures::stream::iter(&trials)
        .map(|trial| {
            let kind = GroupVersionKind::gvk(api::GROUP, api::VERSION, &trial.kind);
            let resource = ApiResource::from_gvk(&kind);
            let api = if trial.kind == "LLMKey" || trial.kind == "RotationPolicy" {
                Api::namespaced_with(client.clone(), &namespace, &resource)
            } else {
                Api::all_with(client.clone(), &resource)
            };
            async move { verdict(trial, &submit(&api, trial).await) }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|problem| async { problem })
        .collect()
        .await;
    report(trials.len(), &problems);
}

/// Creates, or updates with PUT, as a user's `kubectl create` or `replace` would; only old objects are kept.
async fn submit(api: &Api<DynamicObject>, trial: &Trial) -> Result<(), String> {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let object = |value: &Value| serde_json::from_value::<DynamicObject>(value.clone()).unwrap();
    let answer = match &trial.old {
        None => api.create(&dry_run, &object(&trial.new)).await,
        Some(old) => {
            let stored = api.create(&PostParams::default(), &object(old)).await.unwrap();
            let (mut new, mut stored) = (object(&trial.new), stored);
            let name = new.metadata.name.clone().unwrap();
            loop {
                new.metadata.resource_version = stored.metadata.resource_version;
                match api.replace(&name, &dry_run, &new).await {
                    // An operator of another test has written the status meanwhile.
                    Err(kube::Error::Api(status)) if status.is_conflict() => {
                        stored = api.get(&name).await.unwrap();
                    }
                    answer => break answer,
                }
            }
        }
    };
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{}: {error}", trial.name),
    }
}
