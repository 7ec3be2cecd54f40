//! One attempt of one task: the handler, its heartbeats, and the delivery of its outcome.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use understudy_ids::Problem;
use understudy_jobs::LeaseTerm;
use understudy_rpc::{
    ApiError, Channel, Kind,
    retry::{BackOff, jitter},
    trace,
};

use super::{
    Handler,
    context::{Stop, Stopper, TaskContext},
};
use crate::{
    convert::{Completion, completion_to_wire},
    model::{LeasedTask, Outcome, Progress},
    reason,
    v1::{self, worker_service_client::WorkerServiceClient},
};

/// Time that a handler has to end after its lease was lost.
const LOST_GRACE: Duration = Duration::from_secs(30);
/// Progress is sent at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Attempt {
    pub(super) client: WorkerServiceClient<Channel>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) task: LeasedTask,
    pub(super) stopper: Stopper,
}

impl Attempt {
    /// Ends when the outcome has been delivered or counts no more.
    pub(super) async fn run(self) {
        let (name, attempt) = (self.task.name, self.task.attempt);
        let span = tracing::info_span!("task", task = %name, key = %self.task.key, attempt);
        trace::continue_from(&span, self.task.traceparent.as_deref());
        self.run_in_span().instrument(span).await;
    }

    async fn run_in_span(self) {
        let (context, progress) = TaskContext::new(self.task.attempt, self.stopper.clone());
        let (handler, task) = (Arc::clone(&self.handler), self.task.clone());
        let work = async move { handler.handle(task, context).await }.in_current_span();
        let mut work = pin!(AbortOnDropHandle::new(tokio::spawn(work)));
        // They go on until the outcome is delivered: an outage may take longer than the rest of the lease.
        let mut heartbeats = pin!(self.heartbeats(progress));
        let outcome = tokio::select! {
            ended = &mut work => ended.unwrap_or_else(|error| cut_off(&error)),
            never = &mut heartbeats => match never {},
            () = self.stopper.lost() => {
                if timeout(LOST_GRACE, &mut work).await.is_err() {
                    tracing::warn!("the handler did not stop after its lease was lost; it is dropped");
                }
                return;
            }
        };
        metrics::counter!("understudy_worker_attempts_total", "outcome" => label(&outcome)).increment(1);
        tokio::select! {
            () = self.deliver(outcome) => {}
            never = &mut heartbeats => match never {},
            () = self.stopper.lost() => tracing::info!("the outcome comes too late: the lease is lost"),
        }
    }

    /// Renews the lease three times in its term, and more often while there is progress to tell.
    async fn heartbeats(&self, mut progress: watch::Receiver<Progress>) -> std::convert::Infallible {
        let mut interval = heartbeat_interval(self.task.lease);
        let mut due = Instant::now() + interval;
        let mut sent = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                Ok(()) = progress.changed() => {
                    tokio::time::sleep_until(due.min(sent + PROGRESS_INTERVAL)).await;
                }
            }
            let now = progress.borrow_and_update().clone();
            sent = Instant::now();
            match self.heartbeat(now, interval).await {
                Ok(answer) => interval = self.heard(answer).unwrap_or(interval),
                Err(error) if error.reason == reason::LEASE_LOST => self.stopper.stop(Stop::LeaseLost),
                // The lease may be over or not: the next answer tells. The progress is told again with it.
                Err(error) => {
                    tracing::warn!(%error, "heartbeat failed");
                    progress.mark_changed();
                }
            }
            due = Instant::now() + interval;
        }
    }

    async fn heartbeat(
        &self,
        progress: Progress,
        limit: Duration,
    ) -> Result<v1::HeartbeatResponse, ApiError> {
        let mut request = tonic::Request::new(v1::HeartbeatRequest {
            task: self.task.name.to_string(),
            attempt: self.task.attempt,
            progress_percent: progress.percent,
            progress_text: progress.text,
        });
        request.set_timeout(limit);
        Ok(self.client.clone().heartbeat(request).await?.into_inner())
    }

    /// Takes note of an answer; returns the interval that it asks for.
    fn heard(&self, answer: v1::HeartbeatResponse) -> Option<Duration> {
        if answer.cancel_requested {
            self.stopper.stop(Stop::Cancelled);
        }
        let lease = understudy_types_api::duration_from_wire(answer.lease?).ok()?;
        Some(heartbeat_interval(lease))
    }

    /// Until it is accepted or counts no more. An outcome that job-tracker cannot take is replaced, once, by *unknown*: the effect
    /// has happened, and only its description is lost.
    async fn deliver(&self, outcome: Outcome) {
        let mut outcome = outcome;
        let mut replaced = false;
        for failures in 0u32.. {
            match self.complete(outcome.clone()).await {
                Ok(()) => return,
                Err(error) if error.reason == reason::LEASE_LOST => {
                    tracing::info!("the outcome comes too late: the lease is lost");
                    return;
                }
                Err(error) if is_refusal(error.kind) => {
                    tracing::error!(%error, "job-tracker refused the outcome");
                    if std::mem::replace(&mut replaced, true) {
                        return;
                    }
                    outcome = Outcome::Unknown(refused(&error));
                }
                Err(error) => {
                    tracing::warn!(%error, "the outcome could not be delivered, trying again");
                    sleep(BackOff::DEFAULT.delay(failures, jitter())).await;
                }
            }
        }
    }

    async fn complete(&self, outcome: Outcome) -> Result<(), ApiError> {
        let completion = Completion { task: self.task.name, attempt: self.task.attempt, outcome };
        self.client.clone().complete_task(completion_to_wire(completion)).await?;
        Ok(())
    }
}

fn heartbeat_interval(lease: Duration) -> Duration {
    let term = LeaseTerm::new(lease.clamp(LeaseTerm::MIN, LeaseTerm::MAX));
    term.map_or(LeaseTerm::MIN, LeaseTerm::heartbeat_interval)
}

/// Whether the same call would be refused again.
fn is_refusal(kind: Kind) -> bool {
    matches!(kind, Kind::InvalidArgument | Kind::NotFound | Kind::FailedPrecondition | Kind::PermissionDenied)
}

fn refused(error: &ApiError) -> Problem {
    let message = format!("the task ended, but its outcome was refused: {error}");
    Problem::new("OUTCOME_REFUSED", "outcome", message, "Look at what the task acts on before trying again.")
}

/// The handler panicked, or the runtime dropped it: nobody knows how far it came.
fn cut_off(error: &tokio::task::JoinError) -> Outcome {
    tracing::error!(%error, "the handler did not return");
    Outcome::Unknown(Problem::new(
        "HANDLER_PANICKED",
        "worker",
        "the worker met an error of its own in the middle of the task",
        "Look into the worker's log at this time, and at what the task acts on, before trying again.",
    ))
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded(_) => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Unknown(_) => "unknown",
        Outcome::Retry(_) => "retry",
    }
}
