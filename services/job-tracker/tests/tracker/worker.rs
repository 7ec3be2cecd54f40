//! The worker's runtime against a real job-tracker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use understudy_ids::{Problem, Uuid};
use understudy_jobs_api::{Handler, JobsClient, LeasedTask, Outcome, Stop, Task, TaskContext, TaskState};

use crate::support::*;

/// Does what the key of the task says, and keeps a record.
pub struct Script {
    /// What each attempt saw when it ended: key, attempt, why it was told to stop.
    pub ended: Mutex<Vec<(String, u32, Option<Stop>)>>,
    running: Mutex<BTreeMap<String, u32>>,
    most_at_once: AtomicUsize,
    gate: Semaphore,
}

impl Script {
    fn new() -> Self {
        Self {
            ended: Mutex::default(),
            running: Mutex::default(),
            most_at_once: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        }
    }

    fn open(&self, attempts: usize) {
        self.gate.add_permits(attempts);
    }

    fn enter(&self, task: &LeasedTask) {
        let mut running = self.running.lock().unwrap();
        let other = running.insert(task.key.clone(), task.attempt);
        assert_eq!(other, None, "two attempts of one task at once");
        self.most_at_once.fetch_max(running.len(), Ordering::SeqCst);
    }

    fn leave(&self, task: &LeasedTask, why: Option<Stop>) {
        self.running.lock().unwrap().remove(&task.key);
        self.ended.lock().unwrap().push((task.key.clone(), task.attempt, why));
    }

    async fn act(&self, task: &LeasedTask, context: &TaskContext) -> Outcome {
        match task.key.split('-').next().unwrap_or_default() {
            "gate" => {
                context.progress(40, "at the gate");
                self.gate.acquire().await.unwrap().forget();
                Outcome::Succeeded(text("through"))
            }
            "stop" => {
                context.stopped().cancelled().await;
                Outcome::Retry(Problem::new("STOPPED", "", "stopped", ""))
            }
            "fail" => Outcome::Failed(Problem::new("BROKEN", "web1", "is broken", "Mend it.")),
            "panic" => panic!("the handler panics on purpose"),
            "huge" => {
                let mut any = text("x");
                any.value = vec![0; (1 << 20) + 1];
                Outcome::Succeeded(any)
            }
            _ => Outcome::Succeeded(text(&task.key)),
        }
    }
}

#[async_trait]
impl Handler for Script {
    async fn handle(&self, task: LeasedTask, context: TaskContext) -> Outcome {
        self.enter(&task);
        let outcome = self.act(&task, &context).await;
        self.leave(&task, context.stop_reason());
        outcome
    }
}

pub struct Running {
    pub script: Arc<Script>,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<()>,
}

pub fn run(tracker: &Tracker, slots: u32) -> Running {
    let (script, shutdown) = (Arc::new(Script::new()), CancellationToken::new());
    let (worker, handler, stop) = (tracker.worker(AGENT), Arc::clone(&script), shutdown.clone());
    let ended = tokio::spawn(async move { worker.run(QUEUE.parse().unwrap(), slots, handler, stop).await });
    Running { script, shutdown, ended }
}

async fn tasks(jobs: &JobsClient, id: Uuid) -> Vec<Task> {
    jobs.list_tasks(id, 1000, None).await.unwrap().items
}

async fn all_ended(jobs: &JobsClient, id: Uuid) -> Vec<Task> {
    eventually("the end of all tasks", async || tasks(jobs, id).await.iter().all(|t| t.state.is_final()))
        .await;
    tasks(jobs, id).await
}

#[tokio::test]
async fn every_kind_of_outcome_reaches_the_task() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let keys = ["good", "fail", "panic", "huge"];
    let id = jobs.create_job(job(keys.map(task).to_vec())).await.unwrap().id;
    let _worker = run(&tracker, 2);
    let ended = all_ended(&jobs, id).await;
    let of = |key: &str| ended.iter().find(|t| t.key == key).unwrap();
    assert_eq!((of("good").state, &of("good").result), (TaskState::Succeeded, &Some(text("good"))));
    let reason = |key: &str| of(key).error.as_ref().unwrap().reason.as_str();
    assert_eq!((of("fail").state, reason("fail")), (TaskState::Failed, "BROKEN"));
    assert_eq!((of("panic").state, reason("panic")), (TaskState::Unknown, "HANDLER_PANICKED"));
    assert_eq!((of("huge").state, reason("huge")), (TaskState::Unknown, "OUTCOME_REFUSED"));
}

