//! Sends what waits in the outbox to job-tracker, for ever, in order for each job.
//!
//! ```text
//!   wake (NOTIFY or clock) ─▶ transaction: lock a job's oldest ─▶ send ── accepted ──▶ delete
//!                                           (tasks by one call)    ├── not now ─────▶ later, with back-off
//!                                                                  └── never ───────▶ a task: the run's step fails, with why
//!                                                                                     an update: dropped
//! ```
//! Nothing here decides. The lock is held while sending, so that a sender that dies is replaced at once; sending twice is harmless (see
//! `store::outbox`).

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use understudy_ids::{Problem, RunId, TaskId, Uuid};
use understudy_jobs_api::{JobState, JobUpdate, NewJob, NewNote, NewTask};
use understudy_recovery::{
    Event,
    run::{self, JobView},
};
use understudy_rpc::{
    ApiError, Kind,
    retry::{BackOff, jitter},
};

use super::{Runtime, apply, message::Message, now, task};
use crate::store::{
    Failure,
    outbox::{self, Claimed},
};

/// Most bytes of tasks that are sent by one call, so that it stays within what a server takes.
const BYTES_TOGETHER: i32 = 1 << 20;
/// Messages under way at once from one instance. Each holds a connection to the database while it is.
const SENDERS: usize = 4;
/// Without a notification, the outbox is looked at this often.
const POLL: Duration = Duration::from_secs(1);
const BACK_OFF: BackOff = BackOff { first: Duration::from_millis(200), max: Duration::from_secs(10) };

/// Why a message was not accepted.
enum Refused {
    /// May be accepted later.
    NotNow(ApiError),
    /// Will never be.
    Never(ApiError),
}

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    let mut wake = match runtime.pool().listen(outbox::CHANNEL, POLL) {
        Ok(wake) => wake,
        Err(error) => {
            tracing::error!(%error, "the outbox cannot be listened to");
            return;
        }
    };
    while !shutdown.is_cancelled() {
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(drain(runtime.clone(), shutdown.clone()));
        }
        senders.join_all().await;
        if let Err(failure) = measure(&runtime).await {
            tracing::debug!(%failure, "the outbox could not be measured");
        }
        tokio::select! {
            () = wake.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Sends until nothing is due.
async fn drain(runtime: Runtime, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let sender = runtime.clone();
        let served = runtime
            .write(move |tx| {
                let sender = sender.clone();
                Box::pin(async move { serve_some(&sender, tx).await })
            })
            .await;
        match served {
            Ok(true) => {}
            Ok(false) => return,
            Err(failure) => {
                tracing::warn!(%failure, "the outbox was not brought up to date; trying again");
                return;
            }
        }
    }
}

async fn measure(runtime: &Runtime) -> Result<(), Failure> {
    let depth = outbox::depth(&mut *runtime.reader().await?).await?;
    metrics::gauge!("understudy_orchestrator_outbox_depth").set(depth as f64);
    Ok(())
}

/// Sends what a job is to be told, in its order. False when nothing is due.
async fn serve_some(runtime: &Runtime, tx: &mut PgConnection) -> Result<bool, Failure> {
    let claimed = outbox::lock_some(&mut *tx).await?;
    let mut rest = claimed.as_slice();
    while !rest.is_empty() {
        let (parcel, behind) = rest.split_at(parcel(rest));
        rest = behind;
        if let Some(outdated) = outdated(parcel, behind) {
            outbox::delete(&mut *tx, &[outdated]).await?;
            continue;
        }
        let told = match send(runtime, parcel).await {
            // One of them, perhaps, and not those beside it.
            Err(Refused::Never(_)) if parcel.len() > 1 => {
                let mut told = true;
                for one in parcel.chunks(1) {
                    let sent = send(runtime, one).await;
                    told = settle(tx, one, sent).await?;
                    if !told {
                        break;
                    }
                }
                told
            }
            sent => settle(tx, parcel, sent).await?,
        };
        if !told {
            break;
        }
    }
    Ok(!claimed.is_empty())
}

/// The message, if what it says of a job is said by one behind it as it has become meanwhile.
fn outdated(parcel: &[Claimed], behind: &[Claimed]) -> Option<i64> {
    let state = |claimed: &Claimed| match &claimed.message {
        Message::Update(view) => Some(view.state),
        _ => None,
    };
    let [one] = parcel else { return None };
    // Each state that a job goes through is told.
    let said = state(one)?;
    (behind.iter().find_map(state) == Some(said)).then_some(one.id)
}

/// How many of the messages, from the first on, job-tracker is told by one call: one, or tasks.
fn parcel(messages: &[Claimed]) -> usize {
    let mut bytes = 0;
    let fits = |claimed: &&Claimed| {
        bytes += claimed.bytes;
        matches!(claimed.message, Message::Enqueue { .. }) && bytes <= BYTES_TOGETHER
    };
    messages.iter().take_while(fits).count().max(1)
}

/// What has become of messages that were sent by one call. Whether those behind them may be sent.
async fn settle(
    tx: &mut PgConnection,
    parcel: &[Claimed],
    sent: Result<(), Refused>,
) -> Result<bool, Failure> {
    let Some(Claimed { id, job, attempts, .. }) = parcel.first() else { return Ok(true) };
    match sent {
        Ok(()) => {
            metrics::counter!("understudy_orchestrator_outbox_sent_total").increment(parcel.len() as u64);
            let ids: Vec<i64> = parcel.iter().map(|claimed| claimed.id).collect();
            outbox::delete(tx, &ids).await?;
            Ok(true)
        }
        Err(Refused::NotNow(error)) => {
            tracing::warn!(%error, %job, attempts, "job-tracker was not told; trying again");
            let attempt = u32::try_from(*attempts).unwrap_or(u32::MAX);
            outbox::postpone(tx, *id, BACK_OFF.delay(attempt, jitter()), &error.to_string()).await?;
            Ok(false)
        }
        Err(Refused::Never(error)) => {
            tracing::error!(%error, %job, "job-tracker will never take this message");
            metrics::counter!("understudy_orchestrator_outbox_refused_total").increment(1);
            for claimed in parcel {
                give_up(tx, claimed, &error).await?;
            }
            Ok(true)
        }
    }
}

