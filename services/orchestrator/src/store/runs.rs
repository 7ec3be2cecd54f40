//! Tables `runs` and `run_items`.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{HostName, ItemName, RunId, UnixMicros};
use understudy_recovery::{Run, conflict::OpenRun, run};

use super::{Failure, micros, read, stamp};

/// A run with what is stored beside it.
#[derive(Debug, Clone)]
pub struct RunRecord {
    pub run: Run,
    pub version: i64,
    pub traceparent: Option<String>,
    pub created: UnixMicros,
}

#[derive(FromRow)]
struct Row {
    run: Json<Run>,
    version: i64,
    traceparent: Option<String>,
    created: OffsetDateTime,
}

impl From<Row> for RunRecord {
    fn from(row: Row) -> Self {
        let Row { run: Json(run), version, traceparent, created } = row;
        Self { run, version, traceparent, created: micros(created) }
    }
}

pub async fn insert(tx: &mut PgConnection, run: &Run, traceparent: Option<&str>) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO runs (id, operation, state, open, run, version, traceparent, created, ended)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8)",
    )
    .bind(run.id)
    .bind(run.plan.operation.as_str())
    .bind(run::state(run).as_str())
    .bind(run.is_open())
    .bind(Json(run))
    .bind(traceparent)
    .bind(stamp(run.started))
    .bind(run.ended.map(|ended| stamp(ended.at)))
    .execute(&mut *tx)
    .await?;
    for item in &run.plan.items {
        sqlx::query("INSERT INTO run_items (run, item) VALUES ($1, $2)")
            .bind(run.id)
            .bind(item.item.as_str())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Stores the run as it is now. False when it was changed since it was read as `version`.
pub async fn update(tx: &mut PgConnection, run: &Run, version: i64) -> Result<bool, Failure> {
    let done = sqlx::query(
        "UPDATE runs SET state = $3, open = $4, run = $5, ended = $6, version = version + 1
         WHERE id = $1 AND version = $2",
    )
    .bind(run.id)
    .bind(version)
    .bind(run::state(run).as_str())
    .bind(run.is_open())
    .bind(Json(run))
    .bind(run.ended.map(|ended| stamp(ended.at)))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, id: RunId) -> Result<Option<RunRecord>, Failure> {
    let row: Option<Row> =
        sqlx::query_as("SELECT run, version, traceparent, created FROM runs WHERE id = $1")
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(RunRecord::from))
}

/// As [`get`]; others wait with deciding about the run until this transaction has ended.
pub async fn lock(tx: &mut PgConnection, id: RunId) -> Result<Option<RunRecord>, Failure> {
    let row: Option<Row> =
        sqlx::query_as("SELECT run, version, traceparent, created FROM runs WHERE id = $1 FOR UPDATE")
            .bind(id)
            .fetch_optional(tx)
            .await?;
    Ok(row.map(RunRecord::from))
}

/// Where a list of runs, newest first, goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub created: UnixMicros,
    pub id: RunId,
}

/// Runs of `item`, or of all when it is empty, newest first.
pub async fn list(
    conn: &mut PgConnection,
    item: &str,
    before: Option<Before>,
    limit: i64,
) -> Result<Vec<RunRecord>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT run, version, traceparent, created FROM runs
         WHERE ($1 = '' OR id IN (SELECT run FROM run_items WHERE item = $1))
           AND ($2::timestamptz IS NULL OR (created, id) < ($2, $3))
         ORDER BY created DESC, id DESC LIMIT $4",
    )
    .bind(item)
    .bind(before.map(|b| stamp(b.created)))
    .bind(before.map(|b| b.id))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(RunRecord::from).collect())
}

/// All runs that have not ended.
pub async fn open(conn: &mut PgConnection) -> Result<Vec<Run>, Failure> {
    let runs: Vec<Json<Run>> =
        sqlx::query_scalar("SELECT run FROM runs WHERE open ORDER BY id").fetch_all(conn).await?;
    Ok(runs.into_iter().map(|Json(run)| run).collect())
}

/// Runs that have not ended, as far as conflicts go.
pub fn as_open(runs: &[Run]) -> Vec<OpenRun> {
    let items = |run: &Run| -> Vec<ItemName> { run.plan.items.iter().map(|i| i.item.clone()).collect() };
    let open = |run: &Run| OpenRun {
        id: run.id,
        operation: run.plan.operation,
        items: items(run),
        rolls_back: run.is_rolling_back(),
        rehearsed: run::rehearsed(run),
    };
    runs.iter().map(open).collect()
}

/// When a run that concerned a host's items ended last, for hosts where that is not long ago.
pub async fn recently_ended(conn: &mut PgConnection) -> Result<BTreeMap<HostName, UnixMicros>, Failure> {
    let rows: Vec<(String, OffsetDateTime)> = sqlx::query_as(
        "SELECT host, max(r.ended) FROM runs r
         JOIN run_items ri ON ri.run = r.id JOIN items i ON i.name = ri.item
         CROSS JOIN LATERAL (VALUES (i.active_host), (i.standby_host)) AS sides (host)
         WHERE r.ended > now() - interval '10 minutes' GROUP BY host",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(host, ended)| Ok((read("items", host.parse())?, micros(ended)))).collect()
}