#[tokio::test]
async fn no_more_attempts_run_than_there_are_slots() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let new = (0..20).map(|n| task(&format!("gate-{n}"))).collect();
    let id = jobs.create_job(job(new)).await.unwrap().id;
    let worker = run(&tracker, 3);
    let leased = async || tracker.count("SELECT count(*) FROM tasks WHERE state = 'leased'").await;
    eventually("three leases", async || leased().await == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(leased().await, 3);
    worker.script.open(20);
    assert!(all_ended(&jobs, id).await.iter().all(|t| t.state == TaskState::Succeeded && t.attempt == 1));
    assert_eq!(worker.script.most_at_once.load(Ordering::SeqCst), 3);
}

/// R-JOB-3: the death of job-tracker in the middle of an attempt changes nothing for it. The outage is longer than the lease.
#[tokio::test]
async fn an_attempt_outlives_a_killed_and_restarted_job_tracker() {
    let mut tracker = Tracker::with_lease(Duration::from_millis(900)).await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("gate"), task("gate-2")])).await.unwrap().id;
    let worker = run(&tracker, 2);
    eventually("progress", async || {
        tasks(&jobs, id).await.iter().all(|t| t.progress_text == "at the gate" && t.progress_percent == 40)
    })
    .await;
    tracker.kill().await;
    // One ends while nobody can be told, the other after the restart.
    worker.script.open(1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    tracker.serve().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    worker.script.open(1);
    let ended = all_ended(&tracker.jobs(ORCHESTRATOR), id).await;
    assert!(ended.iter().all(|t| t.state == TaskState::Succeeded && t.attempt == 1), "{ended:#?}");
    // And the session is open again.
    let more = tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("good")])).await.unwrap().id;
    all_ended(&tracker.jobs(ORCHESTRATOR), more).await;
}

#[tokio::test]
async fn a_cancelled_attempt_is_told_and_its_answer_counts() {
    let tracker = Tracker::with_lease(Duration::from_millis(600)).await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("stop")])).await.unwrap().id;
    let worker = run(&tracker, 1);
    eventually("a lease", async || tasks(&jobs, id).await[0].state == TaskState::Leased).await;
    jobs.cancel_tasks(id, vec!["stop".into()]).await.unwrap();
    assert_eq!(all_ended(&jobs, id).await[0].state, TaskState::Cancelled);
    assert_eq!(*worker.script.ended.lock().unwrap(), [("stop".to_owned(), 1, Some(Stop::Cancelled))]);
}

#[tokio::test]
async fn an_attempt_whose_lease_was_lost_is_told_and_its_successor_waits_for_it() {
    let tracker = Tracker::with_lease(Duration::from_millis(600)).await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("stop")])).await.unwrap().id;
    let worker = run(&tracker, 2);
    eventually("a lease", async || tasks(&jobs, id).await[0].state == TaskState::Leased).await;
    sqlx::raw_sql("UPDATE tasks SET state = 'queued', lease_expires_at = NULL")
        .execute(tracker.database.pool().reader())
        .await
        .unwrap();
    eventually("the end of the first attempt", async || !worker.script.ended.lock().unwrap().is_empty())
        .await;
    assert_eq!(worker.script.ended.lock().unwrap()[0], ("stop".to_owned(), 1, Some(Stop::LeaseLost)));
    eventually("the second attempt", async || tasks(&jobs, id).await[0].attempt == 2).await;
    // It is not told to stop because the first one was.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(worker.script.ended.lock().unwrap().len(), 1);
    assert_eq!(tasks(&jobs, id).await[0].error, None, "the outcome of the lost attempt was dropped");
}

#[tokio::test]
async fn a_worker_that_shuts_down_tells_its_attempts_and_delivers_what_they_answer() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("stop")])).await.unwrap().id;
    let worker = run(&tracker, 1);
    eventually("a lease", async || tasks(&jobs, id).await[0].state == TaskState::Leased).await;
    worker.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), worker.ended).await.unwrap().unwrap();
    let task = &tasks(&jobs, id).await[0];
    assert_eq!((task.state, task.error.as_ref().unwrap().reason.as_str()), (TaskState::Queued, "STOPPED"));
    assert_eq!(worker.script.ended.lock().unwrap()[0].2, Some(Stop::ShuttingDown));
}
