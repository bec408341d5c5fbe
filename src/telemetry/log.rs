//! Structured logs on standard output, with a level that can be changed while the process runs.
//!
//! Whatever the level says, dependencies are held at `warn`, because several of them print what they carry:
//! h2 prints header frames at `debug`, reqwest prints bytes at `trace`, kube-client prints the body of a
//! reply that it could not parse, which may be a Secret, even at `warn`. Only this crate goes below.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Longest filter that is accepted, in bytes.
const MAX_FILTER: usize = 1024;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("the log level is neither a level (error, warn, info, debug, trace) nor a list of target=level")]
    Filter,
    /// Logging was set up before, in this process.
    #[error("logging was set up twice")]
    Twice,
    /// The subscriber is gone.
    #[error("logging has ended")]
    Gone,
}

/// Changes the level while the process runs; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
}

impl LogHandle {
    /// Takes a level, or a list of `target=level`, from now on.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = filter.trim();
        self.filter.reload(parse(filter)?).map_err(|_| LogError::Gone)?;
        filter.clone_into(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// The filter in force.
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sets up logging for the whole process, and a panic hook that logs where, never what.
pub fn init(filter: &str, format: LogFormat) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(filter, format, std::io::stdout)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

/// A subscriber that writes to `writer`, and the handle that changes its level.
pub fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (reloadable, handle) = reload::Layer::new(parse(filter.trim())?);
    let lines = match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
        LogFormat::Text => {
            fmt::layer().with_ansi(std::io::stdout().is_terminal()).with_writer(writer).boxed()
        }
    };
    let subscriber = Registry::default().with(lines.with_filter(reloadable.and(filter_fn(is_harmless))));
    let current = Arc::new(Mutex::new(filter.trim().to_owned()));
    Ok((subscriber, LogHandle { filter: handle, current }))
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    if filter.is_empty() || filter.len() > MAX_FILTER {
        return Err(LogError::Filter);
    }
    // A word alone that is no level would be taken as a target, and would silence all others.
    let known =
        |part: &str| part.contains('=') || ["off", "error", "warn", "info", "debug", "trace"].contains(&part);
    if !filter.split(',').all(|part| known(part.trim().to_ascii_lowercase().as_str())) {
        return Err(LogError::Filter);
    }
    EnvFilter::builder().with_regex(false).parse(filter).map_err(|_| LogError::Filter)
}

/// Whether a span or event may be written at all.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= ceiling(metadata.target())
}

/// The most verbose level at which a target may speak.
fn ceiling(target: &str) -> Level {
    match target.split("::").next() {
        Some("llmkey_operator") => Level::TRACE,
        // Its span names the object under reconciliation.
        Some("kube_runtime") => Level::INFO,
        // Its warnings quote replies that could not be parsed.
        Some("kube_client") => Level::ERROR,
        _ => Level::WARN,
    }
}

/// Logs the place of a panic. Its message is left out: it may quote a value.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let (file, line) = info.location().map_or(("unknown", 0), |at| (at.file(), at.line()));
    tracing::error!(file, line, thread, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use tracing::subscriber::with_default;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(filter: &str, format: LogFormat, body: impl FnOnce(&LogHandle)) -> String {
        let captured = Captured::default();
        let sink = captured.clone();
        let (subscriber, handle) = subscriber(filter, format, move || sink.clone()).unwrap();
        with_default(subscriber, || body(&handle));
        captured.text()
    }

    #[test]
    fn dependencies_cannot_print_what_they_carry() {
        let everything = "trace,kube_client=trace,h2=trace,hyper=trace,reqwest=trace,rustls=trace";
        let text = capture(everything, LogFormat::Text, |_| {
            tracing::warn!(target: "kube_client::client", "canary-body");
            tracing::debug!(target: "h2::codec::framed_write", "canary-headers");
            tracing::trace!(target: "reqwest::connect", "canary-bytes");
            tracing::trace!(target: "rustls::client::hs", "canary-handshake");
            tracing::info!(target: "hyper_util::client", "canary-client");
            tracing::debug!(target: "kube_runtime::watcher", "canary-watch");
            tracing::trace!(target: "llmkey_operator::runtime", "ours");
            tracing::warn!(target: "hyper_util::client", "a warning of theirs");
        });
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("ours") && text.contains("a warning of theirs"), "{text}");
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = capture("info", LogFormat::Text, |handle| {
            tracing::debug!(target: "llmkey_operator", "before");
            handle.set(" debug\n").unwrap();
            tracing::debug!(target: "llmkey_operator", "after");
            assert_eq!(handle.current(), "debug");
            assert!(matches!(handle.set("llmkey=loud"), Err(LogError::Filter)));
            assert!(matches!(handle.set(""), Err(LogError::Filter)));
            assert_eq!(handle.current(), "debug");
        });
        assert!(text.contains("after") && !text.contains("before"), "{text}");
    }

    #[test]
    fn json_lines_are_json_objects() {
        let text = capture("info", LogFormat::Json, |_| {
            tracing::info!(target: "llmkey_operator", key = "team-a/chat", "rotation due");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["message"], &line["key"]), (&"rotation due".into(), &"team-a/chat".into()));
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn a_panic_is_logged_by_place_alone() {
        let text = capture("info", LogFormat::Json, |_| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(log_panic));
            assert!(std::panic::catch_unwind(|| panic!("canary {}", 1)).is_err());
            std::panic::set_hook(before);
        });
        assert!(text.contains("log.rs") && text.contains("panic") && !text.contains("canary"), "{text}");
    }
}
