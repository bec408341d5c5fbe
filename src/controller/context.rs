//! What every reconcile may use.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use super::index::{Index, SecretMeta};
use super::sight::Sight;
use crate::api::{
    ADMIN_CREDENTIAL_LABEL, ClusterRotationPolicy, LLMKey, LLMProvider, LLMProviderSpec, ProviderType,
    Reason, RotationPolicy,
};
use crate::crypto::{InstallKey, SecretBytes, SharedKeyring};
use crate::domain::timings::Timings;
use crate::kube_ext::clock::Clock;
use crate::kube_ext::events::Events;
use crate::kube_ext::lease::LeaderGuard;
use crate::ledger;
use crate::provider::{
    Account, AccountError, AdminCredential, Endpoint, MISTRAL_ADMIN, NO_TEAM, Providers, XAI_MANAGEMENT,
};
use crate::telemetry::metrics::Metrics;

/// The install's identity: made once, never changed.
pub struct Install {
    /// Its id.
    pub id: String,
    /// The key of fingerprints.
    pub key: InstallKey,
}

/// What the watches hold.
#[derive(Clone)]
pub struct Stores {
    /// LLMKeys, those that cannot be read included.
    pub keys: Store<DeserializeGuard<LLMKey>>,
    /// `RotationPolicy`s.
    pub policies: Store<DeserializeGuard<RotationPolicy>>,
    /// `ClusterRotationPolicy`s.
    pub cluster_policies: Store<DeserializeGuard<ClusterRotationPolicy>>,
    /// LLMProviders.
    pub providers: Store<DeserializeGuard<LLMProvider>>,
}

/// Shared by all controllers.
pub struct Ctx {
    /// The API server.
    pub client: Client,
    /// The only clock.
    pub clock: Clock,
    /// Every constant of time.
    pub timings: Timings,
    /// The install.
    pub install: Install,
    /// Key-encryption keys.
    pub keyring: SharedKeyring,
    /// The ledgers.
    pub ledgers: ledger::Store,
    /// The providers.
    pub providers: Providers,
    /// Secrets by metadata.
    pub index: Arc<Index>,
    /// What the watches hold.
    pub stores: Stores,
    /// Accounts by LLMProvider, as long as nothing about them changes.
    pub accounts: Accounts,
    /// What holds for whole accounts.
    pub account_states: super::account::AccountStates,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Metrics,
    /// Wakes whoever uses an account whose state has changed.
    pub woken_by: super::watches::Wake,
    /// Asked before every effect.
    pub leader: LeaderGuard,
    /// Namespace of ledgers and admin credentials.
    pub operator_namespace: String,
    /// The namespaces that are served.
    pub sight: Arc<Sight>,
    /// Everything was listed once: what is counted before would be too little.
    pub loaded: std::sync::atomic::AtomicBool,
    /// The last looks at workloads.
    pub rosters: super::consumers::Rosters,
    /// The operator may restart workloads.
    pub may_restart: bool,
    /// What earlier reconciles of LLMKeys learned.
    pub remembered: super::llm_key::memory::Remembered,
    /// Rotations of each policy at the same time.
    pub fleet: super::fleet::Fleet,
    /// What the accounts' keys have used.
    pub usage: super::usage::Readings,
}

/// An account, or what keeps it from being used.
pub type AccountResult = Result<Arc<Account>, (Reason, String)>;

/// Accounts that were put together, each valid for one version of LLMProvider and credential: by name, with a stamp
/// of both versions.
#[derive(Default)]
pub struct Accounts(Mutex<HashMap<String, (String, AccountResult)>>);

impl Ctx {
    /// Whether everything was listed once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The account of an LLMProvider with an admin credential, or what keeps it from being used. An error says
    /// nothing of the account: the reconcile must be tried again, since no watch will tell of it.
    pub async fn account(
        &self,
        provider: &LLMProvider,
        endpoint: &Endpoint,
    ) -> Result<AccountResult, kube::Error> {
        let api = Api::namespaced(self.client.clone(), &self.operator_namespace);
        self.accounts.get(&api, provider, endpoint, self.stamp(provider)).await
    }

