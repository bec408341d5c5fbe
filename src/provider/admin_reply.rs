//! What the replies of admin APIs mean where providers agree.

use chrono::{DateTime, Utc};

use super::{CallError, ErrorClass, MintError, exchange::Reply};

/// A time in the form of RFC 3339; none if it is none.
pub(super) fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    text.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|time| time.with_timezone(&Utc))
}

/// Offset of the next page of a list, and the key that must be on it.
pub(super) fn cursor(after: &str) -> Option<(usize, &str)> {
    let (offset, anchor) = after.split_once(':')?;
    Some((offset.parse().ok()?, anchor))
}

/// What a reply other than 2xx means. `own`: its body is the provider's own error object, not a proxy's answer.
pub(super) fn failure(reply: &Reply, own: bool, unauthorized: (ErrorClass, &'static str)) -> CallError {
    let (class, code) = match reply.status {
        300..400 => (ErrorClass::UnexpectedRedirect, "UnexpectedRedirect"),
        429 => (ErrorClass::RateLimited { retry_after: reply.retry_after() }, "RateLimited"),
        500.. => (ErrorClass::Server, "ServerError"),
        _ if !own => (ErrorClass::Garbled, "UnreadableReply"),
        401 => unauthorized,
        403 => (ErrorClass::Forbidden, "Forbidden"),
        404 => (ErrorClass::NotFound, "NotFound"),
        400..500 => (ErrorClass::BadRequest, "BadRequest"),
        _ => (ErrorClass::Garbled, "UnreadableReply"),
    };
    reply.error(class, code)
}

/// A mint counts as refused only if the provider itself says so: its own error object and a status that means "not done".
/// Whatever a middlebox could have written after the key was made leaves the outcome unknown.
pub(super) fn failed_mint(reply: &Reply, own: bool, error: CallError) -> MintError {
    let not_done = matches!(reply.status, 400..=407 | 409..=451) && own;
    if not_done { MintError::Refused(error) } else { MintError::UnknownOutcome(error) }
}
