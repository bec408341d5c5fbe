//! The examples: each is applied as it stands, and run where the sandbox can stand in for its provider.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chrono::{Datelike, Timelike};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use llmkey_operator::api::{LLMKey, parse_rfc3339};
use llmkey_operator::sandbox::KeyUse;
use llmkey_operator::testbed::{source_dir, tools};
use serde_json::{Value, json};

use super::stage::{Tenant, because, is, stage, state, wait};
use super::{anthropic, azure, bedrock, google, litellm, mistral, openrouter, xai};

const PLACEHOLDERS: [&str; 2] = ["REPLACE-ME", "REPLACE_ME"];

fn files() -> Vec<(String, String)> {
    let dir = fs::read_dir(source_dir().join("examples")).unwrap();
    let mut files: Vec<(String, String)> = dir
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn objects(file: &str) -> Vec<Value> {
    let (_, text) = files().into_iter().find(|(name, _)| name == file).unwrap();
    tools::manifests(&text).unwrap()
}

/// Server-side, with unknown and repeated fields refused.
pub(crate) async fn apply(
    client: &kube::Client,
    manifest: &Value,
    dry_run: bool,
) -> Result<DynamicObject, kube::Error> {
    let object: DynamicObject = serde_json::from_value(manifest.clone()).unwrap();
    let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.namespace().expect("examples name their namespace");
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    };
    let mut params = PatchParams::apply("examples").validation_strict();
    params.dry_run = dry_run;
    api.patch(&object.name_any(), &params, &Patch::Apply(manifest)).await
}

#[test]
fn each_tells_its_story_and_has_few_things_to_fill_in() {
    for (index, (file, text)) in files().iter().enumerate() {
        let numbered = file.starts_with(&format!("{:02}-", index + 1));
        assert!(numbered && Path::new(file).extension().is_some_and(|end| end == "yaml"), "{file}");
        assert!(text.starts_with("# "), "{file} begins with its story");
        let values: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#') && PLACEHOLDERS.iter().any(|p| line.contains(p)))
            .collect();
        assert!(values.len() <= 3, "{file}: {values:?}");
    }
}

#[tokio::test]
async fn every_one_is_accepted_as_it_stands() {
    let client = stage().await.cluster.admin().unwrap();
    for (file, text) in files() {
        let manifests = tools::manifests(&text).unwrap();
        assert!(!manifests.is_empty(), "{file}");
        for manifest in &manifests {
            let applied = apply(&client, manifest, true).await;
            assert!(applied.is_ok(), "{file}: {}: {}", manifest["kind"], applied.unwrap_err());
        }
    }
}

#[tokio::test]
async fn a_misspelt_field_would_be_noticed() {
    let client = stage().await.cluster.admin().unwrap();
    let mut manifest = objects("02-supplied-key.yaml").remove(1);
    manifest["spec"]["rotationPolicyReference"] = json!({"name": "x"});
    let error = apply(&client, &manifest, true).await.unwrap_err().to_string();
    assert!(error.contains("rotationPolicyReference"), "{error}");
}

