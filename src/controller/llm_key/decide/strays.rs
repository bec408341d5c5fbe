//! Keys at the account that this ledger's attempts made and that no version points to.

use crate::controller::sweeper::decide::is_of_another_history;
use crate::domain::names::{MintName, lineage_code};
use crate::ledger::Record;
use crate::provider::ProviderKeyId;

/// Of the listed keys, those that bear a mint name of this lineage with an attempt below `below` and that the record does
/// not hold: their ids. A key whose revocation was confirmed and that is listed again was made by a request that came late.
///
/// While a version is on its way and the record has none that is delivered, an older copy of it may have been put back: then the
/// target may hold the key of an earlier version that it does not know. Such a key is left to the sweep, which revokes it when
/// another one is delivered; unless `all` keys are to go.
pub(crate) fn strays(
    record: &Record,
    listed: impl IntoIterator<Item = (ProviderKeyId, String)>,
    below: u32,
    all: bool,
) -> Vec<String> {
    let lineage = lineage_code(&record.lineage);
    let on_its_way = record.in_flight().filter(|_| !all && record.owner.is_some());
    let first = on_its_way.filter(|_| record.delivered().is_none()).map_or(0, |v| i64::from(v.version));
    let recorded: Vec<ProviderKeyId> = record
        .versions
        .iter()
        .filter(|v| v.state.key_may_work())
        .filter_map(|v| ProviderKeyId::parse(v.provider_key_id.as_deref()?).ok())
        .collect();
    listed
        .into_iter()
        .filter(|(_, name)| {
            name.parse::<MintName>().is_ok_and(|name| {
                name.lineage == lineage
                    && name.attempt_number() < below
                    && i64::from(name.version) >= first
                    // The sweep tells of it, and freezes the account.
                    && (all || !is_of_another_history(&name, record))
            })
        })
        .filter(|(id, _)| !recorded.iter().any(|known| known.same_handle(id)))
        .map(|(id, _)| id.as_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::names::AttemptId;

    const LINEAGE: &str = "00000000-0000-4000-8000-000000000001";

    fn record(owner: Option<&str>, states: [&str; 3]) -> Record {
        let versions: Vec<_> = (1..)
            .zip(states)
            .map(|(number, state)| {
                json!({"version": number, "state": state, "origin": "Minted", "reason": "Initial",
                       "createdAt": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "format": 1, "install": "install-1", "namespace": "team", "name": "chat", "lineage": LINEAGE,
            "owner": owner, "epoch": 9, "writer": "w", "attempt": 9, "versions": versions,
        }))
        .unwrap()
    }

    /// Of a key of version 2 and one of version 3.
    fn found(record: &Record, all: bool) -> Vec<String> {
        let listed = [(2, "svc_2/key_2"), (3, "svc_3/key_3")].map(|(number, id)| {
            let attempt = AttemptId::new(number, 7).unwrap();
            let name = MintName::new("install-1", LINEAGE, number, attempt).unwrap();
            (ProviderKeyId::parse(id).unwrap(), name.to_string())
        });
        strays(record, listed, 9, all)
    }

    #[test]
    fn what_the_target_may_hold_by_a_newer_ledger_is_left_to_the_sweep() {
        let rolled_back = ["Overlap", "Abandoned", "Intent"];
        assert_eq!(found(&record(Some("uid"), rolled_back), false), ["svc_3/key_3"]);
        assert_eq!(found(&record(Some("uid"), rolled_back), true).len(), 2, "all keys are to go");
        assert_eq!(found(&record(None, rolled_back), false).len(), 2, "nobody delivers them any more");
        let usual = ["Current", "Abandoned", "Intent"];
        assert_eq!(
            found(&record(Some("uid"), usual), false).len(),
            2,
            "the target holds what the ledger says"
        );
    }
}
