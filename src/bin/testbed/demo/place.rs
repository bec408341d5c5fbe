//! Where the demo takes place: a control plane of its own, or the cluster of the user's current context.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::config::{AuthInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedContext};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, Config, ResourceExt};
use llmkey_operator::testbed::process::Workspace;
use llmkey_operator::testbed::{self, ControlPlane, Options, apply, install_chart, render_chart};
use serde_json::{Value, json};

use super::DemoError;
use super::show::line;

/// Namespace of the operator in a control plane of its own, as the chart's documentation has it.
const OPERATOR: &str = "llmkey-system";
/// Namespace of the operator in a cluster that belongs to somebody.
const GUEST_OPERATOR: &str = "llmkey-demo-system";
/// Namespace of the quickstart.
pub const TENANT: &str = "llmkey-demo";
const TOKEN_SECONDS: i64 = 3600;
/// A deleted namespace takes its time.
const GONE_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(200);

/// A cluster with the chart installed.
pub struct Place {
    ground: Ground,
    workspace: Workspace,
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// Name of the operator's Lease.
    pub lease: String,
    /// User name of the operator in the cluster.
    pub user: String,
    /// What the operator connects with.
    pub kubeconfig: PathBuf,
}

enum Ground {
    Own(Box<ControlPlane>),
    Current { context: String, config: Box<Config>, manifests: Vec<Value> },
}

impl Place {
    /// A control plane of its own.
    pub async fn own() -> Result<Self, DemoError> {
        let cluster = ControlPlane::start(Options::default()).await?;
        let installed = install_chart(&cluster, OPERATOR, &json!({})).await?;
        Ok(Self {
            workspace: Workspace::create(false)?,
            lease: installed.name,
            user: format!("system:serviceaccount:{}:{}", installed.namespace, installed.service_account),
            kubeconfig: installed.kubeconfig,
            operator_namespace: installed.namespace,
            ground: Ground::Own(Box::new(cluster)),
        })
    }

    /// The cluster of the current context; `ask` for leave first.
    pub async fn current(ask: bool) -> Result<Self, DemoError> {
        let unusable = |problem: String| DemoError::NotStarted(format!("the current context: {problem}"));
        let file = Kubeconfig::read().map_err(|error| unusable(error.to_string()))?;
        let context = file.current_context.clone().ok_or_else(|| unusable("none is set".to_owned()))?;
        let config = Config::from_custom_kubeconfig(file.clone(), &KubeConfigOptions::default())
            .await
            .map_err(|error| unusable(error.to_string()))?;
        leave(&context, &config, ask)?;
        // Only the first call in a process can succeed; any later one finds the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_from(config.clone())?;
        refuse_if_installed(&client).await?;

        let chart = testbed::source_dir().join("charts/llmkey-operator");
        let values = json!({"crds": {"keep": false}});
        let rendered = tokio::task::spawn_blocking(move || {
            render_chart(&chart, GUEST_OPERATOR, GUEST_OPERATOR, &values)
        });
        let rendered = rendered.await.map_err(|error| unusable(error.to_string()))??;
        let (deployments, mut manifests): (Vec<Value>, Vec<Value>) =
            rendered.into_iter().partition(|manifest| manifest["kind"] == "Deployment");
        let text = |pointer: &str| {
            let found = deployments.first().and_then(|deployment| deployment.pointer(pointer)?.as_str());
            found
                .map(str::to_owned)
                .ok_or_else(|| unusable(format!("the chart's Deployment has no {pointer}")))
        };
        let (lease, account) = (text("/metadata/name")?, text("/spec/template/spec/serviceAccountName")?);
        for namespace in [GUEST_OPERATOR, TENANT] {
            manifests.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        }
        let workspace = Workspace::create(false)?;
        let mut place = Self {
            kubeconfig: workspace.path().join("operator.kubeconfig"),
            workspace,
            operator_namespace: GUEST_OPERATOR.to_owned(),
            lease,
            user: format!("system:serviceaccount:{GUEST_OPERATOR}:{account}"),
            ground: Ground::Current { context, config: Box::new(config), manifests: manifests.clone() },
        };
        let installed = place.install(&client, &manifests, file, &account).await;
        if let Err(error) = installed {
            place.clean_up().await?;
            return Err(error);
        }
        Ok(place)
    }

    async fn install(
        &mut self,
        client: &Client,
        manifests: &[Value],
        file: Kubeconfig,
        account: &str,
    ) -> Result<(), DemoError> {
        apply(client, manifests).await?;
        let token = token(client, account).await?;
        write_private(&self.kubeconfig, &with_token(file, &token)?)
    }

    /// The cluster's version and address.
    pub async fn describe(&self) -> Result<String, DemoError> {
        Ok(match &self.ground {
            Ground::Own(cluster) => format!(
                "Kubernetes {} at {}: etcd, kube-apiserver and kube-controller-manager of its own",
                cluster.version(),
                cluster.url()
            ),
            Ground::Current { context, config, .. } => {
                let version = self.admin()?.apiserver_version().await?.git_version;
                format!("Kubernetes {version} at {}, the context {context}", config.cluster_url)
            }
        })
    }

    /// A client with the rights of whoever started the demo.
    pub fn admin(&self) -> Result<Client, DemoError> {
        Ok(match &self.ground {
            Ground::Own(cluster) => cluster.admin()?,
            Ground::Current { config, .. } => Client::try_from(config.as_ref().clone())?,
        })
    }

    /// kubectl and the arguments that point it here.
    pub fn kubectl(&self) -> Option<(PathBuf, Vec<OsString>)> {
        match &self.ground {
            Ground::Own(cluster) => {
                let program = cluster.binaries().kubectl.clone()?;
                Some((program, vec!["--kubeconfig".into(), cluster.admin_kubeconfig().into()]))
            }
            Ground::Current { context, .. } => {
                Some(("kubectl".into(), vec!["--context".into(), context.into()]))
            }
        }
    }

