//! Metrics in the text format of `OpenMetrics`, prefix `llmkey_`; `docs/metrics.md` lists them.
//!
//! Labels come from the program's own text (`&'static str`), never from data, so that their number is
//! bounded. The gauges of single keys carry namespace and name, and can be switched off; those of the keyring carry ids of
//! key-encryption keys, of which there are few.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use super::key_gauges::KeyGauges;
use super::key_gauges::KeyTable;
use super::keyring_gauges::KeyringTable;
use crate::api::{ProviderType, Reason};
use crate::domain::health::Verdict;
use crate::kube_ext::clock::Clock;

/// Upper bounds for a reconcile pass: a converged key takes well below 5 ms, one write to the API server
/// 5 to 50 ms, a pass that asks a provider seconds.
const RECONCILE_SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds for one call to a provider: from a warm connection nearby to the time-out.
const PROVIDER_SECONDS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Who reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// `LLMKey`.
    LLMKey,
    /// `RotationPolicy` and `ClusterRotationPolicy`.
    RotationPolicy,
    /// `LLMProvider`.
    LLMProvider,
    /// The sweeper that looks for keys that nobody's ledger knows.
    Sweeper,
}

impl Controller {
    /// Value of the label `controller`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LLMKey => "llm_key",
            Self::RotationPolicy => "rotation_policy",
            Self::LLMProvider => "llm_provider",
            Self::Sweeper => "sweeper",
        }
    }
}

/// How a reconcile pass, or one effect of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Something was changed, as planned.
    Applied,
    /// Nothing can be done before something else happens: a person, a provider, a time.
    Waiting,
    /// Nothing was to be done.
    Skipped,
    /// It did not work and will be tried again.
    Failed,
    /// It was dropped before its end: shutdown, lost leadership, a panic.
    Abandoned,
}

impl Outcome {
    /// Value of the label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// How a rotation or a revocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    /// As intended.
    Succeeded,
    /// Given up, after the last attempt.
    Failed,
}

impl Completion {
    /// Value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// How a sweep of a provider account ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SweepResult {
    /// Every key of this installation is in its ledger.
    Clean,
    /// There were others, or ledgers that are older than their keys.
    Orphans,
    /// The account or the ledgers could not be read whole: it counts for nothing.
    Void,
}

impl SweepResult {
    /// Value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Orphans => "orphans",
            Self::Void => "void",
        }
    }
}

/// How a reading of what an account's keys have used ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadResult {
    /// Every report was read whole.
    Read,
    /// One of them was not: what was read before stays.
    Failed,
}

impl ReadResult {
    /// Value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Failed => "failed",
        }
    }
}

const fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Rejected => "rejected",
        Verdict::Disabled => "disabled",
        Verdict::Expired => "expired",
        Verdict::RestrictedScope => "restricted_scope",
        Verdict::OutOfCredit => "out_of_credit",
        Verdict::RateLimited { .. } => "rate_limited",
        Verdict::ProviderDown => "provider_down",
        Verdict::AddressRefused => "address_refused",
        Verdict::Unknown => "unknown",
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// The registry and everything in it; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    families: Arc<Families>,
    keys: Option<Arc<KeyTable>>,
    keyring: Arc<KeyringTable>,
}

struct Families {
    reconciles: Counters<2>,
    reconcile_seconds: Histograms<1>,
    effects: Counters<2>,
    validations: Counters<2>,
    validation_failures: Counters<2>,
    validation_seconds: Histograms<1>,
    rotations: Counters<1>,
    revocations: Counters<2>,
    provider_requests: Counters<3>,
    provider_seconds: Histograms<2>,
    sweeps: Counters<1>,
    usage_reads: Counters<2>,
    orphans_revoked: Counter,
    frozen_accounts: Family<Labels<1>, Gauge>,
    provider_problems: Family<Labels<1>, Gauge>,
    leader: Gauge,
    released_waiting: Family<Labels<1>, Gauge>,
    keyring_unusable: Gauge,
}

