//! What a provider's reply says about a key, and the fold of replies into the key's health.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Earlier states that are kept.
const HISTORY: usize = 10;

/// What one validation call said of the key. Only [`Verdict::Rejected`] is the key's own rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The provider accepted the key.
    Valid,
    /// The provider rejected this key, by a code that speaks of the key alone.
    Rejected,
    /// The provider says that the key exists and is switched off.
    Disabled,
    /// The provider says that the key's lifetime is over.
    Expired,
    /// Accepted, but the key may not use the call that checks it.
    RestrictedScope,
    /// The key is accepted; its account has no credit or budget left.
    OutOfCredit,
    /// Throttled: says nothing of the key.
    RateLimited {
        /// How long the provider asks us to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx, TLS, DNS, connection or time-out: says nothing of the key.
    ProviderDown,
    /// The provider's address may not be called, so nobody was asked: says nothing of the key.
    AddressRefused,
    /// An answer that could not be understood: says nothing of the key.
    Unknown,
}

impl Verdict {
    /// The key works at the provider, whatever else is wrong.
    pub const fn accepts(self) -> bool {
        matches!(self, Self::Valid | Self::RestrictedScope | Self::OutOfCredit)
    }

    /// The provider spoke of this key and refused it.
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Rejected | Self::Disabled | Self::Expired)
    }
}

/// A key's health as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthState {
    /// The provider accepts the key.
    Valid,
    /// The provider rejected the key as often as the threshold says.
    Invalid,
    /// Switched off at the provider.
    Disabled,
    /// Its lifetime is over.
    Expired,
    /// It works, but may not use the call that checks it.
    RestrictedScope,
    /// It works; the account has no credit left.
    OutOfCredit,
    /// The provider throttles us.
    RateLimited,
    /// The provider cannot be reached or fails.
    ProviderDown,
    /// Not known, or a rejection is being confirmed.
    Unknown,
}

impl HealthState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Valid,
        Self::Invalid,
        Self::Disabled,
        Self::Expired,
        Self::RestrictedScope,
        Self::OutOfCredit,
        Self::RateLimited,
        Self::ProviderDown,
        Self::Unknown,
    ];

    /// The state as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "Valid",
            Self::Invalid => "Invalid",
            Self::Disabled => "Disabled",
            Self::Expired => "Expired",
            Self::RestrictedScope => "RestrictedScope",
            Self::OutOfCredit => "OutOfCredit",
            Self::RateLimited => "RateLimited",
            Self::ProviderDown => "ProviderDown",
            Self::Unknown => "Unknown",
        }
    }

    /// Reads what [`HealthState::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// One key's health over time: a pure fold of verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// Fingerprint, as status shows it, of the key that this speaks of.
    pub fingerprint: String,
    /// The state now.
    pub state: HealthState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Earlier states, newest first.
    pub history: Vec<(HealthState, DateTime<Utc>)>,
    /// Rejections in a row. Outages and throttling neither count nor reset.
    pub rejections: i32,
    /// The last conclusive answer: accepted, or confirmed as refused.
    pub accepted: Option<bool>,
    /// The last answer, and when it came.
    pub last: Option<(Verdict, DateTime<Utc>)>,
    /// When the key was first asked about.
    pub first_asked: Option<DateTime<Utc>>,
}

impl Health {
    /// Nothing is known yet.
    pub fn unknown(fingerprint: &str, now: DateTime<Utc>) -> Self {
        Self {
            fingerprint: fingerprint.to_owned(),
            state: HealthState::Unknown,
            since: now,
            history: Vec::new(),
            rejections: 0,
            accepted: None,
            last: None,
            first_asked: None,
        }
    }

    /// Takes one answer in. `threshold`: rejections in a row before the key is called bad.
    pub fn observe(&mut self, verdict: Verdict, at: DateTime<Utc>, threshold: i32) {
        let known = self.first_asked.is_some() || self.accepted.is_some() || self.rejections > 0;
        self.first_asked.get_or_insert(at);
        self.last = Some((verdict, at));
        let state = match verdict {
            Verdict::Valid => HealthState::Valid,
            Verdict::RestrictedScope => HealthState::RestrictedScope,
            Verdict::OutOfCredit => HealthState::OutOfCredit,
            Verdict::RateLimited { .. } => HealthState::RateLimited,
            Verdict::ProviderDown => HealthState::ProviderDown,
            Verdict::AddressRefused | Verdict::Unknown => HealthState::Unknown,
            Verdict::Rejected | Verdict::Disabled | Verdict::Expired => {
                self.rejections += 1;
                match verdict {
                    _ if self.rejections < threshold => HealthState::Unknown,
                    Verdict::Disabled => HealthState::Disabled,
                    Verdict::Expired => HealthState::Expired,
                    _ => HealthState::Invalid,
                }
            }
        };
        if verdict.accepts() {
            self.rejections = 0;
            self.accepted = Some(true);
        } else if verdict.refuses() && self.rejections >= threshold {
            self.accepted = Some(false);
        }
        if state != self.state {
            // That nobody had asked yet is no state that the key was in.
            if known || self.state != HealthState::Unknown {
                self.history.insert(0, (self.state, self.since));
                self.history.truncate(HISTORY);
            }
            self.state = state;
            self.since = at;
        }
    }

