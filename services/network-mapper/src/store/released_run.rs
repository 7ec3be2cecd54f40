//! Table `released_run`: runs that must not reserve any more.

use sqlx::PgConnection;
use understudy_ids::RunId;

use super::StoreError;

pub async fn insert(tx: &mut PgConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO released_run (run) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(run)
        .execute(tx)
        .await?;
    Ok(())
}

pub async fn contains(tx: &mut PgConnection, run: RunId) -> Result<bool, StoreError> {
    let found: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM released_run WHERE run = $1").bind(run).fetch_optional(tx).await?;
    Ok(found.is_some())
}

/// Until the transaction ends, reserving and releasing of this run wait for each other.
pub async fn lock(tx: &mut PgConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))")
        .bind(run.to_string())
        .execute(tx)
        .await?;
    Ok(())
}
