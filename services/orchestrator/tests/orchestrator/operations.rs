//! R-JOB-1: a run as job-tracker's `google.longrunning.Operations` shows it, and its end asked for there.

use understudy_jobs_api::longrunning::{
    CancelOperationRequest, WaitOperationRequest, operation, operations_client::OperationsClient,
};
use understudy_recovery_api::{ItemState, Operation, RunState};

use crate::support::*;

/// While the orchestrator is away, an end is asked for twice: it does it once and refuses it once, each on record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_cancelled_as_an_operation() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    protected(&instance.client, "web1").await;
    stage.estate.fail("sync-final", 1);
    let run = start(&instance.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    until(&instance.client, run.name, RunState::Failed).await;
    let name = format!("jobs/{}", run.name);
    let mut operations = OperationsClient::new(stage.jobs_channel());
    let cancel = CancelOperationRequest { name: name.clone() };
    eventually("the job can be cancelled", async || {
        let job = stage.jobs().get_job(run.name).await.unwrap();
        job.allowed_actions.iter().any(|action| action == "cancel")
    })
    .await;
    instance.crash();
    for _ in 0..2 {
        operations.cancel_operation(cancel.clone()).await.unwrap();
    }

    let instance = stage.orchestrator().await;
    until(&instance.client, run.name, RunState::Cancelled).await;
    in_state(&instance.client, "web1", ItemState::Protected).await;
    let operation = loop {
        let request = WaitOperationRequest { name: name.clone(), timeout: None };
        let operation = operations.wait_operation(request).await.unwrap().into_inner();
        if operation.done {
            break operation;
        }
    };
    let Some(operation::Result::Error(status)) = operation.result else { panic!("it was cancelled") };
    assert_eq!(status.code, 1, "{status:?}");
    let audited =
        "SELECT count(*) FROM audit WHERE what = 'FailoverService/CancelRun' AND who LIKE '%user/ops'
                   AND (decision, result) IN (('allowed', 'OK'), ('refused', 'VERB_NOT_ALLOWED'))";
    eventually("both are on record", async || stage.count(audited).await == 2).await;
}
