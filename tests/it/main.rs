//! Tests against a real control plane; one is started for all of them.

mod control_plane;
