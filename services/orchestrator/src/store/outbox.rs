//! Table `outbox`: what job-tracker is still to be told.
//!
//! ```text
//!   insert (with the decision) ─▶ due ──lock──▶ being sent ──accepted──▶ deleted
//!                                  ▲                │ refused, unanswered
//!                                  └── due later ◀──┘ (a sender that dies gives its lock back with its connection)
//! ```
//! Messages of one job are sent one after another. Sending one twice is harmless: job ids, task keys and update numbers make each
//! message idempotent at job-tracker.

use std::time::Duration;

use sqlx::{PgConnection, types::Json};
use understudy_ids::RunId;

use super::Failure;
use crate::runtime::message::Message;

/// Wakes the senders of all instances.
pub const CHANNEL: &str = "orchestrator_outbox";

/// A message that this transaction has locked to send.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub id: i64,
    pub job: RunId,
    pub message: Message,
    /// How often it was tried before.
    pub attempts: i32,
}

pub async fn insert(tx: &mut PgConnection, job: RunId, message: &Message) -> Result<(), Failure> {
    sqlx::query("INSERT INTO outbox (job, message) VALUES ($1, $2)")
        .bind(job)
        .bind(Json(message))
        .execute(&mut *tx)
        .await?;
    // Delivered when the transaction commits, and only then.
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(tx).await?;
    Ok(())
}

/// Locks the oldest message that is due and that no other message of its job has to be sent before.
pub async fn lock_one(tx: &mut PgConnection) -> Result<Option<Claimed>, Failure> {
    let row: Option<(i64, RunId, Json<Message>, i32)> = sqlx::query_as(
        "SELECT o.id, o.job, o.message, o.attempts FROM outbox o
         WHERE o.due <= now() AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.job = o.job AND e.id < o.id)
         ORDER BY o.id LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|(id, job, Json(message), attempts)| Claimed { id, job, message, attempts }))
}

/// The message was accepted.
pub async fn delete(tx: &mut PgConnection, id: i64) -> Result<(), Failure> {
    sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id).execute(tx).await?;
    Ok(())
}

/// The message is sent again after `pause`.
pub async fn postpone(tx: &mut PgConnection, id: i64, pause: Duration, error: &str) -> Result<(), Failure> {
    // By the clock, not by the transaction's beginning: sending may have taken long.
    sqlx::query(
        "UPDATE outbox SET due = clock_timestamp() + make_interval(secs => $2), attempts = attempts + 1, last_error = $3
         WHERE id = $1",
    )
        .bind(id)
        .bind(pause.as_secs_f64())
        .bind(error)
        .execute(tx)
        .await?;
    Ok(())
}

/// How many messages wait.
pub async fn depth(conn: &mut PgConnection) -> Result<i64, Failure> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(conn).await?)
}
