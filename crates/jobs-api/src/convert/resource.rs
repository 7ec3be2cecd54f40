//! Jobs, tasks, notes and events.

use prost::Message;
use understudy_ids::Problem;
use understudy_jobs::{JobState, TaskState};
use understudy_types_api::{problem_to_wire, time_to_wire};

use crate::{
    check::{Check, Invalid, MAX_ACTIONS, MAX_LINE, MAX_NAME, MAX_NOTE_BYTES, MAX_PARAGRAPH, MAX_TARGETS},
    model::{CancelRequest, Change, Event, Job, Note, Task},
    name::{JobName, Queue, TaskName},
    v1,
};

pub(crate) fn job_state_to_wire(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Running => v1::JobState::Running,
        JobState::Waiting => v1::JobState::Waiting,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::CompletedWithErrors => v1::JobState::CompletedWithErrors,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelling => v1::JobState::Cancelling,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

pub(crate) fn job_state_from_wire(check: &mut Check, field: &str, state: i32) -> Option<JobState> {
    let known = JobState::ALL.into_iter().find(|s| job_state_to_wire(*s) as i32 == state);
    if known.is_none() {
        check.note("INVALID", field, format!("{state} is not a job state"), "Send one of JobState.");
    }
    known
}

fn task_state_to_wire(state: TaskState) -> v1::TaskState {
    match state {
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Leased => v1::TaskState::Leased,
        TaskState::Succeeded => v1::TaskState::Succeeded,
        TaskState::Failed => v1::TaskState::Failed,
        TaskState::Unknown => v1::TaskState::Unknown,
        TaskState::Cancelled => v1::TaskState::Cancelled,
    }
}

fn task_state_from_wire(check: &mut Check, field: &str, state: i32) -> Option<TaskState> {
    let known = TaskState::ALL.into_iter().find(|s| task_state_to_wire(*s) as i32 == state);
    if known.is_none() {
        check.note("INVALID", field, format!("{state} is not a task state"), "Send one of TaskState.");
    }
    known
}

pub(crate) fn problems_to_wire(problems: Vec<Problem>) -> Vec<understudy_types_api::v1::Problem> {
    problems.into_iter().map(problem_to_wire).collect()
}

pub fn job_to_wire(job: Job) -> v1::Job {
    let name = job.name().to_string();
    let Job {
        id: _,
        kind,
        targets,
        created_by,
        owner,
        state,
        phase,
        waiting_for,
        allowed_actions,
        problems,
        progress_percent,
        created,
        started,
        ended,
        revision,
        report_json,
        labels,
    } = job;
    v1::Job {
        name,
        r#type: kind,
        targets,
        created_by,
        owner,
        state: job_state_to_wire(state).into(),
        phase,
        waiting_for,
        allowed_actions,
        problems: problems_to_wire(problems),
        progress_percent,
        create_time: Some(time_to_wire(created)),
        start_time: started.map(time_to_wire),
        end_time: ended.map(time_to_wire),
        revision,
        report_json: report_json.unwrap_or_default(),
        labels,
    }
}

/// # Errors
/// All fields that are not what a job-tracker sends.
pub fn job_from_wire(job: v1::Job) -> Result<Job, Invalid> {
    let mut check = Check::default();
    let value = read_job(&mut check, job);
    check.done(value)
}

fn read_job(check: &mut Check, job: v1::Job) -> Option<Job> {
    let name: Option<JobName> = check.parse("name", &job.name);
    let state = job_state_from_wire(check, "state", job.state);
    let created = check.time("create_time", job.create_time);
    Some(Job {
        kind: check.text("type", job.r#type, MAX_NAME),
        targets: check.each("targets", MAX_TARGETS, job.targets, |c, t| c.text("", t, MAX_LINE)),
        created_by: check.text("created_by", job.created_by, MAX_NAME),
        owner: check.text("owner", job.owner, MAX_NAME),
        phase: check.text("phase", job.phase, MAX_LINE),
        waiting_for: check.text("waiting_for", job.waiting_for, MAX_PARAGRAPH),
        allowed_actions: check
            .each("allowed_actions", MAX_ACTIONS, job.allowed_actions, |c, a| c.text("", a, MAX_NAME)),
        problems: check.problems("problems", job.problems),
        progress_percent: check.percent("progress_percent", job.progress_percent),
        started: check.time("start_time", job.start_time),
        ended: check.time("end_time", job.end_time),
        revision: job.revision,
        report_json: check.json("report_json", job.report_json),
        labels: check.labels(job.labels),
        id: name?.0,
        state: state?,
        created: created?,
    })
}

pub fn task_to_wire(task: Task) -> v1::Task {
    let name = task.name().to_string();
    let Task {
        job: _,
        id: _,
        key,
        title,
        queue,
        state,
        attempt,
        max_attempts,
        payload,
        result,
        error,
        progress_percent,
        progress_text,
        created,
        started,
        ended,
        worker,
    } = task;
    v1::Task {
        name,
        key,
        title,
        queue: queue.to_string(),
        state: task_state_to_wire(state).into(),
        attempt,
        max_attempts,
        payload,
        result,
        error: error.map(problem_to_wire),
        progress_percent,
        progress_text,
        create_time: Some(time_to_wire(created)),
        start_time: started.map(time_to_wire),
        end_time: ended.map(time_to_wire),
        worker: worker.unwrap_or_default(),
    }
}

/// # Errors
/// All fields that are not what a job-tracker sends.
pub fn task_from_wire(task: v1::Task) -> Result<Task, Invalid> {
    let mut check = Check::default();
    let value = read_task(&mut check, task);
    check.done(value)
}

fn read_task(check: &mut Check, task: v1::Task) -> Option<Task> {
    let name: Option<TaskName> = check.parse("name", &task.name);
    let queue: Option<Queue> = check.parse("queue", &task.queue);
    let state = task_state_from_wire(check, "state", task.state);
    let created = check.time("create_time", task.create_time);
    Some(Task {
        key: check.text("key", task.key, MAX_NAME),
        title: check.text("title", task.title, MAX_LINE),
        attempt: task.attempt,
        max_attempts: task.max_attempts,
        payload: task.payload.and_then(|any| check.any("payload", Some(any))),
        result: task.result.and_then(|any| check.any("result", Some(any))),
        error: task.error.and_then(|problem| check.problem("error", problem)),
        progress_percent: check.percent("progress_percent", task.progress_percent),
        progress_text: check.text("progress_text", task.progress_text, MAX_LINE),
        started: check.time("start_time", task.start_time),
        ended: check.time("end_time", task.end_time),
        worker: Some(check.text("worker", task.worker, MAX_NAME)).filter(|w| !w.is_empty()),
        job: name?.job,
        id: name?.task,
        queue: queue?,
        state: state?,
        created: created?,
    })
}

pub fn note_to_wire(note: Note) -> v1::Note {
    let Note { job, id, author, text, created } = note;
    v1::Note {
        name: format!("jobs/{job}/notes/{id}"),
        author,
        text,
        create_time: Some(time_to_wire(created)),
    }
}

/// # Errors
/// All fields that are not what a job-tracker sends.
pub fn note_from_wire(note: v1::Note) -> Result<Note, Invalid> {
    let mut check = Check::default();
    let value = read_note(&mut check, note);
    check.done(value)
}

fn read_note(check: &mut Check, note: v1::Note) -> Option<Note> {
    let (job, id) = note.name.split_once("/notes/").unwrap_or((&note.name, ""));
    let job: Option<JobName> = check.parse("name", job);
    let id = check.uuid("name", id);
    let created = check.time("create_time", note.create_time);
    Some(Note {
        author: check.text("author", note.author, MAX_NAME),
        text: check.text("text", note.text, MAX_NOTE_BYTES),
        job: job?.0,
        id: id?,
        created: created?,
    })
}

fn cancel_request_to_wire(request: CancelRequest) -> v1::CancelRequest {
    let CancelRequest { job, by } = request;
    v1::CancelRequest { job: JobName(job).to_string(), requested_by: by }
}

fn cancel_request_from_wire(request: v1::CancelRequest) -> Result<CancelRequest, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &request.job);
    let by = check.required("requested_by", request.requested_by, MAX_NAME);
    check.done(job.map(|job| CancelRequest { job: job.0, by }))
}

