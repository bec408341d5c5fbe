//! From a reply to a verdict: the part that is the same for every provider.

use serde_json::{Map, Value};

use super::{Dialect, exchange::Reply};
use crate::domain::health::Verdict;

/// A verdict and our own word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) code: &'static str,
    /// See [`super::Validation::let_in`].
    pub(super) let_in: bool,
}

impl Finding {
    pub(super) const fn new(verdict: Verdict, code: &'static str) -> Self {
        Self { verdict, code, let_in: false }
    }

    /// The provider let it in, and it is nothing for workloads all the same.
    pub(super) const fn unfit(code: &'static str) -> Self {
        Self { verdict: Verdict::Rejected, code, let_in: true }
    }

    pub(super) const fn accepted() -> Self {
        Self::new(Verdict::Valid, "Accepted")
    }

    pub(super) const fn rejected() -> Self {
        Self::new(Verdict::Rejected, "KeyRejected")
    }

    pub(super) const fn out_of_credit() -> Self {
        Self::new(Verdict::OutOfCredit, "OutOfCredit")
    }

    pub(super) const fn restricted() -> Self {
        Self::new(Verdict::RestrictedScope, "RestrictedScope")
    }

    /// The provider refused, but not because of the key itself.
    pub(super) const fn not_the_key(code: &'static str) -> Self {
        Self::new(Verdict::Unknown, code)
    }
}

/// What the reply says of the key that was sent.
///
/// Redirects, 429, 5xx and bodies that are no JSON object never reach a provider's own judgement of a key, so no provider's
/// code can turn them into a refusal.
pub(super) fn classify(dialect: &dyn Dialect, reply: &Reply) -> Finding {
    match reply.status {
        300..400 => Finding::new(Verdict::Unknown, "UnexpectedRedirect"),
        429 => {
            let body = reply.object().unwrap_or_default();
            if dialect.is_out_of_credit(&body) {
                return Finding::out_of_credit();
            }
            let retry_after = reply.retry_after().or_else(|| dialect.retry_after(&body));
            Finding::new(Verdict::RateLimited { retry_after }, "RateLimited")
        }
        500.. => Finding::new(Verdict::ProviderDown, "ServerError"),
        200..300 | 400..500 => match reply.object() {
            None => Finding::new(Verdict::Unknown, "UnreadableReply"),
            Some(body) => {
                dialect.judge(reply.status, &body).unwrap_or(Finding::new(Verdict::Unknown, "UnknownReply"))
            }
        },
        _ => Finding::new(Verdict::Unknown, "UnknownReply"),
    }
}

/// Whether the text at the key is a list.
pub(super) fn has_list(body: &Map<String, Value>, key: &str) -> bool {
    body.get(key).is_some_and(Value::is_array)
}

#[cfg(test)]
#[path = "classification_tests.rs"]
mod tests;
