//! What can go wrong at a provider's admin API, told without a word of the provider's own text.

use std::{fmt, time::Duration};

/// The kind of failure, as far as a caller must tell kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The provider rejected the admin credential itself.
    CredentialInvalid,
    /// The admin credential may not do this.
    Forbidden,
    /// The provider takes no keys whose value the caller chose.
    CustomKeysDisabled,
    /// The id that the caller chose was a key's that is deleted.
    IdSpent,
    /// There is no such object, or it may not be seen.
    NotFound,
    /// The provider refused the request as it is; the same one will not work later.
    BadRequest,
    /// Too many requests.
    RateLimited {
        /// How long the provider asks us to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    Server,
    /// DNS, connection or TLS failed: nothing was sent.
    NotReached,
    /// No answer, or not all of it, in time.
    TimedOut,
    /// The connection was lost after sending, or the answer could not be understood.
    Garbled,
    /// The URL's host is, or resolves to, an address that may not be called.
    RefusedAddress,
    /// The provider answered with a redirect; it was not followed.
    UnexpectedRedirect,
}

impl ErrorClass {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialInvalid => "credential_invalid",
            Self::Forbidden => "forbidden",
            Self::CustomKeysDisabled => "custom_keys_disabled",
            Self::IdSpent => "id_spent",
            Self::NotFound => "not_found",
            Self::BadRequest => "bad_request",
            Self::RateLimited { .. } => "rate_limited",
            Self::Server => "server",
            Self::NotReached => "not_reached",
            Self::TimedOut => "timed_out",
            Self::Garbled => "garbled",
            Self::RefusedAddress => "refused_address",
            Self::UnexpectedRedirect => "unexpected_redirect",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::CredentialInvalid => "the provider rejected the admin credential",
            Self::Forbidden => "the admin credential may not do this",
            Self::CustomKeysDisabled => "the provider takes no keys that its callers chose",
            Self::IdSpent => "the key's id is that of a deleted key",
            Self::NotFound => "the provider knows no such object",
            Self::BadRequest => "the provider refused the request",
            Self::RateLimited { .. } => "the provider throttles requests",
            Self::Server => "the provider failed",
            Self::NotReached => "the provider could not be reached",
            Self::TimedOut => "the provider did not answer in time",
            Self::Garbled => "the provider's answer was lost or could not be understood",
            Self::RefusedAddress => "the provider's address may not be called",
            Self::UnexpectedRedirect => "the provider answered with a redirect, which is never followed",
        }
    }
}

/// A failed call. Carries no text, URL, name or key of the provider's: only our own words, the status and the request's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub struct CallError {
    /// The kind of failure.
    pub class: ErrorClass,
    /// One of our own fixed codes, CamelCase.
    pub code: &'static str,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The provider's id of the request, if it is harmless text of at most 128 characters.
    pub request_id: Option<String>,
}

impl CallError {
    /// A failure without an answer.
    pub const fn local(class: ErrorClass, code: &'static str) -> Self {
        Self { class, code, status: None, request_id: None }
    }

    /// Tells the log what a question to the provider's support needs.
    pub fn log(&self) {
        tracing::info!(
            code = self.code,
            status = self.status,
            request_id = self.request_id,
            "the provider did not do what it was asked"
        );
    }

    /// How long the provider asks us to wait, if it does.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.class {
            ErrorClass::RateLimited { retry_after } => retry_after,
            _ => None,
        }
    }
}

/// Without the request's id: the same failure reads the same each time, in conditions and events.
impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.class.sentence(), self.code)?;
        if let Some(status) = self.status {
            write!(f, ", status {status}")?;
        }
        f.write_str(")")
    }
}

/// A failed mint, by what is known of its effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum MintError {
    /// The request did not leave: no key was made.
    #[error("not sent: {0}")]
    NotSent(CallError),
    /// The provider said no in its own form (4xx): no key was made.
    #[error("refused: {0}")]
    Refused(CallError),
    /// A key may have been made: time-out, reset, cut or unreadable answer, 5xx, redirect.
    #[error("outcome unknown: {0}")]
    UnknownOutcome(CallError),
}

impl MintError {
    /// The call's failure.
    pub const fn call(&self) -> &CallError {
        match self {
            Self::NotSent(error) | Self::Refused(error) | Self::UnknownOutcome(error) => error,
        }
    }
}
