//! Activation leases from the control plane's side: granted, relied upon, and not granted again while a run waits for their end (R-FO-7, R-UF-1).

use std::time::Duration;

use understudy_ids::RunId;
use understudy_recovery_api::{
    Operation, RecoveryClient, RunState,
    request::{PolicySettings, UpdatePolicy},
    view::ProtectedItem,
};
use understudy_replication_api::PowerState;

use crate::support::{
    ALPHA, BRAVO, Stage, eventually, fresh, gold, item, protected, spec, start, until, verb,
};

const LEASE: Duration = Duration::from_secs(15);

/// What the policy's items are bound by from now on.
async fn lease_of_policy(client: &RecoveryClient, lease: Option<Duration>) {
    let settings = client.get_policy(&gold().policy).await.unwrap().settings;
    let settings = PolicySettings { activation_lease: lease, ..settings };
    let update = UpdatePolicy { policy: gold().policy, settings, etag: None, request_id: fresh() };
    client.update_policy(update).await.unwrap();
}

async fn web1(client: &RecoveryClient) -> ProtectedItem {
    client.get_item(&item("web1")).await.unwrap()
}

/// web1, whose host holds a lease.
async fn leased(stage: &Stage, client: &RecoveryClient) {
    stage.introduce(client).await;
    protected(client, "web1").await;
    lease_is_given(client).await;
}

async fn lease_is_given(client: &RecoveryClient) {
    lease_of_policy(client, Some(LEASE)).await;
    eventually("the host holds the lease, and that is on record", async || {
        web1(client).await.activation_lease.is_some_and(|lease| lease.held)
    })
    .await;
}

async fn waits_for_lease(client: &RecoveryClient, run: RunId) {
    eventually("the run waits for the lease", async || {
        client.get_run(run).await.unwrap().waiting_for.contains("activation lease")
    })
    .await;
}

/// R-FO-7: granted again and again, at the length that the policy has by now; not any more when it has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_for_as_long_as_the_policy_has_them() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    leased(&stage, client).await;
    let shown = web1(client).await.activation_lease.unwrap();
    assert_eq!((shown.length, shown.stopped), (LEASE, None));
    assert!(shown.over_in > LEASE && shown.over_in <= LEASE * 3, "{shown:?}");
    eventually("it is renewed", async || {
        stage.estate.lease(ALPHA, &item("web1")).is_some_and(|(_, n)| n > 2)
    })
    .await;
    assert_eq!(stage.estate.lease(BRAVO, &item("web1")), None, "the other side was granted one");

    lease_of_policy(client, Some(2 * LEASE)).await;
    eventually("it is of the new length", async || {
        stage.estate.lease(ALPHA, &item("web1")).is_some_and(|(held, _)| held.length == 2 * LEASE)
    })
    .await;
    lease_of_policy(client, None).await;
    eventually("it is released", async || {
        stage.estate.lease(ALPHA, &item("web1")).is_none() && web1(client).await.activation_lease.is_none()
    })
    .await;
    // Nobody would renew it, and the machine would be stopped.
    stage.estate.bind_late(ALPHA, &item("web1"));
    eventually("what came late is released as well", async || {
        stage.estate.lease(ALPHA, &item("web1")).is_none()
    })
    .await;
}

/// R-UF-1, R-FO-7: nobody has to state anything; the run waits, and nothing is granted meanwhile, by no instance, to a host that is still heard. The
/// new side gets a lease of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_rests_on_the_end_of_a_lease() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let other = stage.orchestrator().await;
    let client = &instance.client;
    leased(&stage, client).await;
    assert_eq!(web1(client).await.generation.get(), 1);

    let wish = spec(Operation::UnplannedFailover, &["web1"]);
    let preview = client.preview_run(wish.clone()).await.unwrap();
    assert!(preview.items[0].lease_over_in.is_some_and(|wait| wait > LEASE), "{:?}", preview.items);
    let run = start(client, wish).await.unwrap();
    waits_for_lease(client, run.name).await;
    let before = stage.estate.lease(ALPHA, &item("web1")).unwrap().1;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = stage.estate.lease(ALPHA, &item("web1")).unwrap().1;
    // One may have been on its way when the run began.
    assert!(after <= before + 1, "granted {} times while a run waits for its end", after - before);
    assert_eq!(web1(client).await.generation.get(), 1, "switched before the lease has ended");
    drop(other);

    // As it is with a host that stops its machine in time.
    stage.estate.change(ALPHA, |facts| facts.machines[0].power = PowerState::ShutOff);
    until(client, run.name, RunState::Waiting).await;
    let ended = web1(client).await;
    assert_eq!((ended.generation.get(), ended.active_host.to_string().as_str()), (2, BRAVO));
    eventually("the new side holds one", async || {
        stage.estate.lease(BRAVO, &item("web1")).is_some_and(|(held, _)| held.generation.get() == 2)
    })
    .await;
    client.commit_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;
}

/// R-UF-1: from the silence of a host that was never bound by a lease nothing follows, and cancelling the wait gives the lease back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_cancelled_gives_the_lease_back() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let wish = spec(Operation::UnplannedFailover, &["web1"]);
    let refused = client.preview_run(wish.clone()).await.unwrap().problems;
    assert_eq!(refused.iter().map(|p| &*p.reason).collect::<Vec<_>>(), ["PRIMARY_DOWN_ASSERTION_REQUIRED"]);

    lease_is_given(client).await;
    let run = start(client, wish.clone()).await.unwrap();
    waits_for_lease(client, run.name).await;
    let other = client.preview_run(wish).await.unwrap().problems;
    assert!(!other.is_empty(), "another run began beside it");
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;
    let granted = stage.estate.lease(ALPHA, &item("web1")).unwrap().1;
    eventually("it is granted again", async || {
        stage.estate.lease(ALPHA, &item("web1")).is_some_and(|(_, n)| n > granted)
    })
    .await;
    assert_eq!(web1(client).await.generation.get(), 1);
}
