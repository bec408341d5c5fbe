//! Who asks whom, as a case file's head says.

use chrono::DateTime;

use super::case::Head;
use crate::{
    api::ProviderType,
    crypto::SecretBytes,
    provider::{
        Account, AdminCredential, Endpoint, ProviderKeyId, UsageQuestion, azure_account::access_for_tests,
        dialect, google_account::tests::account_with_key,
    },
};

pub(super) struct Rig {
    pub(super) provider: ProviderType,
    pub(super) endpoint: Endpoint,
    pub(super) account: Option<Account>,
    pub(super) credential: SecretBytes,
    pub(super) key: SecretBytes,
    pub(super) name: String,
    pub(super) id: Option<ProviderKeyId>,
    pub(super) question: UsageQuestion,
}

impl Rig {
    pub(super) fn new(provider: ProviderType, head: &Head) -> Result<Self, String> {
        let endpoint = match &head.base_url {
            Some(url) => Endpoint::local(provider, url),
            None => Endpoint::public(provider).map_err(|error| error.to_string())?,
        };
        let credential = SecretBytes::from(head.credential.as_str());
        let account = match dialect(provider).admin() {
            None => None,
            Some(_) => Some(account(provider, &endpoint, head, &credential)?),
        };
        let id = match head.id.as_str() {
            "" => None,
            id => Some(ProviderKeyId::parse(id).map_err(|error| error.to_string())?),
        };
        let at = |seconds| DateTime::from_timestamp(seconds, 0).ok_or("no time");
        // Noon of 2026-11-22, and two days before.
        let (now, since) = (at(1_795_348_800)?, at(1_795_176_000)?);
        let keys = id.iter().map(|id| id.in_reports().into()).collect();
        Ok(Self {
            provider,
            endpoint,
            account,
            credential,
            key: head.key.as_str().into(),
            name: head.name.clone(),
            id,
            question: UsageQuestion { now, since, keys },
        })
    }
}

/// The account as requests are given it: with the token in place of what it was exchanged for.
fn account(
    provider: ProviderType,
    endpoint: &Endpoint,
    head: &Head,
    credential: &SecretBytes,
) -> Result<Account, String> {
    match provider {
        ProviderType::Google => Ok(account_with_key().holding(credential)),
        ProviderType::AzureOpenAI => {
            let access = access_for_tests(Some("a-secret-0123"));
            Ok(Account::with_azure(endpoint.clone(), head.project.clone(), access))
        }
        _ => {
            let host = endpoint.authority();
            let credential = AdminCredential::from_secret_data(host.as_bytes(), credential);
            let credential = credential.map_err(|error| error.to_string())?;
            Account::new(endpoint.clone(), &head.project, credential).map_err(|error| error.to_string())
        }
    }
}
