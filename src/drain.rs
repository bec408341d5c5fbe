//! `llmkey-operator drain`: what an uninstallation waits for, and what it leaves behind.

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};

use crate::api::{FINALIZER, LLMKey, rfc3339};
use crate::cli::DrainArgs;
use crate::domain::lifecycle::{Origin, VersionState};
use crate::kube_ext::clock::Clock;
use crate::kube_ext::connect::{ConnectError, connect};
use crate::ledger::{Record, Version, all_unverified};

/// Time between two looks at the ledgers.
const PACE: Duration = Duration::from_secs(2);
/// LLMKeys in one page of a list.
const PAGE: u32 = 500;

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Standard output failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

/// What remains to be done for one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Namespace and name of the LLMKey.
    pub key: String,
    /// The version's number.
    pub version: i32,
    /// What is under way.
    pub work: Work,
    /// Where, in words: the LLMProvider and what tells the key from others there.
    pub place: String,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A key is being made; what came of it is not on record yet.
    Minting,
    /// Its revocation is on record and not confirmed yet.
    Revoking,
    /// Its LLMKey is gone: it is to be revoked from then on.
    RevokeFrom(DateTime<Utc>),
}

impl Unfinished {
    /// Whether it can be done until then.
    fn in_time(&self, until: DateTime<Utc>) -> bool {
        match self.work {
            Work::Minting | Work::Revoking => true,
            Work::RevokeFrom(from) => from <= until,
        }
    }

    fn told(&self) -> String {
        let work = match self.work {
            Work::Minting => "its key is being made".to_owned(),
            Work::Revoking => "its key is being revoked".to_owned(),
            Work::RevokeFrom(from) => {
                format!("its LLMKey is gone, its key is to be revoked from {}", rfc3339(from))
            }
        };
        format!("{} version {}: {work}; {}", self.key, self.version, self.place)
    }
}

/// What a ledger holds that only an operator can finish.
pub fn unfinished(record: &Record) -> Vec<Unfinished> {
    let released = record.released.as_ref().filter(|_| record.owner.is_none());
    let work = |version: &Version| match (version.state, released) {
        (VersionState::Retiring, _) => Some(Work::Revoking),
        (VersionState::Intent, None) => Some(Work::Minting),
        // What came of a mint is found out then, and a key that nobody was given is never left.
        (VersionState::Intent | VersionState::Spare, Some(released)) => {
            Some(Work::RevokeFrom(released.revoke_not_before))
        }
        (state, Some(released))
            if state.protects_key() && version.origin == Origin::Minted && !record.retain_on_delete =>
        {
            Some(Work::RevokeFrom(released.revoke_not_before))
        }
        _ => None,
    };
    let one = |version: &Version| {
        let work = work(version)?;
        let key = format!("{}/{}", record.namespace, record.name);
        Some(Unfinished { key, version: version.version, work, place: place(version) })
    };
    record.versions.iter().filter_map(one).collect()
}