impl Metrics {
    /// All metrics at zero. Without `per_key`, nothing carries the name of a key.
    pub fn new(version: &'static str, per_key: bool) -> Self {
        let mut registry = Registry::with_prefix("llmkey");
        let r = &mut registry;
        let families = Families {
            reconciles: added(r, "reconcile", "Reconcile passes; alert on a rising rate of failed"),
            reconcile_seconds: timed(r, "reconcile_duration", "Duration of reconcile passes", || {
                Histogram::new(RECONCILE_SECONDS)
            }),
            effects: added(
                r,
                "effect",
                "Effects of the plans: each write and each call that changes something",
            ),
            validations: added(r, "validation", "Answers of providers on whether a key works"),
            validation_failures: added(
                r,
                "validation_failures",
                "Answers other than that the key works; alert on rejected, disabled and expired",
            ),
            validation_seconds: timed(r, "validation_duration", "Duration of validation calls", || {
                Histogram::new(PROVIDER_SECONDS)
            }),
            rotations: added(r, "rotations", "Rotations that ended; alert on failed"),
            revocations: added(r, "revocations", "Revocations that ended, by the evidence they rest on"),
            provider_requests: added(
                r,
                "provider_requests",
                "Requests to providers, by the class of the answer",
            ),
            provider_seconds: timed(
                r,
                "provider_request_duration",
                "Duration of requests to providers",
                || Histogram::new(PROVIDER_SECONDS),
            ),
            sweeps: added(r, "sweeps", "Sweeps of provider accounts for keys that no ledger holds"),
            usage_reads: added(
                r,
                "usage_reads",
                "Readings of what an account's keys have used; alert on failed for hours",
            ),
            orphans_revoked: added(r, "orphans_revoked", "Keys that no ledger held and that were revoked"),
            frozen_accounts: added(
                r,
                "frozen_accounts",
                "Provider accounts at which nothing is made or revoked until a person acknowledges; alert on any",
            ),
            provider_problems: added(
                r,
                "provider_problems",
                "LLMProviders whose condition Ready is False, by its reason; alert on any",
            ),
            leader: added(r, "leader", "1 if this process leads; alert if no process does"),
            released_waiting: added(
                r,
                "released_waiting",
                "Deleted LLMKeys whose keys wait for somebody before they are revoked; alert on any",
            ),
            keyring_unusable: added(
                r,
                "keyring_unusable",
                "1 if the keyring cannot be used as it is now and the keys that were read before are used; alert on 1",
            ),
        };
        registry.register("build", "The version that runs", Info::new([("version", version)]));
        let keys = per_key.then(Arc::<KeyTable>::default);
        if let Some(keys) = &keys {
            registry.register_collector(Box::new(Arc::clone(keys)));
        }
        let keyring = Arc::<KeyringTable>::default();
        registry.register_collector(Box::new(Arc::clone(&keyring)));
        Self { registry: Arc::new(registry), families: Arc::new(families), keys, keyring }
    }

    /// Counts one pass of a controller.
    pub fn reconciled(&self, controller: Controller, outcome: Outcome, duration: Duration) {
        let controller = ("controller", controller.as_str());
        self.families.reconciles.get_or_create(&[controller, ("outcome", outcome.as_str())]).inc();
        self.families.reconcile_seconds.get_or_create(&[controller]).observe(duration.as_secs_f64());
    }

    /// Begins a pass that counts as abandoned unless it is [finished](Pass::finish).
    pub fn begin(&self, controller: Controller, clock: Clock) -> Pass {
        Pass {
            metrics: self.clone(),
            controller,
            clock,
            begun: clock.monotonic(),
            outcome: Outcome::Abandoned,
        }
    }

    /// Counts one effect; `effect` is the name of its variant.
    pub fn effect(&self, effect: &'static str, outcome: Outcome) {
        self.families.effects.get_or_create(&[("effect", effect), ("outcome", outcome.as_str())]).inc();
    }

    /// Counts one answer on whether a key works.
    pub fn validated(&self, provider: ProviderType, verdict: Verdict, duration: Duration) {
        let provider = ("provider", provider.as_str());
        let labels = [provider, ("verdict", verdict_label(verdict))];
        self.families.validations.get_or_create(&labels).inc();
        if !verdict.accepts() {
            self.families.validation_failures.get_or_create(&labels).inc();
        }
        self.families.validation_seconds.get_or_create(&[provider]).observe(duration.as_secs_f64());
    }

    /// Counts one rotation that ended.
    pub fn rotated(&self, result: Completion) {
        self.families.rotations.get_or_create(&[("result", result.as_str())]).inc();
    }

