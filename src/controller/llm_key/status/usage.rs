//! What keys have used, as status shows it. It changes only when the amounts do: a later reading with the same ones is not told.

use crate::api::{LLMKeyStatus, UsageAmounts, UsageStatus, UsageWindow, VersionStatus, rfc3339};
use crate::controller::llm_key::model::Observed;
use crate::controller::llm_key::observe::tells_usage;
use crate::domain::usage::{Amounts, KeyUsage};

/// The provider tells it.
const REPORTED: &str = "Reported";
/// The provider does not tell it by key, or the key's id there is not known.
const NOT_REPORTED: &str = "NotReported";

/// What the published key has used; `versions` are those of the status to be. Without a reading, what status told of the same version.
pub(super) fn shown(
    o: &Observed,
    current: Option<i32>,
    versions: &[VersionStatus],
    before: &LLMKeyStatus,
) -> Option<UsageStatus> {
    let current = current?;
    let told = || before.usage.clone().filter(|_| before.current_version == Some(current));
    let version = versions.iter().find(|version| version.version == current);
    let known = o.key.minted || version.is_some_and(|version| version.provider_key_id.is_some());
    if !known || o.provider.account.is_some() && !tells_usage(o) {
        return Some(UsageStatus { reason: NOT_REPORTED.to_owned(), ..UsageStatus::default() });
    }
    let Some((as_of, used)) = o
        .usage
        .as_ref()
        .zip(version.and_then(|version| version.provider_key_id.as_deref()))
        .and_then(|(reading, id)| Some((reading.as_of, reading.keys.get(id)?)))
    else {
        return told().filter(|told| told.reason == REPORTED);
    };
    // A provider that tells of each key tells zero of one that nobody has used: that is not worth a write.
    if used.is_idle() && told().is_none() {
        return None;
    }
    let next = UsageStatus {
        reason: REPORTED.to_owned(),
        as_of: None,
        window: window(used),
        total: amounts(&used.total),
    };
    let same = told().filter(|told| UsageStatus { as_of: None, ..told.clone() } == next);
    Some(same.unwrap_or_else(|| UsageStatus { as_of: Some(rfc3339(as_of)), ..next }))
}

/// What a version's key has used in all: by the reading, or as status told it.
pub(super) fn of_version(
    o: &Observed,
    version: &VersionStatus,
    before: &LLMKeyStatus,
) -> Option<UsageAmounts> {
    let id = version.provider_key_id.as_deref()?;
    let read = o.usage.as_ref().and_then(|reading| reading.keys.get(id));
    let told = || {
        let same =
            |v: &&VersionStatus| v.version == version.version && v.provider_key_id == version.provider_key_id;
        before.versions.iter().find(same).and_then(|v| v.usage.clone())
    };
    match read {
        Some(used) if !used.is_idle() || told().is_some() => amounts(&used.total),
        _ => told(),
    }
}

fn amounts(used: &Amounts) -> Option<UsageAmounts> {
    (*used != Amounts::default()).then(|| UsageAmounts {
        requests: used.requests,
        input_tokens: used.input_tokens,
        output_tokens: used.output_tokens,
        cost_usd: used.cost.map(|cost| cost.to_string()),
    })
}

fn window(used: &KeyUsage) -> Option<UsageWindow> {
    let window = used.window.as_ref()?;
    Some(UsageWindow {
        start: window.start.map(rfc3339),
        requests: window.amounts.requests,
        input_tokens: window.amounts.input_tokens,
        output_tokens: window.amounts.output_tokens,
        cost_usd: window.amounts.cost.map(|cost| cost.to_string()),
    })
}
