//! What keys have used, counted at the calls of models, and how each API tells it.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    call::{Input, Outcome},
    operation::Operation,
    records::{Key, KeyPlace},
    wire::ApiError,
    world::World,
};

/// What one token costs, either way, in millionths of a dollar.
const PRICE: u64 = 1000;

/// The answer of every model.
const ANSWER: &str = "This is the sandbox";

/// Use of a key, as a test notes it without calling a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KeyUse {
    /// When; now if not said.
    pub at: Option<DateTime<Utc>>,
    /// The model embeds: reported apart, without output.
    pub embeddings: bool,
    /// Requests.
    pub requests: u64,
    /// Tokens that were sent.
    pub input_tokens: u64,
    /// Tokens that came back.
    pub output_tokens: u64,
    /// Cost in millionths of a dollar.
    pub cost_micros: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    input_tokens: u64,
    output_tokens: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
    }
}

/// What a key has used in a day.
#[derive(Clone, Copy, Debug, Default)]
struct Day {
    completions: Counts,
    embeddings: Counts,
    cost_micros: u64,
}

/// What a key has used, by the day, UTC.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses(BTreeMap<NaiveDate, Day>);

impl Uses {
    fn note(&mut self, used: KeyUse, now: DateTime<Utc>) {
        let day = self.0.entry(used.at.unwrap_or(now).date_naive()).or_default();
        let KeyUse { requests, input_tokens, output_tokens, .. } = used;
        if used.embeddings {
            day.embeddings.add(Counts { requests, input_tokens, output_tokens: 0 });
        } else {
            day.completions.add(Counts { requests, input_tokens, output_tokens });
        }
        day.cost_micros += used.cost_micros;
    }

    /// Dollars since a day.
    pub(super) fn cost_since(&self, first: NaiveDate) -> f64 {
        dollars(self.0.range(first..).map(|(_, day)| day.cost_micros).sum())
    }

    /// Tokens either way that models which answer took on a day; none if there were none.
    pub(super) fn tokens_on(&self, day: NaiveDate) -> Option<(u64, u64)> {
        let counts = self.0.get(&day).map(|day| day.completions).filter(|counts| counts.requests > 0)?;
        Some((counts.input_tokens, counts.output_tokens))
    }

    /// Dollars in all.
    pub(super) fn cost(&self) -> f64 {
        self.cost_since(NaiveDate::MIN)
    }
}

fn dollars(micros: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "as the APIs have it: a number")]
    let micros = micros as f64;
    micros / 1e6
}

/// OpenRouter's fields of a key: in all, today, since Monday, and since the first of the month.
pub(super) fn periods(key: &Key, now: DateTime<Utc>) -> [f64; 4] {
    let today = now.date_naive();
    let monday = today - TimeDelta::days(today.weekday().num_days_from_monday().into());
    let first = today.with_day(1).unwrap_or(today);
    [key.uses.cost(), key.uses.cost_since(today), key.uses.cost_since(monday), key.uses.cost_since(first)]
}

/// Body of a call of a model. What else a real one knows is accepted without effect.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Completion {
    model: String,
    messages: Vec<Message>,
}

#[derive(Clone, Debug, Deserialize)]
struct Message {
    content: String,
}

impl Completion {
    /// A word is a token.
    fn used(&self) -> KeyUse {
        let words = |text: &str| u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX);
        let input_tokens = self.messages.iter().map(|message| words(&message.content)).sum();
        let output_tokens = words(ANSWER);
        let cost_micros = (input_tokens + output_tokens) * PRICE;
        KeyUse { requests: 1, input_tokens, output_tokens, cost_micros, ..KeyUse::default() }
    }

    /// `chat.completion`, as all three APIs have it.
    fn answer(&self, now: DateTime<Utc>) -> Value {
        let used = self.used();
        json!({
            "id": "chatcmpl-sandbox", "object": "chat.completion", "created": now.timestamp(), "model": self.model,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens,
                "total_tokens": used.input_tokens + used.output_tokens,
            },
        })
    }
}

