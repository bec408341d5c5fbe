//! What an import makes of a Secret or of a `.env` file. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::json;

use crate::api::{KEY_LABEL, LLMKey, PublicProvider};
use crate::crypto::SecretBytes;
use crate::plugin::change::appliers;
use crate::provider::default_data;

/// Providers that an LLMKey may name without an LLMProvider. The names of their variables differ, but for Google's two.
const PUBLIC: [PublicProvider; 11] = [
    PublicProvider::OpenAI,
    PublicProvider::Anthropic,
    PublicProvider::Google,
    PublicProvider::Mistral,
    PublicProvider::OpenRouter,
    PublicProvider::XAI,
    PublicProvider::Groq,
    PublicProvider::Cohere,
    PublicProvider::DeepSeek,
    PublicProvider::Together,
    PublicProvider::HuggingFace,
];

/// What a person said besides.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Name of the LLMKey.
    pub name: Option<String>,
    /// The provider's public endpoint.
    pub provider: Option<PublicProvider>,
    /// An LLMProvider instead.
    pub provider_ref: Option<String>,
    /// The `RotationPolicy` to follow.
    pub policy: Option<String>,
}

/// One key to import, in the order in which its objects are made.
pub struct Draft {
    /// A Secret that is made for the key: name, entry and value. None: the key stays where it is.
    pub source: Option<(String, String, SecretBytes)>,
    /// The `LLMKey`.
    pub key: LLMKey,
    /// The Secret that the `LLMKey` may take over, and the version of it that was looked at.
    pub adopts: Option<(String, Option<String>)>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// An existing Secret. Under the Secret's own name the `LLMKey` takes it over, and workloads go on using it; under another
/// name it is read from there, and a Secret of that name is made.
///
/// # Errors
/// A sentence, if it cannot be imported or it is not clear how.
pub fn of_secret(secret: &Secret, entry: Option<&str>, wishes: &Wishes) -> Result<Draft, String> {
    let secret_name = secret.name_any();
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let listed = || data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let entry = match (entry, data.len()) {
        (Some(entry), _) if data.contains_key(entry) => entry,
        (Some(entry), _) => {
            return Err(format!("Secret {secret_name} has no entry {entry}; it has {}", listed()));
        }
        (None, 0) => return Err(format!("Secret {secret_name} is empty")),
        (None, 1) => data.keys().next().map(String::as_str).unwrap_or_default(),
        (None, _) => {
            return Err(format!("which of its entries is the key? Say it with --entry: {}", listed()));
        }
    };
    if let Some(owner) = secret.labels().get(KEY_LABEL) {
        return Err(format!("Secret {secret_name} is delivered by LLMKey {owner} already"));
    }
    if let Some(elsewhere) = elsewhere(entry, wishes, |name| data.get(name).is_some_and(|v| !v.0.is_empty()))
    {
        return Err(elsewhere);
    }
    let wishes = &Wishes {
        provider: wishes.provider.or_else(|| by_variable(entry)).filter(|_| wishes.provider_ref.is_none()),
        ..wishes.clone()
    };
    let name = wishes.name.clone().unwrap_or_else(|| secret_name.clone());
    if name != secret_name {
        let notes = vec![format!(
            "workloads go on using Secret {secret_name} until you point them at Secret {name}; the key stays in Secret {secret_name}, \
             which is the place to put the next one"
        )];
        let key = llm_key(&name, &secret_name, entry, wishes)?;
        return Ok(Draft { source: None, key, adopts: None, notes });
    }
    let others: Vec<&str> = data.keys().map(String::as_str).filter(|other| *other != entry).collect();
    if !others.is_empty() {
        return Err(format!(
            "Secret {secret_name} has more in it than the key ({}), which would be lost if it were taken over: say --name NAME, and the \
             key is delivered to a Secret of that name instead",
            others.join(", ")
        ));
    }
    if secret.type_.as_deref().is_some_and(|kind| kind != "Opaque") || secret.immutable == Some(true) {
        return Err(format!(
            "Secret {secret_name} cannot be taken over, because it is immutable or not of type Opaque: say --name NAME, and the key \
             is delivered to a Secret of that name instead"
        ));
    }
    if let Some(owner) = secret.owner_references().first() {
        return Err(format!(
            "Secret {secret_name} belongs to {} {}, which would write it back: say --name NAME, and the key is delivered to a Secret of \
             that name instead",
            owner.kind, owner.name
        ));
    }
    let source = format!("{name}-source");
    let value = data.get(entry).map_or_else(|| "".into(), |value| SecretBytes::new(value.0.clone()));
    let mut notes =
        vec![format!("the next key is put into Secret {source}, no longer into Secret {secret_name}")];
    notes.extend(appliers(secret).map(|applier| {
        format!(
            "{applier} applies Secret {secret_name}: take it out of the repository without its being deleted, or the two will write over \
             each other"
        )
    }));
    Ok(Draft {
        key: llm_key(&name, &source, entry, wishes)?,
        source: Some((source, entry.to_owned(), value)),
        adopts: Some((secret_name, secret.resource_version())),
        notes,
    })
}

/// A `.env` file: each variable that the SDK of a provider with a public endpoint reads. A value that is there twice counts once.
/// Besides, the names that were left alone.
///
/// # Errors
/// A sentence, if there is none, or a name was given and there are several.
pub fn of_variables(
    mut variables: Vec<(String, SecretBytes)>,
    wishes: &Wishes,
) -> Result<(Vec<Draft>, Vec<String>), String> {
    // Of one that is set twice the last line counts, as in a shell.
    let mut later = BTreeSet::new();
    variables.reverse();
    variables.retain(|(name, _)| later.insert(name.clone()));
    variables.reverse();
    let urls: BTreeSet<String> =
        variables.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.clone()).collect();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut left = Vec::new();
    let mut names = BTreeSet::new();
    for (variable, value) in variables {
        let wanted = by_variable(&variable).filter(|p| wishes.provider.is_none_or(|only| only == *p));
        let (Some(provider), false) = (wanted, value.is_empty()) else {
            left.push(variable);
            continue;
        };
        if let Some(elsewhere) = elsewhere(&variable, wishes, |name| urls.contains(name)) {
            return Err(elsewhere);
        }
        let again = drafts
            .iter()
            .any(|draft| draft.source.as_ref().is_some_and(|(_, _, known)| known.expose() == value.expose()));
        let name =
            wishes.name.clone().unwrap_or_else(|| variable.to_ascii_lowercase().replace(['_', '.'], "-"));
        if again || !names.insert(name.clone()) && wishes.name.is_none() {
            left.push(variable);
            continue;
        }
        let source = format!("{name}-source");
        let provider = Some(provider).filter(|_| wishes.provider_ref.is_none());
        let key = llm_key(&name, &source, &variable, &Wishes { provider, ..wishes.clone() })?;
        drafts.push(Draft { key, source: Some((source, variable, value)), adopts: None, notes: Vec::new() });
    }
    match (drafts.len(), &wishes.name) {
        (0, _) => Err(format!(
            "no variable that a provider's SDK reads, such as OPENAI_API_KEY{}",
            if left.is_empty() { String::new() } else { format!("; there is {}", left.join(", ")) }
        )),
        (2.., _) if wishes.provider_ref.is_some() => Err(
            "several keys cannot all be those of one LLMProvider: import them one by one, or leave --provider-ref out".to_owned(),
        ),
        (2.., Some(_)) => {
            Err("several keys cannot have one --name; say --provider, or leave --name out".to_owned())
        }
        _ => Ok((drafts, left)),
    }
}

