//! What stands in the terminal.

use std::io::{self, IsTerminal, Write};
use std::process::Stdio;

use axum::http::Request;
use kube::Client;
use serde_json::Value;

use super::DemoError;
use super::place::Place;

/// Longest text of a value that is shown in full.
const SHOWN: usize = 40;
/// Longest beginning of a key that only tells its kind.
const LONGEST_PREFIX: usize = 12;

/// Writes a line; a closed standard output ends the demo.
pub fn line(text: impl AsRef<str>) -> Result<(), DemoError> {
    writeln!(io::stdout(), "{}", text.as_ref()).map_err(DemoError::Output)
}

/// Writes the heading of a stage.
pub fn heading(number: usize, title: &str) -> Result<(), DemoError> {
    let (bold, plain) = if io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    line(format!("\n{bold}{number}. {title}{plain}"))
}

/// Writes an indented paragraph.
pub fn say(text: impl AsRef<str>) -> Result<(), DemoError> {
    text.as_ref().lines().try_for_each(|part| line(format!("   {part}").trim_end()))
}

/// A key for people: how it begins, how it ends, and nothing between.
pub fn masked(key: &str) -> String {
    // As `sk-svcacct-`; a dash may also stand inside of a key.
    let prefix = key.match_indices('-').nth(1).map_or("", |(end, _)| &key[..=end]);
    let prefix = if prefix.len() <= LONGEST_PREFIX { prefix } else { "" };
    let tail: String = key.chars().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{prefix}…{tail} ({} characters)", key.len())
}

/// A value as one line of JSON, with long texts cut.
pub fn brief(value: &Value) -> String {
    fn cut(value: &Value) -> Value {
        match value {
            Value::String(text) if text.len() > SHOWN => {
                Value::String(format!("{}…", text.chars().take(SHOWN).collect::<String>()))
            }
            Value::Array(items) => Value::Array(items.iter().map(cut).collect()),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, value)| (name.clone(), cut(value))).collect())
            }
            other => other.clone(),
        }
    }
    cut(value).to_string()
}

/// `kubectl` with `arguments`, or nothing if there is no kubectl.
pub async fn kubectl(place: &Place, arguments: &[&str]) -> Option<String> {
    let (program, context) = place.kubectl()?;
    let output = tokio::process::Command::new(program)
        .args(context)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The table of the namespace's LLMKeys as kubectl prints it.
pub async fn keys(place: &Place, namespace: &str) -> Result<(), DemoError> {
    say(format!("$ kubectl get llmkeys --namespace {namespace}"))?;
    let text = match kubectl(place, &["get", "llmkeys", "--namespace", namespace]).await {
        Some(text) => text,
        None => table(&place.admin()?, namespace).await?,
    };
    say(text)
}

/// The API server's own table, for machines without kubectl: the columns are made there, not in kubectl.
async fn table(client: &Client, namespace: &str) -> Result<String, DemoError> {
    let request = Request::get(format!("/apis/llmkeys.dev/v1alpha1/namespaces/{namespace}/llmkeys"))
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .map_err(|error| DemoError::NotStarted(error.to_string()))?;
    Ok(rendered(&client.request(request).await?))
}

fn rendered(table: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns: Vec<(usize, String)> = list(&table["columnDefinitions"])
        .iter()
        .enumerate()
        .filter(|(_, column)| column["priority"] == 0)
        .map(|(index, column)| (index, column["name"].as_str().unwrap_or_default().to_uppercase()))
        .collect();
    let mut rows = vec![columns.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()];
    for row in list(&table["rows"]) {
        rows.push(columns.iter().map(|(index, _)| cell(&row["cells"][*index])).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let text = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_servers_table_looks_as_kubectl_prints_it() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Policy", "priority": 1}, {"name": "Version", "priority": 0},
            ],
            "rows": [{"cells": ["chat", "monthly", 2]}, {"cells": ["summaries", "none", null]}],
        });
        assert_eq!(rendered(&table), "NAME        VERSION\nchat        2\nsummaries");
    }

    #[test]
    fn a_masked_key_keeps_its_kind_and_its_end() {
        assert_eq!(masked("sk-svcacct-0123456789abcdef"), "sk-svcacct-…cdef (27 characters)");
        assert_eq!(masked("0123456789abcdef"), "…cdef (16 characters)");
        assert!(!masked("sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaa-b").contains("aaaaa"));
    }

    #[test]
    fn long_texts_are_cut_in_depth() {
        let shown = brief(&json!({"a": {"b": ["x".repeat(100)]}, "c": 1}));
        assert!(shown.len() < 70 && shown.contains('…'), "{shown}");
    }
}
