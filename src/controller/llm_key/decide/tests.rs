//! The planner on a world in memory: every rule, every crash.

mod arbitrary;
mod break_glass;
mod budget;
mod consumers;
mod crash;
mod deliver;
mod driver;
mod learned;
mod retire;
mod shown;
mod triggers;
mod turn;

use super::super::world::{self, perform};
