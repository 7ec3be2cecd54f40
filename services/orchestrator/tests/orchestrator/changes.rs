//! Another recovery point and the way back before the commit (R-FO-4), with orchestrators that die in the middle.

use understudy_ids::{PointChoice, PointSeq, Uuid};
use understudy_jobs_api::JobState;
use understudy_recovery_api::{
    ItemState, Operation, RecoveryClient, RunState,
    request::{ChangeRun, RunChange},
    view::Run,
};
use understudy_replication_api::PowerState;
use understudy_rpc::{ApiError, Kind};

use crate::support::*;

const BACK: RunChange = RunChange::RollBack { give_up_writes: true };

fn to_point(seq: u64) -> RunChange {
    RunChange::Points([(item("web1"), PointChoice::Seq(PointSeq::new(seq)))].into())
}

/// Previews and does.
async fn change(client: &RecoveryClient, run: &Run, change: RunChange) -> Result<Run, ApiError> {
    let preview = client.preview_run_change(run.name, change.clone()).await?;
    assert_eq!(preview.problems, [], "the preview finds nothing against it");
    let request = ChangeRun { run: run.name, change, plan_digest: preview.digest, request_id: fresh() };
    client.change_run(request).await
}

async fn against(client: &RecoveryClient, run: &Run, change: RunChange) -> Vec<String> {
    let preview = client.preview_run_change(run.name, change).await.unwrap();
    preview.problems.into_iter().map(|problem| problem.reason).collect()
}

/// An unplanned failover of `web1` from the second of two points, waiting for its commit.
async fn unplanned(stage: &Stage, client: &RecoveryClient) -> Run {
    stage.introduce(client).await;
    protected(client, "web1").await;
    stage.estate.change(BRAVO, |facts| {
        let points = &mut facts.items[0].points;
        let second = understudy_replication_api::RecoveryPoint { seq: PointSeq::new(2), ..points[0].clone() };
        points.push(second);
    });
    eventually("both points are known", async || {
        client.get_item(&item("web1")).await.unwrap().latest_point == Some(PointSeq::new(2))
    })
    .await;
    let mut spec = spec(Operation::UnplannedFailover, &["web1"]);
    spec.primary_down_assertion = Some("alpha burnt down".into());
    let run = start(client, spec).await.unwrap();
    until(client, run.name, RunState::Waiting).await
}

/// Names what the run's plan is at the moment.
async fn plan_id(stage: &Stage, run: &Run) -> Uuid {
    let id = sqlx::query_scalar("SELECT plan_id FROM runs WHERE id = $1").bind(run.name);
    id.fetch_one(stage.database.pool().reader()).await.unwrap()
}

/// R-FO-4, R-JOB-3: in the middle of every step of it another orchestrator goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_point_is_made_to_run_whoever_dies_meanwhile() {
    let stage = Stage::set().await;
    let mut instance = stage.orchestrator().await;
    let run = unplanned(&stage, &instance.client).await;
    let phases = ["shut-down-machine", "set-aside", "promote-point", "start-machine", "drop-aside"];
    for what in phases {
        stage.estate.hold(what);
    }
    let planned = plan_id(&stage, &run).await;
    let changed = change(&instance.client, &run, to_point(1)).await.unwrap();
    assert_eq!(changed.allowed_actions, [""; 0], "nothing else meanwhile");
    let further = plan_id(&stage, &run).await;
    assert_ne!(further, planned, "who knows the plan of before would go on with it");
    assert_eq!(against(&instance.client, &run, BACK).await[0], "VERB_NOT_ALLOWED");
    for what in phases {
        eventually(&format!("{what} is under way"), async || stage.estate.is_waiting(what)).await;
        instance.crash();
        stage.estate.release(what);
        instance = stage.orchestrator().await;
    }
    let waiting = until(&instance.client, run.name, RunState::Waiting).await;
    assert_eq!(plan_id(&stage, &run).await, further, "the plan was written with a step");
    assert_eq!(waiting.outcomes[0].point, Some(PointSeq::new(1)));
    assert_eq!(waiting.changes[0].text, "web1 from recovery point 2 to 1");
    assert_eq!(stage.estate.machine(BRAVO, "web1").unwrap().power, PowerState::Running);
    let mut keys: Vec<_> = stage.estate.done(run.name).into_iter().map(|done| done.key).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all, "a step was done twice");
    instance.client.commit_run(verb(run.name)).await.unwrap();
    until(&instance.client, run.name, RunState::Succeeded).await;
    let web1 = in_state(&instance.client, "web1", ItemState::NotProtected).await;
    assert_eq!(web1.generation.get(), 2);
}

