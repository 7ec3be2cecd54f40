//! Table `recovery_plans`.

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{RecoveryPlanName, UnixMicros};
use understudy_recovery::recovery_plan::RecoveryPlan;

use super::{Failure, micros};

/// A plan that is kept (R-RP).
#[derive(Debug, Clone)]
pub struct PlanRecord {
    pub plan: RecoveryPlan,
    pub created: UnixMicros,
    pub updated: UnixMicros,
}

#[derive(FromRow)]
struct Row {
    plan: Json<RecoveryPlan>,
    created: OffsetDateTime,
    updated: OffsetDateTime,
}

impl From<Row> for PlanRecord {
    fn from(row: Row) -> Self {
        Self { plan: row.plan.0, created: micros(row.created), updated: micros(row.updated) }
    }
}

/// Whether it was made; false when there is a plan of that name.
pub async fn insert(tx: &mut PgConnection, plan: &RecoveryPlan) -> Result<bool, Failure> {
    let done = sqlx::query("INSERT INTO recovery_plans (name, plan) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(plan.name.as_str())
        .bind(Json(plan))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Of a plan that was locked.
pub async fn update(tx: &mut PgConnection, plan: &RecoveryPlan) -> Result<(), Failure> {
    sqlx::query("UPDATE recovery_plans SET plan = $2, updated = now() WHERE name = $1")
        .bind(plan.name.as_str())
        .bind(Json(plan))
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether there was one.
pub async fn delete(tx: &mut PgConnection, name: &RecoveryPlanName) -> Result<bool, Failure> {
    let done =
        sqlx::query("DELETE FROM recovery_plans WHERE name = $1").bind(name.as_str()).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, name: &RecoveryPlanName) -> Result<Option<PlanRecord>, Failure> {
    let row: Option<Row> =
        sqlx::query_as("SELECT plan, created, updated FROM recovery_plans WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(PlanRecord::from))
}

/// The plan, which other transactions cannot change until this one has ended.
pub async fn lock(tx: &mut PgConnection, name: &RecoveryPlanName) -> Result<Option<PlanRecord>, Failure> {
    sqlx::query("SELECT name FROM recovery_plans WHERE name = $1 FOR UPDATE")
        .bind(name.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    get(tx, name).await
}

/// Plans in the order of their names, after `after`.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<PlanRecord>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT plan, created, updated FROM recovery_plans WHERE name > $1 ORDER BY name LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(PlanRecord::from).collect())
}
