//! What keys have used: each account is asked once an hour, by calls that tell of all its keys. Nothing is asked about single keys,
//! nothing by a reconcile, and nothing where no key is known.
//!
//! An account's hour begins at its own time, from the clock alone, so that accounts are spread, and a restart neither asks at once nor
//! loses its turn. A reading replaces the one before as a whole; one that fails replaces nothing. Readings are held in memory, for
//! keys that statuses name; what was read stands in the statuses, where a restart finds it.

mod readings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::ResourceExt;
use tokio::time::MissedTickBehavior;

use super::context::Ctx;
use super::index::{Name, name};
use super::sweeper::{Place, places};
use crate::api::{LLMKey, VersionStatus, from_k8s, parse_rfc3339};
use crate::domain::health::last_slot;
use crate::domain::lifecycle::VersionState;
use crate::domain::names::slot_offset;
use crate::domain::timings::Timings;
use crate::ledger::AccountId;
use crate::provider::{CallError, Capabilities, Capability, ProviderKeyId, UsageQuestion};
use crate::telemetry::metrics::ReadResult;
pub use readings::{Readings, of_keys};

/// How far back providers are asked that tell usage by the day.
const LONGEST: TimeDelta = TimeDelta::days(180);

/// How often it is looked whether an account's time has come, in parts of the interval: each look reads the admin credentials.
const LOOKS: u32 = 12;

/// Asks each account at its time. Never ends.
pub async fn run(ctx: Arc<Ctx>) {
    // The times that were served, or passed before this process began.
    let mut served: BTreeMap<AccountId, DateTime<Utc>> = BTreeMap::new();
    let mut under_way: BTreeSet<AccountId> = BTreeSet::new();
    let mut readings = FuturesUnordered::new();
    let mut round = tokio::time::interval(ctx.timings.usage_interval / LOOKS);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(id) = readings.next() => drop(under_way.remove(&id)),
            _ = round.tick() => {
                if !ctx.leader.is_leader() {
                    continue;
                }
                let places = places(&ctx).await;
                served.retain(|id, _| places.contains_key(id));
                ctx.usage.retain(|id| places.contains_key(id));
                for place in places.into_values().filter(|place| place.answers && reports(&place.id)) {
                    let slot = slot(&place.id, ctx.clock.now(), &ctx.timings);
                    let before = *served.entry(place.id.clone()).or_insert(slot);
                    if before < slot && under_way.insert(place.id.clone()) {
                        served.insert(place.id.clone(), slot);
                        readings.push(visit(Arc::clone(&ctx), place));
                    }
                }
            }
        }
    }
}

