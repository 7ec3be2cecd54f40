//! Table `corrections`: what was put right without being asked, each thing once.

use sqlx::PgConnection;
use understudy_ids::{HostName, RunId};

use super::Failure;

/// Whether the correction is to be asked for now: it is new, or it ended a while ago and what it was for has not gone away.
pub async fn insert(
    tx: &mut PgConnection,
    key: &str,
    host: &HostName,
    job: RunId,
    reason: &str,
) -> Result<bool, Failure> {
    let done = sqlx::query(
        "INSERT INTO corrections (key, host, job, reason) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key) DO UPDATE SET job = excluded.job, reason = excluded.reason, created = now(), ended = NULL
         WHERE corrections.ended < now() - interval '60 seconds'",
    )
    .bind(key)
    .bind(host.to_string())
    .bind(job)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The job of a correction has ended. What it was for, or nothing when it is no correction's.
pub async fn ended(tx: &mut PgConnection, job: RunId) -> Result<Option<String>, Failure> {
    let reason = sqlx::query_scalar(
        "UPDATE corrections SET ended = now() WHERE job = $1 AND ended IS NULL RETURNING reason",
    )
    .bind(job)
    .fetch_optional(tx)
    .await?;
    Ok(reason)
}

/// Forgets what was done on these hosts and is no longer called for, so that it may be asked for again when it comes back.
pub async fn forget_others(
    tx: &mut PgConnection,
    hosts: &[String],
    wanted: &[String],
) -> Result<(), Failure> {
    sqlx::query("DELETE FROM corrections WHERE host = ANY($1) AND ended IS NOT NULL AND key <> ALL($2)")
        .bind(hosts)
        .bind(wanted)
        .execute(tx)
        .await?;
    Ok(())
}
