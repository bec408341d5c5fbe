//! Replies of AWS's Query protocol: XML documents, whose elements are told by their local names.
//!
//! Source: the protocol `query` as the package `botocore` 1.44.5 reads it (`parsers.py`). Which codes IAM's and STS's errors have beyond those of
//! `data/iam` and `data/sts` is unverified; what is not known is taken by its status.

use roxmltree::{Document, Node, ParsingOptions};

use super::{
    CallError, ErrorClass, admin_reply,
    exchange::{Reply, Request},
};

/// Elements and texts of a reply that is read: a full page of a list has some thousands.
const NODES: u32 = 100_000;

/// What both services may answer to credentials that are none, are over, or sign what cannot be checked.
const REFUSED: [&str; 9] = [
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "RequestExpired",
    "UnrecognizedClientException",
    "InvalidIdentityToken",
];

/// The reply's document, if it is one.
pub(super) fn document(reply: &Reply) -> Option<Document<'_>> {
    let text = std::str::from_utf8(&reply.body).ok()?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).ok()
}

/// The document of a success.
pub(super) fn success(reply: &Reply) -> Result<Document<'_>, CallError> {
    if !reply.succeeded() {
        return Err(failure(reply));
    }
    document(reply).ok_or_else(|| unreadable(reply))
}

pub(super) fn unreadable(reply: &Reply) -> CallError {
    reply.error(ErrorClass::Garbled, "UnreadableReply")
}

/// The element at a path of local names; the first one is the document's own.
pub(super) fn at<'a, 'input>(document: &'a Document<'input>, path: &[&str]) -> Option<Node<'a, 'input>> {
    let (first, rest) = path.split_first()?;
    let root = Some(document.root_element()).filter(|root| root.tag_name().name() == *first);
    rest.iter().try_fold(root?, |node, name| child(node, name))
}

pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.tag_name().name() == name)
}

/// The text of a child.
pub(super) fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

/// The code of an error in the protocol's own form.
pub(super) fn code(reply: &Reply) -> Option<String> {
    let document = document(reply)?;
    let error = at(&document, &["ErrorResponse", "Error"])?;
    text(error, "Code").map(str::to_owned)
}

/// What a reply other than 2xx means.
pub(super) fn failure(reply: &Reply) -> CallError {
    let code = code(reply);
    let known = match code.as_deref() {
        Some("Throttling" | "ThrottlingException" | "RequestLimitExceeded") => {
            // IAM says so with the status 400.
            Some((ErrorClass::RateLimited { retry_after: reply.retry_after() }, "RateLimited"))
        }
        Some("ExpiredToken" | "ExpiredTokenException") => {
            Some((ErrorClass::CredentialInvalid, "ExpiredToken"))
        }
        Some("RequestExpired") => Some((ErrorClass::CredentialInvalid, "ClocksDiffer")),
        Some(refused) if REFUSED.contains(&refused) => {
            Some((ErrorClass::CredentialInvalid, "CredentialRejected"))
        }
        Some("AccessDenied" | "AccessDeniedException" | "IDPRejectedClaim") => {
            Some((ErrorClass::Forbidden, "Forbidden"))
        }
        Some("LimitExceeded") => Some((ErrorClass::BadRequest, "LimitExceeded")),
        Some("NotSupportedService" | "ServiceNotSupported") => {
            Some((ErrorClass::BadRequest, "NotSupportedService"))
        }
        Some("IDPCommunicationError") => Some((ErrorClass::Server, "IdentityProviderNotReached")),
        _ => None,
    };
    if let Some((class, code)) = known.filter(|_| (400..500).contains(&reply.status)) {
        return reply.error(class, code);
    }
    let refused = (ErrorClass::CredentialInvalid, "CredentialRejected");
    admin_reply::failure(reply, code.is_some(), refused)
}

/// A request of the protocol. XML is asked for: the services may answer JSON to who takes it.
pub(super) fn request(url: reqwest::Url, form: Vec<u8>) -> Request {
    Request::new(reqwest::Method::POST, url).header("accept", "text/xml").form(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::exchange::tests::reply;

    fn error(code: &str) -> String {
        format!(
            r#"<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>"#
        )
    }

    #[test]
    fn failures_are_told_by_their_codes_if_they_are_the_services_own() {
        for (status, body, class, word) in [
            (403, error("InvalidClientTokenId"), ErrorClass::CredentialInvalid, "CredentialRejected"),
            (403, error("SignatureDoesNotMatch"), ErrorClass::CredentialInvalid, "CredentialRejected"),
            (403, error("ExpiredToken"), ErrorClass::CredentialInvalid, "ExpiredToken"),
            (400, error("RequestExpired"), ErrorClass::CredentialInvalid, "ClocksDiffer"),
            (403, error("AccessDenied"), ErrorClass::Forbidden, "Forbidden"),
            (404, error("NoSuchEntity"), ErrorClass::NotFound, "NotFound"),
            (409, error("LimitExceeded"), ErrorClass::BadRequest, "LimitExceeded"),
            (409, error("EntityTemporarilyUnmodifiable"), ErrorClass::BadRequest, "BadRequest"),
            (400, error("Throttling"), ErrorClass::RateLimited { retry_after: None }, "RateLimited"),
            (429, error("Whatever"), ErrorClass::RateLimited { retry_after: None }, "RateLimited"),
            (400, error("ValidationError"), ErrorClass::BadRequest, "BadRequest"),
            (500, error("ServiceFailure"), ErrorClass::Server, "ServerError"),
            (503, error("AccessDenied"), ErrorClass::Server, "ServerError"),
            (403, "<html><body>403</body></html>".into(), ErrorClass::Garbled, "UnreadableReply"),
            (403, r#"{"message":"Forbidden"}"#.into(), ErrorClass::Garbled, "UnreadableReply"),
            (302, String::new(), ErrorClass::UnexpectedRedirect, "UnexpectedRedirect"),
        ] {
            let failed = failure(&reply(status, &[], &body));
            assert_eq!((failed.class, failed.code), (class, word), "{status} {body}");
        }
    }

    #[test]
    fn documents_that_grow_when_they_are_read_are_none() {
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>"#;
        assert!(document(&reply(200, &[], bomb)).is_none());
        assert!(document(&reply(200, &[], "")).is_none());
        let many = format!("<a>{}</a>", "<b/>".repeat(100_001));
        assert!(document(&reply(200, &[], &many)).is_none());
    }
}
