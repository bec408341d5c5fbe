//! A herd: the interval of thousands of keys is halved at once, so that all of them are due. `docs/evidence/README.md` says what
//! is judged.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use llmkey_operator::api::{ClusterRotationPolicy, LLMKey, LLMProvider};
use llmkey_operator::sandbox::{Effect, LogEntry, Operation};
use llmkey_operator::testbed::apply;
use serde_json::{Value, json};

use super::load::in_parallel;
use super::operator::Operator;
use super::{Bed, CONCURRENCY, Failure};

/// Durations of the operator and of specs are divided by this: an hour is six seconds.
const DIVISOR: u32 = 600;
const HOUR: Duration = Duration::from_secs(3600 / DIVISOR as u64);
/// Workloads that use a key each; more than restart at the same time in one namespace.
const WORKLOADS: usize = 12;
/// Hours between two rotations before, and after.
const INTERVALS: [u64; 2] = [120, 60];
const PROVIDER: &str = "herd";
const POLL: Duration = Duration::from_millis(200);
const CREATED_WITHIN: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// LLMKeys.
    #[arg(long, default_value_t = 5000)]
    keys: usize,
    /// Keys that the account makes in an hour, `limits.mintsPerHour`.
    #[arg(long, default_value_t = 120)]
    limit: usize,
    /// The operator's program [default: beside this one].
    #[arg(long)]
    operator: Option<PathBuf>,
    /// File for the page; without it only the lines are printed.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// One thing that must hold.
struct Check {
    what: &'static str,
    found: String,
    holds: bool,
}

/// Runs it. False if something does not hold.
pub async fn run(arguments: Arguments) -> Result<bool, Failure> {
    let bed = Bed::make(arguments.operator.clone(), &json!({"rollout": {"enabled": true}})).await?;
    let herd = Herd { bed: &bed, keys: arguments.keys, limit: arguments.limit };
    let checks = herd.run().await?;
    let failed = checks.iter().filter(|check| !check.holds).count();
    let rows = checks.iter().map(|Check { what, found, holds }| {
        format!("| {} | {what} | {found} |\n", if *holds { "passed" } else { "**FAILED**" })
    });
    let lines: String = rows.collect();
    let closing = format!("{} passed, {failed} failed", checks.len() - failed);
    let page = format!(
        "# A herd\n\nWritten by `make herd`. What it proves: [README.md](README.md#the-herd).\n\nRun of {}: llmkey-operator {}, \
         Kubernetes {}; {} keys, {} mints in an hour, an hour is {} s here.\n\n| | What must hold | Found |\n|---|---|---|\n\
         {lines}\n{closing}\n",
        bed.clock.now().format("%-d %B %Y, %H:%M UTC"),
        env!("CARGO_PKG_VERSION"),
        bed.cluster.version(),
        arguments.keys,
        arguments.limit,
        HOUR.as_secs(),
    );
    if let Some(path) = arguments.write {
        std::fs::write(path, &page)?;
    }
    writeln!(std::io::stdout(), "{lines}{closing}")?;
    Ok(failed == 0)
}

struct Herd<'a> {
    bed: &'a Bed,
    keys: usize,
    limit: usize,
}

