//! What workers say and are given.

use understudy_ids::Problem;
use understudy_types_api::{duration_from_wire, duration_to_wire, problem_to_wire};

use crate::{
    check::{Check, Invalid, MAX_CREDITS, MAX_LINE, MAX_NAME},
    model::{LeasedTask, Outcome, Progress},
    name::{Queue, TaskName},
    v1,
};

/// One message of a worker's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseDemand {
    /// In the first message only.
    pub queue: Option<Queue>,
    /// How many more tasks the worker takes.
    pub credits: u32,
}

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub task: TaskName,
    pub attempt: u32,
    pub outcome: Outcome,
}

/// # Errors
/// All fields that cannot be taken.
pub fn lease_demand_from_wire(request: v1::LeaseTasksRequest, first: bool) -> Result<LeaseDemand, Invalid> {
    let mut check = Check::default();
    let queue = match (first, request.queue.as_str()) {
        (false, "") => None,
        (false, _) => {
            check.note("INVALID", "queue", "is set again", "Set it in the first message only.");
            None
        }
        (true, text) => check.parse("queue", text),
    };
    if request.credits > MAX_CREDITS {
        check.note("INVALID", "credits", format!("is {}", request.credits), "Send at most 1000.");
    }
    check.done(Some(LeaseDemand { queue, credits: request.credits }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn heartbeat_from_wire(request: v1::HeartbeatRequest) -> Result<(TaskName, u32, Progress), Invalid> {
    let mut check = Check::default();
    let task: Option<TaskName> = check.parse("task", &request.task);
    let percent = check.percent("progress_percent", request.progress_percent);
    let text = check.text("progress_text", request.progress_text, MAX_LINE);
    check.done(task.map(|task| (task, request.attempt, Progress { percent, text })))
}

/// # Errors
/// All fields that cannot be taken.
pub fn completion_from_wire(request: v1::CompleteTaskRequest) -> Result<Completion, Invalid> {
    use v1::complete_task_request::Outcome as Wire;
    let mut check = Check::default();
    let task: Option<TaskName> = check.parse("task", &request.task);
    let outcome = match request.outcome {
        None => {
            check.note("REQUIRED", "outcome", "is missing", "Say how the attempt ended.");
            None
        }
        Some(Wire::Succeeded(any)) => check.any("succeeded", Some(any)).map(Outcome::Succeeded),
        Some(Wire::Failed(problem)) => check.problem("failed", problem).map(Outcome::Failed),
        Some(Wire::Unknown(problem)) => check.problem("unknown", problem).map(Outcome::Unknown),
        Some(Wire::Retry(problem)) => check.problem("retry", problem).map(Outcome::Retry),
    };
    let value =
        task.zip(outcome).map(|(task, outcome)| Completion { task, attempt: request.attempt, outcome });
    check.done(value)
}

pub(crate) fn completion_to_wire(completion: Completion) -> v1::CompleteTaskRequest {
    use v1::complete_task_request::Outcome as Wire;
    let Completion { task, attempt, outcome } = completion;
    // A problem without a reason would be refused, and the attempt could never be completed.
    let problem = |mut problem: Problem| {
        if problem.reason.is_empty() {
            problem.reason = "UNSPECIFIED".into();
        }
        for text in [&mut problem.reason, &mut problem.subject, &mut problem.message, &mut problem.remedy] {
            text.retain(|c| c != '\0');
        }
        problem_to_wire(problem)
    };
    let outcome = match outcome {
        Outcome::Succeeded(any) => Wire::Succeeded(any),
        Outcome::Failed(p) => Wire::Failed(problem(p)),
        Outcome::Unknown(p) => Wire::Unknown(problem(p)),
        Outcome::Retry(p) => Wire::Retry(problem(p)),
    };
    v1::CompleteTaskRequest { task: task.to_string(), attempt, outcome: Some(outcome) }
}

pub fn leased_to_wire(task: LeasedTask) -> v1::LeasedTask {
    let LeasedTask { name, key, title, attempt, payload, lease, traceparent } = task;
    v1::LeasedTask {
        job: format!("jobs/{}", name.job),
        task: name.to_string(),
        key,
        title,
        attempt,
        payload: Some(payload),
        lease: Some(duration_to_wire(lease)),
        traceparent: traceparent.unwrap_or_default(),
    }
}

/// # Errors
/// All fields that are not what a job-tracker sends.
pub fn leased_from_wire(task: v1::LeasedTask) -> Result<LeasedTask, Invalid> {
    let mut check = Check::default();
    let name: Option<TaskName> = check.parse("task", &task.task);
    let payload = check.any("payload", task.payload);
    let lease = duration_from_wire(task.lease.unwrap_or_default()).ok().filter(|l| !l.is_zero());
    if lease.is_none() {
        check.note("INVALID", "lease", "is missing or no span", "Update job-tracker.");
    }
    let key = check.text("key", task.key, MAX_NAME);
    let title = check.text("title", task.title, MAX_LINE);
    let traceparent = Some(task.traceparent).filter(|t| !t.is_empty());
    let value = name.zip(payload).zip(lease).map(|((name, payload), lease)| LeasedTask {
        name,
        key,
        title,
        attempt: task.attempt,
        payload,
        lease,
        traceparent,
    });
    check.done(value)
}
