//! Tables `runs` and `run_items`.
//!
//! What a run is to do and how far it is are two columns: the plan is most of a run, and changes only when the run is given further steps.
//! It is written then, and read once by each process that goes on with the run.

mod plans;
mod progress;

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{HostName, ItemName, RunId, UnixMicros, Uuid};
use understudy_recovery::{Run, conflict::OpenRun, plan::RunPlan, run};

use self::{
    plans::Known,
    progress::{Progress, ProgressRef},
};
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
    id: RunId,
    run: Json<Progress>,
    /// Left out where this process has it.
    plan: Option<Json<RunPlan>>,
    plan_id: Uuid,
    version: i64,
    traceparent: Option<String>,
    created: OffsetDateTime,
}

impl Row {
    fn into_record(self, known: &Known) -> Result<RunRecord, Failure> {
        let Row { id, run: Json(progress), plan, plan_id, version, traceparent, created } = self;
        let plan = match plan {
            Some(Json(plan)) => plan,
            None => known.plan(id, plan_id)?,
        };
        let run = progress.into_run(id, plan);
        if run.is_open() {
            plans::keep(&run, plan_id);
        }
        Ok(RunRecord { run, version, traceparent, created: micros(created) })
    }
}

/// Reads runs. What is given follows `FROM runs`; its arguments count from `$2` on, and `$1` are the plans that are kept here.
macro_rules! select {
    ($what:literal) => {
        concat!(
            "SELECT id, run, version, traceparent, created, plan_id,
                    CASE WHEN plan_id = ANY($1) THEN NULL ELSE plan END AS plan
             FROM runs ",
            $what
        )
    };
}

pub async fn insert(tx: &mut PgConnection, run: &Run, traceparent: Option<&str>) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO runs (id, operation, state, open, run, plan, version, traceparent, created, ended)
         VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9)",
    )
    .bind(run.id)
    .bind(run.plan.operation.as_str())
    .bind(run::state(run).as_str())
    .bind(run.is_open())
    .bind(Json(ProgressRef(run)))
    .bind(Json(&run.plan))
    .bind(traceparent)
    .bind(stamp(run.started))
    .bind(run.ended.map(|ended| stamp(ended.at)))
    .execute(&mut *tx)
    .await?;
    let items: Vec<&str> = run.plan.items.iter().map(|item| item.item.as_str()).collect();
    sqlx::query("INSERT INTO run_items (run, item) SELECT $1, unnest($2::text[])")
        .bind(run.id)
        .bind(items)
        .execute(tx)
        .await?;
    Ok(())
}

/// Stores the run as it is now. False when it was changed since it was read as `before`.
pub async fn update(tx: &mut PgConnection, run: &Run, before: &RunRecord) -> Result<bool, Failure> {
    let plan = (run.plan != before.run.plan).then_some(Json(&run.plan));
    let done = sqlx::query(
        "UPDATE runs SET state = $3, open = $4, run = $5, ended = $6, version = version + 1, plan = coalesce($7, plan),
             plan_id = CASE WHEN $7 IS NULL THEN plan_id ELSE gen_random_uuid() END
         WHERE id = $1 AND version = $2",
    )
    .bind(run.id)
    .bind(before.version)
    .bind(run::state(run).as_str())
    .bind(run.is_open())
    .bind(Json(ProgressRef(run)))
    .bind(run.ended.map(|ended| stamp(ended.at)))
    .bind(plan)
    .execute(tx)
    .await?;
    if !run.is_open() {
        plans::forget(run.id);
    }
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, id: RunId) -> Result<Option<RunRecord>, Failure> {
    one(conn, select!("WHERE id = $2"), id).await
}

/// As [`get`]; others wait with deciding about the run until this transaction has ended.
pub async fn lock(tx: &mut PgConnection, id: RunId) -> Result<Option<RunRecord>, Failure> {
    one(tx, select!("WHERE id = $2 FOR UPDATE"), id).await
}

async fn one(conn: &mut PgConnection, sql: &'static str, id: RunId) -> Result<Option<RunRecord>, Failure> {
    let known = plans::known();
    let row: Option<Row> = sqlx::query_as(sql).bind(known.of(id)).bind(id).fetch_optional(conn).await?;
    row.map(|row| row.into_record(&known)).transpose()
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
    // Mostly runs that have ended.
    let known = Known::default();
    let rows: Vec<Row> = sqlx::query_as(select!(
        "WHERE ($2 = '' OR id IN (SELECT run FROM run_items WHERE item = $2))
           AND ($3::timestamptz IS NULL OR (created, id) < ($3, $4))
         ORDER BY created DESC, id DESC LIMIT $5"
    ))
    .bind(known.all())
    .bind(item)
    .bind(before.map(|b| stamp(b.created)))
    .bind(before.map(|b| b.id))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| row.into_record(&known)).collect()
}

/// All runs that have not ended.
pub async fn open(conn: &mut PgConnection) -> Result<Vec<Run>, Failure> {
    let known = plans::known();
    let rows: Vec<Row> =
        sqlx::query_as(select!("WHERE open ORDER BY id")).bind(known.all()).fetch_all(conn).await?;
    rows.into_iter().map(|row| Ok(row.into_record(&known)?.run)).collect()
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