/// Applies an example for one tenant: the sandbox in place of the provider, names of the cluster's scope made the
/// tenant's own, placeholders filled in with what the sandbox accepts. Returns the names of its LLMKeys.
async fn play(t: &Tenant, file: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for mut object in objects(file) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match object["kind"].as_str().unwrap() {
            "Secret" if object["metadata"]["namespace"] == "llmkey-system" => {
                object["metadata"]["name"] = json!(own(t, &name));
                let host = t.sandbox().addr().to_string();
                object["stringData"] = if object["stringData"]["tenantID"].is_string() {
                    azure::entries(t.sandbox())
                } else if object["stringData"]["accessKeyID"].is_string() {
                    bedrock::entries(t.sandbox())
                } else if name == "google" {
                    google::entries(t.sandbox())
                } else {
                    json!({"credential": t.admin_key, "host": host})
                };
            }
            "Secret" => {
                object["metadata"]["namespace"] = json!(t.namespace);
                let values = object["stringData"].as_object_mut().unwrap();
                let alone = values.len() == 1;
                for (entry, value) in values {
                    let of = if alone { &name } else { entry };
                    *value = if value.as_str().unwrap().starts_with("sk-ant-") {
                        json!(anthropic::person_key(t, of).0)
                    } else {
                        json!(t.person_key(of))
                    };
                }
            }
            "LLMProvider" => {
                object["metadata"]["name"] = json!(own(t, &name));
                let spec = &mut object["spec"];
                let kind = spec["type"].as_str().unwrap().to_owned();
                let (url, place) = match kind.as_str() {
                    "OpenRouter" => (t.sandbox().router_url(), "/openRouter/workspace"),
                    "LiteLLM" => (t.sandbox().proxy_url(), "/liteLLM/teamID"),
                    "AzureOpenAI" => {
                        spec["azureOpenAI"] = azure::block(t.sandbox(), &t.project);
                        (t.sandbox().azure_url(), "/azureOpenAI/account")
                    }
                    "Bedrock" => {
                        spec["bedrock"] = bedrock::block(t.sandbox(), &t.project);
                        (t.sandbox().bedrock_url(), "/bedrock/userName")
                    }
                    "Google" => {
                        spec["google"] = google::block(t.sandbox(), &t.project);
                        (t.sandbox().gemini_url(), "/google/project")
                    }
                    "Anthropic" => (t.sandbox().url_of("anthropic"), "/anthropic/workspace"),
                    "XAI" => {
                        spec["xAI"]["managementURL"] = json!(t.sandbox().url_of("xai/management"));
                        (t.sandbox().url_of("xai/data/v1"), "/xAI/team")
                    }
                    "Mistral" => {
                        spec["mistral"]["adminURL"] = json!(t.sandbox().url_of("mistral/admin"));
                        (t.sandbox().url_of("mistral/data"), "/mistral/workspace")
                    }
                    _ => (t.sandbox().base_url(), "/openAI/project"),
                };
                spec["baseURL"] = json!(url);
                spec["caBundle"] = json!(t.sandbox().ca_pem());
                spec["addresses"] = json!("AllowPrivate");
                spec["allowedNamespaces"] = json!([t.namespace]);
                if let Some(reference) = spec.pointer_mut("/adminCredentialRef/name") {
                    *reference = json!(own(t, reference.as_str().unwrap()));
                    *spec.pointer_mut(place).unwrap() = json!(t.project);
                }
            }
            "ClusterRotationPolicy" => object["metadata"]["name"] = json!(own(t, &name)),
            "RotationPolicy" => object["metadata"]["namespace"] = json!(t.namespace),
            "LLMKey" => {
                object["metadata"]["namespace"] = json!(t.namespace);
                adapt(t, &mut object["spec"]);
                keys.push(name);
            }
            other => panic!("{file} has a {other}"),
        }
        apply(&t.client, &object, false).await.unwrap();
    }
    keys
}

fn own(t: &Tenant, name: &str) -> String {
    format!("{}-{name}", t.namespace)
}

fn adapt(t: &Tenant, spec: &mut Value) {
    let fields = spec.as_object_mut().unwrap();
    if fields.remove("provider").is_some() {
        fields.insert("providerRef".to_owned(), json!({"name": t.provider}));
    } else {
        let name = &mut spec["providerRef"]["name"];
        *name = json!(own(t, name.as_str().unwrap()));
    }
    if spec["rotationPolicyRef"]["kind"] == "ClusterRotationPolicy" {
        let name = &mut spec["rotationPolicyRef"]["name"];
        *name = json!(own(t, name.as_str().unwrap()));
    }
}

