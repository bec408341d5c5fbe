//! Pure decisions: no async, no client, no clock, no randomness. Time and ids are arguments.

pub mod health;
pub mod lifecycle;
