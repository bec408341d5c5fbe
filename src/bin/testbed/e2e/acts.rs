//! What happens, in order, while the probers run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use llmkey_operator::api::LLMKey;
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::sandbox::{Effect, Operation};
use llmkey_operator::testbed::apply;
use serde_json::json;

use super::Failure;
use super::checks::{Report, begun, lines, outage, refusals, same};
use super::stage::{IMAGE, Stage, TAGS, current, is, provider_id, revoked, until, version};
use super::workloads::{self, CHAT, OPERATOR, RELEASE, REPLICAS, STREAM, STRUCK, TENANT, Way};

/// A key is made and delivered within this, also on a crowded machine.
const DELIVERED_WITHIN: Duration = Duration::from_secs(240);
/// A schedule may come only with the next minute.
const DUE_WITHIN: Duration = Duration::from_secs(300);
/// Restarts begin a minute after the Secret got the new key, and workloads are looked at every 30 s.
pub const REPLACED_WITHIN: Duration = Duration::from_secs(600);
/// The provider is not to have seen the older key for so long, as the policy says.
const QUIET: chrono::Duration = chrono::Duration::seconds(10);

/// All acts, or the first ones.
pub async fn all(stage: &mut Stage, report: &mut Report, short: bool) -> Result<(), Failure> {
    let mut play = Play { stage, report, declared: BTreeSet::new() };
    play.install().await?;
    play.begin().await?;
    play.schedule().await?;
    if short {
        return Ok(());
    }
    play.break_glass().await?;
    play.pin().await?;
    play.disruptions().await?;
    play.upgrade().await?;
    play.restore().await?;
    play.uninstall().await
}

/// The test as it is played.
pub struct Play<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) report: &'a mut Report,
    /// Last characters of keys whose end was declared: they may be refused.
    declared: BTreeSet<String>,
}

