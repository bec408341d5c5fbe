//! Who asks whom, as a case file's head says.

use chrono::DateTime;

use super::case::Head;
use crate::{
    api::ProviderType,
    crypto::SecretBytes,
    provider::{
        Account, AdminCredential, Endpoint, MISTRAL_ADMIN, ProviderKeyId, UsageQuestion, XAI_MANAGEMENT,
        aws_session::role_request,
        azure_account::access_for_tests,
        bedrock_account::{
            AwsKeys, Signer,
            tests::{account_with_keys, account_with_role},
        },
        dialect,
        exchange::Request,
        google_account::tests::account_with_key,
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
    /// Noon of 2026-11-22 is now, also where requests are signed.
    pub(super) question: UsageQuestion,
    pub(super) role: Option<Role>,
}

/// An account whose keys come from STS, and the cluster's token that they come for.
pub(super) struct Role {
    account: Account,
    token: SecretBytes,
}

impl Role {
    pub(super) fn request(&self) -> Option<Request> {
        let access = self.account.bedrock()?;
        let Signer::Role(role) = &access.signer else { return None };
        Some(role_request(access, role, &self.token))
    }
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
        // Two days before noon, too.
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
            role: (provider == ProviderType::Bedrock)
                .then(|| Role { account: account_with_role(), token: "head.body.sign".into() }),
        })
    }

    /// Who signs requests that manage keys.
    pub(super) fn signer(&self) -> Option<&AwsKeys> {
        match &self.account.as_ref()?.bedrock()?.signer {
            Signer::Keys(keys) => Some(keys),
            Signer::Role(_) => None,
        }
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
        ProviderType::Bedrock => Ok(account_with_keys(head.age_days)),
        _ => {
            let beside = match provider {
                ProviderType::XAI => XAI_MANAGEMENT,
                ProviderType::Mistral => MISTRAL_ADMIN,
                _ => endpoint.base_url(),
            };
            let manager = endpoint.beside(beside).map_err(|error| error.to_string())?;
            let credential = AdminCredential::from_secret_data(manager.authority().as_bytes(), credential);
            let credential = credential.map_err(|error| error.to_string())?;
            Account::managed_at(endpoint.clone(), beside, &head.project, credential)
                .map_err(|error| error.to_string())
        }
    }
}
