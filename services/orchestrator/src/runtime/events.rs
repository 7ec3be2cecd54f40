//! Follows job-tracker's events and tells each run what became of its tasks.
//!
//! ```text
//!   watch from the stored token ─▶ a task ended ─▶ transaction: cursor moved? run' + effects : skipped
//!        ▲                         └▶ an end is asked for ─▶ the same, as an operator's verb
//!        │                           others ─▶ place kept in memory, stored now and then
//!        └── broken, too old ◀────────┘
//! ```
//! Every instance follows. The cursor is moved in the transaction that takes an event in, so an event is taken in once, whichever instance dies
//! when; and an event that comes again all the same changes nothing (invariants 3 and 15). Events that are there already are taken in together:
//! a run of many machines is read and written whole, which is then done once for all of them.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use futures::StreamExt;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use understudy_ids::RunId;
use understudy_jobs_api::{
    CancelRequest, Change, Event as JobEvent, Task, TaskState, WatchFilter, WatchFrom, reason,
};
use understudy_recovery::{
    Event,
    run::{JobState, JobView, RunVerb},
};
use understudy_recovery_api::{Decision, Resource};
use understudy_rpc::{ApiError, Kind};

use super::{Runtime, apply, message::Message, now, scrub, task};
use crate::store::{
    Failure, audit, corrections,
    cursor::{self, Move},
    outbox, runs, screenshots,
};

/// How often the place in the stream is stored while nothing comes of the events.
const KEEP: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// Most events that are taken in together.
const TOGETHER: usize = 200;
/// Tasks that are read at once when runs are compared with their jobs.
const PAGE: u32 = 500;

/// Why following stopped.
enum Stopped {
    Shutdown,
    /// To be begun again from the stored place.
    Broken,
    /// Events after our token are gone.
    TooOld,
}

/// A place in the stream of events.
struct Place {
    sequence: u64,
    token: String,
}

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(failure) = round(&runtime, &shutdown).await {
            tracing::warn!(%failure, "the events of job-tracker cannot be followed; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn round(runtime: &Runtime, shutdown: &CancellationToken) -> Result<(), Failure> {
    let cursor = cursor::read(&mut *runtime.reader().await?).await?;
    match follow(runtime, &cursor, shutdown).await {
        Stopped::Shutdown | Stopped::Broken => Ok(()),
        Stopped::TooOld => start_over(runtime, cursor.epoch).await,
    }
}

async fn follow(runtime: &Runtime, cursor: &cursor::Cursor, shutdown: &CancellationToken) -> Stopped {
    let from = cursor.token.clone().map_or(WatchFrom::Start, WatchFrom::After);
    let filter = WatchFilter { job: None, owner: Some(runtime.0.settings.identity.clone()) };
    let mut events = runtime.0.jobs.watch_events(from, filter).ready_chunks(TOGETHER);
    let mut keeping = tokio::time::interval(KEEP);
    // The newest place that is not stored, because nothing came of its event.
    let mut passed: Option<Place> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                keep(runtime, cursor.epoch, passed).await;
                return Stopped::Shutdown;
            }
            _ = keeping.tick() => keep(runtime, cursor.epoch, passed.take()).await,
            some = events.next() => {
                let Some(some) = some else { return Stopped::Broken };
                let (events, broken) = until_broken(some);
                if let Some(last) = events.last() {
                    passed = Some(Place { sequence: last.sequence, token: last.resume_token.clone() });
                }
                match take_in(runtime, cursor.epoch, events).await {
                    Ok(Move::Moved) => passed = None,
                    Ok(Move::Passed) => {}
                    Ok(Move::OtherEpoch) => return Stopped::Broken,
                    Err(failure) => {
                        tracing::warn!(%failure, "events were not taken in; they will be read again");
                        return Stopped::Broken;
                    }
                }
                match broken {
                    None => {}
                    Some(error) if is_useless(&error) => return Stopped::TooOld,
                    Some(error) => {
                        tracing::warn!(%error, "the watch of job-tracker's events broke");
                        return Stopped::Broken;
                    }
                }
            }
        }
    }
}

