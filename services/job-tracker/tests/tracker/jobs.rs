//! R-JOB-1, R-JOB-2: jobs, tasks and notes, and what repeating a call does.

use understudy_ids::{Problem, Uuid};
use understudy_jobs_api::{JobFilter, JobState, NewNote, TaskState, reason};
use understudy_rpc::Kind;

use crate::support::*;

#[tokio::test]
async fn a_job_is_made_once_and_another_body_under_its_id_is_refused() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let new = job(vec![task("a"), task("b")]);
    let made = jobs.create_job(new.clone()).await.unwrap();
    assert_eq!((made.state, made.revision), (JobState::Queued, 1));
    assert_eq!(made.owner, "spiffe://understudy/service/orchestrator");
    assert_eq!(made.created_by, "user/ops");

    let mut again = new.clone();
    again.tasks[0].traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    assert_eq!(jobs.create_job(again).await.unwrap(), made, "the trace of a repeated call does not count");
    assert_eq!(tracker.count("SELECT count(*) FROM tasks").await, 2);
    assert_eq!(tracker.count("SELECT count(*) FROM audit WHERE decision = 'done'").await, 1);

    let mut other = new.clone();
    other.targets.push("protectedItems/db1".into());
    let error = jobs.create_job(other).await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (Kind::AlreadyExists, reason::JOB_EXISTS));
    let error = tracker.jobs(MAPPER).create_job(new).await.unwrap_err();
    assert_eq!(error.kind, Kind::AlreadyExists, "the same body from another owner is another job");
    assert_eq!(tracker.count("SELECT count(*) FROM audit WHERE decision = 'JOB_EXISTS'").await, 2);
}

#[tokio::test]
async fn tasks_are_added_once_per_key_and_keep_their_order() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("a")])).await.unwrap().id;
    let added = jobs.enqueue_tasks(id, vec![task("c"), task("a"), task("b")]).await.unwrap();
    assert_eq!(added.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["c", "a", "b"]);
    let again = jobs.enqueue_tasks(id, vec![task("b"), task("c")]).await.unwrap();
    assert_eq!(again[0].id, added[2].id, "the first task of a key stays");
    let page = jobs.list_tasks(id, 0, None).await.unwrap();
    assert_eq!(page.items.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["a", "c", "b"]);
    assert_eq!(page.items[0].payload, Some(text("a")));

    let mut taken = task("d");
    taken.id = added[0].id;
    let error = jobs.enqueue_tasks(id, vec![taken]).await.unwrap_err();
    assert_eq!(&*error.reason, "TASK_ID_TAKEN");
}

#[tokio::test]
async fn an_owner_moves_its_job_along_the_table_only_and_late_updates_have_no_effect() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("a")])).await.unwrap().id;
    let mut second = update(id, JobState::Waiting);
    second.owner_sequence = Some(2);
    second.problems = vec![Problem::new("X", "web1", "is odd", "Look.")];
    let waiting = jobs.update_job(second.clone()).await.unwrap();
    assert_eq!(
        (waiting.state, waiting.revision, &waiting.problems),
        (JobState::Waiting, 2, &second.problems)
    );
    assert!(waiting.started.is_some() && waiting.ended.is_none());

    let mut first = update(id, JobState::Running);
    first.owner_sequence = Some(1);
    assert_eq!(jobs.update_job(first).await.unwrap(), waiting);
    assert_eq!(jobs.update_job(second).await.unwrap(), waiting);

    let error = jobs.update_job(update(id, JobState::Queued)).await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, reason::JOB_STATE));

    let mut last = update(id, JobState::Failed);
    last.report_json = Some(r#"{"rto_s": 12}"#.into());
    let ended = jobs.update_job(last).await.unwrap();
    assert!(ended.ended.is_some());
    let error = jobs.update_job(update(id, JobState::Running)).await.unwrap_err();
    assert_eq!(&*error.reason, reason::JOB_STATE);
    let error = jobs.enqueue_tasks(id, vec![task("b")]).await.unwrap_err();
    assert_eq!(&*error.reason, reason::JOB_STATE);
    assert_eq!(jobs.get_job(id).await.unwrap(), ended);
    let tasks = jobs.list_tasks(id, 0, None).await.unwrap().items;
    assert_eq!(tasks[0].state, TaskState::Cancelled, "nobody waits for the tasks of a job that has ended");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_in_pages_and_by_filter() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let mut made = Vec::new();
    for n in 0..7 {
        let mut new = job(vec![]);
        new.targets = vec![format!("protectedItems/m{}", n % 2)];
        made.push(jobs.create_job(new).await.unwrap().id);
    }
    made.reverse();
    let reader = tracker.jobs(USER);
    let (mut seen, mut token) = (Vec::new(), None);
    loop {
        let page = reader.list_jobs(JobFilter::default(), 3, token).await.unwrap();
        seen.extend(page.items.iter().map(|j| j.id));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
    let by_target = JobFilter { target: Some("protectedItems/m1".into()), ..JobFilter::default() };
    assert_eq!(reader.list_jobs(by_target.clone(), 0, None).await.unwrap().items.len(), 3);
    let none = JobFilter { states: vec![JobState::Failed], ..JobFilter::default() };
    assert!(reader.list_jobs(none, 0, None).await.unwrap().items.is_empty());
    let token = reader.list_jobs(JobFilter::default(), 3, None).await.unwrap().next;
    let error = reader.list_jobs(by_target, 3, token).await.unwrap_err();
    assert_eq!(&*error.reason, "PAGE_TOKEN", "a token continues one listing only");
}

#[tokio::test]
async fn notes_stay_with_their_job_and_speak_for_who_wrote_them() {
    let tracker = Tracker::start().await;
    let id = tracker.jobs(ORCHESTRATOR).create_job(job(vec![])).await.unwrap().id;
    let user = tracker.jobs(USER);
    let note =
        NewNote { job: id, id: Uuid::new_v4(), author: "someone else".into(), text: "looks good".into() };
    let added = user.add_note(note.clone()).await.unwrap();
    assert_eq!(added.author, "spiffe://understudy/user/ops");
    assert_eq!(user.add_note(note.clone()).await.unwrap(), added);
    let other = NewNote { text: "something else".into(), ..note.clone() };
    assert_eq!(&*user.add_note(other).await.unwrap_err().reason, "NOTE_EXISTS");
    let for_person = NewNote { id: Uuid::new_v4(), author: "user/dba".into(), ..note };
    let second = tracker.jobs(ORCHESTRATOR).add_note(for_person).await.unwrap();
    assert_eq!(second.author, "user/dba");
    assert_eq!(user.list_notes(id).await.unwrap(), [added, second]);
}

#[tokio::test]
async fn a_cancelled_task_ends_at_once_when_queued_and_through_its_worker_when_leased() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![task("leased")])).await.unwrap().id;
    let leased = crate::leases::lease_one(&tracker).await;
    jobs.enqueue_tasks(id, vec![task("queued")]).await.unwrap();
    let cancelled = jobs.cancel_tasks(id, vec![]).await.unwrap();
    let state = |key: &str| cancelled.iter().find(|t| t.key == key).unwrap().state;
    assert_eq!((state("queued"), state("leased")), (TaskState::Cancelled, TaskState::Leased));
    assert!(jobs.cancel_tasks(id, vec![]).await.unwrap().is_empty(), "asked for already");

    let beat = crate::leases::heartbeat(&tracker, &leased).await.unwrap();
    assert!(beat.cancel_requested);
    let ended = crate::leases::complete(&tracker, &leased, crate::leases::retry("stopped")).await.unwrap();
    assert_eq!(ended.state, understudy_jobs_api::v1::TaskState::Cancelled as i32);
}