/// Plays an example that has one LLMKey until it is Ready.
async fn ready(t: &Tenant, file: &str) -> LLMKey {
    let keys = play(t, file).await;
    assert_eq!(keys.len(), 1, "{file}");
    t.ready(&keys[0]).await
}

fn next_rotation(key: &LLMKey) -> chrono::DateTime<chrono::Utc> {
    parse_rfc3339(key.status.as_ref().unwrap().next_rotation_time.as_deref().unwrap()).unwrap()
}

fn policy(key: &LLMKey) -> &str {
    key.status.as_ref().unwrap().rotation_policy.as_deref().unwrap()
}

async fn secret(t: &Tenant, name: &str) -> Secret {
    t.secrets().get(name).await.unwrap()
}

#[tokio::test]
async fn the_quickstart_mints_and_revoke_now_revokes() {
    let t = Tenant::new("quickstart").await;
    let key = ready(&t, "01-quickstart.yaml").await;
    assert_eq!(policy(&key), "RotationPolicy/monthly");
    let value = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);

    play(&t, "10-revoke-now.yaml").await;
    t.until("chat", "version 1 is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    wait("the Secret is gone", async || t.secrets().get_opt("chat").await.unwrap().is_none().then_some(()))
        .await;
    assert!(!t.sandbox().accepts(&value));
    assert!(t.sandbox().live_keys(&t.project).is_empty());
}

#[tokio::test]
async fn a_key_is_made_at_openrouter() {
    let t = openrouter::tenant("openrouter-example").await;
    ready(&t, "15-openrouter.yaml").await;
    let value = t.delivered("router", "OPENROUTER_API_KEY").await.unwrap();
    assert!(value.starts_with("sk-or-v1-") && t.sandbox().accepts(&value));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_supplied_key_is_delivered() {
    let t = Tenant::new("supplied-example").await;
    ready(&t, "02-supplied-key.yaml").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(t.person_key("my-openai-key")));
}

#[tokio::test]
async fn the_calendar_names_the_start_of_a_quarter_in_berlin() {
    let t = Tenant::new("calendar-example").await;
    play(&t, "01-quickstart.yaml").await;
    let key = ready(&t, "03-calendar.yaml").await;
    assert_eq!(policy(&key), "RotationPolicy/quarterly");
    let next = next_rotation(&key).with_timezone(&chrono_tz::Europe::Berlin);
    assert!(next.day() == 1 && [1, 4, 7, 10].contains(&next.month()), "{next}");
}

#[tokio::test]
async fn cron_names_an_hour_in_new_york() {
    let t = Tenant::new("cron-example").await;
    play(&t, "01-quickstart.yaml").await;
    let key = ready(&t, "04-cron.yaml").await;
    assert!(policy(&key).starts_with("ClusterRotationPolicy/"));
    let next = next_rotation(&key).with_timezone(&chrono_tz::America::New_York);
    assert_eq!((next.day(), next.format("%H:%M:%S").to_string()), (1, "10:00:00".to_owned()));
}

#[tokio::test]
async fn a_spare_stands_beside_the_key() {
    let t = Tenant::new("spare-example").await;
    play(&t, "01-quickstart.yaml").await;
    ready(&t, "12-spare.yaml").await;
    t.until("chat", "the policy", |key| policy(key) == "RotationPolicy/monthly-with-a-spare").await;
    t.until("chat", "version 2 is ready", |key| state(key, 2).as_deref() == Some("Spare")).await;
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 2);
}

#[tokio::test]
async fn files_for_a_framework_are_filled_in() {
    let t = Tenant::new("files-example").await;
    ready(&t, "05-files-for-a-framework.yaml").await;
    let value = t.person_key("my-openai-key");
    let data = secret(&t, "agent-llm").await.data.unwrap();
    let text = |entry: &str| String::from_utf8(data[entry].0.clone()).unwrap();
    let url = t.sandbox().base_url();
    assert_eq!(text("OPENAI_API_KEY"), value);
    let env = format!("OPENAI_API_KEY={value}\nOPENAI_BASE_URL={url}\nOPENAI_MODEL=gpt-4.1-mini\n");
    assert_eq!(text(".env"), env);
    let config: Value = serde_json::from_str(&text("config.json")).unwrap();
    assert_eq!(config, json!({"temperature": 0.2, "maxRetries": 4}));
    assert_eq!(data.len(), 3);
}