impl Herd<'_> {
    async fn run(&self) -> Result<Vec<Check>, Failure> {
        let bed = self.bed;
        let namespace = bed.cluster.namespace("herd").await?;
        let workplace = bed.cluster.namespace("workplace").await?;
        self.ground(&namespace, &workplace).await?;
        let mut operator = self.start().await?;
        tracing::info!(keys = self.keys, "keys are made");
        self.create(&namespace, &workplace).await?;
        let all = self.keys + WORKLOADS;
        self.until(all, CREATED_WITHIN, |at| at.version == Some(1)).await?;
        let kubelet = Kubelet::start(bed, &workplace);
        self.workloads(&workplace).await?;
        let youngest = bed.clock.now();
        self.limit().await?;
        // All of them are older than the interval will be, and none is older than it is.
        let due = youngest + chrono::Duration::from_std(HOUR * u32::try_from(INTERVALS[1])?)?;
        tokio::time::sleep((due - bed.clock.now()).to_std().unwrap_or_default()).await;
        let early = self.mints().len();
        let halved = bed.clock.now();
        let snapshot = bed.snapshot(operator.pid()).await?;
        tracing::info!(early, "the interval is halved");
        self.interval(INTERVALS[1]).await?;
        let half = early + all / 2;
        while self.mints().len() < half {
            operator.alive()?;
            tokio::time::sleep(POLL).await;
        }
        tracing::info!("the operator is killed and starts again");
        operator.kill()?;
        let leases: Api<Lease> = Api::namespaced(bed.admin.clone(), &bed.installation.namespace);
        leases.delete(&bed.installation.name, &DeleteParams::default()).await?;
        let mut operator = self.start().await?;
        let predicted =
            HOUR.as_secs_f64() * f64::from(u32::try_from(all)?) / f64::from(u32::try_from(self.limit)?);
        let longest = Duration::from_secs_f64(predicted * 2.0 + 120.0);
        self.until(all, longest, |at| at.version == Some(2) && at.open == 0).await?;
        operator.alive()?;
        let took = (bed.clock.now() - halved).to_std().unwrap_or_default().as_secs_f64();
        let requests = snapshot.requests_of(&bed.username)?;
        drop(kubelet);
        operator.stop().await?;
        let mints = self.mints();
        let writes: u64 = requests
            .iter()
            .filter(|(name, _)| {
                ["create", "update", "patch", "delete"].iter().any(|verb| name.starts_with(verb))
                    && !name.contains("leases")
            })
            .map(|(_, count)| count)
            .sum();
        let restarts: u64 = requests
            .iter()
            .filter(|(name, _)| name.starts_with("patch deployments"))
            .map(|(_, count)| count)
            .sum();
        let most = busiest(mints.get(early..).unwrap_or_default(), HOUR);
        let live = bed.sandbox.live_keys(bed.sandbox.project_id()).len();
        let extra = mints.len().saturating_sub(2 * all);
        tracing::info!(
            writes = format!("{:.1}", f64::from(u32::try_from(writes)?) / f64::from(u32::try_from(all)?)),
            "to the API server for each rotation, waiting for the account included"
        );
        Ok(vec![
            Check {
                what: "nothing is due before the interval is halved",
                found: format!("{early} keys made before"),
                holds: early == all,
            },
            Check {
                what: "the account makes no more keys in any hour than its limit (and what was in flight when the operator was killed)",
                found: format!("at most {most}, limit {}", self.limit),
                holds: most <= self.limit + CONCURRENCY,
            },
            Check {
                what: "it ends in the time that the limit predicts, and a tenth more, and 60 s for overlaps and the restart",
                found: format!("{took:.0} s, predicted {predicted:.0} s"),
                holds: took <= predicted * 1.1 + 60.0,
            },
            Check {
                what: "the restart adds nothing: one key for each LLMKey, and those that were in flight when the operator was killed",
                found: format!("{extra} more"),
                holds: extra <= CONCURRENCY,
            },
            Check {
                what: "every older key is revoked, every newer one lives",
                found: format!("{live} keys live"),
                holds: live == all,
            },
            Check {
                what: "no storm of restarts: each workload is restarted once",
                found: format!("{restarts} restarts of {WORKLOADS} workloads"),
                holds: restarts == u64::try_from(WORKLOADS)?,
            },
        ])
    }

    async fn start(&self) -> Result<Operator, Failure> {
        let arguments = [format!("--test-time-divisor={DIVISOR}"), "--rollout=true".to_owned()];
        let mut operator = Operator::spawn_with(self.bed, &arguments)?;
        operator.ready().await?;
        Ok(operator)
    }

    /// The account, and the policies: workloads count in one of them.
    async fn ground(&self, namespace: &str, workplace: &str) -> Result<(), Failure> {
        let Bed { sandbox, admin, installation, .. } = self.bed;
        let host = sandbox.addr().to_string();
        let policy = |name: &str, consumers: &str| {
            json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "ClusterRotationPolicy", "metadata": {"name": name},
                "spec": {
                    "schedule": {"interval": format!("{}h", INTERVALS[0])}, "jitter": "0s", "maxConcurrent": 1000,
                    "overlap": {"minimum": "0s", "evidence": {"consumers": consumers, "quietFor": "0s"}},
                },
            })
        };
        let ground = [
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": PROVIDER, "namespace": installation.namespace,
                             "labels": {"llmkeys.dev/admin-credential": "true"}},
                "stringData": {"credential": sandbox.admin_key(), "host": host},
            }),
            json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": PROVIDER},
                "spec": {
                    "type": "OpenAI", "baseURL": sandbox.base_url(), "caBundle": sandbox.ca_pem(),
                    "addresses": "AllowPrivate", "openAI": {"project": sandbox.project_id()},
                    "adminCredentialRef": {"name": PROVIDER}, "allowedNamespaces": [namespace, workplace],
                },
            }),
            policy("herd", "Ignored"),
            policy("workplace", "Required"),
        ];
        Ok(apply(admin, &ground).await?)
    }

    async fn create(&self, namespace: &str, workplace: &str) -> Result<(), Failure> {
        let keys = |count: usize, namespace: &str, policy: &'static str| {
            let api: Api<LLMKey> = Api::namespaced(self.bed.admin.clone(), namespace);
            in_parallel(count, move |index| {
                let api = api.clone();
                async move {
                    let key = serde_json::from_value(json!({
                        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": format!("key-{index}")},
                        "spec": {
                            "providerRef": {"name": PROVIDER}, "source": {"mint": {}},
                            "rotationPolicyRef": {"kind": "ClusterRotationPolicy", "name": policy},
                            // Checks at slots would be most of the load at this pace.
                            "validation": {"interval": "168h"},
                        },
                    }))
                    .map_err(kube::Error::SerdeError)?;
                    api.create(&kube::api::PostParams::default(), &key).await.map(drop)
                }
            })
        };
        keys(self.keys, namespace, "herd").await?;
        keys(WORKLOADS, workplace, "workplace").await
    }

    async fn workloads(&self, workplace: &str) -> Result<(), Failure> {
        let deployments: Vec<Value> = (0..WORKLOADS)
            .map(|index| {
                let name = format!("web-{index}");
                json!({
                    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": workplace},
                    "spec": {
                        "replicas": 1, "selector": {"matchLabels": {"app": name}}, "strategy": {"type": "Recreate"},
                        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                            {"name": "app", "image": "app", "envFrom": [{"secretRef": {"name": format!("key-{index}")}}]},
                        ]}},
                    },
                })
            })
            .collect();
        Ok(apply(&self.bed.admin, &deployments).await?)
    }

    /// From now on the account makes so many keys in an hour: the first ones were made without a limit.
    async fn limit(&self) -> Result<(), Failure> {
        let api: Api<PartialObjectMeta<LLMProvider>> = Api::all(self.bed.admin.clone());
        let patch = json!({"spec": {"limits": {"mintsPerHour": self.limit}}});
        api.patch_metadata(PROVIDER, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn interval(&self, hours: u64) -> Result<(), Failure> {
        let api: Api<PartialObjectMeta<ClusterRotationPolicy>> = Api::all(self.bed.admin.clone());
        let patch = json!({"spec": {"schedule": {"interval": format!("{hours}h")}}});
        for policy in ["herd", "workplace"] {
            api.patch_metadata(policy, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    /// Every key that the provider made so far: when.
    fn mints(&self) -> Vec<DateTime<Utc>> {
        let made = |entry: &LogEntry| {
            entry.operation == Operation::CreateServiceAccount && entry.effect == Effect::Committed
        };
        let log = self.bed.sandbox.log_of(self.bed.sandbox.project_id());
        log.iter().filter(|entry| made(entry)).map(|entry| entry.time).collect()
    }

    /// Waits until so many keys are as asked for.
    async fn until(
        &self,
        count: usize,
        within: Duration,
        holds: impl Fn(&At) -> bool,
    ) -> Result<(), Failure> {
        let begin = self.bed.clock.monotonic();
        let api: Api<LLMKey> = Api::all(self.bed.admin.clone());
        loop {
            let keys = api.list(&ListParams::default()).await?.items;
            let found = keys.iter().filter(|key| holds(&At::of(key))).count();
            if found >= count {
                return Ok(());
            }
            if self.bed.clock.monotonic().saturating_sub(begin) > within {
                return Err(format!("{found} of {count} keys are there after {} s", within.as_secs()).into());
            }
            tracing::info!(found, count, "waiting");
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

/// Where a key stands.
struct At {
    version: Option<i32>,
    /// Versions that are not at their end, but for the current one.
    open: usize,
}

impl At {
    fn of(key: &LLMKey) -> Self {
        let Some(status) = &key.status else { return Self { version: None, open: 0 } };
        let ended = ["Current", "Revoked", "Retained", "Abandoned"];
        let open = status.versions.iter().filter(|version| !ended.contains(&version.state.as_str())).count();
        Self { version: status.current_version, open }
    }
}

/// The most times within any stretch of this length.
fn busiest(times: &[DateTime<Utc>], stretch: Duration) -> usize {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (mut first, mut most) = (0, 0);
    for (last, at) in sorted.iter().enumerate() {
        while (*at - sorted[first]).to_std().unwrap_or_default() >= stretch {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Says of each pod of a namespace that it is ready, as a kubelet does: no node runs. Ends when dropped.
struct Kubelet(tokio::task::JoinHandle<()>);

impl Kubelet {
    fn start(bed: &Bed, namespace: &str) -> Self {
        let pods: Api<Pod> = Api::namespaced(bed.admin.clone(), namespace);
        Self(tokio::spawn(async move {
            let ready =
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            let mut events = std::pin::pin!(watcher(pods.clone(), watcher::Config::default()));
            while let Some(event) = events.next().await {
                let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
                let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
                if !running && pod.metadata.deletion_timestamp.is_none() {
                    let params = PatchParams::default();
                    drop(pods.patch_status(&pod.name_any(), &params, &Patch::Merge(&ready)).await);
                }
            }
        }))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stretch_is_found_wherever_it_is() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let times: Vec<_> = [0, 5, 9, 10, 11, 30].map(at).into();
        assert_eq!(busiest(&times, Duration::from_secs(6)), 3);
        assert_eq!(busiest(&times, Duration::from_secs(7)), 4);
        assert_eq!(busiest(&[], Duration::from_secs(7)), 0);
    }
}
