//! Table `event_cursor`: how far job-tracker's events have been taken in, and by which instance.

use std::time::Duration;

use sqlx::PgConnection;
use understudy_ids::Uuid;

use super::Failure;

/// The instance's right to follow the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Nothing before the first event ever.
    pub token: Option<String>,
}

/// Takes or extends the lease. Nothing while another instance has it.
pub async fn lease(
    tx: &mut PgConnection,
    holder: Uuid,
    lease: Duration,
) -> Result<Option<Cursor>, Failure> {
    let token: Option<Option<String>> = sqlx::query_scalar(
        "UPDATE event_cursor SET holder = $1, held_until = now() + make_interval(secs => $2)
         WHERE holder IS NULL OR holder = $1 OR held_until < now() RETURNING token",
    )
    .bind(holder)
    .bind(lease.as_secs_f64())
    .fetch_optional(tx)
    .await?;
    Ok(token.map(|token| Cursor { token }))
}

/// Gives the lease back, so that another instance need not wait for its end.
pub async fn release(tx: &mut PgConnection, holder: Uuid) -> Result<(), Failure> {
    sqlx::query("UPDATE event_cursor SET holder = NULL, held_until = NULL WHERE holder = $1")
        .bind(holder)
        .execute(tx)
        .await?;
    Ok(())
}

/// Moves the cursor. False when this instance has lost the lease: then nothing of the transaction may be committed.
pub async fn advance(tx: &mut PgConnection, holder: Uuid, token: &str) -> Result<bool, Failure> {
    let done = sqlx::query("UPDATE event_cursor SET token = $2 WHERE holder = $1")
        .bind(holder)
        .bind(token)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
