//! The planner on a world in memory: every rule, every crash.

mod arbitrary;
mod break_glass;
mod budget;
mod chosen;
mod consumers;
mod crash;
mod deliver;
mod driver;
mod history;
mod learned;
mod lease;
mod named;
mod pin;
mod pool;
mod retention;
mod retire;
mod retry;
mod shown;
mod slots;
mod spare;
mod supplied;
mod switch;
mod triggers;
mod turn;
mod unnamed;
mod usage;

use super::super::world::{self, perform};
