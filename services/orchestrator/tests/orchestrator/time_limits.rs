//! What happens because time passes or because something is away.

use std::{collections::BTreeMap, time::Duration};

use understudy_ids::{PointChoice, Problem, RunId};
use understudy_netplan::{HostRecord, TrafficHook};
use understudy_recovery_api::{
    DeadlineAction, ItemState, Operation, RecoveryClient, RunState,
    request::{MachineParent, RunDeadline, RunSpec, SetRunDeadline},
};
use understudy_replication_api::PowerState;

use crate::support::*;

/// R-TF-6: a test that is not completed in time is completed by force, also when the orchestrator was started anew meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_test_is_completed_by_force() {
    let mut stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    protected(&instance.client, "web1").await;
    let run = start(&instance.client, spec(Operation::TestFailover, &["web1"])).await.unwrap();
    until(&instance.client, run.name, RunState::Waiting).await;
    instance.crash();
    stage.runs.test_limit_s = 1;
    let instance = stage.orchestrator().await;
    until(&instance.client, run.name, RunState::Succeeded).await;
    assert_eq!(stage.estate.facts(BRAVO).machines, []);
    let records = instance.client.list_audit_records(Default::default()).await.unwrap().entries;
    assert_eq!(records[0].who, "orchestrator (test limit)");
    eventually("the job says why", async || {
        let notes = stage.jobs().list_notes(run.name).await.unwrap();
        notes.iter().any(|note| note.text.contains("by force"))
    })
    .await;
}

fn after(action: DeadlineAction, seconds: u64) -> RunDeadline {
    RunDeadline { action, after: Duration::from_secs(seconds) }
}

async fn planned(client: &RecoveryClient, name: &str, deadline: RunDeadline) -> RunId {
    protected(client, name).await;
    let spec = RunSpec { deadline: Some(deadline), ..spec(Operation::PlannedFailover, &[name]) };
    start(client, spec).await.unwrap().name
}

/// R-FO-4: what was asked for at the start is done when the failover has waited for so long, on record, also by another orchestrator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_committed_or_rolled_back_by_itself() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    let web1 = planned(&instance.client, "web1", after(DeadlineAction::Commit, 2)).await;
    let waiting = until(&instance.client, web1, RunState::Waiting).await;
    assert!(waiting.waiting_for.contains("committed by itself"), "{}", waiting.waiting_for);
    assert!(waiting.deadline.unwrap().due_time.is_some());
    instance.crash();
    let instance = stage.orchestrator().await;
    until(&instance.client, web1, RunState::Succeeded).await;
    in_state(&instance.client, "web1", ItemState::Protected).await;
    let db1 = planned(&instance.client, "db1", after(DeadlineAction::RollBack, 1)).await;
    until(&instance.client, db1, RunState::RolledBack).await;
    let db1 = in_state(&instance.client, "db1", ItemState::Protected).await;
    assert_eq!(db1.active_host.to_string(), ALPHA);
    let records = instance.client.list_audit_records(Default::default()).await.unwrap().entries;
    let by_itself: Vec<_> =
        records.iter().filter(|r| r.who == "orchestrator (deadline)").map(|r| r.what.as_str()).collect();
    assert_eq!(by_itself, ["FailoverService/ChangeRun", "FailoverService/CommitRun"]);
}

/// R-FO-4: a roll-back that is not possible when it is due leaves the run waiting and says why; a deadline is changed and cancelled meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_cannot_be_kept_is_told_and_can_be_set_anew() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let run = planned(client, "web1", after(DeadlineAction::RollBack, 3600)).await;
    until(client, run, RunState::Waiting).await;
    let set = async |deadline| {
        client.set_run_deadline(SetRunDeadline { run, deadline, request_id: fresh() }).await.unwrap()
    };
    let none = set(None).await;
    assert!(none.deadline.is_none() && !none.waiting_for.contains("by itself"));
    stage.estate.change(ALPHA, |facts| facts.machines.clear());
    eventually("the loss of the machine is known", async || {
        client.list_machines(&MachineParent::All, Default::default()).await.unwrap().entries.len() == 1
    })
    .await;
    set(Some(after(DeadlineAction::RollBack, 1))).await;
    eventually("the deadline has passed", async || {
        let state = client.get_run(run).await.unwrap().deadline;
        state.is_some_and(|state| state.problems.iter().any(|p| p.reason == "OLD_MACHINE_GONE"))
    })
    .await;
    let waiting = client.get_run(run).await.unwrap();
    assert_eq!(waiting.state, RunState::Waiting);
    assert!(waiting.waiting_for.contains("could not be done"), "{}", waiting.waiting_for);
    set(Some(after(DeadlineAction::Commit, 1))).await;
    until(client, run, RunState::Succeeded).await;
    let late = SetRunDeadline { run, deadline: None, request_id: fresh() };
    assert_eq!(client.set_run_deadline(late).await.unwrap_err().reason, "VERB_NOT_ALLOWED");
}

