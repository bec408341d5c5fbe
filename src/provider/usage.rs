//! What keys have used: the reports of an account, read page by page and summed up for the keys that are asked about.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, NaiveTime, Utc};

use super::{
    Account, CallError, ErrorClass, ProviderKeyId, Providers,
    client::{admin, scrubbed},
    exchange::{Reply, Request, Unsendable},
};
use crate::domain::usage::{Amounts, KeyUsage, Micros, Reading, Window};

/// Pages of a report that are read before it counts as endless.
const MAX_PAGES: usize = 400;

/// What is asked: for which keys, and since when.
#[derive(Clone, Debug)]
pub struct UsageQuestion {
    /// The time.
    pub now: DateTime<Utc>,
    /// Days before this one are not asked for.
    pub since: DateTime<Utc>,
    /// Ids of the keys, as [`ProviderKeyId::in_reports`] has them.
    pub keys: BTreeSet<Box<str>>,
}

/// The beginning of a time's day.
pub(super) fn midnight(time: DateTime<Utc>) -> DateTime<Utc> {
    time.date_naive().and_time(NaiveTime::MIN).and_utc()
}

impl UsageQuestion {
    /// The first day that is asked for.
    pub(super) fn first_day(&self) -> DateTime<Utc> {
        midnight(self.since.min(self.now))
    }

    /// The current day.
    pub(super) fn today(&self) -> DateTime<Utc> {
        midnight(self.now)
    }

    fn days(&self) -> u16 {
        let days = (self.today() - self.first_day()).num_days().saturating_add(1);
        u16::try_from(days).unwrap_or(u16::MAX)
    }
}

/// A series of pages that tells something about usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Report {
    /// OpenAI: requests and tokens of models that answer.
    Completions,
    /// OpenAI: requests and tokens of models that embed.
    Embeddings,
    /// OpenAI: costs.
    Costs,
    /// Anthropic: tokens of messages.
    Messages,
    /// The list of keys, whose rows tell it.
    Keys,
}

/// Where in a report to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    /// What was asked.
    pub(super) question: &'a UsageQuestion,
    /// Days on a page at most.
    pub(super) days: u16,
    /// Where the page begins, as the one before said.
    pub(super) after: Option<&'a str>,
}

/// Where a provider reports usage by key.
pub(super) trait UsageReports: Sync {
    /// The reports that together tell it.
    fn reports(&self) -> &'static [Report];
    /// Days on a page of the report at most; none for a report that is not by the day.
    fn days_on_a_page(&self, report: Report) -> Option<u16>;
    fn usage_request(&self, account: &Account, report: Report, at: At<'_>) -> Result<Request, Unsendable>;
    /// Adds a page up. Returns where the next one begins, if there is one.
    fn read_usage(
        &self,
        account: &Account,
        report: Report,
        at: At<'_>,
        reply: &Reply,
        sums: &mut Sums<'_>,
    ) -> Result<Option<String>, CallError>;
}

/// A sum of numbers of which some may be missing: then it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sum {
    /// There were none.
    #[default]
    Empty,
    Known(i64),
    Unknown,
}

impl Sum {
    fn add(&mut self, number: Option<i64>) {
        *self = match (*self, number) {
            (Self::Empty, Some(number)) => Self::Known(number),
            (Self::Known(sum), Some(number)) => Self::Known(sum.saturating_add(number)),
            _ => Self::Unknown,
        };
    }

    fn join(&mut self, other: Self) {
        match other {
            Self::Empty => {}
            Self::Known(number) => self.add(Some(number)),
            Self::Unknown => *self = Self::Unknown,
        }
    }

    const fn known(self) -> Option<i64> {
        if let Self::Known(sum) = self { Some(sum) } else { None }
    }
}

/// A number that a provider may report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Requests,
    InputTokens,
    OutputTokens,
    /// In millionths of a dollar.
    Cost,
}

type Row = [Sum; 4];

fn amounts(row: &Row) -> Amounts {
    let of = |measure: Measure| row[measure as usize].known();
    Amounts {
        requests: of(Measure::Requests),
        input_tokens: of(Measure::InputTokens),
        output_tokens: of(Measure::OutputTokens),
        cost: of(Measure::Cost).map(Micros),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    total: Row,
    window: Row,
    window_start: Option<DateTime<Utc>>,
}

/// Sums by key, of the keys that are asked about and no others.
pub(super) struct Sums<'a> {
    wanted: &'a BTreeSet<Box<str>>,
    found: BTreeMap<&'a str, Counted>,
}

