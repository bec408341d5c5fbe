//! What is read from a cluster, with the user's rights.

use std::fmt::Debug;

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::PluginError;
use super::args::ClusterArgs;
use super::objects::Objects;
use crate::api::{ClusterRotationPolicy, LLMKey, PolicyKind, RotationPolicy};

/// Objects in one answer.
const PAGE: u32 = 500;

/// A client, and the namespace that was asked for or is the context's.
pub async fn connect(args: &ClusterArgs) -> Result<(Client, String), PluginError> {
    let wrong = |error: &dyn std::error::Error| PluginError::Kubeconfig(error.to_string());
    let file = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config = kube::Config::from_custom_kubeconfig(file.map_err(|e| wrong(&e))?, &options)
        .await
        .map_err(|e| wrong(&e))?;
    // Proxies are not spoken to.
    config.proxy_url = None;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((Client::try_from(config).map_err(|e| wrong(&e))?, namespace))
}

/// An answer that was not had, with what to do about it.
pub fn refused(what: &str, error: &kube::Error) -> PluginError {
    let why = match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "you may not ({}); ask for the right, or for a namespace that you may read",
                status.message
            )
        }
        kube::Error::Api(status) if status.code == 404 => {
            "the cluster does not know this kind; is the operator installed there?".to_owned()
        }
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        _ => "the cluster cannot be reached; check --kubeconfig, --context and the network".to_owned(),
    };
    PluginError::Cluster { what: what.to_owned(), why }
}

/// One `LLMKey`.
pub async fn key(api: &Api<LLMKey>, namespace: &str, name: &str) -> Result<LLMKey, PluginError> {
    let what = format!("LLMKey {name} of namespace {namespace}");
    let found = api.get_opt(name).await.map_err(|error| refused(&what, &error))?;
    found.ok_or_else(|| PluginError::NotFound { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// LLMKeys of one namespace, or of all, by namespace and name.
pub async fn keys(args: &ClusterArgs, all: bool) -> Result<Objects, PluginError> {
    let (client, namespace) = connect(args).await?;
    read_keys(&client, &namespace, all).await
}

/// The same with a client.
pub async fn read_keys(client: &Client, namespace: &str, all: bool) -> Result<Objects, PluginError> {
    let mut keys: Vec<LLMKey> = if all {
        list(&Api::all(client.clone()), "LLMKeys of all namespaces").await?
    } else {
        list(&Api::namespaced(client.clone(), namespace), &format!("LLMKeys of namespace {namespace}"))
            .await?
    };
    keys.sort_by_cached_key(|key| (key.namespace(), key.name_any()));
    let mut objects = Objects { keys, live: true, ..Objects::default() };
    if objects.keys.is_empty() {
        let place = if all { "any namespace".to_owned() } else { format!("namespace {namespace}") };
        objects.notes.push(format!("there is no LLMKey in {place}"));
    }
    Ok(objects)
}

/// LLMKeys and policies of one namespace, or of all.
pub async fn objects(args: &ClusterArgs, all: bool) -> Result<Objects, PluginError> {
    let (client, namespace) = connect(args).await?;
    let mut objects = read_keys(&client, &namespace, all).await?;
    let of_the_namespace = |key: &LLMKey| {
        key.spec.rotation_policy_ref.as_ref().is_some_and(|r| r.kind == PolicyKind::RotationPolicy)
    };
    if objects.keys.iter().any(of_the_namespace) {
        objects.policies = if all {
            list::<RotationPolicy>(&Api::all(client.clone()), "RotationPolicies of all namespaces").await?
        } else {
            let what = format!("RotationPolicies of namespace {namespace}");
            list(&Api::namespaced(client.clone(), &namespace), &what).await?
        };
    }
    if !objects.keys.iter().all(of_the_namespace) {
        // Tenants often may not read what is the cluster's: then the operator's word is all that there is.
        match pages::<ClusterRotationPolicy>(&Api::all(client)).await {
            Ok(policies) => objects.cluster_policies = Some(policies),
            Err(kube::Error::Api(status)) if status.code == 403 => objects.notes.push(
                "you may not read ClusterRotationPolicies: of keys that follow one, only what status says is shown".to_owned(),
            ),
            Err(error) => return Err(refused("ClusterRotationPolicies", &error)),
        }
    }
    Ok(objects)
}

/// All objects of a kind.
pub async fn list<K>(api: &Api<K>, what: &str) -> Result<Vec<K>, PluginError>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    pages(api).await.map_err(|error| refused(what, &error))
}

async fn pages<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await?;
        found.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(found),
        }
    }
}