fn reports(account: &AccountId) -> bool {
    Capabilities::of(account.r#type, true).has(Capability::Usage)
}

/// When the account was to be asked last.
fn slot(account: &AccountId, now: DateTime<Utc>, timings: &Timings) -> DateTime<Utc> {
    let interval = timings.usage_interval;
    last_slot(now, interval, slot_offset(&account.ledger_name(), interval))
}

async fn visit(ctx: Arc<Ctx>, place: Place) -> AccountId {
    let ended = super::contained(async {
        read(&ctx, &place).await;
        Ok(())
    });
    if let Err(error) = ended.await {
        tracing::warn!(project = place.id.project, %error, "what the account's keys have used could not be read");
    }
    place.id
}

async fn read(ctx: &Ctx, place: &Place) {
    let Wanted { question, ids } = wanted(ctx, place);
    if !question.keys.is_empty() {
        match ctx.providers.usage(&place.account, &question).await {
            Ok(reading) => {
                ctx.metrics.usage_read(place.id.r#type, ReadResult::Read);
                let before = ctx.usage.replace(&place.id, reading);
                let now = ctx.usage.of(&place.id);
                for (key, ids) in &ids {
                    // After a restart nobody has seen any: a threshold may be reached that status tells of already.
                    let known =
                        |reading: &Option<_>| reading.as_deref().map(|reading| of_keys(reading, ids).keys);
                    if before.is_none() || known(&before) != known(&now) {
                        ctx.woken_by.key(key);
                    }
                }
            }
            Err(error) => failed(ctx, place, &error),
        }
    }
}

/// The reading before stays as it is, with its time.
fn failed(ctx: &Ctx, place: &Place, error: &CallError) {
    error.log();
    ctx.metrics.usage_read(place.id.r#type, ReadResult::Failed);
    tracing::warn!(
        project = place.id.project,
        %error,
        "what the account's keys have used could not be read; what was read before stays"
    );
}

/// What to ask an account about, and whose keys they are.
struct Wanted {
    question: UsageQuestion,
    /// Ids as ledgers have them, by `LLMKey`.
    ids: Vec<(Name, Vec<String>)>,
}

fn wanted(ctx: &Ctx, place: &Place) -> Wanted {
    let now = ctx.clock.now();
    let mut question = UsageQuestion { now, since: now, keys: BTreeSet::new() };
    let mut all = Vec::new();
    for key in ctx.stores.keys.state() {
        let Ok(key) = &key.0 else { continue };
        if !key.spec.provider_ref.as_ref().is_some_and(|at| place.providers.contains(&at.name)) {
            continue;
        }
        let versions: Vec<&VersionStatus> = counted(key, now, &ctx.timings).collect();
        let ids: Vec<String> =
            versions.iter().filter_map(|version| version.provider_key_id.clone()).collect();
        if ids.is_empty() {
            continue;
        }
        question.since = versions.iter().filter_map(|v| published(v)).fold(question.since, DateTime::min);
        if let Some(created) = key.creation_timestamp() {
            question.since = question.since.min(from_k8s(&created));
        }
        let reported = ids.iter().filter_map(|id| ProviderKeyId::parse(id).ok());
        question.keys.extend(reported.map(|id| Box::from(id.in_reports())));
        all.push((name(&key.namespace().unwrap_or_default(), &key.name_any()), ids));
    }
    question.since = question.since.max(now - LONGEST);
    Wanted { question, ids: all }
}

fn published(version: &VersionStatus) -> Option<DateTime<Utc>> {
    version.published_at.as_deref().and_then(parse_rfc3339)
}

/// Versions whose keys may have used something since they were last asked about: reports are late, so one that was revoked is asked
/// about for a while.
fn counted<'a>(
    key: &'a LLMKey,
    now: DateTime<Utc>,
    timings: &Timings,
) -> impl Iterator<Item = &'a VersionStatus> + use<'a> {
    let settled = now - TimeDelta::from_std(timings.usage_settles).unwrap_or(TimeDelta::MAX);
    let versions = key.status.iter().flat_map(|status| &status.versions);
    versions.filter(move |version| {
        let revoked = version.revoked_at.as_deref().and_then(parse_rfc3339);
        version.provider_key_id.is_some()
            && version.state != VersionState::Abandoned.as_str()
            && revoked.is_none_or(|at| at > settled)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::ProviderType;

    #[test]
    fn an_accounts_hour_is_its_own_and_the_clock_alone_tells_it() {
        let account = |project: &str| AccountId {
            r#type: ProviderType::OpenAI,
            host: "api.openai.com:443".into(),
            project: project.into(),
        };
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let timings = Timings::default();
        let of = |project: &str, seconds: i64| {
            slot(&account(project), now + TimeDelta::seconds(seconds), &timings)
        };
        let first = of("proj_1", 0);
        assert!(first <= now && now - first < TimeDelta::hours(1));
        assert_eq!(of("proj_1", 0), first, "a restart finds the same");
        assert_eq!(of("proj_1", 3600), first + TimeDelta::hours(1));
        assert_ne!(of("proj_2", 0), first, "another account has another time");
    }

    #[test]
    fn keys_without_an_id_given_up_or_revoked_long_ago_are_not_asked_about() {
        let version = |n: i32, state: &str, origin: &str, revoked: Option<&str>| {
            json!({
                "version": n, "state": state, "origin": origin, "reason": "Initial", "revokedAt": revoked,
                "providerKeyID": (n > 0).then(|| format!("id-{n}")),
            })
        };
        let key: LLMKey = serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": "chat"},
            "spec": {"providerRef": {"name": "acme"}, "source": {"mint": {}}},
            "status": {"versions": [
                version(6, "Current", "Minted", None),
                version(5, "Overlap", "Minted", None),
                version(4, "Revoked", "Minted", Some("2027-01-02T00:00:00Z")),
                version(3, "Revoked", "Minted", Some("2027-01-01T00:00:00Z")),
                version(2, "Abandoned", "Minted", None),
                version(1, "Retained", "Supplied", None),
                version(0, "Retained", "Supplied", None),
            ]},
        }))
        .unwrap();
        let now = parse_rfc3339("2027-01-03T12:00:00Z").unwrap();
        let found: Vec<i32> = counted(&key, now, &Timings::default()).map(|v| v.version).collect();
        assert_eq!(found, [6, 5, 4, 1]);
    }
}
