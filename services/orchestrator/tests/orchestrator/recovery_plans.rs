//! Recovery plans (R-RP): kept, followed by runs, and steered by people.

use std::{collections::BTreeSet, time::Duration};

use understudy_ids::StepName;
use understudy_recovery::recovery_plan::{ActionKind, Gate, GroupItem, PlanAction, PlanGroup, RecoveryPlan};
use understudy_recovery_api::{
    Operation, RecoveryClient, RunState, StepState,
    request::{AnswerRun, CreatePlan, DeletePlan, RunSpec, StartRun, UpdatePlan},
    view::Run,
};
use understudy_rpc::Kind;

use crate::support::*;

fn group(name: &str, item_name: &str) -> PlanGroup {
    PlanGroup {
        name: name.parse().unwrap(),
        items: vec![GroupItem { item: item(item_name), after: BTreeSet::new() }],
        at_once: None,
        before: Vec::new(),
        after: Vec::new(),
        gate: Gate::Open,
        delay: None,
    }
}

fn shop() -> RecoveryPlan {
    let look = PlanAction {
        name: "look-at-data".parse().unwrap(),
        operations: BTreeSet::new(),
        towards: None,
        may_fail: false,
        what: ActionKind::Manual { instructions: "Compare the last order.".to_owned() },
    };
    RecoveryPlan {
        name: "shop".parse().unwrap(),
        source_site: "alpha".parse().unwrap(),
        target_site: "bravo".parse().unwrap(),
        groups: vec![
            PlanGroup { after: vec![look], delay: Some(Duration::from_millis(1500)), ..group("data", "db1") },
            group("web", "web1"),
        ],
    }
}

fn create(plan: RecoveryPlan) -> CreatePlan {
    CreatePlan { plan, request_id: fresh() }
}

fn by_plan(operation: Operation) -> RunSpec {
    RunSpec { recovery_plan: Some("shop".parse().unwrap()), ..spec(operation, &[]) }
}

fn answer(run: &Run, step: &str) -> AnswerRun {
    AnswerRun { run: run.name, step: step.parse().unwrap(), request_id: fresh() }
}

fn step<'a>(run: &'a Run, name: &str) -> &'a understudy_recovery_api::view::RunStep {
    let name: StepName = name.parse().unwrap();
    run.steps.iter().find(|step| step.plan.step == name).unwrap_or_else(|| panic!("{name} in {run:#?}"))
}

async fn both_protected(stage: &Stage, client: &RecoveryClient) {
    stage.introduce(client).await;
    protected(client, "web1").await;
    protected(client, "db1").await;
}

/// R-RP-1, R-RP-2: a run by a plan takes its items in its order, waits where it says, and keeps who confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_follows_its_plan_also_when_the_orchestrator_is_started_anew() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    both_protected(&stage, &instance.client).await;
    let asked = create(shop());
    let made = instance.client.create_plan(asked.clone()).await.unwrap();
    assert_eq!((&made.plan, made.problems.as_slice()), (&shop(), [].as_slice()));
    assert_eq!(instance.client.create_plan(asked).await.unwrap(), made, "the same request again");

    let run = start(&instance.client, by_plan(Operation::TestFailover)).await.unwrap();
    assert_eq!(run.spec.recovery_plan, Some("shop".parse().unwrap()));
    let waiting = until(&instance.client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.waiting_for, "look-at-data: Compare the last order. Then confirm, or reject.");
    assert_eq!(step(&waiting, "web1.start").state, StepState::Pending);
    // What is asked outlives who asks, and what the plan has become since is no matter.
    instance.crash();
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    let mut other = shop();
    other.groups[0].after.clear();
    let etag = client.get_plan(&shop().name).await.unwrap().etag;
    client.update_plan(UpdatePlan { plan: other, etag, request_id: fresh() }).await.unwrap();
    let wrong = client.confirm_run(answer(&run, "group-1.delay")).await.unwrap_err();
    assert_eq!(wrong.reason, "VERB_NOT_ALLOWED");
    let confirmed = answer(&run, "group-1.after-1");
    let began = std::time::Instant::now();
    client.confirm_run(confirmed.clone()).await.unwrap();
    client.confirm_run(confirmed).await.unwrap();
    let late = client.confirm_run(answer(&run, "group-1.after-1")).await.unwrap_err();
    assert_eq!(late.reason, "VERB_NOT_ALLOWED", "somebody was faster");
    eventually("it waits for the test's end", async || {
        let run = client.get_run(run.name).await.unwrap();
        run.allowed_actions.iter().any(|verb| verb == "complete-test")
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "the delay was not kept");
    client.complete_test(complete(run.name, "")).await.unwrap();
    let done = until(client, run.name, RunState::Succeeded).await;
    assert!(step(&done, "group-1.after-1").outcome.starts_with("confirmed by spiffe://"));
    let times = |name: &str| (step(&done, name).start_time.unwrap(), step(&done, name).end_time.unwrap());
    assert!(times("db1.start").1 <= times("group-1.after-1").0);
    assert!(times("group-1.after-1").1 <= times("group-1.delay").0);
    assert!(times("group-1.delay").1 <= times("web1.start").0);
    let count =
        "SELECT count(*) FROM audit WHERE what = 'FailoverService/ConfirmRun' AND decision = 'allowed'";
    assert_eq!(stage.count(count).await, 1, "invariant 12");
}

