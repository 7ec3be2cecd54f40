//! The orchestrator with a real Postgres and a real job-tracker; agents and network-mapper are played by the tests.

mod activation;
mod bad_input;
mod changes;
mod connections;
mod crash;
mod failback;
mod groups;
mod health;
mod lifecycle;
mod once;
mod operations;
mod policies;
mod probes;
mod reconcile;
mod recovery_plans;
mod scrub;
mod support;
mod time_limits;
