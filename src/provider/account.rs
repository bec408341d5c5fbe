//! An account at a provider: endpoint, project and the admin credential that is bound to the endpoint's host.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{AzureAccess, BedrockAccess, Endpoint, GoogleAccess, azure_account, bedrock_account::Signer};
use crate::{api::LiteLLMAccount, crypto::SecretBytes};

/// Why an account cannot be used. Quotes no credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AccountError {
    /// The Secret's `host` is not the URL's host and port.
    #[error("the admin credential is for {bound}, the provider's URL points to {called}")]
    HostMismatch {
        /// Host and port that the Secret names.
        bound: String,
        /// Host and port of the URL.
        called: String,
    },
    /// The Secret's `host` is missing or no host name.
    #[error("the admin credential's Secret needs `host`, the host[:port] of the provider's URL")]
    BadHost,
    /// The Secret's `credential` is missing or not 8–512 printable characters.
    #[error("the admin credential must be 8 to 512 printable characters without spaces")]
    BadCredential,
    /// A URL of the account is none.
    #[error(
        "azureOpenAI.resourceManagerURL and authorityURL, bedrock.iamURL and stsURL, google.apiURL, xAI.managementURL and mistral.adminURL must be plain https URLs"
    )]
    BadUrl,
    /// The credential's file is not one of Google's that can be used.
    #[error(
        "the admin credential must be the JSON of a service account's key or of workload identity federation: {0}"
    )]
    BadCredentialFile(&'static str),
    /// The Secret lacks an entry.
    #[error("the admin credential's Secret needs `{0}`")]
    Missing(&'static str),
    /// The role is none of the AWS account.
    #[error("the admin credential's `roleARN` must be arn:aws:iam::<bedrock.accountID>:role/<name>")]
    BadRole,
    /// The project's id is none.
    #[error("the id of the project or workspace must be 1 to 128 of A-Z a-z 0-9 . _ -")]
    BadProject,
}

/// An admin credential and the one host that it may be sent to.
#[derive(Clone)]
pub struct AdminCredential {
    authority: String,
    credential: SecretBytes,
}

impl AdminCredential {
    /// Reads the data of an admin credential's Secret: `host` (`host[:port]`, port 443 if not written) and `credential`.
    /// White space around both is dropped: tools that write files add line breaks.
    pub fn from_secret_data(host: &[u8], credential: &SecretBytes) -> Result<Self, AccountError> {
        let bytes = credential.expose().trim_ascii();
        if !(8..=512).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(AccountError::BadCredential);
        }
        let credential = SecretBytes::new(bytes.to_vec());
        Ok(Self { authority: authority(host)?, credential })
    }
}

/// `host:port` of what a Secret says; the port is always written.
fn authority(host: &[u8]) -> Result<String, AccountError> {
    let host = std::str::from_utf8(host).map_err(|_| AccountError::BadHost)?.trim().to_ascii_lowercase();
    let (name, port) = split_port(&host).ok_or(AccountError::BadHost)?;
    Ok(format!("{name}:{port}"))
}

/// Whether the host in a Secret is the one that is to be called.
pub(super) fn same_authority(host: Option<&SecretBytes>, endpoint: &Endpoint) -> Result<(), AccountError> {
    let bound = authority(host.ok_or(AccountError::BadHost)?.expose())?;
    let called = endpoint.authority();
    if bound == called { Ok(()) } else { Err(AccountError::HostMismatch { bound, called }) }
}

/// Host name and port of `host[:port]`; IPv6 addresses stand in brackets.
fn split_port(host: &str) -> Option<(&str, u16)> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok().filter(|port| *port > 0)?),
        _ => (host, 443),
    };
    let bracketed = name.starts_with('[') && name.ends_with(']');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let inner = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
    let good = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.bytes().all(inner),
        None => name.bytes().all(plain),
    };
    (good && !name.is_empty() && (bracketed || !name.contains(':'))).then_some((name, port))
}

/// An account: what minting, listing and revoking need. No `Debug`: it holds a credential.
#[derive(Clone)]
pub struct Account {
    endpoint: Endpoint,
    project: String,
    credential: SecretBytes,
    lite_llm: Option<Arc<LiteLLMAccount>>,
    azure: Option<Arc<AzureAccess>>,
    google: Option<Arc<GoogleAccess>>,
    bedrock: Option<Arc<BedrockAccess>>,
    manager: Option<Arc<Endpoint>>,
    user: Option<String>,
}

impl Account {
    /// Joins the three, if the credential is bound to exactly the host and port of the endpoint.
    pub fn new(endpoint: Endpoint, project: &str, credential: AdminCredential) -> Result<Self, AccountError> {
        Self::managed(endpoint, None, project, credential)
    }

    /// The same where another API than the endpoint's manages it: the credential is bound to that one's host.
    pub fn managed_at(
        endpoint: Endpoint,
        manager: &str,
        project: &str,
        credential: AdminCredential,
    ) -> Result<Self, AccountError> {
        let manager = endpoint.beside(manager).map_err(|_| AccountError::BadUrl)?;
        Self::managed(endpoint, Some(manager), project, credential)
    }