/// A message that cannot be delivered is taken out of the way of those behind it. A task that can never exist has failed.
async fn give_up(tx: &mut PgConnection, claimed: &Claimed, error: &ApiError) -> Result<(), Failure> {
    if let Message::Enqueue { key, .. } = &claimed.message {
        let problem = Problem::new(
            "TASK_REFUSED",
            key,
            format!("job-tracker does not take the step's task: {error}"),
            "Retry the run; if it fails again, report it with the run's name.",
        );
        let event = Event::StepFailed { key: key.clone(), problem, unknown: false, at: now() };
        apply::deliver(&mut *tx, claimed.job, &event).await?;
    }
    outbox::delete(tx, &[claimed.id]).await
}

/// Sends messages about one job by one call: one message, or tasks.
async fn send(runtime: &Runtime, parcel: &[Claimed]) -> Result<(), Refused> {
    let Some(Claimed { job, message, .. }) = parcel.first() else { return Ok(()) };
    let (jobs, job) = (&runtime.0.jobs, *job);
    let answer = match message.clone() {
        Message::CreateJob { kind, targets, created_by, labels } => {
            let new = NewJob { id: job, kind, targets, created_by, labels, tasks: Vec::new() };
            jobs.create_job(new).await.map(|_| ())
        }
        Message::Enqueue { .. } => {
            let tasks: Result<_, _> = parcel.iter().map(|claimed| new_task(job, &claimed.message)).collect();
            jobs.enqueue_tasks(job, tasks?).await.map(|_| ())
        }
        Message::CancelTasks { keys } => jobs.cancel_tasks(job, keys).await.map(|_| ()),
        Message::Update(view) => jobs.update_job(update(job, *view)?).await.map(|_| ()),
        Message::Note { id, author, text } => {
            jobs.add_note(NewNote { job, id, author, text }).await.map(|_| ())
        }
    };
    answer.map_err(|error| classify(message, error))
}

/// A job that does not exist yet was announced by an earlier message, so *not found* heals; the rest is as the error says.
fn classify(message: &Message, error: ApiError) -> Refused {
    let never = match error.kind {
        Kind::InvalidArgument | Kind::AlreadyExists | Kind::FailedPrecondition => true,
        // A later update was there first.
        Kind::Aborted => matches!(message, Message::Update(_)),
        Kind::NotFound
        | Kind::PermissionDenied
        | Kind::Unauthenticated
        | Kind::ResourceExhausted
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Unimplemented
        | Kind::Unknown
        | Kind::Internal => false,
    };
    if never { Refused::Never(error) } else { Refused::NotNow(error) }
}

/// The task's identifier follows from run and key, so that sending it again is recognised.
fn task_id(run: RunId, key: &str) -> TaskId {
    Uuid::new_v5(&run, key.as_bytes())
}

fn new_task(job: RunId, message: &Message) -> Result<NewTask, Refused> {
    let Message::Enqueue { key, title, executor, action, max_attempts, traceparent } = message else {
        return Err(unsendable("it is no task"));
    };
    let queue = task::queue(executor).ok_or_else(|| unsendable("nobody's queue"))?;
    let payload = task::payload(job, action).map_err(|e| unsendable(&e.to_string()))?;
    Ok(NewTask {
        id: task_id(job, key),
        key: key.clone(),
        title: title.clone(),
        queue,
        payload,
        max_attempts: *max_attempts,
        not_before: None,
        traceparent: traceparent.clone(),
    })
}

fn unsendable(why: &str) -> Refused {
    Refused::Never(ApiError::invalid_argument(
        "NOT_SENDABLE",
        format!("the message cannot be sent: {why}"),
        "",
    ))
}

fn update(job: RunId, view: JobView) -> Result<JobUpdate, Refused> {
    let JobView { sequence, state, phase, waiting_for, allowed_actions, problems, progress_percent, report } =
        view;
    let report_json = report
        .map(|report| serde_json::to_string(&report))
        .transpose()
        .map_err(|e| unsendable(&format!("the report cannot be written: {e}")))?;
    Ok(JobUpdate {
        job,
        owner_sequence: Some(sequence),
        state: job_state(state),
        phase,
        waiting_for,
        allowed_actions: allowed_actions.into_iter().map(|verb| verb.as_str().to_owned()).collect(),
        problems,
        progress_percent,
        report_json,
    })
}

fn job_state(state: run::JobState) -> JobState {
    match state {
        run::JobState::Running => JobState::Running,
        run::JobState::Waiting => JobState::Waiting,
        run::JobState::Cancelling => JobState::Cancelling,
        run::JobState::Succeeded => JobState::Succeeded,
        run::JobState::CompletedWithErrors => JobState::CompletedWithErrors,
        run::JobState::Failed => JobState::Failed,
        run::JobState::Cancelled => JobState::Cancelled,
    }
}

/// The job of something that is no run: one task, and labels that say so.
pub(super) fn single_task_job(kind: &str, targets: Vec<String>, reason: String) -> Message {
    Message::CreateJob {
        kind: kind.to_owned(),
        targets,
        created_by: String::new(),
        labels: BTreeMap::from([("reason".to_owned(), reason)]),
    }
}
