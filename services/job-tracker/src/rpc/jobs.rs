//! `JobService`.

use std::pin::Pin;

use async_trait::async_trait;
use futures::{Stream, stream};
use prost::Message;
use tonic::{Request, Response, Status};
use understudy_jobs_api::{
    convert,
    v1::{self, job_service_server::JobService},
};
use understudy_rpc::{ApiError, PeerKind, peer};

use super::{error::invalid, refusals::recorded};
use crate::runtime::{Runtime, Seen, Watch};

type Answer<T> = Result<Response<T>, Status>;

pub struct Jobs(pub Runtime);

#[async_trait]
impl JobService for Jobs {
    async fn create_job(&self, request: Request<v1::CreateJobRequest>) -> Answer<v1::Job> {
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let subject = format!("jobs/{}", request.job_id);
        let digest = digest(&request);
        let done = match convert::create_job(request).map_err(invalid) {
            Ok(job) => self.0.create_job(&caller, job, digest).await.map_err(ApiError::from),
            Err(error) => Err(error),
        };
        let job = recorded(&self.0, &caller, "CreateJob", subject, done).await?;
        Ok(Response::new(convert::job_to_wire(job)))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::Job> {
        let id = convert::job_name("name", &request.get_ref().name).map_err(invalid)?;
        let job = self.0.get_job(id).await.map_err(ApiError::from)?;
        Ok(Response::new(convert::job_to_wire(job)))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        let list = convert::list_jobs(request.into_inner()).map_err(invalid)?;
        let page = self
            .0
            .list_jobs(&list.filter, list.page_size, list.page_token.as_deref())
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(v1::ListJobsResponse {
            jobs: page.items.into_iter().map(convert::job_to_wire).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn update_job(&self, request: Request<v1::UpdateJobRequest>) -> Answer<v1::Job> {
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let subject = request.name.clone();
        let done = match convert::update_job(request).map_err(invalid) {
            Ok(update) => self.0.update_job(&caller, update).await.map_err(ApiError::from),
            Err(error) => Err(error),
        };
        let job = recorded(&self.0, &caller, "UpdateJob", subject, done).await?;
        Ok(Response::new(convert::job_to_wire(job)))
    }

    async fn enqueue_tasks(
        &self,
        request: Request<v1::EnqueueTasksRequest>,
    ) -> Answer<v1::EnqueueTasksResponse> {
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let subject = request.job.clone();
        let done = match convert::enqueue_tasks(request).map_err(invalid) {
            Ok(enqueue) => {
                self.0.enqueue_tasks(&caller, enqueue.job, enqueue.tasks).await.map_err(ApiError::from)
            }
            Err(error) => Err(error),
        };
        let tasks = recorded(&self.0, &caller, "EnqueueTasks", subject, done).await?;
        let tasks = tasks.into_iter().map(convert::task_to_wire).collect();
        Ok(Response::new(v1::EnqueueTasksResponse { tasks }))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Answer<v1::CancelTasksResponse> {
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let subject = request.job.clone();
        let done = match convert::cancel_tasks(request).map_err(invalid) {
            Ok(cancel) => self.0.cancel_tasks(&caller, cancel.job, cancel.keys).await.map_err(ApiError::from),
            Err(error) => Err(error),
        };
        let tasks = recorded(&self.0, &caller, "CancelTasks", subject, done).await?;
        let tasks = tasks.into_iter().map(convert::task_to_wire).collect();
        Ok(Response::new(v1::CancelTasksResponse { tasks }))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        let list = convert::list_tasks(request.into_inner()).map_err(invalid)?;
        let page = self
            .0
            .list_tasks(list.job, list.page_size, list.page_token.as_deref())
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(v1::ListTasksResponse {
            tasks: page.items.into_iter().map(convert::task_to_wire).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn add_note(&self, request: Request<v1::AddNoteRequest>) -> Answer<v1::Note> {
        let caller = peer(&request)?.clone();
        let request = request.into_inner();
        let subject = request.job.clone();
        let done = match convert::add_note(request).map_err(invalid) {
            Ok(mut note) => {
                // A person speaks for no one else.
                if note.author.is_empty() || caller.kind() == PeerKind::User {
                    note.author = caller.to_string();
                }
                self.0.add_note(&caller, note).await.map_err(ApiError::from)
            }
            Err(error) => Err(error),
        };
        let note = recorded(&self.0, &caller, "AddNote", subject, done).await?;
        Ok(Response::new(convert::note_to_wire(note)))
    }

    async fn list_notes(&self, request: Request<v1::ListNotesRequest>) -> Answer<v1::ListNotesResponse> {
        let job = convert::job_name("job", &request.get_ref().job).map_err(invalid)?;
        let notes = self.0.list_notes(job).await.map_err(ApiError::from)?;
        let notes = notes.into_iter().map(convert::note_to_wire).collect();
        Ok(Response::new(v1::ListNotesResponse { notes }))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let asked = convert::watch_events(request.into_inner()).map_err(invalid)?;
        let watch = self.0.watch(&asked.from, asked.filter).await.map_err(ApiError::from)?;
        Ok(Response::new(Box::pin(events(self.0.clone(), watch))))
    }
}

/// Ends with the first error, or when the process is to end.
fn events(runtime: Runtime, watch: Watch) -> impl Stream<Item = Result<v1::Event, Status>> + Send {
    stream::unfold(Some((runtime, watch)), |open| async {
        let (runtime, mut watch) = open?;
        let seen = tokio::select! {
            seen = watch.next() => seen,
            () = runtime.shutdown().cancelled() => return None,
        };
        match seen {
            Ok(seen) => Some((Ok(to_wire(seen)), Some((runtime, watch)))),
            Err(error) => Some((Err(ApiError::from(error).into()), None)),
        }
    })
}

fn to_wire(seen: Seen) -> v1::Event {
    match seen {
        Seen::Event(event) => convert::event_to_wire(*event),
        Seen::Bookmark(resume_token) => v1::Event { resume_token, ..v1::Event::default() },
    }
}

/// Of what a job is made from. Trace contexts differ when a request is made again, and do not count.
fn digest(request: &v1::CreateJobRequest) -> [u8; 32] {
    let mut request = request.clone();
    request.tasks.iter_mut().for_each(|task| task.traceparent.clear());
    *blake3::hash(&request.encode_to_vec()).as_bytes()
}
