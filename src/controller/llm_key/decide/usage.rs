//! The trigger `Usage`: the delivered key has used as much as the policy lets one key use.

use chrono::{DateTime, Utc};

use crate::controller::llm_key::model::Observed;
use crate::domain::turns::Place;

/// Whether the delivered key, by its id and the time of its publishing, is to be replaced for what it has used. A reading from before
/// its publishing tells nothing of it; the key that comes next has another id, of which a reading must tell first.
pub(super) fn spent(o: &Observed, id: Option<&str>, published: Option<DateTime<Utc>>) -> bool {
    let (Some(id), Some(published), Some(reading)) = (id, published, &o.usage) else { return false };
    o.key.minted
        && reading.as_of > published
        && reading.keys.get(id).is_some_and(|used| o.policy.usage.reached_by(&used.total))
}

/// Its place among the rotations of its policy: due since that was read.
pub(super) fn place(o: &Observed, now: DateTime<Utc>) -> Place {
    Place { scheduled: true, due: o.usage.as_ref().map_or(now, |reading| reading.as_of) }
}
