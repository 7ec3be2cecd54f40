//! `WorkerService`.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    pin::Pin,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use understudy_ids::Problem;
use understudy_jobs_api::{
    Invalid, Queue, convert,
    v1::{self, worker_service_server::WorkerService},
};
use understudy_rpc::{ApiError, peer};
use understudy_types_api::duration_to_wire;

use super::error::invalid;
use crate::runtime::{Credits, Runtime, Session};

/// Leased tasks on their way into the transport. Small, because what is lost here is leased again only after its lease.
const UNDER_WAY: usize = 4;

pub struct Workers(pub Runtime);

#[async_trait]
impl WorkerService for Workers {
    type LeaseTasksStream = Pin<Box<dyn Stream<Item = Result<v1::LeasedTask, Status>> + Send>>;

    async fn lease_tasks(
        &self,
        request: Request<Streaming<v1::LeaseTasksRequest>>,
    ) -> Result<Response<Self::LeaseTasksStream>, Status> {
        let caller = peer(&request)?.clone();
        let mut demands = request.into_inner();
        let first = demands.message().await?.unwrap_or_default();
        let first = convert::lease_demand_from_wire(first, true).map_err(invalid)?;
        let queue = first.queue.ok_or_else(|| invalid(no_queue()))?;
        let session = self.0.session(&caller, queue.clone()).map_err(ApiError::from)?;
        session.credits().add(first.credits);
        tracing::info!(%caller, %queue, "worker's session opened");
        let (tasks, given) = mpsc::channel(UNDER_WAY);
        tokio::spawn(serve(self.0.clone(), session, queue, demands, tasks).in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(given))))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let caller = peer(&request)?.clone();
        let (task, attempt, progress) =
            convert::heartbeat_from_wire(request.into_inner()).map_err(invalid)?;
        let (term, cancel_requested) =
            self.0.heartbeat(&caller, task, attempt, progress).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::HeartbeatResponse { lease: Some(duration_to_wire(term)), cancel_requested }))
    }

    async fn complete_task(
        &self,
        request: Request<v1::CompleteTaskRequest>,
    ) -> Result<Response<v1::CompleteTaskResponse>, Status> {
        let caller = peer(&request)?.clone();
        let completion = convert::completion_from_wire(request.into_inner()).map_err(invalid)?;
        let task = self.0.complete(&caller, completion, random()).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::CompleteTaskResponse { task: Some(convert::task_to_wire(task)) }))
    }
}

fn no_queue() -> Invalid {
    let remedy = "Name the queue in the first message.";
    Invalid { problems: vec![Problem::new("REQUIRED", "queue", "is missing", remedy)] }
}

/// Serves one session until the worker leaves, does something that is not allowed, or the process is to end.
async fn serve(
    runtime: Runtime,
    mut session: Session,
    queue: Queue,
    demands: Streaming<v1::LeaseTasksRequest>,
    tasks: mpsc::Sender<Result<v1::LeasedTask, Status>>,
) {
    let credits = session.credits();
    let ended = tokio::select! {
        ended = give(&mut session, &tasks) => ended,
        ended = take_demands(demands, &credits) => ended,
        () = tasks.closed() => Ok(()),
        () = runtime.shutdown().cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::info!(%queue, %error, "worker's session ended");
        // The worker may have left already.
        let _ = tasks.send(Err(error.into())).await;
    }
}

async fn give(
    session: &mut Session,
    tasks: &mpsc::Sender<Result<v1::LeasedTask, Status>>,
) -> Result<(), ApiError> {
    loop {
        for task in session.next().await? {
            if tasks.send(Ok(convert::leased_to_wire(task))).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn take_demands(
    mut demands: Streaming<v1::LeaseTasksRequest>,
    credits: &Credits,
) -> Result<(), ApiError> {
    while let Some(demand) = demands.next().await {
        let demand = convert::lease_demand_from_wire(demand?, false).map_err(invalid)?;
        credits.add(demand.credits);
    }
    // A worker that says nothing more may still take what it has asked for.
    std::future::pending().await
}

/// Spreads retries; nothing else depends on it.
fn random() -> u32 {
    u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0)
}
