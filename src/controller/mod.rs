//! The controllers.

pub mod index;
pub mod llm_key;
