//! Google Cloud: who gets tokens, for an assertion, for a token of the cluster, or to act as another.
//!
//! Shapes follow RFC 6749 and the package `google-api-python-client` 2.202 (`sts.v1.json`, `iamcredentials.v1.json`).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64URL_NOPAD;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    call::Outcome,
    credential::{Digest, digest},
    google::{error, time},
    operation::Operation,
    wire::ApiError,
    world::World,
};

/// Who asks for tokens.
const MINTER: &str = "minter@sandbox-llm.iam.gserviceaccount.com";
const KEY_ID: &str = "0123456789abcdef0123456789abcdef01234567";
const AUDIENCE: &str = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/sandbox/providers/cluster";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Whom assertions are made out to.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// How long a token is good.
const TOKEN_SECONDS: i64 = 3599;

/// Who may ask for tokens, and the tokens.
#[derive(Default)]
pub(super) struct Office {
    key: Option<KeyPair>,
    tokens: BTreeMap<Digest, DateTime<Utc>>,
}

impl Office {
    /// The file of the service account's key, as Google's tools write it. The key is made when it is first asked for.
    pub(super) fn key_file(&mut self) -> Result<String, rcgen::Error> {
        let key = match self.key.take() {
            Some(key) => key,
            None => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        };
        let file = json!({
            "type": "service_account", "project_id": "sandbox-llm", "private_key_id": KEY_ID, "private_key": key.serialize_pem(),
            "client_email": MINTER, "token_uri": TOKEN_URI, "universe_domain": "googleapis.com",
        });
        self.key = Some(key);
        Ok(file.to_string())
    }

    /// From now on every token is an expired one.
    pub(super) fn expire(&mut self) {
        self.tokens.values_mut().for_each(|until| *until = DateTime::UNIX_EPOCH);
    }

    pub(super) fn judge(&self, token: &Digest, now: DateTime<Utc>) -> Result<(), ApiError> {
        let good = self.tokens.get(token).is_some_and(|until| now < *until);
        let message = "Request had invalid authentication credentials.";
        good.then_some(()).ok_or_else(|| error(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message))
    }

    /// Whether the service account's key has signed the assertion, for us and for now.
    fn has_signed(&self, assertion: &str, now: DateTime<Utc>) -> bool {
        let Some((signed, signature)) = assertion.rsplit_once('.') else { return false };
        let Some(key) = &self.key else { return false };
        let genuine =
            key.sign(signed.as_bytes()).is_ok_and(|made| BASE64URL_NOPAD.encode(&made) == signature);
        let claims =
            signed.split_once('.').and_then(|(_, claims)| BASE64URL_NOPAD.decode(claims.as_bytes()).ok());
        let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        let Some(claims) = claims.filter(|_| genuine) else { return false };
        let at = |name: &str| claims[name].as_i64().unwrap_or_default();
        let (issued, ends, now) = (at("iat"), at("exp"), now.timestamp());
        claims["iss"] == MINTER
            && claims["aud"] == TOKEN_URI
            && claims["scope"] == SCOPE
            && (issued - 300..ends).contains(&now)
            && ends - issued <= 3600
    }
}

/// The file of workload identity federation, as Google's tools write it.
pub(super) fn federation_file(impersonates: bool) -> String {
    let mut file = json!({
        "type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": "/var/run/secrets/elsewhere"},
    });
    if impersonates {
        let url = format!(
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{MINTER}:generateAccessToken"
        );
        file["service_account_impersonation_url"] = Value::from(url);
    }
    file.to_string()
}

/// A request for a token, by an assertion or by another token.
#[derive(Clone, Deserialize)]
pub(super) struct GrantForm {
    grant_type: String,
    #[serde(default)]
    pub(super) assertion: Option<String>,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    subject_token_type: Option<String>,
    #[serde(default)]
    pub(super) subject_token: Option<String>,
}

impl World {
    /// A token for the account that the caller acts as.
    pub(super) fn impersonate(
        &mut self,
        email: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        if email != Some(MINTER) {
            return Err(error(StatusCode::FORBIDDEN, "PERMISSION_DENIED", "It may not act as that account."));
        }
        let token = self.new_token(now);
        let ends = time(now + TimeDelta::seconds(TOKEN_SECONDS));
        Ok(Outcome::committed(json!({"accessToken": token, "expireTime": ends}), None, Vec::new()))
    }

    fn new_token(&mut self, now: DateTime<Utc>) -> String {
        let token = self.mint.key("ya29.");
        self.office.tokens.insert(digest(&token), now + TimeDelta::seconds(TOKEN_SECONDS));
        token.as_str().to_owned()
    }

    pub(super) fn grant_google(
        &mut self,
        by: Operation,
        form: &GrantForm,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ApiError> {
        let jwt = "urn:ietf:params:oauth:token-type:jwt";
        let good = if by == Operation::ExchangeAssertion {
            form.grant_type == "urn:ietf:params:oauth:grant-type:jwt-bearer"
                && form.assertion.as_deref().is_some_and(|assertion| self.office.has_signed(assertion, now))
        } else {
            let ours = |token: &str| token.starts_with("sandbox-service-account-token");
            form.grant_type == "urn:ietf:params:oauth:grant-type:token-exchange"
                && (form.audience.as_deref(), form.scope.as_deref()) == (Some(AUDIENCE), Some(SCOPE))
                && form.subject_token_type.as_deref() == Some(jwt)
                && form.subject_token.as_deref().is_some_and(ours)
        };
        if !good {
            return Err(ApiError::no_grant("invalid_grant", "Invalid JWT Signature."));
        }
        let token = self.new_token(now);
        let answer = json!({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"});
        Ok(Outcome::committed(answer, None, Vec::new()))
    }
}
