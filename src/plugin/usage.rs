//! `kubectl llmkey usage`: what keys have used, as their providers report it: requests, tokens and cost, by key, provider or namespace. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveTime, Utc};
use kube::ResourceExt;
use serde::{Serialize, Serializer};

use super::objects::Objects;
use super::table::{notes, span, table};
use crate::api::{LLMKey, LLMKeyStatus, parse_rfc3339};
use crate::domain::usage::{Amounts, Micros};

/// What the rows are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A row for each LLMKey.
    #[default]
    Key,
    /// Sums of each LLMProvider, or provider that is named without one.
    Provider,
    /// Sums of each namespace.
    Namespace,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By namespace and name, or by what is summed up.
    pub rows: Vec<Row>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// An `LLMKey`, or a sum of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace; none in sums of providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name; none in sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The provider in words; none in sums of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// `LLMKey`s that it tells of.
    pub keys: usize,
    /// Of these, the ones whose use is reported.
    pub reported: usize,
    /// When the provider was asked that first told this; in sums, the newest. RFC 3339.
    pub as_of: Option<String>,
    /// Since when `window` counts, RFC 3339. None: not told, or nothing was used.
    pub since: Option<String>,
    /// What the published key has used in the current period: the day, UTC, or a proxy's own.
    pub window: Used,
    /// What the keys of all versions that status shows have used.
    pub total: Used,
    /// What the published key alone has used; none in sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Used>,
}

/// Amounts; what is not reported is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    /// Requests.
    pub requests: Option<i64>,
    /// Tokens that were sent.
    pub input_tokens: Option<i64>,
    /// Tokens that came back.
    pub output_tokens: Option<i64>,
    /// Cost, in US dollars.
    #[serde(rename = "costUSD", serialize_with = "dollars")]
    pub cost: Option<Micros>,
}

// The form of the function is serde's.
#[expect(clippy::ref_option, reason = "serde hands it over like that")]
fn dollars<S: Serializer>(cost: &Option<Micros>, serializer: S) -> Result<S::Ok, S::Error> {
    cost.map(|cost| cost.to_string()).serialize(serializer)
}

impl From<Amounts> for Used {
    fn from(amounts: Amounts) -> Self {
        let Amounts { requests, input_tokens, output_tokens, cost } = amounts;
        Self { requests, input_tokens, output_tokens, cost }
    }
}

impl Used {
    /// Adds what is known of the other.
    fn add(&mut self, other: Self) {
        fn sum(own: &mut Option<i64>, other: Option<i64>) {
            *own = match (*own, other) {
                (Some(own), Some(other)) => Some(own.saturating_add(other)),
                (own, other) => own.or(other),
            };
        }
        sum(&mut self.requests, other.requests);
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        let mut cost = self.cost.map(|cost| cost.0);
        sum(&mut cost, other.cost.map(|cost| cost.0));
        self.cost = cost.map(Micros);
    }

    fn cells(self) -> [String; 3] {
        let told = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let Self { requests, input_tokens, output_tokens, cost } = self;
        let tokens = Amounts { requests, input_tokens, output_tokens, cost }.tokens();
        [told(requests), told(tokens), cost.map_or_else(|| "-".to_owned(), |cost| cost.to_string())]
    }
}

/// Tells.
pub fn report(objects: &Objects, by: By, now: DateTime<Utc>) -> Report {
    let mut notes = objects.notes.clone();
    let rows: Vec<Row> = objects.keys.iter().map(|key| row(key, now)).collect();
    let silent = rows.iter().filter(|row| row.reported == 0).count();
    if silent > 0 {
        notes.push(format!(
            "of {silent} of {} LLMKeys nothing is reported: the provider does not tell it by key, a person supplied the key, or \
             nothing was used yet",
            rows.len()
        ));
    }
    let partly = rows.iter().any(|row| row.reported > 0 && row.total.requests.is_none());
    if partly && by == By::Namespace {
        notes.push("providers that report costs only are in no sum of requests and tokens".to_owned());
    }
    let rows = match by {
        By::Key => rows,
        By::Provider => sums(rows, |row| Row { provider: row.provider.clone(), ..Row::default() }),
        By::Namespace => sums(rows, |row| Row { namespace: row.namespace.clone(), ..Row::default() }),
    };
    Report { rows, notes }
}

fn row(key: &LLMKey, now: DateTime<Utc>) -> Row {
    let status = key.status.clone().unwrap_or_default();
    let usage = status.usage.clone().unwrap_or_default();
    let midnight = now.date_naive().and_time(NaiveTime::MIN).and_utc();
    // What was read yesterday is not today's.
    let window = usage.window.filter(|window| {
        window
            .start
            .as_deref()
            .is_none_or(|start| parse_rfc3339(start).is_some_and(|start| start >= midnight))
    });
    let amounts = |shown: &crate::api::UsageAmounts| Used::from(Amounts::from(shown));
    let total = total(&status);
    Row {
        namespace: key.namespace(),
        name: Some(key.name_any()),
        keys: 1,
        reported: usize::from(total != Used::default() || window.is_some()),
        as_of: usage.as_of,
        since: window.as_ref().and_then(|window| window.start.clone()),
        window: window.map(|window| amounts(&window.amounts())).unwrap_or_default(),
        total,
        current: usage.total.as_ref().map(amounts),
        provider: status.provider,
    }
}

