//! Having a replica read again: a job beside everything else, and damage that previews and items tell of (R-REP-5).

use understudy_estate::now;
use understudy_ids::{PointChoice, PointSeq, RunId};
use understudy_recovery_api::{HealthLevel, Operation, request::ScrubItem};
use understudy_replication_api::ScrubFacts;

use crate::support::*;

fn scrub(name: &str, point: Option<u64>) -> ScrubItem {
    ScrubItem { item: item(name), point: point.map(PointSeq::new), request_id: fresh() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_rep_5_a_scrub_is_one_job_of_one_task_at_the_standby_side_and_ends_with_it() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    assert_eq!(client.scrub_item(scrub("ghost", None)).await.unwrap_err().reason, "ITEM_NOT_FOUND");
    protected(client, "web1").await;
    let unknown = client.scrub_item(scrub("web1", Some(999))).await.unwrap_err();
    assert_eq!(unknown.problems[0].reason, "POINT_NOT_FOUND", "{unknown:?}");

    let request = scrub("web1", None);
    let job: RunId = client.scrub_item(request.clone()).await.unwrap();
    assert_eq!(client.scrub_item(request.clone()).await.unwrap(), job, "the same request is the same job");
    let other = ScrubItem { point: Some(PointSeq::new(1)), ..request };
    client.scrub_item(other).await.unwrap_err();
    // It is no run: nothing holds the item.
    assert_eq!(client.get_item(&item("web1")).await.unwrap().run, None);
    eventually("the job's end", async || stage.jobs().get_job(job).await.is_ok_and(|j| j.state.is_final()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_rep_5_damage_is_told_with_the_item_its_points_its_health_and_in_previews() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let web1 = protected(client, "web1").await;
    let latest = web1.latest_point.unwrap();
    let at = now();
    stage.estate.change(BRAVO, |facts| {
        facts.items[0].scrub = ScrubFacts { last_end: Some(at), checked_blocks: 7, under_way_since: None };
        let damaged = facts.items[0].points.last_mut().expect("a point");
        damaged.damaged_blocks = 2;
    });
    eventually("the damage is told", async || {
        client.list_points(&item("web1"), Default::default()).await.unwrap().entries[0].damaged_blocks == 2
    })
    .await;
    let told = client.get_item(&item("web1")).await.unwrap();
    assert_eq!((told.scrub.last_end, told.scrub.checked_blocks), (Some(at), 7));
    assert_ne!(told.latest_point, Some(latest));
    assert_eq!(told.health.level, HealthLevel::Critical, "{:?}", told.health);
    let mut spec = spec(Operation::TestFailover, &["web1"]);
    spec.test_network = understudy_recovery::test_network::TestNetwork::None;
    spec.points = [(item("web1"), PointChoice::Seq(latest))].into();
    let preview = client.preview_run(spec).await.unwrap();
    assert!(preview.problems.iter().any(|p| p.reason == "POINT_DAMAGED"), "{:?}", preview.problems);
}
