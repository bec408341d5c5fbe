//! Tokens for admin APIs that take no lasting credential: asked for when one is needed, kept until shortly before its end.

use std::{path::Path, time::Duration};

use data_encoding::HEXUPPER;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    Account, AzureAccess, CallError, Endpoint, ErrorClass, Providers, admin_reply,
    azure_admin::{Proof, token_request},
    client::scrubbed,
    exchange::{Reply, Request, Unsendable},
    google_account::{Federation, GoogleAccess, Identity},
    google_tokens,
    http::Lost,
};
use crate::crypto::SecretBytes;

/// A token that is good for less is not used any more.
pub(super) const TOKEN_MARGIN: Duration = Duration::from_secs(120);

/// Longest token of the cluster that is read from its file.
const TOKEN_CAP: usize = 16 * 1024;

/// A token for an admin API, as long as it is good.
pub(super) struct Token {
    value: SecretBytes,
    /// By the monotonic clock.
    until: Duration,
}

/// A token and how long it is good.
pub(super) struct Granted {
    pub(super) token: SecretBytes,
    pub(super) lifetime: Duration,
}

/// The answer of a token endpoint (RFC 6749).
#[derive(Deserialize)]
struct Granting {
    token_type: String,
    expires_in: u64,
    access_token: String,
}

impl Providers {
    /// Sends a request to the account's admin API with a token. One that the API calls expired was not accepted, so nothing has
    /// happened: another token is asked for, and the request is sent once more.
    pub(super) async fn with_token(
        &self,
        operation: &'static str,
        account: &Account,
        build: impl Fn(&SecretBytes) -> Result<Request, Unsendable>,
    ) -> Result<Reply, Lost> {
        let mut again = false;
        loop {
            let request = build(&self.token(account, again).await?)?;
            let reply = self.send(operation, account.manager(), request).await?;
            if reply.status != 401 || again {
                return Ok(reply);
            }
            again = true;
        }
    }

    /// The token at hand, or another one. Who asks meanwhile waits for it.
    async fn token(&self, account: &Account, anew: bool) -> Result<SecretBytes, CallError> {
        let known = match (account.azure(), account.google()) {
            (Some(azure), _) => &azure.token,
            (None, Some(google)) => &google.token,
            (None, None) => return Err(CallError::local(ErrorClass::BadRequest, "NotSupported")),
        };
        let mut known = known.lock().await;
        let now = self.config().ticks.now();
        if let Some(token) = known.as_ref().filter(|token| !anew && now < token.until) {
            return Ok(token.value.clone());
        }
        let granted = match (account.azure(), account.google()) {
            (Some(azure), _) => self.granted_by_azure(azure).await,
            (None, Some(google)) => self.granted_by_google(google).await,
            (None, None) => return Err(CallError::local(ErrorClass::BadRequest, "NotSupported")),
        };
        let granted = granted.map_err(|error| scrubbed(error, account))?;
        let until = now + granted.lifetime.saturating_sub(TOKEN_MARGIN);
        *known = Some(Token { value: granted.token.clone(), until });
        Ok(granted.token)
    }

    async fn granted_by_azure(&self, access: &AzureAccess) -> Result<Granted, CallError> {
        let proof = match &access.secret {
            Some(secret) => Proof::Secret(secret.clone()),
            None => Proof::Assertion(federated(self.config().federated_token_file.as_deref()).await?),
        };
        self.granted(&access.authority, token_request(access, &proof)).await
    }

    async fn granted_by_google(&self, access: &GoogleAccess) -> Result<Granted, CallError> {
        let Federation { audience, impersonates } = match &access.identity {
            Identity::Key(key) => {
                let request = google_tokens::for_key(access, key, self.config().wall.now())?;
                return self.granted(&access.tokens, request).await;
            }
            Identity::Federation(federation) => federation,
        };
        let subject = federated(self.config().google_token_file.as_deref()).await?;
        let request = google_tokens::for_federation(access, audience, &subject);
        let federated = self.granted(&access.exchange, request).await?;
        let Some(email) = impersonates else { return Ok(federated) };
        let request = google_tokens::for_impersonation(access, email, &federated.token)?;
        let reply = self.send("token", &access.impersonation, request).await.map_err(|lost| lost.error)?;
        google_tokens::read_impersonation(&reply)
    }

