//! How providers are called: what a process sets once.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use crate::api::ProviderType;

/// How providers are called.
#[derive(Clone, Debug)]
pub struct ProvidersConfig {
    /// Longest wait for a connection, TLS included. Keep it well below `total_timeout`: only then a slow connection is known
    /// as "not sent".
    pub connect_timeout: Duration,
    /// Longest silence while waiting for or reading a reply.
    pub read_timeout: Duration,
    /// Longest time for the whole call, without the wait for a free slot.
    pub total_timeout: Duration,
    /// `User-Agent`.
    pub user_agent: String,
    /// Refuse every address that is not loopback, whatever an endpoint allows. Set whenever test time runs.
    pub loopback_only: bool,
    /// Told of each request.
    pub watch: CallWatch,
    /// Monotonic time, for what is good for a while only.
    pub ticks: Ticks,
    /// The wall clock, for what is signed with a time.
    pub wall: WallClock,
    /// The cluster's token that Azure exchanges for one of its own.
    pub federated_token_file: Option<PathBuf>,
    /// The cluster's token that Google exchanges for one of its own.
    pub google_token_file: Option<PathBuf>,
    /// The cluster's token that AWS exchanges for temporary keys.
    pub aws_token_file: Option<PathBuf>,
}

/// Called with the class of an answer: `2xx` to `5xx`, or why there was none.
pub type Answered = Box<dyn FnOnce(&'static str) + Send>;

/// Called with provider and operation when a request begins.
#[derive(Clone)]
pub struct CallWatch(Arc<dyn Fn(ProviderType, &'static str) -> Answered + Send + Sync>);

impl CallWatch {
    /// Calls `begin`, and what that returns when the request has ended.
    pub fn new(begin: impl Fn(ProviderType, &'static str) -> Answered + Send + Sync + 'static) -> Self {
        Self(Arc::new(begin))
    }

    pub(super) fn begin(&self, provider: ProviderType, operation: &'static str) -> Answered {
        (self.0)(provider, operation)
    }
}

/// Monotonic time since some beginning.
#[derive(Clone)]
pub struct Ticks(Arc<dyn Fn() -> Duration + Send + Sync>);

/// The time of the day.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl WallClock {
    /// Reads it by `now`.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }
}

/// A clock that stands still, long ago.
impl Default for WallClock {
    fn default() -> Self {
        Self::new(DateTime::default)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl Ticks {
    /// Reads it by `now`.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> Duration {
        (self.0)()
    }
}

/// Time that stands still: what is good for a while is good for ever.
impl Default for Ticks {
    fn default() -> Self {
        Self::new(Duration::default)
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticks")
    }
}

impl Default for CallWatch {
    fn default() -> Self {
        Self::new(|_, _| Box::new(|_| ()))
    }
}

impl fmt::Debug for CallWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallWatch")
    }
}

impl Default for ProvidersConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(30),
            user_agent: concat!("llmkey-operator/", env!("CARGO_PKG_VERSION")).to_owned(),
            loopback_only: false,
            watch: CallWatch::default(),
            ticks: Ticks::default(),
            wall: WallClock::default(),
            federated_token_file: None,
            google_token_file: None,
            aws_token_file: None,
        }
    }
}
