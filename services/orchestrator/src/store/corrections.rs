//! Table `corrections`: what was put right without being asked, each thing once.

use sqlx::PgConnection;
use understudy_ids::RunId;

use super::Failure;

/// Whether the correction is new. The job is the one that does it.
pub async fn insert(tx: &mut PgConnection, key: &str, job: RunId, reason: &str) -> Result<bool, Failure> {
    let done = sqlx::query("INSERT INTO corrections (key, job, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(key)
        .bind(job)
        .bind(reason)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
