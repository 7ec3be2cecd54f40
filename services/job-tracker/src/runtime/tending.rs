//! What every instance does in the background. Several may do it at once: rows that one is looking at are passed over by the others.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;
use understudy_ids::Problem;
use understudy_jobs::{TaskState, expired, next_task_state};
use understudy_jobs_api::{Change, Task};
use understudy_pg::PgConnection;

use super::{Error, Result, Runtime};
use crate::{
    config::History,
    store::{
        self,
        task::{Held, Settlement},
    },
};

/// Expired leases, old jobs or old events that one transaction takes on.
const BATCH: i64 = 50;
const PURGE_BATCH: i64 = 500;
const PURGE_INTERVAL: Duration = Duration::from_secs(600);
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Puts tasks whose worker has fallen silent back into the queue, or ends them as unknown.
///
/// After a start, and whenever the database was away, it waits for one term first: workers could not renew meanwhile.
pub async fn expire_leases(runtime: Runtime) {
    let term = runtime.0.term.span();
    let mut rest = term;
    loop {
        tokio::select! {
            () = sleep(rest) => {}
            () = runtime.0.shutdown.cancelled() => return,
        }
        rest = match runtime.expire_some().await {
            Ok(0) => (term / 4).min(Duration::from_secs(1)).max(runtime.0.poll / 10),
            Ok(_) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "expired leases could not be looked at");
                term
            }
        };
    }
}

/// Deletes history that is older than its retention.
pub async fn purge_history(runtime: Runtime, history: History) {
    let mut rest = Duration::ZERO;
    loop {
        tokio::select! {
            () = sleep(rest) => {}
            () = runtime.0.shutdown.cancelled() => return,
        }
        rest = match runtime.purge_some(history.retention_days).await {
            Ok(0) => PURGE_INTERVAL,
            // More may be left, and others need the database as well.
            Ok(_) => runtime.0.poll,
            Err(error) => {
                tracing::warn!(%error, "old history could not be deleted");
                PURGE_INTERVAL
            }
        };
    }
}

/// Keeps the gauges of queue depths up to date.
pub async fn measure(runtime: Runtime) {
    let mut known: Vec<String> = Vec::new();
    loop {
        match store::task::depths(runtime.pool().reader()).await {
            Ok(depths) => {
                // A queue that has become empty is not in the answer any more.
                for queue in known.iter().filter(|q| !depths.iter().any(|d| d.queue == **q)) {
                    gauge(queue, 0, 0);
                }
                depths.iter().for_each(|d| gauge(&d.queue, d.queued, d.leased));
                known = depths.into_iter().map(|d| d.queue).collect();
            }
            Err(error) => tracing::debug!(%error, "queue depths could not be read"),
        }
        tokio::select! {
            () = sleep(MEASURE_INTERVAL) => {}
            () = runtime.0.shutdown.cancelled() => return,
        }
    }
}

fn gauge(queue: &str, queued: i64, leased: i64) {
    for (state, count) in [("queued", queued), ("leased", leased)] {
        // Counts of rows are far below what a float holds exactly.
        metrics::gauge!("understudy_job_tracker_tasks", "queue" => queue.to_owned(), "state" => state)
            .set(count as f64);
    }
}

impl Runtime {
    async fn expire_some(&self) -> Result<usize> {
        let settled = self.pool().write(move |db| expire(db).boxed()).await?;
        for task in &settled {
            tracing::warn!(task = %task.name(), attempt = task.attempt, now = %task.state, "lease expired");
            metrics::counter!("understudy_job_tracker_expired_leases_total", "queue" => task.queue.to_string())
                .increment(1);
        }
        Ok(settled.len())
    }

    /// Deletes one batch of everything; returns how many rows.
    pub(crate) async fn purge_some(&self, days: u32) -> Result<u64> {
        self.pool()
            .write::<_, Error, _>(move |db| {
                async move {
                    let jobs = store::job::purge(db, days, PURGE_BATCH).await?;
                    let audit = store::audit::purge(db, days, PURGE_BATCH).await?;
                    // Last, because it holds up everybody who writes events.
                    let events = store::event::purge(db, days, PURGE_BATCH).await?;
                    Ok(jobs + audit + events)
                }
                .boxed()
            })
            .await
    }
}

async fn expire(db: &mut PgConnection) -> Result<Vec<Task>> {
    let expired = store::task::lock_expired(db, BATCH).await?;
    let settle = |held: &Held| Ok((held.task.name(), held.task.attempt, settlement(held)?));
    let settled: Vec<_> = expired.iter().map(settle).collect::<Result<_>>()?;
    let settled = store::task::settle(db, &settled).await?;
    let changes = settled.iter().cloned().map(|task| Change::Task(Box::new(task))).collect();
    store::event::append(db, changes).await?;
    Ok(settled)
}

/// What silence means for the task, by the table of transitions.
fn settlement(held: &Held) -> Result<Settlement> {
    let task = &held.task;
    let event = expired(task.attempt, task.max_attempts, held.cancel_requested);
    let state = next_task_state(task.state, event)
        .map_err(|cause| Error::TaskTransition { task: task.name(), cause })?;
    let worker = task.worker.as_deref().unwrap_or("the worker");
    let message = format!("{worker} fell silent during attempt {} of {}", task.attempt, task.max_attempts);
    let remedy = match state {
        TaskState::Queued => "It will be tried again.",
        _ => "Look at what the task acts on: it may or may not have happened.",
    };
    let problem = Problem::new("LEASE_EXPIRED", task.name().to_string(), message, remedy);
    Ok(Settlement { state, result: None, error: Some(problem), outcome_digest: None, delay: Duration::ZERO })
}
