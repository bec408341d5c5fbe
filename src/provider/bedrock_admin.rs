//! IAM's service-specific credentials for Bedrock: its long-term API keys.
//!
//! Source: the package `botocore` 1.44.5, `data/iam` (`CreateServiceSpecificCredential` and its like, version 2010-05-08). A credential has an
//! id and no name, and its secret is shown once. A user has two of them at most for one service, so the operator has the user for one LLMKey, and
//! tells a lost one by what was not there before. IAM takes a while to agree with itself; how long is unverified.

use chrono::{DateTime, Utc};
use roxmltree::Node;

use super::{
    Account, Admin, BedrockAccess, CallError, Capabilities, Capability, ErrorClass, ListedKey, MintError,
    Minted, Minting, Page, ProviderKeyId, Revocation, ShownOnce, Switch,
    admin_reply::failed_mint,
    aws_reply::{at, child, code, failure, request, success, text, unreadable},
    exchange::{Reply, Request, Unsendable},
    shape::check_shape,
    tokens::form,
};
use crate::{api::ProviderType, crypto::SecretBytes};

/// Version of IAM's API.
const VERSION: &[u8] = b"2010-05-08";

/// The service that the credentials are for.
const SERVICE: &str = "bedrock.amazonaws.com";

pub(super) struct BedrockAdmin;

impl Admin for BedrockAdmin {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(&[
            Capability::Disable,
            Capability::List,
            Capability::Mint,
            Capability::Revoke,
            Capability::Validate,
        ])
        .for_one()
    }

    fn minting(&'static self) -> Minting {
        Minting::Unnamed(self)
    }

    fn account_request(&self, account: &Account) -> Result<Request, Unsendable> {
        self.list_request(account, None)
    }

    fn read_account(&self, account: &Account, reply: &Reply) -> Result<(), CallError> {
        self.read_list(account, None, reply).map(drop)
    }

    fn list_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable> {
        let access = access(account)?;
        let mut more = vec![("ServiceName", SERVICE.as_bytes())];
        more.extend(after.map(|after| ("Marker", after.as_bytes())));
        Ok(action(access, "ListServiceSpecificCredentials", &more))
    }

    fn read_list(&self, account: &Account, _: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        let document = success(reply)?;
        let path = ["ListServiceSpecificCredentialsResponse", "ListServiceSpecificCredentialsResult"];
        let result = at(&document, &path).ok_or_else(|| unreadable(reply))?;
        let members = child(result, "ServiceSpecificCredentials").ok_or_else(|| unreadable(reply))?;
        let members = members.children().filter(Node::is_element);
        let keys = members.map(|member| {
            if !is_of(member, account) {
                return Err(reply.error(ErrorClass::Garbled, "OtherUser"));
            }
            let id = id_in(member).ok_or_else(|| reply.error(ErrorClass::Garbled, "BadKeyId"))?;
            Ok(ListedKey { id, name: String::new(), created_at: time(text(member, "CreateDate")) })
        });
        let keys = keys.collect::<Result<_, CallError>>()?;
        let more = text(result, "IsTruncated") == Some("true");
        let next = text(result, "Marker").filter(|_| more).map(str::to_owned);
        if more && next.is_none() {
            return Err(unreadable(reply));
        }
        Ok(Page { keys, next })
    }

    fn revoke_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable> {
        let id = [("ServiceSpecificCredentialId", id.handle().as_bytes())];
        Ok(action(access(account)?, "DeleteServiceSpecificCredential", &id))
    }

    fn read_revocation(&self, _: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        if reply.status == 404 && code(reply).as_deref() == Some("NoSuchEntity") {
            return Ok(Revocation::AlreadyGone);
        }
        done(reply, "DeleteServiceSpecificCredentialResponse").map(|()| Revocation::Revoked)
    }

    fn switch(&self) -> Option<&'static dyn Switch> {
        Some(&BedrockAdmin)
    }
}

impl Switch for BedrockAdmin {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable> {
        let status: &[u8] = if on { b"Active" } else { b"Inactive" };
        let more = [("ServiceSpecificCredentialId", id.handle().as_bytes()), ("Status", status)];
        Ok(action(access(account)?, "UpdateServiceSpecificCredential", &more))
    }

