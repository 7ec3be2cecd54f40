//! R-JOB-3, invariant 3: each task is given to one worker at a time, and only the current attempt counts.

use std::{collections::BTreeSet, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use understudy_jobs_api::{
    TaskState, reason,
    v1::{self, complete_task_request::Outcome},
};
use understudy_rpc::{ApiError, Kind};
use understudy_types_api::v1::Problem;

use crate::support::*;

pub struct RawSession {
    pub demands: mpsc::Sender<v1::LeaseTasksRequest>,
    pub tasks: tonic::Streaming<v1::LeasedTask>,
}

pub async fn session(
    tracker: &Tracker,
    identity: &str,
    queue: &str,
    credits: u32,
) -> Result<RawSession, ApiError> {
    let (demands, demanded) = mpsc::channel(8);
    demands.send(v1::LeaseTasksRequest { queue: queue.into(), credits }).await.unwrap();
    let tasks = tracker.raw_worker(identity).lease_tasks(ReceiverStream::new(demanded)).await?.into_inner();
    Ok(RawSession { demands, tasks })
}

impl RawSession {
    pub async fn next(&mut self) -> v1::LeasedTask {
        timeout(Duration::from_secs(20), self.tasks.message())
            .await
            .expect("a task in time")
            .unwrap()
            .unwrap()
    }

    pub async fn nothing_for(&mut self, span: Duration) -> bool {
        timeout(span, self.tasks.message()).await.is_err()
    }
}

pub async fn lease_one(tracker: &Tracker) -> v1::LeasedTask {
    session(tracker, AGENT, QUEUE, 1).await.unwrap().next().await
}

pub async fn heartbeat(tracker: &Tracker, task: &v1::LeasedTask) -> Result<v1::HeartbeatResponse, ApiError> {
    let request = v1::HeartbeatRequest {
        task: task.task.clone(),
        attempt: task.attempt,
        progress_percent: 50,
        progress_text: "half".into(),
    };
    Ok(tracker.raw_worker(AGENT).heartbeat(request).await?.into_inner())
}

pub fn success(result: &str) -> Outcome {
    Outcome::Succeeded(text(result))
}

pub fn retry(message: &str) -> Outcome {
    Outcome::Retry(Problem { reason: "R".into(), message: message.into(), ..Problem::default() })
}

pub async fn complete(
    tracker: &Tracker,
    task: &v1::LeasedTask,
    outcome: Outcome,
) -> Result<v1::Task, ApiError> {
    let request =
        v1::CompleteTaskRequest { task: task.task.clone(), attempt: task.attempt, outcome: Some(outcome) };
    Ok(tracker.raw_worker(AGENT).complete_task(request).await?.into_inner().task.unwrap())
}

fn is_lost<T: std::fmt::Debug>(answer: Result<T, ApiError>) {
    let error = answer.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (Kind::Aborted, reason::LEASE_LOST));
}

#[tokio::test]
async fn many_workers_get_each_task_once_and_no_more_than_their_credits() {
    let tracker = Tracker::start().await;
    let tasks = (0..60).map(|n| task(&format!("t{n}"))).collect();
    tracker.jobs(ORCHESTRATOR).create_job(job(tasks)).await.unwrap();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(session(&tracker, AGENT, QUEUE, 10).await.unwrap());
    }
    let mut seen = BTreeSet::new();
    for session in &mut sessions {
        for _ in 0..10 {
            let leased = session.next().await;
            assert_eq!(leased.attempt, 1);
            assert!(seen.insert(leased.task), "a task was given twice");
        }
        assert!(session.nothing_for(Duration::from_millis(300)).await, "more than the credits");
    }
    sessions[0].demands.send(v1::LeaseTasksRequest { queue: String::new(), credits: 20 }).await.unwrap();
    for _ in 0..20 {
        assert!(seen.insert(sessions[0].next().await.task));
    }
    assert_eq!(tracker.count("SELECT count(*) FROM tasks WHERE state = 'leased' AND attempt = 1").await, 60);
}

#[tokio::test]
async fn a_waiting_worker_is_woken_well_before_it_would_poll() {
    let tracker = Tracker::start().await;
    let mut session = session(&tracker, AGENT, QUEUE, 1).await.unwrap();
    assert!(session.nothing_for(Duration::from_millis(50)).await);
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("a")])).await.unwrap();
    session.next().await;
}

