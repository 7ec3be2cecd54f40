//! What is put right without being asked.

use understudy_jobs_api::{JobFilter, JobState};
use understudy_recovery_api::{ItemState, Operation, RunState};
use understudy_replication_api::{ItemRole, PowerState};

use crate::support::*;

/// R-FO-7: the side that was active before a failover and comes back is fenced, once, by a job that people can see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_side_is_fenced_when_it_is_heard_again() {
    let stage = Stage::set().await;
    // Two instances see the same facts at the same time.
    let (instance, _second) = (stage.orchestrator().await, stage.orchestrator().await);
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let mut spec = spec(Operation::UnplannedFailover, &["web1"]);
    spec.primary_down_assertion = Some("nobody answers".into());
    let run = start(client, spec).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.commit_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Succeeded).await;
    in_state(client, "web1", ItemState::NotProtected).await;
    let fenced = async || {
        let facts = stage.estate.facts(ALPHA);
        facts.items.iter().any(|i| i.role == ItemRole::Fenced && i.generation.get() == 2)
    };
    eventually("alpha is fenced at the new generation", fenced).await;
    assert_eq!(stage.estate.machine(ALPHA, "web1").unwrap().power, PowerState::ShutOff);
    let filter = || JobFilter { kind: Some("reconcile".into()), ..JobFilter::default() };
    eventually("the correction is over and done with", async || {
        let jobs = stage.jobs().list_jobs(filter(), 0, None).await.unwrap().items;
        stage.count("SELECT count(*) FROM corrections").await == 0
            && !jobs.is_empty()
            && jobs.iter().all(|job| job.state == JobState::Succeeded)
    })
    .await;
    let jobs = stage.jobs().list_jobs(filter(), 0, None).await.unwrap().items;
    let fences = jobs.iter().filter(|job| job.targets.iter().any(|t| t == "sites/alpha/hosts/h1")).count();
    assert_eq!(fences, 1, "{jobs:#?}");
}
