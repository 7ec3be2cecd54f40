//! What the orchestrator's runs ask for through job-tracker: hold addresses and let go of them, set names and restore them.
//!
//! ```text
//!   leased task ─▶ ReserveAddresses ─▶ all addresses and test networks of the run on record, or none │ ADDRESS_TAKEN
//!               ─▶ ReleaseRun       ─▶ nothing of the run on record, and none will be again
//!               ─▶ SetRecords, RestoreRecords ─▶ see `records`
//!               ─▶ CallHook         ─▶ see `hooks`
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use understudy_ids::{Problem, RunId};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_network_api::{
    NetworkAction, NetworkTask, NetworkTaskResult, ReservedNic, ReservedTestNetwork,
};
use understudy_pg::{PgConnection, Pool};
use understudy_rpc::{ApiError, Kind};

use crate::{
    dns::Servers,
    hooks::Hooks,
    records::Records,
    store::{
        StoreError,
        address_lease::{self, Taken},
        record_change, released_run, test_network,
    },
};

pub struct Tasks {
    pool: Pool,
    records: Records,
    hooks: Hooks,
}

impl Tasks {
    pub fn new(pool: Pool, servers: Servers, hooks: Hooks) -> Self {
        Self { records: Records::new(pool.clone(), servers), pool, hooks }
    }

    async fn perform(&self, task: NetworkTask) -> Result<NetworkTaskResult, StoreError> {
        let NetworkTask { run, action } = task;
        match action {
            NetworkAction::ReserveAddresses { test, nics, test_networks } => {
                let asked = Arc::new((nics, test_networks));
                self.pool
                    .write(move |tx| {
                        let asked = Arc::clone(&asked);
                        Box::pin(async move {
                            released_run::lock(tx, run).await?;
                            reserve(tx, run, test, &asked.0, &asked.1).await
                        })
                    })
                    .await
            }
            NetworkAction::ReleaseRun => {
                self.pool
                    .write(move |tx| {
                        Box::pin(async move {
                            released_run::lock(tx, run).await?;
                            release(tx, run).await
                        })
                    })
                    .await
            }
            NetworkAction::SetRecords { item, test, records } => {
                self.records.set(run, &item, test, &records).await.map(NetworkTaskResult::Records)
            }
            NetworkAction::RestoreRecords { item } => {
                self.records.restore(run, &item).await.map(NetworkTaskResult::Records)
            }
            NetworkAction::CallHook(change) => {
                let status = self.hooks.call(run, &change).await.map_err(ApiError::from)?;
                Ok(NetworkTaskResult::HookCalled { status })
            }
        }
    }
}

#[async_trait]
impl Handler for Tasks {
    async fn handle(&self, task: LeasedTask, _context: TaskContext) -> Outcome {
        let read = match NetworkTask::from_payload(&task.payload) {
            Ok(read) => read,
            Err(error) => {
                return Outcome::Failed(Problem::new(
                    "MALFORMED_TASK",
                    task.name.to_string(),
                    error.to_string(),
                    "Bring orchestrator and network-mapper to the same version.",
                ));
            }
        };
        match self.perform(read).await {
            Ok(result) => Outcome::Succeeded(result.to_payload()),
            // Doing it again finds done what was done.
            Err(StoreError::Refused(refusal)) if refusal.kind == Kind::Unavailable => {
                Outcome::Retry(problem(&task, &refusal))
            }
            Err(StoreError::Refused(refusal)) => Outcome::Failed(problem(&task, &refusal)),
            // Doing it again is safe whether or not the transaction was committed.
            Err(StoreError::Database(error)) => Outcome::Retry(problem(&task, &error.into())),
        }
    }
}

fn problem(task: &LeasedTask, error: &ApiError) -> Problem {
    Problem::new(error.reason.as_ref(), task.name.to_string(), error.message.as_str(), error.remedy.as_str())
}

async fn reserve(
    tx: &mut PgConnection,
    run: RunId,
    test: bool,
    nics: &[ReservedNic],
    networks: &[ReservedTestNetwork],
) -> Result<NetworkTaskResult, StoreError> {
    if released_run::contains(tx, run).await? {
        return Err(ApiError::failed_precondition(
            "RUN_RELEASED",
            format!("run {run} has released its addresses already"),
            "nothing needs to be done: a late attempt of an old task",
        )
        .into());
    }
    let mut taken = Vec::new();
    for nic in nics {
        match address_lease::take(tx, run, test, nic).await? {
            None | Some(Taken::Ours) => {}
            Some(Taken::By { run, item }) => {
                taken.push(format!("{} on {} is held by {item} in run {run}", nic.address, nic.network));
            }
        }
    }
    if !taken.is_empty() {
        return Err(ApiError::failed_precondition(
            "ADDRESS_TAKEN",
            taken.join("; "),
            "let that run end, or preview this one again to get other addresses",
        )
        .into());
    }
    for network in networks {
        test_network::insert(tx, run, network).await?;
    }
    Ok(NetworkTaskResult::Reserved)
}

async fn release(tx: &mut PgConnection, run: RunId) -> Result<NetworkTaskResult, StoreError> {
    released_run::insert(tx, run).await?;
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let addresses = count(address_lease::release(tx, run).await?);
    let test_networks = count(test_network::release(tx, run).await?);
    record_change::release(tx, run).await?;
    Ok(NetworkTaskResult::Released { addresses, test_networks })
}
