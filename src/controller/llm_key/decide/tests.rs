//! The planner on a world in memory: every rule, every crash.

mod arbitrary;
mod break_glass;
mod budget;
mod consumers;
mod crash;
mod deliver;
mod driver;
mod judge;
mod learned;
mod perform;
mod retire;
mod shown;
mod triggers;
mod world;
