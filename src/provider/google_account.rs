//! A Google Cloud project: where its keys are managed, who asks for tokens, and the host that the credential is bound to.

use std::{collections::BTreeMap, fmt, sync::Arc};

use data_encoding::BASE64;
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{Signer, SigningKey},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    Endpoint,
    account::{Account, AccountError, is_object_id, same_authority},
    tokens::Token,
};
use crate::{api::GoogleAccount, crypto::SecretBytes};

/// Where the API Keys API stands, where nothing else is said. `host` of the credential's Secret names it.
pub const API_KEYS: &str = "https://apikeys.googleapis.com";

/// Where tokens come from, where nothing else is said: for a service account's key, for the cluster's token, and for who is impersonated.
const TOKENS: &str = "https://oauth2.googleapis.com";
const EXCHANGE: &str = "https://sts.googleapis.com";
const IMPERSONATION: &str = "https://iamcredentials.googleapis.com";

/// The only URLs that a credential's file may name. None of them is ever called because a file names it.
pub(super) const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const EXCHANGE_URL: &str = "https://sts.googleapis.com/v1/token";
const IMPERSONATION_PREFIX: &str = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/";
const IMPERSONATION_SUFFIX: &str = ":generateAccessToken";

const UNIVERSE: &str = "googleapis.com";

/// The type of the tokens that Kubernetes gives to pods.
pub(super) const SUBJECT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Longest credential, in bytes.
const CREDENTIAL_CAP: usize = 16 * 1024;

/// How a project's keys are managed. No `Debug`: it holds a credential.
pub struct GoogleAccess {
    /// The API Keys API.
    pub(super) manager: Endpoint,
    pub(super) tokens: Endpoint,
    pub(super) exchange: Endpoint,
    pub(super) impersonation: Endpoint,
    /// Email of the service account that new keys are bound to.
    pub(super) bound_to: String,
    pub(super) identity: Identity,
    pub(super) token: tokio::sync::Mutex<Option<Token>>,
}

impl fmt::Debug for GoogleAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoogleAccess")
    }
}

/// Who asks for tokens.
pub(super) enum Identity {
    /// A service account, by its key.
    Key(ServiceAccountKey),
    /// The operator's own service account in the cluster, which Google trusts.
    Federation(Federation),
}

/// A service account's key. No `Debug`.
pub(super) struct ServiceAccountKey {
    pub(super) email: String,
    pub(super) key_id: String,
    key: Arc<dyn SigningKey>,
}

/// Workload identity federation.
pub(super) struct Federation {
    /// The identity provider's resource name.
    pub(super) audience: String,
    /// Email of the service account to act as; none: the federated identity itself.
    pub(super) impersonates: Option<String>,
}

impl ServiceAccountKey {
    fn new(email: String, key_id: String, pem: &SecretBytes) -> Option<Self> {
        let text = pem.expose_str()?;
        let (_, begun) = text.split_once("-----BEGIN PRIVATE KEY-----")?;
        let (body, _) = begun.split_once("-----END PRIVATE KEY-----")?;
        let body =
            Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>());
        let der = Zeroizing::new(BASE64.decode(&body).ok()?);
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()))).ok()?;
        let key = Self { email, key_id, key };
        key.signer().is_some().then_some(key)
    }

    fn signer(&self) -> Option<Box<dyn Signer>> {
        self.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
    }

    /// RS256 (RFC 7518).
    pub(super) fn sign(&self, text: &str) -> Option<Vec<u8>> {
        self.signer()?.sign(text.as_bytes()).ok()
    }
}

/// What Google's own tools write: the key of a service account, or how to federate.
#[derive(Deserialize)]
struct CredentialFile {
    r#type: String,
    #[serde(default)]
    universe_domain: Option<String>,
    #[serde(default)]
    client_email: Option<String>,
    #[serde(default)]
    private_key_id: Option<String>,
    #[serde(default)]
    private_key: Option<String>,
    #[serde(default)]
    token_uri: Option<String>,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    subject_token_type: Option<String>,
    #[serde(default)]
    token_url: Option<String>,
    #[serde(default)]
    service_account_impersonation_url: Option<String>,
}

