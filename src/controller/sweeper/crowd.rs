//! How many LLMKeys of an account were deleted, or turned invalid, within a while: counted in what the watches show. The while
//! may be any: a crowd that nobody looked at in its time, with the provider or the operator away, is still one.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::decide::Crowd;
use crate::api::{LLMKey, parse_rfc3339};
use crate::controller::context::Ctx;
use crate::domain::health::HealthState;
use crate::ledger::Summary;

/// Counts for the account that the LLMProviders name as `project`, what happened after `from`.
pub fn count(ctx: &Ctx, providers: &BTreeSet<String>, project: &str, from: Option<DateTime<Utc>>) -> Crowd {
    let window = TimeDelta::from_std(ctx.timings.crowd_window).unwrap_or(TimeDelta::MAX);
    let accounts: BTreeSet<String> =
        providers.iter().map(|provider| format!("{provider}/{project}")).collect();
    let keys = ctx.stores.keys.state();
    let keys = keys.iter().filter_map(|key| key.0.as_ref().ok()).filter(|key| uses(key, providers));
    let counts = While { since: from.unwrap_or_default(), window };
    of(&ctx.index.summaries(&ctx.operator_namespace), keys, &accounts, counts)
}

fn uses(key: &LLMKey, providers: &BTreeSet<String>) -> bool {
    key.spec.provider_ref.as_ref().is_some_and(|reference| providers.contains(&reference.name))
}

fn of<'a>(
    ledgers: &[Summary],
    keys: impl Iterator<Item = &'a LLMKey>,
    accounts: &BTreeSet<String>,
    counts: While,
) -> Crowd {
    let mut total = 0;
    let mut deleted = Vec::new();
    for ledger in ledgers {
        if ledger.account.as_ref().is_some_and(|account| accounts.contains(account)) {
            total += 1;
            deleted.extend(ledger.deleted_at);
        }
    }
    let turned_invalid = |key: &LLMKey| {
        let health = key.status.as_ref()?.health.as_ref()?;
        parse_rfc3339(&health.since).filter(|_| health.state == HealthState::Invalid.as_str())
    };
    let invalid = keys.filter_map(turned_invalid).collect();
    Crowd { total, deleted: counts.most(deleted), invalid: counts.most(invalid) }
}

/// What counts together.
#[derive(Clone, Copy)]
struct While {
    /// What was acknowledged before counts no more.
    since: DateTime<Utc>,
    /// Its length.
    window: TimeDelta,
}

impl While {
    /// The most of the events that lie within one window.
    fn most(self, mut events: Vec<DateTime<Utc>>) -> usize {
        events.retain(|at| *at > self.since);
        events.sort_unstable();
        let together = |(index, first): (usize, &DateTime<Utc>)| {
            events.partition_point(|at| *at - *first < self.window) - index
        };
        events.iter().enumerate().map(together).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::rfc3339;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn only_what_is_the_accounts_and_recent_counts() {
        let ledger = |account: &str, deleted: Option<i64>| -> Summary {
            let mut summary =
                json!({"namespace": "team", "name": "chat", "lineage": "uid", "account": account});
            if let Some(seconds) = deleted {
                summary["deletedAt"] = json!(at(seconds));
            }
            serde_json::from_value(summary).unwrap()
        };
        let ledgers = [
            ledger("acme/proj_1", None),
            ledger("acme/proj_1", Some(1)),
            ledger("acme/proj_1", Some(0)),
            ledger("acme/proj_2", Some(1)),
            ledger("beta/proj_1", Some(1)),
        ];
        let key = |state: &str, seconds: i64| -> LLMKey {
            serde_json::from_value(json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat"},
                "spec": {"providerRef": {"name": "acme"}, "source": {"mint": {}}},
                "status": {"health": {"state": state, "since": rfc3339(at(seconds)), "history": []}},
            }))
            .unwrap()
        };
        let keys = [key("Invalid", 5), key("Invalid", -5), key("ProviderDown", 5), key("Valid", 5)];
        let accounts = BTreeSet::from(["acme/proj_1".to_owned()]);
        let counts = While { since: at(0), window: TimeDelta::seconds(10) };
        let crowd = of(&ledgers, keys.iter(), &accounts, counts);
        assert_eq!(crowd, Crowd { total: 3, deleted: 1, invalid: 1 });
    }

    #[test]
    fn a_crowd_is_one_whenever_it_is_looked_at() {
        let counts = While { since: at(0), window: TimeDelta::seconds(10) };
        let most = |seconds: &[i64]| counts.most(seconds.iter().map(|s| at(*s)).collect());
        assert_eq!(most(&[]), 0);
        assert_eq!(most(&[1, 11, 21, 31]), 1, "one after the other");
        assert_eq!(most(&[31, 1, 25, 22, 60]), 3, "in any order, and long ago");
        assert_eq!(most(&[-1, 0, 1]), 1, "what was acknowledged counts no more");
    }
}
