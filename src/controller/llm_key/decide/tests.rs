//! The planner on a world in memory: every rule, every crash.

mod crash;
mod driver;
mod perform;
mod world;
