//! The gauges that exist once for each key, kept in one compact table and written out at each scrape.
//!
//! One `Family` of the metrics library for each gauge would hold the two names six times. Here a key
//! costs its names once and about 110 bytes, and 64 more if its provider reports what it used. Before those, 5,000 keys took 1.2 MB, and 2.1 MB of text for the time
//! of a scrape (measured, unoptimised build).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::domain::usage::Amounts;

/// What the metrics say of one key. Times are seconds since 1970; `None` leaves the series out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyGauges {
    /// Health of the published key, as `HealthState::as_str` spells it.
    pub state: &'static str,
    /// Whether the condition `Ready` is `True`; `None` where nothing is to be ready, because all keys were revoked as asked.
    pub ready: Option<bool>,
    /// When the next rotation is due.
    pub next_rotation: Option<i64>,
    /// When the key ends at its provider, as `spec.expiresAt` says.
    pub expiry: Option<i64>,
    /// When the provider was last asked about the published key.
    pub last_probe: Option<i64>,
    /// When the current version was published.
    pub published: Option<i64>,
    /// Whether a spare is ready; `None` where the policy asks for none.
    pub spare: Option<bool>,
    /// What is not in order, in the order of [`PROBLEMS`].
    pub problems: [Option<Reason>; PROBLEMS.len()],
    /// What the published key has used in all, where its provider reports it.
    pub usage: Option<Box<Amounts>>,
}

/// Conditions, and the status in which each is a problem; that a rotation is due is one only where it has failed.
pub const PROBLEMS: [(ConditionType, ConditionStatus); 4] = [
    (ConditionType::Ready, ConditionStatus::False),
    (ConditionType::Stalled, ConditionStatus::True),
    (ConditionType::ConsumersCurrent, ConditionStatus::False),
    (ConditionType::RotationDue, ConditionStatus::True),
];

/// The reasons of the conditions that are a problem.
pub fn problems(conditions: &[Condition]) -> [Option<Reason>; PROBLEMS.len()] {
    PROBLEMS.map(|(kind, status)| {
        let wrong = |c: &&Condition| c.type_ == kind.as_str() && c.status == status.as_str();
        let reason = conditions.iter().find(wrong).and_then(|c| Reason::named(&c.reason));
        reason.filter(|reason| kind != ConditionType::RotationDue || *reason == Reason::RotationFailed)
    })
}

/// Namespace and name → gauges.
type Keys = BTreeMap<(Box<str>, Box<str>), KeyGauges>;

/// The table of all keys.
#[derive(Debug, Default)]
pub(super) struct KeyTable(Mutex<Keys>);

type Value = fn(&KeyGauges) -> Option<i64>;

/// Name, help, unit and value of each gauge that has no label beyond the two names.
const GAUGES: [(&str, &str, Option<Unit>, Value); 6] = [
    (
        "key_ready",
        "1 if the LLMKey's condition Ready is True; alert on 0 for longer than a rotation takes.",
        None,
        |g| g.ready.map(i64::from),
    ),
    ("key_next_rotation_timestamp", "When the next rotation is due.", Some(Unit::Seconds), |g| {
        g.next_rotation
    }),
    (
        "key_expiry_timestamp",
        "When the key ends at its provider, as spec.expiresAt says.",
        Some(Unit::Seconds),
        |g| g.expiry,
    ),
    (
        "key_last_probe_timestamp",
        "When the provider was last asked about the published key.",
        Some(Unit::Seconds),
        |g| g.last_probe,
    ),
    (
        "key_published_timestamp",
        "When the current version was published; its age is the time since.",
        Some(Unit::Seconds),
        |g| g.published,
    ),
    ("key_spare", "1 if a spare is ready, 0 if the policy asks for one and there is none now.", None, |g| {
        g.spare.map(i64::from)
    }),
];

impl KeyTable {
    pub(super) fn set(&self, namespace: &str, name: &str, gauges: KeyGauges) {
        self.lock().insert((namespace.into(), name.into()), gauges);
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.into(), name.into()));
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What published keys have used. Gauges: a new key begins with nothing.
fn usage(keys: &Keys, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let of = |gauges: &KeyGauges| gauges.usage.as_deref().copied().unwrap_or_default();
    let help = "Requests of the published key, as its provider reports them.";
    let mut family = encoder.encode_descriptor("key_usage_requests", help, None, MetricType::Gauge)?;
    for ((namespace, name), gauges) in keys {
        if let Some(requests) = of(gauges).requests {
            let labels = [("namespace", &**namespace), ("name", &**name)];
            family.encode_family(&labels)?.encode_gauge(&requests)?;
        }
    }
    let help = "Tokens of the published key, as its provider reports them.";
    let mut family = encoder.encode_descriptor("key_usage_tokens", help, None, MetricType::Gauge)?;
    for ((namespace, name), gauges) in keys {
        let used = of(gauges);
        for (direction, tokens) in [("input", used.input_tokens), ("output", used.output_tokens)] {
            if let Some(tokens) = tokens {
                let labels = [("namespace", &**namespace), ("name", &**name), ("direction", direction)];
                family.encode_family(&labels)?.encode_gauge(&tokens)?;
            }
        }
    }
    let help = "Cost of the published key in US dollars, as its provider reports it.";
    let dollars = Unit::Other("usd".to_owned());
    let mut family = encoder.encode_descriptor("key_usage_cost", help, Some(&dollars), MetricType::Gauge)?;
    for ((namespace, name), gauges) in keys {
        if let Some(cost) = of(gauges).cost {
            let labels = [("namespace", &**namespace), ("name", &**name)];
            family.encode_family(&labels)?.encode_gauge(&cost.dollars())?;
        }
    }
    Ok(())
}

impl Collector for KeyTable {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let keys = self.lock();
        if keys.is_empty() {
            return Ok(());
        }
        let help = "Health of the published key: the series of its state is 1, others do not exist.";
        let mut state = encoder.encode_descriptor("key_state", help, None, MetricType::Gauge)?;
        for ((namespace, name), gauges) in keys.iter() {
            let labels = [("namespace", &**namespace), ("name", &**name), ("state", gauges.state)];
            state.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        for (gauge, help, unit, value) in &GAUGES {
            let mut family = encoder.encode_descriptor(gauge, help, unit.as_ref(), MetricType::Gauge)?;
            for ((namespace, name), gauges) in keys.iter() {
                if let Some(value) = value(gauges) {
                    let labels = [("namespace", &**namespace), ("name", &**name)];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        usage(&keys, &mut encoder)?;
        let help = "1 for the reason of a condition that is not as it should be; others do not exist.";
        let mut family = encoder.encode_descriptor("key_problem", help, None, MetricType::Gauge)?;
        for ((namespace, name), gauges) in keys.iter() {
            for ((condition, _), reason) in PROBLEMS.iter().zip(gauges.problems) {
                if let Some(reason) = reason {
                    let labels = [
                        ("namespace", &**namespace),
                        ("name", &**name),
                        ("condition", condition.as_str()),
                        ("reason", reason.as_str()),
                    ];
                    family.encode_family(&labels)?.encode_gauge(&1_i64)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_costs_little() {
        let entry = size_of::<((Box<str>, Box<str>), KeyGauges)>();
        assert!(entry <= 128, "{entry} bytes for each key, without its names");
    }
}
