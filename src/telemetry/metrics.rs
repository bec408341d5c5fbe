//! Metrics in the text format of `OpenMetrics`, prefix `llmkey_`; `docs/metrics.md` lists them.
//!
//! Labels come from the program's own text (`&'static str`), never from data, so that their number is
//! bounded. The gauges of single keys carry namespace and name, and can be switched off.

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
use crate::api::ProviderType;
use crate::domain::health::Verdict;
use crate::kube_ext::clock::Clock;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    leader: Gauge,
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
            leader: added(r, "leader", "1 if this process leads; alert if no process does"),
        };
        registry.register("build", "The version that runs", Info::new([("version", version)]));
        let keys = per_key.then(Arc::<KeyTable>::default);
        if let Some(keys) = &keys {
            registry.register_collector(Box::new(Arc::clone(keys)));
        }
        Self { registry: Arc::new(registry), families: Arc::new(families), keys }
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

    /// Counts one revocation that ended; `basis` as the status spells it: `ConsumersProven`, ...
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

    /// Says whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.families.leader.set(leads.into());
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

    /// Ends the series of all keys: a process that leads no more must not go on reporting them.
    pub fn forget_all_keys(&self) {
        if let Some(keys) = &self.keys {
            keys.clear();
        }
    }

    /// Everything as text of the type [`CONTENT_TYPE`]. Fails only if writing to memory fails.
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
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SECOND: Duration = Duration::from_secs(1);
    const KEY: KeyGauges = KeyGauges {
        state: "Valid",
        ready: true,
        next_rotation: Some(1_800_000_000),
        last_probe: Some(1_700_000_000),
        published: Some(1_600_000_000),
    };

    /// Every metric, with at least one series each.
    fn all() -> Metrics {
        let metrics = Metrics::new("1.2.3", true);
        metrics.reconciled(Controller::LLMKey, Outcome::Applied, SECOND);
        metrics.effect("write_target", Outcome::Failed);
        metrics.validated(ProviderType::OpenAI, Verdict::Rejected, SECOND);
        metrics.validated(ProviderType::OpenAI, Verdict::Valid, SECOND);
        metrics.rotated(Completion::Succeeded);
        metrics.revoked("ConsumersProven", Completion::Succeeded);
        metrics.requested(ProviderType::OpenAI, "mint", "ok", SECOND);
        metrics.set_leader(true);
        metrics.set_key("team-a", "chat", KEY);
        metrics.set_key("team-b", "chat", KeyGauges { state: "Unknown", ..KeyGauges::default() });
        metrics
    }

    /// A reader that takes what the `OpenMetrics` specification demands, and nothing else, of the parts
    /// that we use: family name → (type, labels).
    fn read(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        let mut series = BTreeSet::new();
        let mut family = String::new();
        let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
        for line in body.lines() {
            if let Some(meta) = line.strip_prefix("# ") {
                let mut words = meta.splitn(3, ' ');
                let (keyword, name, rest) =
                    (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                match keyword {
                    "HELP" => {
                        assert!(!families.contains_key(name), "{name} is in two places");
                        assert!(rest.ends_with('.') && !rest.ends_with(".."), "{line}");
                        family = name.to_owned();
                    }
                    "TYPE" => {
                        assert_eq!(name, family);
                        families.insert(family.clone(), (rest.to_owned(), BTreeSet::new()));
                    }
                    "UNIT" => assert!(name == family && name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (id, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(id.to_owned()), "twice: {id}");
            let (name, labels) =
                id.split_once('{').map_or((id, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
            let (kind, known) = families.get_mut(&family).unwrap();
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{other}"),
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line}");
            assert!(name.starts_with("llmkey_"), "{line}");
            for label in labels.split(',').filter(|l| !l.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2, "{line}");
                if label != "le" {
                    known.insert(label.to_owned());
                }
            }
        }
        families
    }

    #[test]
    fn the_text_is_valid() {
        assert_eq!(read(&all().encode().unwrap()).len(), 17);
        assert_eq!(read(&Metrics::new("1.2.3", true).encode().unwrap()).len(), 2);
    }

    #[test]
    fn the_documentation_lists_every_metric_with_its_labels() {
        let shown = |(family, (kind, labels)): (String, (String, BTreeSet<String>))| {
            let suffix = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let labels: Vec<String> = labels.iter().map(|l| format!("`{l}`")).collect();
            format!("| `{family}{suffix}` | {kind} | {} |", labels.join(", "))
        };
        let expected: BTreeSet<String> = read(&all().encode().unwrap()).into_iter().map(shown).collect();
        let documented: BTreeSet<String> = include_str!("../../docs/metrics.md")
            .lines()
            .filter(|line| line.starts_with("| `llmkey_"))
            .map(|line| line.split('|').take(4).collect::<Vec<_>>().join("|") + "|")
            .collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn a_key_that_is_gone_has_no_series() {
        let metrics = all();
        assert!(metrics.encode().unwrap().contains(r#"namespace="team-a",name="chat",state="Valid"} 1"#));
        metrics.set_key("team-a", "chat", KeyGauges { state: "Invalid", ..KEY });
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"state="Invalid"} 1"#) && !text.contains(r#"state="Valid"}"#), "{text}");
        metrics.forget_key("team-a", "chat");
        assert!(!metrics.encode().unwrap().contains("team-a"));
        metrics.forget_all_keys();
        assert!(!metrics.encode().unwrap().contains("llmkey_key_"));
    }

    #[test]
    fn names_of_keys_can_be_kept_out() {
        let metrics = Metrics::new("1.2.3", false);
        metrics.set_key("team-a", "chat", KEY);
        assert!(!metrics.encode().unwrap().contains("team-a"));
    }

    #[test]
    fn only_a_key_that_works_is_no_failure() {
        let text = all().encode().unwrap();
        assert!(text.contains(r#"validation_failures_total{provider="OpenAI",verdict="rejected"} 1"#));
        assert!(!text.contains(r#"validation_failures_total{provider="OpenAI",verdict="valid"}"#), "{text}");
    }

    #[test]
    fn a_dropped_pass_counts_as_abandoned() {
        let metrics = Metrics::new("1.2.3", true);
        let clock = Clock::start();
        metrics.begin(Controller::Sweeper, clock).finish(Outcome::Skipped);
        drop(metrics.begin(Controller::Sweeper, clock));
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"{controller="sweeper",outcome="skipped"} 1"#), "{text}");
        assert!(text.contains(r#"{controller="sweeper",outcome="abandoned"} 1"#), "{text}");
    }
}