    fn read_switched(&self, _: &ProviderKeyId, _: bool, reply: &Reply) -> Result<(), CallError> {
        done(reply, "UpdateServiceSpecificCredentialResponse")
    }
}

impl ShownOnce for BedrockAdmin {
    fn mint_request(&self, account: &Account, _: &str) -> Result<Request, Unsendable> {
        let access = access(account)?;
        let days = access.age_days.map(|days| days.to_string());
        let mut more = vec![("ServiceName", SERVICE.as_bytes())];
        more.extend(days.as_ref().map(|days| ("CredentialAgeDays", days.as_bytes())));
        Ok(action(access, "CreateServiceSpecificCredential", &more))
    }

    fn read_minted(&self, account: &Account, _: &str, reply: &Reply) -> Result<Minted, MintError> {
        if !reply.succeeded() {
            return Err(failed_mint(reply, code(reply).is_some(), failure(reply)));
        }
        let garbled = |code| MintError::UnknownOutcome(reply.error(ErrorClass::Garbled, code));
        let document = success(reply).map_err(MintError::UnknownOutcome)?;
        let path = [
            "CreateServiceSpecificCredentialResponse",
            "CreateServiceSpecificCredentialResult",
            "ServiceSpecificCredential",
        ];
        let made = at(&document, &path).ok_or_else(|| garbled("UnreadableReply"))?;
        if !is_of(made, account) {
            return Err(garbled("OtherUser"));
        }
        let id = id_in(made).ok_or_else(|| garbled("BadKeyId"))?;
        let secret = text(made, "ServiceCredentialSecret").ok_or_else(|| garbled("UnreadableReply"))?;
        let secret = SecretBytes::from(secret);
        if check_shape(ProviderType::Bedrock, &secret).is_err() {
            return Err(garbled("BadSecret"));
        }
        Ok(Minted { id, secret })
    }
}

/// Asks who the user is: the answer names the AWS account, which nothing else does.
pub(super) fn user_request(access: &BedrockAccess) -> Request {
    action(access, "GetUser", &[])
}

/// Whether the user is in the AWS account that the `LLMProvider` names. In another one, its credentials are somebody else's.
pub(super) fn read_user(access: &BedrockAccess, reply: &Reply) -> Result<(), CallError> {
    let document = success(reply)?;
    let user =
        at(&document, &["GetUserResponse", "GetUserResult", "User"]).ok_or_else(|| unreadable(reply))?;
    let arn = text(user, "Arn").ok_or_else(|| unreadable(reply))?;
    let resource = arn
        .strip_prefix("arn:aws:iam::")
        .and_then(|rest| rest.strip_prefix(access.account_id.as_str()))
        .and_then(|rest| rest.strip_prefix(":user/"));
    let name = resource.and_then(|path| path.rsplit('/').next());
    if name.is_some_and(|name| name.eq_ignore_ascii_case(&access.user_name)) {
        Ok(())
    } else {
        Err(reply.error(ErrorClass::NotFound, "OtherAccount"))
    }
}

fn access(account: &Account) -> Result<&BedrockAccess, Unsendable> {
    account.bedrock().ok_or(Unsendable)
}

/// A request about the user, not signed yet.
fn action(access: &BedrockAccess, name: &str, more: &[(&str, &[u8])]) -> Request {
    let mut pairs: Vec<(&str, &[u8])> =
        vec![("Action", name.as_bytes()), ("Version", VERSION), ("UserName", access.user_name.as_bytes())];
    pairs.extend_from_slice(more);
    request(access.iam.url(&[""], &[]), form(&pairs))
}

fn done(reply: &Reply, name: &str) -> Result<(), CallError> {
    let document = success(reply)?;
    at(&document, &[name]).map(drop).ok_or_else(|| unreadable(reply))
}

/// Whether a credential is the user's, and for Bedrock.
fn is_of(credential: Node<'_, '_>, account: &Account) -> bool {
    let user = account.bedrock().map_or("", |access| &access.user_name);
    text(credential, "ServiceName") == Some(SERVICE)
        && text(credential, "UserName").is_some_and(|name| name.eq_ignore_ascii_case(user))
}

fn id_in(credential: Node<'_, '_>) -> Option<ProviderKeyId> {
    ProviderKeyId::new(text(credential, "ServiceSpecificCredentialId")?, None).ok()
}

fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    text.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
#[path = "bedrock_admin_tests.rs"]
mod tests;
