//! Acts that strike something while a key is being replaced: the operator, the API server, the node, the release.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use llmkey_operator::api::{self, LLMProvider};
use serde_json::json;

use super::Failure;
use super::acts::{Play, REPLACED_WITHIN, restarts};
use super::checks::same;
use super::stage::{IMAGE, TAGS, current, is, provider_id, revoked, until, version};
use super::workloads::{ACCOUNT, CHAT, OPERATOR, RELEASE, STREAM, STRUCK, TENANT, Way};

/// A struck component may be away for a Lease's time, and some more on a crowded machine.
const BACK_WITHIN: Duration = Duration::from_secs(300);

impl Play<'_> {
    /// Each disruption strikes while a key of its own is being replaced, and all of them while workloads move to a new key.
    pub(super) async fn disruptions(&mut self) -> Result<(), Failure> {
        self.report.say("a rotation by hand, and disruptions while its overlap is open")?;
        let generations = self.generations().await?;
        self.stage.rotate(CHAT, "disrupted").await?;
        self.stage
            .key_when(CHAT, BACK_WITHIN, "version 6 is published", |key| current(key) == Some(6))
            .await?;
        let before = self.prober_restarts().await?;

        let leader = self.leader().await?;
        let pod: Pod = self.operators().get(&leader).await?;
        let container =
            pod.status.and_then(|status| status.container_statuses?.first()?.container_id.clone());
        let container = container.ok_or("the leader has no container")?;
        self.stage.rotate(STRUCK[0], "struck").await?;
        self.stage.node.kill(&container)?;
        self.through(STRUCK[0], "the leader's process was killed (SIGKILL)").await?;
        let operators = self.operators();
        until(BACK_WITHIN, "the container is restarted", async || {
            Ok(operators.get_opt(&leader).await?.filter(|pod| restarts(pod) > 0).map(drop))
        })
        .await?;

        let leader = self.leader().await?;
        self.stage.rotate(STRUCK[1], "struck").await?;
        self.operators().delete(&leader, &DeleteParams::default()).await?;
        self.through(STRUCK[1], "the leader's pod was deleted").await?;
        let next = self.leader().await?;
        self.report.check("another replica leads", same(&(next != leader), &true))?;

        self.stage.rotate(STRUCK[2], "struck").await?;
        self.stage.cluster.restart_apiserver().await?;
        self.through(STRUCK[2], "the API server was killed (SIGKILL) and started again").await?;

        self.stage.rotate(STRUCK[3], "struck").await?;
        self.stage.node.restart(&self.stage.cluster).await?;
        self.through(STRUCK[3], "kubelet and containerd were killed (SIGKILL) and started again").await?;
        self.stage.node_ready().await?;

        self.replaced(5, 6, generations).await?;
        let after = self.prober_restarts().await?;
        let gone: Vec<&String> = after.iter().filter(|(_, count)| **count > 0).map(|(pod, _)| pod).collect();
        self.report.check("no workload's container ended for it", same(&gone, &Vec::new()))?;
        let kept = before.keys().filter(|pod| pod.starts_with(Way::Reload.name()));
        let kept: Vec<&String> = kept.filter(|pod| !after.contains_key(*pod)).collect();
        self.report.check("by-reload has the pods that it had", same(&kept, &Vec::new()))?;
        self.calm("no call was refused through all disruptions")
    }

    /// A struck key came through: the new one is delivered, the old one revoked, and nothing else was made.
    async fn through(&mut self, name: &str, what: &str) -> Result<(), Failure> {
        let done = |key: &api::LLMKey| current(key) > Some(1) && revoked(key, 1) && is(key, "Ready");
        let key = self.stage.key_when(name, BACK_WITHIN, &format!("replaced although {what}"), done).await?;
        let delivered = current(&key).and_then(|number| provider_id(&key, number));
        let live = self.stage.sandbox.live_keys(self.stage.sandbox.project_id());
        let known = live.iter().any(|record| Some(&record.id) == delivered.as_ref());
        Ok(self.report.check(&format!("a key was replaced although {what}"), same(&known, &true))?)
    }

    async fn prober_restarts(&self) -> Result<BTreeMap<String, i32>, Failure> {
        let mut all = BTreeMap::new();
        for way in self.stage.ways.clone() {
            all.extend(self.pod_names(way).await?);
        }
        Ok(all)
    }

    fn operators(&self) -> Api<Pod> {
        Api::namespaced(self.stage.client.clone(), OPERATOR)
    }

    /// The pod that leads, as the Lease says.
    async fn leader(&self) -> Result<String, Failure> {
        let leases: Api<Lease> = Api::namespaced(self.stage.client.clone(), OPERATOR);
        until(BACK_WITHIN, "a replica leads", async || {
            let holder = leases.get(RELEASE).await?.spec.and_then(|spec| spec.holder_identity);
            // Behind the pod's name stands what tells its processes apart.
            let pod = holder.and_then(|holder| holder.split('_').next().map(str::to_owned));
            Ok(pod.filter(|pod| !pod.is_empty()))
        })
        .await
    }

    pub(super) async fn upgrade(&mut self) -> Result<(), Failure> {
        self.report.say("helm upgrade, to another tag and another log level")?;
        let values = json!({
            "image": {"repository": IMAGE, "tag": TAGS[1]}, "rollout": {"enabled": true}, "log": {"level": "debug"},
        });
        self.stage.helm(&["upgrade"], &values).await?;
        let running = until(BACK_WITHIN, "only new replicas are left", async || {
            let running = self.operator_pods().await?;
            Ok((running.len() == 2 && !running.contains(&TAGS[0])).then_some(running))
        })
        .await?;
        self.report.check("two replicas run the new tag", same(&running, &vec![TAGS[1]; 2]))?;
        // A token that is answered shows that the new leader works.
        self.stage.rotate(STRUCK[0], "after the upgrade").await?;
        self.stage
            .key_when(STRUCK[0], BACK_WITHIN, "replaced by the upgraded operator", |key| {
                current(key) > Some(2)
            })
            .await?;
        self.calm("no call was refused during the upgrade")
    }

    pub(super) async fn uninstall(&mut self) -> Result<(), Failure> {
        let what = "revoked on a pod's word";
        let key = self
            .stage
            .key_when(STREAM, 2 * REPLACED_WITHIN, what, |key| revoked(key, 1) && revoked(key, 2))
            .await?;
        let basis = version(&key, 1).and_then(|version| version.revocation_basis.clone()).unwrap_or_default();
        self.report
            .check("by-reload's older key was revoked on its word", same(&basis.as_str(), &"Presumed"))?;
        let kept = self.stage.tenant::<api::LLMKey>().get(STRUCK[0]).await?;
        let kept = current(&kept).and_then(|number| provider_id(&kept, number)).unwrap_or_default();

        self.report.say("the tenant's namespace is deleted, then the release and its namespace")?;
        let namespaces: Api<Namespace> = Api::all(self.stage.client.clone());
        namespaces.delete(TENANT, &DeleteParams::default()).await?;
        let gone = self.stage.gone(TENANT).await;
        self.report.check(
            "the tenant's namespace is gone",
            gone.map(|()| String::new()).map_err(|error| error.to_string()),
        )?;

        self.acknowledge().await?;
        let project = self.stage.sandbox.project_id().to_owned();
        let left = until(REPLACED_WITHIN, "keys are revoked", async || {
            let live = self.stage.sandbox.live_keys(&project);
            Ok(live.iter().all(|key| key.id == kept).then_some(live.len()))
        })
        .await;
        self.report.check(
            "the provider has no key left but the one whose deletionPolicy is Retain",
            left.map_err(|error| error.to_string()).and_then(|left| same(&left, &1)),
        )?;

        self.stage.helm(&["uninstall"], &json!({})).await?;
        namespaces.delete(OPERATOR, &DeleteParams::default()).await?;
        let gone = self.stage.gone(OPERATOR).await;
        self.report.check(
            "the operator's namespace is gone",
            gone.map(|()| String::new()).map_err(|error| error.to_string()),
        )?;
        let crds: Api<CustomResourceDefinition> = Api::all(self.stage.client.clone());
        for crd in crds.list(&ListParams::default()).await?.items {
            if crd.spec.group == api::GROUP {
                crds.delete(&crd.name_any(), &DeleteParams::default()).await?;
            }
        }
        let left = until(BACK_WITHIN, "the CRDs are gone", async || {
            let left = crds.list(&ListParams::default()).await?;
            Ok(left.items.iter().all(|crd| crd.spec.group != api::GROUP).then_some(()))
        })
        .await;
        self.report
            .check("the CRDs are gone", left.map(|()| String::new()).map_err(|error| error.to_string()))?;
        Ok(())
    }

    /// So many deletions at once look like an accident: the account is frozen until a person says that they were meant.
    async fn acknowledge(&mut self) -> Result<(), Failure> {
        let providers: Api<LLMProvider> = Api::all(self.stage.client.clone());
        let frozen = until(BACK_WITHIN, "the account is frozen", async || {
            Ok(providers.get(ACCOUNT).await?.status.and_then(|status| status.frozen))
        })
        .await?;
        self.report.check("the account is frozen for it", same(&frozen.reason.as_str(), &"MassDeletion"))?;
        let word = json!({"metadata": {"annotations": {api::ACKNOWLEDGE: frozen.token}}});
        providers.patch(ACCOUNT, &PatchParams::default(), &Patch::Merge(word)).await?;
        Ok(())
    }
}
