//! R-JOB-3, invariant 15: a watch loses nothing and repeats nothing.

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use understudy_jobs_api::{Change, Event, JobState, WatchFilter, WatchFrom, reason, v1};
use understudy_rpc::{ApiError, Kind};

use crate::support::*;

async fn next(events: &mut (impl Stream<Item = Result<Event, ApiError>> + Unpin)) -> Event {
    timeout(Duration::from_secs(20), events.next()).await.expect("an event in time").unwrap().unwrap()
}

/// Writers in parallel, each changing jobs of its own; returns how many events there must be.
fn write_concurrently(tracker: &Tracker, writers: u64, changes: u64) -> (u64, tokio::task::JoinSet<()>) {
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let jobs = tracker.jobs(ORCHESTRATOR);
        set.spawn(async move {
            let id = jobs.create_job(job(vec![task("a"), task("b")])).await.unwrap().id;
            for n in 0..changes {
                let mut update = update(id, JobState::Running);
                update.owner_sequence = Some(n + 1);
                jobs.update_job(update).await.unwrap();
            }
        });
    }
    (writers * (3 + changes), set)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_leave_no_gap_and_resuming_gives_exactly_the_rest() {
    let tracker = Tracker::start().await;
    let mut events = tracker.jobs(USER).watch_events(WatchFrom::Start, WatchFilter::default());
    let (expected, mut writers) = write_concurrently(&tracker, 12, 20);
    let mut revisions = BTreeMap::new();
    for sequence in 1..=expected {
        let event = next(&mut events).await;
        assert_eq!(event.sequence, sequence, "an event was lost, repeated or overtaken");
        if let Change::Job(job) = event.change {
            let last = revisions.insert(job.id, job.revision).unwrap_or(0);
            assert_eq!(job.revision, last + 1, "the events of one job are in order");
        }
        // Begin anew in the middle, again and again.
        if sequence % 37 == 0 {
            let from = WatchFrom::After(event.resume_token);
            events = tracker.jobs(USER).watch_events(from, WatchFilter::default());
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    assert_eq!(revisions.len(), 12);
    assert!(timeout(Duration::from_millis(300), events.next()).await.is_err(), "more events than changes");
}

#[tokio::test]
async fn a_watch_without_a_token_shows_only_what_happens_from_now_on() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    jobs.create_job(job(vec![])).await.unwrap();
    let mut stream =
        tracker.raw_jobs(USER).watch_events(v1::WatchEventsRequest::default()).await.unwrap().into_inner();
    let bookmark = stream.message().await.unwrap().unwrap();
    assert!(bookmark.change.is_none() && !bookmark.resume_token.is_empty());
    let made = jobs.create_job(job(vec![])).await.unwrap();
    let event = stream.message().await.unwrap().unwrap();
    assert_eq!((event.sequence, event.job), (2, made.name().to_string()));
    let after = WatchFrom::After(bookmark.resume_token);
    let mut resumed = tracker.jobs(USER).watch_events(after, WatchFilter::default());
    assert_eq!(next(&mut resumed).await.job, made.id);
}

#[tokio::test]
async fn a_watch_shows_only_the_job_or_the_owner_that_was_asked_for() {
    let tracker = Tracker::start().await;
    let mine = tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap();
    let other = tracker.jobs(MAPPER).create_job(job(vec![])).await.unwrap();
    let reader = tracker.jobs(USER);
    let by_owner = WatchFilter { owner: Some(other.owner.clone()), ..WatchFilter::default() };
    assert_eq!(next(&mut reader.watch_events(WatchFrom::Start, by_owner)).await.job, other.id);
    let by_job = WatchFilter { job: Some(mine.id), ..WatchFilter::default() };
    let mut events = reader.watch_events(WatchFrom::Start, by_job);
    assert_eq!(next(&mut events).await.job, mine.id);
    assert!(timeout(Duration::from_millis(200), events.next()).await.is_err());
}

#[tokio::test]
async fn tokens_that_are_too_old_or_from_the_future_or_from_nowhere_are_told_apart() {
    let mut tracker = Tracker::start().await;
    for _ in 0..3 {
        tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap();
    }
    sqlx::raw_sql("UPDATE events SET at = at - interval '100 days' WHERE sequence <= 2")
        .execute(tracker.database.pool().reader())
        .await
        .unwrap();
    // A new instance begins with the janitor's work.
    tracker.stop().await;
    tracker.serve().await;
    eventually("the janitor's work", async || tracker.count("SELECT count(*) FROM events").await == 1).await;
    let error = |token: &str| {
        let from = WatchFrom::After(token.into());
        let mut events = tracker.jobs(USER).watch_events(from, WatchFilter::default());
        async move { events.next().await.unwrap().unwrap_err() }
    };
    let old = error("e1.1").await;
    assert_eq!((old.kind, &*old.reason), (Kind::FailedPrecondition, reason::RESUME_TOKEN_TOO_OLD));
    assert_eq!(&*error("e1.99").await.reason, reason::RESUME_TOKEN_UNKNOWN);
    assert_eq!(error("nonsense").await.kind, Kind::InvalidArgument);
    let mut rest = tracker.jobs(USER).watch_events(WatchFrom::After("e1.2".into()), WatchFilter::default());
    assert_eq!(next(&mut rest).await.sequence, 3);
    let mut kept = tracker.jobs(USER).watch_events(WatchFrom::Start, WatchFilter::default());
    assert_eq!(next(&mut kept).await.sequence, 3);
}
