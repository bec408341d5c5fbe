//! The controllers.

pub mod llm_key;
