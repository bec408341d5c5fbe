//! AWS's side of requests: signatures, and the keys that sign.
//!
//! Signature Version 4 is computed here once more from its description
//! (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html), by other code than the operator's: what is
//! accepted is what was signed with the secret that belongs to the key, for IAM and within five minutes.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method, StatusCode, Uri};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Sandbox, wire::ApiError};

/// The AWS account of all users, the operator's access key, and the role that tokens of the cluster are exchanged for.
pub(super) const ACCOUNT: &str = "111122223333";
pub(super) const KEY_ID: &str = "AKIASANDBOX0MINTER01";
pub(super) const ROLE: &str = "arn:aws:iam::111122223333:role/llmkey-operator";

/// The one region that IAM's requests are signed for.
const REGION: &str = "us-east-1";

/// How long temporary keys are good.
const SESSION_SECONDS: i64 = 3600;

/// Who may manage users at AWS, and where they are.
pub struct Aws<'a> {
    /// Number of the AWS account.
    pub account: &'static str,
    /// Id of the access key that manages its users.
    pub access_key_id: &'static str,
    /// Its secret.
    pub secret_access_key: &'a str,
    /// The role that may be taken with a token of the cluster.
    pub role: &'static str,
}

impl<'a> Aws<'a> {
    pub(super) const fn of(secret: &'a str) -> Self {
        Self { account: ACCOUNT, access_key_id: KEY_ID, secret_access_key: secret, role: ROLE }
    }
}

impl Sandbox {
    /// Base URL of Bedrock's control plane.
    pub fn bedrock_url(&self) -> String {
        format!("https://{}/aws/bedrock", self.address)
    }

    /// Base URL of IAM.
    pub fn iam_url(&self) -> String {
        format!("https://{}/aws/iam", self.address)
    }

    /// Base URL of STS.
    pub fn sts_url(&self) -> String {
        format!("https://{}/aws/sts", self.address)
    }

    /// The AWS account of all users, and who may manage them.
    pub fn aws(&self) -> Aws<'_> {
        Aws::of(&self.aws_secret)
    }

    /// Makes an IAM user and returns its name in lower case; wherever a project is asked for, it is one.
    pub fn create_iam_user(&self, name: &str) -> String {
        self.handle.create_iam_user(name)
    }

    /// From now on all temporary keys of AWS's are over.
    pub fn expire_aws_sessions(&self) {
        self.handle.expire_aws_sessions();
    }
}

/// A request as it was signed.
#[derive(Clone)]
pub(super) struct Signed {
    method: Method,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Signed {
    pub(super) fn new(method: Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut shown: BTreeMap<String, String> = headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.trim().to_owned()))
            })
            .collect();
        // HTTP/2 has the host in the URL.
        if let Some(authority) = uri.authority() {
            shown.entry("host".to_owned()).or_insert_with(|| authority.to_string());
        }
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        Self { method, path, query, headers: shown, body: body.to_vec() }
    }

    /// The id of the key that has signed, if any has.
    pub(super) fn key_id(&self) -> Option<&str> {
        Some(self.authorization()?.key_id)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn authorization(&self) -> Option<Authorization<'_>> {
        let parts = self.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let part = |name: &str| parts.split(',').find_map(|part| part.trim().strip_prefix(name));
        let (key_id, scope) = part("Credential=")?.split_once('/')?;
        Some(Authorization {
            key_id,
            scope,
            signed_headers: part("SignedHeaders=")?,
            signature: part("Signature=")?,
        })
    }

    /// The signature that the request should have.
    fn expected(&self, secret: &str, scope: &str, signed_headers: &str) -> Option<String> {
        let mut headers = String::new();
        for name in signed_headers.split(';') {
            headers.extend([name, ":", self.header(name)?, "\n"]);
        }
        let canonical = format!(
            "{}\n{}\n{}\n{headers}\n{signed_headers}\n{}",
            self.method,
            self.path,
            self.query,
            hash(&self.body)
        );
        let told = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            self.header("x-amz-date")?,
            hash(canonical.as_bytes())
        );
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in scope.split('/') {
            key = mac(&key, part)?;
        }
        Some(HEXLOWER.encode(&mac(&key, &told)?))
    }
}