    /// Goes on from the health of the key whose place this one's key has taken.
    pub fn succeed(&mut self, before: &Self) {
        if before.state != self.state {
            self.history.push((before.state, before.since));
        }
        self.history.extend(before.history.iter().copied());
        self.history.truncate(HISTORY);
    }

    /// The provider refused the key, and it is asked again before that is believed.
    pub fn confirming(&self, threshold: i32) -> bool {
        self.rejections > 0 && self.rejections < threshold
    }
}

/// The last probe slot at or before `now`: slots stand at `epoch + offset + k × interval`, from the clock alone.
pub fn last_slot(now: DateTime<Utc>, interval: Duration, offset: Duration) -> DateTime<Utc> {
    let interval = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let offset = i64::try_from(offset.as_millis()).unwrap_or(0) % interval;
    let now_ms = now.timestamp_millis();
    let slot = now_ms - (now_ms - offset).rem_euclid(interval);
    DateTime::from_timestamp_millis(slot).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn an_outage_never_makes_a_key_invalid_and_never_counts() {
        let mut health = Health::unknown("f", at(0));
        health.observe(Verdict::Valid, at(1), 3);
        for second in 2..100 {
            health.observe(Verdict::ProviderDown, at(second), 3);
            health.observe(Verdict::RateLimited { retry_after: None }, at(second), 3);
            health.observe(Verdict::Unknown, at(second), 3);
        }
        assert_eq!(health.accepted, Some(true));
        assert_eq!(health.rejections, 0);
    }

    #[test]
    fn a_key_that_follows_a_good_one_and_is_good_adds_nothing_to_the_history() {
        let mut first = Health::unknown("f", at(0));
        first.observe(Verdict::Valid, at(1), 3);
        assert_eq!(first.history, []);
        first.observe(Verdict::ProviderDown, at(2), 3);
        let mut next = Health::unknown("g", at(3));
        next.observe(Verdict::Valid, at(4), 3);
        next.succeed(&first);
        let told = [(HealthState::ProviderDown, at(2)), (HealthState::Valid, at(1))];
        assert_eq!((next.state, next.since, next.history.as_slice()), (HealthState::Valid, at(4), &told[..]));
        let mut third = Health::unknown("h", at(5));
        third.observe(Verdict::Valid, at(6), 3);
        third.succeed(&next);
        assert_eq!(third.history, told);
    }

    #[test]
    fn a_rejection_is_confirmed_before_it_is_believed() {
        let mut health = Health::unknown("f", at(0));
        health.observe(Verdict::Valid, at(1), 3);
        health.observe(Verdict::Rejected, at(2), 3);
        assert!(health.confirming(3));
        assert_eq!((health.state, health.accepted), (HealthState::Unknown, Some(true)));
        health.observe(Verdict::ProviderDown, at(3), 3);
        health.observe(Verdict::Rejected, at(4), 3);
        health.observe(Verdict::Rejected, at(5), 3);
        assert_eq!((health.state, health.accepted), (HealthState::Invalid, Some(false)));
        assert_eq!(health.since, at(5));
        health.observe(Verdict::Valid, at(6), 3);
        assert_eq!((health.rejections, health.accepted), (0, Some(true)));
    }

    #[test]
    fn the_history_is_bounded_and_newest_first() {
        let mut health = Health::unknown("f", at(0));
        for second in 0..50 {
            let verdict = if second % 2 == 0 { Verdict::Valid } else { Verdict::ProviderDown };
            health.observe(verdict, at(second), 3);
        }
        assert_eq!(health.history.len(), HISTORY);
        assert!(health.history.windows(2).all(|w| w[0].1 > w[1].1));
    }

    #[test]
    fn slots_come_from_the_clock_alone() {
        let interval = Duration::from_secs(900);
        let offset = Duration::from_secs(123);
        let slot = last_slot(at(5000), interval, offset);
        assert!(slot <= at(5000) && at(5000) - slot < chrono::Duration::seconds(900));
        assert_eq!(last_slot(slot, interval, offset), slot);
        assert_eq!(
            last_slot(slot - chrono::Duration::seconds(1), interval, offset),
            slot - chrono::Duration::seconds(900)
        );
    }
}
