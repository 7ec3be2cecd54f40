//! The table of jobs.

use std::collections::BTreeMap;

use sqlx::{PgConnection, PgExecutor, types::Json, types::time::OffsetDateTime};
use understudy_ids::{Problem, RunId, UnixMicros};
use understudy_jobs_api::{Job, JobFilter, JobState, JobUpdate, NewJob};

use super::{BadRow, Result, counter, date, integer, micros};

/// Digest of the request that made a job.
pub type Digest = [u8; 32];

#[derive(sqlx::FromRow)]
struct Row {
    id: RunId,
    kind: String,
    targets: Vec<String>,
    created_by: String,
    owner: String,
    labels: Json<BTreeMap<String, String>>,
    state: String,
    phase: String,
    waiting_for: String,
    allowed_actions: Vec<String>,
    problems: Json<Vec<Problem>>,
    progress_percent: i32,
    report_json: Option<String>,
    revision: i64,
    created_at: OffsetDateTime,
    started_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for Job {
    type Error = BadRow;

    fn try_from(row: Row) -> std::result::Result<Self, BadRow> {
        let state = JobState::parse(&row.state).ok_or_else(|| BadRow {
            table: "jobs",
            id: row.id.to_string(),
            column: "state",
            value: row.state.clone(),
        })?;
        Ok(Self {
            id: row.id,
            kind: row.kind,
            targets: row.targets,
            created_by: row.created_by,
            owner: row.owner,
            state,
            phase: row.phase,
            waiting_for: row.waiting_for,
            allowed_actions: row.allowed_actions,
            problems: row.problems.0,
            progress_percent: counter(row.progress_percent),
            created: micros(row.created_at),
            started: row.started_at.map(micros),
            ended: row.ended_at.map(micros),
            revision: u64::try_from(row.revision).unwrap_or(0),
            report_json: row.report_json,
            labels: row.labels.0,
        })
    }
}

fn one(row: Option<Row>) -> Result<Option<Job>> {
    Ok(row.map(Job::try_from).transpose()?)
}

macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, kind, targets, created_by, owner, labels, state, phase, waiting_for, allowed_actions, problems, \
             progress_percent, report_json, revision, created_at, started_at, ended_at ",
            $after
        )
    };
}

/// Adds a job; nothing when its id is taken.
pub async fn insert(
    db: &mut PgConnection,
    job: &NewJob,
    owner: &str,
    digest: &Digest,
) -> Result<Option<Job>> {
    let row = sqlx::query_as(columns!(
        "INSERT INTO jobs (id, kind, targets, created_by, owner, labels, content_digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING RETURNING",
        ""
    ))
    .bind(job.id)
    .bind(&job.kind)
    .bind(&job.targets)
    .bind(&job.created_by)
    .bind(owner)
    .bind(Json(&job.labels))
    .bind(digest.as_slice())
    .fetch_optional(db)
    .await?;
    one(row)
}

/// Whether the job was made by this owner from a request with this digest.
pub async fn made_from(db: &mut PgConnection, id: RunId, owner: &str, digest: &Digest) -> Result<bool> {
    let same = sqlx::query_scalar("SELECT owner = $2 AND content_digest = $3 FROM jobs WHERE id = $1")
        .bind(id)
        .bind(owner)
        .bind(digest.as_slice())
        .fetch_optional(db)
        .await?;
    Ok(same.unwrap_or(false))
}

pub async fn find(db: impl PgExecutor<'_>, id: RunId) -> Result<Option<Job>> {
    let row =
        sqlx::query_as(columns!("SELECT", "FROM jobs WHERE id = $1")).bind(id).fetch_optional(db).await?;
    one(row)
}

/// Reads a job and keeps others from changing it or its set of tasks until the transaction ends.
pub async fn lock(db: &mut PgConnection, id: RunId) -> Result<Option<Job>> {
    let row = sqlx::query_as(columns!("SELECT", "FROM jobs WHERE id = $1 FOR UPDATE"))
        .bind(id)
        .fetch_optional(db)
        .await?;
    one(row)
}

/// Replaces what the owner says. Nothing when the update's number is not higher than that of the last one.
pub async fn update(db: &mut PgConnection, update: &JobUpdate) -> Result<Option<Job>> {
    let row = sqlx::query_as(columns!(
        "UPDATE jobs SET
             state = $2, phase = $3, waiting_for = $4, allowed_actions = $5, problems = $6, progress_percent = $7,
             report_json = coalesce($8, report_json), revision = revision + 1,
             owner_sequence = coalesce($9, owner_sequence),
             started_at = CASE WHEN $2 = 'queued' THEN started_at ELSE coalesce(started_at, now()) END,
             ended_at = CASE WHEN $10 THEN coalesce(ended_at, now()) END
         WHERE id = $1 AND ($9 IS NULL OR owner_sequence < $9) RETURNING",
        ""
    ))
    .bind(update.job)
    .bind(update.state.as_str())
    .bind(&update.phase)
    .bind(&update.waiting_for)
    .bind(&update.allowed_actions)
    .bind(Json(&update.problems))
    .bind(integer(update.progress_percent))
    .bind(&update.report_json)
    .bind(update.owner_sequence.map(|n| i64::try_from(n).unwrap_or(i64::MAX)))
    .bind(update.state.is_final())
    .fetch_optional(db)
    .await?;
    one(row)
}

/// Whether an update with this number would be one too late.
pub async fn is_stale(db: &mut PgConnection, id: RunId, owner_sequence: u64) -> Result<bool> {
    let stale = sqlx::query_scalar("SELECT owner_sequence >= $2 FROM jobs WHERE id = $1")
        .bind(id)
        .bind(i64::try_from(owner_sequence).unwrap_or(i64::MAX))
        .fetch_optional(db)
        .await?;
    Ok(stale.unwrap_or(false))
}

/// Newest first, without reports, beginning after the job that `before` names by its time and id.
pub async fn page(
    db: impl PgExecutor<'_>,
    filter: &JobFilter,
    before: Option<(UnixMicros, RunId)>,
    limit: u32,
) -> Result<Vec<Job>> {
    let states: Vec<&str> = filter.states.iter().map(|s| s.as_str()).collect();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, kind, targets, created_by, owner, labels, state, phase, waiting_for, allowed_actions, problems,
                progress_percent, NULL::text AS report_json, revision, created_at, started_at, ended_at
         FROM jobs
         WHERE (cardinality($1::text[]) = 0 OR state = ANY($1)) AND ($2::text IS NULL OR kind = $2)
           AND ($3::text IS NULL OR targets @> ARRAY[$3]) AND ($4::timestamptz IS NULL OR created_at > $4)
           AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6))
         ORDER BY created_at DESC, id DESC LIMIT $7",
    )
    .bind(states)
    .bind(&filter.kind)
    .bind(&filter.target)
    .bind(filter.created_after.map(date))
    .bind(before.map(|(created, _)| date(created)))
    .bind(before.map(|(_, id)| id))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Job::try_from).collect::<std::result::Result<_, _>>()?)
}

/// Deletes jobs that ended more than so many days ago, with their tasks and notes, at most `limit`; returns how many.
pub async fn purge(db: &mut PgConnection, days: u32, limit: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM jobs WHERE id IN (
             SELECT id FROM jobs WHERE ended_at < now() - make_interval(days => $1) ORDER BY ended_at LIMIT $2)",
    )
    .bind(integer(days))
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
