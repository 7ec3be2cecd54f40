//! Two agents in one process, each with a runtime of its own that can be killed, over real mutual TLS, with the simulated
//! hypervisor: what is proved here about agents holds whatever drives the machines.

mod activation;
mod at_rest;
mod changes;
mod fencing_model;
mod groups;
mod guard;
mod harness;
mod health;
mod lifecycle;
mod proof;
mod replication;
mod scripts;
mod scrub;
mod sealed;
mod seeds;
mod terms;
mod turns;
