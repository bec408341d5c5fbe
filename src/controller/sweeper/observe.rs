//! All reads of a sweep, in the order that its safety rests on: the provider's list first, then the ledgers. The list is an
//! argument of the reading of the ledgers, so that they cannot be read before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube::ResourceExt;

use super::decide::{Crowd, Key, Observed, Sight};
use crate::controller::context::Ctx;
use crate::domain::names::{MintName, install_code, ledger_name, lineage_code};
use crate::ledger::{AccountRecord, Ledger, LedgerError, Listed, Summary};
use crate::provider::{Account, CallError, Listing, ProviderKeyId};

/// So many ledgers are read one by one; more by one list of all.
const ONE_BY_ONE: usize = 50;

/// Keys that were found right: the ledger's namespace, name and version, by id.
pub type Right = BTreeMap<String, (String, String, String)>;

/// What a process remembers of an account between two sweeps.
#[derive(Default)]
pub struct Memory {
    /// Ids that the sweep before found to be nobody's.
    pub orphans: BTreeSet<String>,
    /// See [`Right`].
    pub right: Right,
}

/// Keys of this installation in a complete list.
pub struct Ours {
    keys: Vec<Key>,
    told_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// Lists the account, every page of it.
pub async fn list(ctx: &Ctx, account: &Account) -> Result<Ours, CallError> {
    Ok(ours(ctx.providers.list_with_time(account).await?, &ctx.install.id))
}

/// Leaves out everything that does not bear this installation's names.
pub fn ours(listing: Listing, install: &str) -> Ours {
    let code = install_code(install);
    // Without a clock of its own the provider is at least as late as the newest thing that it tells of.
    let newest = listing.keys.iter().filter_map(|key| key.created_at).max();
    let keys = listing.keys.into_iter().filter_map(|key| {
        let name: MintName = key.name.parse().ok()?;
        let id = key.id.as_str().to_owned();
        (name.install == code).then_some(Key { id, name, created: key.created_at })
    });
    Ours { keys: keys.collect(), told_at: listing.told_at.or(newest) }
}

/// Reads what the listed keys need: nothing for those that were found right by a ledger that has not changed since.
pub async fn observe(
    ctx: &Ctx,
    listed: Ours,
    record: &AccountRecord,
    memory: &mut Memory,
) -> Result<Observed, LedgerError> {
    let total = listed.keys.len();
    let right = std::mem::take(&mut memory.right);
    let unchanged = |key: &Key| {
        right.get(&key.id).filter(|(namespace, name, version)| {
            let shown = ctx.index.secret(&ctx.operator_namespace, &ledger_name(namespace, name));
            shown.is_some_and(|shown| !shown.gone && *shown.resource_version == **version)
        })
    };
    let mut keys = Vec::new();
    let mut told: Option<Right> = None;
    for key in listed.keys {
        let place = unchanged(&key).or_else(|| told.get_or_insert_with(|| told_by_status(ctx)).get(&key.id));
        match place.cloned() {
            Some(place) => drop(memory.right.insert(key.id, place)),
            None => keys.push(key),
        }
    }
    let wanted: BTreeSet<String> = keys.iter().map(|key| key.name.lineage.clone()).collect();
    let (ledgers, blind) = ledgers(ctx, &wanted).await?;
    // An LLMKey that cannot be seen may claim what no ledger holds.
    let blind = blind || !ctx.sight.is_whole();
    let (mut claimed, mut living) = (BTreeSet::new(), BTreeSet::new());
    if wanted.iter().any(|lineage| !ledgers.contains_key(lineage)) {
        for key in ctx.stores.keys.state() {
            living.extend(key.uid().map(|uid| lineage_code(&uid)));
            let Ok(key) = &key.0 else { continue };
            let versions = key.status.iter().flat_map(|status| &status.versions);
            claimed.extend(versions.filter_map(|version| version.provider_key_id.clone()));
        }
    }
    Ok(Observed {
        keys,
        total,
        provider_now: listed.told_at,
        ledgers,
        blind,
        claimed,
        living,
        before: memory.orphans.clone(),
        crowd: Crowd::default(),
        frozen: record.frozen.is_some(),
        acknowledged: record.known.iter().cloned().collect(),
    })
}

/// What statuses tell that were written from the ledgers as they stand now: that a key is held needs no other proof, so a
/// restart reads no ledger for it.
fn told_by_status(ctx: &Ctx) -> Right {
    let mut told = Right::new();
    for key in ctx.stores.keys.state() {
        let Ok(key) = &key.0 else { continue };
        let (Some(status), Some(namespace)) = (&key.status, key.namespace()) else { continue };
        let Some(version) = status.observed.as_ref().and_then(|o| o.ledger.clone()) else { continue };
        let shown = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&namespace, &key.name_any()));
        // A ledger that was put back tells of another version than status, which goes on telling of the newer one.
        let same =
            shown.filter(|shown| !shown.gone && *shown.resource_version == *version).is_some_and(|shown| {
                let summary = shown.summary.and_then(|text| serde_json::from_str::<Summary>(&text).ok());
                summary.is_some_and(|summary| summary.version == status.current_version)
            });
        if !same {
            continue;
        }
        for v in status.versions.iter().filter(|v| !["Revoked", "Abandoned"].contains(&v.state.as_str())) {
            let Some(id) = v.provider_key_id.as_deref().and_then(|id| ProviderKeyId::parse(id).ok()) else {
                continue;
            };
            told.insert(id.handle().to_owned(), (namespace.clone(), key.name_any(), version.clone()));
        }
    }
    told
}

/// The ledgers of the wanted lineages by quorum, and whether there is one that does not tell its lineage.
async fn ledgers(
    ctx: &Ctx,
    wanted: &BTreeSet<String>,
) -> Result<(BTreeMap<String, Sight>, bool), LedgerError> {
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return Ok((found, false));
    }
    if wanted.len() <= ONE_BY_ONE {
        let places = places(ctx);
        for lineage in wanted {
            let Some((namespace, name)) = places.get(lineage) else { continue };
            match ctx.ledgers.get(namespace, name).await {
                Ok(Some(ledger)) if lineage_code(&ledger.record.lineage) == *lineage => {
                    found.insert(lineage.clone(), Sight::Present(Box::new(ledger)));
                }
                Ok(_) => {}
                Err(LedgerError::Unreadable(_)) => drop(found.insert(lineage.clone(), Sight::Unreadable)),
                Err(error) => return Err(error),
            }
        }
    }
    if wanted.iter().all(|lineage| found.contains_key(lineage)) {
        return Ok((found, false));
    }
    // Where the watches show none, only all ledgers together tell that there is none.
    let mut blind = false;
    for Listed { lineage, ledger } in ctx.ledgers.all().await? {
        let Some(lineage) = lineage.map(|lineage| lineage_code(&lineage)) else {
            blind = true;
            continue;
        };
        if wanted.contains(&lineage) {
            found.insert(lineage, sight(ledger));
        }
    }
    Ok((found, blind))
}

fn sight(ledger: Option<Ledger>) -> Sight {
    ledger.map_or(Sight::Unreadable, |ledger| Sight::Present(Box::new(ledger)))
}

/// Where the watches show a lineage's ledger: a hint that saves the list of all.
fn places(ctx: &Ctx) -> HashMap<String, (String, String)> {
    let summaries = ctx.index.summaries(&ctx.operator_namespace);
    summaries.into_iter().map(|s| (lineage_code(&s.lineage), (s.namespace, s.name))).collect()
}