/// Why a key is not taken for one of the public endpoint unasked: beside it stands the address of another server, and the key
/// would be shown to a stranger.
fn elsewhere(key: &str, wishes: &Wishes, is_set: impl Fn(&str) -> bool) -> Option<String> {
    let unasked = wishes.provider.is_none() && wishes.provider_ref.is_none();
    let of = key.strip_suffix("_API_KEY").or_else(|| key.strip_suffix("_KEY")).filter(|_| unasked)?;
    let names =
        ["BASE_URL", "API_BASE", "API_BASE_URL", "API_URL", "ENDPOINT"].map(|end| format!("{of}_{end}"));
    let found = names.iter().find(|name| is_set(name))?;
    let provider = by_variable(key)
        .map_or_else(String::new, |p| format!("; if it is the provider's own, say --provider {p:?}"));
    Some(format!(
        "{found} says to which server {key} belongs: name the LLMProvider with that baseURL by --provider-ref{provider}"
    ))
}

fn by_variable(variable: &str) -> Option<PublicProvider> {
    PUBLIC.into_iter().find(|provider| default_data((*provider).into(), true, None).contains_key(variable))
}

fn llm_key(name: &str, source: &str, entry: &str, wishes: &Wishes) -> Result<LLMKey, String> {
    let mut spec = json!({
        "source": {"secretRef": {"name": source, "key": entry}},
        "target": {"data": {entry: "$(KEY)"}},
    });
    match (&wishes.provider_ref, wishes.provider) {
        (Some(name), _) => spec["providerRef"] = json!({"name": name}),
        (None, Some(provider)) => {
            spec["provider"] = json!(provider);
            if default_data(provider.into(), true, None).keys().eq([entry]) {
                spec["target"] = json!({});
            }
        }
        (None, None) => {
            return Err(format!(
                "{entry} does not tell whose key it is: say --provider OpenAI, for example, or --provider-ref"
            ));
        }
    }
    if let Some(policy) = &wishes.policy {
        spec["rotationPolicyRef"] = json!({"name": policy});
    }
    let spec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    Ok(LLMKey::new(name, spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: &serde_json::Value) -> Secret {
        let mut whole = json!({"metadata": {"name": "chat", "resourceVersion": "7"}, "type": "Opaque"});
        for (field, value) in value.as_object().unwrap() {
            whole[field] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn refused(secret: &Secret, entry: Option<&str>, wishes: &Wishes) -> String {
        of_secret(secret, entry, wishes).err().unwrap()
    }

    #[test]
    fn a_secret_is_taken_over_under_its_own_name_and_its_entry_keeps_its_name() {
        let chat = secret(&json!({"data": {"OPENAI_API_KEY": "c2stMQ=="}}));
        let draft = of_secret(&chat, None, &Wishes::default()).unwrap();
        let (source, entry, value) = draft.source.unwrap();
        assert_eq!((&*source, &*entry, value.expose()), ("chat-source", "OPENAI_API_KEY", &b"sk-1"[..]));
        assert_eq!(draft.adopts, Some(("chat".to_owned(), Some("7".to_owned()))));
        assert_eq!(draft.key.spec.provider, Some(PublicProvider::OpenAI));
        assert!(draft.key.spec.target.data.is_empty(), "the default is the same");

        let other = secret(&json!({"data": {"token": "c2stMQ=="}}));
        let wishes = Wishes {
            provider_ref: Some("gateway".into()),
            policy: Some("monthly".into()),
            ..Wishes::default()
        };
        let spec = of_secret(&other, None, &wishes).unwrap().key.spec;
        assert_eq!(spec.target.data, BTreeMap::from([("token".to_owned(), "$(KEY)".to_owned())]));
        assert_eq!((spec.provider, spec.provider_ref.unwrap().name), (None, "gateway".to_owned()));
        assert_eq!(spec.rotation_policy_ref.unwrap().name, "monthly");
    }

    #[test]
    fn under_another_name_the_secret_stays_as_it_is() {
        let app = secret(&json!({"data": {"GROQ_API_KEY": "eA==", "PASSWORD": "eQ=="}}));
        assert!(refused(&app, None, &Wishes::default()).contains("--entry: GROQ_API_KEY, PASSWORD"));
        assert!(refused(&app, Some("KEY"), &Wishes::default()).contains("has no entry KEY"));
        assert!(
            refused(&app, Some("GROQ_API_KEY"), &Wishes::default())
                .contains("(PASSWORD), which would be lost")
        );
        let wishes = Wishes { name: Some("groq".into()), ..Wishes::default() };
        let draft = of_secret(&app, Some("GROQ_API_KEY"), &wishes).unwrap();
        assert!(draft.source.is_none() && draft.adopts.is_none());
        let source = draft.key.spec.source.secret_ref.unwrap();
        assert_eq!((&*source.name, &*source.key), ("chat", "GROQ_API_KEY"));
    }

    #[test]
    fn what_somebody_else_would_write_back_is_not_taken_over() {
        let data = json!({"OPENAI_API_KEY": "eA=="});
        let external = json!([{"apiVersion": "v1", "kind": "ExternalSecret", "name": "vault", "uid": "1"}]);
        for (more, words) in [
            (json!({"name": "chat", "ownerReferences": external}), "ExternalSecret vault"),
            (json!({"name": "chat", "labels": {"llmkeys.dev/key": "chat"}}), "LLMKey chat already"),
        ] {
            let owned = secret(&json!({"data": data, "metadata": more}));
            assert!(refused(&owned, None, &Wishes::default()).contains(words));
        }
        for more in
            [json!({"data": data, "immutable": true}), json!({"data": data, "type": "example.com/key"})]
        {
            assert!(refused(&secret(&more), None, &Wishes::default()).contains("cannot be taken over"));
        }
        let applied = json!({"name": "chat", "managedFields": [{"manager": "helm", "operation": "Update"}]});
        let draft = of_secret(&secret(&json!({"data": data, "metadata": applied})), None, &Wishes::default())
            .unwrap();
        assert!(draft.notes[1].starts_with("helm applies Secret chat"), "{:?}", draft.notes);
        assert!(
            refused(&secret(&json!({"data": {"token": "eA=="}})), None, &Wishes::default())
                .contains("--provider")
        );
    }

    #[test]
    fn of_a_file_the_variables_that_sdks_read_are_taken_once_each() {
        let variables = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect::<Vec<_>>()
        };
        let file = [
            ("DEBUG", "1"),
            ("OPENAI_API_KEY", "sk-1"),
            ("GEMINI_API_KEY", "g"),
            ("GOOGLE_API_KEY", "g"),
            ("XAI_API_KEY", ""),
        ];
        let (drafts, left) = of_variables(variables(&file), &Wishes::default()).unwrap();
        let names: Vec<String> = drafts.iter().map(|draft| draft.key.name_any()).collect();
        assert_eq!(names, ["openai-api-key", "gemini-api-key"]);
        assert_eq!(left, ["DEBUG", "GOOGLE_API_KEY", "XAI_API_KEY"]);
        assert_eq!(drafts[1].key.spec.target.data.len(), 1, "Google's other variable was not asked for");

        let one = Wishes { name: Some("chat".into()), ..Wishes::default() };
        assert!(of_variables(variables(&file), &one).err().unwrap().contains("--name"));
        let at_one = Wishes { provider_ref: Some("gateway".into()), ..Wishes::default() };
        assert!(of_variables(variables(&file), &at_one).err().unwrap().contains("--provider-ref"));
        let one = Wishes { provider: Some(PublicProvider::OpenAI), ..one };
        assert_eq!(of_variables(variables(&file), &one).unwrap().0[0].key.name_any(), "chat");
        assert!(of_variables(variables(&file[..1]), &one).err().unwrap().contains("there is DEBUG"));
    }

    #[test]
    fn every_public_provider_can_be_told_by_a_variable() {
        for provider in PUBLIC {
            let variables = default_data(provider.into(), true, None);
            assert!(variables.keys().all(|variable| by_variable(variable) == Some(provider)), "{provider:?}");
        }
    }

    #[test]
    fn a_key_beside_another_servers_address_is_not_shown_to_the_public_one() {
        let gateway = |wishes: &Wishes| {
            let file = [("OPENAI_BASE_URL", "https://gateway.internal/v1"), ("OPENAI_API_KEY", "sk-1")];
            let file = file.map(|(name, value)| (name.to_owned(), value.into()));
            of_variables(file.into(), wishes).map(|(drafts, _)| drafts[0].key.spec.provider)
        };
        let refused_so = gateway(&Wishes::default()).err().unwrap();
        assert!(
            refused_so.contains("OPENAI_BASE_URL") && refused_so.contains("--provider-ref"),
            "{refused_so}"
        );
        assert!(refused_so.contains("--provider OpenAI"), "{refused_so}");
        let public = Wishes { provider: Some(PublicProvider::OpenAI), ..Wishes::default() };
        assert_eq!(gateway(&public).unwrap(), Some(PublicProvider::OpenAI));
        let own = Wishes { provider_ref: Some("gateway".into()), ..Wishes::default() };
        assert_eq!(gateway(&own).unwrap(), None);
        let both = secret(&json!({"data": {"OPENAI_API_KEY": "eA==", "OPENAI_BASE_URL": "eQ=="}}));
        assert!(refused(&both, Some("OPENAI_API_KEY"), &Wishes::default()).contains("OPENAI_BASE_URL"));
    }

    #[test]
    fn of_a_variable_that_is_set_twice_the_last_line_counts() {
        let file = [("OPENAI_API_KEY", "sk-old"), ("OPENAI_API_KEY", "sk-new")];
        let file = file.map(|(name, value)| (name.to_owned(), value.into())).into();
        let (drafts, left) = of_variables(file, &Wishes::default()).unwrap();
        let (_, _, value) = drafts[0].source.as_ref().unwrap();
        assert_eq!((drafts.len(), left.len(), value.expose()), (1, 0, &b"sk-new"[..]));
    }
}