/// *No* before anything was switched leaves everything as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_action_can_be_asked_again_or_taken_back() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    both_protected(&stage, client).await;
    let mut plan = shop();
    let action = plan.groups[0].after.remove(0);
    plan.groups[0].before.push(action);
    client.create_plan(create(plan)).await.unwrap();
    let run = start(client, by_plan(Operation::PlannedFailover)).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.reject_run(answer(&run, "group-1.before-1")).await.unwrap();
    let halted = until(client, run.name, RunState::Failed).await;
    assert_eq!(halted.problems[0].reason, "MANUAL_ACTION_REJECTED");
    client.retry_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;
    for name in ["web1", "db1"] {
        in_state(client, name, understudy_recovery_api::ItemState::Protected).await;
    }
}

/// All at once, before anything is kept; and what has become wrong since is told with the plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_that_cannot_be_followed_are_refused_and_those_that_no_longer_can_say_so() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    both_protected(&stage, client).await;
    let mut strange = shop();
    strange.target_site = "charlie".parse().unwrap();
    strange.groups[1].items[0].item = item("web7");
    let refused = client.create_plan(create(strange)).await.unwrap_err();
    let mut told = reasons(&refused);
    told.sort();
    assert_eq!(told, ["ITEM_NOT_FOUND", "ITEM_OF_OTHER_SITES", "SITE_NOT_FOUND"]);
    client.create_plan(create(shop())).await.unwrap();
    assert_eq!(client.create_plan(create(shop())).await.unwrap_err().kind, Kind::AlreadyExists);
    let etag = client.get_plan(&shop().name).await.unwrap().etag;
    let update = |etag: &str| UpdatePlan { plan: shop(), etag: etag.to_owned(), request_id: fresh() };
    assert_eq!(
        client.update_plan(update(&"0".repeat(32))).await.unwrap_err().reason,
        "RECOVERY_PLAN_CHANGED"
    );
    client.update_plan(update(&etag)).await.unwrap();

    // Somebody names other items than those that the plan has by now.
    let named = RunSpec { items: [item("db1")].into(), ..by_plan(Operation::TestFailover) };
    let preview = client.preview_run(named).await.unwrap();
    assert_eq!(preview.problems[0].reason, "ITEMS_DIFFER_FROM_PLAN");
    let shown = client.preview_run(by_plan(Operation::TestFailover)).await.unwrap();
    assert_eq!(shown.spec.items.len(), 2, "what is shown can be started as it is");
    let whole = StartRun { spec: shown.spec, plan_digest: shown.digest, request_id: fresh() };
    let run = client.start_run(whole).await.unwrap();
    until(client, run.name, RunState::Waiting).await;
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;

    // One of the two goes over by itself: the plan's items are at both sites then (R-FO-3).
    let alone = start(client, spec(Operation::PlannedFailover, &["db1"])).await.unwrap();
    until(client, alone.name, RunState::Waiting).await;
    client.commit_run(verb(alone.name)).await.unwrap();
    until(client, alone.name, RunState::Succeeded).await;
    let mixed = client.preview_run(by_plan(Operation::PlannedFailover)).await.unwrap();
    assert_eq!(mixed.problems[0].reason, "DIRECTION_NEEDED");
    let from = RunSpec { from_site: Some("alpha".parse().unwrap()), ..by_plan(Operation::PlannedFailover) };
    let preview = client.preview_run(from).await.unwrap();
    assert_eq!(preview.problems, []);
    assert_eq!(preview.spec.items, [item("web1")].into());
    assert!(preview.notices.iter().any(|n| n == "db1 is active at bravo, and stays there"), "{preview:#?}");

    let delete = DeletePlan { plan: shop().name, request_id: fresh() };
    client.delete_plan(delete.clone()).await.unwrap();
    client.delete_plan(delete).await.unwrap();
    assert_eq!(client.get_plan(&shop().name).await.unwrap_err().kind, Kind::NotFound);
    let gone = client.preview_run(by_plan(Operation::TestFailover)).await.unwrap_err();
    assert_eq!(gone.reason, "PLAN_NOT_FOUND");
}
