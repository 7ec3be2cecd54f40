//! Failback as one run (R-FB): copied while the machine runs, completed as previewed, with orchestrators that die at its waits; or copied during it.

use std::collections::BTreeSet;

use understudy_recovery_api::{
    ItemState, Operation, RecoveryClient, RunState, Synchronise,
    request::{ChangeRun, CreatePolicy, ProtectMachine, RunChange, RunSpec},
    view::{Run, RunChangePreview},
};
use understudy_replication_api::PowerState;
use understudy_rpc::Kind;

use crate::support::*;

const COMPLETE: RunChange = RunChange::CompleteFailover;

/// `web1` runs at bravo, and is not protected. What is encrypted is not copied during a failover.
async fn failed_over(stage: &Stage, client: &RecoveryClient) {
    stage.introduce(client).await;
    let mut plain = CreatePolicy { policy: "plain".parse().unwrap(), ..gold() };
    plain.settings.replication.encrypt_for.clear();
    client.create_policy(plain).await.unwrap();
    let wanted = ProtectMachine { policy: "plain".parse().unwrap(), ..protect("web1") };
    client.protect_machine(wanted).await.unwrap();
    in_state(client, "web1", ItemState::Protected).await;
    lose(client, "alpha burnt down").await;
}

async fn lose(client: &RecoveryClient, why: &str) {
    let mut disaster = spec(Operation::UnplannedFailover, &["web1"]);
    disaster.primary_down_assertion = Some(why.into());
    let unplanned = start(client, disaster).await.unwrap();
    until(client, unplanned.name, RunState::Waiting).await;
    client.commit_run(verb(unplanned.name)).await.unwrap();
    until(client, unplanned.name, RunState::Succeeded).await;
    in_state(client, "web1", ItemState::NotProtected).await;
}

async fn completing(client: &RecoveryClient, run: &Run) -> RunChangePreview {
    client.preview_run_change(run.name, COMPLETE).await.unwrap()
}

fn complete_as(run: &Run, preview: &RunChangePreview) -> ChangeRun {
    ChangeRun { run: run.name, change: COMPLETE, plan_digest: preview.digest.clone(), request_id: fresh() }
}