#[tokio::test]
async fn a_server_of_ones_own_is_asked() {
    let t = Tenant::new("self-hosted-example").await;
    let key = ready(&t, "06-self-hosted.yaml").await;
    let provider = key.status.unwrap().provider.unwrap();
    assert!(provider.starts_with("OpenAICompatible ("), "{provider}");
    assert_eq!(t.delivered("local-model", "OPENAI_BASE_URL").await, Some(t.sandbox().base_url()));
}

#[tokio::test]
async fn remind_only_names_the_time() {
    let t = Tenant::new("remind-example").await;
    let key = ready(&t, "07-remind-only.yaml").await;
    assert_eq!(policy(&key), "RotationPolicy/every-90-days");
    assert!(is(&key, "RotationDue", "False"));
    assert!(
        next_rotation(&key)
            > parse_rfc3339(&key.status.as_ref().unwrap().versions[0].published_at.clone().unwrap()).unwrap()
    );
}

#[tokio::test]
async fn a_pool_delivers_its_first_key_and_has_the_next_in_reserve() {
    let t = Tenant::new("pool-example").await;
    let key = ready(&t, "11-pool.yaml").await;
    assert_eq!(policy(&key), "RotationPolicy/each-quarter");
    assert_eq!(t.delivered("support", "OPENAI_API_KEY").await, Some(t.person_key("first")));
    let pool = key.status.unwrap().pool.unwrap();
    assert_eq!((pool.total, pool.unused, pool.next.as_deref()), (3, 2, Some("second")));
    t.annotate("support", "llmkeys.dev/rotate", Some("leaked")).await;
    t.until("support", "the second is current", |key| state(key, 2).as_deref() == Some("Current")).await;
    assert_eq!(t.delivered("support", "OPENAI_API_KEY").await, Some(t.person_key("second")));
}

#[tokio::test]
async fn validation_does_not_stand_in_the_way() {
    let t = Tenant::new("validation-example").await;
    assert_eq!(play(&t, "08-validation.yaml").await, ["experiments", "air-gapped"]);
    t.ready("experiments").await;
    let key = t.ready("air-gapped").await;
    assert!(because(&key, "Ready", "ValidationDisabled"));
    assert!(because(&key, "Healthy", "ValidationDisabled"));
}

#[tokio::test]
async fn a_pin_of_the_first_version_keeps_it() {
    let t = Tenant::new("pin-example").await;
    let key = ready(&t, "13-pin-a-version.yaml").await;
    assert_eq!(policy(&key), "RotationPolicy/keep-older-keys");
    let next = json!({"stringData": {"api-key": t.person_key("next")}});
    let secrets = t.secrets();
    secrets.patch("my-openai-key", &PatchParams::default(), &Patch::Merge(next)).await.unwrap();
    t.until("chat", "the next key waits", |key| because(key, "RotationDue", "Pinned")).await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(t.person_key("my-openai-key")));
}

#[tokio::test]
async fn many_keys_of_one_policy_rotate_at_night() {
    let t = Tenant::new("many-example").await;
    assert_eq!(play(&t, "14-many-keys.yaml").await, ["search", "summaries"]);
    for name in ["search", "summaries"] {
        let key = t.ready(name).await;
        assert!(policy(&key).ends_with("-nightly-fleet"), "{}", policy(&key));
        let next = next_rotation(&key).with_timezone(&chrono_tz::Europe::Berlin);
        assert!(next.hour() >= 22 || next.hour() < 4, "{next}");
    }
}

