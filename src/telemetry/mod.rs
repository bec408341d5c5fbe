//! Logs, metrics and the HTTP endpoints that serve them.

mod exposition;
pub mod health;
pub mod key_gauges;
mod keyring_gauges;
pub mod log;
pub mod metrics;
pub mod server;