/// R-FB-1, R-FB-2, R-JOB-3: one run, whoever dies while it waits. What is completed is what was previewed then, once for a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failback_waits_with_its_copy_and_is_completed_whoever_dies_meanwhile() {
    let stage = Stage::set().await;
    let mut instance = stage.orchestrator().await;
    failed_over(&stage, &instance.client).await;
    let back = spec(Operation::Failback, &["web1"]);
    let preview = instance.client.preview_run(back.clone()).await.unwrap();
    assert_eq!(preview.problems, []);
    assert!(
        preview.notices.iter().any(|notice| notice.contains("completes the failover")),
        "{:?}",
        preview.notices
    );
    assert!(!preview.items[0].connections.is_empty(), "where the machine will be is said beforehand");
    let run = start(&instance.client, back).await.unwrap();
    let waiting = until(&instance.client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.allowed_actions, ["complete-failover", "cancel"]);
    let web1 = instance.client.get_item(&item("web1")).await.unwrap();
    assert_eq!((web1.state, web1.run), (ItemState::Protected, Some(run.name)));
    assert_eq!(web1.active_host.to_string(), BRAVO);
    assert_eq!(stage.estate.machine(BRAVO, "web1").unwrap().power, PowerState::Running);

    instance.crash();
    instance = stage.orchestrator().await;
    let client = &instance.client;
    let preview = completing(client, &run).await;
    assert_eq!(preview.problems, []);
    let planned: BTreeSet<String> = preview.steps.iter().map(|step| step.step.to_string()).collect();
    assert!(!preview.items[0].connections.is_empty(), "where it will be is not shown");
    assert!(planned.contains("reserve-addresses") && planned.contains("web1.shut-down"), "{planned:?}");
    // A machine that is off by then is not started by a cancel: another plan than the one that was seen.
    let power = |power| stage.estate.change(BRAVO, |facts| facts.machines[0].power = power);
    power(PowerState::ShutOff);
    eventually("the change is heard of", async || completing(client, &run).await.digest != preview.digest)
        .await;
    let refused = client.change_run(complete_as(&run, &preview)).await.unwrap_err();
    assert_eq!((refused.kind, refused.reason.as_ref()), (Kind::Aborted, "PLAN_CHANGED"));
    power(PowerState::Running);
    eventually("that, too", async || completing(client, &run).await.digest == preview.digest).await;

    stage.estate.hold("promote-point");
    let request = complete_as(&run, &preview);
    client.change_run(request.clone()).await.unwrap();
    client.change_run(request).await.unwrap();
    assert_eq!(client.get_item(&item("web1")).await.unwrap().state, ItemState::PlannedFailover);
    eventually("it is under way", async || stage.estate.is_waiting("promote-point")).await;
    instance.crash();
    stage.estate.release("promote-point");
    instance = stage.orchestrator().await;
    let waiting = until(&instance.client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.changes[0].text, "completed: web1");
    assert!(waiting.outcomes[0].disks.iter().all(|disk| disk.equal) && !waiting.outcomes[0].disks.is_empty());
    instance.crash();
    instance = stage.orchestrator().await;
    instance.client.commit_run(verb(run.name)).await.unwrap();
    until(&instance.client, run.name, RunState::Succeeded).await;
    let web1 = in_state(&instance.client, "web1", ItemState::Protected).await;
    assert_eq!((web1.active_host.to_string().as_str(), web1.generation.get()), (ALPHA, 3));
    let mut keys: Vec<_> = stage.estate.done(run.name).into_iter().map(|done| done.key).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all, "a step was done twice");
    assert!(
        keys.iter().any(|key| key == "web1.copy-start-reverse")
            && keys.iter().any(|key| key == "web1.start-reverse"),
        "{keys:?}"
    );
    let audited =
        "SELECT count(*) FROM audit WHERE what = 'FailoverService/ChangeRun' AND decision = 'allowed'";
    assert_eq!(stage.count(audited).await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM holds").await, 0);
}

/// R-FB-2, R-FB-4: cancelled while it waits, its copy stays; and copied during the failover only, cancelled, it is as it was, and done after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failback_is_cancelled_or_copies_during_the_failover() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    failed_over(&stage, client).await;
    let during = RunSpec { synchronise: Synchronise::During, ..spec(Operation::Failback, &["web1"]) };

    stage.estate.hold("sync-final");
    let run = start(client, during.clone()).await.unwrap();
    assert_eq!(run.spec.synchronise, Synchronise::During);
    eventually("it is copied", async || stage.estate.is_waiting("sync-final")).await;
    assert_eq!(stage.estate.machine(BRAVO, "web1").unwrap().power, PowerState::ShutOff);
    client.cancel_run(verb(run.name)).await.unwrap();
    stage.estate.release("sync-final");
    until(client, run.name, RunState::Cancelled).await;
    in_state(client, "web1", ItemState::NotProtected).await;
    assert_eq!(stage.estate.machine(BRAVO, "web1").unwrap().power, PowerState::Running);

    let run = start(client, during).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.commit_run(verb(run.name)).await.unwrap();
    let done = until(client, run.name, RunState::Succeeded).await;
    assert!(!done.steps.iter().any(|step| step.plan.step.to_string() == "web1.copy-adopt-disks"));
    let web1 = in_state(client, "web1", ItemState::Protected).await;
    assert_eq!((web1.active_host.to_string().as_str(), web1.generation.get()), (ALPHA, 3));

    lose(client, "alpha has burnt down again").await;
    let run = start(client, spec(Operation::Failback, &["web1"])).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;
    in_state(client, "web1", ItemState::Protected).await;
    // Nothing is copied again, so it waits at once.
    let again = start(client, spec(Operation::Failback, &["web1"])).await.unwrap();
    let waiting = until(client, again.name, RunState::Waiting).await;
    assert_eq!(waiting.steps.len(), 1);
}
