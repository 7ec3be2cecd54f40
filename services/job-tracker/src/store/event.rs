//! The log of changes. Numbers have no gaps and become visible in order (see the migration).

use sqlx::{PgConnection, PgExecutor, types::time::OffsetDateTime};
use understudy_ids::{RunId, UnixMicros};
use understudy_jobs_api::{Change, WatchFilter, convert};

use super::{BadRow, Result, micros};

/// Woken when there are new events.
pub const CHANNEL: &str = "job_events";
/// Most events and bytes that are read at once.
const PAGE: i64 = 200;
const PAGE_BYTES: i64 = 4 << 20;

/// What has been given out and what has been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Clock {
    pub last_sequence: i64,
    pub purged_through: i64,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub sequence: i64,
    pub at: UnixMicros,
    pub job: RunId,
    pub change: Change,
}

/// Numbers and stores changes. Must be the last statement of its transaction: from here to the commit, no other transaction that
/// writes events can end.
pub async fn append(db: &mut PgConnection, changes: Vec<Change>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let jobs: Vec<RunId> = changes.iter().map(job_of).collect();
    let bodies: Vec<Vec<u8>> =
        changes.into_iter().map(|c| convert::change_to_bytes(without_payload(c))).collect();
    sqlx::query(
        "WITH clock AS (
             UPDATE event_clock SET last_sequence = last_sequence + $3 RETURNING last_sequence - $3 AS before
         ), appended AS (
             INSERT INTO events (sequence, at, job_id, owner, change)
             SELECT clock.before + new.ord, clock_timestamp(), new.job_id, jobs.owner, new.change
             FROM clock, unnest($1::uuid[], $2::bytea[]) WITH ORDINALITY AS new (job_id, change, ord)
             JOIN jobs ON jobs.id = new.job_id
         )
         SELECT pg_notify($4, '')",
    )
    .bind(&jobs)
    .bind(&bodies)
    .bind(i64::try_from(jobs.len()).unwrap_or(i64::MAX))
    .bind(CHANNEL)
    .execute(db)
    .await?;
    Ok(())
}

fn job_of(change: &Change) -> RunId {
    match change {
        Change::Job(job) => job.id,
        Change::Task(task) => task.job,
        Change::Note(note) => note.job,
        Change::CancelRequested(request) => request.job,
    }
}

fn without_payload(change: Change) -> Change {
    match change {
        Change::Task(mut task) => {
            task.payload = None;
            Change::Task(task)
        }
        other => other,
    }
}

/// The clock as it is now.
pub async fn clock(db: impl PgExecutor<'_>) -> Result<Clock> {
    Ok(sqlx::query_as("SELECT last_sequence, purged_through FROM event_clock").fetch_one(db).await?)
}

#[derive(sqlx::FromRow)]
struct Row {
    sequence: i64,
    at: OffsetDateTime,
    job_id: RunId,
    change: Vec<u8>,
}

/// The events in `(after, through]` that pass the filter, in order: as many as make a page. Fewer than were there when the last one's
/// number is lower than `through`; an empty page means that there is none.
pub async fn page(
    db: impl PgExecutor<'_>,
    after: i64,
    through: i64,
    filter: &WatchFilter,
) -> Result<Vec<Stored>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT sequence, at, job_id, change FROM (
             SELECT *, sum(length(change)) OVER (ORDER BY sequence) - length(change) AS bytes_before FROM (
                 SELECT sequence, at, job_id, change FROM events
                 WHERE sequence > $1 AND sequence <= $2
                   AND ($3::uuid IS NULL OR job_id = $3) AND ($4::text IS NULL OR owner = $4)
                 ORDER BY sequence LIMIT $5) AS candidates) AS measured
         WHERE bytes_before < $6 ORDER BY sequence",
    )
    .bind(after)
    .bind(through)
    .bind(filter.job)
    .bind(&filter.owner)
    .bind(PAGE)
    .bind(PAGE_BYTES)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Stored::try_from).collect::<std::result::Result<_, BadRow>>().map_err(Into::into)
}

impl TryFrom<Row> for Stored {
    type Error = BadRow;

    fn try_from(row: Row) -> std::result::Result<Self, BadRow> {
        let change = convert::change_from_bytes(&row.change).map_err(|error| BadRow {
            table: "events",
            id: row.sequence.to_string(),
            column: "change",
            value: error.to_string(),
        })?;
        Ok(Self { sequence: row.sequence, at: micros(row.at), job: row.job_id, change })
    }
}

/// Deletes events older than so many days, at most `limit`, always from the beginning of the log; returns how many.
pub async fn purge(db: &mut PgConnection, days: u32, limit: i64) -> Result<u64> {
    let done = sqlx::query(
        "WITH old AS (
             SELECT max(sequence) AS through FROM (
                 SELECT sequence FROM events WHERE at < now() - make_interval(days => $1) ORDER BY sequence LIMIT $2) AS oldest
         ), clock AS (
             UPDATE event_clock SET purged_through = old.through FROM old WHERE old.through IS NOT NULL RETURNING old.through
         )
         DELETE FROM events USING clock WHERE sequence <= clock.through",
    )
    .bind(super::integer(days))
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
