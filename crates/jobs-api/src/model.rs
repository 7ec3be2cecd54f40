//! Jobs, tasks, notes and events as the rest of the program sees them. `convert` makes them from messages and back.

use std::{collections::BTreeMap, time::Duration};

use understudy_ids::{Problem, RunId, TaskId, UnixMicros, Uuid};
use understudy_jobs::{JobState, TaskState};
use understudy_types_api::Any;

use crate::name::{JobName, Queue, TaskName};

/// A job as it stands (R-JOB-1).
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: RunId,
    /// For example "test-failover".
    pub kind: String,
    /// Resource names of what the job is about.
    pub targets: Vec<String>,
    /// Who asked for it.
    pub created_by: String,
    /// The identity that created it and may update it.
    pub owner: String,
    pub state: JobState,
    /// What is being done now, for people.
    pub phase: String,
    /// While waiting: what for, with what to do.
    pub waiting_for: String,
    /// Verbs that are allowed now.
    pub allowed_actions: Vec<String>,
    pub problems: Vec<Problem>,
    /// 0 to 100.
    pub progress_percent: u32,
    pub created: UnixMicros,
    pub started: Option<UnixMicros>,
    pub ended: Option<UnixMicros>,
    /// Rises with every change.
    pub revision: u64,
    /// The owner's report (JSON text), once there is one.
    pub report_json: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl Job {
    /// The verb among `allowed_actions` that lets anybody ask for the job's end.
    pub const CANCEL: &'static str = "cancel";

    pub fn name(&self) -> JobName {
        JobName(self.id)
    }
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub job: RunId,
    pub id: TaskId,
    /// The owner's name for the step, unique within the job.
    pub key: String,
    pub title: String,
    pub queue: Queue,
    pub state: TaskState,
    /// Rises with each lease; 0 before the first.
    pub attempt: u32,
    pub max_attempts: u32,
    /// What to do. Absent in events and in the answer of `cancel_tasks`, whose readers know it.
    pub payload: Option<Any>,
    /// What came of it, once it has succeeded.
    pub result: Option<Any>,
    /// Why it failed or is unknown, or why the last attempt was not the last.
    pub error: Option<Problem>,
    /// 0 to 100.
    pub progress_percent: u32,
    pub progress_text: String,
    pub created: UnixMicros,
    pub started: Option<UnixMicros>,
    pub ended: Option<UnixMicros>,
    /// The identity of the worker that holds it or held it last.
    pub worker: Option<String>,
}

impl Task {
    pub fn name(&self) -> TaskName {
        TaskName { job: self.job, task: self.id }
    }
}

/// A task to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Chosen by the owner, so that it is known before the call is answered.
    pub id: TaskId,
    /// Adding the same key to the same job again has no effect.
    pub key: String,
    pub title: String,
    pub queue: Queue,
    pub payload: Any,
    /// At least 1. After so many attempts that ended by expiry the task is unknown, or by `retry`, failed.
    pub max_attempts: u32,
    /// Not leased before.
    pub not_before: Option<UnixMicros>,
    /// W3C trace context under which the worker continues. None: the client takes that of the call.
    pub traceparent: Option<String>,
}

/// A job to make, with its first tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    pub id: RunId,
    pub kind: String,
    pub targets: Vec<String>,
    /// On whose behalf; empty means the caller.
    pub created_by: String,
    pub labels: BTreeMap<String, String>,
    pub tasks: Vec<NewTask>,
}

/// The owner's new view of a job. Everything in it replaces what was there, except an absent report.
#[derive(Debug, Clone, PartialEq)]
pub struct JobUpdate {
    pub job: RunId,
    /// The owner's number of this update. When it is not higher than that of the last update, the update has no effect.
    pub owner_sequence: Option<u64>,
    pub state: JobState,
    pub phase: String,
    pub waiting_for: String,
    pub allowed_actions: Vec<String>,
    pub problems: Vec<Problem>,
    /// 0 to 100.
    pub progress_percent: u32,
    pub report_json: Option<String>,
}

/// A remark that stays with its job (R-JOB-2).
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub job: RunId,
    pub id: Uuid,
    pub author: String,
    pub text: String,
    pub created: UnixMicros,
}

/// A remark to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNote {
    pub job: RunId,
    /// Same id, same text: the note that is there.
    pub id: Uuid,
    /// On whose behalf; empty means the caller. Only services may name another.
    pub author: String,
    pub text: String,
}

/// Which jobs to list. All that is set must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobFilter {
    /// Empty means any.
    pub states: Vec<JobState>,
    pub kind: Option<String>,
    pub target: Option<String>,
    pub created_after: Option<UnixMicros>,
}

/// Until when to wait for the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobWait {
    pub job: RunId,
    /// None: for as long as the call may take.
    pub time_out: Option<Duration>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it on to get what follows; none on the last page.
    pub next: Option<String>,
}

/// Where to begin a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFrom {
    /// Only what happens from now on.
    Now,
    /// Everything that is still kept.
    Start,
    /// What follows the event that carried this token.
    After(String),
}

/// Which events to watch. All that is set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchFilter {
    pub job: Option<RunId>,
    /// The identity that owns the jobs.
    pub owner: Option<String>,
}

/// One change, as it was when it happened. Sequence numbers rise over all jobs (invariant 15).
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub sequence: u64,
    /// Store it together with what the event caused, and begin the next watch with it.
    pub resume_token: String,
    pub time: UnixMicros,
    pub job: RunId,
    pub change: Change,
}

/// What has changed, as it was after the change. Boxed, because jobs and tasks are large and events are queued.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Job(Box<Job>),
    /// Without its payload.
    Task(Box<Task>),
    Note(Note),
    CancelRequested(CancelRequest),
}

/// Somebody asked for the end of a job; its owner decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    pub job: RunId,
    /// The caller's identity.
    pub by: String,
}

/// A task that a worker has been given.
#[derive(Debug, Clone, PartialEq)]
pub struct LeasedTask {
    pub name: TaskName,
    pub key: String,
    pub title: String,
    /// Fences this attempt against earlier and later ones.
    pub attempt: u32,
    pub payload: Any,
    /// How long the lease lasts without a heartbeat.
    pub lease: Duration,
    pub traceparent: Option<String>,
}

impl LeasedTask {
    /// A first attempt outside any worker, for tests of handlers.
    pub fn detached(job: RunId, payload: Any) -> Self {
        Self {
            name: TaskName { job, task: TaskId::new_v4() },
            key: "step".to_owned(),
            title: "Step".to_owned(),
            attempt: 1,
            payload,
            lease: Duration::from_secs(30),
            traceparent: None,
        }
    }
}

/// What a worker says about the task it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u32,
    pub text: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Succeeded(Any),
    /// Will not succeed by trying again.
    Failed(Problem),
    /// The effect may or may not have happened (invariant 16).
    Unknown(Problem),
    /// Did not happen and may succeed later.
    Retry(Problem),
}
