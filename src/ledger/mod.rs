//! The record, its codec and its compare-and-swap store.
