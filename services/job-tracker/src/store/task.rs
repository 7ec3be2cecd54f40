//! The table of tasks, which is also the queue.
//!
//! ```text
//!   add ─▶ queued ─ lease ─▶ leased ─ heartbeat ─▶ leased ─ settle ─▶ final, or queued again
//! ```
//! Every change of a leased task compares attempt and state in its `WHERE`; a change that finds no row has come too late.

use std::{collections::HashMap, time::Duration};

use sqlx::{
    PgConnection, PgExecutor,
    postgres::types::PgInterval,
    types::{Json, time::OffsetDateTime},
};
use understudy_ids::{Problem, RunId, TaskId};
use understudy_jobs_api::{Any, LeasedTask, NewTask, Progress, Queue, Task, TaskName, TaskState};

use super::{BadRow, Result, counter, date, integer, micros};

/// Woken when a task may have become due.
pub const CHANNEL: &str = "job_tasks";

/// Digest of an outcome.
pub type Digest = [u8; 32];

#[derive(sqlx::FromRow)]
struct Row {
    id: TaskId,
    job_id: RunId,
    key: String,
    title: String,
    queue: String,
    state: String,
    attempt: i32,
    max_attempts: i32,
    payload_type: String,
    payload: Vec<u8>,
    result_type: Option<String>,
    result: Option<Vec<u8>>,
    error: Option<Json<Problem>>,
    progress_percent: i32,
    progress_text: String,
    worker: Option<String>,
    created_at: OffsetDateTime,
    started_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
}

fn bad(id: TaskId, column: &'static str, value: &str) -> BadRow {
    BadRow { table: "tasks", id: id.to_string(), column, value: value.to_owned() }
}

impl TryFrom<Row> for Task {
    type Error = BadRow;

    fn try_from(row: Row) -> std::result::Result<Self, BadRow> {
        let any = |type_url: String, value| Any { type_url, value };
        Ok(Self {
            queue: row.queue.parse().map_err(|_| bad(row.id, "queue", &row.queue))?,
            state: TaskState::parse(&row.state).ok_or_else(|| bad(row.id, "state", &row.state))?,
            job: row.job_id,
            id: row.id,
            key: row.key,
            title: row.title,
            attempt: counter(row.attempt),
            max_attempts: counter(row.max_attempts),
            payload: Some(any(row.payload_type, row.payload)),
            result: row.result_type.zip(row.result).map(|(t, v)| any(t, v)),
            error: row.error.map(|e| e.0),
            progress_percent: counter(row.progress_percent),
            progress_text: row.progress_text,
            created: micros(row.created_at),
            started: row.started_at.map(micros),
            ended: row.ended_at.map(micros),
            worker: row.worker,
        })
    }
}

fn all(rows: Vec<Row>) -> Result<Vec<Task>> {
    Ok(rows.into_iter().map(Task::try_from).collect::<std::result::Result<_, _>>()?)
}

macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, job_id, key, title, queue, state, attempt, max_attempts, payload_type, payload, result_type, result, \
             error, progress_percent, progress_text, worker, created_at, started_at, ended_at ",
            $after
        )
    };
}

/// The same columns without payload and result, where they could take megabytes and nobody reads them.
macro_rules! light_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, job_id, key, title, queue, state, attempt, max_attempts, payload_type, ''::bytea AS payload, \
             NULL::text AS result_type, NULL::bytea AS result, \
             error, progress_percent, progress_text, worker, created_at, started_at, ended_at ",
            $after
        )
    };
}

fn light(rows: Vec<Row>) -> Result<Vec<Task>> {
    let mut tasks = all(rows)?;
    tasks.iter_mut().for_each(|task| task.payload = None);
    Ok(tasks)
}

fn interval(span: Duration) -> PgInterval {
    // Spans here are leases and delays, bounded far below the range of an i64 of microseconds.
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(span.as_micros()).unwrap_or(i64::MAX) }
}

