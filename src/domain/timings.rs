//! Every constant of time, in one place, with its default.

use std::time::Duration;

/// Margins that rest on times of the API server never go below this: those have steps of one second.
const MARGIN_FLOOR: Duration = Duration::from_secs(2);

/// One row of the table of constants: name, default and meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Field of [`Timings`].
    pub name: &'static str,
    /// Its value when nothing divides it.
    pub default: Duration,
    /// What it is for.
    pub what: String,
}

macro_rules! timings {
    ($( $kind:ident { $( $(#[doc = $doc:literal])+ $name:ident = $seconds:expr; )+ } )+) => {
        /// The operator's constants of time. `Default` is what users get; a test divides them all by one number.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct Timings {
            $($( $(#[doc = $doc])+ pub $name: Duration, )+)+
            /// Clean sweeps in a row before an empty ledger goes. A number, not a time: never divided.
            pub sweep_clean_count: u32,
            /// What all times are divided by; 1 outside of tests.
            pub divisor: u32,
        }

        impl Default for Timings {
            fn default() -> Self {
                Self {
                    $($( $name: Duration::from_secs($seconds), )+)+
                    sweep_clean_count: 2,
                    divisor: 1,
                }
            }
        }

        impl Timings {
            /// The defaults divided by `divisor` (0 counts as 1). Margins keep at least two seconds.
            pub fn divided_by(divisor: u32) -> Self {
                let divisor = divisor.max(1);
                let whole = Self::default();
                Self {
                    $($( $name: timings!(@ $kind whole.$name, divisor), )+)+
                    divisor,
                    ..whole
                }
            }

            /// All constants in the order of the documentation's table.
            pub fn table() -> Vec<Row> {
                let whole = Self::default();
                vec![$($(
                    Row { name: stringify!($name), default: whole.$name, what: concat!($($doc),+).trim().to_owned() },
                )+)+]
            }
        }
    };
    (@ times $value:expr, $divisor:expr) => { $value / $divisor };
    (@ margins $value:expr, $divisor:expr) => { ($value / $divisor).max(MARGIN_FLOOR) };
}

timings! {
    times {
        /// Time between two validations of a key, where its spec says nothing.
        validation_interval = 15 * 60;
        /// Least time between the rejections that together confirm that a key is invalid.
        rejection_confirmation_gap = 10;
        /// A first version that is still Unknown is published this long after its first validation.
        publish_unknown_after = 2 * 60;
        /// A rotation is due so long before a key's `expiresAt`, where the policy says nothing.
        expiry_before = 7 * 24 * 60 * 60;
        /// A delivered key that is confirmed as refused is replaced this long after, where the policy has the trigger `Invalid`.
        replace_invalid_after = 2 * 60;
        /// A rotation whose key is not delivered by then takes too long, where the policy says nothing.
        rotation_timeout = 60 * 60;
        /// Least overlap of the older and the newer key, where the policy says nothing.
        overlap = 24 * 60 * 60;
        /// The provider must not have seen the older key for this long, where the policy says nothing.
        quiet_for = 60 * 60;
        /// Most overlap without evidence, where the policy says nothing; what happens then is its `onStuck`.
        overlap_maximum = 168 * 60 * 60;
        /// Least time between two looks at the pods and workloads of a namespace.
        consumer_look = 30;
        /// A restart of a workload that replaced no pods is tried once more after this.
        restart_retry = 5 * 60;
        /// A rollout that is not over after this has failed, as far as the older key is concerned.
        rollout_deadline = 15 * 60;
        /// Time between the deletion of an `LLMKey` and the revocation of its keys, where its spec says nothing.
        deletion_grace = 60 * 60;
        /// A new key that the provider refuses is pending, not invalid, until this long after its minting.
        new_key_deadline = 15 * 60;
        /// Least time between two tries of the same call; doubles with each failure.
        retry_base = 1;
        /// Most time between two tries of the same call.
        retry_max = 5 * 60;
        /// Most that a provider's `Retry-After` is believed.
        retry_after_max = 60 * 60;
        /// A resource with an error that its user must mend is looked at again after this.
        user_error_resync = 10 * 60;
        /// Least time between two looks at whether a revoked key is refused.
        revoke_confirm_interval = 5;
        /// Time between two sweeps of a provider account for strays.
        sweep_interval = 5 * 60;
        /// Within this time at most five keys are made for one `LLMKey`, and `limits.mintsPerHour` at an account.
        mint_budget_window = 60 * 60;
        /// Who has taken an account for itself, and has no ledger, may keep it this long.
        lease_patience = 60;
        /// Deletions, and keys that turn invalid, within this time count together.
        crowd_window = 10 * 60;
        /// A key that no ledger holds is revoked only if the provider made it this long ago, by the provider's clock.
        orphan_age = 15 * 60;
        /// Time between two looks at the keyring, and at ledgers that need an older key of it.
        keyring_interval = 60;
        /// Pause after every ten ledgers that are taken to the newest key-encryption key.
        rewrap_pause = 1;
        /// Least time between two repairs of one target Secret.
        drift_repair_gap = 10;
        /// Time between two checks of a provider account.
        provider_check_interval = 5 * 60;
        /// Time between two looks at a key that could not be checked and is not delivered yet.
        recheck = 10;
        /// Time between two looks at a key that was just minted and is refused.
        new_key_recheck = 5;
        /// A key that is delivered was accepted by the provider within this time.
        candidate_fresh = 5 * 60;
        /// Time between two checks of a delivered key while the provider does not answer.
        outage_recheck = 60;
        /// A provider's word on the last use of a key counts this long.
        last_use_fresh = 30;
        /// Time between two readings of what an account's keys have used.
        usage_interval = 60 * 60;
        /// What a key has used is read for so long after its revocation: providers report late.
        usage_settles = 48 * 60 * 60;
        /// Keys of superseded versions that were not revoked stay sealed in the ledger this long, where the policy says nothing.
        retention = 720 * 60 * 60;
    }
    margins {
        /// How long a key that was just minted may be missing from the provider's list.
        list_visibility_lag = 30;
        /// How long after a mint attempt is on record its request may still be on its way: as long as a call may take in all.
        mint_under_way = 30;
        /// Pods that are created this long after the Secret was written have what it holds; kubelets may be late so long.
        consumer_margin = 60;
        /// Pods that say that they read the file anew have done so this long after the Secret was written.
        reload_presumed = 5 * 60;
    }
}

impl Timings {
    /// A duration of a spec (interval, jitter, overlap, reminder, grace, ...) as it counts here: divided like the
    /// constants. Cron and calendar times are never divided.
    pub fn scale(&self, duration: Duration) -> Duration {
        duration / self.divisor.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_default_and_zero_counts_as_one() {
        assert_eq!(Timings::divided_by(1), Timings::default());
        assert_eq!(Timings::divided_by(0), Timings::default());
        assert_eq!(Timings::default().scale(Duration::from_secs(7)), Duration::from_secs(7));
    }

    #[test]
    fn times_are_divided_and_margins_keep_two_seconds() {
        let fast = Timings::divided_by(3600);
        assert_eq!(fast.overlap, Duration::from_secs(24));
        assert_eq!(fast.deletion_grace, Duration::from_secs(1));
        assert_eq!(fast.scale(Duration::from_secs(720 * 3600)), Duration::from_secs(720));
        assert_eq!(fast.list_visibility_lag, Duration::from_secs(2));
        assert_eq!(Timings::divided_by(10).list_visibility_lag, Duration::from_secs(3));
        assert_eq!(fast.sweep_clean_count, 2);
    }

    #[test]
    fn each_row_says_what_it_is_for() {
        let table = Timings::table();
        assert_eq!(table.len(), 40);
        for row in table {
            assert!(row.what.ends_with('.') && row.what.len() > 20 && !row.default.is_zero(), "{row:?}");
        }
    }
}
