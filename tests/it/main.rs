//! Tests against a real control plane; one is started for all of them.

mod cel;
mod control_plane;
mod crds;
