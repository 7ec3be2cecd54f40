//! Table `outbox`: what job-tracker is still to be told.
//!
//! ```text
//!   insert (with the decision) ─▶ due ──claim──▶ being sent ──accepted──▶ deleted
//!                                  ▲                 │ refused, unanswered, sender died
//!                                  └── due := later ─┘
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

/// A message that this instance has taken to send.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub id: i64,
    pub job: RunId,
    pub message: Message,
    pub attempts: i32,
}

pub async fn insert(tx: &mut PgConnection, job: RunId, message: &Message) -> Result<(), Failure> {
    sqlx::query("INSERT INTO outbox (job, message) VALUES ($1, $2)").bind(job).bind(Json(message)).execute(&mut *tx).await?;
    // Delivered when the transaction commits, and only then.
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(tx).await?;
    Ok(())
}

/// Takes the first message of up to `limit` jobs and keeps others from sending it for `lease`.
pub async fn claim(tx: &mut PgConnection, limit: i64, lease: Duration) -> Result<Vec<Claimed>, Failure> {
    let rows: Vec<(i64, RunId, Json<Message>, i32)> = sqlx::query_as(
        "UPDATE outbox SET due = now() + make_interval(secs => $2), attempts = attempts + 1
         WHERE id IN (
             SELECT o.id FROM outbox o
             WHERE o.due <= now() AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.job = o.job AND e.id < o.id)
             ORDER BY o.id LIMIT $1 FOR UPDATE SKIP LOCKED)
         RETURNING id, job, message, attempts",
    )
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|(id, job, Json(message), attempts)| Claimed { id, job, message, attempts }).collect())
}

/// The message was accepted.
pub async fn delete(tx: &mut PgConnection, id: i64) -> Result<(), Failure> {
    sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id).execute(tx).await?;
    Ok(())
}

/// The message is sent again after `pause`.
pub async fn postpone(tx: &mut PgConnection, id: i64, pause: Duration, error: &str) -> Result<(), Failure> {
    sqlx::query("UPDATE outbox SET due = now() + make_interval(secs => $2), last_error = $3 WHERE id = $1")
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
