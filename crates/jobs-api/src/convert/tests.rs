//! What goes out comes in again, and what nobody sends is refused.

use std::time::Duration;

use understudy_ids::{Problem, UnixMicros, Uuid};
use understudy_jobs::{JobState, TaskState};
use understudy_types_api::Any;

use super::*;
use crate::model::{CancelRequest, Change, Event, Job, LeasedTask, NewJob, NewTask, Note, Outcome, Task};

fn any() -> Any {
    Any { type_url: "type.googleapis.com/x.Y".into(), value: vec![1, 2, 3] }
}

fn problem() -> Problem {
    Problem::new("R", "s", "m", "do")
}

fn job(state: JobState) -> Job {
    Job {
        id: Uuid::from_u128(1),
        kind: "k".into(),
        targets: vec!["a".into()],
        created_by: "u".into(),
        owner: "o".into(),
        state,
        phase: "p".into(),
        waiting_for: "w".into(),
        allowed_actions: vec!["cancel".into()],
        problems: vec![problem()],
        progress_percent: 7,
        created: UnixMicros::new(1),
        started: Some(UnixMicros::new(2)),
        ended: None,
        revision: 3,
        report_json: Some("{}".into()),
        labels: [("l".to_owned(), "v".to_owned())].into(),
    }
}

fn task(state: TaskState) -> Task {
    Task {
        job: Uuid::from_u128(1),
        id: Uuid::from_u128(2),
        key: "k".into(),
        title: "t".into(),
        queue: "hosts/alpha/h1".parse().unwrap(),
        state,
        attempt: 2,
        max_attempts: 3,
        payload: Some(any()),
        result: Some(any()),
        error: Some(problem()),
        progress_percent: 100,
        progress_text: "x".into(),
        created: UnixMicros::new(1),
        started: None,
        ended: Some(UnixMicros::new(2)),
        worker: Some("w".into()),
    }
}

#[test]
fn jobs_tasks_and_events_come_back_as_they_went_out() {
    for state in JobState::ALL {
        assert_eq!(job_from_wire(job_to_wire(job(state))), Ok(job(state)));
    }
    for state in TaskState::ALL {
        assert_eq!(task_from_wire(task_to_wire(task(state))), Ok(task(state)));
    }
    let note = Note {
        job: Uuid::from_u128(1),
        id: Uuid::from_u128(3),
        author: "a".into(),
        text: "two\nlines".into(),
        created: UnixMicros::new(1),
    };
    let changes = [
        Change::Job(Box::new(job(JobState::Waiting))),
        Change::Task(Box::new(task(TaskState::Failed))),
        Change::Note(note),
        Change::CancelRequested(CancelRequest { job: Uuid::from_u128(1), by: "u".into() }),
    ];
    for change in changes {
        assert_eq!(change_from_bytes(&change_to_bytes(change.clone())), Ok(change.clone()));
        let event = Event {
            sequence: 9,
            resume_token: "e1.9".into(),
            time: UnixMicros::new(5),
            job: Uuid::from_u128(1),
            change,
        };
        assert_eq!(event_from_wire(event_to_wire(event.clone())), Ok(Some(event)));
    }
}

#[test]
fn requests_come_in_as_they_were_meant() {
    let new = NewTask {
        id: Uuid::from_u128(2),
        key: "k".into(),
        title: "t".into(),
        queue: "network-mapper".parse().unwrap(),
        payload: any(),
        max_attempts: 3,
        not_before: Some(UnixMicros::new(5)),
        traceparent: None,
    };
    let job = NewJob {
        id: Uuid::from_u128(1),
        kind: "k".into(),
        targets: vec!["a".into()],
        created_by: String::new(),
        labels: Default::default(),
        tasks: vec![new],
    };
    assert_eq!(create_job(new_job_to_wire(job.clone())), Ok(job));
    let leased = LeasedTask {
        name: "jobs/00000000-0000-0000-0000-000000000001/tasks/00000000-0000-0000-0000-000000000002"
            .parse()
            .unwrap(),
        key: "k".into(),
        title: "t".into(),
        attempt: 1,
        payload: any(),
        lease: Duration::from_millis(1500),
        traceparent: Some("x".into()),
    };
    assert_eq!(leased_from_wire(leased_to_wire(leased.clone())), Ok(leased.clone()));
    for outcome in [
        Outcome::Succeeded(any()),
        Outcome::Failed(problem()),
        Outcome::Unknown(problem()),
        Outcome::Retry(problem()),
    ] {
        let completion = Completion { task: leased.name, attempt: 1, outcome };
        assert_eq!(completion_from_wire(completion_to_wire(completion.clone())), Ok(completion));
    }
}

#[test]
fn an_event_without_a_change_is_a_bookmark() {
    let bookmark = crate::v1::Event { resume_token: "e1.4".into(), ..Default::default() };
    assert_eq!(event_from_wire(bookmark), Ok(None));
}

#[test]
fn everything_wrong_with_a_leased_task_is_found() {
    let problems = leased_from_wire(crate::v1::LeasedTask::default()).unwrap_err().problems;
    assert_eq!(problems.iter().map(|p| p.subject.as_str()).collect::<Vec<_>>(), ["task", "payload", "lease"]);
}
