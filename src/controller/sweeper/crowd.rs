//! How many LLMKeys of an account were deleted, or turned invalid, within a while: counted in what the watches show.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::decide::Crowd;
use crate::api::{LLMKey, parse_rfc3339};
use crate::controller::context::Ctx;
use crate::domain::health::HealthState;
use crate::ledger::Summary;

/// Counts for the account that the LLMProviders name as `project`, since `from` at the earliest.
pub fn count(ctx: &Ctx, providers: &BTreeSet<String>, project: &str, from: Option<DateTime<Utc>>) -> Crowd {
    let window = chrono::Duration::from_std(ctx.timings.crowd_window).unwrap_or(chrono::Duration::MAX);
    let since = from.max(Some(ctx.clock.now() - window)).unwrap_or_default();
    let accounts: BTreeSet<String> =
        providers.iter().map(|provider| format!("{provider}/{project}")).collect();
    let keys = ctx.stores.keys.state();
    let keys = keys.iter().filter_map(|key| key.0.as_ref().ok()).filter(|key| uses(key, providers));
    of(&ctx.index.summaries(&ctx.operator_namespace), keys, &accounts, since)
}

fn uses(key: &LLMKey, providers: &BTreeSet<String>) -> bool {
    key.spec.provider_ref.as_ref().is_some_and(|reference| providers.contains(&reference.name))
}

fn of<'a>(
    ledgers: &[Summary],
    keys: impl Iterator<Item = &'a LLMKey>,
    accounts: &BTreeSet<String>,
    since: DateTime<Utc>,
) -> Crowd {
    let mut crowd = Crowd::default();
    for ledger in ledgers {
        if ledger.account.as_ref().is_some_and(|account| accounts.contains(account)) {
            crowd.total += 1;
            crowd.deleted += usize::from(ledger.deleted_at.is_some_and(|at| at > since));
        }
    }
    let turned = |key: &LLMKey| {
        let health = key.status.as_ref()?.health.as_ref()?;
        let at = parse_rfc3339(&health.since)?;
        Some(health.state == HealthState::Invalid.as_str() && at > since)
    };
    crowd.invalid = keys.filter(|key| turned(key) == Some(true)).count();
    crowd
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
        let crowd = of(&ledgers, keys.iter(), &accounts, at(0));
        assert_eq!(crowd, Crowd { total: 3, deleted: 1, invalid: 1 });
    }
}
