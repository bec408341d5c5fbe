//! A sandbox with an account of any provider whose API it speaks, and the client that calls it over TLS.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    api::ProviderType,
    crypto::{SecretBytes, SystemEntropy},
    domain::health::Verdict,
    provider::{
        Account, AdminCredential, Capabilities, Capability, Endpoint, MintError, MintKind, ProviderKeyId,
        Providers, ProvidersConfig, WallClock, choose,
    },
    sandbox::{Clock, Sandbox, SandboxOptions, Settings},
};

/// How far [`Stand::later`] goes.
const LAG_SECONDS: i64 = 6;

/// A new key, by its id.
type Made = (ProviderKeyId, SecretBytes);

/// A sandbox with an account, and the client.
pub(super) struct Stand {
    pub(super) provider: ProviderType,
    pub(super) sandbox: Sandbox,
    pub(super) providers: Providers,
    pub(super) account: Account,
    /// The project, workspace, team or account.
    pub(super) place: String,
    seconds: Arc<AtomicI64>,
}

impl Stand {
    pub(super) async fn start(provider: ProviderType) -> Self {
        let seconds = Arc::new(AtomicI64::new(1_800_000_000));
        let clock: Clock = {
            let seconds = Arc::clone(&seconds);
            Arc::new(move || DateTime::from_timestamp(seconds.load(Ordering::SeqCst), 0).unwrap_or_default())
        };
        let sandbox = Sandbox::start(SandboxOptions::new(Arc::clone(&clock))).await.unwrap();
        let providers = Providers::new(ProvidersConfig {
            read_timeout: Duration::from_secs(20),
            total_timeout: Duration::from_secs(30),
            loopback_only: true,
            wall: WallClock::new(move || clock()),
            ..ProvidersConfig::default()
        });
        let (account, place) = account(provider, &sandbox);
        Self { provider, sandbox, providers, account, place, seconds }
    }

    pub(super) fn set(&self, settings: Settings) {
        // Mistral's lists are of the whole organization.
        let place = (self.provider != ProviderType::Mistral).then_some(self.place.as_str());
        self.sandbox.set_settings(place, settings);
    }

    pub(super) fn kind(&self) -> MintKind {
        Capabilities::of(self.provider, true).mint_kind()
    }

    pub(super) fn can(&self, capability: Capability) -> bool {
        Capabilities::of(self.provider, true).has(capability)
    }

    pub(super) async fn mint(&self, name: &str) -> Result<Made, MintError> {
        let (providers, account) = (&self.providers, &self.account);
        match self.kind() {
            MintKind::ShownOnce | MintKind::Unnamed => {
                providers.mint(account, name).await.map(|made| (made.id, made.secret))
            }
            MintKind::CallerChosen => {
                let chosen = choose(self.provider, &mut SystemEntropy).ok().flatten().unwrap();
                let id = providers.mint_chosen(account, name, &chosen.secret).await?;
                Ok((id, chosen.secret))
            }
            MintKind::CallerNamed => {
                let id = ProviderKeyId::parse(name).unwrap();
                providers.mint_named(account, &id).await.map(|secret| (id, secret))
            }
            MintKind::Slots => {
                providers.renew_slot(account, "Key2").await?;
                let slots = providers.slots(account).await.map_err(MintError::UnknownOutcome)?;
                let slot = slots.into_iter().find(|slot| slot.slot == "Key2").unwrap();
                Ok((ProviderKeyId::parse("Key2-0123456789ab").unwrap(), slot.secret))
            }
        }
    }

    pub(super) async fn verdict(&self, key: &SecretBytes) -> Verdict {
        self.providers.validate(self.account.endpoint(), key).await.verdict
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.seconds.load(Ordering::SeqCst), 0).unwrap_or_default()
    }

    /// Longer than the lags of these tests.
    pub(super) fn later(&self) {
        self.seconds.fetch_add(LAG_SECONDS, Ordering::SeqCst);
    }
}

