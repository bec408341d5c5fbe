//! Pure decisions: no async, no client, no clock, no randomness.
