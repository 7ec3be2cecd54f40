//! The life of a protected machine through all six operations.

use understudy_recovery_api::{ItemState, Operation, RunState, StepState};

use crate::support::*;

/// R-TF-7: neither failover waits for a person to complete a test. One ends it, the other goes on with its machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_give_way_to_real_failovers() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;

    let test = start(client, spec(Operation::TestFailover, &["web1"])).await.unwrap();
    until(client, test.name, RunState::Waiting).await;
    let planned = spec(Operation::PlannedFailover, &["web1"]);
    let preview = client.preview_run(planned.clone()).await.unwrap();
    assert!(preview.notices[0].contains(&test.name.to_string()), "{:?}", preview.notices);
    let planned = start(client, planned).await.unwrap();
    until(client, planned.name, RunState::Waiting).await;
    assert_eq!(client.get_run(test.name).await.unwrap().state, RunState::Succeeded, "it was not ended first");
    client.commit_run(verb(planned.name)).await.unwrap();
    until(client, planned.name, RunState::Succeeded).await;
    assert_eq!(stage.estate.facts(BRAVO).test_networks, []);
    let ended = stage.count("SELECT count(*) FROM audit WHERE what = 'FailoverService/CompleteTest'").await;
    assert_eq!(ended, 1, "who ended it is not on record");
    in_state(client, "web1", ItemState::Protected).await;

    let test = start(client, spec(Operation::TestFailover, &["web1"])).await.unwrap();
    until(client, test.name, RunState::Waiting).await;
    let mut unplanned = spec(Operation::UnplannedFailover, &["web1"]);
    unplanned.primary_down_assertion = Some("bravo burnt down".into());
    unplanned.promote_test = Some(planned.name);
    let refused = client.preview_run(unplanned.clone()).await.unwrap().problems;
    assert_eq!(refused[0].reason, "TEST_NOT_FOUND");
    unplanned.promote_test = Some(test.name);
    let run = start(client, unplanned).await.unwrap();
    assert_eq!(run.spec.promote_test, Some(test.name));
    until(client, run.name, RunState::Waiting).await;
    until(client, test.name, RunState::Succeeded).await;
    client.commit_run(verb(run.name)).await.unwrap();
    let done = until(client, run.name, RunState::Succeeded).await;
    assert!(done.steps.iter().any(|step| step.plan.step.to_string() == "end-promoted-test"));
    assert_eq!(stage.estate.facts(ALPHA).test_networks, []);
}

/// R-REP-1, R-TF-1, R-TF-5, R-PF, R-UF, R-FB-1: protect → test → planned → planned back → unplanned → reverse → unprotect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_through_all_six_operations() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;

    let web1 = protected(client, "web1").await;
    assert_eq!((web1.active_host.to_string().as_str(), web1.generation.get()), (ALPHA, 1));
    assert!(web1.latest_point.is_some());

    // Test failover: waits for its end, changes nothing about the item, leaves nothing.
    let test = start(client, spec(Operation::TestFailover, &["web1"])).await.unwrap();
    let waiting = until(client, test.name, RunState::Waiting).await;
    assert_eq!(waiting.allowed_actions.first().map(String::as_str), Some("complete-test"));
    assert!(stage.estate.facts(BRAVO).machines.iter().any(|m| m.test_run == Some(test.name)));
    assert_eq!(client.get_item(&item("web1")).await.unwrap().test_run, Some(test.name));
    client.complete_test(complete(test.name, "all fine")).await.unwrap();
    until(client, test.name, RunState::Succeeded).await;
    assert_eq!(stage.estate.facts(BRAVO).machines, []);
    assert_eq!(stage.estate.facts(BRAVO).test_networks, []);
    eventually("the note is at the job", async || {
        let notes = stage.jobs().list_notes(test.name).await.unwrap();
        notes.iter().any(|note| note.text == "all fine" && note.author.ends_with("user/ops"))
    })
    .await;

    // Planned failover, committed: the roles change, replication goes on in reverse.
    let planned = start(client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    let waiting = until(client, planned.name, RunState::Waiting).await;
    assert!(waiting.outcomes[0].disks.iter().all(|disk| disk.equal) && !waiting.outcomes[0].disks.is_empty());
    assert!(waiting.outcomes[0].downtime.is_some());
    client.commit_run(verb(planned.name)).await.unwrap();
    let done = until(client, planned.name, RunState::Succeeded).await;
    assert!(done.steps.iter().all(|s| matches!(s.state, StepState::Succeeded | StepState::Skipped)));
    let web1 = in_state(client, "web1", ItemState::Protected).await;
    assert_eq!((web1.active_host.to_string().as_str(), web1.generation.get()), (BRAVO, 2));

    // And back the same way (R-FB-1).
    let back = start(client, spec(Operation::PlannedFailover, &["web1"])).await.unwrap();
    until(client, back.name, RunState::Waiting).await;
    client.commit_run(verb(back.name)).await.unwrap();
    until(client, back.name, RunState::Succeeded).await;
    let web1 = in_state(client, "web1", ItemState::Protected).await;
    assert_eq!((web1.active_host.to_string().as_str(), web1.generation.get()), (ALPHA, 3));

    // Unplanned, with the operator's word on record; committed; then protected again in reverse.
    let mut disaster = spec(Operation::UnplannedFailover, &["web1"]);
    disaster.primary_down_assertion = Some("alpha burnt down".into());
    let unplanned = start(client, disaster).await.unwrap();
    let waiting = until(client, unplanned.name, RunState::Waiting).await;
    assert!(waiting.outcomes[0].loss_span.is_some());
    client.commit_run(verb(unplanned.name)).await.unwrap();
    until(client, unplanned.name, RunState::Succeeded).await;
    let web1 = in_state(client, "web1", ItemState::NotProtected).await;
    assert_eq!(web1.generation.get(), 4);
    let reverse = start(client, spec(Operation::ReverseReplicate, &["web1"])).await.unwrap();
    until(client, reverse.name, RunState::Succeeded).await;
    in_state(client, "web1", ItemState::Protected).await;

    let unprotect = understudy_recovery_api::request::Unprotect {
        item: item("web1"),
        delete_replica: true,
        request_id: fresh(),
    };
    let run = client.unprotect_item(unprotect).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;
    assert!(client.get_item(&item("web1")).await.is_err());

    // The job is what the run is, and knows it as such (R-JOB-1).
    let report = stage.jobs().get_job(planned.name).await.unwrap().report_json.expect("a report");
    assert!(report.contains("\"downtime_seconds\""), "{report}");
}
