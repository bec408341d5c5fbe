//! The rotations to come, as status shows them.

use chrono::{DateTime, Utc};

use super::rotate::needs_no_person;
use crate::controller::llm_key::model::{Env, LedgerView, Observed};
use crate::domain::timings::Timings;
use crate::domain::upcoming::{Terms, Upcoming, all, expiry};

/// Rotations that status shows.
const SHOWN: usize = 3;

/// What makes the key due.
pub(super) fn terms<'a>(o: &'a Observed, lineage: &'a str, timings: &Timings) -> Terms<'a> {
    Terms {
        schedule: o.policy.schedule.as_ref(),
        expiry: expiry(o.key.expires_at, o.policy.expiry_before, timings),
        minted: needs_no_person(o),
        seed: lineage,
    }
}

/// The next rotations. They depend on the clock only when one of them is due, and then there are none: so a key at rest is not
/// written to.
pub fn upcoming(o: &Observed, env: &Env) -> Vec<Upcoming> {
    let (lineage, published): (&str, Option<DateTime<Utc>>) = match &o.ledger {
        LedgerView::Unread(summary) => (&summary.lineage, summary.published_at),
        LedgerView::Present(ledger) if !o.key.is_newer_than(&ledger.record) => {
            let delivered = ledger.record.delivered();
            (&ledger.record.lineage, delivered.map(|v| v.published_at.unwrap_or(v.created_at)))
        }
        _ => return Vec::new(),
    };
    let Some(published) = published.filter(|_| !o.key.revoke_all && !o.key.deleting) else {
        return Vec::new();
    };
    let terms = terms(o, lineage, &env.timings);
    let found = all(&terms, published, env.now, DateTime::<Utc>::MAX_UTC, SHOWN, &env.timings);
    if found.first().is_some_and(|next| next.at <= env.now || next.due <= env.now) {
        return Vec::new();
    }
    found
}