impl World {
    /// A model answers a key, and counts; a key that is known by a pattern only is answered and not counted.
    pub(super) fn complete(
        &mut self,
        place: Option<KeyPlace>,
        input: &Result<Input, ApiError>,
        now: DateTime<Utc>,
    ) -> Outcome {
        let body = match input {
            Ok(Input::Completion(body)) => body,
            Ok(_) => return ApiError::bad_request("", "The body is no call of a model.").into(),
            Err(error) => return error.clone().into(),
        };
        let mut keys = Vec::new();
        if let Some(place) = place {
            self.touch(place, now);
            if let Some(key) = self.key_mut(place) {
                key.uses.note(body.used(), now);
                keys.push(key.id.clone());
            }
        }
        Outcome::committed(body.answer(now), None, keys)
    }

    /// Notes use of a key. False: there is no such key.
    pub(super) fn note_use(&mut self, project: &str, key: &str, used: KeyUse, now: DateTime<Utc>) -> bool {
        let place = self.project_index(project).and_then(|index| {
            let ordinal = self.projects().get(index)?.ordinal(key)?;
            Some(KeyPlace { project: index, ordinal })
        });
        let Some(key) = place.and_then(|place| self.key_mut(place)) else { return false };
        key.uses.note(used, now);
        true
    }

    /// A page of one of OpenAI's three reports.
    pub(super) fn usage_page(
        &self,
        operation: Operation,
        query: &UsageQuery,
        now: DateTime<Utc>,
    ) -> Result<Value, ApiError> {
        let index = query.projects.first().and_then(|id| self.project_index(id));
        let settings = self.settings(index);
        let most = if operation == Operation::GetCosts { 180 } else { 31 };
        let limit = query.limit.unwrap_or(7);
        if !(1..=most).contains(&limit) {
            return Err(ApiError::bad_request("limit", format!("Invalid 'limit': expected 1 to {most}.")));
        }
        let first = DateTime::from_timestamp(query.start_time, 0)
            .ok_or_else(|| ApiError::bad_request("start_time", "Invalid 'start_time'."))?
            .date_naive();
        let end = query.end_time.and_then(|end| DateTime::from_timestamp(end, 0)).unwrap_or(now);
        let limit = usize::try_from(limit.min(settings.max_page_size.max(1))).unwrap_or(1);
        let mut days = first
            .iter_days()
            .take_while(|day| day.and_hms_opt(0, 0, 0).is_some_and(|begins| begins.and_utc() < end))
            .skip(query.page);
        let page: Vec<Value> = days
            .by_ref()
            .take(limit)
            .map(|day| self.bucket(operation, query, day, settings.usage_without_requests))
            .collect();
        let more = days.next().is_some();
        let next = more.then(|| format!("page_{}", query.page + limit));
        Ok(json!({"object": "page", "data": page, "has_more": more, "next_page": next}))
    }

    fn bucket(
        &self,
        operation: Operation,
        query: &UsageQuery,
        day: NaiveDate,
        without_requests: bool,
    ) -> Value {
        let mut rows: Vec<(Option<&str>, Option<&str>, Day)> = Vec::new();
        for project in self.projects().iter().filter(|project| wants(&query.projects, &project.id)) {
            for key in project.keys.values().filter(|key| wants(&query.keys, &key.id)) {
                let Some(used) = key.uses.0.get(&day) else { continue };
                let of = (
                    query.by_project.then_some(project.id.as_str()),
                    query.by_key.then_some(key.id.as_str()),
                );
                match rows.iter_mut().find(|(project, key, _)| (*project, *key) == of) {
                    Some((.., sum)) => {
                        sum.completions.add(used.completions);
                        sum.embeddings.add(used.embeddings);
                        sum.cost_micros += used.cost_micros;
                    }
                    None => rows.push((of.0, of.1, *used)),
                }
            }
        }
        let results: Vec<Value> = rows
            .into_iter()
            .filter_map(|(project, key, used)| result(operation, project, key, &used, without_requests))
            .collect();
        let begins = day.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc().timestamp();
        json!({"object": "bucket", "start_time": begins, "end_time": begins + 86400, "results": results})
    }
}

