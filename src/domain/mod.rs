//! Pure decisions: no async, no client, no clock, no randomness. Time and ids are arguments.

pub mod backoff;
pub mod budget;
pub mod evidence;
pub mod health;
pub mod lifecycle;
pub mod names;
pub mod schedule;
pub mod template;
pub mod timings;
pub mod turns;
pub mod upcoming;
pub mod usage;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

/// A stable share of `whole` for `seed`: the same on every replica and after every restart, spread evenly over seeds.
/// Strictly below `whole` unless that is zero; `purpose` keeps two uses of one seed apart.
fn share(purpose: &str, seed: &str, whole: Duration) -> Duration {
    let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(seed).finalize();
    let hash = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    // Beyond 584 years nothing is shared out.
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(u64::try_from((u128::from(nanos) * u128::from(hash)) >> 64).unwrap_or_default())
}

/// `time + delay`, at the end of time if that is beyond it.
fn after(time: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(delay)
        .ok()
        .and_then(|delay| time.checked_add_signed(delay))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