#[tokio::test]
async fn a_key_is_made_at_a_litellm_proxy() {
    let t = litellm::tenant(stage().await, "litellm-example").await;
    ready(&t, "16-litellm.yaml").await;
    let value = t.delivered("proxy", "OPENAI_API_KEY").await.unwrap();
    assert!(value.starts_with("sk-") && t.sandbox().accepts(&value));
    let url = t.delivered("proxy", "OPENAI_BASE_URL").await.unwrap();
    assert_eq!(url, t.sandbox().proxy_url());
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_key_that_has_used_its_share_is_followed_by_another() {
    let t = Tenant::new("usage-example").await;
    ready(&t, "01-quickstart.yaml").await;
    play(&t, "19-usage.yaml").await;
    let follows = |key: &LLMKey| policy(key) == "RotationPolicy/monthly-or-used";
    t.until("chat", "the policy", follows).await;
    let id = t.sandbox().live_keys(&t.project)[0].id.clone();
    let used = KeyUse { requests: 10, cost_micros: 50_000_000, ..KeyUse::default() };
    assert!(t.sandbox().note_use(&t.project, &id, used));
    let key = t.until("chat", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    assert_eq!(key.status.unwrap().rotations[0].reason, "Usage");
}

#[tokio::test]
async fn the_keys_of_an_azure_account_are_made_anew() {
    let t = azure::tenant(stage().await, "azure-example").await;
    ready(&t, "17-azure-openai.yaml").await;
    let value = t.delivered("azure", "AZURE_OPENAI_API_KEY").await.unwrap();
    assert_eq!(value, t.sandbox().slot_values(&t.project)["Key2"]);
    assert_eq!(t.delivered("azure", "AZURE_OPENAI_ENDPOINT").await, Some(t.sandbox().azure_url()));
}

#[tokio::test]
async fn a_key_is_made_at_google() {
    let t = google::tenant(stage().await, "google-example").await;
    ready(&t, "18-google.yaml").await;
    let value = t.delivered("gemini", "GEMINI_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value));
    assert_eq!(t.delivered("gemini", "GOOGLE_API_KEY").await, Some(value));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_key_is_made_for_an_iam_user() {
    let t = bedrock::tenant(stage().await, "bedrock-example").await;
    ready(&t, "20-bedrock.yaml").await;
    let value = t.delivered("bedrock", "AWS_BEARER_TOKEN_BEDROCK").await.unwrap();
    assert!(t.sandbox().accepts(&value));
    assert!(t.delivered("bedrock", "AWS_REGION").await.is_some());
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_key_of_anthropic_is_matched() {
    let t = anthropic::tenant("anthropic-example", true).await;
    ready(&t, "21-anthropic-admin.yaml").await;
    let id = t.sandbox().live_keys(&t.project)[0].id.clone();
    let told = |key: &LLMKey| key.status.as_ref().unwrap().versions[0].provider_key_id.as_ref() == Some(&id);
    t.until("claude-managed", "its id", told).await;
    let value = t.delivered("claude-managed", "ANTHROPIC_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value));
}

#[tokio::test]
async fn a_key_is_made_at_xai() {
    let t = xai::tenant("xai-example").await;
    ready(&t, "22-xai.yaml").await;
    let value = t.delivered("grok", "XAI_API_KEY").await.unwrap();
    assert!(value.starts_with("xai-") && t.sandbox().accepts(&value));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}

#[tokio::test]
async fn a_key_is_made_at_mistral_with_consent() {
    let t = mistral::tenant("mistral-example", true).await;
    ready(&t, "23-mistral.yaml").await;
    let value = t.delivered("mistral-small", "MISTRAL_API_KEY").await.unwrap();
    assert!(t.sandbox().accepts(&value));
    assert_eq!(t.sandbox().live_keys(&t.project).len(), 1);
}
