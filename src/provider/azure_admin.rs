//! Azure's management of an account's two keys.
//!
//! Source: the package `azure-mgmt-cognitiveservices` 14.1 (`_accounts_operations.py`, `ApiKeys`, `RegenerateKeyParameters`, `KeyName`). A key
//! has no id, no name, no expiry and no end of its own: each of the two slots always holds one, it can be read at any time, and
//! the only change is to have a slot's key made anew, which ends the one before at once. What codes errors have is unverified.

use std::time::Duration;

use data_encoding::HEXUPPER;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Admin, AzureAccess, CallError, Capabilities, Capability, ErrorClass, MintError, Minting, SlotKey, Slots,
    admin_reply, check_shape,
    exchange::{Reply, Request, Unsendable, text},
};
use crate::{api::ProviderType, crypto::SecretBytes};

/// Version of Azure's management API.
const API_VERSION: &str = "2025-09-01";

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) struct AzureAdmin;

#[derive(Deserialize)]
struct Keys {
    key1: String,
    key2: String,
}

/// The answer of the token endpoint.
#[derive(Deserialize)]
struct Granting {
    token_type: String,
    expires_in: u64,
    access_token: String,
}

impl Admin for AzureAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[Capability::Mint, Capability::Revoke, Capability::Validate]).for_one()
    }

    fn minting(&'static self) -> Minting {
        Minting::Slots(self)
    }
}

impl Slots for AzureAdmin {
    fn read_request(
        &self,
        access: &AzureAccess,
        project: &str,
        token: &SecretBytes,
    ) -> Result<Request, Unsendable> {
        Request::new(Method::POST, url(access, project, "listKeys")).bearer(token)
    }

    fn read_slots(&self, reply: &Reply) -> Result<Vec<SlotKey>, CallError> {
        if !reply.succeeded() {
            return Err(failure(reply));
        }
        let Keys { key1, key2 } = reply.read()?;
        let slot = |name: &'static str, value: String| {
            let secret = SecretBytes::from_string(value);
            let good = check_shape(ProviderType::AzureOpenAI, &secret).is_ok();
            good.then_some(SlotKey { slot: name, secret })
                .ok_or_else(|| reply.error(ErrorClass::Garbled, "BadKey"))
        };
        // The first one is made anew first: what was set up by hand before has Key1, as a rule.
        Ok(vec![slot("Key2", key2)?, slot("Key1", key1)?])
    }

    fn renew_request(
        &self,
        access: &AzureAccess,
        project: &str,
        slot: &str,
        token: &SecretBytes,
    ) -> Result<Request, Unsendable> {
        Request::new(Method::POST, url(access, project, "regenerateKey"))
            .json(&json!({ "keyName": slot }))
            .bearer(token)
    }

    /// The answer has both keys, but a copy of the request may have made the slot's key anew once more: only its status counts.
    fn read_renewed(&self, reply: &Reply) -> Result<(), MintError> {
        if reply.succeeded() {
            return Ok(());
        }
        Err(admin_reply::failed_mint(reply, is_own(reply), failure(reply)))
    }
}

fn url(access: &AzureAccess, project: &str, action: &str) -> Url {
    let [subscription, group, account] = parts(project);
    access.manager.url(
        &[
            "subscriptions",
            subscription,
            "resourceGroups",
            group,
            "providers",
            "Microsoft.CognitiveServices",
            "accounts",
            account,
            action,
        ],
        &[("api-version", API_VERSION)],
    )
}

/// Subscription, resource group and account of an account's path. It was checked to have three parts.
fn parts(project: &str) -> [&str; 3] {
    let mut parts = project.splitn(3, '/');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn is_own(reply: &Reply) -> bool {
    reply.object().is_some_and(|body| text(&body, &["error", "code"]).is_some())
}

fn failure(reply: &Reply) -> CallError {
    let expired = reply
        .object()
        .is_some_and(|body| text(&body, &["error", "code"]) == Some("ExpiredAuthenticationToken"));
    let code = if expired { "ExpiredToken" } else { "InvalidToken" };
    admin_reply::failure(reply, is_own(reply), (ErrorClass::CredentialInvalid, code))
}

/// What a token is asked for with.
pub(super) enum Proof {
    /// The application's secret.
    Secret(SecretBytes),
    /// A token of the cluster's, which the application trusts.
    Assertion(SecretBytes),
}

/// A token and how long it is good.
pub(super) struct Granted {
    pub(super) token: SecretBytes,
    pub(super) lifetime: Duration,
}

/// Asks for a token for the management API: the identity platform's client credentials grant.
pub(super) fn token_request(access: &AzureAccess, proof: &Proof) -> Request {
    let scope = format!("https://{}/.default", access.manager.authority().trim_end_matches(":443"));
    let mut form = Zeroizing::new(String::new());
    pair(&mut form, "grant_type", b"client_credentials");
    pair(&mut form, "client_id", access.client.as_bytes());
    pair(&mut form, "scope", scope.as_bytes());
    match proof {
        Proof::Secret(secret) => pair(&mut form, "client_secret", secret.expose()),
        Proof::Assertion(token) => {
            pair(&mut form, "client_assertion_type", ASSERTION_TYPE.as_bytes());
            pair(&mut form, "client_assertion", token.expose());
        }
    }
    let url = access.authority.url(&[&access.tenant, "oauth2", "v2.0", "token"], &[]);
    Request::new(Method::POST, url).form(form.as_bytes().to_vec())
}

/// Adds a pair as forms are encoded.
fn pair(form: &mut String, name: &str, value: &[u8]) {
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(name);
    form.push('=');
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._*".contains(byte) {
            form.push(char::from(*byte));
        } else {
            form.push('%');
            form.push_str(&HEXUPPER.encode(&[*byte]));
        }
    }
}

/// The token, or why there is none. The error's form is unverified.
pub(super) fn read_token(reply: &Reply) -> Result<Granted, CallError> {
    if !reply.succeeded() {
        let own =
            reply.object().is_some_and(|body| body.get("error").is_some_and(serde_json::Value::is_string));
        let refused = matches!(reply.status, 400 | 401) && own;
        return Err(if refused {
            reply.error(ErrorClass::CredentialInvalid, "TokenRefused")
        } else {
            admin_reply::failure(reply, own, (ErrorClass::CredentialInvalid, "TokenRefused"))
        });
    }
    let Granting { token_type, expires_in, access_token } = reply.read()?;
    let token = SecretBytes::from_string(access_token);
    if !token_type.eq_ignore_ascii_case("bearer")
        || !token.expose().iter().all(u8::is_ascii_graphic)
        || token.len() < 8
    {
        return Err(reply.error(ErrorClass::Garbled, "BadToken"));
    }
    Ok(Granted { token, lifetime: Duration::from_secs(expires_in) })
}

#[cfg(test)]
#[path = "azure_admin_tests.rs"]
mod tests;