    /// Counts one revocation that ended, by what it rests on, as `RevocationBasis::as_str` spells it.
    pub fn revoked(&self, basis: &'static str, result: Completion) {
        self.families.revocations.get_or_create(&[("basis", basis), ("result", result.as_str())]).inc();
    }

    /// Counts one request to a provider; `operation` and `class` are names of variants.
    pub fn requested(
        &self,
        provider: ProviderType,
        operation: &'static str,
        class: &'static str,
        duration: Duration,
    ) {
        let provider = ("provider", provider.as_str());
        let operation = ("operation", operation);
        self.families.provider_requests.get_or_create(&[provider, operation, ("class", class)]).inc();
        self.families.provider_seconds.get_or_create(&[provider, operation]).observe(duration.as_secs_f64());
    }

    /// Counts one sweep of an account.
    pub fn swept(&self, result: SweepResult) {
        self.families.sweeps.get_or_create(&[("result", result.as_str())]).inc();
    }

    /// Counts one reading of what an account's keys have used.
    pub fn usage_read(&self, provider: ProviderType, result: ReadResult) {
        let labels = [("provider", provider.as_str()), ("result", result.as_str())];
        self.families.usage_reads.get_or_create(&labels).inc();
    }

    /// Counts keys that a sweep revoked.
    pub fn orphans_revoked(&self, count: usize) {
        self.families.orphans_revoked.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Replaces what the gauge says of frozen accounts, by the freeze's reason. A reason that holds none has no series.
    pub fn set_frozen(&self, counts: &[(Reason, usize)]) {
        replace(&self.families.frozen_accounts, counts);
    }

    /// Replaces what the gauge says of `LLMProvider`s that are not ready, by the reason of that.
    pub fn set_provider_problems(&self, counts: &[(Reason, usize)]) {
        replace(&self.families.provider_problems, counts);
    }

    /// Says whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.families.leader.set(leads.into());
    }

    /// One ledger without an LLMKey waits for another reason than before, or no more. A reason for which none waits
    /// has no series.
    pub fn released_waits(&self, before: Option<Reason>, after: Option<Reason>) {
        let waiting = &self.families.released_waiting;
        let labels = |reason: Reason| [("reason", reason.as_str())];
        if let Some(reason) = after {
            waiting.get_or_create(&labels(reason)).inc();
        }
        if let Some(reason) = before {
            let left = waiting.get_or_create(&labels(reason)).dec() - 1;
            if left <= 0 {
                waiting.remove(&labels(reason));
            }
        }
    }

    /// Says whether the keyring cannot be used as it is now.
    pub fn set_keyring_unusable(&self, unusable: bool) {
        self.families.keyring_unusable.set(unusable.into());
    }

    /// Replaces what the gauge says of ledgers: how many need each key-encryption key, and how many do not tell.
    pub fn set_ledgers(&self, users: &BTreeMap<String, usize>, unknown: usize) {
        self.keyring.set(users, unknown);
    }

    /// Replaces what the gauges say of one key.
    pub fn set_key(&self, namespace: &str, name: &str, gauges: KeyGauges) {
        if let Some(keys) = &self.keys {
            keys.set(namespace, name, gauges);
        }
    }

    /// Ends the series of a key that is gone.
    pub fn forget_key(&self, namespace: &str, name: &str) {
        if let Some(keys) = &self.keys {
            keys.forget(namespace, name);
        }
    }

    /// Everything as `OpenMetrics` text. Fails only if writing to memory fails.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// One pass of a controller, being measured.
#[must_use]
pub struct Pass {
    metrics: Metrics,
    controller: Controller,
    clock: Clock,
    begun: Duration,
    outcome: Outcome,
}

impl Pass {
    /// Ends the pass.
    pub fn finish(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let duration = self.clock.monotonic().saturating_sub(self.begun);
        self.metrics.reconciled(self.controller, self.outcome, duration);
    }
}

/// These series, and no others.
fn replace(gauge: &Family<Labels<1>, Gauge>, counts: &[(Reason, usize)]) {
    gauge.clear();
    for (reason, count) in counts {
        gauge.get_or_create(&[("reason", reason.as_str())]).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
}

fn added<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn timed<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    new: fn() -> Histogram,
) -> Histograms<N> {
    let family = Family::new_with_constructor(new);
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

#[cfg(test)]
mod tests;