impl<'a> Sums<'a> {
    pub(super) const fn new(wanted: &'a BTreeSet<Box<str>>) -> Self {
        Self { wanted, found: BTreeMap::new() }
    }

    fn of(&mut self, key: &str) -> Option<&mut Counted> {
        let key = self.wanted.get(key)?;
        Some(self.found.entry(key).or_default())
    }

    /// Adds numbers to a key's total.
    pub(super) fn add(&mut self, key: &str, numbers: &[(Measure, Option<i64>)]) {
        if let Some(counted) = self.of(key) {
            for (measure, number) in numbers {
                counted.total[*measure as usize].add(*number);
            }
        }
    }

    /// Adds numbers to what was used in the current period.
    pub(super) fn add_to_window(
        &mut self,
        key: &str,
        start: Option<DateTime<Utc>>,
        numbers: &[(Measure, Option<i64>)],
    ) {
        if let Some(counted) = self.of(key) {
            counted.window_start = start;
            for (measure, number) in numbers {
                counted.window[*measure as usize].add(*number);
            }
        }
    }

    fn join(&mut self, other: Self) {
        for (key, counted) in other.found {
            let own = self.found.entry(key).or_default();
            own.window_start = own.window_start.or(counted.window_start);
            for (sum, other) in own.total.iter_mut().zip(counted.total) {
                sum.join(other);
            }
            for (sum, other) in own.window.iter_mut().zip(counted.window) {
                sum.join(other);
            }
        }
    }

    /// What is known of each key of which the provider told anything.
    pub(super) fn told(self, as_of: DateTime<Utc>) -> Reading {
        let used = |counted: &Counted| {
            let window = Window { start: counted.window_start, amounts: amounts(&counted.window) };
            let window = Some(window).filter(|window| !window.amounts.is_idle());
            KeyUsage { total: amounts(&counted.total), window }
        };
        let keys = self.found.iter().map(|(key, counted)| ((*key).into(), used(counted)));
        Reading { as_of, keys: keys.collect() }
    }
}

impl ProviderKeyId {
    /// The key as reports of usage name it: OpenAI by the key's own id, others by the only one that it has.
    pub fn in_reports(&self) -> &str {
        self.key().unwrap_or_else(|| self.handle())
    }
}

impl Providers {
    /// What keys of the account have used, by every report that the provider has; an error if one of them fails: never a part.
    pub async fn usage(&self, account: &Account, question: &UsageQuestion) -> Result<Reading, CallError> {
        let Some(reports) = admin(account)?.usage() else {
            return Err(CallError::local(ErrorClass::BadRequest, "NotSupported"));
        };
        let mut sums = Sums::new(&question.keys);
        for report in reports.reports() {
            sums.join(self.report(account, reports, *report, question).await?);
        }
        Ok(sums.told(question.now))
    }

    /// One report. A page that is too long to be read is asked for anew with fewer days, from the beginning: where a page begins may
    /// depend on how long pages are.
    async fn report<'a>(
        &self,
        account: &Account,
        reports: &dyn UsageReports,
        report: Report,
        question: &'a UsageQuestion,
    ) -> Result<Sums<'a>, CallError> {
        let mut days = reports.days_on_a_page(report).map_or(1, |most| most.min(question.days()));
        loop {
            match self.pages(account, reports, report, question, days).await {
                Err(error) if error.code == "ReplyTooLong" && days > 1 => days /= 2,
                other => return other,
            }
        }
    }

    async fn pages<'a>(
        &self,
        account: &Account,
        reports: &dyn UsageReports,
        report: Report,
        question: &'a UsageQuestion,
        days: u16,
    ) -> Result<Sums<'a>, CallError> {
        let mut sums = Sums::new(&question.keys);
        let mut cursors = HashSet::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let at = At { question, days, after: after.as_deref() };
            let reply =
                self.call("usage", account, |account| reports.usage_request(account, report, at)).await?;
            let next = reports
                .read_usage(account, report, at, &reply, &mut sums)
                .map_err(|error| scrubbed(error, account))?;
            let Some(next) = next else { return Ok(sums) };
            if !cursors.insert(next.clone()) {
                return Err(scrubbed(reply.error(ErrorClass::Garbled, "EndlessReport"), account));
            }
            after = Some(next);
        }
        Err(CallError::local(ErrorClass::Garbled, "EndlessReport"))
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
