//! What was asked for once happens once, and two that contradict each other never both happen.

use understudy_recovery_api::{ItemState, Operation, RunState, request::StartRun};
use understudy_rpc::Kind;

use crate::support::*;

/// The same request id gives the same answer and no second effect; with another content it is refused; it is the caller's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_good_for_one_request() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let request = protect("web1");
    let first = client.protect_machine(request.clone()).await.unwrap().run.unwrap();
    let (again, at_once) =
        tokio::join!(client.protect_machine(request.clone()), client.protect_machine(request.clone()));
    assert_eq!(again.unwrap().run.unwrap().name, first.name);
    assert_eq!(at_once.unwrap().run.unwrap().name, first.name);
    assert_eq!(stage.count("SELECT count(*) FROM runs").await, 1);

    let mut other = protect("db1");
    other.request_id = request.request_id.clone();
    let error = client.protect_machine(other.clone()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (Kind::AlreadyExists, "REQUEST_ID_REUSED"));
    // Somebody else's request ids are somebody else's.
    stage.client_as(&instance, "user/dev").protect_machine(other).await.unwrap();

    in_state(client, "web1", ItemState::Protected).await;
    let spec = spec(Operation::TestFailover, &["web1"]);
    let plan_digest = client.preview_run(spec.clone()).await.unwrap().digest;
    let start = StartRun { spec, plan_digest, request_id: fresh() };
    let run = client.start_run(start.clone()).await.unwrap();
    assert_eq!(client.start_run(start).await.unwrap().name, run.name);
    until(client, run.name, RunState::Waiting).await;
    let complete = complete(run.name, "noted");
    client.complete_test(complete.clone()).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;
    // A verb that was taken is not refused when it comes again, although the run would not take it any more.
    client.complete_test(complete).await.unwrap();
    let job = run.name;
    eventually("the note arrives", async || !stage.jobs().list_notes(job).await.unwrap().is_empty()).await;
    assert_eq!(stage.jobs().list_notes(job).await.unwrap().len(), 1);
}

/// R-FO-2: what is started is what was previewed, or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_has_changed_is_not_started() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let spec = spec(Operation::PlannedFailover, &["web1"]);
    let preview = client.preview_run(spec.clone()).await.unwrap();
    assert_eq!(preview.problems, []);
    let runs = stage.count("SELECT count(*) FROM runs").await;
    // The machine gets another NIC in between.
    stage.estate.change(ALPHA, |facts| {
        let mut nic = facts.machines[0].nics[0].clone();
        nic.mac = "52:54:00:00:00:99".parse().unwrap();
        nic.addresses = vec!["192.168.50.99".parse().unwrap()];
        facts.machines[0].nics.push(nic);
    });
    let changed = async || client.preview_run(spec.clone()).await.unwrap().digest != preview.digest;
    eventually("the change is known", changed).await;
    let start = StartRun { spec: spec.clone(), plan_digest: preview.digest, request_id: fresh() };
    let error = client.start_run(start.clone()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (Kind::Aborted, "PLAN_CHANGED"));
    assert_eq!(stage.count("SELECT count(*) FROM runs").await, runs);
    assert_eq!(client.get_item(&item("web1")).await.unwrap().run, None);
    // The refused request id is free: nothing was done under it.
    let plan_digest = client.preview_run(spec).await.unwrap().digest;
    client.start_run(StartRun { plan_digest, ..start }).await.unwrap();
}

/// Invariant 11: of two operations on one item, at two instances at once, one goes ahead; the other is told which run is in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_conflicting_operations_exactly_one_goes_ahead() {
    let stage = Stage::set().await;
    let (first, second) = (stage.orchestrator().await, stage.orchestrator().await);
    stage.introduce(&first.client).await;
    protected(&first.client, "web1").await;
    stage.estate.hold("shut-down-machine");
    stage.estate.hold("promote-point");
    let planned = spec(Operation::PlannedFailover, &["web1"]);
    let mut unplanned = spec(Operation::UnplannedFailover, &["web1"]);
    unplanned.primary_down_assertion = Some("it is down".into());
    let mut starts = Vec::new();
    for (client, spec) in [(&first.client, planned), (&second.client, unplanned)] {
        let plan_digest = client.preview_run(spec.clone()).await.unwrap().digest;
        let (client, request) = (client.clone(), StartRun { spec, plan_digest, request_id: fresh() });
        starts.push(tokio::spawn(async move { client.start_run(request).await }));
    }
    let mut outcomes = Vec::new();
    for start in starts {
        outcomes.push(start.await.unwrap());
    }
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    let (winner, error) = (won[0].as_ref().unwrap(), lost[0].as_ref().unwrap_err());
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert_eq!(error.metadata["run"], format!("runs/{}", winner.name));
    assert_eq!(stage.count("SELECT count(*) FROM runs WHERE open").await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM holds").await, 1);
}

/// Invariant 12: one record for each state-changing call, whether it was allowed or refused, and none for reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_changing_call_leaves_one_record() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let before = stage.count("SELECT count(*) FROM audit").await;
    assert_eq!(before, 5, "two sites, two hosts, one policy");
    client.list_sites(Default::default()).await.unwrap();
    client.preview_run(spec(Operation::TestFailover, &["nothing"])).await.unwrap();
    let request = protect("web1");
    client.protect_machine(request.clone()).await.unwrap();
    client.protect_machine(request).await.unwrap();
    client.protect_machine(protect("nothing")).await.unwrap_err();
    client.cancel_run(verb(understudy_ids::Uuid::new_v4())).await.unwrap_err();
    let mut records = client.list_audit_records(Default::default()).await.unwrap().entries;
    records.truncate(usize::try_from(stage.count("SELECT count(*) FROM audit").await - before).unwrap());
    let seen: Vec<_> =
        records.iter().map(|r| (r.what.as_str(), r.decision.as_str(), r.result.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("FailoverService/CancelRun", "refused", "RUN_NOT_FOUND"),
            ("ProtectionService/ProtectMachine", "refused", "NOT_POSSIBLE_NOW"),
            ("ProtectionService/ProtectMachine", "allowed", "OK"),
        ]
    );
    assert!(records.iter().all(|r| r.who == "spiffe://understudy/user/ops"));
    let change = sqlx::query("UPDATE audit SET result = 'OK'").execute(stage.database.pool().reader()).await;
    assert!(change.is_err(), "records are not changed");
}

/// Invariant 4: no statement lowers a generation, and a name that is protected again goes on above its old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_only_grow() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let pool = stage.database.pool().reader();
    for statement in ["UPDATE items SET generation = 0", "UPDATE generations SET generation = 0"] {
        assert!(sqlx::query(statement).execute(pool).await.is_err(), "{statement}");
    }
    let unprotect = understudy_recovery_api::request::Unprotect {
        item: item("web1"),
        delete_replica: true,
        request_id: fresh(),
    };
    let run = client.unprotect_item(unprotect).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;
    assert_eq!(protected(client, "web1").await.generation.get(), 2);
}
