//! job-tracker as its callers see it: over mutual TLS, against a real Postgres.

mod faults;
mod jobs;
mod leases;
mod operations;
mod process;
mod rules;
mod support;
mod watch;
mod worker;
