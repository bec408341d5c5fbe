//! The planner on a world in memory: every rule, every crash.

mod arbitrary;
mod budget;
mod crash;
mod deliver;
mod driver;
mod judge;
mod learned;
mod perform;
mod retire;
mod shown;
mod world;
