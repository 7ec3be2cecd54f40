//! R-JOB-1: jobs as `google.longrunning.Operations`, for programs that know no more than that.

use std::time::{Duration, Instant};

use understudy_ids::{Problem, Uuid};
use understudy_jobs_api::{
    Change, Job, JobState, WatchFilter, WatchFrom,
    longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        Operation, WaitOperationRequest, operation, operations_client::OperationsClient,
    },
    reason, unpack, v1,
};
use understudy_rpc::{ApiError, Channel, Kind};

use crate::support::*;

fn operations(tracker: &Tracker, identity: &str) -> OperationsClient<Channel> {
    OperationsClient::new(tracker.channel(identity))
}

async fn made(tracker: &Tracker) -> Job {
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap()
}

async fn get(tracker: &Tracker, job: &Job) -> Operation {
    let request = GetOperationRequest { name: job.name().to_string() };
    operations(tracker, USER).get_operation(request).await.unwrap().into_inner()
}

fn wait(job: &Job, time_out: Option<Duration>) -> WaitOperationRequest {
    let timeout = time_out.map(|t| prost_types::Duration::try_from(t).unwrap());
    WaitOperationRequest { name: job.name().to_string(), timeout }
}

#[tokio::test]
async fn an_operation_is_its_job_from_the_queue_to_its_end() {
    let tracker = Tracker::start().await;
    let owner = tracker.jobs(ORCHESTRATOR);
    let (good, bad) = (made(&tracker).await, made(&tracker).await);
    let operation = get(&tracker, &good).await;
    assert_eq!((operation.name, operation.done), (good.name().to_string(), false));
    let metadata: v1::Job = unpack(&operation.metadata.unwrap()).unwrap();
    assert_eq!((metadata.state(), metadata.revision), (v1::JobState::Queued, 1));

    let mut end = update(good.id, JobState::Succeeded);
    end.report_json = Some("{\"rto_s\":4}".into());
    owner.update_job(end).await.unwrap();
    let Some(operation::Result::Response(response)) = get(&tracker, &good).await.result else { panic!() };
    assert_eq!(unpack::<v1::JobResult>(&response).unwrap().report_json, "{\"rto_s\":4}");

    let mut end = update(bad.id, JobState::CompletedWithErrors);
    end.problems = vec![Problem::new("NO_ROOM", "hosts/bravo/h1", "is full", "Make room.")];
    owner.update_job(end).await.unwrap();
    let Some(operation::Result::Error(status)) = get(&tracker, &bad).await.result else { panic!() };
    let error = ApiError::from_message(&status);
    assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, "NO_ROOM"));
    assert_eq!((error.problems.len(), &*error.remedy), (1, "Make room."));
}

#[tokio::test]
async fn operations_are_listed_as_jobs_are_by_filter_and_page() {
    let tracker = Tracker::start().await;
    let mut names = Vec::new();
    for n in 0..5 {
        let one = made(&tracker).await;
        if n % 2 == 0 {
            tracker.jobs(ORCHESTRATOR).update_job(update(one.id, JobState::Failed)).await.unwrap();
            names.insert(0, one.name().to_string());
        }
    }
    let mut client = operations(&tracker, USER);
    let filter = "done = true AND type = \"test-failover\" AND target = \"protectedItems/web1\"";
    let mut request =
        ListOperationsRequest { filter: filter.into(), page_size: 2, ..ListOperationsRequest::default() };
    let first = client.list_operations(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token;
    let second = client.list_operations(request.clone()).await.unwrap().into_inner();
    let listed: Vec<_> = first.operations.into_iter().chain(second.operations).map(|o| o.name).collect();
    assert_eq!((listed, second.next_page_token.as_str()), (names, ""));
    // With another filter the token would leave operations out.
    request.filter = "done = false".into();
    let error = ApiError::from(client.list_operations(request).await.unwrap_err());
    assert_eq!(&*error.reason, "PAGE_TOKEN");
}

/// Woken by the end itself: the instance that is asked polls only once a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_the_job_or_its_time_and_not_later() {
    let tracker = Tracker::with_poll(Duration::from_secs(60)).await;
    let waited_for = made(&tracker).await;
    let mut client = operations(&tracker, USER);
    let began = Instant::now();
    let operation = client.wait_operation(wait(&waited_for, Some(Duration::from_millis(300)))).await.unwrap();
    assert!(!operation.into_inner().done);
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&began.elapsed()));

    let request = wait(&waited_for, None);
    let waiting = tokio::spawn(async move { client.wait_operation(request).await.unwrap().into_inner() });
    let owner = tracker.jobs(ORCHESTRATOR);
    owner.update_job(update(waited_for.id, JobState::Running)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "it is not over");
    owner.update_job(update(waited_for.id, JobState::Succeeded)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("it was woken").unwrap().done);

    // What has ended is not waited for, and the caller's own deadline leaves time for an answer.
    let mut client = operations(&tracker, USER);
    assert!(client.wait_operation(wait(&waited_for, None)).await.unwrap().into_inner().done);
    let mut request = tonic::Request::new(wait(&made(&tracker).await, Some(Duration::from_secs(3600))));
    request.set_timeout(Duration::from_secs(2));
    assert!(!client.wait_operation(request).await.expect("the latest state").into_inner().done);
}

