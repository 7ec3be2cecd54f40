//! An orchestrator that dies loses nothing and does nothing twice (invariants 3 and 13).

use std::collections::BTreeMap;

use understudy_estate::Done;
use understudy_jobs_api::TaskState;
use understudy_recovery_api::{ItemState, Operation, RunState};

use crate::support::*;

/// Kills the orchestrator while each of these is under way on a host, and lets another go on.
const PHASES: [&str; 9] = [
    "shut-down-machine",
    "sync-final",
    "digest-disks",
    "stop-replication",
    "fence",
    "promote-point",
    "start-machine",
    "adopt-disks",
    "start-replication",
];

fn times(done: &[Done]) -> BTreeMap<&str, usize> {
    let mut times = BTreeMap::new();
    for done in done {
        *times.entry(done.key.as_str()).or_default() += 1;
    }
    times
}

/// R-JOB-3: killed in the middle of every phase of a planned failover, the run goes on at its step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_survives_a_crash_in_every_phase() {
    let stage = Stage::set().await;
    let mut instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    protected(&instance.client, "web1").await;
    for what in PHASES {
        stage.estate.hold(what);
    }
    let run = start(&instance.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    for what in PHASES {
        if what == "adopt-disks" {
            until(&instance.client, run.name, RunState::Waiting).await;
            instance.client.commit_run(verb(run.name)).await.unwrap();
        }
        eventually(&format!("{what} is under way"), async || stage.estate.is_waiting(what)).await;
        instance.crash();
        // What ends while nobody listens is learnt from job-tracker afterwards.
        stage.estate.release(what);
        instance = stage.orchestrator().await;
    }
    until(&instance.client, run.name, RunState::Succeeded).await;
    let web1 = in_state(&instance.client, "web1", ItemState::Protected).await;
    assert_eq!((web1.generation.get(), web1.active_host.to_string().as_str()), (2, BRAVO));
    let done = stage.estate.done(run.name);
    assert!(done.len() >= PHASES.len(), "{done:?}");
    assert!(times(&done).values().all(|times| *times == 1), "done twice: {done:?}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM holds").await, 0);
}

/// Two instances work on the same database at once; one of them dies; every effect happens once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_the_work_and_one_may_die() {
    let stage = Stage::set().await;
    let (first, second) = (stage.orchestrator().await, stage.orchestrator().await);
    stage.introduce(&first.client).await;
    protected(&first.client, "web1").await;
    protected(&second.client, "db1").await;
    stage.estate.hold("promote-point");
    let web1 = start(&first.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    let db1 = start(&second.client, spec(Operation::PlannedFailover, &["db1"])).await.unwrap();
    eventually("both are at the gate", async || stage.estate.is_waiting("promote-point")).await;
    first.crash();
    stage.estate.release("promote-point");
    for run in [web1.name, db1.name] {
        until(&second.client, run, RunState::Waiting).await;
        second.client.commit_run(verb(run)).await.unwrap();
        until(&second.client, run, RunState::Succeeded).await;
        let done = stage.estate.done(run);
        assert!(!done.is_empty() && times(&done).values().all(|times| *times == 1), "{done:?}");
    }
}

/// Job-tracker's events are gone or were restored from a backup: open runs are compared with their jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_place_in_the_events_loses_no_event() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    protected(&instance.client, "web1").await;
    stage.estate.hold("shut-down-machine");
    let run = start(&instance.client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    eventually("it is under way", async || stage.estate.is_waiting("shut-down-machine")).await;
    instance.crash();
    sqlx::query("UPDATE event_cursor SET token = 'of another time', sequence = 1000000")
        .execute(stage.database.pool().reader())
        .await
        .unwrap();
    stage.estate.release("shut-down-machine");
    let instance = stage.orchestrator().await;
    until(&instance.client, run.name, RunState::Waiting).await;
    assert!(times(&stage.estate.done(run.name)).values().all(|times| *times == 1));
}

/// What ended while nobody listened is taken in together, and each step goes on once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_many_machines_takes_in_at_once_what_has_ended() {
    const MACHINES: [&str; 6] = ["m1", "m2", "m3", "m4", "m5", "m6"];
    let stage = Stage::set().await;
    for (name, nic) in MACHINES.into_iter().zip(21..) {
        stage.estate.add_machine(ALPHA, name, &["vda"], nic);
    }
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    for name in MACHINES {
        protected(&instance.client, name).await;
    }
    stage.estate.hold("shut-down-machine");
    let run = start(&instance.client, spec(Operation::PlannedFailover, &MACHINES)).await.unwrap();
    let tasks_that_are = async |state: TaskState| {
        // The job is made by the outbox, a moment after the run.
        let Ok(tasks) = stage.jobs().list_tasks(run.name, 0, None).await else { return 0 };
        tasks.items.iter().filter(|task| task.key.contains("shut-down") && task.state == state).count()
    };
    eventually("all are under way", async || tasks_that_are(TaskState::Leased).await == MACHINES.len()).await;
    instance.crash();
    stage.estate.release("shut-down-machine");
    eventually("all have ended", async || tasks_that_are(TaskState::Succeeded).await == MACHINES.len()).await;
    let instance = stage.orchestrator().await;
    until(&instance.client, run.name, RunState::Waiting).await;
    let done = stage.estate.done(run.name);
    assert!(times(&done).values().all(|times| *times == 1), "done twice: {done:?}");
    for name in MACHINES {
        let item = instance.client.get_item(&item(name)).await.unwrap();
        assert_eq!(item.active_host.to_string(), BRAVO, "{name}");
    }
}
