//! The controller of `LLMKey`s.

pub mod decide;
pub mod fold;
pub mod model;
