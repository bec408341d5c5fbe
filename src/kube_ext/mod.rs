//! The few Kubernetes verbs used everywhere, and the clock.

pub mod clock;
pub mod connect;
pub mod events;
pub mod lease;