/// The account at the sandbox, and its project, workspace, team or name there.
fn account(provider: ProviderType, sandbox: &Sandbox) -> (Account, String) {
    let host = sandbox.addr().to_string();
    let simple = |url: String, credential: &str, place: String| {
        let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
        (Account::new(endpoint(provider, sandbox, &url), &place, credential).unwrap(), place)
    };
    let beside = |data: &str, manager: &str, credential: &str, place: String| {
        let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
        let endpoint = endpoint(provider, sandbox, &sandbox.url_of(data));
        let account = Account::managed_at(endpoint, &sandbox.url_of(manager), &place, credential).unwrap();
        (account, place)
    };
    let data = |entries: &[(&str, &str)]| -> BTreeMap<String, SecretBytes> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), SecretBytes::from(*value))).collect()
    };
    match provider {
        ProviderType::OpenRouter => {
            // The first workspace is the default one: a list that names none would tell of it.
            let _ = sandbox.create_workspace("default");
            simple(sandbox.router_url(), sandbox.management_key(), sandbox.create_workspace("other"))
        }
        ProviderType::LiteLLM => {
            simple(sandbox.proxy_url(), sandbox.master_key(), sandbox.create_team("team"))
        }
        ProviderType::Google => {
            let place = sandbox.create_google_project("contoso-llm");
            let block = serde_json::from_value(json!({
                "project": place, "serviceAccountEmail": "gemini@sandbox-llm.iam.gserviceaccount.com",
                "apiURL": sandbox.google_url(),
            }))
            .unwrap();
            let file = sandbox.google_key_file().unwrap();
            let data = data(&[("host", host.as_str()), ("credential", file.as_str())]);
            let endpoint = endpoint(provider, sandbox, &sandbox.gemini_url());
            (Account::of_google(&endpoint, &block, &data).unwrap(), place)
        }
        ProviderType::AzureOpenAI => {
            let (place, azure) = (sandbox.create_azure_account("contoso"), sandbox.azure());
            let block = serde_json::from_value(json!({
                "subscription": azure.subscription, "resourceGroup": azure.group, "account": place,
                "ownership": "Exclusive",
                "resourceManagerURL": sandbox.azure_manager_url(), "authorityURL": sandbox.azure_authority_url(),
            }))
            .unwrap();
            let data = data(&[
                ("host", host.as_str()),
                ("authorityHost", host.as_str()),
                ("tenantID", azure.tenant),
                ("clientID", azure.client),
                ("clientSecret", azure.secret),
            ]);
            let endpoint = endpoint(provider, sandbox, &sandbox.azure_url());
            (Account::of_azure(&endpoint, &block, &data).unwrap(), place)
        }
        ProviderType::Anthropic => {
            let place = sandbox.create_console_workspace("team");
            simple(sandbox.url_of("anthropic"), sandbox.console_key(), place)
        }
        ProviderType::XAI => {
            let place = sandbox.create_xai_team("team");
            beside("xai/data/v1", "xai/management", sandbox.team_manager(), place)
        }
        ProviderType::Mistral => {
            let place = sandbox.create_mistral_workspace("team");
            beside("mistral/data", "mistral/admin", sandbox.workspace_admin(), place)
        }
        ProviderType::Bedrock => {
            let (place, aws) = (sandbox.create_iam_user("llm-Keys"), sandbox.aws());
            let block = serde_json::from_value(json!({
                "region": "eu-central-1", "accountID": aws.account, "userName": "llm-Keys", "ownership": "Exclusive",
                "iamURL": sandbox.iam_url(), "stsURL": sandbox.sts_url(),
            }))
            .unwrap();
            let data = data(&[
                ("host", host.as_str()),
                ("accessKeyID", aws.access_key_id),
                ("secretAccessKey", aws.secret_access_key),
            ]);
            let endpoint = endpoint(provider, sandbox, &sandbox.bedrock_url());
            (Account::of_bedrock(&endpoint, &block, &data).unwrap(), place)
        }
        _ => simple(sandbox.base_url(), sandbox.admin_key(), sandbox.project_id().to_owned()),
    }
}

fn endpoint(provider: ProviderType, sandbox: &Sandbox, url: &str) -> Endpoint {
    let spec = json!({
        "type": provider.as_str(), "baseURL": url, "caBundle": sandbox.ca_pem(), "addresses": "AllowPrivate",
        "allowedNamespaces": [],
    });
    Endpoint::from_spec(&serde_json::from_value(spec).unwrap()).unwrap()
}
