//! What clients of `JobService` ask for.

use std::collections::BTreeSet;

use understudy_ids::Uuid;
use understudy_types_api::time_to_wire;

use super::resource::{job_state_from_wire, job_state_to_wire, problems_to_wire};
use crate::{
    check::{
        Check, Invalid, MAX_ACTIONS, MAX_ATTEMPTS, MAX_LINE, MAX_NAME, MAX_NOTE_BYTES, MAX_PARAGRAPH,
        MAX_TARGETS, MAX_TASKS_PER_CALL,
    },
    model::{JobFilter, JobUpdate, NewJob, NewNote, NewTask, WatchFilter, WatchFrom},
    name::{JobName, Queue},
    v1,
};

/// Jobs or tasks on a page when the caller names no number, and the most on any page.
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// A W3C trace context of version 00 has exactly this many bytes.
const TRACEPARENT_BYTES: usize = 55;

#[derive(Debug, Clone, PartialEq)]
pub struct EnqueueTasks {
    pub job: Uuid,
    pub tasks: Vec<NewTask>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CancelTasks {
    pub job: Uuid,
    /// Empty means all.
    pub keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListJobs {
    pub filter: JobFilter,
    pub page_size: u32,
    pub page_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListTasks {
    pub job: Uuid,
    pub page_size: u32,
    pub page_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvents {
    pub from: WatchFrom,
    pub filter: WatchFilter,
}

/// # Errors
/// When the text is not `jobs/<uuid>`.
pub fn job_name(field: &str, text: &str) -> Result<Uuid, Invalid> {
    let mut check = Check::default();
    let name: Option<JobName> = check.parse(field, text);
    check.done(name.map(|n| n.0))
}

/// # Errors
/// All fields that cannot be taken.
pub fn create_job(request: v1::CreateJobRequest) -> Result<NewJob, Invalid> {
    let mut check = Check::default();
    let id = check.uuid("job_id", &request.job_id);
    let job = NewJob {
        id: id.unwrap_or_default(),
        kind: check.required("type", request.r#type, MAX_NAME),
        targets: check.each("targets", MAX_TARGETS, request.targets, |c, t| c.required("", t, MAX_LINE)),
        created_by: check.text("created_by", request.created_by, MAX_NAME),
        labels: check.labels(request.labels),
        tasks: new_tasks(&mut check, request.tasks),
    };
    check.done(id.map(|_| job))
}

/// # Errors
/// All fields that cannot be taken.
pub fn enqueue_tasks(request: v1::EnqueueTasksRequest) -> Result<EnqueueTasks, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &request.job);
    if request.tasks.is_empty() {
        check.note("REQUIRED", "tasks", "is empty", "Send at least one task.");
    }
    let tasks = new_tasks(&mut check, request.tasks);
    check.done(job.map(|job| EnqueueTasks { job: job.0, tasks }))
}

fn new_tasks(check: &mut Check, tasks: Vec<v1::NewTask>) -> Vec<NewTask> {
    let (mut keys, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let read = check.each("tasks", MAX_TASKS_PER_CALL, tasks, |check, task| {
        if !keys.insert(task.key.clone()) {
            check.note("DUPLICATE", "key", "is used twice in this call", "Give each task a key of its own.");
        }
        if !ids.insert(task.task_id.clone()) {
            check.note(
                "DUPLICATE",
                "task_id",
                "is used twice in this call",
                "Give each task an id of its own.",
            );
        }
        new_task(check, task)
    });
    read.into_iter().flatten().collect()
}

fn new_task(check: &mut Check, task: v1::NewTask) -> Option<NewTask> {
    let id = check.uuid("task_id", &task.task_id);
    let queue: Option<Queue> = check.parse("queue", &task.queue);
    let payload = check.any("payload", task.payload);
    if !(1..=MAX_ATTEMPTS).contains(&task.max_attempts) {
        let message = format!("is {}", task.max_attempts);
        check.note("INVALID", "max_attempts", message, "Send 1 to 1000.");
    }
    let traceparent = check.text("traceparent", task.traceparent, TRACEPARENT_BYTES);
    Some(NewTask {
        key: check.required("key", task.key, MAX_NAME),
        title: check.text("title", task.title, MAX_LINE),
        max_attempts: task.max_attempts,
        not_before: check.time("not_before", task.not_before),
        traceparent: Some(traceparent).filter(|t| !t.is_empty()),
        id: id?,
        queue: queue?,
        payload: payload?,
    })
}

/// # Errors
/// All fields that cannot be taken.
pub fn update_job(request: v1::UpdateJobRequest) -> Result<JobUpdate, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("name", &request.name);
    let state = job_state_from_wire(&mut check, "state", request.state);
    if i64::try_from(request.owner_sequence).is_err() {
        check.note("INVALID", "owner_sequence", "is too large", "Count from 1 upwards.");
    }
    let phase = check.text("phase", request.phase, MAX_LINE);
    let waiting_for = check.text("waiting_for", request.waiting_for, MAX_PARAGRAPH);
    if state == Some(understudy_jobs::JobState::Waiting) && waiting_for.is_empty() {
        check.note("REQUIRED", "waiting_for", "is missing while the job waits", "Say what it waits for.");
    }
    let allowed_actions = check
        .each("allowed_actions", MAX_ACTIONS, request.allowed_actions, |c, a| c.required("", a, MAX_NAME));
    let problems = check.problems("problems", request.problems);
    let progress_percent = check.percent("progress_percent", request.progress_percent);
    let report_json = check.json("report_json", request.report_json);
    check.done(job.zip(state).map(|(job, state)| JobUpdate {
        job: job.0,
        owner_sequence: Some(request.owner_sequence).filter(|n| *n > 0),
        state,
        phase,
        waiting_for,
        allowed_actions,
        problems,
        progress_percent,
        report_json,
    }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn cancel_tasks(request: v1::CancelTasksRequest) -> Result<CancelTasks, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &request.job);
    let keys = check.each("keys", MAX_TASKS_PER_CALL, request.keys, |c, k| c.required("", k, MAX_NAME));
    check.done(job.map(|job| CancelTasks { job: job.0, keys }))
}

pub(super) fn page(check: &mut Check, size: u32, token: String) -> (u32, Option<String>) {
    if size > MAX_PAGE {
        check.note("INVALID", "page_size", format!("is {size}"), "Send at most 1000, or 0 for 100.");
    }
    let token = check.text("page_token", token, MAX_NAME);
    (if size == 0 { DEFAULT_PAGE } else { size }, Some(token).filter(|t| !t.is_empty()))
}

/// # Errors
/// All fields that cannot be taken.
pub fn list_jobs(request: v1::ListJobsRequest) -> Result<ListJobs, Invalid> {
    let mut check = Check::default();
    let states = check.each("states", 16, request.states, |c, s| job_state_from_wire(c, "", s));
    let text = |t: String| Some(t).filter(|t| !t.is_empty());
    let filter = JobFilter {
        states: states.into_iter().flatten().collect(),
        kind: text(check.text("type", request.r#type, MAX_NAME)),
        target: text(check.text("target", request.target, MAX_LINE)),
        created_after: check.time("created_after", request.created_after),
    };
    let (page_size, page_token) = page(&mut check, request.page_size, request.page_token);
    check.done(Some(ListJobs { filter, page_size, page_token }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn list_tasks(request: v1::ListTasksRequest) -> Result<ListTasks, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &request.job);
    let (page_size, page_token) = page(&mut check, request.page_size, request.page_token);
    check.done(job.map(|job| ListTasks { job: job.0, page_size, page_token }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn add_note(request: v1::AddNoteRequest) -> Result<NewNote, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &request.job);
    let id = check.uuid("request_id", &request.request_id);
    let text = check.required("text", request.text, MAX_NOTE_BYTES);
    let author = check.text("author", request.author, MAX_NAME);
    check.done(job.zip(id).map(|(job, id)| NewNote { job: job.0, id, author, text }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn watch_events(request: v1::WatchEventsRequest) -> Result<WatchEvents, Invalid> {
    let mut check = Check::default();
    let token = check.text("resume_token", request.resume_token, MAX_NAME);
    if !token.is_empty() && request.from_start {
        check.note("INVALID", "from_start", "is set together with a resume token", "Send only one of them.");
    }
    let job: Option<JobName> =
        Some(request.job.as_str()).filter(|j| !j.is_empty()).and_then(|j| check.parse("job", j));
    let owner = Some(check.text("owner", request.owner, MAX_NAME)).filter(|o| !o.is_empty());
    let from = match (token.is_empty(), request.from_start) {
        (false, _) => WatchFrom::After(token),
        (true, true) => WatchFrom::Start,
        (true, false) => WatchFrom::Now,
    };
    check.done(Some(WatchEvents { from, filter: WatchFilter { job: job.map(|j| j.0), owner } }))
}

pub(crate) fn new_job_to_wire(job: NewJob) -> v1::CreateJobRequest {
    let NewJob { id, kind, targets, created_by, labels, tasks } = job;
    v1::CreateJobRequest {
        job_id: id.to_string(),
        r#type: kind,
        targets,
        created_by,
        labels,
        tasks: tasks.into_iter().map(new_task_to_wire).collect(),
    }
}

pub(crate) fn new_task_to_wire(task: NewTask) -> v1::NewTask {
    let NewTask { id, key, title, queue, payload, max_attempts, not_before, traceparent } = task;
    v1::NewTask {
        task_id: id.to_string(),
        key,
        title,
        queue: queue.to_string(),
        payload: Some(payload),
        max_attempts,
        not_before: not_before.map(time_to_wire),
        traceparent: traceparent.unwrap_or_default(),
    }
}

pub(crate) fn update_to_wire(update: JobUpdate) -> v1::UpdateJobRequest {
    let JobUpdate {
        job,
        owner_sequence,
        state,
        phase,
        waiting_for,
        allowed_actions,
        problems,
        progress_percent,
        report_json,
    } = update;
    v1::UpdateJobRequest {
        name: JobName(job).to_string(),
        owner_sequence: owner_sequence.unwrap_or(0),
        state: job_state_to_wire(state).into(),
        phase,
        waiting_for,
        allowed_actions,
        problems: problems_to_wire(problems),
        progress_percent,
        report_json: report_json.unwrap_or_default(),
    }
}