    async fn granted(&self, endpoint: &Endpoint, request: Request) -> Result<Granted, CallError> {
        read_token(&self.send("token", endpoint, request).await.map_err(|lost| lost.error)?)
    }
}

/// The cluster's token, read anew each time: the kubelet replaces it.
pub(super) async fn federated(file: Option<&Path>) -> Result<SecretBytes, CallError> {
    let missing = |code| CallError::local(ErrorClass::CredentialInvalid, code);
    let file = file.ok_or_else(|| missing("NoFederatedToken"))?;
    let bytes = tokio::fs::read(file).await.map_err(|_| missing("UnreadableFederatedToken"))?;
    let bytes = Zeroizing::new(bytes);
    let token = bytes.trim_ascii();
    let good = (8..=TOKEN_CAP).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    good.then(|| SecretBytes::new(token.to_vec())).ok_or_else(|| missing("UnreadableFederatedToken"))
}

/// Pairs as forms are encoded.
pub(super) fn form(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Zeroizing::new(String::new());
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        for byte in *value {
            if byte.is_ascii_alphanumeric() || b"-._*".contains(byte) {
                form.push(char::from(*byte));
            } else {
                form.push('%');
                form.push_str(&HEXUPPER.encode(&[*byte]));
            }
        }
    }
    form.as_bytes().to_vec()
}

/// The token, or why there is none. The errors' form (`error` is a text, with 400 or 401) is RFC 6749's; whether every endpoint keeps to it is
/// unverified.
pub(super) fn read_token(reply: &Reply) -> Result<Granted, CallError> {
    if !reply.succeeded() {
        let own = reply.object().is_some_and(|body| body.get("error").is_some_and(Value::is_string));
        let refused = matches!(reply.status, 400 | 401) && own;
        return Err(if refused {
            reply.error(ErrorClass::CredentialInvalid, "TokenRefused")
        } else {
            admin_reply::failure(reply, own, (ErrorClass::CredentialInvalid, "TokenRefused"))
        });
    }
    let Granting { token_type, expires_in, access_token } = reply.read()?;
    let token = SecretBytes::from_string(access_token);
    if !token_type.eq_ignore_ascii_case("bearer") || !is_token(&token) {
        return Err(reply.error(ErrorClass::Garbled, "BadToken"));
    }
    // Nobody has to believe that a token lives longer than a day.
    Ok(Granted { token, lifetime: Duration::from_secs(expires_in.min(24 * 3600)) })
}

/// Whether it can be sent in a header.
pub(super) fn is_token(token: &SecretBytes) -> bool {
    (8..=TOKEN_CAP).contains(&token.len()) && token.expose().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::exchange::tests::reply;

    #[test]
    fn a_form_has_nothing_that_could_be_taken_for_its_own_signs() {
        let form = form(&[("a", b"x"), ("b", b"a+secret~1 &=%")]);
        assert_eq!(String::from_utf8(form).unwrap(), "a=x&b=a%2Bsecret%7E1%20%26%3D%25");
    }

    #[test]
    fn a_token_is_taken_or_refused_in_words_of_our_own() {
        let granted = read_token(&reply(
            200,
            &[],
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":"abcdefgh"}"#,
        ));
        let granted = granted.ok().unwrap();
        assert_eq!(
            (granted.token.expose_str(), granted.lifetime),
            (Some("abcdefgh"), Duration::from_secs(3599))
        );
        let refused = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret.","error_codes":[7000215]}"#;
        for (status, body, wanted) in [
            (401, refused, ErrorClass::CredentialInvalid),
            (400, refused, ErrorClass::CredentialInvalid),
            (429, refused, ErrorClass::RateLimited { retry_after: None }),
            (500, refused, ErrorClass::Server),
            (400, "<html>", ErrorClass::Garbled),
            (302, "", ErrorClass::UnexpectedRedirect),
            (200, "{}", ErrorClass::Garbled),
            (
                200,
                r#"{"token_type":"Bearer","expires_in":1,"access_token":"a b c d e f"}"#,
                ErrorClass::Garbled,
            ),
            (200, r#"{"token_type":"PoP","expires_in":1,"access_token":"abcdefgh"}"#, ErrorClass::Garbled),
        ] {
            let failed = read_token(&reply(status, &[], body)).err().unwrap();
            assert_eq!(failed.class, wanted, "{status} {body}");
            assert!(!failed.to_string().contains("AADSTS"), "{failed}");
        }
    }
}
