//! LLMKeys and policies, from files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::PluginError;
use crate::api::{ClusterRotationPolicy, GROUP, LLMKey, RotationPolicy};

/// Where objects without a namespace are: kubectl's own default.
const NAMESPACE: &str = "default";

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// LLMKeys.
    pub keys: Vec<LLMKey>,
    /// `RotationPolicy`s.
    pub policies: Vec<RotationPolicy>,
    /// `ClusterRotationPolicy`s; none: they could not be read.
    pub cluster_policies: Option<Vec<ClusterRotationPolicy>>,
    /// They are the cluster's, so that what status says is the operator's word.
    pub live: bool,
    /// What the reader should know of them.
    pub notes: Vec<String>,
}

/// Reads files of YAML documents; those of other kinds are left out. With `scope`, LLMKeys of that namespace only.
pub fn from_files(files: &[PathBuf], scope: Option<&str>) -> Result<Objects, PluginError> {
    let mut objects = Objects { cluster_policies: Some(Vec::new()), ..Objects::default() };
    for file in files {
        let wrong = |why: String| PluginError::File { file: file.display().to_string(), why };
        let text = read(file).map_err(|error| wrong(error.to_string()))?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| wrong(not_yaml(&error)))?;
        for document in documents {
            objects.take(document).map_err(wrong)?;
        }
    }
    if let Some(scope) = scope {
        objects.keys.retain(|key| key.namespace().as_deref() == Some(scope));
    }
    if objects.keys.is_empty() {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let place = scope.map_or_else(String::new, |scope| format!(" of namespace {scope}"));
        let why = format!("no LLMKey{place}: name a file that has some with one more -f");
        return Err(PluginError::File { file: names.join(", "), why });
    }
    objects.notes.push("from files: no cluster was asked".to_owned());
    Ok(objects)
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) }
}

/// The parser goes on with an excerpt; its first line says what is wrong and where.
fn not_yaml(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    format!("is not YAML: {first}")
}

impl Objects {
    fn take(&mut self, document: Value) -> Result<(), String> {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (group, kind) = (text("apiVersion"), text("kind"));
        if kind == "List" || kind.ends_with("List") && group.starts_with(GROUP) {
            let Value::Object(mut list) = document else { return Ok(()) };
            let Some(Value::Array(items)) = list.remove("items") else { return Ok(()) };
            return items.into_iter().try_for_each(|item| self.take(item));
        }
        if !group.starts_with(&format!("{GROUP}/")) {
            return Ok(());
        }
        match kind.as_str() {
            "LLMKey" => self.keys.push(namespaced(parsed(&kind, document)?)),
            "RotationPolicy" => self.policies.push(namespaced(parsed(&kind, document)?)),
            "ClusterRotationPolicy" => {
                self.cluster_policies.get_or_insert_default().push(parsed(&kind, document)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn parsed<K: DeserializeOwned>(kind: &str, document: Value) -> Result<K, String> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    serde_json::from_value(document).map_err(|error| format!("{kind} {name}: {error}"))
}

fn namespaced<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().namespace.get_or_insert_with(|| NAMESPACE.to_owned());
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Objects, String> {
        let mut objects = Objects::default();
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| not_yaml(&error))?;
        documents.into_iter().try_for_each(|document| objects.take(document)).map(|()| objects)
    }

    #[test]
    fn documents_and_lists_of_our_kinds_are_taken_and_others_left() {
        let key = "{apiVersion: llmkeys.dev/v1alpha1, kind: LLMKey, metadata: {name: chat}, spec: {provider: OpenAI, source: {secretRef: {name: a, key: b}}}}";
        let policy = "{apiVersion: llmkeys.dev/v1alpha1, kind: RotationPolicy, metadata: {name: p, namespace: team}, spec: {}}";
        let text = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: s}}}}\n---\n{policy}\n---\n{{apiVersion: v1, kind: List, items: [{key}, {key}]}}\n---\n"
        );
        let objects = parse(&text).unwrap();
        assert_eq!((objects.keys.len(), objects.policies.len()), (2, 1));
        assert_eq!(objects.keys[0].namespace().as_deref(), Some("default"));
        assert_eq!(objects.policies[0].namespace().as_deref(), Some("team"));
    }

    #[test]
    fn what_is_not_of_the_crds_form_is_told_with_its_name() {
        let wrong = "{apiVersion: llmkeys.dev/v1alpha1, kind: RotationPolicy, metadata: {name: p}, spec: {mode: Sometimes}}";
        let error = parse(wrong).unwrap_err();
        assert!(error.starts_with("RotationPolicy p: ") && error.contains("Sometimes"), "{error}");
    }
}