    /// Whether the keyring has all that a ledger says it needs.
    pub fn opens(&self, ledger: &SecretMeta) -> bool {
        let keyring = self.keyring.now();
        ledger.sealed_by.as_deref().is_none_or(|needs| needs.split(',').all(|id| keyring.has(id)))
    }

    /// What changes whenever the account may have changed: the LLMProvider or its admin credential.
    pub fn stamp(&self, provider: &LLMProvider) -> String {
        let secret = provider.spec.admin_credential_ref.as_ref();
        let version = secret
            .and_then(|s| self.index.secret(&self.operator_namespace, &s.name))
            .filter(|s| !s.gone)
            .map_or_else(|| "none".into(), |v| v.resource_version);
        let generation = provider.metadata.generation.unwrap_or_default();
        format!("{}/{generation}/{version}", provider.uid().unwrap_or_default())
    }
}

/// Joins an LLMProvider and its credential's Secret.
fn assemble(
    provider: &LLMProvider,
    endpoint: &Endpoint,
    place: &str,
    found: Option<Secret>,
) -> AccountResult {
    let missing = |what: String| (Reason::AdminCredentialMissing, what);
    let found = found.ok_or_else(|| {
        missing(format!("{place} does not exist; create it with the keys credential and host"))
    })?;
    if found.labels().get(ADMIN_CREDENTIAL_LABEL).map(String::as_str) != Some("true") {
        return Err(missing(format!("{place} lacks the label {ADMIN_CREDENTIAL_LABEL}=true; set it")));
    }
    let mut data = found.data.unwrap_or_default();
    let LLMProviderSpec { azure_open_ai, google, bedrock, .. } = &provider.spec;
    let entries = |data: BTreeMap<String, ByteString>| -> BTreeMap<String, SecretBytes> {
        data.into_iter().map(|(name, value)| (name, SecretBytes::new(value.0))).collect()
    };
    if let Some(block) = azure_open_ai {
        let account = Account::of_azure(endpoint, block, &entries(data));
        return account.map(Arc::new).map_err(|error| unusable(place, &error));
    }
    if let Some(block) = google {
        let account = Account::of_google(endpoint, block, &entries(data));
        return account.map(Arc::new).map_err(|error| unusable(place, &error));
    }
    if let Some(block) = bedrock {
        let account = Account::of_bedrock(endpoint, block, &entries(data));
        return account.map(Arc::new).map_err(|error| unusable(place, &error));
    }
    let (Some(host), Some(credential)) = (data.remove("host"), data.remove("credential")) else {
        return Err(missing(format!("{place} must have the keys credential and host")));
    };
    let credential = AdminCredential::from_secret_data(&host.0, &SecretBytes::new(credential.0))
        .map_err(|e| missing(format!("{place}: {e}")))?;
    let project = place_of(&provider.spec).ok_or_else(|| {
        (
            Reason::NotSupported,
            format!(
                "keys of type {} cannot be made by this operator: supply them",
                provider.spec.r#type.as_str()
            ),
        )
    })?;
    let user = provider.spec.mistral.as_ref().and_then(|block| block.user_id.as_deref());
    let account = match manager_of(&provider.spec) {
        Some(manager) => Account::managed_at(endpoint.clone(), manager, project, credential),
        None => Account::new(endpoint.clone(), project, credential),
    };
    account
        .map(|account| Arc::new(account.for_user(user).with_lite_llm(provider.spec.lite_llm.as_ref())))
        .map_err(|error| unusable(place, &error))
}

/// What is wrong with a credential's Secret.
fn unusable(place: &str, error: &AccountError) -> (Reason, String) {
    match error {
        AccountError::HostMismatch { .. } => (
            Reason::AdminCredentialHostMismatch,
            format!("{place}: {error}; nothing is sent there until both agree"),
        ),
        _ => (Reason::AdminCredentialMissing, format!("{place}: {error}")),
    }
}

