//! An operator that owns the whole life of an LLM provider key.
//!
//! The way of data through it, the same four steps in every controller:
//!
//! ```text
//! observe(&Ctx, &LLMKey) -> Observed      async, all reads
//! decide(&Observed, now) -> Plan          pure: findings, effects, next wake-up
//! act(&Ctx, Plan)        -> Vec<Outcome>  async, every effect an enum variant
//! status(&Observed, ...) -> Status        pure; written only when it differs
//! ```
//!
//! Arrow of use: `main → runtime → controller → {domain, ledger, crypto, provider, kube_ext} → api`.

pub mod api;
pub mod audit;
pub mod cli;
pub mod controller;
pub mod crypto;
pub mod domain;
pub mod drain;
pub mod kube_ext;
pub mod ledger;
pub mod plugin;
pub mod provider;
pub mod runtime;
pub mod telemetry;

#[cfg(feature = "testbed")]
pub mod sandbox;
#[cfg(feature = "testbed")]
pub mod testbed;
#[cfg(any(test, feature = "testbed", feature = "model"))]
pub mod trace;
