//! Wire ↔ domain. Inbound conversions check and bound every field; outbound ones name every field and cannot fail.

mod filter;
mod operation;
mod request;
mod resource;
mod worker;

pub use operation::{list_operations, operation_from_job, operation_name, wait_operation};
pub use request::{
    CancelTasks, EnqueueTasks, ListJobs, ListTasks, WatchEvents, add_note, cancel_tasks, create_job,
    enqueue_tasks, job_name, list_jobs, list_tasks, update_job, watch_events,
};
pub(crate) use request::{new_job_to_wire, new_task_to_wire, update_to_wire};
pub(crate) use resource::job_state_to_wire;
pub use resource::{
    change_from_bytes, change_to_bytes, event_from_wire, event_to_wire, job_from_wire, job_to_wire,
    note_from_wire, note_to_wire, task_from_wire, task_to_wire,
};
pub(crate) use worker::completion_to_wire;
pub use worker::{
    Completion, LeaseDemand, completion_from_wire, heartbeat_from_wire, lease_demand_from_wire,
    leased_from_wire, leased_to_wire,
};

#[cfg(test)]
mod tests;
