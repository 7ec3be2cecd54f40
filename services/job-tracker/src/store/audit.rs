//! Who asked for which change, and what came of it (invariant 12).

use sqlx::PgConnection;

use super::Result;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The caller's identity.
    pub caller: String,
    /// Name of the method, without its service.
    pub method: &'static str,
    /// Resource name of what was to be changed.
    pub subject: String,
}

/// Records what became of each: `done`, or the reason of the refusal.
pub async fn insert(db: &mut PgConnection, entries: &[(Entry, String)]) -> Result<()> {
    let column = |f: fn(&(Entry, String)) -> &str| entries.iter().map(f).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO audit (caller, method, subject, decision)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])",
    )
    .bind(column(|(entry, _)| &entry.caller))
    .bind(column(|(entry, _)| entry.method))
    .bind(column(|(entry, _)| &entry.subject))
    .bind(column(|(_, decision)| decision))
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes records older than so many days, at most `limit`; returns how many.
pub async fn purge(db: &mut PgConnection, days: u32, limit: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM audit WHERE id IN (
             SELECT id FROM audit WHERE at < now() - make_interval(days => $1) ORDER BY at LIMIT $2)",
    )
    .bind(super::integer(days))
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