    fn managed(
        endpoint: Endpoint,
        manager: Option<Endpoint>,
        project: &str,
        credential: AdminCredential,
    ) -> Result<Self, AccountError> {
        let called = manager.as_ref().unwrap_or(&endpoint).authority();
        if credential.authority != called {
            return Err(AccountError::HostMismatch { bound: credential.authority, called });
        }
        if !is_object_id(project) {
            return Err(AccountError::BadProject);
        }
        let bare = Self::bare(endpoint, project.to_owned(), credential.credential);
        Ok(Self { manager: manager.map(Arc::new), ..bare })
    }

    const fn bare(endpoint: Endpoint, project: String, credential: SecretBytes) -> Self {
        Self {
            endpoint,
            project,
            credential,
            lite_llm: None,
            azure: None,
            google: None,
            bedrock: None,
            manager: None,
            user: None,
        }
    }

    /// The same with the user that keys are made for.
    #[must_use]
    pub fn for_user(self, user: Option<&str>) -> Self {
        Self { user: user.map(str::to_owned), ..self }
    }

    /// The user that keys are made for; Mistral only.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// An account of Azure's.
    pub(super) fn with_azure(endpoint: Endpoint, project: String, access: AzureAccess) -> Self {
        let credential = access.secret.clone().unwrap_or_else(|| SecretBytes::new(Vec::new()));
        Self { azure: Some(Arc::new(access)), ..Self::bare(endpoint, project, credential) }
    }

    /// A project of Google Cloud's.
    pub(super) fn with_google(endpoint: Endpoint, project: String, access: GoogleAccess) -> Self {
        let google = Some(Arc::new(access));
        Self { google, ..Self::bare(endpoint, project, SecretBytes::new(Vec::new())) }
    }

    /// A user of IAM's.
    pub(super) fn with_bedrock(endpoint: Endpoint, project: String, access: BedrockAccess) -> Self {
        let credential = match &access.signer {
            Signer::Keys(keys) => keys.secret.clone(),
            Signer::Role(_) => SecretBytes::new(Vec::new()),
        };
        Self { bedrock: Some(Arc::new(access)), ..Self::bare(endpoint, project, credential) }
    }

    /// The same for one call, with a token in place of the credential.
    pub(super) fn holding(&self, token: &SecretBytes) -> Self {
        Self { credential: token.clone(), ..self.clone() }
    }

    /// The same with what keys of a LiteLLM proxy may do.
    #[must_use]
    pub fn with_lite_llm(self, terms: Option<&LiteLLMAccount>) -> Self {
        Self { lite_llm: terms.cloned().map(Arc::new), ..self }
    }

    /// Another project of the same account.
    pub fn in_project(&self, project: &str) -> Result<Self, AccountError> {
        let good = match (&self.azure, &self.bedrock) {
            (Some(_), _) => azure_account::is_path(project),
            // The user's own name is the one that is called.
            (None, Some(_)) => project == self.project,
            (None, None) => is_object_id(project),
        };
        if !good {
            return Err(AccountError::BadProject);
        }
        Ok(Self { project: project.to_owned(), ..self.clone() })
    }

    /// Host and port of the API that manages it.
    pub fn authority(&self) -> String {
        self.manager().authority()
    }

    /// The API that manages it.
    pub(super) fn manager(&self) -> &Endpoint {
        let beside = self.azure().map(|azure| &azure.manager);
        let beside = beside.or_else(|| self.google().map(|google| &google.manager));
        let beside = beside.or_else(|| self.bedrock().map(|bedrock| &bedrock.iam));
        beside.or(self.manager.as_deref()).unwrap_or(&self.endpoint)
    }

    /// How an account of Azure's is managed.
    pub(super) fn azure(&self) -> Option<&AzureAccess> {
        self.azure.as_deref()
    }

    /// How a project of Google Cloud's is managed.
    pub(super) fn google(&self) -> Option<&GoogleAccess> {
        self.google.as_deref()
    }

    /// How a user of IAM's is managed.
    pub(super) fn bedrock(&self) -> Option<&BedrockAccess> {
        self.bedrock.as_deref()
    }

    /// The API it belongs to.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What keys of a LiteLLM proxy may do.
    pub(super) fn lite_llm(&self) -> Option<&LiteLLMAccount> {
        self.lite_llm.as_deref()
    }

    /// The project (OpenAI, Google), workspace (Anthropic, Mistral, OpenRouter), team (LiteLLM, xAI), account (Azure) or user (Bedrock) that keys are in.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The admin credential; for the `Authorization` header and for comparing.
    pub(super) const fn credential(&self) -> &SecretBytes {
        &self.credential
    }
}

/// Whether the text can be one segment of a provider's URL: `^[A-Za-z0-9._-]{1,128}$` and not only dots.
pub(super) fn is_object_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !text.bytes().all(|byte| byte == b'.')
}

