//! Google's tokens: a service account's signed assertion, the exchange of the cluster's token, and impersonation.
//!
//! Sources: developers.google.com/identity/protocols/oauth2/service-account (JWT bearer), and the package `google-api-python-client` 2.202
//! (`sts.v1.json`, `iamcredentials.v1.json`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use data_encoding::BASE64URL_NOPAD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{
    CallError, ErrorClass, GoogleAccess,
    exchange::{Reply, Request, Unsendable},
    google_account::{SUBJECT_TYPE, ServiceAccountKey, TOKEN_URI},
    google_admin::failure,
    tokens::{Granted, form, is_token},
};
use crate::crypto::SecretBytes;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How long tokens are asked for: the longest that needs no policy of its own.
const LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
}

/// A token for a service account, by an assertion that its key signs. It is made out to Google's token endpoint, whatever stands before that.
pub(super) fn for_key(
    access: &GoogleAccess,
    key: &ServiceAccountKey,
    now: DateTime<Utc>,
) -> Result<Request, CallError> {
    let part = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let begins = now.timestamp();
    let header = part(&json!({"alg": "RS256", "typ": "JWT", "kid": key.key_id}));
    let claims = part(&json!({
        "iss": key.email, "scope": SCOPE, "aud": TOKEN_URI, "iat": begins, "exp": begins + 3600,
    }));
    let signed = format!("{header}.{claims}");
    let signature =
        key.sign(&signed).ok_or_else(|| CallError::local(ErrorClass::CredentialInvalid, "UnusableKey"))?;
    let assertion = SecretBytes::from_string(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)));
    let body = form(&[
        ("grant_type", b"urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion.expose()),
    ]);
    Ok(Request::new(Method::POST, access.tokens.url(&["token"], &[])).form(body))
}

/// A token for the identity that Google has for a token of the cluster.
pub(super) fn for_federation(access: &GoogleAccess, audience: &str, subject: &SecretBytes) -> Request {
    let body = form(&[
        ("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange"),
        ("audience", audience.as_bytes()),
        ("scope", SCOPE.as_bytes()),
        ("requested_token_type", b"urn:ietf:params:oauth:token-type:access_token"),
        ("subject_token_type", SUBJECT_TYPE.as_bytes()),
        ("subject_token", subject.expose()),
    ]);
    Request::new(Method::POST, access.exchange.url(&["v1", "token"], &[])).form(body)
}

/// A token for the service account that the bearer of `token` may act as.
pub(super) fn for_impersonation(
    access: &GoogleAccess,
    email: &str,
    token: &SecretBytes,
) -> Result<Request, Unsendable> {
    let action = format!("{email}:generateAccessToken");
    let url = access.impersonation.url(&["v1", "projects", "-", "serviceAccounts", &action], &[]);
    let lifetime = format!("{}s", LIFETIME.as_secs());
    Request::new(Method::POST, url).json(&json!({"scope": [SCOPE], "lifetime": lifetime})).bearer(token)
}

/// It is good for as long as was asked for.
pub(super) fn read_impersonation(reply: &Reply) -> Result<Granted, CallError> {
    if !reply.succeeded() {
        return Err(failure(reply));
    }
    let token = SecretBytes::from_string(reply.read::<Impersonated>()?.access_token);
    if !is_token(&token) {
        return Err(reply.error(ErrorClass::Garbled, "BadToken"));
    }
    Ok(Granted { token, lifetime: LIFETIME })
}

#[cfg(test)]
#[path = "google_tokens_tests.rs"]
mod tests;