/// R-FO-2, R-FO-4, invariant 12: what is shown is what is done, once for a request, with one record; anything else is refused with why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_done_as_previewed_once_and_on_record() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    let run = unplanned(&stage, client).await;
    assert_eq!(against(client, &run, to_point(2)).await, ["POINT_IN_USE"]);
    assert_eq!(against(client, &run, to_point(9)).await, ["POINT_NOT_FOUND"]);
    let preview = client.preview_run_change(run.name, to_point(1)).await.unwrap();
    assert_eq!(preview.items[0].point, Some(PointSeq::new(1)));
    assert!(preview.items[0].expected_loss.is_some() && preview.items[0].gives_up.is_some());
    let outdated = ChangeRun {
        run: run.name,
        change: to_point(1),
        plan_digest: "another".to_owned(),
        request_id: fresh(),
    };
    let error = client.change_run(outdated).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (Kind::Aborted, "PLAN_CHANGED"));
    let request =
        ChangeRun { run: run.name, change: to_point(1), plan_digest: preview.digest, request_id: fresh() };
    client.change_run(request.clone()).await.unwrap();
    client.change_run(request.clone()).await.unwrap();
    let other = ChangeRun { change: BACK, ..request };
    assert_eq!(client.change_run(other).await.unwrap_err().reason, "REQUEST_ID_REUSED");
    let waiting = until(client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.changes.len(), 1);
    let records = client.list_audit_records(Default::default()).await.unwrap().entries;
    let of_change: Vec<_> = records
        .iter()
        .filter(|record| record.what == "FailoverService/ChangeRun")
        .map(|record| record.result.as_str())
        .collect();
    assert_eq!(of_change, ["REQUEST_ID_REUSED", "OK", "PLAN_CHANGED"]);
}

/// R-FO-4, R-FO-7, R-JOB-3: back at the old side at a higher generation, replicated as before, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_rolled_back_whoever_dies_meanwhile() {
    let stage = Stage::set().await;
    let mut instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    protected(&instance.client, "web1").await;
    let run = start(&instance.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    until(&instance.client, run.name, RunState::Waiting).await;
    assert_eq!(against(&instance.client, &run, to_point(1)).await, ["VERB_NOT_ALLOWED"]);
    let without = RunChange::RollBack { give_up_writes: false };
    assert_eq!(against(&instance.client, &run, without).await, ["WRITES_NOT_GIVEN_UP"]);
    let phases = [
        "shut-down-machine",
        "fence",
        "start-machine",
        "discard-promotion",
        "prepare-replica",
        "start-replication",
    ];
    for what in phases {
        stage.estate.hold(what);
    }
    change(&instance.client, &run, BACK).await.unwrap();
    for what in phases {
        eventually(&format!("{what} is under way"), async || stage.estate.is_waiting(what)).await;
        instance.crash();
        stage.estate.release(what);
        instance = stage.orchestrator().await;
    }
    let back = until(&instance.client, run.name, RunState::RolledBack).await;
    assert_eq!(back.changes[0].text, "rolled back: web1");
    let web1 = in_state(&instance.client, "web1", ItemState::Protected).await;
    assert_eq!((web1.generation.get(), web1.active_host.to_string().as_str()), (3, ALPHA));
    assert_eq!(stage.estate.machine(ALPHA, "web1").unwrap().power, PowerState::Running);
    assert!(stage.estate.machine(BRAVO, "web1").is_none());
    assert_eq!(stage.count("SELECT count(*) FROM holds").await, 0);
    eventually("the job has ended as well", async || {
        stage.jobs().get_job(run.name).await.unwrap().state == JobState::Cancelled
    })
    .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox").await, 0);

    // The item is as good as new.
    let again = start(&instance.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    until(&instance.client, again.name, RunState::Waiting).await;
}

/// R-FO-4, invariant 16: an old side that is not known to be whole is no side to go back to. Once it is heard and fenced, it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unplanned_failover_is_rolled_back_when_the_old_side_has_returned() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    let run = unplanned(&stage, client).await;
    eventually("the old side is fenced", async || against(client, &run, BACK).await.is_empty()).await;
    let machine = stage.estate.machine(ALPHA, "web1").unwrap();
    stage.estate.change(ALPHA, |facts| facts.machines.retain(|m| m.name != machine.name));
    eventually("the loss of the machine is noticed", async || {
        against(client, &run, BACK).await == ["OLD_MACHINE_GONE"]
    })
    .await;
    stage.estate.change(ALPHA, |facts| facts.machines.push(machine.clone()));
    eventually("it is back", async || against(client, &run, BACK).await.is_empty()).await;
    change(client, &run, BACK).await.unwrap();
    until(client, run.name, RunState::RolledBack).await;
    let web1 = in_state(client, "web1", ItemState::Protected).await;
    assert_eq!(web1.active_host.to_string(), ALPHA);
}
