//! The owner's and reader's side of job-tracker.

use futures::{StreamExt, stream::BoxStream};
use understudy_ids::{RunId, Uuid};
use understudy_rpc::{ApiError, Channel, trace};
use understudy_types_api::time_to_wire;

use crate::{
    check::{Invalid, not_understood},
    convert::{self, new_job_to_wire, new_task_to_wire, update_to_wire},
    model::{
        Event, Job, JobFilter, JobUpdate, NewJob, NewNote, NewTask, Note, Page, Task, WatchFilter, WatchFrom,
    },
    name::JobName,
    v1::{self, job_service_client::JobServiceClient},
    watch,
};

/// A typed client. Cheap to clone; clones share the connection.
///
/// Every call but `watch_events` is made once. All mutations may be repeated unchanged: that gives the same answer and no second
/// effect, so callers repeat what [`understudy_rpc::retry::retryable`] allows.
#[derive(Debug, Clone)]
pub struct JobsClient {
    inner: JobServiceClient<Channel>,
}

impl JobsClient {
    pub fn new(channel: Channel) -> Self {
        Self { inner: JobServiceClient::new(channel) }
    }

    /// Makes a job and its first tasks. The caller becomes its owner. Tasks without a trace context continue the caller's trace.
    ///
    /// # Errors
    /// `JOB_EXISTS` when the id is taken by a job that was made from other content.
    pub async fn create_job(&self, job: NewJob) -> Result<Job, ApiError> {
        let tasks = job.tasks.into_iter().map(traced).collect();
        let answer = self.inner.clone().create_job(new_job_to_wire(NewJob { tasks, ..job })).await?;
        convert::job_from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_job(&self, job: RunId) -> Result<Job, ApiError> {
        let request = v1::GetJobRequest { name: JobName(job).to_string() };
        let answer = self.inner.clone().get_job(request).await?;
        convert::job_from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Newest first. `page_size` 0 means 100. Jobs in a list come without their reports.
    pub async fn list_jobs(
        &self,
        filter: JobFilter,
        page_size: u32,
        page_token: Option<String>,
    ) -> Result<Page<Job>, ApiError> {
        let JobFilter { states, kind, target, created_after } = filter;
        let request = v1::ListJobsRequest {
            page_size,
            page_token: page_token.unwrap_or_default(),
            states: states.into_iter().map(|s| convert::job_state_to_wire(s).into()).collect(),
            r#type: kind.unwrap_or_default(),
            target: target.unwrap_or_default(),
            created_after: created_after.map(time_to_wire),
        };
        let answer = self.inner.clone().list_jobs(request).await?.into_inner();
        let items = read_all(answer.jobs, convert::job_from_wire)?;
        Ok(Page { items, next: Some(answer.next_page_token).filter(|t| !t.is_empty()) })
    }

    /// Replaces what the job says about itself. Only its owner may.
    ///
    /// # Errors
    /// `JOB_STATE` when the table of transitions does not list the new state.
    pub async fn update_job(&self, update: JobUpdate) -> Result<Job, ApiError> {
        let answer = self.inner.clone().update_job(update_to_wire(update)).await?;
        convert::job_from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Adds tasks (at most 1000) to a job that has not ended. A task whose key the job has is left as it is. The answer holds the
    /// tasks of these keys as they stand, in the order given, without payload and result. Tasks without a trace context continue the
    /// caller's trace.
    pub async fn enqueue_tasks(&self, job: RunId, tasks: Vec<NewTask>) -> Result<Vec<Task>, ApiError> {
        let tasks = tasks.into_iter().map(traced).map(new_task_to_wire).collect();
        let request = v1::EnqueueTasksRequest { job: JobName(job).to_string(), tasks };
        let answer = self.inner.clone().enqueue_tasks(request).await?;
        read_all(answer.into_inner().tasks, convert::task_from_wire)
    }

    /// Ends tasks by key; no keys means all. Queued ones end at once, leased ones when their worker has answered.
    pub async fn cancel_tasks(&self, job: RunId, keys: Vec<String>) -> Result<Vec<Task>, ApiError> {
        let request = v1::CancelTasksRequest { job: JobName(job).to_string(), keys };
        let answer = self.inner.clone().cancel_tasks(request).await?;
        read_all(answer.into_inner().tasks, convert::task_from_wire)
    }

    /// One page of the tasks of a job, in the order in which they were added. `page_size` 0 means 100.
    pub async fn list_tasks(
        &self,
        job: RunId,
        page_size: u32,
        page_token: Option<String>,
    ) -> Result<Page<Task>, ApiError> {
        let job = JobName(job).to_string();
        let request = v1::ListTasksRequest { job, page_size, page_token: page_token.unwrap_or_default() };
        let answer = self.inner.clone().list_tasks(request).await?.into_inner();
        let items = read_all(answer.tasks, convert::task_from_wire)?;
        Ok(Page { items, next: Some(answer.next_page_token).filter(|t| !t.is_empty()) })
    }

    pub async fn add_note(&self, note: NewNote) -> Result<Note, ApiError> {
        let NewNote { job, id, author, text } = note;
        let request =
            v1::AddNoteRequest { job: JobName(job).to_string(), text, request_id: id.to_string(), author };
        let answer = self.inner.clone().add_note(request).await?;
        convert::note_from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// All notes of a job, oldest first.
    pub async fn list_notes(&self, job: Uuid) -> Result<Vec<Note>, ApiError> {
        let request = v1::ListNotesRequest { job: JobName(job).to_string() };
        let answer = self.inner.clone().list_notes(request).await?;
        read_all(answer.into_inner().notes, convert::note_from_wire)
    }

    /// Every event after `from`, then each new one as it happens, without loss or repetition (R-JOB-3, invariant 15). When the
    /// connection breaks, the stream connects again, for ever, and goes on where it was.
    ///
    /// The stream ends after its first error, which is one that time does not heal: `RESUME_TOKEN_TOO_OLD`,
    /// `RESUME_TOKEN_UNKNOWN`, a missing permission.
    pub fn watch_events(
        &self,
        from: WatchFrom,
        filter: WatchFilter,
    ) -> BoxStream<'static, Result<Event, ApiError>> {
        watch::watch(self.inner.clone(), from, filter).boxed()
    }
}

/// Work that is done later belongs to the trace of whoever asked for it.
fn traced(task: NewTask) -> NewTask {
    NewTask { traceparent: task.traceparent.or_else(trace::current), ..task }
}

fn read_all<A, B>(all: Vec<A>, read: impl Fn(A) -> Result<B, Invalid>) -> Result<Vec<B>, ApiError> {
    all.into_iter().map(read).collect::<Result<_, _>>().map_err(not_understood)
}