/// Adds tasks whose key the job does not have yet; returns those. The job must be locked.
pub async fn insert(db: &mut PgConnection, job: RunId, tasks: &[NewTask]) -> Result<Vec<Task>> {
    let column = |f: fn(&NewTask) -> String| tasks.iter().map(f).collect::<Vec<_>>();
    let rows: Vec<Row> = sqlx::query_as(light_columns!(
        "INSERT INTO tasks (job_id, id, key, title, queue, payload_type, payload, max_attempts, due_at, traceparent)
         SELECT $1, new.id, new.key, new.title, new.queue, new.payload_type, new.payload, new.max_attempts,
                greatest(now(), new.not_before), new.traceparent
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::int[],
                     $9::timestamptz[], $10::text[])
              WITH ORDINALITY AS new (id, key, title, queue, payload_type, payload, max_attempts, not_before, traceparent, ord)
         ORDER BY new.ord
         ON CONFLICT (job_id, key) DO NOTHING RETURNING",
        ""
    ))
    .bind(job)
    .bind(tasks.iter().map(|t| t.id).collect::<Vec<_>>())
    .bind(column(|t| t.key.clone()))
    .bind(column(|t| t.title.clone()))
    .bind(column(|t| t.queue.to_string()))
    .bind(column(|t| t.payload.type_url.clone()))
    .bind(tasks.iter().map(|t| t.payload.value.clone()).collect::<Vec<_>>())
    .bind(tasks.iter().map(|t| integer(t.max_attempts)).collect::<Vec<_>>())
    .bind(tasks.iter().map(|t| t.not_before.map(date)).collect::<Vec<_>>())
    .bind(tasks.iter().map(|t| t.traceparent.clone()).collect::<Vec<_>>())
    .fetch_all(&mut *db)
    .await?;
    wake(db).await?;
    light(rows)
}

/// Tells leasers that a task may be due.
pub async fn wake(db: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(db).await?;
    Ok(())
}

/// The tasks of a job with these keys, without payload and result, in the order of the keys.
pub async fn with_keys(db: &mut PgConnection, job: RunId, keys: &[String]) -> Result<Vec<Task>> {
    let rows: Vec<Row> = sqlx::query_as(light_columns!(
        "SELECT",
        "FROM tasks WHERE job_id = $1 AND key = ANY($2) ORDER BY array_position($2, key)"
    ))
    .bind(job)
    .bind(keys)
    .fetch_all(db)
    .await?;
    light(rows)
}

/// A page of the tasks of a job in the order in which they were added, after the task with this ordinal; with the ordinal of the last.
pub async fn page(db: impl PgExecutor<'_>, job: RunId, after: i64, limit: u32) -> Result<(Vec<Task>, i64)> {
    #[derive(sqlx::FromRow)]
    struct Placed {
        ordinal: i64,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Placed> = sqlx::query_as(columns!(
        "SELECT ordinal,",
        "FROM (SELECT *, sum(length(payload) + coalesce(length(result), 0)) OVER (ORDER BY ordinal) AS bytes
               FROM (SELECT * FROM tasks WHERE job_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3) AS candidates
         ) AS measured
         WHERE bytes <= 3000000 OR ordinal = (SELECT min(ordinal) FROM tasks WHERE job_id = $1 AND ordinal > $2)
         ORDER BY ordinal"
    ))
    .bind(job)
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    let last = rows.last().map_or(after, |r| r.ordinal);
    Ok((all(rows.into_iter().map(|r| r.row).collect())?, last))
}

/// Whether the job has tasks that were added after the one with this ordinal.
pub async fn any_after(db: impl PgExecutor<'_>, job: RunId, ordinal: i64) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tasks WHERE job_id = $1 AND ordinal > $2)")
        .bind(job)
        .bind(ordinal)
        .fetch_one(db)
        .await?)
}

/// Whether a lease would find something. Asked first, because most wake-ups are for other queues and a transaction costs more.
pub async fn any_due(db: impl PgExecutor<'_>, queue: &Queue) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND queue = $1 AND due_at <= now())",
    )
    .bind(queue.to_string())
    .fetch_one(db)
    .await?)
}

/// A task that was leased just now: as the worker gets it, and as it is.
pub struct Leased {
    pub given: LeasedTask,
    pub task: Task,
    /// How long it had been due.
    pub waited: Duration,
}

