//! Why something was not done.

use understudy_ids::{RunId, TaskId, Uuid};
use understudy_jobs::{JobTransitionError, TaskTransitionError};
use understudy_jobs_api::{JobName, JobState, Queue, TaskName};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no {}", JobName(*.0))]
    NoJob(RunId),
    #[error("there is no {0}")]
    NoTask(TaskName),
    #[error("{} exists already and was made from another request", JobName(*.0))]
    JobExists(RunId),
    #[error("note {0} exists already, on another job or with another text")]
    NoteExists(Uuid),
    #[error("a task id of this call is in use by another task: {0:?}")]
    TaskIdTaken(Vec<TaskId>),
    #[error("{} has {} notes, which is the most a job can have", JobName(*.0), crate::store::note::MAX_NOTES)]
    TooManyNotes(RunId),
    #[error("{} belongs to {owner}", JobName(*.job))]
    NotOwner { job: RunId, owner: String },
    #[error("queue {queue} belongs to {}", .queue.owner())]
    NotWorker { queue: Queue },
    #[error("{} is {state} and takes no more tasks", JobName(*.job))]
    JobEnded { job: RunId, state: JobState },
    #[error("{} is {state} already", JobName(*.job))]
    JobOver { job: RunId, state: JobState },
    #[error("{} cannot be cancelled now", JobName(*.job))]
    NotCancellable { job: RunId, allowed: Vec<String> },
    #[error("as many calls as are allowed wait for the end of a job")]
    TooManyWaiters,
    #[error("{}: {cause}", JobName(*.job))]
    JobTransition { job: RunId, cause: JobTransitionError },
    #[error("{task}: {cause}")]
    TaskTransition { task: TaskName, cause: TaskTransitionError },
    #[error("attempt {attempt} of {task} is not the current one")]
    LeaseLost { task: TaskName, attempt: u32 },
    #[error("the page token is not one that was given out for this listing")]
    PageToken,
    #[error("the resume token is not one that was given out")]
    ResumeToken,
    #[error("events up to number {purged_through} have been deleted, the resume token stands at {position}")]
    TokenTooOld { position: i64, purged_through: i64 },
    #[error("the resume token stands at {position}, the last event is number {last_sequence}")]
    TokenUnknown { position: i64, last_sequence: i64 },
    #[error(transparent)]
    Database(#[from] understudy_pg::Error),
}
