//! OpenAI's reports of usage and costs, by the day and by key.
//!
//! Sources: openai-openapi (`/organization/usage/completions`, `/organization/usage/embeddings`, `/organization/costs`) and the Python
//! SDK 3.54, which writes arrays in queries with brackets. Completions and embeddings are the reports with tokens; others (images,
//! audio, tools) count in costs only. How late the reports are is not documented.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Account, CallError, ErrorClass,
    exchange::{Reply, Request, Unsendable},
    openai_admin::{OpenAIAdmin, read},
    usage::{At, Measure, Report, Sums, UsageReports},
};
use crate::domain::usage::Micros;

#[derive(Deserialize)]
struct Page<R> {
    data: Vec<Bucket<R>>,
    has_more: bool,
    #[serde(default, rename = "next_page")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Bucket<R> {
    start_time: i64,
    results: Vec<R>,
}

/// Of completions and of embeddings, which have no output.
#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    api_key_id: Option<String>,
    #[serde(default)]
    num_model_requests: Option<i64>,
    #[serde(default)]
    input_tokens: Option<i64>,
    #[serde(default)]
    output_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct Cost {
    #[serde(default)]
    api_key_id: Option<String>,
    #[serde(default)]
    amount: Option<Amount>,
}

#[derive(Deserialize)]
struct Amount {
    /// A number in the specification. Text of a number is taken as well.
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    currency: Option<String>,
}

impl Amount {
    /// None: not in dollars, or no number.
    fn micros(&self) -> Option<i64> {
        self.currency.as_deref().filter(|currency| currency.eq_ignore_ascii_case("usd"))?;
        let dollars = match self.value.as_ref()? {
            Value::String(text) => text.parse().ok()?,
            number => number.as_f64()?,
        };
        Micros::of_dollars(dollars).map(|micros| micros.0)
    }
}

impl UsageReports for OpenAIAdmin {
    fn reports(&self) -> &'static [Report] {
        &[Report::Completions, Report::Embeddings, Report::Costs]
    }

    fn days_on_a_page(&self, report: Report) -> Option<u16> {
        Some(if report == Report::Costs { 180 } else { 31 })
    }

    fn usage_request(&self, account: &Account, report: Report, at: At<'_>) -> Result<Request, Unsendable> {
        let path: &[&str] = match report {
            Report::Completions => &["organization", "usage", "completions"],
            Report::Embeddings => &["organization", "usage", "embeddings"],
            Report::Costs => &["organization", "costs"],
            Report::Keys | Report::Messages => return Err(Unsendable),
        };
        let (start, limit) = (at.question.first_day().timestamp().to_string(), at.days.to_string());
        let mut query = vec![
            ("start_time", start.as_str()),
            ("bucket_width", "1d"),
            ("project_ids[]", account.project()),
            ("group_by[]", "api_key_id"),
            ("limit", limit.as_str()),
        ];
        query.extend(at.after.map(|after| ("page", after)));
        Request::get(account.endpoint().url(path, &query)).bearer(account.credential())
    }

    fn read_usage(
        &self,
        _: &Account,
        report: Report,
        at: At<'_>,
        reply: &Reply,
        sums: &mut Sums<'_>,
    ) -> Result<Option<String>, CallError> {
        if report == Report::Costs {
            return rows(reply, at, sums, |cost: &Cost| {
                let micros = cost.amount.as_ref().and_then(Amount::micros);
                (cost.api_key_id.clone(), vec![(Measure::Cost, micros)])
            });
        }
        rows(reply, at, sums, |used: &Used| {
            // A number below zero is none.
            let count = |number: Option<i64>| number.filter(|number| *number >= 0);
            let mut numbers = vec![
                (Measure::Requests, count(used.num_model_requests)),
                (Measure::InputTokens, count(used.input_tokens)),
            ];
            if report == Report::Completions {
                numbers.push((Measure::OutputTokens, count(used.output_tokens)));
            }
            (used.api_key_id.clone(), numbers)
        })
    }
}

/// Adds each row of a page to the key that it names; what names none was used without a key.
fn rows<R: DeserializeOwned>(
    reply: &Reply,
    at: At<'_>,
    sums: &mut Sums<'_>,
    numbers: impl Fn(&R) -> (Option<String>, Vec<(Measure, Option<i64>)>),
) -> Result<Option<String>, CallError> {
    let page: Page<R> = read(reply)?;
    let today = at.question.today();
    for bucket in &page.data {
        for row in &bucket.results {
            let (Some(key), numbers) = numbers(row) else { continue };
            sums.add(&key, &numbers);
            if bucket.start_time >= today.timestamp() {
                sums.add_to_window(&key, Some(today), &numbers);
            }
        }
    }
    match (page.has_more, page.next) {
        (false, _) => Ok(None),
        (true, Some(next)) => Ok(Some(next)),
        (true, None) => Err(reply.error(ErrorClass::Garbled, "InconsistentList")),
    }
}
