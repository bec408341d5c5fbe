//! Signed requests to IAM, and the temporary keys that a token of the cluster is exchanged for.
//!
//! Sources: `aws-sigv4` (AWS's own implementation of Signature Version 4), and the package `botocore` 1.44.5, `data/sts`
//! (`AssumeRoleWithWebIdentity`, version 2011-06-15, which is not signed).

use std::{path::Path, sync::Arc, time::Duration};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderName;

use super::{
    Account, BedrockAccess, CallError, ErrorClass, Providers,
    aws_reply::{at, code, failure, request, success, text, unreadable},
    bedrock_account::{AwsKeys, Signer},
    bedrock_admin::{read_user, user_request},
    client::scrubbed,
    exchange::{Reply, Request, Unsendable},
    http::Lost,
    tokens::{TOKEN_MARGIN, federated, form},
};
use crate::crypto::SecretBytes;

/// The region that requests to the commercial partition's IAM are signed for.
const REGION: &str = "us-east-1";

/// How long temporary keys are asked for: every role allows at least that.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What `CloudTrail` shows beside the role.
const SESSION_NAME: &[u8] = b"llmkey-operator";

/// Temporary keys, as long as they are good.
pub(super) struct Session {
    keys: Arc<AwsKeys>,
    /// By the monotonic clock.
    until: Duration,
}

impl Providers {
    /// Sends a request to IAM, signed. Before the first one the user is looked for, so that a credential of another AWS account never does
    /// anything to a user of the same name. A refusal because temporary keys are over had no effect: with others it is sent once more.
    pub(super) async fn with_signature(
        &self,
        operation: &'static str,
        account: &Account,
        access: &BedrockAccess,
        build: impl Fn(&Account) -> Result<Request, Unsendable>,
    ) -> Result<Reply, Lost> {
        access.found.get_or_try_init(async || self.find_user(account, access).await).await?;
        self.signed(operation, account, access, || build(account)).await
    }

    async fn find_user(&self, account: &Account, access: &BedrockAccess) -> Result<(), CallError> {
        let reply = self.signed("find_user", account, access, || Ok(user_request(access))).await;
        let reply = reply.map_err(|lost| lost.error)?;
        read_user(access, &reply).map_err(|error| scrubbed(error, account))
    }

    async fn signed(
        &self,
        operation: &'static str,
        account: &Account,
        access: &BedrockAccess,
        build: impl Fn() -> Result<Request, Unsendable>,
    ) -> Result<Reply, Lost> {
        let mut again = false;
        loop {
            let keys = self.keys_of(access, again).await.map_err(|error| scrubbed(error, account))?;
            let request = signature(build()?, &keys, self.config().wall.now())?;
            let reply = self.send(operation, &access.iam, request).await?;
            let over = (400..500).contains(&reply.status)
                && code(&reply).is_some_and(|code| code.starts_with("ExpiredToken"));
            if !over || again || matches!(access.signer, Signer::Keys(_)) {
                return Ok(reply);
            }
            again = true;
        }
    }

    /// The keys at hand, or others. Who asks meanwhile waits for them.
    async fn keys_of(&self, access: &BedrockAccess, anew: bool) -> Result<Arc<AwsKeys>, CallError> {
        let role = match &access.signer {
            Signer::Keys(keys) => return Ok(Arc::clone(keys)),
            Signer::Role(role) => role,
        };
        let mut known = access.session.lock().await;
        let now = self.config().ticks.now();
        if let Some(session) = known.as_ref().filter(|session| !anew && now < session.until) {
            return Ok(Arc::clone(&session.keys));
        }
        let keys = Arc::new(self.take_role(access, role).await?);
        *known =
            Some(Session { keys: Arc::clone(&keys), until: now + LIFETIME.saturating_sub(TOKEN_MARGIN) });
        Ok(keys)
    }

    async fn take_role(&self, access: &BedrockAccess, role: &str) -> Result<AwsKeys, CallError> {
        let file: Option<&Path> = self.config().aws_token_file.as_deref();
        let token = federated(file).await?;
        let reply = self.send("token", &access.sts, role_request(access, role, &token)).await;
        read_role(&reply.map_err(|lost| lost.error)?)
    }
}

/// Asks for the role's keys.
pub(super) fn role_request(access: &BedrockAccess, role: &str, token: &SecretBytes) -> Request {
    let lifetime = LIFETIME.as_secs().to_string();
    let pairs: [(&str, &[u8]); 6] = [
        ("Action", b"AssumeRoleWithWebIdentity"),
        ("Version", b"2011-06-15"),
        ("RoleArn", role.as_bytes()),
        ("RoleSessionName", SESSION_NAME),
        ("DurationSeconds", lifetime.as_bytes()),
        ("WebIdentityToken", token.expose()),
    ];
    request(access.sts.url(&[""], &[]), form(&pairs))
}

/// They are good for as long as was asked for.
pub(super) fn read_role(reply: &Reply) -> Result<AwsKeys, CallError> {
    if !reply.succeeded() {
        let failed = failure(reply);
        // Whatever is wrong with the token or the role: who asks for keys is not let in.
        let refused = matches!(failed.class, ErrorClass::CredentialInvalid | ErrorClass::Forbidden);
        return Err(if refused {
            reply.error(ErrorClass::CredentialInvalid, "TokenRefused")
        } else {
            failed
        });
    }
    let document = success(reply)?;
    let path = ["AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials"];
    let found = at(&document, &path).ok_or_else(|| unreadable(reply))?;
    let secret = |name: &str| text(found, name).map(SecretBytes::from);
    let keys = text(found, "AccessKeyId").zip(secret("SecretAccessKey")).zip(secret("SessionToken"));
    keys.and_then(|((id, secret), token)| AwsKeys::new(id, secret, Some(token)))
        .ok_or_else(|| reply.error(ErrorClass::Garbled, "BadToken"))
}

/// The request with its signature.
pub(super) fn signature(
    mut request: Request,
    keys: &AwsKeys,
    now: DateTime<Utc>,
) -> Result<Request, CallError> {
    let unsendable = || CallError::from(Unsendable);
    let text = |secret: &SecretBytes| secret.expose_str().map(str::to_owned).ok_or_else(unsendable);
    let token = keys.session_token.as_ref().map(text).transpose()?;
    let identity =
        Credentials::new(keys.id.clone(), text(&keys.secret)?, token, None, "llmkey-operator").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("iam")
        .time(now.into())
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| unsendable())?
        .into();
    let body = request.body.as_deref().unwrap_or_default();
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    let signable = SignableRequest::new(
        request.method.as_str(),
        request.url.as_str(),
        kind.into_iter(),
        SignableBody::Bytes(body),
    );
    let signed = sign(signable.map_err(|_| unsendable())?, &params).map_err(|_| unsendable())?;
    let (headers, _) = signed.into_parts().0.into_parts();
    for header in headers {
        let name = HeaderName::from_static(header.name());
        request = request.secret_header(name, header.value().as_bytes())?;
    }
    Ok(request)
}

#[cfg(test)]
#[path = "aws_session_tests.rs"]
mod tests;
