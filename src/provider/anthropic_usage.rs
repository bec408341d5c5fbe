//! Anthropic's report of tokens, by the day and by key.
//!
//! Source: Anthropic's API reference, `GET /v1/organizations/usage_report/messages`. It tells of no requests. Costs are reported by
//! workspace and description, not by key; a beta report that has them by key is not read.

use chrono::DateTime;
use serde::Deserialize;

use super::{
    Account, CallError, ErrorClass,
    anthropic_admin::{AnthropicAdmin, read, with_key, workspace},
    exchange::{Reply, Request, Unsendable},
    usage::{At, Measure, Report, Sums, UsageReports},
};
use crate::api::rfc3339;

#[derive(Deserialize)]
struct Buckets {
    data: Vec<Bucket>,
    has_more: bool,
    #[serde(default)]
    next_page: Option<String>,
}

#[derive(Deserialize)]
struct Bucket {
    starting_at: String,
    results: Vec<Used>,
}

/// What was read from the cache, or written to it, are tokens that were sent too.
#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    api_key_id: Option<String>,
    #[serde(default)]
    uncached_input_tokens: Option<i64>,
    #[serde(default)]
    cache_read_input_tokens: Option<i64>,
    #[serde(default)]
    cache_creation: Option<CacheCreation>,
    #[serde(default)]
    output_tokens: Option<i64>,
}

#[derive(Default, Deserialize)]
struct CacheCreation {
    #[serde(default)]
    ephemeral_1h_input_tokens: i64,
    #[serde(default)]
    ephemeral_5m_input_tokens: i64,
}

impl Used {
    /// None: a part of it is missing, or no number of tokens.
    fn input(&self) -> Option<i64> {
        let created = self.cache_creation.as_ref();
        let parts = [
            self.uncached_input_tokens?,
            self.cache_read_input_tokens.unwrap_or_default(),
            created.map_or(0, |created| created.ephemeral_1h_input_tokens),
            created.map_or(0, |created| created.ephemeral_5m_input_tokens),
        ];
        parts
            .iter()
            .all(|part| *part >= 0)
            .then(|| parts.iter().fold(0, |sum: i64, n| sum.saturating_add(*n)))
    }
}

impl UsageReports for AnthropicAdmin {
    fn reports(&self) -> &'static [Report] {
        &[Report::Messages]
    }

    fn days_on_a_page(&self, _: Report) -> Option<u16> {
        Some(31)
    }

    fn usage_request(&self, account: &Account, report: Report, at: At<'_>) -> Result<Request, Unsendable> {
        if report != Report::Messages {
            return Err(Unsendable);
        }
        let (start, limit) = (rfc3339(at.question.first_day()), at.days.to_string());
        let mut query = vec![
            ("starting_at", start.as_str()),
            ("bucket_width", "1d"),
            ("group_by[]", "api_key_id"),
            ("limit", limit.as_str()),
        ];
        query.extend(workspace(account).map(|workspace| ("workspace_ids[]", workspace)));
        query.extend(at.after.map(|after| ("page", after)));
        let path = ["v1", "organizations", "usage_report", "messages"];
        with_key(Request::get(account.endpoint().url(&path, &query)), account)
    }

    fn read_usage(
        &self,
        _: &Account,
        _: Report,
        at: At<'_>,
        reply: &Reply,
        sums: &mut Sums<'_>,
    ) -> Result<Option<String>, CallError> {
        let Buckets { data, has_more, next_page } = read(reply)?;
        let today = at.question.today();
        for bucket in &data {
            let begins = DateTime::parse_from_rfc3339(&bucket.starting_at)
                .map_err(|_| reply.error(ErrorClass::Garbled, "NoTime"))?;
            for row in &bucket.results {
                let Some(key) = &row.api_key_id else { continue };
                let output = row.output_tokens.filter(|tokens| *tokens >= 0);
                let numbers = [(Measure::InputTokens, row.input()), (Measure::OutputTokens, output)];
                sums.add(key, &numbers);
                if begins >= today {
                    sums.add_to_window(key, Some(today), &numbers);
                }
            }
        }
        match (has_more, next_page) {
            (false, _) => Ok(None),
            (true, Some(next)) => Ok(Some(next)),
            (true, None) => Err(reply.error(ErrorClass::Garbled, "InconsistentList")),
        }
    }
}