/// Where keys are made within the account; none where the operator cannot make any.
fn place_of(spec: &LLMProviderSpec) -> Option<&str> {
    match spec.r#type {
        ProviderType::OpenAI => spec.open_ai.as_ref().map(|account| account.project.as_str()),
        ProviderType::OpenRouter => spec.open_router.as_ref().map(|account| account.workspace.as_str()),
        ProviderType::LiteLLM => {
            Some(spec.lite_llm.as_ref().and_then(|account| account.team_id.as_deref()).unwrap_or(NO_TEAM))
        }
        ProviderType::Anthropic => spec.anthropic.as_ref().map(|account| account.workspace.as_str()),
        ProviderType::XAI => spec.x_ai.as_ref().map(|account| account.team.as_str()),
        ProviderType::Mistral => spec.mistral.as_ref().map(|account| account.workspace.as_str()),
        _ => None,
    }
}

/// URL of the API that manages the account; none where it is the endpoint itself.
fn manager_of(spec: &LLMProviderSpec) -> Option<&str> {
    match spec.r#type {
        ProviderType::XAI => Some(
            spec.x_ai.as_ref().and_then(|block| block.management_url.as_deref()).unwrap_or(XAI_MANAGEMENT),
        ),
        ProviderType::Mistral => {
            Some(spec.mistral.as_ref().and_then(|block| block.admin_url.as_deref()).unwrap_or(MISTRAL_ADMIN))
        }
        _ => None,
    }
}

impl Accounts {
    /// What is known for the stamp, else what the credential's Secret says now.
    async fn get(
        &self,
        api: &Api<Secret>,
        provider: &LLMProvider,
        endpoint: &Endpoint,
        stamp: String,
    ) -> Result<AccountResult, kube::Error> {
        let name = provider.name_any();
        let Some(reference) = &provider.spec.admin_credential_ref else {
            return Ok(Err((
                Reason::AdminCredentialMissing,
                format!(
                    "LLMProvider {name} has no adminCredentialRef: it can check keys, not make or revoke them"
                ),
            )));
        };
        if let Some((known, account)) = self.lock().get(&name)
            && *known == stamp
        {
            return Ok(account.clone());
        }
        // A failed read is no answer to remember, nor one to show.
        let found = api.get_opt(&reference.name).await?;
        let place = format!("Secret {} in namespace {}", reference.name, api.namespace().unwrap_or_default());
        let account = assemble(provider, endpoint, &place, found);
        self.lock().insert(name, (stamp, account.clone()));
        Ok(account)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, AccountResult)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use serde_json::json;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// An API server that fails once, and then has the credential.
    async fn failing_once() -> Client {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let calls = Arc::new(AtomicU32::new(0));
        let answer = move || async move {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500});
                return (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(status)).into_response();
            }
            // In base64: api.openai.com, sk-admin-0123456789abcdefghij
            axum::Json(json!({
                "kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": "acme", "labels": {ADMIN_CREDENTIAL_LABEL: "true"}},
                "data": {"host": "YXBpLm9wZW5haS5jb20=", "credential": "c2stYWRtaW4tMDEyMzQ1Njc4OWFiY2RlZmdoaWo="},
            }))
            .into_response()
        };
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_credential_that_could_not_be_read_is_an_error_to_be_tried_again_and_no_verdict() {
        let api: Api<Secret> = Api::namespaced(failing_once().await, "system");
        let provider: LLMProvider = serde_json::from_value(json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": "acme"},
            "spec": {
                "type": "OpenAI", "openAI": {"project": "proj_1"}, "adminCredentialRef": {"name": "acme"},
                "allowedNamespaces": ["team"],
            },
        }))
        .unwrap();
        let endpoint = Endpoint::from_spec(&provider.spec).unwrap();
        let accounts = Accounts::default();
        assert!(accounts.get(&api, &provider, &endpoint, "1".into()).await.is_err());
        // The same stamp: no watch has told of anything.
        let second = accounts.get(&api, &provider, &endpoint, "1".into()).await.unwrap();
        assert_eq!(second.unwrap().project(), "proj_1");
    }
}
