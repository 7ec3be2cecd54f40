//! Table `audit`: one record per state-changing call (invariant 12).

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use understudy_recovery_api::{Decision, view::AuditRecord};

use super::{Failure, micros, read};

/// Longest text that is kept of a caller's words, in bytes.
const MAX_TEXT: usize = 500;

/// What is recorded of a call.
#[derive(Debug, Clone)]
pub struct Entry {
    pub who: String,
    pub what: &'static str,
    pub target: String,
    pub decision: Decision,
    pub result: String,
    /// The reason that the caller gave, of calls that take one.
    pub why: String,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    at: OffsetDateTime,
    who: String,
    what: String,
    target: String,
    decision: String,
    result: String,
    why: String,
}

pub async fn insert(tx: &mut PgConnection, entry: &Entry) -> Result<(), Failure> {
    // Postgres keeps no NUL in a text, and a refused request may hold one.
    let kept = |text: &str| text[..text.floor_char_boundary(MAX_TEXT)].replace('\0', "\u{fffd}");
    sqlx::query(
        "INSERT INTO audit (who, what, target, decision, result, why) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&entry.who)
    .bind(entry.what)
    .bind(kept(&entry.target))
    .bind(entry.decision.as_str())
    .bind(&entry.result)
    .bind(kept(&entry.why))
    .execute(tx)
    .await?;
    Ok(())
}

/// Records before the one numbered `before`, newest first, each with its number.
pub async fn list(
    conn: &mut PgConnection,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, AuditRecord)>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, at, who, what, target, decision, result, why FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let Row { id, at, who, what, target, decision, result, why } = row;
            let decision = read("audit", Decision::parse(&decision).ok_or("unknown decision"))?;
            Ok((id, AuditRecord { time: micros(at), who, what, target, decision, result, why }))
        })
        .collect()
}
