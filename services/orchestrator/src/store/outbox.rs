//! Table `outbox`: what job-tracker is still to be told.
//!
//! ```text
//!   insert (with the decision) ─▶ due ──lock──▶ being sent ──accepted──▶ deleted
//!                                  ▲                │ refused, unanswered
//!                                  └── due later ◀──┘ (a sender that dies gives its lock back with its connection)
//! ```
//! Messages of one job are sent in their order, by one sender at a time. Sending one twice is harmless: job ids, task keys and update numbers make each
//! message idempotent at job-tracker.

use std::time::Duration;

use sqlx::{PgConnection, types::Json};
use understudy_ids::RunId;

use super::Failure;
use crate::runtime::message::Message;

/// Wakes the senders of all instances.
pub const CHANNEL: &str = "orchestrator_outbox";

/// Most messages that are locked at once.
const TOGETHER: i64 = 200;

/// A message that this transaction has locked to send.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub id: i64,
    pub job: RunId,
    pub message: Message,
    /// As it is stored, which is more than it is when it is sent.
    pub bytes: i32,
    /// How often it was tried before.
    pub attempts: i32,
}

/// Messages about a job, in their order.
pub async fn insert(tx: &mut PgConnection, job: RunId, messages: &[Message]) -> Result<(), Failure> {
    if messages.is_empty() {
        return Ok(());
    }
    let messages: Vec<Json<&Message>> = messages.iter().map(Json).collect();
    sqlx::query(
        "INSERT INTO outbox (job, message)
         SELECT $1, message FROM unnest($2::jsonb[]) WITH ORDINALITY AS new (message, place) ORDER BY place",
    )
    .bind(job)
    .bind(messages)
    .execute(&mut *tx)
    .await?;
    // Delivered when the transaction commits, and only then.
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(tx).await?;
    Ok(())
}

/// Locks a job's oldest messages, from one that is due and that no other message of its job has to be sent before.
pub async fn lock_some(tx: &mut PgConnection) -> Result<Vec<Claimed>, Failure> {
    let head: Option<(i64, RunId)> = sqlx::query_as(
        "SELECT o.id, o.job FROM outbox o
         WHERE o.due <= now() AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.job = o.job AND e.id < o.id)
         ORDER BY o.id LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some((head, job)) = head else { return Ok(Vec::new()) };
    // Whoever has the head has what is behind it: nobody else gets there.
    let rows: Vec<(i64, Json<Message>, i32, i32)> = sqlx::query_as(
        "SELECT id, message, octet_length(message::text), attempts FROM outbox WHERE job = $1 AND id >= $2 ORDER BY id LIMIT $3 FOR UPDATE",
    )
    .bind(job)
    .bind(head)
    .bind(TOGETHER)
    .fetch_all(tx)
    .await?;
    let claimed = |(id, Json(message), bytes, attempts)| Claimed { id, job, message, bytes, attempts };
    Ok(rows.into_iter().map(claimed).collect())
}

/// The messages were accepted.
pub async fn delete(tx: &mut PgConnection, ids: &[i64]) -> Result<(), Failure> {
    sqlx::query("DELETE FROM outbox WHERE id = ANY($1)").bind(ids).execute(tx).await?;
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
