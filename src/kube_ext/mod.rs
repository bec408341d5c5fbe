//! The few Kubernetes verbs used everywhere.
