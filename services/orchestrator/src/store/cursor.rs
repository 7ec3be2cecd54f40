//! Table `event_cursor`: how far job-tracker's events have been taken in.
//!
//! Every instance sees every event in the order of its number, and moves the cursor in the transaction that takes the event in. The one
//! that comes second finds the cursor moved and skips the event; no instance waits for another that may be dead.

use sqlx::PgConnection;

use super::{Failure, signed};

/// Where following begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: i64,
    /// Nothing before the first event ever.
    pub token: Option<String>,
}

/// What became of an attempt to move the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The event is this transaction's.
    Moved,
    /// The event was taken in before.
    Passed,
    /// The events have begun anew since following began.
    OtherEpoch,
}

pub async fn read(conn: &mut PgConnection) -> Result<Cursor, Failure> {
    let (epoch, token) = sqlx::query_as("SELECT epoch, token FROM event_cursor").fetch_one(conn).await?;
    Ok(Cursor { epoch, token })
}

/// Moves the cursor to an event. Waits for a transaction that is taking the same event in.
pub async fn advance(tx: &mut PgConnection, epoch: i64, sequence: u64, token: &str) -> Result<Move, Failure> {
    let done =
        sqlx::query("UPDATE event_cursor SET sequence = $2, token = $3 WHERE epoch = $1 AND sequence < $2")
            .bind(epoch)
            .bind(signed(sequence))
            .bind(token)
            .execute(&mut *tx)
            .await?;
    if done.rows_affected() == 1 {
        return Ok(Move::Moved);
    }
    let current = read(tx).await?;
    Ok(if current.epoch == epoch { Move::Passed } else { Move::OtherEpoch })
}

/// The number of the last event that was taken in; others wait with taking events in until this transaction has ended. None in another epoch.
pub async fn lock(tx: &mut PgConnection, epoch: i64) -> Result<Option<u64>, Failure> {
    let sequence: Option<i64> =
        sqlx::query_scalar("SELECT sequence FROM event_cursor WHERE epoch = $1 FOR UPDATE")
            .bind(epoch)
            .fetch_optional(tx)
            .await?;
    Ok(sequence.map(i64::unsigned_abs))
}

/// The events begin anew, unless another instance has found that out already.
pub async fn start_over(tx: &mut PgConnection, epoch: i64) -> Result<(), Failure> {
    sqlx::query("UPDATE event_cursor SET epoch = epoch + 1, sequence = 0, token = NULL WHERE epoch = $1")
        .bind(epoch)
        .execute(tx)
        .await?;
    Ok(())
}
