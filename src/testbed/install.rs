//! The chart in a control plane, without its Deployment: no node runs, the operator is a process beside.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Error as KubeError};
use serde_json::{Value, json};

use super::process::random_suffix;
use super::{ControlPlane, Error, apply, render_chart, source_dir};
use crate::api::LLMKey;

/// The API server reads new policies within a few seconds.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const PROBE: &str = "leash-probe";
/// Flags that [`Installation::scope`] tells of.
const SCOPE_FLAGS: [&str; 3] = ["--watch-namespaces=", "--secrets=", "--rollout="];

/// An installed chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The operator's namespace.
    pub namespace: String,
    /// Name of every object of the chart, and of the operator's Lease.
    pub name: String,
    /// The operator's service account, in its namespace.
    pub service_account: String,
    /// A kubeconfig with a token of that account, mode 0600: what the operator runs with.
    pub kubeconfig: PathBuf,
    /// What of the operator's arguments says where it works and how: `--watch-namespaces`, `--secrets`, `--rollout`.
    pub scope: Vec<String>,
}

impl Installation {
    /// A new client that acts as the operator. It belongs to the calling runtime.
    pub async fn client(&self, cluster: &ControlPlane) -> Result<Client, Error> {
        cluster.service_account_client(&self.namespace, &self.service_account).await
    }
}

/// Installs the chart into `namespace`, which is created if need be, as a release of the same name, and
/// returns once its CRDs are served and its leash, unless switched off, refuses what it should.
/// `values` are Helm values. Several installations beside each other are possible.
pub async fn install_chart(
    cluster: &ControlPlane,
    namespace: &str,
    values: &Value,
) -> Result<Installation, Error> {
    let manifests = {
        let (release, values) = (namespace.to_owned(), values.clone());
        let chart = source_dir().join("charts/llmkey-operator");
        tokio::task::spawn_blocking(move || render_chart(&chart, &release, &release, &values))
            .await
            .map_err(Error::format("the chart"))??
    };
    let admin = cluster.admin()?;
    create_namespace(&admin, namespace).await?;
    // What Helm does at its own times is no part of an installation.
    let lasting = manifests.into_iter().filter(|m| m["metadata"]["annotations"]["helm.sh/hook"].is_null());
    let (deployments, others): (Vec<Value>, Vec<Value>) =
        lasting.partition(|manifest| manifest["kind"] == "Deployment");
    apply(&admin, &others).await?;

    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (name, service_account, scope) = deployments
        .first()
        .and_then(|deployment| {
            let pod = &deployment["spec"]["template"]["spec"];
            let args = pod["containers"][0]["args"].as_array()?.iter().filter_map(text);
            let scope = args.filter(|arg| SCOPE_FLAGS.iter().any(|flag| arg.starts_with(flag))).collect();
            Some((text(&deployment["metadata"]["name"])?, text(&pod["serviceAccountName"])?, scope))
        })
        .ok_or_else(|| Error::Format { what: "the chart".to_owned(), problem: "no Deployment".to_owned() })?;
    let kubeconfig = cluster.service_account_kubeconfig(namespace, &service_account).await?;
    let installation =
        Installation { namespace: namespace.to_owned(), name, service_account, kubeconfig, scope };
    let served = values["rbac"]["namespaces"][0].as_str();
    if others.iter().any(|manifest| manifest["kind"] == "ValidatingAdmissionPolicy") {
        leash_in_force(&admin, &installation.client(cluster).await?, namespace, served).await?;
    }
    Ok(installation)
}

async fn create_namespace(admin: &Client, name: &str) -> Result<(), Error> {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(KubeError::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(Error::kube(format!("create the namespace {name}"))(error)),
    }
}

/// Asks, as the operator and without effect, for what each policy forbids, until each refuses. The policy
/// on policies and providers cannot be asked so: RBAC refuses first. `served`: where alone the operator has rights to LLMKeys.
async fn leash_in_force(
    admin: &Client,
    operator: &Client,
    namespace: &str,
    served: Option<&str>,
) -> Result<(), Error> {
    let keys_are = served.unwrap_or(namespace);
    let name = format!("{PROBE}-{}", random_suffix()?);
    let key: LLMKey = serde_json::from_value(json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": name},
        "spec": {"provider": "OpenAI", "source": {"secretRef": {"name": "none", "key": "none"}},
                 "desiredState": "Active"},
    }))
    .map_err(Error::format("the probe"))?;
    let keys: Api<LLMKey> = Api::namespaced(admin.clone(), keys_are);
    keys.create(&PostParams::default(), &key).await.map_err(Error::kube("create the probe"))?;
    let answer = tokio::time::timeout(IN_FORCE_WITHIN, async {
        for target in [namespace, served.unwrap_or("default")] {
            while !refuses_secret(operator, target, &name).await? {
                tokio::time::sleep(POLL).await;
            }
        }
        while !refuses_label(operator, keys_are, &name).await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    })
    .await;
    keys.delete(&name, &DeleteParams::default()).await.map_err(Error::kube("delete the probe"))?;
    answer.unwrap_or_else(|_| {
        Err(Error::Component {
            component: "admission policies".to_owned(),
            problem: format!("do not refuse after {} s", IN_FORCE_WITHIN.as_secs()),
            log: "(see kube-apiserver.log)".to_owned(),
        })
    })
}

async fn refuses_secret(operator: &Client, namespace: &str, name: &str) -> Result<bool, Error> {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Secret::default()
    };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let secrets: Api<Secret> = Api::namespaced(operator.clone(), namespace);
    refused_by_policy(secrets.create(&dry_run, &secret).await)
}

async fn refuses_label(operator: &Client, namespace: &str, name: &str) -> Result<bool, Error> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"llmkeys.dev/probe": "true"}}}));
    let keys: Api<LLMKey> = Api::namespaced(operator.clone(), namespace);
    refused_by_policy(keys.patch(name, &PatchParams::default().dry_run(), &patch).await)
}

/// False while the request passes, or RBAC has not seen the new binding yet.
fn refused_by_policy<T>(answer: Result<T, KubeError>) -> Result<bool, Error> {
    match answer {
        Ok(_) => Ok(false),
        Err(KubeError::Api(status)) if status.code == 403 => {
            Ok(status.message.contains("ValidatingAdmissionPolicy"))
        }
        Err(error) => Err(Error::kube("ask what the leash refuses")(error)),
    }
}
