//! A watch that outlives its connections.
//!
//! ```text
//!   Start/Now/After(token) ──open──▶ stream ── bookmark or event: token := its token ──▶ …
//!            ▲                                    │ broken
//!            └── back off ◀── After(token) ◀──────┘
//! ```
//! job-tracker sends a bookmark when a watch opens, so that even a watch that saw no event resumes where it was.

use futures::{Stream, StreamExt, stream};
use understudy_rpc::{
    ApiError, Channel, Kind,
    retry::{BackOff, jitter},
};

use crate::{
    check::not_understood,
    convert,
    model::{Event, WatchFilter, WatchFrom},
    name::JobName,
    reason,
    v1::{self, job_service_client::JobServiceClient},
};

struct Watch {
    client: JobServiceClient<Channel>,
    from: WatchFrom,
    filter: WatchFilter,
    open: Option<tonic::Streaming<v1::Event>>,
    /// In a row, since the last message.
    failures: u32,
}

pub(crate) fn watch(
    client: JobServiceClient<Channel>,
    from: WatchFrom,
    filter: WatchFilter,
) -> impl Stream<Item = Result<Event, ApiError>> + Send + 'static {
    let watch = Watch { client, from, filter, open: None, failures: 0 };
    stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(event) => Some((Ok(event), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Watch {
    async fn next(&mut self) -> Result<Event, ApiError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) if heals(&error) => {
                    tracing::debug!(%error, "the watch broke, it will be opened again");
                    self.open = None;
                    tokio::time::sleep(BackOff::DEFAULT.delay(self.failures, jitter())).await;
                    self.failures = self.failures.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One message. Nothing when it was a bookmark or the stream has ended.
    async fn step(&mut self) -> Result<Option<Event>, ApiError> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => {
                let request = self.request();
                let opened = self.client.watch_events(request).await?.into_inner();
                self.open.insert(opened)
            }
        };
        let Some(message) = stream.next().await else {
            let why = "job-tracker ended the watch";
            return Err(ApiError::unavailable("WATCH_ENDED", why, "it will be opened again"));
        };
        let message = message?;
        self.failures = 0;
        let token = message.resume_token.clone();
        let event = convert::event_from_wire(message).map_err(not_understood)?;
        self.from = WatchFrom::After(token);
        Ok(event)
    }

    fn request(&self) -> v1::WatchEventsRequest {
        let (resume_token, from_start) = match &self.from {
            WatchFrom::Now => (String::new(), false),
            WatchFrom::Start => (String::new(), true),
            WatchFrom::After(token) => (token.clone(), false),
        };
        v1::WatchEventsRequest {
            resume_token,
            from_start,
            job: self.filter.job.map(|job| JobName(job).to_string()).unwrap_or_default(),
            owner: self.filter.owner.clone().unwrap_or_default(),
        }
    }
}

/// Whether time may heal it. A broken transport shows as almost anything, and a watch has no effect that could be doubled, so only
/// what job-tracker says on purpose ends it.
fn heals(error: &ApiError) -> bool {
    let refused = matches!(
        error.kind,
        Kind::InvalidArgument
            | Kind::NotFound
            | Kind::FailedPrecondition
            | Kind::PermissionDenied
            | Kind::Unauthenticated
            | Kind::Unimplemented
    );
    !refused && error.reason != reason::NOT_UNDERSTOOD
}