fn place(version: &Version) -> String {
    let mut words = Vec::new();
    if let Some(account) = &version.account {
        words.push(format!("LLMProvider {} ({})", account.provider, account.r#type.as_str()));
    }
    if let Some(id) = &version.provider_key_id {
        words.push(format!("id {id}"));
    }
    if let Some(name) = &version.mint_name {
        words.push(format!("name {name}"));
    }
    if let Some(last_four) = version.key.as_ref().map(|key| &key.last_four).filter(|l| !l.is_empty()) {
        words.push(format!("last four {last_four}"));
    }
    words.join(", ")
}

/// Waits until nothing is left that can be done in time. False: the release must not go yet.
///
/// A provider or an API server that does not answer holds nothing up for longer than the time-out.
pub async fn drain(args: &DrainArgs, clock: Clock) -> Result<bool, DrainError> {
    let client = connect(args.kubeconfig.as_deref(), clock).await?;
    let mut out = io::stdout();
    if args.refuse_while_keys_exist && keys_exist(&client, &mut out).await? {
        return Ok(false);
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &args.operator_namespace);
    let until = clock.now() + args.timeout;
    let mut told = String::new();
    let left = loop {
        let (line, left) = match all_unverified(&secrets).await {
            Ok(records) => {
                let left: Vec<Unfinished> = records.iter().flat_map(unfinished).collect();
                let awaited = left.iter().filter(|one| one.in_time(until)).count();
                if awaited == 0 {
                    break Some(left);
                }
                (
                    format!(
                        "{awaited} keys are being made or revoked; waiting until {} at most",
                        rfc3339(until)
                    ),
                    Some(left),
                )
            }
            Err(error) => {
                let line =
                    format!("the ledgers in namespace {} cannot be read: {error}", args.operator_namespace);
                (line, None)
            }
        };
        if line != told {
            writeln!(out, "{line}")?;
            told = line;
        }
        if clock.now() >= until {
            break left;
        }
        tokio::time::sleep(PACE).await;
    };
    tell(left.as_deref(), &mut out)?;
    if !args.refuse_while_keys_exist {
        tell_of_finalizers(&client, &args.watch_namespaces, &mut out).await?;
    }
    Ok(true)
}

fn tell(left: Option<&[Unfinished]>, out: &mut impl Write) -> io::Result<()> {
    match left {
        None => {
            writeln!(out, "what is left is not known; an operator that is installed again goes on with it")
        }
        Some([]) => writeln!(out, "nothing is left to make or to revoke"),
        Some(left) => {
            writeln!(out, "left as they are:")?;
            for one in left {
                writeln!(out, "  {}", one.told())?;
            }
            writeln!(
                out,
                "Their ledgers stay: an operator that is installed again goes on with them. If none will be, revoke them at \
                 the provider."
            )
        }
    }
}

/// Whether there is an LLMKey: where the CRDs go with the release, it would never be finished.
async fn keys_exist(client: &Client, out: &mut impl Write) -> io::Result<bool> {
    let keys: Api<LLMKey> = Api::all(client.clone());
    match keys.list_metadata(&ListParams::default().limit(PAGE)).await {
        Ok(found) if found.items.is_empty() => Ok(false),
        Ok(found) => {
            writeln!(
                out,
                "{} LLMKeys exist, and their CRD goes with this release.",
                count(&found.items, found.metadata.remaining_item_count)
            )?;
            writeln!(
                out,
                "Delete them first, while the operator can revoke their keys: kubectl delete llmkeys --all --all-namespaces. Or keep the CRDs: helm \
                 rollback to the revision that you have ends the uninstallation, then helm upgrade --set crds.keep=true."
            )?;
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => {
            writeln!(
                out,
                "whether LLMKeys exist cannot be told, and their CRD goes with this release: {error}"
            )?;
            Ok(true)
        }
    }
}

/// A namespace with an LLMKey that has the finalizer cannot be deleted without an operator.
async fn tell_of_finalizers(client: &Client, served: &[String], out: &mut impl Write) -> io::Result<()> {
    let apis: Vec<Api<LLMKey>> = if served.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        served.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
    };
    let mut held: Vec<PartialObjectMeta<LLMKey>> = Vec::new();
    let mut cut = false;
    for keys in apis {
        let Ok(found) = keys.list_metadata(&ListParams::default().limit(PAGE)).await else { continue };
        cut |= found.metadata.remaining_item_count.is_some_and(|more| more > 0);
        held.extend(found.items.into_iter().filter(|key| key.finalizers().iter().any(|f| f == FINALIZER)));
    }
    let Some(first) = held.first() else { return Ok(()) };
    let more = if cut { " at least" } else { "" };
    writeln!(
        out,
        "{}{more} LLMKeys stay, {}/{} for one. Until an operator is installed again, each keeps its namespace from being deleted \
         (finalizer {FINALIZER}).",
        held.len(),
        first.namespace().unwrap_or_default(),
        first.name_any()
    )
}

fn count<T>(page: &[T], remaining: Option<i64>) -> i64 {
    i64::try_from(page.len()).unwrap_or(i64::MAX).saturating_add(remaining.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Released;
    use crate::ledger::tests::{at, record, version};

    fn works(record: &Record) -> Vec<(i32, Work)> {
        unfinished(record).into_iter().map(|one| (one.version, one.work)).collect()
    }

    #[test]
    fn what_an_operator_would_go_on_with_is_unfinished_and_nothing_else() {
        use Origin::{Minted, Supplied};
        use VersionState::{Current, Intent, Overlap, Retained, Retiring, Revoked, Spare};
        let states = [
            (Revoked, Minted),
            (Retiring, Minted),
            (Overlap, Minted),
            (Current, Minted),
            (Intent, Minted),
            (Spare, Minted),
            (Current, Supplied),
            (Retained, Minted),
        ];
        let versions =
            states.iter().zip(1..).map(|((state, origin), n)| version(n, *state, *origin)).collect();
        let mut ledger = record(versions);
        assert_eq!(works(&ledger), [(2, Work::Revoking), (5, Work::Minting)]);

        ledger.owner = None;
        ledger.released = Some(Released { at: at(0), revoke_not_before: at(60), hand_over: true });
        let from = Work::RevokeFrom(at(60));
        assert_eq!(works(&ledger), [(2, Work::Revoking), (3, from), (4, from), (5, from), (6, from)]);
        let [_, overlap, ..] = &unfinished(&ledger)[..] else { panic!("nothing unfinished") };
        assert!(overlap.in_time(at(60)) && !overlap.in_time(at(59)));

        ledger.retain_on_delete = true;
        assert_eq!(works(&ledger), [(2, Work::Revoking), (5, from), (6, from)]);
    }

    #[test]
    fn what_is_left_is_told_by_name() {
        let one = Unfinished {
            key: "team-a/chat".into(),
            version: 3,
            work: Work::RevokeFrom(at(0)),
            place: "LLMProvider openai (OpenAI), id key_1".into(),
        };
        let mut out = Vec::new();
        tell(Some(&[one]), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = "team-a/chat version 3: its LLMKey is gone, its key is to be revoked from 2027-01-15T08:00:00Z; LLMProvider \
                    openai (OpenAI), id key_1";
        assert!(text.contains(line), "{text}");
    }
}
