//! The worker's side of job-tracker: a loop that leases tasks, runs them, and tells what came of them.
//!
//! ```text
//!   connect ──credits──▶ leased task ──▶ attempt: handler ∥ heartbeats ──▶ complete ──▶ credit
//!      ▲                                    │ LEASE_LOST, cancel: handler is told to stop
//!      └── back off, for ever ◀── broken ── (attempts go on without the session)
//! ```
//!
//! Promises (R-JOB-3, invariants 3, 13, 14 and 16):
//! * At most `slots` attempts run at once, and never two of the same task.
//! * job-tracker may be away for any time: attempts run on, and their outcome is delivered when it is back – unless it has given the
//!   task to another worker meanwhile. Safety does not rest on this worker noticing: completion is fenced by the attempt.
//! * A handler that panics or is cut off has an *unknown* outcome, never a failed one.

mod attempt;
mod context;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use understudy_rpc::{
    ApiError, Channel,
    retry::{BackOff, jitter},
};

use crate::{
    check::not_understood,
    convert,
    model::{LeasedTask, Outcome},
    name::{Queue, TaskName},
    v1::{self, worker_service_client::WorkerServiceClient},
};

use attempt::Attempt;
use context::Stopper;
pub use context::{Stop, TaskContext};

/// Time that attempts have to end after the worker was told to shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Demands under way to job-tracker. More slots than this may become free at once; their credits are added up.
const DEMANDS: usize = 4;

/// Does what tasks ask for.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Does one thing, so that doing it again changes nothing: a task may be handed out more than once, with rising attempts.
    ///
    /// When [`TaskContext::stopped`] is cancelled, the handler should undo or finish and return soon.
    async fn handle(&self, task: LeasedTask, context: TaskContext) -> Outcome;
}

/// A connection over which tasks are leased.
#[derive(Debug, Clone)]
pub struct Worker {
    client: WorkerServiceClient<Channel>,
}

impl Worker {
    pub fn new(channel: Channel) -> Self {
        Self { client: WorkerServiceClient::new(channel) }
    }

    /// Serves `queue` with up to `slots` attempts at once until `shutdown`. Attempts that run then are told to stop and have ten
    /// seconds; what has not ended by then is dropped, and leased again when its lease is over.
    pub async fn run(
        &self,
        queue: Queue,
        slots: u32,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) {
        let mut pool = Pool::new(self.client.clone(), slots, handler);
        let mut failures = 0;
        while !shutdown.is_cancelled() {
            let ended = self.session(&queue, &mut pool, &mut failures, &shutdown).await;
            let Err(error) = ended else { break };
            let delay = BackOff::DEFAULT.delay(failures, jitter());
            failures = failures.saturating_add(1);
            tracing::warn!(%queue, %error, ?delay, running = pool.running(), "no session with job-tracker, trying again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.cancelled() => {}
            }
        }
        pool.shut_down().await;
    }

    /// Opens one session and serves it until it breaks (an error) or `shutdown`.
    async fn session(
        &self,
        queue: &Queue,
        pool: &mut Pool,
        failures: &mut u32,
        shutdown: &CancellationToken,
    ) -> Result<(), ApiError> {
        let (demands, demanded) = mpsc::channel(DEMANDS);
        let first = v1::LeaseTasksRequest { queue: queue.to_string(), credits: pool.free() };
        // The channel is new, so there is room.
        let _ = demands.try_send(first);
        let mut client = self.client.clone();
        let open = client.lease_tasks(ReceiverStream::new(demanded));
        let mut tasks = tokio::select! {
            opened = open => opened?.into_inner(),
            () = shutdown.cancelled() => return Ok(()),
        };
        let mut unsent = 0;
        loop {
            if unsent > 0 {
                let more = v1::LeaseTasksRequest { queue: String::new(), credits: unsent };
                if demands.try_send(more).is_ok() {
                    unsent = 0;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = pool.one_ended(), if pool.running() > 0 => unsent += 1,
                message = tasks.next() => {
                    let message = message.ok_or_else(session_ended)??;
                    *failures = 0;
                    pool.start(convert::leased_from_wire(message).map_err(not_understood)?);
                }
            }
        }
    }
}

fn session_ended() -> ApiError {
    ApiError::unavailable("SESSION_ENDED", "job-tracker ended the session", "it will be opened again")
}

/// The attempts that run.
struct Pool {
    client: WorkerServiceClient<Channel>,
    slots: u32,
    handler: Arc<dyn Handler>,
    attempts: JoinSet<()>,
    /// By task: the attempt's number in the set, its fence, and the way to stop it.
    running: HashMap<TaskName, Running>,
}

struct Running {
    id: Id,
    stopper: Stopper,
    ended: CancellationToken,
}

impl Pool {
    fn new(client: WorkerServiceClient<Channel>, slots: u32, handler: Arc<dyn Handler>) -> Self {
        Self { client, slots: slots.max(1), handler, attempts: JoinSet::new(), running: HashMap::new() }
    }

    fn running(&self) -> usize {
        self.attempts.len()
    }

    fn free(&self) -> u32 {
        self.slots.saturating_sub(u32::try_from(self.running()).unwrap_or(u32::MAX))
    }

    /// Starts an attempt. An earlier attempt of the same task has lost its lease: it is told so, and waited for.
    fn start(&mut self, task: LeasedTask) {
        let name = task.name;
        let earlier = self.running.remove(&name).map(|earlier| {
            earlier.stopper.stop(Stop::LeaseLost);
            earlier.ended
        });
        let ended = CancellationToken::new();
        let stopper = Stopper::default();
        let attempt = Attempt {
            client: self.client.clone(),
            handler: Arc::clone(&self.handler),
            task,
            stopper: stopper.clone(),
        };
        let guard = ended.clone().drop_guard();
        let id = self.attempts.spawn(async move {
            let _ended = guard;
            if let Some(earlier) = earlier {
                earlier.cancelled().await;
            }
            attempt.run().await;
        });
        self.running.insert(name, Running { id: id.id(), stopper, ended });
    }

    /// Waits until an attempt has ended. Must be called only while one runs.
    async fn one_ended(&mut self) {
        let id = match self.attempts.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return,
        };
        self.running.retain(|_, running| running.id != id);
    }

    async fn shut_down(mut self) {
        for running in self.running.values() {
            running.stopper.stop(Stop::ShuttingDown);
        }
        let all = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, all).await.is_err() {
            tracing::warn!(
                left = self.attempts.len(),
                "attempts did not end in time; their leases will expire"
            );
        }
        self.attempts.shutdown().await;
    }
}