/// A key that was published again under another number counts once.
fn total(status: &LLMKeyStatus) -> Used {
    let by_id: BTreeMap<&str, Used> = status
        .versions
        .iter()
        .filter_map(|v| Some((v.provider_key_id.as_deref()?, Amounts::from(v.usage.as_ref()?).into())))
        .collect();
    let mut total = Used::default();
    for used in by_id.into_values() {
        total.add(used);
    }
    total
}

/// What the published key has used in all, in a line; none if nothing is reported.
pub fn words(status: &LLMKeyStatus) -> Option<String> {
    let used = Amounts::from(status.usage.as_ref()?.total.as_ref()?);
    let parts = [
        used.requests.map(|n| format!("{n} requests")),
        used.tokens().map(|n| format!("{n} tokens")),
        used.cost.map(|cost| format!("{cost} USD")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{} with this key", parts.join(", ")))
}

fn sums(rows: Vec<Row>, of: impl Fn(&Row) -> Row) -> Vec<Row> {
    let mut sums: BTreeMap<(Option<String>, Option<String>), Row> = BTreeMap::new();
    for row in rows {
        let empty = of(&row);
        let sum = sums.entry((empty.namespace.clone(), empty.provider.clone())).or_insert(empty);
        sum.keys += row.keys;
        sum.reported += row.reported;
        sum.as_of = sum.as_of.take().max(row.as_of);
        sum.since = sum.since.take().max(row.since);
        sum.window.add(row.window);
        sum.total.add(row.total);
    }
    sums.into_values().collect()
}

/// The answer for people; `wide` has more columns.
pub fn text(report: &Report, by: By, wide: bool, now: DateTime<Utc>) -> String {
    let rows = &report.rows;
    let mut blocks = Vec::new();
    // Where there are none, the notes say why.
    if !rows.is_empty() {
        blocks.push(match (by, wide) {
            (By::Key, false) => narrow_table(rows, now),
            (By::Key, true) => wide_table(rows, now),
            (By::Provider, _) => sums_table("PROVIDER", rows, now),
            (By::Namespace, _) => sums_table("NAMESPACE", rows, now),
        });
    }
    blocks.extend(notes(&report.notes));
    blocks.join("\n")
}

fn dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

/// How long ago the provider was asked that first told it.
fn age(row: &Row, now: DateTime<Utc>) -> String {
    let as_of = row.as_of.as_deref().and_then(parse_rfc3339);
    as_of.map_or_else(|| "-".to_owned(), |at| span(now - at))
}

fn place(row: &Row) -> [String; 3] {
    [row.namespace.as_ref(), row.name.as_ref(), row.provider.as_ref()].map(dash)
}

/// Cells of several parts, one after the other.
fn line<const N: usize>(parts: &[&[String]]) -> [String; N] {
    let mut cells = parts.iter().flat_map(|part| part.iter().cloned());
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

fn narrow_table(rows: &[Row], now: DateTime<Utc>) -> String {
    let rows: Vec<[String; 10]> = rows
        .iter()
        .map(|row| line(&[&place(row), &row.window.cells(), &row.total.cells(), &[age(row, now)]]))
        .collect();
    let heads = [
        "NAMESPACE",
        "NAME",
        "PROVIDER",
        "REQUESTS",
        "TOKENS",
        "USD",
        "TOTAL-REQUESTS",
        "TOTAL-TOKENS",
        "TOTAL-USD",
        "AS-OF",
    ];
    table(heads, &rows)
}

fn wide_table(rows: &[Row], now: DateTime<Utc>) -> String {
    let rows: Vec<[String; 14]> = rows
        .iter()
        .map(|row| {
            let (since, current) = ([dash(row.since.as_ref())], row.current.unwrap_or_default().cells());
            let age = [age(row, now)];
            line(&[&place(row), &since, &row.window.cells(), &current, &row.total.cells(), &age])
        })
        .collect();
    let heads = [
        "NAMESPACE",
        "NAME",
        "PROVIDER",
        "SINCE",
        "REQUESTS",
        "TOKENS",
        "USD",
        "KEY-REQUESTS",
        "KEY-TOKENS",
        "KEY-USD",
        "TOTAL-REQUESTS",
        "TOTAL-TOKENS",
        "TOTAL-USD",
        "AS-OF",
    ];
    table(heads, &rows)
}

fn sums_table(of: &'static str, rows: &[Row], now: DateTime<Utc>) -> String {
    let rows: Vec<[String; 10]> = rows
        .iter()
        .map(|row| {
            let name = dash(row.namespace.as_ref().or(row.provider.as_ref()));
            let place = [name, row.keys.to_string(), row.reported.to_string()];
            line(&[&place, &row.window.cells(), &row.total.cells(), &[age(row, now)]])
        })
        .collect();
    let heads = [
        of,
        "KEYS",
        "REPORTED",
        "REQUESTS",
        "TOKENS",
        "USD",
        "TOTAL-REQUESTS",
        "TOTAL-TOKENS",
        "TOTAL-USD",
        "AS-OF",
    ];
    table(heads, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> DateTime<Utc> {
        "2027-01-03T10:00:00Z".parse().unwrap()
    }

    fn key(namespace: &str, name: &str, provider: &str, usage: &Value, versions: &Value) -> LLMKey {
        serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": name, "namespace": namespace},
            "spec": {"providerRef": {"name": "x"}, "source": {"mint": {}}},
            "status": {"provider": provider, "usage": usage, "versions": versions},
        }))
        .unwrap()
    }

    fn version(n: i32, id: &str, usage: &Value) -> Value {
        json!({"version": n, "state": "Current", "origin": "Minted", "reason": "Initial", "providerKeyID": id, "usage": usage})
    }

    fn objects() -> Objects {
        let all = json!({"requests": 40, "inputTokens": 900, "outputTokens": 100, "costUSD": "1.25"});
        let today = json!({"start": "2027-01-03T00:00:00Z", "requests": 3, "inputTokens": 70, "outputTokens": 30, "costUSD": "0.10"});
        let yesterday = json!({"start": "2027-01-02T00:00:00Z", "requests": 9});
        let old = json!({"requests": 2, "costUSD": "0.75"});
        Objects {
            keys: vec![
                key(
                    "team-a",
                    "chat",
                    "OpenAI (openai)",
                    &json!({"reason": "Reported", "asOf": "2027-01-03T08:00:00Z", "window": today, "total": all}),
                    &json!([version(3, "b", &all), version(2, "a", &old), version(1, "a", &old)]),
                ),
                key(
                    "team-a",
                    "route",
                    "OpenRouter (router)",
                    &json!({"reason": "Reported", "asOf": "2027-01-03T09:59:00Z", "window": yesterday, "total": {"costUSD": "0.50"}}),
                    &json!([version(1, "c", &json!({"costUSD": "0.50"}))]),
                ),
                key("team-b", "own", "Groq", &json!({"reason": "NotReported"}), &json!([])),
            ],
            ..Objects::default()
        }
    }

    #[test]
    fn a_key_is_a_line_and_what_is_not_reported_is_a_dash() {
        let told = report(&objects(), By::Key, now());
        let note = "of 1 of 3 LLMKeys nothing is reported: the provider does not tell it by key, a person supplied the \
                    key, or nothing was used yet";
        let expected = "\
NAMESPACE   NAME    PROVIDER              REQUESTS   TOKENS   USD    TOTAL-REQUESTS   TOTAL-TOKENS   TOTAL-USD   AS-OF
team-a      chat    OpenAI (openai)       3          100      0.10   42               1000           2.00        2h
team-a      route   OpenRouter (router)   -          -        -      -                -              0.50        1m
team-b      own     Groq                  -          -        -      -                -              -           -
";
        assert_eq!(text(&told, By::Key, false, now()), format!("{expected}\nNote: {note}.\n"));
        let wide = text(&told, By::Key, true, now());
        assert!(wide.contains("KEY-USD") && wide.contains("2027-01-03T00:00:00Z   3 "), "{wide}");
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json["rows"][0]["total"]["costUSD"], "2.00");
        assert_eq!(json["rows"][1]["total"]["requests"], Value::Null);
    }

    #[test]
    fn a_line_tells_what_is_reported_of_the_published_key() {
        let told: Vec<_> = objects().keys.iter().map(|key| words(key.status.as_ref().unwrap())).collect();
        let full = "40 requests, 1000 tokens, 1.25 USD with this key".to_owned();
        assert_eq!(told, [Some(full), Some("0.50 USD with this key".to_owned()), None]);
    }

    #[test]
    fn sums_are_by_provider_and_by_namespace() {
        let told = report(&objects(), By::Namespace, now());
        let expected = "\
NAMESPACE   KEYS   REPORTED   REQUESTS   TOKENS   USD    TOTAL-REQUESTS   TOTAL-TOKENS   TOTAL-USD   AS-OF
team-a      2      2          3          100      0.10   42               1000           2.50        1m
team-b      1      0          -          -        -      -                -              -           -
";
        let shown = text(&told, By::Namespace, false, now());
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("Note: providers that report costs only are in no sum"), "{shown}");
        let told = report(&objects(), By::Provider, now());
        let names: Vec<_> = told.rows.iter().map(|row| row.provider.as_deref().unwrap()).collect();
        assert_eq!(names, ["Groq", "OpenAI (openai)", "OpenRouter (router)"]);
        let none = Report { rows: Vec::new(), notes: vec!["there is no LLMKey".to_owned()] };
        assert_eq!(text(&none, By::Key, false, now()), "Note: there is no LLMKey.\n");
    }
}
