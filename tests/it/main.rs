//! Tests against a real control plane; one is started for all of them.

// Clippy's leave for tests covers functions marked as tests, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod control_plane;
mod provider;
mod sandbox;