#[tokio::test]
async fn a_silent_worker_loses_its_task_and_its_late_completion_is_refused() {
    let tracker = Tracker::with_lease(Duration::from_millis(400)).await;
    let id = tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("a")])).await.unwrap().id;
    let mut session = session(&tracker, AGENT, QUEUE, 5).await.unwrap();
    let first = session.next().await;
    let second = session.next().await;
    assert_eq!((first.task.as_str(), second.attempt), (second.task.as_str(), 2));
    is_lost(complete(&tracker, &first, success("late")).await);
    is_lost(heartbeat(&tracker, &first).await);
    complete(&tracker, &second, success("in time")).await.unwrap();
    is_lost(complete(&tracker, &first, success("very late")).await);
    let task = tracker.jobs(USER).list_tasks(id, 0, None).await.unwrap().items.remove(0);
    assert_eq!((task.state, task.result, task.error), (TaskState::Succeeded, Some(text("in time")), None));
}

#[tokio::test]
async fn heartbeats_keep_a_lease_for_longer_than_its_term() {
    let tracker = Tracker::with_lease(Duration::from_millis(600)).await;
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("a")])).await.unwrap();
    let leased = lease_one(&tracker).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        heartbeat(&tracker, &leased).await.unwrap();
    }
    complete(&tracker, &leased, success("done")).await.unwrap();
    assert_eq!(tracker.count("SELECT count(*) FROM events").await, 5, "job, task, lease, one progress, end");
}

/// Invariant 16: when the last allowed attempt falls silent, nobody knows what became of it.
#[tokio::test]
async fn the_last_attempt_that_falls_silent_is_unknown() {
    let tracker = Tracker::with_lease(Duration::from_millis(300)).await;
    let mut new = task("a");
    new.max_attempts = 1;
    let id = tracker.jobs(ORCHESTRATOR).create_job(job(vec![new])).await.unwrap().id;
    lease_one(&tracker).await;
    let jobs = tracker.jobs(USER);
    eventually("unknown", async || {
        jobs.list_tasks(id, 0, None).await.unwrap().items[0].state == TaskState::Unknown
    })
    .await;
    let task = jobs.list_tasks(id, 0, None).await.unwrap().items.remove(0);
    assert_eq!(task.error.unwrap().reason, "LEASE_EXPIRED");
}

#[tokio::test]
async fn the_same_completion_is_accepted_again_and_another_is_not() {
    let tracker = Tracker::start().await;
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("a")])).await.unwrap();
    let leased = lease_one(&tracker).await;
    let first = complete(&tracker, &leased, success("done")).await.unwrap();
    assert_eq!(complete(&tracker, &leased, success("done")).await.unwrap(), first);
    is_lost(complete(&tracker, &leased, success("otherwise")).await);
    is_lost(complete(&tracker, &leased, retry("otherwise")).await);
    assert_eq!(tracker.count("SELECT count(*) FROM events").await, 4, "job, task, lease, one end");
}

#[tokio::test]
async fn a_retry_is_leased_again_after_a_delay_until_attempts_run_out() {
    let tracker = Tracker::start().await;
    let mut new = task("a");
    new.max_attempts = 2;
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![new])).await.unwrap();
    let mut session = session(&tracker, AGENT, QUEUE, 5).await.unwrap();
    let first = session.next().await;
    let queued = complete(&tracker, &first, retry("busy")).await.unwrap();
    assert_eq!(queued.state, v1::TaskState::Queued as i32);
    assert_eq!(complete(&tracker, &first, retry("busy")).await.unwrap(), queued, "the same answer again");
    assert!(session.nothing_for(Duration::from_millis(300)).await, "it rests first");
    let second = session.next().await;
    assert_eq!(second.attempt, 2);
    let failed = complete(&tracker, &second, retry("still busy")).await.unwrap();
    assert_eq!(failed.state, v1::TaskState::Failed as i32);
    assert_eq!(failed.error.unwrap().message, "still busy");
}

#[tokio::test]
async fn a_task_is_not_leased_before_its_time() {
    let tracker = Tracker::start().await;
    let mut later = task("later");
    let now = understudy_ids::UnixMicros::from(std::time::SystemTime::now());
    later.not_before = Some(now.plus(Duration::from_secs(1)));
    tracker.jobs(ORCHESTRATOR).create_job(job(vec![later, task("now")])).await.unwrap();
    let mut session = session(&tracker, AGENT, QUEUE, 5).await.unwrap();
    assert_eq!(session.next().await.key, "now");
    assert!(session.nothing_for(Duration::from_millis(300)).await);
    assert_eq!(session.next().await.key, "later");
}
