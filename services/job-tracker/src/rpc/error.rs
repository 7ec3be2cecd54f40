//! What callers are told.

use understudy_jobs_api::{Invalid, reason};
use understudy_rpc::ApiError;

use crate::runtime::Error;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Database(error) => error.into(),
            Error::NoJob(_) => {
                ApiError::not_found("NO_SUCH_JOB", text, "List the jobs; old ones are deleted after a while.")
            }
            Error::NoTask(_) => ApiError::not_found("NO_SUCH_TASK", text, "List the tasks of the job."),
            Error::JobExists(_) => {
                ApiError::already_exists(reason::JOB_EXISTS, text, "Use a new UUID for a new job.")
            }
            Error::NoteExists(_) => {
                ApiError::already_exists("NOTE_EXISTS", text, "Use a new UUID for a new note.")
            }
            Error::TaskIdTaken(_) => {
                ApiError::already_exists("TASK_ID_TAKEN", text, "Use a new UUID for each new task.")
            }
            Error::TooManyNotes(_) => ApiError::resource_exhausted(
                "TOO_MANY_NOTES",
                text,
                "Keep longer records elsewhere and link to them.",
            ),
            Error::NotOwner { .. } => {
                ApiError::permission_denied("NOT_THE_OWNER", text, "Ask the owner of the job to do it.")
            }
            Error::NotWorker { .. } => {
                ApiError::permission_denied("NOT_YOUR_QUEUE", text, "Serve the queue of your own identity.")
            }
            Error::JobEnded { .. } | Error::JobTransition { .. } => {
                ApiError::failed_precondition(reason::JOB_STATE, text, "Read the job again.")
            }
            Error::JobOver { .. } => ApiError::failed_precondition(
                reason::JOB_STATE,
                text,
                "There is nothing left to cancel; read what it came to.",
            ),
            Error::NotCancellable { allowed, .. } => ApiError::failed_precondition(
                reason::CANCEL_NOT_ALLOWED,
                text,
                match allowed.as_slice() {
                    [] => "Wait for its end; stopping it here would not be safe.".to_owned(),
                    some => format!("What it allows now: {}.", some.join(", ")),
                },
            ),
            Error::TooManyWaiters => ApiError::resource_exhausted(
                "TOO_MANY_WAITERS",
                text,
                "Watch the events of several jobs in one stream instead.",
            ),
            // The state was compared before the transition was looked up.
            Error::TaskTransition { .. } => ApiError::internal(error),
            Error::LeaseLost { .. } => {
                ApiError::aborted(reason::LEASE_LOST, text, "Stop working on it and drop its result.")
            }
            Error::PageToken => ApiError::invalid_argument(
                "PAGE_TOKEN",
                text,
                "Pass on the token as it came, with the same filter, or begin again without one.",
            ),
            Error::ResumeToken => ApiError::invalid_argument(
                "RESUME_TOKEN",
                text,
                "Pass on the token as it came, or watch from the start.",
            ),
            Error::TokenTooOld { .. } => ApiError::failed_precondition(
                reason::RESUME_TOKEN_TOO_OLD,
                text,
                "Read the jobs anew, then watch from now or from the start of what is kept.",
            ),
            Error::TokenUnknown { .. } => ApiError::failed_precondition(
                reason::RESUME_TOKEN_UNKNOWN,
                text,
                "The database was restored from a backup: read the jobs anew, then watch from the start.",
            ),
        }
    }
}

/// A request that cannot be taken, with everything that is wrong with it.
pub fn invalid(invalid: Invalid) -> ApiError {
    ApiError::invalid(invalid.problems)
}