/// Leases up to `limit` tasks that are due, the longest due first. Tasks that another leaser is looking at are passed over.
pub async fn lease(
    db: &mut PgConnection,
    queue: &Queue,
    worker: &str,
    limit: u32,
    term: Duration,
) -> Result<Vec<Leased>> {
    #[derive(sqlx::FromRow)]
    struct Given {
        traceparent: Option<String>,
        due_at: OffsetDateTime,
        waited_s: f64,
        #[sqlx(flatten)]
        row: Row,
    }
    let mut rows: Vec<Given> = sqlx::query_as(columns!(
        "UPDATE tasks SET state = 'leased', attempt = attempt + 1, worker = $2, lease_expires_at = now() + $4,
             started_at = coalesce(started_at, now()), outcome_digest = NULL
         WHERE id IN (
             SELECT id FROM tasks WHERE state = 'queued' AND queue = $1 AND due_at <= now()
             ORDER BY due_at, ordinal LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING traceparent, due_at, extract(epoch FROM now() - due_at)::float8 AS waited_s,",
        ""
    ))
    .bind(queue.to_string())
    .bind(worker)
    .bind(i64::from(limit))
    .bind(interval(term))
    .fetch_all(db)
    .await?;
    rows.sort_by_key(|given| given.due_at);
    let mut leased = Vec::with_capacity(rows.len());
    for Given { traceparent, waited_s, row, .. } in rows {
        let task = Task::try_from(row)?;
        let given = LeasedTask {
            name: task.name(),
            key: task.key.clone(),
            title: task.title.clone(),
            attempt: task.attempt,
            payload: task.payload.clone().unwrap_or_default(),
            lease: term,
            traceparent,
        };
        leased.push(Leased {
            given,
            task,
            waited: Duration::try_from_secs_f64(waited_s).unwrap_or_default(),
        });
    }
    Ok(leased)
}

/// A leased or recently leased task, locked, without its payload.
pub struct Held {
    pub task: Task,
    pub cancel_requested: bool,
    /// Of the outcome that ended the present attempt.
    pub outcome_digest: Option<Digest>,
}

#[derive(sqlx::FromRow)]
struct HeldRow {
    cancel_requested: bool,
    outcome_digest: Option<Vec<u8>>,
    #[sqlx(flatten)]
    row: Row,
}

impl TryFrom<HeldRow> for Held {
    type Error = BadRow;

    fn try_from(held: HeldRow) -> std::result::Result<Self, BadRow> {
        let HeldRow { cancel_requested, outcome_digest, row } = held;
        let outcome_digest = outcome_digest.and_then(|d| Digest::try_from(d).ok());
        let task = Task { payload: None, ..row.try_into()? };
        Ok(Self { task, cancel_requested, outcome_digest })
    }
}

/// Reads tasks and keeps others from changing them until the transaction ends; without payload and result. In the order of their ids, as
/// everybody locks who locks several.
pub async fn lock(db: &mut PgConnection, names: &[TaskName]) -> Result<Vec<Held>> {
    let rows: Vec<HeldRow> = sqlx::query_as(light_columns!(
        "SELECT cancel_requested, outcome_digest,",
        "FROM tasks WHERE (id, job_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[])) ORDER BY id FOR UPDATE"
    ))
    .bind(names.iter().map(|name| name.task).collect::<Vec<_>>())
    .bind(names.iter().map(|name| name.job).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    all_held(rows)
}

fn all_held(rows: Vec<HeldRow>) -> Result<Vec<Held>> {
    Ok(rows.into_iter().map(Held::try_from).collect::<std::result::Result<_, _>>()?)
}

/// Extends the lease of this attempt. Nothing when it is not the current one.
pub async fn renew(
    db: &mut PgConnection,
    name: TaskName,
    attempt: u32,
    progress: &Progress,
    term: Duration,
) -> Result<Option<Task>> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "UPDATE tasks SET lease_expires_at = now() + $3, progress_percent = $4, progress_text = $5
         WHERE id = $1 AND attempt = $2 AND state = 'leased' RETURNING",
        ""
    ))
    .bind(name.task)
    .bind(integer(attempt))
    .bind(interval(term))
    .bind(integer(progress.percent))
    .bind(&progress.text)
    .fetch_optional(db)
    .await?;
    Ok(row.map(Task::try_from).transpose()?)
}

/// How an attempt is settled.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub state: TaskState,
    pub result: Option<Any>,
    pub error: Option<Problem>,
    /// None when no worker sent an outcome.
    pub outcome_digest: Option<Digest>,
    /// When the task is queued again: how long it rests first.
    pub delay: Duration,
}

