//! What machines are asked: set, shown, followed by runs (R-TF-8).

use understudy_estate::PICTURE;
use understudy_recovery_api::{
    Operation, RecoveryClient, RunState, StepState,
    request::SetItemProbes,
    view::{Run, RunStep},
};
use understudy_rpc::Kind;

use crate::support::*;

fn set(name: &str, probes: &[&str]) -> SetItemProbes {
    let probes = probes.iter().map(|probe| probe.parse().unwrap()).collect();
    SetItemProbes { item: item(name), probes, request_id: fresh() }
}

async fn shown(client: &RecoveryClient, name: &str) -> Vec<String> {
    client.get_item(&item(name)).await.unwrap().probes.iter().map(ToString::to_string).collect()
}

fn asked(run: &Run) -> Vec<&RunStep> {
    run.steps.iter().filter(|step| step.plan.step.as_str().contains(".probe")).collect()
}

/// R-TF-8: kept, shown, asked by the next run, and told with what was seen; one that fails fails alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_kept_and_asked_by_the_next_run() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    assert_eq!(protected(client, "web1").await.probes, []);
    let request = set("web1", &["tcp:9,name=discard,within=5s", "http:80/health,contains=all good"]);
    let item = client.set_item_probes(request.clone()).await.unwrap();
    assert_eq!(item.probes, request.probes);
    assert_eq!(
        client.set_item_probes(request.clone()).await.unwrap().probes,
        item.probes,
        "the same request again"
    );
    assert_eq!(client.list_items(Default::default()).await.unwrap().entries[0].probes, request.probes);

    let run = start(client, spec(Operation::TestFailover, &["web1"])).await.unwrap();
    // What is asked was decided when it was planned.
    client.set_item_probes(set("web1", &[])).await.unwrap();
    let waiting = until(client, run.name, RunState::Waiting).await;
    let [discard, http] = asked(&waiting)[..] else { panic!("{waiting:#?}") };
    assert_eq!(discard.state, StepState::Failed);
    let error = discard.error.as_ref().unwrap();
    assert_eq!(error.reason, "NOT_REACHABLE");
    assert!(error.message.ends_with(": played tcp:9,name=discard,within=5s"), "{error:?}");
    assert_eq!(http.state, StepState::Succeeded);
    assert!(http.outcome.ends_with(": played http:80/health,contains=all good"), "{}", http.outcome);
    // The picture is beside the run, and not in it.
    let shown_then = client.get_screenshot(run.name, &item.name).await.unwrap();
    assert_eq!(shown_then.png, PICTURE);
    let look = waiting.steps.iter().find(|step| step.plan.step.as_str() == "web1.screenshot").unwrap();
    assert_eq!(look.outcome, format!("{} bytes, kept with the run", PICTURE.len()));
    let other = client.get_screenshot(run.name, &crate::support::item("db1")).await.unwrap_err();
    assert_eq!((other.kind, other.reason.as_ref()), (Kind::NotFound, "NO_SCREENSHOT"));
    let nowhere = client.get_screenshot(understudy_ids::Uuid::from_u128(1), &item.name).await.unwrap_err();
    assert_eq!(nowhere.reason, "RUN_NOT_FOUND");
    client.complete_test(complete(run.name, "")).await.unwrap();
    until(client, run.name, RunState::CompletedWithErrors).await;
    eventually("the report is with the job", async || {
        let report = stage.jobs().get_job(run.name).await.unwrap().report_json.unwrap_or_default();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        let probes = &report["probes"];
        probes[0]["passed"] == false && probes[1]["passed"] == true && probes[1]["name"] == "http-80"
    })
    .await;
    assert_eq!(shown(client, "web1").await, Vec::<String>::new());
}

/// Invariant 12; of two who write at once, one whole list is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_whole_and_on_record() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let (one, other) = (["ping", "tcp:80"], ["guest-agent", "tcp:22"]);
    let (first, second) =
        tokio::join!(client.set_item_probes(set("web1", &one)), client.set_item_probes(set("web1", &other)));
    assert!(first.is_ok() && second.is_ok());
    let kept = shown(client, "web1").await;
    assert!(kept == one || kept == other, "{kept:?}");

    let unknown = client.set_item_probes(set("nobody", &["ping"])).await.unwrap_err();
    assert_eq!((unknown.kind, unknown.reason.as_ref()), (Kind::NotFound, "ITEM_NOT_FOUND"));
    let mut bad = set("web1", &["ping", "ping", "http:80/"]);
    bad.probes[2].time_out = std::time::Duration::from_millis(1500);
    let refused = client.set_item_probes(bad).await.unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidArgument);
    let fields: Vec<&str> = refused.problems.iter().map(|problem| problem.subject.as_str()).collect();
    assert_eq!(fields, ["probes[1].name", "probes[2].time_out"]);
    assert_eq!(shown(client, "web1").await, kept);
    let records = client.list_audit_records(Default::default()).await.unwrap().entries;
    let decisions: Vec<&str> = records
        .iter()
        .filter(|record| record.what == "ProtectionService/SetItemProbes")
        .map(|record| record.decision.as_str())
        .collect();
    assert_eq!(decisions, ["refused", "refused", "allowed", "allowed"]);
}
