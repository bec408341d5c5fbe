//! Pure decisions: no async, no client, no clock, no randomness. Time and ids are arguments.

pub mod backoff;
pub mod health;
pub mod lifecycle;
pub mod names;
pub mod schedule;
pub mod template;
pub mod timings;
