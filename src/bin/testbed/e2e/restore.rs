//! What the manual's section on restoring says, done: the tenant's objects and all that the operator keeps are lost while it is
//! away, and come back from a copy.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use llmkey_operator::api::{LEDGER_TYPE, LLMKey};
use llmkey_operator::controller::install::{INSTALL_SECRET, KEYRING_SECRET};
use llmkey_operator::sandbox::Operation;
use llmkey_operator::testbed::apply;
use serde::Serialize;
use serde_json::{Value, json};

use super::Failure;
use super::acts::Play;
use super::checks::same;
use super::stage::{current, is, provider_id, revoked, until};
use super::workloads::{CHAT, OPERATOR, RELEASE, STREAM, STRUCK};

const WITHIN: Duration = Duration::from_secs(300);

impl Play<'_> {
    pub(super) async fn restore(&mut self) -> Result<(), Failure> {
        self.report
            .say("the LLMKeys, their Secrets, ledgers, keyring and install Secret are lost, and put back")?;
        // An overlap that ends meanwhile would look like a revocation by mistake.
        for name in [CHAT, STREAM].into_iter().chain(STRUCK) {
            let over =
                |key: &LLMKey| current(key).is_some_and(|now| (1..now).all(|number| over(key, number)));
            self.stage.key_when(name, 2 * WITHIN, "no older key is waited for", over).await?;
        }
        let delivered = self.delivered().await?;
        self.scale(0).await?;
        let (made, ended) = self.acts();

        let keys: Api<LLMKey> = self.stage.tenant();
        let secrets: Api<Secret> = Api::namespaced(self.stage.client.clone(), OPERATOR);
        let copied: Vec<LLMKey> = keys.list(&ListParams::default()).await?.items;
        let mut kept: Vec<Secret> = secrets.list(&ListParams::default()).await?.items;
        kept.retain(|secret| {
            secret.type_.as_deref() == Some(LEDGER_TYPE)
                || [INSTALL_SECRET, KEYRING_SECRET].contains(&secret.name_any().as_str())
        });
        for key in &copied {
            let name = key.name_any();
            keys.delete(&name, &DeleteParams::default()).await?;
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            keys.patch(&name, &PatchParams::default(), &free).await?;
        }
        for secret in &kept {
            secrets.delete(&secret.name_any(), &DeleteParams::default()).await?;
        }
        let targets: Api<Secret> = self.stage.tenant();
        until(WITHIN, "the garbage collector takes the Secrets of the lost LLMKeys", async || {
            let left = targets.list(&ListParams::default()).await?.items;
            let left =
                left.iter().filter(|secret| copied.iter().any(|key| key.name_any() == secret.name_any()));
            Ok((left.count() == 0).then_some(()))
        })
        .await?;

        for back in [
            kept.iter().map(bare).collect::<Result<Vec<_>, _>>()?,
            copied.iter().map(bare).collect::<Result<_, _>>()?,
        ] {
            apply(&self.stage.client, &back).await?;
        }
        self.scale(2).await?;
        for key in &copied {
            self.stage.key_when(&key.name_any(), WITHIN, "delivered again", |key| is(key, "Ready")).await?;
        }
        self.report.check(
            &format!("{} keys are delivered again, the same ones", copied.len()),
            same(&self.delivered().await?, &delivered),
        )?;
        self.report.check("nothing was made or revoked for it", same(&self.acts(), &(made, ended)))?;
        self.stage.rotate(STRUCK[1], "after the restore").await?;
        let before = copied.iter().find(|key| key.name_any() == STRUCK[1]).and_then(current);
        let replaced =
            |key: &LLMKey| current(key) > before && before.is_some_and(|before| revoked(key, before));
        let done = self.stage.key_when(STRUCK[1], WITHIN, "replaced after the restore", replaced).await;
        self.report.check(
            "a key is replaced afterwards, and the restored one revoked",
            done.map(|_| String::new()).map_err(|error| error.to_string()),
        )?;
        self.calm("no call was refused while they were lost")
    }

    /// The provider's id of each delivered key.
    async fn delivered(&self) -> Result<BTreeMap<String, Option<String>>, Failure> {
        let keys: Api<LLMKey> = self.stage.tenant();
        let keys = keys.list(&ListParams::default()).await?.items;
        let id = |key: &LLMKey| current(key).and_then(|number| provider_id(key, number));
        Ok(keys.iter().map(|key| (key.name_any(), id(key))).collect())
    }

    /// Keys that were made at the provider, and such that were revoked.
    fn acts(&self) -> (usize, usize) {
        let log = self.stage.sandbox.log();
        let count = |operation| log.iter().filter(|entry| entry.operation == operation).count();
        (count(Operation::CreateServiceAccount), count(Operation::DeleteServiceAccount))
    }

    async fn scale(&self, replicas: usize) -> Result<(), Failure> {
        let deployments: Api<Deployment> = Api::namespaced(self.stage.client.clone(), OPERATOR);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale(RELEASE, &PatchParams::default(), &patch).await?;
        until(WITHIN, &format!("the operator has {replicas} replicas"), async || {
            let all = self.stage.pods(OPERATOR, &format!("app.kubernetes.io/instance={RELEASE}")).await?;
            Ok((all.len() == replicas && self.operator_pods().await?.len() == replicas).then_some(()))
        })
        .await
    }
}

/// Whether a version's key is waited for no more.
fn over(key: &LLMKey, number: i32) -> bool {
    super::stage::version(key, number)
        .is_none_or(|version| !["Overlap", "Retiring", "Intent", "Pending"].contains(&version.state.as_str()))
}

/// An object as a backup tool puts it back: what the API server gave it, its owners and its status are not part of it.
fn bare<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Value, Failure> {
    let meta = object.meta();
    let mut bare = serde_json::to_value(object)?;
    bare["apiVersion"] = json!(K::api_version(&()));
    bare["kind"] = json!(K::kind(&()));
    bare["metadata"] = json!({
        "name": meta.name, "namespace": meta.namespace, "labels": meta.labels, "annotations": meta.annotations,
    });
    if let Some(fields) = bare.as_object_mut() {
        fields.remove("status");
    }
    Ok(bare)
}
