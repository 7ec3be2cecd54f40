//! The planner and `advance` against a model of two sites.

mod changes;
mod corrections;
mod deadlines;
mod failback;
mod faults;
mod leases;
mod names;
mod plans;
mod probes;
mod random;
mod recovery_plans;
mod refusals;
mod runs;
mod scripts;
mod seeds;
mod synchronise;
mod theatre;
mod waits;
mod world;
