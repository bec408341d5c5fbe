//! The constants of a model: small times, so that few of them differ, and the world's fixed parts.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::parts::{STANDS, now};
use crate::api::{GoDuration, LLMKey};
use crate::controller::llm_key::model::Env;
use crate::controller::llm_key::world::{INSTALL, World};
use crate::domain::timings::Timings;
use crate::provider::MintKind;

/// Seconds that both keys work at least.
pub const OVERLAP: i64 = 3;
/// Seconds that the provider must not have seen the older key.
pub const QUIET: i64 = 2;
/// Seconds between deletion and revocation.
pub const GRACE: i64 = 3;
/// Seconds that a new key may be missing from the provider's list.
pub const LIST_LAG: i64 = 2;
/// Seconds that a revoked key works on.
pub const LINGERING: i64 = 1;
/// Seconds that a replica, or a request in the network, is held up at most: as long as an overlap. A released ledger is kept
/// for longer than that and the provider's lag together, as the operator's ten minutes are longer than any call.
pub const HELD_UP: i64 = 3;
/// Half of the seconds that an empty ledger is kept after its LLMKey is gone.
pub const SWEEP: i64 = 3;

/// Seconds that an accepted key that is to be delivered counts as accepted.
pub const CANDIDATE_FRESH: i64 = 3;
/// Seconds after which a first key is delivered although the provider tells nothing of it.
pub const PUBLISH_UNKNOWN_AFTER: i64 = 2;
/// Seconds between two looks at a key of which the provider tells nothing.
pub const RECHECK: i64 = 1;

/// What is the same in every state of a model.
pub struct Rules {
    /// The world without anything that changes.
    base: World,
    /// The LLMKey as it is created.
    created: Option<LLMKey>,
}

impl Rules {
    /// The model's constants, under a policy that asks for so many spares, at a provider that makes keys in this way.
    pub fn new(spares: i32, mint: MintKind) -> Self {
        let mut base = World::minting();
        let seconds = |n: i64| Duration::from_secs(n.unsigned_abs());
        base.timings = Timings {
            retry_base: seconds(1),
            retry_max: seconds(1),
            retry_after_max: seconds(LIST_LAG),
            rejection_confirmation_gap: seconds(1),
            publish_unknown_after: seconds(PUBLISH_UNKNOWN_AFTER),
            overlap: seconds(OVERLAP),
            quiet_for: seconds(QUIET),
            deletion_grace: seconds(GRACE),
            new_key_deadline: seconds(4),
            user_error_resync: seconds(2),
            revoke_confirm_interval: seconds(1),
            sweep_interval: seconds(SWEEP),
            drift_repair_gap: seconds(1),
            provider_check_interval: seconds(2),
            recheck: seconds(RECHECK),
            new_key_recheck: seconds(1),
            candidate_fresh: seconds(CANDIDATE_FRESH),
            outage_recheck: seconds(RECHECK),
            last_use_fresh: seconds(1),
            list_visibility_lag: seconds(LIST_LAG),
            mint_under_way: seconds(HELD_UP),
            ..Timings::default()
        };
        base.policy.overlap_minimum = seconds(OVERLAP);
        base.policy.quiet_for = seconds(QUIET);
        // Only what is told of a rotation would change.
        base.policy.timeout = seconds(100 * 365 * 24 * 3600);
        // Pods are no part of the model.
        base.policy.consumers = false;
        base.policy.spares = spares;
        base.provider.mint = mint;
        base = match mint {
            MintKind::Slots => base.in_two_slots(),
            MintKind::Unnamed => base.without_names(),
            _ => base,
        };
        base.provider.list_lag = seconds(LIST_LAG);
        base.provider.lingering = seconds(LINGERING);
        base.concurrent = true;
        if let Some(key) = &mut base.key {
            // Slots of checks are years apart.
            key.spec.validation.interval = Some(GoDuration::from_secs(100 * 365 * 24 * 3600));
        }
        base.now = now();
        // I3 is judged beside the faults that were spent.
        base.history.faults = 1000;
        let created = base.key.take();
        Self { base, created }
    }

    /// The same as the stories of the crash matrix have it: no quiet time is asked for, keys go without grace, and what the provider
    /// said of a key that is to be delivered is soon out of date.
    pub fn of_the_stories(mut self) -> Self {
        self.base.policy.quiet_for = Duration::ZERO;
        self.base.timings.candidate_fresh = Duration::from_secs(1);
        if let Some(key) = &mut self.created {
            key.spec.deletion_grace_period = Some(GoDuration::from_secs(0));
        }
        self
    }

    /// Keys that are to be kept ready.
    pub fn spares(&self) -> u8 {
        u8::try_from(self.base.policy.spares).unwrap_or_default()
    }

    /// The LLMKey as it is created.
    pub const fn created(&self) -> Option<&LLMKey> {
        self.created.as_ref()
    }

    /// Of which LLMKey the first ledger is.
    pub fn lineage(&self) -> String {
        self.created.iter().find_map(|key| key.metadata.uid.clone()).unwrap_or_default()
    }

    /// The key that is chosen for a mint attempt.
    pub fn chosen(lineage: &str, attempt: u32) -> String {
        World::bytes_to_choose(lineage, attempt, STANDS + 1)
    }

    /// A fresh copy of the fixed parts.
    pub fn base(&self) -> World {
        self.base.clone()
    }

    /// What a decision may use now. Marks and mint names are told apart by the attempt alone.
    pub fn env(&self) -> Env {
        self.env_at(now())
    }

    /// The same at the time of a plan.
    pub fn env_at(&self, at: DateTime<Utc>) -> Env {
        Env { now: at, timings: self.base.timings.clone(), install: INSTALL.into(), nonce: 0 }
    }
}