/// Invariant 14: a page of large tasks is cut so that it fits into a message, and nothing is left out.
#[tokio::test]
async fn tasks_are_listed_in_pages_that_fit_into_a_message() {
    let tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let id = jobs.create_job(job(vec![])).await.unwrap().id;
    for n in 0..7 {
        let mut large = task(&format!("t{n}"));
        large.payload.value = vec![7; 1 << 20];
        jobs.enqueue_tasks(id, vec![large]).await.unwrap();
    }
    let (mut seen, mut token, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = jobs.list_tasks(id, 0, token).await.unwrap();
        assert!(!page.items.is_empty());
        pages += 1;
        seen.extend(page.items.into_iter().map(|t| t.key));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..7).map(|n| format!("t{n}")).collect::<Vec<_>>());
    assert!(pages > 1);
}

#[tokio::test]
async fn jobs_that_ended_long_ago_are_deleted_with_all_that_belongs_to_them_and_others_stay() {
    let mut tracker = Tracker::start().await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    let [old, recent, open] = [(); 3].map(|()| job(vec![task("a")]));
    for new in [&old, &recent, &open] {
        jobs.create_job(new.clone()).await.unwrap();
        let note = NewNote { job: new.id, id: Uuid::new_v4(), author: String::new(), text: "n".into() };
        jobs.add_note(note).await.unwrap();
    }
    for ended in [&old, &recent] {
        jobs.update_job(update(ended.id, JobState::Failed)).await.unwrap();
    }
    sqlx::query(
        "UPDATE jobs SET ended_at = CASE id WHEN $1 THEN now() - interval '91 days' ELSE ended_at END,
             created_at = now() - interval '100 days'",
    )
    .bind(old.id)
    .execute(tracker.database.pool().reader())
    .await
    .unwrap();
    // A new instance begins with the janitor's work.
    tracker.stop().await;
    tracker.serve().await;
    eventually("the janitor's work", async || tracker.count("SELECT count(*) FROM jobs").await == 2).await;
    let jobs = tracker.jobs(ORCHESTRATOR);
    assert_eq!(jobs.get_job(old.id).await.unwrap_err().kind, Kind::NotFound);
    for kept in [recent.id, open.id] {
        assert_eq!(jobs.list_notes(kept).await.unwrap().len(), 1);
        assert_eq!(jobs.list_tasks(kept, 0, None).await.unwrap().items.len(), 1);
    }
    assert_eq!(tracker.count("SELECT count(*) FROM tasks").await, 2);
    assert_eq!(tracker.count("SELECT count(*) FROM notes").await, 2);
}