/// A row; none where nothing of the kind was used.
fn result(
    operation: Operation,
    project: Option<&str>,
    key: Option<&str>,
    used: &Day,
    without_requests: bool,
) -> Option<Value> {
    let requests = |count: u64| (!without_requests).then_some(count);
    match operation {
        Operation::GetCosts => (used.cost_micros > 0).then(|| {
            json!({
                "object": "organization.costs.result", "amount": {"value": dollars(used.cost_micros), "currency": "usd"},
                "line_item": null, "project_id": project, "api_key_id": key, "quantity": null, "quantity_unit": null,
            })
        }),
        Operation::GetEmbeddingsUsage => {
            let Counts { requests: count, input_tokens, .. } = used.embeddings;
            (count > 0).then(|| {
                json!({
                    "object": "organization.usage.embeddings.result", "input_tokens": input_tokens,
                    "num_model_requests": requests(count), "project_id": project, "user_id": null, "api_key_id": key,
                    "model": null,
                })
            })
        }
        _ => {
            let Counts { requests: count, input_tokens, output_tokens } = used.completions;
            (count > 0).then(|| {
                json!({
                    "object": "organization.usage.completions.result", "input_tokens": input_tokens,
                    "output_tokens": output_tokens, "input_cached_tokens": 0, "input_audio_tokens": 0,
                    "output_audio_tokens": 0, "input_uncached_tokens": input_tokens, "input_cache_write_tokens": 0,
                    "num_model_requests": requests(count), "project_id": project, "user_id": null, "api_key_id": key,
                    "model": null, "batch": null, "service_tier": null,
                })
            })
        }
    }
}

/// Query of a report.
#[derive(Clone, Debug, Default)]
pub(super) struct UsageQuery {
    start_time: i64,
    end_time: Option<i64>,
    pub(super) projects: Vec<String>,
    keys: Vec<String>,
    by_project: bool,
    by_key: bool,
    limit: Option<u32>,
    page: usize,
}

impl UsageQuery {
    /// Reads `a[]=x&a[]=y`, as the Python client writes arrays, and `a=x&a=y`.
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let invalid = |name: &str| ApiError::bad_request(name, format!("Invalid '{name}'."));
        let url =
            reqwest::Url::parse(&format!("http://sandbox.invalid/?{query}")).map_err(|_| invalid(""))?;
        let mut parsed = Self::default();
        let mut started = false;
        for (name, value) in url.query_pairs() {
            let name = name.strip_suffix("[]").unwrap_or(&name);
            match name {
                "start_time" => {
                    parsed.start_time = value.parse().map_err(|_| invalid(name))?;
                    started = true;
                }
                "end_time" => parsed.end_time = Some(value.parse().map_err(|_| invalid(name))?),
                "limit" => parsed.limit = Some(value.parse().map_err(|_| invalid(name))?),
                "project_ids" => parsed.projects.push(value.into_owned()),
                "api_key_ids" => parsed.keys.push(value.into_owned()),
                "bucket_width" if value == "1d" => {}
                "group_by" if value == "project_id" => parsed.by_project = true,
                "group_by" if value == "api_key_id" => parsed.by_key = true,
                "page" => {
                    let page = value.strip_prefix("page_").and_then(|page| page.parse().ok());
                    parsed.page = page.ok_or_else(|| invalid(name))?;
                }
                _ => return Err(invalid(name)),
            }
        }
        if started { Ok(parsed) } else { Err(invalid("start_time")) }
    }
}

/// Whether an id is asked for; none named means all.
fn wants(of: &[String], id: &str) -> bool {
    of.is_empty() || of.iter().any(|wanted| wanted == id)
}
