//! The planner and `advance` against a model of two sites.

mod corrections;
mod faults;
mod plans;
mod random;
mod refusals;
mod runs;
mod seeds;
mod theatre;
mod world;
