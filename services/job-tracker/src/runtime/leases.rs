//! What workers do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use understudy_ids::{Problem, TaskId};
use understudy_jobs::{RETRY_TASK, TaskEvent, TaskState, next_task_state, retried};
use understudy_jobs_api::{
    Change, LeasedTask, Outcome, Progress, Queue, Task, TaskName, convert::Completion,
};
use understudy_pg::PgConnection;
use understudy_rpc::Identity;

use super::{
    Error, Result, Runtime,
    group::{Answers, Together},
};
use crate::store::{
    self,
    audit::Entry,
    task::{Digest, Held, Settlement},
};

/// One worker's stream of tasks.
pub struct Session {
    runtime: Runtime,
    queue: Queue,
    worker: String,
    woken: watch::Receiver<u64>,
    credits: Credits,
}

/// How many more tasks the worker of a session takes.
#[derive(Clone)]
pub struct Credits(Arc<Semaphore>);

impl Credits {
    /// Credits beyond what a session can pile up are dropped.
    pub fn add(&self, credits: u32) {
        let room = MAX_CREDITS.saturating_sub(self.0.available_permits());
        self.0.add_permits(room.min(usize::try_from(credits).unwrap_or(usize::MAX)));
    }
}

impl Session {
    /// To add credits while the session waits.
    pub fn credits(&self) -> Credits {
        self.credits.clone()
    }

    /// Waits until there are credits and tasks for them. Must not be dropped while the worker lives: what was leased would not reach
    /// it, and be leased again only when the lease is over.
    pub async fn next(&mut self) -> Result<Vec<LeasedTask>> {
        let credits = Arc::clone(&self.credits.0);
        // Never closed.
        let first = credits.acquire().await.ok();
        loop {
            let limit = MAX_BATCH.min(credits.available_permits() + 1);
            let leased =
                self.runtime.lease(&self.queue, &self.worker, u32::try_from(limit).unwrap_or(1)).await?;
            if let Some(rest) = leased.len().checked_sub(1) {
                first.into_iter().for_each(SemaphorePermit::forget);
                credits.forget_permits(rest);
                return Ok(leased);
            }
            // Every wake-up is followed by a look; the sender lives as long as the runtime that this session holds.
            let _ = self.woken.changed().await;
        }
    }
}

/// Credits that a session can pile up.
const MAX_CREDITS: usize = 10_000;
/// Tasks that are leased in one transaction: with payloads of up to a MiB each, more would take too much memory.
const MAX_BATCH: usize = 20;

impl Runtime {
    /// Opens a worker's session.
    ///
    /// # Errors
    /// `NotWorker` when the queue belongs to another identity.
    pub fn session(&self, caller: &Identity, queue: Queue) -> Result<Session> {
        if queue.owner() != *caller {
            return Err(Error::NotWorker { queue });
        }
        let woken = self.0.tasks.subscribe();
        let credits = Credits(Arc::new(Semaphore::new(0)));
        Ok(Session { runtime: self.clone(), queue, worker: caller.to_string(), woken, credits })
    }

    async fn lease(&self, queue: &Queue, worker: &str, limit: u32) -> Result<Vec<LeasedTask>> {
        if !store::task::any_due(self.pool().reader(), queue).await? {
            return Ok(Vec::new());
        }
        let (queue, worker, term) = (queue.clone(), worker.to_owned(), self.0.term.span());
        let label = queue.to_string();
        let leased = self
            .pool()
            .write::<_, Error, _>(move |db| {
                let (queue, worker) = (queue.clone(), worker.clone());
                async move {
                    let leased = store::task::lease(db, &queue, &worker, limit, term).await?;
                    let changes = leased.iter().map(|l| Change::Task(Box::new(l.task.clone()))).collect();
                    store::event::append(db, changes).await?;
                    Ok(leased)
                }
                .boxed()
            })
            .await?;
        for one in &leased {
            metrics::histogram!("understudy_job_tracker_lease_wait_seconds", "queue" => label.clone())
                .record(one.waited.as_secs_f64());
        }
        Ok(leased.into_iter().map(|l| l.given).collect())
    }

    /// Extends a lease and records progress. Tells the new term and whether the owner wants the task to end.
    pub async fn heartbeat(
        &self,
        caller: &Identity,
        name: TaskName,
        attempt: u32,
        progress: Progress,
    ) -> Result<(Duration, bool)> {
        let (caller, term) = (caller.clone(), self.0.term.span());
        self.pool()
            .write(move |db| {
                let (caller, progress) = (caller.clone(), progress.clone());
                async move { renew(db, &caller, name, attempt, &progress, term).await }.boxed()
            })
            .await
    }

    /// Ends an attempt. The same completion again is accepted and changes nothing.
    pub async fn complete(&self, caller: &Identity, completion: Completion, jitter: u32) -> Result<Task> {
        let digest = digest(&completion.outcome);
        self.0.completions.ask(Completing { caller: caller.clone(), completion, digest, jitter }).await
    }
}

async fn held_by(db: &mut PgConnection, caller: &Identity, name: TaskName) -> Result<Held> {
    let held = store::task::lock(db, &[name]).await?.pop().ok_or(Error::NoTask(name))?;
    owned(held, caller)
}

fn owned(held: Held, caller: &Identity) -> Result<Held> {
    if held.task.queue.owner() == *caller {
        Ok(held)
    } else {
        Err(Error::NotWorker { queue: held.task.queue })
    }
}