/// R-UF-2: what is tried first with the other side has its time and no more; where it works, nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unplanned_failover_waits_for_the_other_side_for_a_limited_time() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let spec = |name| RunSpec {
        synchronise_within: Some(Duration::from_secs(4)),
        primary_down_assertion: Some("alpha is half dead".into()),
        ..spec(Operation::UnplannedFailover, &[name])
    };
    protected(client, "web1").await;
    let run = start(client, spec("web1")).await.unwrap();
    let shipped = until(client, run.name, RunState::Waiting).await.outcomes.remove(0);
    assert_eq!(
        (shipped.point.unwrap().get(), shipped.loss_span, shipped.error),
        (2, Some(Duration::ZERO), None)
    );

    protected(client, "db1").await;
    stage.estate.hold("shut-down-machine");
    let run = start(client, spec("db1")).await.unwrap();
    let gone_on = until(client, run.name, RunState::Waiting).await;
    let outcome = &gone_on.outcomes[0];
    assert_eq!(outcome.error.as_ref().unwrap().reason, "STEP_TIMED_OUT");
    assert!(outcome.loss_span.unwrap() > Duration::ZERO, "{outcome:?}");
    assert_eq!(stage.estate.machine(ALPHA, "db1").unwrap().power, PowerState::ShutOff, "it is fenced");
}

/// R-UF-1, R-NET-12: with network-mapper away, an unplanned failover goes by its last answer and says so; anything else waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unplanned_failover_works_without_network_mapper() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let name =
        HostRecord { name: "web1.shop.example".parse().unwrap(), item: "web1".parse().unwrap(), nic: 0 };
    stage.mapper.names.lock().unwrap().push(name);
    let hook = TrafficHook { name: "lb".parse().unwrap(), items: Default::default() };
    stage.mapper.hooks.lock().unwrap().push(hook);
    protected(client, "web1").await;
    *stage.mapper.away.lock().unwrap() = true;
    let preview = client.preview_run(spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    assert_eq!(
        preview.problems.iter().map(|p| p.reason.as_str()).collect::<Vec<_>>(),
        ["NETWORK_MAPPER_AWAY"]
    );
    let mut spec = spec(Operation::UnplannedFailover, &["web1"]);
    spec.primary_down_assertion = Some("alpha burnt down".into());
    let preview = client.preview_run(spec.clone()).await.unwrap();
    let connection = &preview.items[0].connections[0];
    assert!(connection.network.ends_with("networks/prod"), "{connection:?}");
    assert!(connection.reason.contains("cannot be asked now"), "{connection:?}");
    let said = format!("See to it that web1.shop.example. has {}", connection.address);
    assert!(preview.steps.iter().any(|step| step.title == said), "{:?}", preview.steps);
    let run = start(client, spec).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    for what in ["set-records", "call-hook"] {
        assert!(stage.estate.done(run.name).iter().any(|done| done.what == what), "{what}");
    }
}

/// R-PF-3: an error stops the run, which names it and goes on when it is retried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_is_retried_or_cancelled() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    protected(client, "db1").await;
    stage.estate.fail("sync-final", 1);
    let run = start(client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    let failed = until(client, run.name, RunState::Failed).await;
    assert_eq!(failed.problems.iter().map(|p| p.reason.as_str()).collect::<Vec<_>>(), ["BROKEN"]);
    assert_eq!(client.get_item(&item("web1")).await.unwrap().run, Some(run.name));
    client.retry_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.commit_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;

    stage.estate.fail("sync-final", 1);
    let run = start(client, spec(Operation::PlannedFailover, &["db1"])).await.unwrap();
    until(client, run.name, RunState::Failed).await;
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;
    let db1 = in_state(client, "db1", ItemState::Protected).await;
    assert_eq!((db1.generation.get(), db1.active_host.to_string().as_str()), (1, ALPHA));
    let machine = stage.estate.machine(ALPHA, "db1").unwrap();
    assert_eq!(machine.power, understudy_replication_api::PowerState::Running);
}

/// Problems of network-mapper are shown beside ours, in one preview.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_lists_the_problems_of_all_who_were_asked() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let unmapped = Problem::new("NETWORK_NOT_MAPPED", "protectedItems/web1", "no counterpart", "Map it.");
    stage.mapper.problems.lock().unwrap().push(unmapped);
    let mut spec = spec(Operation::TestFailover, &["web1", "unknown"]);
    spec.points = BTreeMap::from([(item("web1"), PointChoice::Seq(understudy_ids::PointSeq::new(999)))]);
    let preview = client.preview_run(spec).await.unwrap();
    let mut reasons: Vec<_> = preview.problems.iter().map(|p| p.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["ITEM_NOT_FOUND", "NETWORK_NOT_MAPPED", "POINT_NOT_FOUND"]);
    assert!(preview.digest.is_empty() && preview.steps.is_empty());
}