/// The events, and what broke the watch behind them.
fn until_broken(some: Vec<Result<JobEvent, ApiError>>) -> (Vec<JobEvent>, Option<ApiError>) {
    let mut events = Vec::with_capacity(some.len());
    for event in some {
        match event {
            Ok(event) => events.push(event),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

/// Whether following from our token will never be possible again: it is too old, ahead of a log that was restored, or no token at all
/// to the job-tracker that runs now.
fn is_useless(error: &ApiError) -> bool {
    error.kind == Kind::InvalidArgument
        || error.reason == reason::RESUME_TOKEN_TOO_OLD
        || error.reason == reason::RESUME_TOKEN_UNKNOWN
}

/// Losing this costs reading a few events again.
async fn keep(runtime: &Runtime, epoch: i64, place: Option<Place>) {
    let Some(place) = place.map(Arc::new) else { return };
    let stored = runtime
        .write(move |tx| {
            let place = place.clone();
            Box::pin(async move { cursor::advance(tx, epoch, place.sequence, &place.token).await })
        })
        .await;
    if let Err(failure) = stored {
        tracing::debug!(%failure, "the event cursor was not moved");
    }
}

/// Takes events in, in their order. Tells whether the cursor stands at the last one; [`Move::Passed`] also where that is nothing to us.
async fn take_in(runtime: &Runtime, epoch: i64, events: Vec<JobEvent>) -> Result<Move, Failure> {
    let (mut last, mut ends) = (Move::Passed, Vec::new());
    for JobEvent { sequence, resume_token, change, .. } in events {
        let place = Place { sequence, token: resume_token };
        match change {
            Change::Task(task) if has_ended(&task) => ends.push((place, *task)),
            Change::CancelRequested(request) => {
                take_in_ends(runtime, epoch, std::mem::take(&mut ends)).await?;
                last = take_in_request(runtime, epoch, place, request).await?;
                continue;
            }
            Change::Job(_) | Change::Task(_) | Change::Note(_) => last = Move::Passed,
        }
    }
    let behind = if ends.is_empty() { Move::Passed } else { take_in_ends(runtime, epoch, ends).await? };
    Ok(match (behind, last) {
        (Move::Passed, last) => last,
        (behind, _) => behind,
    })
}

/// Takes ends of tasks in, in one transaction; where that is refused, each in one of its own.
async fn take_in_ends(runtime: &Runtime, epoch: i64, ends: Vec<(Place, Task)>) -> Result<Move, Failure> {
    let ends = Arc::new(ends);
    let error = match take_in_some(runtime, epoch, ends.clone(), 0..ends.len()).await {
        Err(Failure::Refused(error)) => error,
        other => return other,
    };
    tracing::info!(%error, events = ends.len(), "events are taken in one by one");
    let mut last = Move::Passed;
    for (one, (_, task)) in ends.iter().enumerate() {
        last = match take_in_some(runtime, epoch, ends.clone(), one..one + 1).await {
            // Every event behind one that cannot be taken in would wait for ever; the run's step times out instead.
            Err(Failure::Refused(error)) => {
                tracing::error!(%error, task = %task.name(), "a task's end does not fit its run");
                metrics::counter!("understudy_orchestrator_task_events_refused_total").increment(1);
                Move::Passed
            }
            other => other?,
        };
    }
    Ok(last)
}

async fn take_in_some(
    runtime: &Runtime,
    epoch: i64,
    ends: Arc<Vec<(Place, Task)>>,
    part: Range<usize>,
) -> Result<Move, Failure> {
    let (for_tx, counted) = (ends.clone(), part.clone());
    let done = runtime
        .write(move |tx| {
            let (ends, part) = (for_tx.clone(), part.clone());
            Box::pin(async move {
                let Some(taken_in) = cursor::lock(&mut *tx, epoch).await? else {
                    return Ok(Move::OtherEpoch);
                };
                let new: Vec<&(Place, Task)> =
                    ends[part].iter().filter(|(place, _)| place.sequence > taken_in).collect();
                let Some((place, _)) = new.last() else { return Ok(Move::Passed) };
                tell_all(&mut *tx, new.iter().map(|(_, task)| task)).await?;
                cursor::advance(tx, epoch, place.sequence, &place.token).await
            })
        })
        .await;
    if matches!(done, Ok(Move::Moved)) {
        for (_, task) in &ends[counted] {
            metrics::counter!("understudy_orchestrator_task_events_total", "state" => task.state.to_string())
                .increment(1);
        }
    }
    done
}

/// The end of a run that somebody asked for at job-tracker is what `CancelRun` is; the run may refuse it, having gone on meanwhile.
async fn take_in_request(
    runtime: &Runtime,
    epoch: i64,
    place: Place,
    request: CancelRequest,
) -> Result<Move, Failure> {
    let run = request.job;
    let what = Arc::new((place, request));
    let for_tx = what.clone();
    let done = runtime
        .write(move |tx| {
            let what = for_tx.clone();
            Box::pin(async move {
                let (place, request) = &*what;
                let moved = cursor::advance(&mut *tx, epoch, place.sequence, &place.token).await?;
                if moved != Move::Moved {
                    return Ok(moved);
                }
                let event = Event::Operator { verb: RunVerb::Cancel, by: request.by.clone(), at: now() };
                // A job that is no run has nothing that could be left off.
                if apply::deliver(&mut *tx, run, &event).await?.is_some() {
                    audit::insert(tx, &asked(request, Decision::Allowed, "OK".to_owned())).await?;
                }
                Ok(moved)
            })
        })
        .await;
    let Err(Failure::Refused(error)) = done else { return done };
    tracing::info!(%error, run = %run, by = what.1.by, "a run was not cancelled");
    runtime
        .write(move |tx| {
            let (what, reason) = (what.clone(), error.reason.to_string());
            Box::pin(async move {
                let (place, request) = &*what;
                let moved = cursor::advance(&mut *tx, epoch, place.sequence, &place.token).await?;
                if moved == Move::Moved {
                    audit::insert(tx, &asked(request, Decision::Refused, reason)).await?;
                }
                Ok(moved)
            })
        })
        .await
}

fn asked(request: &CancelRequest, decision: Decision, result: String) -> audit::Entry {
    audit::Entry {
        who: request.by.clone(),
        what: "FailoverService/CancelRun",
        target: request.job.to_resource(),
        decision,
        result,
        why: "asked for at job-tracker, as an operation".to_owned(),
    }
}

fn has_ended(task: &Task) -> bool {
    !matches!(task.state, TaskState::Queued | TaskState::Leased)
}

/// Tells runs and corrections the ends of their tasks.
async fn tell_all(tx: &mut PgConnection, tasks: impl Iterator<Item = &Task>) -> Result<(), Failure> {
    let mut of_jobs: BTreeMap<RunId, Vec<&Task>> = BTreeMap::new();
    for task in tasks {
        of_jobs.entry(task.job).or_default().push(task);
    }
    for (job, tasks) in of_jobs {
        tell(&mut *tx, job, &tasks).await?;
    }
    Ok(())
}

/// Tells the run, or the correction, that the tasks belong to. A job of neither kind is nothing to us.
async fn tell(tx: &mut PgConnection, job: RunId, tasks: &[&Task]) -> Result<(), Failure> {
    let at = now();
    let (tasks, events): (Vec<&Task>, Vec<Event>) =
        tasks.iter().filter_map(|task| Some((*task, task::event(task, at)?))).unzip();
    if events.is_empty() {
        return Ok(());
    }
    if let Some(run) = apply::deliver_all(&mut *tx, job, &events).await? {
        for task in tasks {
            let item = run.step_of_task(&task.key).and_then(|step| step.item.as_ref());
            if let Some((item, png)) = item.zip(task::screenshot(task)) {
                screenshots::keep(&mut *tx, run.id, item, &png).await?;
            }
        }
        return Ok(());
    }
    for task in tasks {
        if let Some(reason) = corrections::ended(&mut *tx, job).await? {
            outbox::insert(&mut *tx, job, &[Message::Update(Box::new(ended(task, reason)))]).await?;
        } else if scrub::is_ours(task) {
            let phase = "recovery points read again".to_owned();
            outbox::insert(&mut *tx, job, &[Message::Update(Box::new(ended(task, phase)))]).await?;
        }
    }
    Ok(())
}

/// The end of a job that is no run.
fn ended(task: &Task, reason: String) -> JobView {
    let succeeded = task.state == TaskState::Succeeded;
    JobView {
        sequence: 2,
        state: if succeeded { JobState::Succeeded } else { JobState::Failed },
        phase: reason,
        waiting_for: String::new(),
        allowed_actions: Vec::new(),
        problems: task.error.iter().filter(|_| !succeeded).cloned().collect(),
        progress_percent: 100,
        report: None,
    }
}

/// Events are missing: reads the tasks of all open runs instead, and follows from the oldest event that is kept.
async fn start_over(runtime: &Runtime, epoch: i64) -> Result<(), Failure> {
    tracing::warn!(
        "job-tracker no longer has the events after our token; comparing open runs with their jobs"
    );
    runtime.write(move |tx| Box::pin(cursor::start_over(tx, epoch))).await?;
    for run in runs::open(&mut *runtime.reader().await?).await? {
        if let Err(error) = compare(runtime, run.id).await {
            tracing::warn!(%error, run = %run.id, "a run could not be compared with its job");
        }
    }
    Ok(())
}

/// Tells a run the ends of all its tasks, as its job has them. What it knows already changes nothing.
pub(super) async fn compare(runtime: &Runtime, run: RunId) -> Result<(), ApiError> {
    let mut page = None;
    loop {
        let tasks = runtime.0.jobs.list_tasks(run, PAGE, page).await?;
        let ended: Arc<Vec<Task>> = Arc::new(tasks.items.into_iter().filter(has_ended).collect());
        runtime
            .write(move |tx| {
                let ended = ended.clone();
                Box::pin(async move { tell_all(tx, ended.iter()).await })
            })
            .await?;
        match tasks.next {
            Some(next) => page = Some(next),
            None => return Ok(()),
        }
    }
}
