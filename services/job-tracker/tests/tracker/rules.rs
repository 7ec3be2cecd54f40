//! Who may do what, and what bad input is told.

use understudy_ids::Uuid;
use understudy_jobs_api::{JobState, NewNote, v1};
use understudy_rpc::{ApiError, Kind};

use crate::{leases, support::*};

const EVERYONE: [&str; 6] = [ORCHESTRATOR, MAPPER, "service/job-tracker", AGENT, OTHER_AGENT, USER];

async fn allowed<T>(call: impl Future<Output = Result<T, ApiError>>) -> bool {
    match call.await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind, Kind::PermissionDenied, "{error}");
            false
        }
    }
}

#[tokio::test]
async fn each_identity_does_what_it_may_and_nothing_else() {
    let tracker = Tracker::start().await;
    let id = tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap().id;
    for caller in EVERYONE {
        let jobs = tracker.jobs(caller);
        let owner = [ORCHESTRATOR, MAPPER].contains(&caller);
        let reader = owner || caller == USER;
        let mine = caller == ORCHESTRATOR;
        assert_eq!(allowed(jobs.create_job(job(vec![]))).await, owner, "{caller} creates");
        assert_eq!(allowed(jobs.update_job(update(id, JobState::Running))).await, mine, "{caller} updates");
        assert_eq!(allowed(jobs.enqueue_tasks(id, vec![task(caller)])).await, mine, "{caller} enqueues");
        assert_eq!(allowed(jobs.cancel_tasks(id, vec![])).await, mine, "{caller} cancels");
        assert_eq!(allowed(jobs.get_job(id)).await, reader, "{caller} reads");
        assert_eq!(allowed(jobs.list_jobs(Default::default(), 0, None)).await, reader, "{caller} lists");
        assert_eq!(allowed(jobs.list_tasks(id, 0, None)).await, reader, "{caller} lists tasks");
        let note = NewNote { job: id, id: Uuid::new_v4(), author: String::new(), text: "n".into() };
        assert_eq!(allowed(jobs.add_note(note)).await, reader, "{caller} notes");
        assert_eq!(allowed(jobs.list_notes(id)).await, reader, "{caller} lists notes");
        let watch = async {
            let request = v1::WatchEventsRequest::default();
            tracker.raw_jobs(caller).watch_events(request).await.map_err(ApiError::from)
        };
        assert_eq!(allowed(watch).await, reader, "{caller} watches");
        for (queue, worker) in [(QUEUE, AGENT), ("hosts/bravo/h1", OTHER_AGENT), ("network-mapper", MAPPER)] {
            let open = leases::session(&tracker, caller, queue, 1);
            assert_eq!(allowed(open).await, caller == worker, "{caller} serves {queue}");
        }
    }
}

#[tokio::test]
async fn nobody_completes_or_renews_the_task_of_another_workers_queue() {
    let tracker = Tracker::start().await;
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("a")])).await.unwrap();
    let leased = leases::lease_one(&tracker).await;
    let complete = v1::CompleteTaskRequest {
        task: leased.task.clone(),
        attempt: leased.attempt,
        outcome: Some(leases::success("mine")),
    };
    let beat =
        v1::HeartbeatRequest { task: leased.task.clone(), attempt: 1, ..v1::HeartbeatRequest::default() };
    for caller in [OTHER_AGENT, MAPPER] {
        let mut worker = tracker.raw_worker(caller);
        let error = ApiError::from(worker.complete_task(complete.clone()).await.unwrap_err());
        assert_eq!((error.kind, &*error.reason), (Kind::PermissionDenied, "NOT_YOUR_QUEUE"));
        let error = ApiError::from(worker.heartbeat(beat.clone()).await.unwrap_err());
        assert_eq!(error.kind, Kind::PermissionDenied);
    }
    assert_eq!(tracker.count("SELECT count(*) FROM tasks WHERE state = 'leased'").await, 1);
}

fn wire_task() -> v1::NewTask {
    v1::NewTask {
        task_id: Uuid::new_v4().to_string(),
        key: "k".into(),
        title: "t".into(),
        queue: QUEUE.into(),
        payload: Some(text("p")),
        max_attempts: 1,
        ..v1::NewTask::default()
    }
}

fn wire_job() -> v1::CreateJobRequest {
    v1::CreateJobRequest {
        job_id: Uuid::new_v4().to_string(),
        r#type: "t".into(),
        ..v1::CreateJobRequest::default()
    }
}

