//! t

mod sandbox;