struct Authorization<'a> {
    key_id: &'a str,
    scope: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Option<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().to_vec())
}

/// A key that signs.
struct AccessKey {
    secret: Zeroizing<String>,
    /// What has to be sent along, and until when it is good: temporary keys.
    session: Option<(Zeroizing<String>, DateTime<Utc>)>,
}

/// The keys that may manage users.
#[derive(Default)]
pub(super) struct Keyholders {
    keys: BTreeMap<String, AccessKey>,
}

impl Keyholders {
    pub(super) fn new(secret: &str) -> Self {
        let key = AccessKey { secret: Zeroizing::new(secret.to_owned()), session: None };
        Self { keys: BTreeMap::from([(KEY_ID.to_owned(), key)]) }
    }

    /// Adds temporary keys.
    pub(super) fn begin(
        &mut self,
        id: String,
        secret: &str,
        token: &str,
        now: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let until = now + TimeDelta::seconds(SESSION_SECONDS);
        let session = Some((Zeroizing::new(token.to_owned()), until));
        self.keys.insert(id, AccessKey { secret: Zeroizing::new(secret.to_owned()), session });
        until
    }

    /// From now on every temporary key is over.
    pub(super) fn expire(&mut self) {
        for (_, until) in self.keys.values_mut().filter_map(|key| key.session.as_mut()) {
            *until = DateTime::UNIX_EPOCH;
        }
    }

    /// Whether the request was signed by one of them, for IAM and for now.
    pub(super) fn judge(&self, request: &Signed, now: DateTime<Utc>) -> Result<(), ApiError> {
        let no = |code, message: &str| Err(ApiError::iam(StatusCode::FORBIDDEN, code, message));
        let Some(told) = request.authorization() else {
            return no("MissingAuthenticationToken", "Request is missing Authentication Token");
        };
        let Some(key) = self.keys.get(told.key_id) else {
            return no("InvalidClientTokenId", "The security token included in the request is invalid.");
        };
        let date = request.header("x-amz-date").unwrap_or_default();
        let at = NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ").map(|at| at.and_utc());
        let day = date.get(..8).unwrap_or_default();
        let wanted: Vec<&str> = told.signed_headers.split(';').collect();
        let mut needed = vec!["host", "x-amz-date"];
        needed.extend(key.session.as_ref().map(|_| "x-amz-security-token"));
        let scope = format!("{day}/{REGION}/iam/aws4_request");
        if told.scope != scope || needed.iter().any(|name| !wanted.contains(name)) {
            return no("SignatureDoesNotMatch", "Credential should be scoped to correct service.");
        }
        match at {
            Ok(at) if (now - at).abs() <= TimeDelta::minutes(5) => {}
            _ => return no("SignatureDoesNotMatch", "Signature expired."),
        }
        if let Some((token, until)) = &key.session {
            if request.header("x-amz-security-token") != Some(token.as_str()) {
                return no("InvalidClientTokenId", "The security token included in the request is invalid.");
            }
            if *until <= now {
                return no("ExpiredToken", "The security token included in the request is expired");
            }
        }
        let expected = request.expected(&key.secret, told.scope, told.signed_headers);
        if expected.as_deref() != Some(told.signature) {
            return no(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published example (a GET of `ListUsers`): its signature is AWS's own.
    #[test]
    fn the_signature_of_the_documented_example_is_the_documented_one() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let uri = "/?Action=ListUsers&Version=2010-05-08".parse().unwrap();
        let request = Signed::new(Method::GET, &uri, &headers, b"");
        let found = request.expected(
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "20150830/us-east-1/iam/aws4_request",
            "content-type;host;x-amz-date",
        );
        let published = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(found.as_deref(), Some(published));
    }
}