fn change_to_wire(change: Change) -> v1::event::Change {
    match change {
        Change::Job(job) => v1::event::Change::JobChanged(job_to_wire(*job)),
        Change::Task(task) => v1::event::Change::TaskChanged(task_to_wire(*task)),
        Change::Note(note) => v1::event::Change::NoteAdded(note_to_wire(note)),
        Change::CancelRequested(request) => {
            v1::event::Change::CancelRequested(cancel_request_to_wire(request))
        }
    }
}

fn change_from_wire(change: v1::event::Change) -> Result<Change, Invalid> {
    match change {
        v1::event::Change::JobChanged(job) => Ok(Change::Job(Box::new(job_from_wire(job)?))),
        v1::event::Change::TaskChanged(task) => Ok(Change::Task(Box::new(task_from_wire(task)?))),
        v1::event::Change::NoteAdded(note) => Ok(Change::Note(note_from_wire(note)?)),
        v1::event::Change::CancelRequested(request) => {
            Ok(Change::CancelRequested(cancel_request_from_wire(request)?))
        }
    }
}

/// The durable form of a change: its wire form, because that is the one form whose evolution is ruled by a schema, and events are
/// read long after they were written.
pub fn change_to_bytes(change: Change) -> Vec<u8> {
    v1::Event { change: Some(change_to_wire(change)), ..v1::Event::default() }.encode_to_vec()
}

/// # Errors
/// When the bytes are not what [`change_to_bytes`] wrote.
pub fn change_from_bytes(bytes: &[u8]) -> Result<Change, Invalid> {
    let bad = |message: String| Invalid {
        problems: vec![Problem::new("INVALID", "change", message, "Restore the event from a backup.")],
    };
    let event = v1::Event::decode(bytes).map_err(|e| bad(e.to_string()))?;
    change_from_wire(event.change.ok_or_else(|| bad("holds no change".into()))?)
}

pub fn event_to_wire(event: Event) -> v1::Event {
    let Event { sequence, resume_token, time, job, change } = event;
    v1::Event {
        sequence,
        resume_token,
        time: Some(time_to_wire(time)),
        job: JobName(job).to_string(),
        change: Some(change_to_wire(change)),
    }
}

/// `None` for a bookmark: a message that only carries a newer resume token.
///
/// # Errors
/// All fields that are not what a job-tracker sends.
pub fn event_from_wire(event: v1::Event) -> Result<Option<Event>, Invalid> {
    let Some(change) = event.change else { return Ok(None) };
    let change = change_from_wire(change)?;
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("job", &event.job);
    let time = check.time("time", event.time);
    let resume_token = check.required("resume_token", event.resume_token, MAX_NAME);
    let value = job.zip(time).map(|(job, time)| Event {
        sequence: event.sequence,
        resume_token,
        time,
        job: job.0,
        change,
    });
    check.done(value).map(Some)
}
