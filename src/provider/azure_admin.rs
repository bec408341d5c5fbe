//! Azure's management of an account's two keys.
//!
//! Source: the package `azure-mgmt-cognitiveservices` 14.1 (`_accounts_operations.py`, `ApiKeys`, `RegenerateKeyParameters`, `KeyName`). A key
//! has no id, no name, no expiry and no end of its own: each of the two slots always holds one, it can be read at any time, and
//! the only change is to have a slot's key made anew, which ends the one before at once. What codes errors have is unverified.

use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;

use super::{
    Admin, AzureAccess, CallError, Capabilities, Capability, ErrorClass, MintError, Minting, SlotKey, Slots,
    admin_reply, check_shape,
    exchange::{Reply, Request, Unsendable, text},
    tokens::form,
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

/// Asks for a token for the management API: the identity platform's client credentials grant.
pub(super) fn token_request(access: &AzureAccess, proof: &Proof) -> Request {
    let scope = format!("https://{}/.default", access.manager.authority().trim_end_matches(":443"));
    let mut pairs: Vec<(&str, &[u8])> = vec![
        ("grant_type", b"client_credentials"),
        ("client_id", access.client.as_bytes()),
        ("scope", scope.as_bytes()),
    ];
    match proof {
        Proof::Secret(secret) => pairs.push(("client_secret", secret.expose())),
        Proof::Assertion(token) => {
            pairs.push(("client_assertion_type", ASSERTION_TYPE.as_bytes()));
            pairs.push(("client_assertion", token.expose()));
        }
    }
    let url = access.authority.url(&[&access.tenant, "oauth2", "v2.0", "token"], &[]);
    Request::new(Method::POST, url).form(form(&pairs))
}

#[cfg(test)]
#[path = "azure_admin_tests.rs"]
mod tests;
