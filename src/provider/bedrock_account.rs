//! An IAM user whose credentials are Bedrock's API keys: where IAM stands, who signs requests to it, and the hosts that the admin credential
//! is bound to.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    Endpoint,
    account::{Account, AccountError, same_authority},
    aws_session::Session,
};
use crate::{api::BedrockAccount, crypto::SecretBytes};

/// Where IAM stands, where nothing else is said: one endpoint for all regions of the commercial partition.
pub const IAM: &str = "https://iam.amazonaws.com";

/// Longest session token, in bytes. AWS names no limit and asks for room.
const SESSION_TOKEN_CAP: usize = 8192;

/// How a user's credentials are managed. No `Debug`: it holds a credential.
pub struct BedrockAccess {
    pub(super) iam: Endpoint,
    /// Where temporary keys come from.
    pub(super) sts: Endpoint,
    /// Number of the AWS account.
    pub(super) account_id: String,
    pub(super) user_name: String,
    /// After so many days a new key ends by itself.
    pub(super) age_days: Option<i32>,
    pub(super) signer: Signer,
    /// Temporary keys, as long as they are good.
    pub(super) session: tokio::sync::Mutex<Option<Session>>,
    /// Set once the user was found in this AWS account by this credential.
    pub(super) found: tokio::sync::OnceCell<()>,
}

impl fmt::Debug for BedrockAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BedrockAccess")
    }
}

/// Who signs requests.
pub(super) enum Signer {
    /// The owner of these keys.
    Keys(Arc<AwsKeys>),
    /// Who takes the role with this name (ARN), which trusts the cluster's tokens.
    Role(String),
}

/// Access keys. No `Debug`.
pub(super) struct AwsKeys {
    pub(super) id: String,
    pub(super) secret: SecretBytes,
    pub(super) session_token: Option<SecretBytes>,
}

impl AwsKeys {
    /// None if one of them cannot be what it should.
    pub(super) fn new(id: &str, secret: SecretBytes, session_token: Option<SecretBytes>) -> Option<Self> {
        let printable = |text: &SecretBytes, most: usize| {
            (8..=most).contains(&text.len()) && text.expose().iter().all(u8::is_ascii_graphic)
        };
        let good = (16..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && printable(&secret, 512)
            && session_token.as_ref().is_none_or(|token| printable(token, SESSION_TOKEN_CAP));
        good.then(|| Self { id: id.to_owned(), secret, session_token })
    }
}

/// AWS account and user in one text. IAM has no two users whose names differ in the case of letters only.
pub fn bedrock_user(block: &BedrockAccount) -> String {
    format!("{}/{}", block.account_id, block.user_name).to_ascii_lowercase()
}

/// Bedrock's control plane in a region, where nothing else is said.
pub(super) fn data_url(region: &str) -> String {
    format!("https://bedrock.{region}.amazonaws.com")
}

impl Account {
    /// The user that the block of an `LLMProvider` names, with what its credential's Secret holds: `accessKeyID`, `secretAccessKey` and
    /// perhaps `sessionToken`, and `host` of IAM; or, for web identity, `roleARN`, `host` and `stsHost`.
    ///
    /// # Errors
    /// Something is missing, or is for another host or another AWS account.
    pub fn of_bedrock(
        endpoint: &Endpoint,
        block: &BedrockAccount,
        data: &BTreeMap<String, SecretBytes>,
    ) -> Result<Self, AccountError> {
        let beside = |url: &Option<String>, default: &str| {
            endpoint.beside(url.as_deref().unwrap_or(default)).map_err(|_| AccountError::BadUrl)
        };
        let iam = beside(&block.iam_url, IAM)?;
        let sts = beside(&block.sts_url, &format!("https://sts.{}.amazonaws.com", block.region))?;
        same_authority(data.get("host"), &iam)?;
        let trimmed =
            |name: &str| data.get(name).map(|value| SecretBytes::new(value.expose().trim_ascii().to_vec()));
        let signer = if let Some(role) = trimmed("roleARN") {
            same_authority(data.get("stsHost"), &sts)?;
            let role = role.expose_str().filter(|role| is_role_of(role, &block.account_id));
            Signer::Role(role.ok_or(AccountError::BadRole)?.to_owned())
        } else {
            let id = trimmed("accessKeyID").ok_or(AccountError::Missing("accessKeyID"))?;
            let secret = trimmed("secretAccessKey").ok_or(AccountError::Missing("secretAccessKey"))?;
            let keys = id.expose_str().and_then(|id| AwsKeys::new(id, secret, trimmed("sessionToken")));
            Signer::Keys(Arc::new(keys.ok_or(AccountError::BadCredential)?))
        };
        let access = BedrockAccess {
            iam,
            sts,
            account_id: block.account_id.clone(),
            user_name: block.user_name.clone(),
            age_days: block.credential_age_days,
            signer,
            session: tokio::sync::Mutex::default(),
            found: tokio::sync::OnceCell::new(),
        };
        Ok(Self::with_bedrock(endpoint.clone(), bedrock_user(block), access))
    }
}

/// Whether the text names a role of this AWS account: the keys that come for it can do nothing in another one.
fn is_role_of(text: &str, account_id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=,.@-".contains(&byte);
    text.len() <= 512
        && text
            .strip_prefix("arn:aws:iam::")
            .and_then(|rest| rest.strip_prefix(account_id))
            .and_then(|rest| rest.strip_prefix(":role/"))
            .is_some_and(|name| !name.is_empty() && name.bytes().all(plain))
}

#[cfg(test)]
#[path = "bedrock_account_tests.rs"]
pub(super) mod tests;
