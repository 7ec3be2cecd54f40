//! What goes wrong, on real guests: links, processes, guests, wishes. Each test sets its own scene and names what it holds the product to.

mod activation_lease;
mod another_host;
#[path = "../../../../crates/hypervisor/tests/conformance/at_rest.rs"]
mod at_rest;
mod before_commit;
mod changes;
mod consistency_group;
mod control_plane_away;
mod encrypted;
mod guest_at_rest;
mod interrupted_copy;
mod one_trace;
mod promoted_test;
mod recovery_plan;
mod refusals;
mod rot;
mod seeds;
mod split;
mod stubborn_guest;
mod test_failover;