impl CredentialFile {
    fn identity(mut self) -> Result<Identity, &'static str> {
        let private_key = self.private_key.take().map(SecretBytes::from_string);
        if self.universe_domain.as_ref().is_some_and(|domain| domain != UNIVERSE) {
            return Err("universe_domain must be googleapis.com");
        }
        match self.r#type.as_str() {
            "service_account" => {
                if self.token_uri.as_ref().is_some_and(|uri| uri != TOKEN_URI) {
                    return Err(
                        "token_uri must be https://oauth2.googleapis.com/token, the only place that its tokens come from",
                    );
                }
                let email = self
                    .client_email
                    .filter(|email| is_email(email))
                    .ok_or("client_email is missing or no email")?;
                let key_id = self
                    .private_key_id
                    .filter(|id| is_object_id(id))
                    .ok_or("private_key_id is missing or no id")?;
                let key = private_key.and_then(|pem| ServiceAccountKey::new(email, key_id, &pem));
                key.map(Identity::Key).ok_or("private_key is missing or no RSA key (PKCS #8, PEM)")
            }
            "external_account" => {
                if self.token_url.as_deref() != Some(EXCHANGE_URL) {
                    return Err("token_url must be https://sts.googleapis.com/v1/token");
                }
                if self.subject_token_type.as_deref() != Some(SUBJECT_TYPE) {
                    return Err(
                        "subject_token_type must be urn:ietf:params:oauth:token-type:jwt, as the cluster's tokens are",
                    );
                }
                let named = |audience: &String| {
                    audience.starts_with("//iam.googleapis.com/")
                        && audience.len() <= 512
                        && audience.bytes().all(|b| b.is_ascii_graphic())
                };
                let audience =
                    self.audience.filter(named).ok_or("audience must begin with //iam.googleapis.com/")?;
                let impersonates = self
                    .service_account_impersonation_url
                    .map(|url| {
                        let email = url.strip_prefix(IMPERSONATION_PREFIX)?.strip_suffix(IMPERSONATION_SUFFIX)?;
                        is_email(email).then(|| email.to_owned())
                    })
                    .map(|email| email.ok_or("service_account_impersonation_url must be iamcredentials.googleapis.com's generateAccessToken of a service account"))
                    .transpose()?;
                Ok(Identity::Federation(Federation { audience, impersonates }))
            }
            _ => Err("type must be service_account or external_account"),
        }
    }
}

fn is_email(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
    };
    text.len() <= 128 && text.split_once('@').is_some_and(|(name, domain)| part(name) && part(domain))
}

impl Account {
    /// The project that the block of an `LLMProvider` names, with what its credential's Secret holds: `credential`, a JSON file of Google's,
    /// and `host` of the API Keys API.
    ///
    /// # Errors
    /// Something is missing, or is for another host.
    pub fn of_google(
        endpoint: &Endpoint,
        block: &GoogleAccount,
        data: &BTreeMap<String, SecretBytes>,
    ) -> Result<Self, AccountError> {
        let beside = |default: &str| {
            endpoint.beside(block.api_url.as_deref().unwrap_or(default)).map_err(|_| AccountError::BadUrl)
        };
        let manager = beside(API_KEYS)?;
        same_authority(data.get("host"), &manager)?;
        let credential = data.get("credential").ok_or(AccountError::Missing("credential"))?;
        if credential.len() > CREDENTIAL_CAP {
            return Err(AccountError::BadCredentialFile("it is too long"));
        }
        // The parser's own message may quote the file.
        let file: CredentialFile = serde_json::from_slice(credential.expose())
            .map_err(|_| AccountError::BadCredentialFile("it is no such JSON"))?;
        if !is_object_id(&block.project) {
            return Err(AccountError::BadProject);
        }
        let access = GoogleAccess {
            manager,
            tokens: beside(TOKENS)?,
            exchange: beside(EXCHANGE)?,
            impersonation: beside(IMPERSONATION)?,
            bound_to: block.service_account_email.clone(),
            identity: file.identity().map_err(AccountError::BadCredentialFile)?,
            token: tokio::sync::Mutex::default(),
        };
        Ok(Self::with_google(endpoint.clone(), block.project.clone(), access))
    }
}

#[cfg(test)]
#[path = "google_account_tests.rs"]
pub(super) mod tests;