/// What ends a job is decided by its owner, who is told once; where the job does not allow it, nobody is.
#[tokio::test]
async fn an_end_is_asked_for_only_where_the_job_allows_it() {
    let tracker = Tracker::start().await;
    let owner = tracker.jobs(ORCHESTRATOR);
    let job = made(&tracker).await;
    let mut client = operations(&tracker, USER);
    let cancel = CancelOperationRequest { name: job.name().to_string() };
    let error = ApiError::from(client.cancel_operation(cancel.clone()).await.unwrap_err());
    assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, reason::CANCEL_NOT_ALLOWED));

    let mut commit = update(job.id, JobState::Waiting);
    commit.allowed_actions = vec!["commit".into()];
    owner.update_job(commit).await.unwrap();
    let error = ApiError::from(client.cancel_operation(cancel.clone()).await.unwrap_err());
    assert_eq!((&*error.reason, &*error.remedy), (reason::CANCEL_NOT_ALLOWED, "What it allows now: commit."));

    owner.update_job(update(job.id, JobState::Running)).await.unwrap();
    client.cancel_operation(cancel.clone()).await.unwrap();
    let filter = WatchFilter { owner: Some(job.owner.clone()), ..WatchFilter::default() };
    let mut events = Box::pin(owner.watch_events(WatchFrom::Start, filter));
    let request = loop {
        let event = futures::StreamExt::next(&mut events).await.unwrap().unwrap();
        if let Change::CancelRequested(request) = event.change {
            break request;
        }
    };
    assert_eq!((request.job, request.by.as_str()), (job.id, "spiffe://understudy/user/ops"));

    let before = tracker.count("SELECT last_sequence FROM event_clock").await;
    owner.update_job(update(job.id, JobState::Cancelling)).await.unwrap();
    client.cancel_operation(cancel.clone()).await.expect("it is under way");
    assert_eq!(tracker.count("SELECT last_sequence FROM event_clock").await, before + 1);
    owner.update_job(update(job.id, JobState::Cancelled)).await.unwrap();
    let error = ApiError::from(client.cancel_operation(cancel).await.unwrap_err());
    assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, reason::JOB_STATE));
    let Some(operation::Result::Error(status)) = get(&tracker, &job).await.result else { panic!() };
    assert_eq!(status.code, i32::from(tonic::Code::Cancelled));
    let audited = "SELECT count(*) FROM audit WHERE method = 'CancelOperation' AND caller LIKE '%user/ops'";
    assert_eq!(tracker.count(audited).await, 4, "three refusals and one request");
}

#[tokio::test]
async fn bad_requests_are_told_everything_and_nothing_is_deleted() {
    let tracker = Tracker::start().await;
    let mut client = operations(&tracker, USER);
    let told = |error: tonic::Status| {
        let error = ApiError::from(error);
        assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
        error.problems.into_iter().map(|p| p.subject).collect::<Vec<_>>()
    };
    let list = ListOperationsRequest {
        name: "operations".into(),
        filter: "size = 3 AND done = perhaps".into(),
        page_size: -1,
        page_token: "x".repeat(301),
        ..ListOperationsRequest::default()
    };
    let subjects = ["name", "filter", "filter", "page_size", "page_token"];
    assert_eq!(told(client.list_operations(list).await.unwrap_err()), subjects);
    let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let request = WaitOperationRequest { name: "operations/1".into(), timeout };
    assert_eq!(told(client.wait_operation(request).await.unwrap_err()), ["name", "timeout"]);
    let name = format!("jobs/{}", Uuid::new_v4());
    let error = client.get_operation(GetOperationRequest { name }).await.unwrap_err();
    assert_eq!(ApiError::from(error).kind, Kind::NotFound);

    let job = made(&tracker).await;
    let request = DeleteOperationRequest { name: job.name().to_string() };
    let error = ApiError::from(client.delete_operation(request).await.unwrap_err());
    assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, "HISTORY_IS_KEPT"));
    assert!(!get(&tracker, &job).await.done);
}

#[tokio::test]
async fn workers_have_no_operations() {
    let tracker = Tracker::start().await;
    let job = made(&tracker).await;
    for (caller, allowed) in [(ORCHESTRATOR, true), (MAPPER, true), (USER, true), (AGENT, false)] {
        let request = GetOperationRequest { name: job.name().to_string() };
        let got = operations(&tracker, caller).get_operation(request).await.map_err(ApiError::from);
        assert_eq!(got.is_ok(), allowed, "{caller}");
        assert!(got.is_ok() || got.unwrap_err().kind == Kind::PermissionDenied, "{caller}");
    }
}