impl Play<'_> {
    async fn install(&mut self) -> Result<(), Failure> {
        self.report.say("helm install, with the chart's own settings and leave to restart workloads")?;
        let namespaces: Api<Namespace> = Api::all(self.stage.client.clone());
        let namespace = serde_json::from_value(json!({
            "metadata": {"name": OPERATOR, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        let values = json!({"image": {"repository": IMAGE, "tag": TAGS[0]}, "rollout": {"enabled": true}});
        self.stage.helm(&["install"], &values).await?;
        let running = until(DELIVERED_WITHIN, "two replicas are ready", async || {
            Ok(Some(self.operator_pods().await?).filter(|running| running.len() == 2))
        })
        .await?;
        self.report.check("two replicas run the operator's own image", same(&running, &vec![TAGS[0]; 2]))?;
        Ok(())
    }

    /// Tags of the operator's pods that are ready.
    pub(super) async fn operator_pods(&self) -> Result<Vec<&'static str>, Failure> {
        let pods = self.stage.pods(OPERATOR, &format!("app.kubernetes.io/instance={RELEASE}")).await?;
        let tag = |pod: &Pod| {
            let image = pod.spec.as_ref()?.containers.first()?.image.clone()?;
            TAGS.into_iter().find(|tag| image.ends_with(&format!(":{tag}")))
        };
        Ok(pods.iter().filter(|pod| ready(pod)).filter_map(tag).collect())
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        self.report.say("an account, keys, and Deployments that use them")?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}});
        apply(&self.stage.client, &[namespace]).await?;
        apply(&self.stage.client, &workloads::keys(&self.stage.sandbox)).await?;
        for name in [CHAT, STREAM].into_iter().chain(STRUCK) {
            self.stage.key_when(name, DELIVERED_WITHIN, "delivered", |key| is(key, "Ready")).await?;
        }
        let mut objects = vec![workloads::authority(&self.stage.sandbox)];
        let dir = self.stage.lines.display().to_string();
        objects.extend(self.stage.ways.iter().map(|way| workloads::deployment(*way, &dir)));
        apply(&self.stage.client, &objects).await?;
        for way in &self.stage.ways {
            self.stage.rolled_out(way.name(), REPLICAS).await?;
        }
        until(DELIVERED_WITHIN, "every pod uses its key", async || {
            let lines = lines(&self.stage.lines)?;
            let mut users = 0;
            for way in &self.stage.ways {
                users += begun(&lines, *way, &self.last_four(way.key()).await?).len();
            }
            Ok((users == self.stage.ways.len() * REPLICAS).then_some(()))
        })
        .await?;
        self.calm("every call is accepted from the first one on")
    }

    async fn last_four(&self, key: &str) -> Result<String, Failure> {
        let key: LLMKey = self.stage.tenant().get(key).await?;
        Ok(key.status.and_then(|status| status.last_four).unwrap_or_default())
    }

    /// No call was refused, but with keys whose end was declared.
    pub(super) fn calm(&mut self, what: &str) -> Result<(), Failure> {
        let lines = lines(&self.stage.lines)?;
        Ok(self.report.check(what, refusals(&lines, &self.declared))?)
    }

    async fn schedule(&mut self) -> Result<(), Failure> {
        self.report.say("a rotation by schedule: the policy's next minute")?;
        let (before, generations) = (self.pod_names(Way::Reload).await?, self.generations().await?);
        // Once an hour is the most that a schedule may ask for: this hour's turn comes in a minute.
        let minute = (Clock::start().now() + TimeDelta::minutes(1)).minute();
        let policy = workloads::policy(&json!({"cron": {"expression": format!("{minute} * * * *")}}));
        apply(&self.stage.client, &[policy]).await?;
        for name in [CHAT, STREAM] {
            let key = self
                .stage
                .key_when(name, DUE_WITHIN, "version 2 is published", |key| current(key) == Some(2))
                .await?;
            let reason = version(&key, 2).map(|version| version.reason.clone()).unwrap_or_default();
            self.report.check(
                &format!("{name} was replaced by its schedule"),
                same(&reason.as_str(), &"Schedule"),
            )?;
        }
        self.read_anew(2).await?;
        self.replaced(1, 2, generations).await?;
        let now = self.pod_names(Way::Reload).await?;
        self.report.check("by-reload was not restarted", same(&now, &before))?;
        self.calm("no call was refused during the rotation")
    }

    /// How soon the pods that read the file anew had a version.
    async fn read_anew(&mut self, number: i32) -> Result<(), Failure> {
        let key: LLMKey = self.stage.tenant().get(STREAM).await?;
        let told = version(&key, number).ok_or("no such version")?;
        let four = told.last_four.clone().unwrap_or_default();
        let published: DateTime<Utc> = told.published_at.as_deref().unwrap_or_default().parse()?;
        let times = until(DELIVERED_WITHIN, "by-reload reads the new key", async || {
            let times: Vec<_> = begun(&lines(&self.stage.lines)?, Way::Reload, &four).into_values().collect();
            Ok((times.len() == REPLICAS).then_some(times))
        })
        .await?;
        let late = times.into_iter().max().map_or(0.0, |last| (last - published).as_seconds_f64());
        Ok(self.report.check(
            "by-reload uses the new key by itself",
            Ok(format!("{late:.1} s after it was published")),
        )?)
    }

    /// Both keys in use have leaked. Those who read a key once have a dead one until somebody restarts them.
    async fn break_glass(&mut self) -> Result<(), Failure> {
        self.report.say("break-glass: version 2 of both keys is listed in revokedVersions")?;
        let leaked = [(CHAT, self.last_four(CHAT).await?), (STREAM, self.last_four(STREAM).await?)];
        self.declared.extend(leaked.iter().map(|(_, four)| four.clone()));
        for (name, _) in &leaked {
            self.stage.patch_key(name, json!({"spec": {"revokedVersions": [2]}})).await?;
        }
        for (name, _) in &leaked {
            let done = |key: &LLMKey| current(key) == Some(3) && revoked(key, 2);
            let key = self
                .stage
                .key_when(name, DELIVERED_WITHIN, "version 2 is revoked, version 3 delivered", done)
                .await?;
            let basis =
                version(&key, 2).and_then(|version| version.revocation_basis.clone()).unwrap_or_default();
            self.report
                .check(&format!("version 2 of {name} ended at once"), same(&basis.as_str(), &"Explicit"))?;
        }
        let deployments: Api<Deployment> = self.stage.tenant();
        for way in self.stage.restarted() {
            deployments.restart(way.name()).await?;
        }
        for way in self.stage.restarted() {
            self.stage.rolled_out(way.name(), REPLICAS).await?;
        }
        for way in self.stage.ways.clone() {
            let four = self.last_four(way.key()).await?;
            until(DELIVERED_WITHIN, &format!("{} uses version 3", way.name()), async || {
                Ok((begun(&lines(&self.stage.lines)?, way, &four).len() >= REPLICAS).then_some(()))
            })
            .await?;
            let four =
                leaked.iter().find(|(name, _)| *name == way.key()).map_or("", |(_, four)| four.as_str());
            let refused = outage(&lines(&self.stage.lines)?, way, four).unwrap_or_default().as_secs_f64();
            let cure = if way == Way::Reload {
                "until it read the file anew"
            } else {
                "until a person restarted it"
            };
            self.report.say(&format!("          {} was refused for {refused:.1} s, {cure}", way.name()))?;
        }
        self.calm("no call was refused but those with the leaked keys")
    }

    /// The new key makes trouble: the older one is published again.
    async fn pin(&mut self) -> Result<(), Failure> {
        self.report.say("a rotation by hand, and a pin of the version before")?;
        let third = self.last_four(CHAT).await?;
        let generations = self.generations().await?;
        self.stage.rotate(CHAT, "again").await?;
        self.stage
            .key_when(CHAT, DELIVERED_WITHIN, "version 4 is published", |key| current(key) == Some(4))
            .await?;
        self.stage.patch_key(CHAT, json!({"spec": {"pinnedVersion": 3}})).await?;
        self.stage
            .key_when(CHAT, DELIVERED_WITHIN, "version 5 is published", |key| current(key) == Some(5))
            .await?;
        self.report.check(
            "the pinned version's key is delivered again",
            same(&self.last_four(CHAT).await?, &third),
        )?;
        self.replaced(4, 5, generations).await?;
        self.stage.patch_key(CHAT, json!({"spec": {"pinnedVersion": null}})).await?;
        self.calm("no call was refused on the way to the pinned key")
    }

    /// Waits until the workloads that use [`CHAT`] have its newer version and the older key is revoked, and checks the order.
    pub(super) async fn replaced(&mut self, older: i32, newer: i32, before: Vec<i64>) -> Result<(), Failure> {
        let what = format!("version {older} is revoked");
        let key = self.stage.key_when(CHAT, REPLACED_WITHIN, &what, |key| revoked(key, older)).await?;
        let basis =
            version(&key, older).and_then(|version| version.revocation_basis.clone()).unwrap_or_default();
        self.report.check(
            &format!("version {older} of {CHAT} was revoked on evidence"),
            same(&basis.as_str(), &"ConsumersProven"),
        )?;
        let mark = format!("{CHAT}/{newer}");
        for (way, before) in self.stage.restarted().into_iter().zip(before) {
            let deployment = self.stage.rolled_out(way.name(), REPLICAS).await?;
            let found = (restarted_for(&deployment), deployment.metadata.generation);
            self.report.check(
                &format!("{} was restarted for version {newer}, once", way.name()),
                same(&found, &(Some(mark.clone()), Some(before + 1))),
            )?;
        }
        let seen = self.silence(&key, older);
        self.report
            .check(&format!("the provider had not seen version {older} for 10 s before it ended"), seen)?;
        Ok(())
    }

    /// Generations of the Deployments that are restarted: each change of their templates counts.
    pub(super) async fn generations(&self) -> Result<Vec<i64>, Failure> {
        let deployments: Api<Deployment> = self.stage.tenant();
        let mut generations = Vec::new();
        for way in self.stage.restarted() {
            generations.push(deployments.get(way.name()).await?.metadata.generation.unwrap_or_default());
        }
        Ok(generations)
    }

    /// How long a version's key was not used before it was revoked, by the provider's own log.
    fn silence(&self, key: &LLMKey, number: i32) -> Result<String, String> {
        let id = provider_id(key, number).unwrap_or_default();
        let log = self.stage.sandbox.log();
        let done = |operations: &'static [Operation]| {
            let id = &id;
            log.iter().rev().find(move |entry| {
                operations.contains(&entry.operation)
                    && entry.effect == Effect::Committed
                    && entry.key_ids.contains(id)
            })
        };
        let used = done(&[Operation::ListModels, Operation::Complete]);
        let (Some(used), Some(ended)) = (used, done(&[Operation::DeleteServiceAccount])) else {
            return Err(format!("the provider's log does not tell of the key {id}"));
        };
        let silent = ended.time - used.time;
        let told = format!("{:.1} s", silent.as_seconds_f64());
        if silent >= QUIET { Ok(told) } else { Err(told) }
    }

    /// Pods of a workload, and how often a container of each was started again.
    pub(super) async fn pod_names(&self, way: Way) -> Result<BTreeMap<String, i32>, Failure> {
        let pods = self.stage.pods(TENANT, &format!("app={}", way.name())).await?;
        Ok(pods.iter().map(|pod| (pod.name_any(), restarts(pod))).collect())
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How often a container of the pod was started again.
pub fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

fn restarted_for(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get("llmkeys.dev/restarted-for").cloned()
}
