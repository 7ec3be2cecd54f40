use futures::StreamExt;
use serde_json::{Value, json};
use understudy_jobs_api::{
    Change, Event, Job as JobView, JobFilter, JobsClient, NewNote, Note, Task, WatchFilter, WatchFrom,
};
use uuid::Uuid;

use crate::{
    args::Job,
    output::{self, Format},
};

pub async fn run(client: &JobsClient, format: Format, verb: Job) -> anyhow::Result<()> {
    match verb {
        Job::List { kind, target, limit } => {
            let filter = JobFilter { kind, target, ..JobFilter::default() };
            let jobs = client.list_jobs(filter, limit, None).await?.items;
            let values: Vec<Value> = jobs.iter().map(job_json).collect();
            output::print(format, &values, || table(&jobs))
        }
        Job::Show { job } => {
            let job = client.get_job(job).await?;
            output::print(format, &job_json(&job), || details(&job))
        }
        Job::Tasks { job } => {
            let tasks = client.list_tasks(job, 1000, None).await?.items;
            let values: Vec<Value> = tasks.iter().map(task_json).collect();
            output::print(format, &values, || {
                let headings = ["TASK", "QUEUE", "STATE", "ATTEMPT", "PROGRESS", "WORKER"];
                output::rows(headings, &tasks, |t: &Task| {
                    [
                        t.title.clone(),
                        t.queue.to_string(),
                        format!("{:?}", t.state).to_lowercase(),
                        format!("{} of {}", t.attempt, t.max_attempts),
                        format!("{} % {}", t.progress_percent, t.progress_text),
                        output::maybe(&t.worker),
                    ]
                })
            })
        }
        Job::Note { job, text } => {
            let note = NewNote { job, id: Uuid::new_v4(), author: String::new(), text };
            notes(format, &[client.add_note(note).await?])
        }
        Job::Notes { job } => notes(format, &client.list_notes(job).await?),
        Job::Watch { job } => watch(client, format, WatchFilter { job, owner: None }).await,
    }
}

async fn watch(client: &JobsClient, format: Format, filter: WatchFilter) -> anyhow::Result<()> {
    let mut events = Box::pin(client.watch_events(WatchFrom::Now, filter));
    while let Some(event) = events.next().await {
        let event = event?;
        match format {
            Format::Json => output::say(&event_json(&event).to_string()),
            Format::Table => {
                output::say(&format!(
                    "{} {} {}",
                    output::time(event.time),
                    event.job,
                    sentence(&event.change)
                ));
            }
        }
    }
    Ok(())
}

fn sentence(change: &Change) -> String {
    match change {
        Change::Job(job) => {
            format!("{} is {:?}, {} % {}", job.kind, job.state, job.progress_percent, job.phase)
        }
        Change::Task(task) => {
            format!("{} at {} is {:?} {}", task.title, task.queue, task.state, task.progress_text)
        }
        Change::Note(note) => format!("{} notes: {}", note.author, note.text),
        Change::CancelRequested(request) => format!("{} asks for its end", request.by),
    }
}

fn table(jobs: &[JobView]) -> comfy_table::Table {
    output::rows(["JOB", "TYPE", "STATE", "ABOUT", "PROGRESS", "CREATED", "BY"], jobs, |j: &JobView| {
        [
            j.id.to_string(),
            j.kind.clone(),
            format!("{:?}", j.state).to_lowercase(),
            j.targets.join(", "),
            format!("{} % {}", j.progress_percent, j.phase),
            output::time(j.created),
            j.created_by.clone(),
        ]
    })
}

fn details(job: &JobView) -> comfy_table::Table {
    let problems: Vec<String> = job.problems.iter().map(ToString::to_string).collect();
    output::facts(&[
        ("job", job.id.to_string()),
        ("type", job.kind.clone()),
        ("state", format!("{:?}, {} %", job.state, job.progress_percent)),
        ("phase", job.phase.clone()),
        ("waits for", job.waiting_for.clone()),
        ("allowed now", job.allowed_actions.join(", ")),
        ("about", job.targets.join(", ")),
        ("by", job.created_by.clone()),
        ("created", output::time(job.created)),
        ("started", output::maybe_time(job.started)),
        ("ended", output::maybe_time(job.ended)),
        ("problems", problems.join("\n")),
        ("report", output::maybe(&job.report_json)),
    ])
}

fn notes(format: Format, notes: &[Note]) -> anyhow::Result<()> {
    let values: Vec<Value> = notes.iter().map(note_json).collect();
    output::print(format, &values, || {
        output::rows(["TIME", "BY", "NOTE"], notes, |n: &Note| {
            [output::time(n.created), n.author.clone(), n.text.clone()]
        })
    })
}

fn job_json(job: &JobView) -> Value {
    let report: Value =
        job.report_json.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    json!({
        "job": job.id, "type": job.kind, "state": format!("{:?}", job.state), "phase": job.phase,
        "waiting_for": job.waiting_for, "allowed_actions": job.allowed_actions, "targets": job.targets,
        "created_by": job.created_by, "progress_percent": job.progress_percent, "problems": job.problems,
        "created": rfc3339(Some(job.created)), "started": rfc3339(job.started), "ended": rfc3339(job.ended),
        "labels": job.labels, "report": report,
    })
}

fn task_json(task: &Task) -> Value {
    json!({
        "task": task.id, "job": task.job, "key": task.key, "title": task.title, "queue": task.queue.to_string(),
        "state": format!("{:?}", task.state), "attempt": task.attempt, "max_attempts": task.max_attempts,
        "progress_percent": task.progress_percent, "progress_text": task.progress_text, "error": task.error,
        "created": rfc3339(Some(task.created)), "started": rfc3339(task.started), "ended": rfc3339(task.ended),
        "worker": task.worker,
    })
}

fn note_json(note: &Note) -> Value {
    json!({ "note": note.id, "author": note.author, "text": note.text, "created": rfc3339(Some(note.created)) })
}

fn event_json(event: &Event) -> Value {
    let change = match &event.change {
        Change::Job(job) => json!({ "job_changed": job_json(job) }),
        Change::Task(task) => json!({ "task_changed": task_json(task) }),
        Change::Note(note) => json!({ "note_added": note_json(note) }),
        Change::CancelRequested(request) => json!({ "cancel_requested": { "requested_by": request.by } }),
    };
    json!({ "sequence": event.sequence, "resume_token": event.resume_token, "time": rfc3339(Some(event.time)), "change": change })
}

fn rfc3339(at: Option<understudy_ids::UnixMicros>) -> Option<String> {
    jiff::Timestamp::from_microsecond(at?.get()).ok().map(|t| t.to_string())
}