/// Ends attempts, of tasks that differ and are locked. In no particular order, without payloads; those that are not the current ones are
/// passed over.
pub async fn settle(db: &mut PgConnection, settled: &[(TaskName, u32, Settlement)]) -> Result<Vec<Task>> {
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    let of = || settled.iter().map(|(_, _, settlement)| settlement);
    let rows: Vec<Row> = sqlx::query_as(light_columns!(
        "UPDATE tasks SET state = new.to_state, result_type = new.its_result_type, result = new.its_result,
             error = new.its_error, outcome_digest = new.digest, lease_expires_at = NULL,
             due_at = CASE WHEN new.to_state = 'queued' THEN now() + new.delay ELSE due_at END,
             ended_at = CASE WHEN new.to_state = 'queued' THEN NULL ELSE now() END,
             progress_percent = CASE new.to_state WHEN 'succeeded' THEN 100 WHEN 'queued' THEN 0 ELSE progress_percent END
         FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::bytea[], $6::jsonb[], $7::bytea[], $8::interval[])
              AS new (task, of_attempt, to_state, its_result_type, its_result, its_error, digest, delay)
         WHERE id = new.task AND attempt = new.of_attempt AND state = 'leased' RETURNING",
        ""
    ))
    .bind(settled.iter().map(|(name, _, _)| name.task).collect::<Vec<_>>())
    .bind(settled.iter().map(|(_, attempt, _)| integer(*attempt)).collect::<Vec<_>>())
    .bind(of().map(|s| s.state.as_str()).collect::<Vec<_>>())
    .bind(of().map(|s| s.result.as_ref().map(|any| any.type_url.as_str())).collect::<Vec<_>>())
    .bind(of().map(|s| s.result.as_ref().map(|any| any.value.as_slice())).collect::<Vec<_>>())
    .bind(of().map(|s| s.error.as_ref().map(Json)).collect::<Vec<_>>())
    .bind(of().map(|s| s.outcome_digest.as_ref().map(|d| d.as_slice())).collect::<Vec<_>>())
    .bind(of().map(|s| interval(s.delay)).collect::<Vec<_>>())
    .fetch_all(&mut *db)
    .await?;
    if of().any(|s| s.state == TaskState::Queued) {
        wake(db).await?;
    }
    let mut results: HashMap<TaskId, Option<Any>> =
        settled.iter().map(|(name, _, settlement)| (name.task, settlement.result.clone())).collect();
    let mut tasks = light(rows)?;
    // It came from there, and needs not come back.
    tasks.iter_mut().for_each(|task| task.result = results.remove(&task.id).flatten());
    Ok(tasks)
}

/// Tasks whose lease is over, locked; those that others are looking at are passed over.
pub async fn lock_expired(db: &mut PgConnection, limit: i64) -> Result<Vec<Held>> {
    let rows: Vec<HeldRow> = sqlx::query_as(light_columns!(
        "SELECT cancel_requested, outcome_digest,",
        "FROM tasks WHERE state = 'leased' AND lease_expires_at <= now()
         ORDER BY lease_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED"
    ))
    .bind(limit)
    .fetch_all(db)
    .await?;
    all_held(rows)
}

/// Ends queued tasks and marks leased ones of these jobs, of these keys or, without keys, all; returns those that changed, without payload.
pub async fn cancel(db: &mut PgConnection, jobs: &[RunId], keys: &[String]) -> Result<Vec<Task>> {
    let rows: Vec<Row> = sqlx::query_as(light_columns!(
        "UPDATE tasks SET cancel_requested = true,
             ended_at = CASE state WHEN 'queued' THEN now() END,
             state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END
         WHERE id IN (
             SELECT id FROM tasks
             WHERE job_id = ANY($1) AND (cardinality($2::text[]) = 0 OR key = ANY($2))
               AND state IN ('queued', 'leased') AND NOT cancel_requested ORDER BY id FOR UPDATE)
         RETURNING",
        ""
    ))
    .bind(jobs)
    .bind(keys)
    .fetch_all(db)
    .await?;
    light(rows)
}

/// How many tasks of each queue are queued and leased.
#[derive(Debug, sqlx::FromRow)]
pub struct Depth {
    pub queue: String,
    pub queued: i64,
    pub leased: i64,
}

pub async fn depths(db: impl PgExecutor<'_>) -> Result<Vec<Depth>> {
    Ok(sqlx::query_as(
        // Apart, because each has an index of its own and finished tasks have none.
        "SELECT queue, sum(queued)::bigint AS queued, sum(leased)::bigint AS leased FROM (
             SELECT queue, 1 AS queued, 0 AS leased FROM tasks WHERE state = 'queued'
             UNION ALL SELECT queue, 0, 1 FROM tasks WHERE state = 'leased') AS open
         GROUP BY queue",
    )
    .fetch_all(db)
    .await?)
}
