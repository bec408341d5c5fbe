//! `kubectl llmkey import`: a key that is in the cluster, or in a `.env` file, becomes an `LLMKey`.
//!
//! Asked for without `--apply`, the API server judges every object and keeps none (a dry run). No value is ever printed.

mod draft;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::args::ImportArgs;
use super::{MANAGER, PluginError, cluster};
use crate::api::{ADOPT_BY, KEY_LABEL, LLMKey};
use crate::crypto::SecretBytes;
use draft::{Draft, Wishes};

/// Imports, or tells what an import would do.
pub async fn import(args: &ImportArgs) -> Result<String, PluginError> {
    let wishes = Wishes {
        name: args.name.clone(),
        provider: args.provider,
        provider_ref: args.provider_ref.clone(),
        policy: args.policy.clone(),
    };
    let (client, namespace) = cluster::connect(&args.cluster).await?;
    let (drafts, left) = match (&args.secret, &args.env_file) {
        (Some(name), _) => {
            let what = format!("Secret {name} of namespace {namespace}");
            let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
            let secret = api.get(name).await.map_err(|error| not_had(&what, &error))?;
            (
                vec![
                    draft::of_secret(&secret, args.entry.as_deref(), &wishes)
                        .map_err(PluginError::Refused)?,
                ],
                Vec::new(),
            )
        }
        (None, Some(file)) => draft::of_variables(variables(file)?, &wishes).map_err(PluginError::Refused)?,
        // The arguments' own rule.
        (None, None) => return Err(PluginError::Refused("name a Secret, or --env-file".to_owned())),
    };
    let desk = Desk { client, namespace, dry: !args.apply };
    // What the API server would refuse is refused before anything is made.
    let rehearsal = Desk { dry: true, ..desk.clone() };
    for draft in &drafts {
        rehearsal.carry_out(draft).await?;
    }
    let mut parts = Vec::new();
    for draft in &drafts {
        if args.apply {
            desk.carry_out(draft).await?;
        }
        parts.push(desk.told(draft)?);
    }
    if !left.is_empty() {
        parts.push(format!("# Left alone: {}.\n", left.join(", ")));
    }
    parts.push(if args.apply {
        format!("# Done. How it goes: kubectl llmkey status -n {}\n", desk.namespace)
    } else {
        "# Nothing was changed; the API server would accept it. The same with --apply does it.\n".to_owned()
    });
    Ok(parts.concat())
}

/// The variables of a `.env` file.
fn variables(file: &Path) -> Result<Vec<(String, SecretBytes)>, PluginError> {
    let wrong = |why: String| PluginError::File { file: file.display().to_string(), why };
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| wrong(error.to_string()))?)
    };
    dotenvy::from_read_iter(reader)
        .map(|variable| match variable {
            Ok((name, value)) => Ok((name, SecretBytes::from_string(value))),
            Err(dotenvy::Error::Io(error)) => Err(wrong(error.to_string())),
            // The parser's own words repeat the line.
            Err(_) => Err(wrong("a line is not NAME=value".to_owned())),
        })
        .collect()
}

fn not_had(what: &str, error: &kube::Error) -> PluginError {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            PluginError::Cluster { what: what.to_owned(), why: "there is none".to_owned() }
        }
        _ => cluster::refused(what, error),
    }
}

/// Where objects are made.
#[derive(Clone)]
struct Desk {
    client: Client,
    namespace: String,
    dry: bool,
}

impl Desk {
    fn post(&self) -> PostParams {
        PostParams { dry_run: self.dry, field_manager: Some(MANAGER.to_owned()) }
    }

    /// Each step is one that may have been done before: an import that was interrupted is done by asking again.
    async fn carry_out(&self, draft: &Draft) -> Result<(), PluginError> {
        let name = draft.key.name_any();
        if let Some((source, entry, value)) = &draft.source {
            self.make_source(source, entry, value).await?;
        }
        self.make_key(&draft.key).await?;
        let Some((adopted, version)) = &draft.adopts else { return Ok(()) };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({"metadata": {"annotations": {ADOPT_BY: name}, "resourceVersion": version}});
        let params = PatchParams {
            dry_run: self.dry,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let what = format!("Secret {adopted} of namespace {}", self.namespace);
        let patched = secrets.patch(adopted, &params, &Patch::Merge(&patch)).await;
        patched.map(drop).map_err(|error| cluster::refused(&what, &error))
    }

    async fn make_source(&self, name: &str, entry: &str, value: &SecretBytes) -> Result<(), PluginError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("Secret {name} of namespace {}", self.namespace);
        let mut secret = Secret { type_: Some("Opaque".to_owned()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        secret.data = Some([(entry.to_owned(), ByteString(value.expose().to_vec()))].into());
        match secrets.create(&self.post(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = secrets.get(name).await.map_err(|error| cluster::refused(&what, &error))?;
                let held = there.data.as_ref().and_then(|data| data.get(entry));
                if !there.labels().contains_key(KEY_LABEL)
                    && held.is_some_and(|held| held.0 == value.expose())
                {
                    return Ok(());
                }
                Err(PluginError::Refused(format!(
                    "{what} is there already, and has another key in it: say --name NAME"
                )))
            }
            Err(error) => Err(cluster::refused(&what, &error)),
        }
    }

    async fn make_key(&self, key: &LLMKey) -> Result<(), PluginError> {
        let keys: Api<LLMKey> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = key.name_any();
        let what = format!("LLMKey {name} of namespace {}", self.namespace);
        match keys.create(&self.post(), key).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if cluster::key(&keys, &self.namespace, &name).await?.spec == key.spec {
                    return Ok(());
                }
                Err(PluginError::Refused(format!(
                    "{what} is there already, with another spec: say --name NAME"
                )))
            }
            Err(error) => Err(cluster::refused(&what, &error)),
        }
    }

    /// The `LLMKey` as YAML, to be kept in a repository; what cannot be kept there as comments.
    fn told(&self, draft: &Draft) -> Result<String, PluginError> {
        let name = draft.key.name_any();
        let mut manifest = serde_json::to_value(&draft.key)?;
        manifest["metadata"] = json!({"name": name, "namespace": self.namespace});
        let yaml = serde_saphyr::to_string(&manifest);
        let yaml = yaml.map_err(|error| PluginError::Refused(error.to_string()))?;
        let source = draft.source.as_ref().map(|(source, entry, _)| {
            format!("# Secret {source}: the key, as entry {entry}. It is not shown here.\n")
        });
        let adopted = draft.adopts.as_ref().map(|(adopted, _)| {
            format!(
                "# Secret {adopted}: the annotation {ADOPT_BY}={name} lets the operator take it over, with the same key in it.\n"
            )
        });
        let notes = draft.notes.iter().map(|note| format!("# Note: {note}.\n"));
        let end = "---\n".to_owned();
        Ok(source.into_iter().chain([yaml]).chain(adopted).chain(notes).chain([end]).collect())
    }
}
