//! Command line and configuration.