/// A key's opaque handle at its provider, as ledgers keep it.
///
/// `handle` or `handle/key`: the handle is what ends the key when it is deleted. OpenAI: `svc_acct_x/key_y`, a service
/// account and its only key; in lists the key part is not known. OpenRouter and LiteLLM: the
/// key's hash. Azure: the slot, and which of its keys. Google: the id that we chose. Bedrock: the credential's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderKeyId(String);

/// The text is not a key's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provider key id is one or two parts of 1 to 128 of A-Z a-z 0-9 . _ -, joined by /")]
pub struct BadKeyId;

impl ProviderKeyId {
    /// Reads `handle` or `handle/key`.
    pub fn parse(text: &str) -> Result<Self, BadKeyId> {
        let parts = text.split('/');
        if parts.clone().count() <= 2 && parts.into_iter().all(is_object_id) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadKeyId)
        }
    }

    pub(super) fn new(handle: &str, key: Option<&str>) -> Result<Self, BadKeyId> {
        match key {
            Some(key) => Self::parse(&format!("{handle}/{key}")),
            None => Self::parse(handle),
        }
    }

    /// The text that is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part whose deletion ends the key.
    pub fn handle(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(handle, _)| handle)
    }

    /// The part that names the key itself, if known.
    pub fn key(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, key)| key)
    }

    /// Whether both end with the same deletion. Equality is too strict: lists do not tell the key part.
    pub fn same_handle(&self, other: &Self) -> bool {
        self.handle() == other.handle()
    }
}

impl TryFrom<String> for ProviderKeyId {
    type Error = BadKeyId;

    fn try_from(text: String) -> Result<Self, BadKeyId> {
        Self::parse(&text)
    }
}

impl From<ProviderKeyId> for String {
    fn from(id: ProviderKeyId) -> Self {
        id.0
    }
}

impl fmt::Display for ProviderKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ProviderType;

    fn account(host: &str) -> Result<Account, AccountError> {
        let endpoint = Endpoint::public(ProviderType::OpenAI).map_err(|_| AccountError::BadHost)?;
        let credential = AdminCredential::from_secret_data(host.as_bytes(), &"sk-admin-0123456789\n".into())?;
        Account::new(endpoint, "proj_1", credential)
    }

    #[test]
    fn the_credential_goes_to_its_own_host_and_port_only() {
        for host in ["api.openai.com", "api.openai.com:443", "API.OpenAI.com\n"] {
            assert_eq!(account(host).map(|account| account.credential().len()).unwrap(), 19, "{host}");
        }
        for host in [
            "api.openai.com:8443",
            "api.openai.com.",
            "openai.com",
            "evil.example",
            "xapi.openai.com",
            "api.openai.com.evil.example",
            "[::1]:443",
        ] {
            assert!(matches!(account(host), Err(AccountError::HostMismatch { .. })), "{host}");
        }
        for host in
            ["", "https://api.openai.com", "api.openai.com/v1", "a@api.openai.com", "a:b:c", "a:0", ":443"]
        {
            assert!(matches!(account(host), Err(AccountError::BadHost)), "{host}");
        }
    }

    #[test]
    fn a_project_that_would_leave_its_place_in_a_path_is_refused() {
        for project in ["", "..", "proj_1/../proj_2", "proj_1?x"] {
            let endpoint = Endpoint::public(ProviderType::OpenAI).unwrap();
            let credential =
                AdminCredential::from_secret_data(b"api.openai.com", &"sk-admin-0123456789".into()).unwrap();
            let refused = Account::new(endpoint, project, credential).err();
            assert_eq!(refused, Some(AccountError::BadProject), "{project}");
        }
    }

    #[test]
    fn credentials_that_cannot_be_a_header_are_refused_without_being_quoted() {
        for bad in ["", "short", "sk-admin-01234\n56789", "sk admin 0123456789"] {
            let error = AdminCredential::from_secret_data(b"a.example", &bad.into()).err().unwrap();
            assert_eq!(error, AccountError::BadCredential);
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
    }

    #[test]
    fn ids_that_would_leave_their_place_in_a_path_are_refused() {
        for bad in ["", ".", "..", "../x", "a/../b", "a//b", "a/b/c", "a?b", "a#b", "a%2e", "ä", "a b", "a\n"]
        {
            assert_eq!(ProviderKeyId::parse(bad), Err(BadKeyId), "{bad:?}");
        }
        let long = "a".repeat(129);
        assert_eq!(ProviderKeyId::parse(&long), Err(BadKeyId));
        let id = ProviderKeyId::parse("svc_acct_1/key_2").unwrap();
        assert_eq!((id.handle(), id.key()), ("svc_acct_1", Some("key_2")));
        assert!(id.same_handle(&ProviderKeyId::parse("svc_acct_1").unwrap()));
        assert!(serde_json::from_str::<ProviderKeyId>("\"../x\"").is_err());
    }
}
