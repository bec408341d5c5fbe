//! Keys at the account that this ledger's attempts made and that no version points to.

use crate::domain::names::{MintName, lineage_code};
use crate::ledger::Record;
use crate::provider::ProviderKeyId;

/// Of the listed keys, those that bear a mint name of this lineage with an attempt below `below` and that the record does
/// not hold: their ids.
pub(crate) fn strays(
    record: &Record,
    listed: impl IntoIterator<Item = (ProviderKeyId, String)>,
    below: u32,
) -> Vec<String> {
    let lineage = lineage_code(&record.lineage);
    let recorded: Vec<ProviderKeyId> = record
        .versions
        .iter()
        .filter_map(|v| ProviderKeyId::parse(v.provider_key_id.as_deref()?).ok())
        .collect();
    listed
        .into_iter()
        .filter(|(_, name)| {
            name.parse::<MintName>()
                .is_ok_and(|name| name.lineage == lineage && name.attempt_number() < below)
        })
        .filter(|(id, _)| !recorded.iter().any(|known| known.same_handle(id)))
        .map(|(id, _)| id.as_str().to_owned())
        .collect()
}