    /// What a person types to get here with kubectl.
    pub fn way_in(&self) -> Vec<String> {
        match &self.ground {
            Ground::Own(cluster) => {
                let alias = cluster.binaries().kubectl.as_deref();
                let alias = alias.map(|kubectl| format!("alias kubectl={}", kubectl.display()));
                let export = format!("export KUBECONFIG={}", cluster.admin_kubeconfig().display());
                std::iter::once(export).chain(alias).collect()
            }
            Ground::Current { .. } => Vec::new(),
        }
    }

    /// A directory that goes with the demo.
    pub fn dir(&self) -> &Path {
        self.workspace.path()
    }

    /// How many values etcd has ever stored, and the keys of those that hold `needle`, as it is or in base64. Nothing
    /// for a cluster whose etcd is not ours to read.
    pub async fn etcd_search(&self, needle: &str) -> Result<Option<(usize, Vec<String>)>, DemoError> {
        let Ground::Own(cluster) = &self.ground else { return Ok(None) };
        let encoded = data_encoding::BASE64.encode(needle.as_bytes());
        let entries = cluster.etcd_get_all().await?;
        let count = entries.len();
        let mut found: Vec<String> = entries
            .into_iter()
            .filter(|entry| [needle, &encoded].iter().any(|text| holds(&entry.value, text.as_bytes())))
            .map(|entry| entry.key)
            .collect();
        found.sort();
        found.dedup();
        Ok(Some((count, found)))
    }

    /// Takes away what was put into somebody's cluster; a control plane of its own goes by itself.
    pub async fn clean_up(&self) -> Result<(), DemoError> {
        let Ground::Current { manifests, .. } = &self.ground else { return Ok(()) };
        line("\nRemoving what the demo put into the cluster.")?;
        let client = self.admin()?;
        for manifest in manifests.iter().rev() {
            delete(&client, manifest).await?;
        }
        let namespaces: Api<Namespace> = Api::all(client);
        let gone = async {
            for name in [TENANT, GUEST_OPERATOR] {
                while namespaces.get_opt(name).await?.is_some() {
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok::<(), DemoError>(())
        };
        tokio::time::timeout(GONE_WITHIN, gone).await.unwrap_or_else(|_| {
            line(format!("The namespaces {TENANT} and {GUEST_OPERATOR} are still terminating."))
        })
    }
}

/// Whether `bytes` hold `needle`.
pub fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn leave(context: &str, config: &Config, ask: bool) -> Result<(), DemoError> {
    line(format!(
        "USE_CURRENT_CONTEXT: the demo installs CRDs, roles and admission policies in the cluster of the context \
         {context} ({}), uses the namespaces {TENANT} and {GUEST_OPERATOR}, and removes all of it at the end. The \
         operator and the provider run on this machine.",
        config.cluster_url
    ))?;
    if !ask {
        return Ok(());
    }
    write!(io::stdout(), "Go on? [y/N] ").and_then(|()| io::stdout().flush()).map_err(DemoError::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(DemoError::Output)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        Ok(())
    } else {
        Err(DemoError::NotStarted("nothing was touched".to_owned()))
    }
}

/// An install that is there already is somebody's: the demo would take its CRDs away.
async fn refuse_if_installed(client: &Client) -> Result<(), DemoError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let taken = if definitions.get_opt("llmkeys.llmkeys.dev").await?.is_some() {
        "the CRDs of llmkey-operator are"
    } else if namespaces.get_opt(TENANT).await?.is_some()
        || namespaces.get_opt(GUEST_OPERATOR).await?.is_some()
    {
        "a namespace of the demo is"
    } else {
        return Ok(());
    };
    Err(DemoError::NotStarted(format!("{taken} in this cluster already; nothing was touched")))
}

async fn token(client: &Client, account: &str) -> Result<String, DemoError> {
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), GUEST_OPERATOR);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default())
}

/// The same cluster, as the owner of a token.
fn with_token(mut file: Kubeconfig, token: &str) -> Result<Vec<u8>, DemoError> {
    let current = file.current_context.clone();
    let cluster = file
        .contexts
        .iter()
        .find(|context| Some(&context.name) == current.as_ref())
        .and_then(|context| context.context.as_ref())
        .map(|context| context.cluster.clone())
        .unwrap_or_default();
    file.clusters.retain(|named| named.name == cluster);
    let user = "operator".to_owned();
    let auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    file.auth_infos =
        vec![NamedAuthInfo { name: user.clone(), auth_info: Some(auth_info), ..NamedAuthInfo::default() }];
    let context = Context { cluster, user: Some(user.clone()), ..Context::default() };
    file.contexts =
        vec![NamedContext { name: user.clone(), context: Some(context), ..NamedContext::default() }];
    file.current_context = Some(user);
    serde_json::to_vec(&file)
        .map_err(|error| DemoError::NotStarted(format!("the operator's kubeconfig: {error}")))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| DemoError::NotStarted(format!("write {}: {error}", path.display())))
}

/// Deletes one object. What is not there any more, or whose kind is not served any more, is deleted.
pub async fn delete(client: &Client, manifest: &Value) -> Result<(), DemoError> {
    let Ok(object) = serde_json::from_value::<DynamicObject>(manifest.clone()) else { return Ok(()) };
    let Some(Ok(kind)) = object.types.as_ref().map(GroupVersionKind::try_from) else { return Ok(()) };
    let Ok((resource, capabilities)) = discovery::pinned_kind(client, &kind).await else { return Ok(()) };
    let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    };
    match api.delete(&object.name_any(), &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
