//! Invariants 3, 13 and 15 while things break.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use tokio::time::timeout;
use understudy_jobs_api::{Change, TaskState, WatchFilter, WatchFrom};

use crate::{support::*, worker};

/// All database connections are cut and job-tracker is killed, again and again, while a worker works and a watcher watches. In the
/// end every task has ended once, and the watcher has seen every change once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn work_goes_on_and_nothing_is_seen_twice_while_postgres_and_job_tracker_die() {
    const TASKS: usize = 60;
    let mut tracker = Tracker::with_lease(Duration::from_millis(800)).await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let _worker = worker::run(&tracker, 4);
    let mut events = tracker.jobs(USER).watch_events(WatchFrom::Start, WatchFilter::default());
    let mut new: Vec<_> = (0..TASKS).map(|n| task(&format!("t{n}"))).collect();
    new.iter_mut().for_each(|t| t.max_attempts = 100);
    let now = understudy_ids::UnixMicros::from(std::time::SystemTime::now());
    for (n, task) in new.iter_mut().enumerate() {
        // Spread over three seconds, so that there is work at every moment of the breaking.
        task.not_before = Some(now.plus(Duration::from_millis(50) * u32::try_from(n).unwrap()));
    }
    let id = jobs.create_job(job(new)).await.unwrap().id;
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        tracker.cut_database().await;
        if round % 4 == 3 {
            tracker.kill().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            tracker.serve().await;
        }
    }
    let (mut ended, mut sequence, mut attempts) = (0, 0, BTreeMap::new());
    while ended < TASKS {
        let event = timeout(Duration::from_secs(30), events.next())
            .await
            .expect("an event in time")
            .unwrap()
            .unwrap();
        sequence += 1;
        assert_eq!(event.sequence, sequence);
        let Change::Task(task) = event.change else { continue };
        if task.state.is_final() {
            assert_eq!(task.state, TaskState::Succeeded);
            ended += 1;
        }
        if task.state == TaskState::Leased {
            let last = attempts.insert(task.id, task.attempt).unwrap_or(0);
            assert_eq!(task.attempt, last + 1, "attempts rise one by one");
        }
    }
    let done =
        tracker.count("SELECT count(*) FROM audit WHERE method = 'CompleteTask' AND decision = 'succeeded'");
    assert_eq!(done.await, TASKS as i64, "each task was completed once");
    let page = tracker.jobs(USER).list_tasks(id, 1000, None).await.unwrap();
    assert!(page.items.iter().all(|t| t.state == TaskState::Succeeded));
}

#[tokio::test]
async fn an_orderly_end_is_quick_although_workers_and_watchers_are_connected() {
    let mut tracker = Tracker::start().await;
    let worker = worker::run(&tracker, 1);
    let mut events = tracker.jobs(USER).watch_events(WatchFrom::Now, WatchFilter::default());
    assert!(timeout(Duration::from_millis(300), events.next()).await.is_err());
    timeout(Duration::from_secs(4), tracker.stop()).await.expect("an end within the grace");
    tracker.serve().await;
    let made = tracker.jobs(ORCHESTRATOR).create_job(job(vec![task("good")])).await.unwrap();
    let event = timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.job, made.id, "the watch went on where it was");
    worker.shutdown.cancel();
    worker.ended.await.unwrap();
}

#[tokio::test]
async fn two_instances_share_the_work_and_see_each_others_events() {
    let tracker = Tracker::start().await;
    let second = tracker.beside().await;
    let mut events = second.jobs(USER).watch_events(WatchFrom::Now, WatchFilter::default());
    assert!(timeout(Duration::from_millis(300), events.next()).await.is_err());
    let _workers = (worker::run(&tracker, 2), worker::run(&second, 2));
    let new = (0..40).map(|n| task(&format!("t{n}"))).collect();
    tracker.jobs(ORCHESTRATOR).create_job(job(new)).await.unwrap();
    // The job, and of each task: made, leased once, ended once.
    for sequence in 1..=1 + 3 * 40 {
        let event = timeout(Duration::from_secs(20), events.next())
            .await
            .expect("an event in time")
            .unwrap()
            .unwrap();
        assert_eq!(event.sequence, sequence);
    }
    assert_eq!(
        tracker.count("SELECT count(*) FROM tasks WHERE state = 'succeeded' AND attempt = 1").await,
        40
    );
}
