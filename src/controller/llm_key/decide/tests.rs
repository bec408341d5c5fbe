//! The planner on a world in memory: every rule, every crash.

mod arbitrary;
mod crash;
mod deliver;
mod driver;
mod learned;
mod retire;
mod shown;

use super::super::world::{self, perform};