/// Each row spoils a good request and names the fields that must be complained about, all of them at once.
#[tokio::test]
async fn bad_jobs_are_refused_with_everything_that_is_wrong_with_them() {
    type Spoil = fn(&mut v1::CreateJobRequest);
    let table: &[(Spoil, &[&str])] = &[
        (|r| r.job_id = "x".into(), &["job_id"]),
        (|r| r.job_id = Uuid::new_v4().to_string().to_uppercase(), &["job_id"]),
        (|r| r.r#type.clear(), &["type"]),
        (|r| r.r#type = "a\0b".into(), &["type"]),
        (|r| r.created_by = "x".repeat(301), &["created_by"]),
        (|r| r.targets = vec!["t".into(); 1001], &["targets"]),
        (|r| r.targets = vec!["ok".into(), String::new()], &["targets[1]."]),
        (|r| r.labels = (0..65).map(|n| (n.to_string(), String::new())).collect(), &["labels"]),
        (|r| r.tasks = vec![wire_task(), wire_task()], &["tasks[1].key"]),
        (|r| r.tasks = (0..1001).map(|_| v1::NewTask::default()).collect(), &["tasks"]),
        (
            |r| {
                r.job_id.clear();
                r.r#type.clear();
                r.tasks = vec![v1::NewTask { traceparent: "x".repeat(56), ..v1::NewTask::default() }];
            },
            &[
                "job_id",
                "type",
                "tasks[0].task_id",
                "tasks[0].queue",
                "tasks[0].payload",
                "tasks[0].max_attempts",
                "tasks[0].traceparent",
                "tasks[0].key",
            ],
        ),
        (
            |r| {
                let mut task = wire_task();
                task.payload.as_mut().unwrap().value = vec![0; (1 << 20) + 1];
                task.queue = "hosts/../etc".into();
                task.not_before.get_or_insert_default().nanos = -1;
                task.max_attempts = 1001;
                r.tasks = vec![task];
            },
            &["tasks[0].queue", "tasks[0].payload", "tasks[0].max_attempts", "tasks[0].not_before"],
        ),
    ];
    let tracker = Tracker::start().await;
    let mut client = tracker.raw_jobs(ORCHESTRATOR);
    for (n, (spoil, fields)) in table.iter().enumerate() {
        let mut request = wire_job();
        spoil(&mut request);
        let error = ApiError::from(client.create_job(request).await.unwrap_err());
        assert_eq!((error.kind, &*error.reason), (Kind::InvalidArgument, "INVALID_REQUEST"), "row {n}");
        let mut told: Vec<_> = error.problems.iter().map(|p| p.subject.as_str()).collect();
        let mut expected = fields.to_vec();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "row {n}");
        assert!(error.problems.iter().all(|p| !p.remedy.is_empty()), "row {n}");
    }
    assert_eq!(tracker.count("SELECT count(*) FROM jobs").await, 0);
    client.create_job(wire_job()).await.expect("the unspoiled request is good");
}

#[tokio::test]
async fn bad_updates_notes_pages_and_completions_are_refused() {
    let tracker = Tracker::start().await;
    let id = tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap().name().to_string();
    let mut jobs = tracker.raw_jobs(ORCHESTRATOR);
    let told = |error: tonic::Status| {
        let error = ApiError::from(error);
        assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
        error.problems.into_iter().map(|p| p.subject).collect::<Vec<_>>()
    };
    let update = v1::UpdateJobRequest {
        name: "jobs/x".into(),
        state: 99,
        progress_percent: 101,
        report_json: "{".into(),
        owner_sequence: u64::MAX,
        ..v1::UpdateJobRequest::default()
    };
    assert_eq!(
        told(jobs.update_job(update).await.unwrap_err()),
        ["name", "state", "owner_sequence", "progress_percent", "report_json"]
    );
    let waiting = v1::UpdateJobRequest {
        name: id.clone(),
        state: v1::JobState::Waiting.into(),
        ..v1::UpdateJobRequest::default()
    };
    assert_eq!(told(jobs.update_job(waiting).await.unwrap_err()), ["waiting_for"]);
    let note =
        v1::AddNoteRequest { job: id.clone(), text: "x".repeat(16385), ..v1::AddNoteRequest::default() };
    assert_eq!(told(jobs.add_note(note).await.unwrap_err()), ["request_id", "text"]);
    let list = v1::ListJobsRequest { page_size: 1001, states: vec![0], ..v1::ListJobsRequest::default() };
    assert_eq!(told(jobs.list_jobs(list).await.unwrap_err()), ["states[0].", "page_size"]);
    let tasks = v1::ListTasksRequest { job: id.clone(), page_token: "t1.x".into(), ..Default::default() };
    assert_eq!(ApiError::from(jobs.list_tasks(tasks).await.unwrap_err()).reason, "PAGE_TOKEN");
    let enqueue = v1::EnqueueTasksRequest { job: id, tasks: vec![] };
    assert_eq!(told(jobs.enqueue_tasks(enqueue).await.unwrap_err()), ["tasks"]);

    let mut worker = tracker.raw_worker(AGENT);
    let complete = v1::CompleteTaskRequest::default();
    assert_eq!(told(worker.complete_task(complete).await.unwrap_err()), ["task", "outcome"]);
    let session = |queue, credits| leases::session(&tracker, AGENT, queue, credits);
    for (queue, credits) in [("", 1), ("hosts/alpha", 1), (QUEUE, 1001)] {
        assert_eq!(
            session(queue, credits).await.err().unwrap().kind,
            Kind::InvalidArgument,
            "{queue} {credits}"
        );
    }
}

/// Invariant 14: a message beyond the limit of the connection is refused before it is read.
#[tokio::test]
async fn an_oversized_message_is_refused_and_the_connection_lives_on() {
    let tracker = Tracker::start().await;
    let mut client = tracker.raw_jobs(ORCHESTRATOR);
    let mut request = wire_job();
    request.tasks = (0..6).map(|_| wire_task()).collect();
    for (n, task) in request.tasks.iter_mut().enumerate() {
        task.key = n.to_string();
        task.payload.as_mut().unwrap().value = vec![7; 1 << 20];
    }
    let error = ApiError::from(client.create_job(request).await.unwrap_err());
    assert!(matches!(error.kind, Kind::InvalidArgument | Kind::ResourceExhausted), "{error:?}");
    client.create_job(wire_job()).await.unwrap();
}
