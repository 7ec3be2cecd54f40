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

/// A job, locked, with the number of its owner's last update.
#[derive(sqlx::FromRow)]
struct OwnedRow {
    owner_sequence: i64,
    #[sqlx(flatten)]
    row: Row,
}

/// Reads jobs and keeps others from changing them until the transaction ends; with the number of the owner's last update of each. In the order
/// of their ids, as everybody locks who locks several.
pub async fn lock_all(db: &mut PgConnection, ids: &[RunId]) -> Result<Vec<(Job, u64)>> {
    let rows: Vec<OwnedRow> = sqlx::query_as(columns!(
        "SELECT owner_sequence,",
        "FROM jobs WHERE id = ANY($1) ORDER BY id FOR UPDATE"
    ))
    .bind(ids)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|OwnedRow { owner_sequence, row }| Ok((Job::try_from(row)?, owner_sequence.unsigned_abs())))
        .collect()
}

/// Replaces what the owners say of their jobs, which differ and are locked. In no particular order.
pub async fn update(db: &mut PgConnection, updates: &[&JobUpdate]) -> Result<Vec<Job>> {
    let text = |f: fn(&JobUpdate) -> &str| updates.iter().map(|u| f(u)).collect::<Vec<_>>();
    let sequence = |u: &&JobUpdate| u.owner_sequence.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let rows: Vec<Row> = sqlx::query_as(columns!(
        "UPDATE jobs SET
             state = new.to_state, phase = new.to_phase, waiting_for = new.waits_for,
             allowed_actions = ARRAY(SELECT jsonb_array_elements_text(new.actions)), problems = new.its_problems,
             progress_percent = new.percent, report_json = coalesce(new.report, report_json), revision = revision + 1,
             owner_sequence = coalesce(new.number, owner_sequence),
             started_at = CASE WHEN new.to_state = 'queued' THEN started_at ELSE coalesce(started_at, now()) END,
             ended_at = CASE WHEN new.ends THEN coalesce(ended_at, now()) END
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::int[], $8::text[],
                     $9::bigint[], $10::bool[])
              AS new (job, to_state, to_phase, waits_for, actions, its_problems, percent, report, number, ends)
         WHERE id = new.job RETURNING",
        ""
    ))
    .bind(updates.iter().map(|u| u.job).collect::<Vec<_>>())
    .bind(text(|u| u.state.as_str()))
    .bind(text(|u| &u.phase))
    .bind(text(|u| &u.waiting_for))
    .bind(updates.iter().map(|u| Json(&u.allowed_actions)).collect::<Vec<_>>())
    .bind(updates.iter().map(|u| Json(&u.problems)).collect::<Vec<_>>())
    .bind(updates.iter().map(|u| integer(u.progress_percent)).collect::<Vec<_>>())
    .bind(updates.iter().map(|u| u.report_json.as_deref()).collect::<Vec<_>>())
    .bind(updates.iter().map(sequence).collect::<Vec<_>>())
    .bind(updates.iter().map(|u| u.state.is_final()).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Job::try_from).collect::<std::result::Result<_, _>>()?)
}

macro_rules! page_of {
    ($open:literal) => {
        concat!(
            "SELECT id, kind, targets, created_by, owner, labels, state, phase, waiting_for, allowed_actions, problems,
                    progress_percent, NULL::text AS report_json, revision, created_at, started_at, ended_at
             FROM jobs
             WHERE ",
            $open,
            " (cardinality($1::text[]) = 0 OR state = ANY($1)) AND ($2::text IS NULL OR kind = $2)
               AND ($3::text IS NULL OR targets @> ARRAY[$3]) AND ($4::timestamptz IS NULL OR created_at > $4)
               AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6))
             ORDER BY created_at DESC, id DESC LIMIT $7"
        )
    };
}

/// Newest first, without reports, beginning after the job that `before` names by its time and id.
pub async fn page(
    db: impl PgExecutor<'_>,
    filter: &JobFilter,
    before: Option<(UnixMicros, RunId)>,
    limit: u32,
) -> Result<Vec<Job>> {
    let states: Vec<&str> = filter.states.iter().map(|s| s.as_str()).collect();
    // With these words in it, the statement finds the open ones by an index of theirs, and not among all that have ended.
    let only_open = !filter.states.is_empty() && filter.states.iter().all(|state| !state.is_final());
    let rows: Vec<Row> =
        sqlx::query_as(if only_open { page_of!("ended_at IS NULL AND") } else { page_of!("") })
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
