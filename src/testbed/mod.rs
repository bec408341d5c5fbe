//! The embedded control plane and what tests, demo and benchmark share.