async fn renew(
    db: &mut PgConnection,
    caller: &Identity,
    name: TaskName,
    attempt: u32,
    progress: &Progress,
    term: Duration,
) -> Result<(Duration, bool)> {
    let held = held_by(db, caller, name).await?;
    let Some(task) = store::task::renew(db, name, attempt, progress, term).await? else {
        return Err(Error::LeaseLost { task: name, attempt });
    };
    let before = (held.task.progress_percent, &held.task.progress_text);
    if before != (task.progress_percent, &task.progress_text) {
        store::event::append(db, vec![Change::Task(Box::new(task))]).await?;
    }
    Ok((term, held.cancel_requested))
}

/// A completion by `caller`.
pub struct Completing {
    caller: Identity,
    completion: Completion,
    digest: Digest,
    /// Spreads retries.
    jitter: u32,
}

impl Together for Completing {
    type Key = TaskId;
    type Answer = Task;

    fn key(&self) -> TaskId {
        self.completion.task.task
    }

    fn size(&self) -> usize {
        1000 + match &self.completion.outcome {
            Outcome::Succeeded(any) => any.value.len(),
            Outcome::Failed(problem) | Outcome::Unknown(problem) | Outcome::Retry(problem) => {
                problem.message.len() + problem.remedy.len()
            }
        }
    }

    fn all<'t>(asked: &'t [Self], db: &'t mut PgConnection) -> BoxFuture<'t, Result<Answers<Self>>> {
        complete_all(db, asked).boxed()
    }
}

/// What becomes of a completion.
enum Decided {
    /// It is the one that ended the attempt, once more.
    Repeated(Box<Task>),
    Settled(Settlement),
}

async fn complete_all(db: &mut PgConnection, asked: &[Completing]) -> Result<Answers<Completing>> {
    let names: Vec<TaskName> = asked.iter().map(|a| a.completion.task).collect();
    let mut held: HashMap<TaskId, Held> =
        store::task::lock(db, &names).await?.into_iter().map(|held| (held.task.id, held)).collect();
    let (mut decided, mut settled, mut callers) = (Vec::new(), Vec::new(), HashMap::new());
    for one in asked {
        let name = one.completion.task;
        decided.push(match decide(one, held.remove(&name.task)) {
            Ok(Decided::Settled(settlement)) => {
                settled.push((name, one.completion.attempt, settlement));
                callers.insert(name.task, &one.caller);
                None
            }
            Ok(Decided::Repeated(task)) => Some(Ok(*task)),
            Err(refused) => Some(Err(refused)),
        });
    }
    let tasks = store::task::settle(db, &settled).await?;
    let entry = |task: &Task| {
        let caller = callers.get(&task.id).map(ToString::to_string).unwrap_or_default();
        let entry = Entry { caller, method: "CompleteTask", subject: task.name().to_string() };
        (entry, task.state.as_str().to_owned())
    };
    if !tasks.is_empty() {
        store::audit::insert(db, &tasks.iter().map(entry).collect::<Vec<_>>()).await?;
        let changes = tasks.iter().map(|task| Change::Task(Box::new(task.clone()))).collect();
        store::event::append(db, changes).await?;
    }
    // Whoever completes a task knows its result.
    let mut tasks: HashMap<TaskId, Task> =
        tasks.into_iter().map(|task| (task.id, Task { result: None, ..task })).collect();
    let answers = asked.iter().zip(decided).map(|(one, answer)| {
        let Completion { task: name, attempt, .. } = one.completion;
        let settled = |task: Option<Task>| task.ok_or(Error::LeaseLost { task: name, attempt });
        answer.unwrap_or_else(|| settled(tasks.remove(&name.task)))
    });
    Ok(answers.collect())
}

fn decide(asked: &Completing, held: Option<Held>) -> Result<Decided> {
    let Completing { caller, completion, digest, jitter } = asked;
    let Completion { task: name, attempt, outcome } = completion;
    let held = owned(held.ok_or(Error::NoTask(*name))?, caller)?;
    if held.task.attempt == *attempt && held.outcome_digest == Some(*digest) {
        return Ok(Decided::Repeated(Box::new(held.task)));
    }
    if held.task.attempt != *attempt || held.task.state != TaskState::Leased {
        return Err(Error::LeaseLost { task: *name, attempt: *attempt });
    }
    Ok(Decided::Settled(settlement(&held, outcome, *digest, *jitter)?))
}

/// What an outcome means for the task, by the table of transitions.
fn settlement(held: &Held, outcome: &Outcome, digest: Digest, jitter: u32) -> Result<Settlement> {
    let task = &held.task;
    let (event, result, error) = match outcome.clone() {
        Outcome::Succeeded(result) => (TaskEvent::Succeed, Some(result), None),
        Outcome::Failed(problem) => (TaskEvent::Fail, None, Some(problem)),
        Outcome::Unknown(problem) => (TaskEvent::LoseTrack, None, Some(problem)),
        Outcome::Retry(problem) => {
            (retried(task.attempt, task.max_attempts, held.cancel_requested), None, Some(problem))
        }
    };
    let state = next_task_state(task.state, event)
        .map_err(|cause| Error::TaskTransition { task: task.name(), cause })?;
    let delay = RETRY_TASK.delay(task.attempt, jitter);
    Ok(Settlement { state, result, error, outcome_digest: Some(digest), delay })
}

fn digest(outcome: &Outcome) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let mut problem = |kind: &str, p: &Problem| {
        [kind, &p.reason, &p.subject, &p.message, &p.remedy].into_iter().for_each(|t| part(t.as_bytes()));
    };
    match outcome {
        Outcome::Failed(p) => problem("failed", p),
        Outcome::Unknown(p) => problem("unknown", p),
        Outcome::Retry(p) => problem("retry", p),
        Outcome::Succeeded(any) => {
            [b"succeeded".as_slice(), any.type_url.as_bytes(), &any.value].into_iter().for_each(part);
        }
    }
    *hasher.finalize().as_bytes()
}
