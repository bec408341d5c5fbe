//! An Azure account: where it is managed, who asks for tokens, and the hosts that the credential is bound to.

use std::{collections::BTreeMap, fmt};

use super::{
    Endpoint,
    account::{Account, AccountError, same_authority},
    tokens::Token,
};
use crate::{api::AzureOpenAIAccount, crypto::SecretBytes};

/// Where Azure's management API stands, where nothing else is said.
pub const RESOURCE_MANAGER: &str = "https://management.azure.com";

/// Where tokens come from, where nothing else is said.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";

/// How an account's keys are managed. No `Debug`: it holds a credential.
pub struct AzureAccess {
    /// The management API.
    pub(super) manager: Endpoint,
    /// Where tokens come from.
    pub(super) authority: Endpoint,
    pub(super) tenant: String,
    pub(super) client: String,
    /// The application's secret; none: the cluster's own token is exchanged.
    pub(super) secret: Option<SecretBytes>,
    pub(super) token: tokio::sync::Mutex<Option<Token>>,
}

impl fmt::Debug for AzureAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AzureAccess")
    }
}

/// Subscription, resource group and account in one text. The case of their letters means nothing to Azure.
pub fn azure_path(block: &AzureOpenAIAccount) -> String {
    format!("{}/{}/{}", block.subscription, block.resource_group, block.account).to_ascii_lowercase()
}

impl Account {
    /// The account that the block of an `LLMProvider` names, with what its credential's Secret holds: `tenantID`, `clientID`,
    /// `clientSecret` (without: the operator's federated token), `host` of the management API, and `authorityHost`.
    ///
    /// # Errors
    /// Something is missing, or is for another host.
    pub fn of_azure(
        endpoint: &Endpoint,
        block: &AzureOpenAIAccount,
        data: &BTreeMap<String, SecretBytes>,
    ) -> Result<Self, AccountError> {
        let beside = |url: &Option<String>, default: &str| {
            endpoint.beside(url.as_deref().unwrap_or(default)).map_err(|_| AccountError::BadUrl)
        };
        let manager = beside(&block.resource_manager_url, RESOURCE_MANAGER)?;
        let authority = beside(&block.authority_url, AUTHORITY)?;
        same_authority(data.get("host"), &manager)?;
        same_authority(data.get("authorityHost"), &authority)?;
        let text = |name: &'static str| {
            let value = data.get(name).map(|value| value.expose().trim_ascii());
            let good = |value: &&[u8]| {
                (1..=128).contains(&value.len())
                    && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b))
                    && !value.iter().all(|b| *b == b'.')
            };
            let value = value.filter(good).and_then(|value| std::str::from_utf8(value).ok());
            value.map(str::to_owned).ok_or(AccountError::Missing(name))
        };
        let secret = match data.get("clientSecret").map(|secret| secret.expose().trim_ascii()) {
            None => None,
            Some(secret) if (8..=512).contains(&secret.len()) && secret.iter().all(u8::is_ascii_graphic) => {
                Some(SecretBytes::new(secret.to_vec()))
            }
            Some(_) => return Err(AccountError::BadCredential),
        };
        let access = AzureAccess {
            manager,
            authority,
            tenant: text("tenantID")?,
            client: text("clientID")?,
            secret,
            token: tokio::sync::Mutex::default(),
        };
        Ok(Self::with_azure(endpoint.clone(), azure_path(block), access))
    }
}

/// The data side of an account, where nothing else is said.
pub(super) fn data_url(account: &str) -> String {
    format!("https://{}.openai.azure.com", account.to_ascii_lowercase())
}

/// Whether the text is the path of an account.
pub(super) fn is_path(text: &str) -> bool {
    let plain = |part: &str| {
        (1..=90).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.()".contains(&b))
            && !part.bytes().all(|b| b == b'.')
    };
    text.split('/').count() == 3 && text.split('/').all(plain)
}

/// For tests of requests.
#[cfg(test)]
pub(super) fn access_for_tests(secret: Option<&str>) -> AzureAccess {
    let endpoint = |url: &str| {
        Endpoint::local(crate::api::ProviderType::AzureOpenAI, reqwest::Url::parse(url).unwrap().as_str())
    };
    AzureAccess {
        manager: endpoint(RESOURCE_MANAGER),
        authority: endpoint(AUTHORITY),
        tenant: "11111111-2222-3333-4444-555555555555".into(),
        client: "66666666-7777-8888-9999-000000000000".into(),
        secret: secret.map(SecretBytes::from),
        token: tokio::sync::Mutex::default(),
    }
}
